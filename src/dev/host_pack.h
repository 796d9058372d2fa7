/* Packed factors of bf16 products on the host (struct packed_factor of ops.h), in the panels that AMX multiplies.
 *
 * Segments are padded with zeros to blocks of 32 k. A panel of A is [k / 32][32 rows][32 k], one of B [k / 32][2][16 pairs of k][16 columns][2];
 * panel after panel, codes of 16 bits. What lies in rows and columns past the last is undefined. All functions are Local. */
#pragma once

#include <stdbool.h>

#include "dev/ops.h"

enum { HOST_PACKED_ROWS = 32, HOST_PACKED_BLOCK = 32 };

/* Packed k of a row. */
static inline int64_t host_packed_k(int segments, const int64_t *k) {
    int64_t all = 0;
    for (int j = 0; j < segments; j++) all += (k[j + 1] - k[j] + HOST_PACKED_BLOCK - 1) / HOST_PACKED_BLOCK;
    return all * HOST_PACKED_BLOCK;
}

struct dev;
/* Elements [col, col + n) of row `row` of a factor A, rounded, from fp32. Who gives the last element of a segment also pads it. */
void host_pack_span(const struct dev *d, const struct packed_factor *f, int64_t row, int64_t col, const float *x,
                    int64_t n);

/* Packed k = k0 of the panel with row m of A, or column m of B, of a product: a multiple of 32; NULL: that factor is not packed. */
const void *host_packed_panel(const struct gemm_args *a, bool is_b, int64_t m, int64_t k0);

/* For fp32 kernels, of a product with packed factors: packed k [k0, k0 + len) of each block as its even k, then its odd k. Rows [m, m + rows) of A
 * to rows of ld; columns [n0, n1) of B to panels [len][nr], zeros after the last. */
void host_unpack_a(const struct gemm_args *a, int64_t k0, int64_t len, int64_t m, int64_t rows, float *out, int64_t ld);
void host_unpack_b(const struct gemm_args *a, int64_t k0, int64_t len, int64_t n0, int64_t n1, int64_t nr, float *out);
