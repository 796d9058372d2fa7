/* The matrix product's front: plans the leaves and chooses who serves. The definition: dev/host_gemm.h.
 *
 * fp32, and bf16 where results have to be the same on any grid: our own kernels (gemm_f32.cu, gemm_bf16.cu). Else cuBLASLt (gemm_lt.cu),
 * where the build has it. */
#include <cstring>

#include "base/status.h"
#include "gemm_bf16.h"
#include "gemm_lt.h"

static void plan(const struct gemm_args *a, struct gemm_plan *p) {
    memset(p, 0, sizeof *p);
    p->m = a->m, p->n = a->n, p->ldc = a->ldc;
    p->c = gpu_f32(a->c), p->bias = gpu_f32(a->bias);
    p->layout = a->layout, p->accumulate = a->accumulate;
    p->packed_a = gpu_ptr<uint16_t>(a->packed_a), p->packed_b = gpu_ptr<uint16_t>(a->packed_b);
    p->packed_row = a->packed_row;
    p->leaves = ops_gemm_tree(a, p->merges);
    for (int j = 0, leaf = 0, pieces = 0; j < a->segments; j++) {
        for (int t = 0; t < a->terms; t++) {
            const struct gemm_term *f = &a->term[t];
            const int64_t k = f->k[j], len = f->k[j + 1] - k;
            if (len <= 0) continue;
            p->piece[pieces++] = {gpu_f32(f->a) + (a->layout == GEMM_TN ? k * f->lda : k),
                                  gpu_f32(f->b) + (a->layout == GEMM_NT ? k : k * f->ldb), f->lda, f->ldb, len};
        }
        if (pieces > p->first[leaf]) p->first[++leaf] = pieces;
    }
}

struct gemm_plan gemm_part(const struct gemm_plan *p, int64_t m0, int64_t m, int64_t n0, int64_t n) {
    struct gemm_plan part = *p;
    part.m = m, part.n = n;
    part.c += m0 * p->ldc + n0;
    if (part.bias) part.bias += n0;
    for (int i = 0; i < p->first[p->leaves]; i++) {
        struct gemm_piece *f = &part.piece[i];
        f->a += p->layout == GEMM_TN ? m0 : m0 * f->lda;
        f->b += p->layout == GEMM_NT ? n0 * f->ldb : n0;
    }
    return part;
}

/* Reads (leaves + 1) m n floats: small beside the product, whose leaves are k long. */
static __global__ void fold_k(struct gemm_plan p, const float *split) {
    GPU_EACH(i, p.m * p.n) {
        float *c = p.c + i / p.n * p.ldc + i % p.n, wait[OPS_MAX_SEGMENTS];
        float x = p.accumulate ? *c : 0.0f;
        for (int leaf = 0, depth = 0; leaf < p.leaves; leaf++) {
            x = split[leaf * p.m * p.n + i];
            for (int d = 0; d < p.merges[leaf]; d++) x = wait[--depth] + x;
            wait[depth++] = x;
        }
        *c = p.bias ? x + p.bias[i % p.n] : x;
    }
}
int gemm_fold(struct cuda_gpu *g, const struct gemm_plan *p, const float *split) {
    LAUNCH(fold_k, gpu_blocks(p->m * p->n, GPU_THREADS), GPU_THREADS, 0, g->stream, *p, split);
    return gpu_launched("gemm");
}

int gpu_gemm_open(struct cuda_gpu *g) {
    cudaDeviceProp d;
    GPU_TRY(gpu_check(cudaGetDeviceProperties(&d, g->device), "asking for a device's properties"));
    struct gemm_state *s = new gemm_state();
    s->multiprocessors = d.multiProcessorCount;
    s->major = d.major;
    s->minor = d.minor;
    g->gemm = s;
    if (!g->invariant) GPU_TRY(gemm_lt_open(&s->lt));
    GPU_TRY(gemm_fp8_open(g));
    return s->lt ? 0 : gemm_wgmma_open(g, &s->wgmma);
}
void gpu_gemm_close(struct cuda_gpu *g) {
    if (!g->gemm) return;
    gemm_lt_close(g->gemm->lt);
    delete g->gemm;
    g->gemm = nullptr;
}

/* One product of cuBLASLt for each term, its segments one long k. */
static int run_lt(struct cuda_gpu *g, const struct gemm_args *a, bool *served) {
    bool first = true;
    for (int t = 0; t < a->terms; t++) {
        const struct gemm_term *f = &a->term[t];
        if (f->k[a->segments] == 0) continue;
        const struct lt_product x = {.layout = a->layout,
                                     .accumulate = a->accumulate || !first,
                                     .m = a->m,
                                     .n = a->n,
                                     .k = f->k[a->segments],
                                     .lda = f->lda,
                                     .ldb = f->ldb,
                                     .ldc = a->ldc,
                                     .a = gpu_f32(f->a),
                                     .b = gpu_f32(f->b),
                                     .c = gpu_f32(a->c),
                                     .bias = first ? gpu_f32(a->bias) : nullptr};
        GPU_TRY(gemm_lt_run(g, &x, served));
        if (!*served && first) return 0;
        if (!*served) return gpu_fail(TM_ERR_DEVICE, "gemm: cuBLASLt serves one term of a product and not the next");
        first = false;
    }
    return 0;
}

int gpu_gemm(struct cuda_gpu *g, const struct gemm_args *a) {
    struct gemm_plan p;
    bool served = false;
    if (a->m == 0 || a->n == 0) return 0;
    plan(a, &p);
    if (p.leaves == 0) return gemm_fold(g, &p, nullptr);
    if (a->bf16) return gemm_bf16(g, &p);
    if (g->gemm->lt) GPU_TRY(run_lt(g, a, &served));
    return served ? 0 : gemm_f32(g, &p);
}
