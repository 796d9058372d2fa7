/* cuBLASLt for products whose order of sums is free. */
#pragma once
#include "gemm.h"

enum lt_type { LT_F32, LT_BF16, LT_E4M3 };
/* C[m,n] = (accumulate ? C : 0) + A B (layouts of gemm_args) + bias[n]; bias may be NULL. Sums are fp32. E4M3: layout NT, no bias, and A B is times
 * *scale_a * *scale_b, on the device. */
struct lt_product {
    int layout, type, accumulate;
    int64_t m, n, k, lda, ldb, ldc;
    const void *a, *b;
    float *c;
    const float *bias, *scale_a, *scale_b;
};

/* *out is NULL in a build without cuBLASLt. Fails where the library refuses the device. */
int gemm_lt_open(struct gemm_lt **out);
void gemm_lt_close(struct gemm_lt *lt); /* NULL is fine */
/* *served is false where the library has no algorithm for the product. */
int gemm_lt_run(struct cuda_gpu *g, const struct lt_product *x, bool *served);
