/* cuBLASLt for products whose order of sums is free: descriptors and the heuristic's choice are kept by shape.
 *
 * cuBLASLt's matrices are column-major: C' [n,m] = B' A', so our B is its A. Sums are fp32 without TF32. */
#include "gemm_lt.h"

#if TEMPER_CUBLASLT
#include <cstring>
#include <cublasLt.h>

#include "base/status.h"

enum { KEPT = 256, WORKSPACE = OPS_GEMM_LT_WORK };

/* What a choice depends on; compared as bytes, so no padding. */
struct lt_key {
    int64_t m, n, k, lda, ldb, ldc;
    int32_t layout, type, accumulate, bias;
    uint32_t align[4]; /* bytes, up to 16, of a, b, c twice: cuBLASLt's B, A, C, D */
};
struct lt_entry {
    struct lt_key key;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
    bool served;
};
struct gemm_lt {
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    void *workspace;
    struct lt_entry entry[KEPT];
    int entries, oldest;
};

static int check(cublasStatus_t s, const char *what) {
    if (s == CUBLAS_STATUS_SUCCESS) return 0;
    return gpu_fail(s == CUBLAS_STATUS_ALLOC_FAILED ? TM_ERR_MEMORY : TM_ERR_DEVICE, "%s: %s (cuBLASLt status %d)",
                    what, cublasLtGetStatusString(s), (int)s);
}

static void forget(struct lt_entry *e) {
    if (e->a) (void)cublasLtMatrixLayoutDestroy(e->a);
    if (e->b) (void)cublasLtMatrixLayoutDestroy(e->b);
    if (e->c) (void)cublasLtMatrixLayoutDestroy(e->c);
    if (e->desc) (void)cublasLtMatmulDescDestroy(e->desc);
    *e = {};
}
void gemm_lt_close(struct gemm_lt *lt) {
    if (!lt) return;
    for (int i = 0; i < lt->entries; i++) forget(&lt->entry[i]);
    if (lt->workspace) (void)cudaFree(lt->workspace);
    if (lt->preference) (void)cublasLtMatmulPreferenceDestroy(lt->preference);
    if (lt->handle) (void)cublasLtDestroy(lt->handle);
    delete lt;
}
static int begin(struct gemm_lt *lt) {
    const size_t bytes = WORKSPACE;
    GPU_TRY(check(cublasLtCreate(&lt->handle), "opening cuBLASLt"));
    GPU_TRY(check(cublasLtMatmulPreferenceCreate(&lt->preference), "cuBLASLt preference"));
    GPU_TRY(check(cublasLtMatmulPreferenceSetAttribute(lt->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                                                       sizeof bytes),
                  "cuBLASLt preference"));
    return gpu_check(cudaMalloc(&lt->workspace, bytes), "allocating cuBLASLt's work space");
}
int gemm_lt_open(struct gemm_lt **out) {
    struct gemm_lt *lt = new gemm_lt();
    const int st = begin(lt);
    *out = st ? nullptr : lt;
    if (st) gemm_lt_close(lt);
    return st;
}

static uint32_t alignment(const void *p) {
    const uintptr_t a = (uintptr_t)p;
    return a % 16 == 0 ? 16 : (uint32_t)(a & -a);
}
static struct lt_key key_of(const struct lt_product *x) {
    return {x->m,
            x->n,
            x->k,
            x->lda,
            x->ldb,
            x->ldc,
            x->layout,
            x->type,
            x->accumulate,
            x->bias != nullptr,
            {alignment(x->a), alignment(x->b), alignment(x->c), alignment(x->c)}};
}

