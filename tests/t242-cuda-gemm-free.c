/* TEST ranks=1 backends=cuda tier=1 limit=120 */
/* Products whose order of sums is free (a device that is not invariant): cuBLASLt serves, fp32 and bf16, and is close to fp64. Each product runs
 * twice: what is kept by shape serves the second, at other addresses. */
#include "tap.h"

#include "cuda_gemm.h"
#include "ops_bound.h"

static const char *const layouts[] = {"NT", "NN", "TN"};
static const int64_t ks[][3] = {{0, 1, 1}, {0, 40, 64}, {0, 0, 77}, {0, 0, 0}};
static const int64_t shapes[][2] = {{1, 1}, {17, 33}, {40, 96}};

int main(void) {
    const double bound = ops_row("gemm").bound_bf16; /* of bf16, and of fp32 where the order of sums is free */
    struct dev *d;
    must(dev_open(&(struct dev_options){.backend = DEV_CUDA, .invariant = false}, &d));
    for (int layout = GEMM_NT; layout <= GEMM_TN; layout++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            double worst = 0;
            for (int s = 0; s < 3; s++)
                for (int i = 0; i < 4; i++)
                    for (int pad = 0; pad < 4; pad += 3) {
                        struct prod p;
                        need(prod_init(&p, (enum gemm_layout)layout, shapes[s][0], shapes[s][1], 1 + (s + i) % 3,
                                       i % 2 + 1, ks[i], pad, i % 2 == 0, (s + i) % 2 == 0));
                        p.a.bf16 = bf16;
                        float *once = prod_result(&p, d);
                        dptr between;
                        need(dev_alloc(d, "test", 4096, &between));
                        worst = fmax(worst, prod_nmse(&p, d));
                        float *again = prod_result(&p, d);
                        if (memcmp(once, again, (size_t)p.c_elems * sizeof *once)) worst = INFINITY;
                        dev_free(d, &between);
                        mem_free(&once);
                        mem_free(&again);
                        prod_free(&p);
                    }
            ok(worst <= bound, "%s, %s: worst NMSE %.2g, at most %g", layouts[layout], bf16 ? "bf16" : "fp32", worst,
               bound);
        }
    dev_close(&d);
    return tap_done();
}
