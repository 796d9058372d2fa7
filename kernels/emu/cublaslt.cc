/* cuBLASLt on the CPU, as far as gemm_lt.cu goes: plain loops, and checks of what a GPU run would not forgive. An algorithm remembers what it
 * was chosen for; one that is used for another product, or for addresses less aligned than was promised, is refused. */
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "cublasLt.h"
#include "numfmt/e4m3.h"
#include "streams.h"

/* The compute capability times ten, as in cudart.cc. */
static int capability(void) {
    const char *x = getenv("CUEMU_ARCH");
    return x ? atoi(x) : 80;
}

struct cublasLtContext {
    int open;
};
struct cublasLtMatmulDescOpaque_t {
    int32_t transa, transb, epilogue;
    const float *bias, *scale_a, *scale_b;
};
struct cublasLtMatrixLayoutOpaque_t {
    cudaDataType type;
    uint64_t rows, cols;
    int64_t ld;
};
struct cublasLtMatmulPreferenceOpaque_t {
    uint64_t workspace;
    uint32_t align[4];
};

/* The choice: alignments, then a sum over what was described. */
static uint64_t chosen_for(const cublasLtMatmulDescOpaque_t *d, const cublasLtMatrixLayoutOpaque_t *a,
                           const cublasLtMatrixLayoutOpaque_t *b, const cublasLtMatrixLayoutOpaque_t *c) {
    uint64_t h = (uint64_t)(d->transa + 2 * d->transb + 4 * d->epilogue);
    for (const cublasLtMatrixLayoutOpaque_t *l : {a, b, c})
        h = ((h * 31 + l->rows) * 31 + l->cols) * 31 + (uint64_t)l->ld + 7 * (uint64_t)l->type;
    return h;
}
static float number(const void *x, cudaDataType type, int64_t at) {
    if (type == CUDA_R_32F) return ((const float *)x)[at];
    if (type == CUDA_R_8F_E4M3) return e4m3_decode(((const uint8_t *)x)[at]);
    const uint32_t u = (uint32_t)((const uint16_t *)x)[at] << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
/* Codes: both factors lie along k, and k and rows on 16 bytes; an fp32 result has no bias epilogue of its type. */
static bool fp8_allowed(const cublasLtMatmulDescOpaque_t *d, const cublasLtMatrixLayoutOpaque_t *a,
                        const cublasLtMatrixLayoutOpaque_t *b, const cublasLtMatmulPreferenceOpaque_t *p) {
    return d->transa == CUBLAS_OP_T && d->transb == CUBLAS_OP_N && d->epilogue == CUBLASLT_EPILOGUE_DEFAULT &&
           a->rows % 16 == 0 && a->cols % 16 == 0 && a->ld % 16 == 0 && b->ld % 16 == 0 && p->align[0] == 16 &&
           p->align[1] == 16;
}

extern "C" {
cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) {
    *h = new cublasLtContext{1};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) {
    delete h;
    return CUBLAS_STATUS_SUCCESS;
}
const char *cublasLtGetStatusString(cublasStatus_t s) {
    return s == CUBLAS_STATUS_INVALID_VALUE ? "an unsupported value or parameter" : "emulated error";
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute, cudaDataType_t scale) {
    if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *d = new cublasLtMatmulDescOpaque_t{CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr, nullptr, nullptr};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
    delete d;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a, const void *p,
                                              size_t n) {
    void *to = a == CUBLASLT_MATMUL_DESC_TRANSA            ? (void *)&d->transa
               : a == CUBLASLT_MATMUL_DESC_TRANSB          ? (void *)&d->transb
               : a == CUBLASLT_MATMUL_DESC_EPILOGUE        ? (void *)&d->epilogue
               : a == CUBLASLT_MATMUL_DESC_BIAS_POINTER    ? (void *)&d->bias
               : a == CUBLASLT_MATMUL_DESC_A_SCALE_POINTER ? (void *)&d->scale_a
                                                           : (void *)&d->scale_b;
    if (n != (a >= CUBLASLT_MATMUL_DESC_BIAS_POINTER ? 8 : 4)) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, p, n);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType type, uint64_t rows, uint64_t cols,
                                          int64_t ld) {
    if (rows == 0 || cols == 0 || ld < (int64_t)rows) return CUBLAS_STATUS_INVALID_VALUE;
    *l = new cublasLtMatrixLayoutOpaque_t{type, rows, cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
    delete l;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) {
    *p = new cublasLtMatmulPreferenceOpaque_t{0, {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
    delete p;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t a, const void *v, size_t n) {
    const bool bytes = a == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
    if (n != (bytes ? 8 : 4)) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(bytes ? (void *)&p->workspace : (void *)&p->align[a - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], v, n);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t, cublasLtMatmulPreference_t p, int wanted,
                                              cublasLtMatmulHeuristicResult_t *found, int *count) {
    if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
    *count = 0;
    if (a->type == CUDA_R_8F_E4M3 && (capability() < 89 || !fp8_allowed(d, a, b, p)))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    *found = {};
    for (int i = 0; i < 4; i++) found->algo.data[i] = p->align[i];
    found->algo.data[4] = chosen_for(d, a, b, c);
    found->workspaceSize = p->workspace;
    *count = 1;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t d, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t la, const void *b, cublasLtMatrixLayout_t lb, const void *beta,
                              const void *c, cublasLtMatrixLayout_t lc, void *out, cublasLtMatrixLayout_t,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t, cudaStream_t stream) {
    const void *const at[] = {a, b, c, out};
    const int64_t k = (int64_t)(d->transa == CUBLAS_OP_N ? la->cols : la->rows),
                  kb = (int64_t)(d->transb == CUBLAS_OP_N ? lb->rows : lb->cols);
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)at[i] % algo->data[i]) return CUBLAS_STATUS_INVALID_VALUE;
    if (algo->data[4] != chosen_for(d, la, lb, lc) || k != kb || !workspace) return CUBLAS_STATUS_INVALID_VALUE;
    const auto work =
        [=, d = *d, la = *la, lb = *lb, lc = *lc, alpha = *(const float *)alpha,
         beta = *(
             const float *)beta] { /* a recording keeps what the descriptors say now */
                                   for (int64_t j = 0; j < (int64_t)lc.cols; j++)
                                       for (int64_t i = 0; i < (int64_t)lc.rows; i++) {
                                           float sum = 0;
                                           for (int64_t l = 0; l < k; l++)
                                               sum += number(a, la.type,
                                                             d.transa == CUBLAS_OP_N ? l * la.ld + i : i * la.ld + l) *
                                                      number(b, lb.type,
                                                             d.transb == CUBLAS_OP_N ? j * lb.ld + l : l * lb.ld + j);
                                           sum *= alpha;
                                           if (la.type == CUDA_R_8F_E4M3) sum *= *d.scale_a * *d.scale_b;
                                           if (beta != 0)
                                               sum += beta * ((const float *)c)[j * lc.ld + i]; /* else C is not read */
                                           if (d.epilogue == CUBLASLT_EPILOGUE_BIAS) sum += d.bias[i];
                                           ((float *)out)[j * lc.ld + i] = sum;
                                       }
        };
    if (cuemu::stream_records(stream, work)) return CUBLAS_STATUS_SUCCESS;
    cuemu::stream_ready(stream);
    work();
    return CUBLAS_STATUS_SUCCESS;
}
}