static int describe(struct gemm_lt *lt, const struct lt_key *k, struct lt_entry *e) {
    static const cublasLtMatmulPreferenceAttributes_t aligned[] = {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                                                                   CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                                                   CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                                                   CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const bool nt = k->layout == GEMM_NT, tn = k->layout == GEMM_TN;
    const cublasOperation_t op_b = nt ? CUBLAS_OP_T : CUBLAS_OP_N, op_a = tn ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtEpilogue_t epilogue = k->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    static const cudaDataType types[] = {CUDA_R_32F, CUDA_R_16BF, CUDA_R_8F_E4M3};
    const cudaDataType type = types[k->type];
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    e->key = *k;
    GPU_TRY(check(cublasLtMatmulDescCreate(&e->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cuBLASLt product"));
    GPU_TRY(check(cublasLtMatmulDescSetAttribute(e->desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_b, sizeof op_b),
                  "cuBLASLt product"));
    GPU_TRY(check(cublasLtMatmulDescSetAttribute(e->desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_a, sizeof op_a),
                  "cuBLASLt product"));
    GPU_TRY(check(cublasLtMatmulDescSetAttribute(e->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue),
                  "cuBLASLt product"));
    GPU_TRY(
        check(cublasLtMatrixLayoutCreate(&e->b, type, nt ? k->k : k->n, nt ? k->n : k->k, k->ldb), "cuBLASLt matrix"));
    GPU_TRY(
        check(cublasLtMatrixLayoutCreate(&e->a, type, tn ? k->m : k->k, tn ? k->k : k->m, k->lda), "cuBLASLt matrix"));
    GPU_TRY(check(cublasLtMatrixLayoutCreate(&e->c, CUDA_R_32F, k->n, k->m, k->ldc), "cuBLASLt matrix"));
    for (int i = 0; i < 4; i++)
        GPU_TRY(
            check(cublasLtMatmulPreferenceSetAttribute(lt->preference, aligned[i], &k->align[i], sizeof k->align[i]),
                  "cuBLASLt preference"));
    const cublasStatus_t s =
        cublasLtMatmulAlgoGetHeuristic(lt->handle, e->desc, e->b, e->a, e->c, e->c, lt->preference, 1, &found, &count);
    if (s != CUBLAS_STATUS_SUCCESS && s != CUBLAS_STATUS_NOT_SUPPORTED)
        return check(s, "choosing an algorithm of cuBLASLt");
    e->served = s == CUBLAS_STATUS_SUCCESS && count > 0;
    if (e->served) e->algo = found.algo;
    return 0;
}

/* The entry of a shape: the oldest one goes when all are taken. */
static int look_up(struct gemm_lt *lt, const struct lt_key *k, struct lt_entry **out) {
    for (int i = 0; i < lt->entries; i++)
        if (memcmp(&lt->entry[i].key, k, sizeof *k) == 0) {
            *out = &lt->entry[i];
            return 0;
        }
    struct lt_entry *e = &lt->entry[lt->entries < KEPT ? lt->entries++ : lt->oldest++ % KEPT];
    forget(e);
    const int st = describe(lt, k, e);
    if (st) forget(e); /* an empty key: no product has m = 0 */
    *out = e;
    return st;
}

static int set_pointer(struct lt_entry *e, cublasLtMatmulDescAttributes_t what, const float *p) {
    return check(cublasLtMatmulDescSetAttribute(e->desc, what, &p, sizeof p), "cuBLASLt product");
}
int gemm_lt_run(struct cuda_gpu *g, const struct lt_product *x, bool *served) {
    struct gemm_lt *lt = g->gemm->lt;
    const struct lt_key key = key_of(x);
    const float one = 1, beta = x->accumulate ? 1.0f : 0.0f;
    struct lt_entry *e;
    GPU_TRY(look_up(lt, &key, &e));
    *served = e->served;
    if (!e->served) return 0;
    if (x->bias) GPU_TRY(set_pointer(e, CUBLASLT_MATMUL_DESC_BIAS_POINTER, x->bias));
    if (x->type == LT_E4M3) { /* cuBLASLt's A is our B */
        GPU_TRY(set_pointer(e, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, x->scale_b));
        GPU_TRY(set_pointer(e, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, x->scale_a));
    }
    return check(cublasLtMatmul(lt->handle, e->desc, &one, x->b, e->b, x->a, e->a, &beta, x->c, e->c, x->c, e->c,
                                &e->algo, lt->workspace, WORKSPACE, g->stream),
                 "gemm (cuBLASLt)");
}
#else
int gemm_lt_open(struct gemm_lt **out) {
    *out = nullptr;
    return 0;
}
void gemm_lt_close(struct gemm_lt *) {}
int gemm_lt_run(struct cuda_gpu *, const struct lt_product *, bool *served) {
    *served = false;
    return 0;
}
#endif
