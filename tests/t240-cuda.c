/* TEST ranks=1 backends=cuda tier=1 limit=300 */
/* Every operation on the CUDA backend against the host: fp32 results are the same bits. */
#include "attn_ref.h"
#include "ops_cases.h"

static struct ops_run run(struct dev *d, int c, int s) {
    struct ops_run r = {.d = d, .seed = (uint64_t)(100 * c + s), .bits_only = true};
    if (c < OPS_CASES) {
        ops_cases[c].run(&r, ops_shape[s][0] + (s == 3 ? 60 : 0), ops_shape[s][1] * (s == 8 ? 3 : 1));
    } else {
        struct attn_problem x = {.s = attn_shapes[s]};
        attn_run(&r, &x, false);
    }
    return r;
}

int main(int argc, char **argv) {
    struct dev *host, *cuda;
    must(dev_open(&(struct dev_options){.backend = DEV_HOST, .threads = 1, .invariant = true}, &host));
    must(dev_open(&(struct dev_options){.backend = DEV_CUDA, .invariant = true}, &cuda));
    for (int c = 0; c <= OPS_CASES; c++) {
        const char *name = c < OPS_CASES ? ops_cases[c].name : "attention";
        int differ = 0;
        if (argc > 1 && strcmp(argv[1], name) != 0) continue; /* t240-cuda NAME: one operation */
        for (int s = 0; s < (c < OPS_CASES ? (int)OPS_SHAPES : (int)ATTN_SHAPES); s++) {
            struct ops_run a = run(host, c, s), b = run(cuda, c, s);
            bool same = a.n == b.n && !memcmp(a.out, b.out, a.n * 4);
            if (!same) fprintf(stderr, "# %s: shape %d differs\n", name, s);
            differ += !same;
            ops_end(&a);
            ops_end(&b);
        }
        ok(!differ, "%s: the host's bits (%d shapes differ)", name, differ);
    }
    dev_close(&cuda);
    dev_close(&host);
    return tap_done();
}
