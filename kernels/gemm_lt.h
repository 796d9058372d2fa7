/* cuBLASLt for products whose order of sums is free. */
#pragma once
#include "gemm.h"

/* C[m,n] = (accumulate ? C : 0) + A B (layouts of gemm_args) + bias[n]; bias may be NULL. Factors are fp32, or bf16 with fp32 sums. */
struct lt_product {
    int layout, bf16, accumulate;
    int64_t m, n, k, lda, ldb, ldc;
    const void *a, *b;
    float *c;
    const float *bias;
};

/* *out is NULL in a build without cuBLASLt. Fails where the library refuses the device. */
int gemm_lt_open(struct gemm_lt **out);
void gemm_lt_close(struct gemm_lt *lt); /* NULL is fine */
/* *served is false where the library has no algorithm for the product. */
int gemm_lt_run(struct cuda_gpu *g, const struct lt_product *x, bool *served);
