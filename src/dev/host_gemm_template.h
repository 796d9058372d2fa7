/* The kernels of one instruction set, written once over V (a vector of VW floats): a .c file defines GEMM_TARGET, V, VW, MR, NV, NB,
 * V_ZERO, V_LOAD, V_STORE, V_SET1, V_FMA, V_ADD, for VW > 1 also V_ROWS, V_LO, V_HI, V_SHUF, and GEMM_NAME, then includes this.
 *
 * A tile keeps rows x NV vectors of C in registers; each lane is one chain acc = fma(a_k, b_k, acc). */

/* No include guard: one inclusion per kernel file. */
#include <stdint.h>
#include <string.h>

#include "dev/host_gemm_kernel.h"

#if defined(__clang__)
#define GEMM_UNROLL _Pragma("clang loop unroll(full)")
#else
#define GEMM_UNROLL _Pragma("GCC unroll 16")
#endif
/* In a register, as it is: three rows to a pointer leave registers enough for all, which compilers do not see by themselves. */
#define GEMM_KEEP(pointer) __asm__("" : "+r"(pointer))
#define GEMM_INLINE        static inline __attribute__((always_inline)) GEMM_TARGET

enum { NR = NV * VW };

GEMM_INLINE float *slot(const struct gemm_tile *t, int i) {
    return i < SLOT_KEPT ? t->slot[0] + i * (MR * NR) : t->slot[1] + (i - SLOT_KEPT) * (MR * NR);
}

/* lda: GEMM_LDA, which then is part of the addresses, or t->lda. */
GEMM_INLINE void tile_rows(const int rows, const int64_t lda, const struct gemm_tile *t) {
    const int64_t ldc = t->ldc;
    V acc[MR][NV];
    for (int s = 0; s < t->steps; s++) {
        const struct gemm_step st = t->step[s];
        if (st.load) {
            GEMM_UNROLL for (int i = 0; i < rows; i++) GEMM_UNROLL for (int j = 0; j < NV; j++) acc[i][j] =
                V_LOAD(t->c + i * ldc + j * VW);
        } else {
            GEMM_UNROLL for (int i = 0; i < rows; i++) GEMM_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = V_ZERO();
        }
        const float *a[(MR + 2) / 3], *b = (const float *)t->b + (int64_t)st.k0 * NR; /* every third row of A */
        GEMM_UNROLL for (int i = 0; i < rows; i += 3) a[i / 3] = (const float *)t->a + st.k0 + i * lda;
        for (int k = st.k0; k < st.k1; k++, b += NR) {
            GEMM_UNROLL for (int i = 0; i < rows; i += 3) GEMM_KEEP(a[i / 3]);
            V bv[NV];
            GEMM_UNROLL for (int j = 0; j < NV; j++) bv[j] = V_LOAD(b + j * VW);
            GEMM_UNROLL for (int i = 0; i < rows; i++) {
                const V av = V_SET1(a[i / 3][i % 3 * lda]);
                GEMM_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = V_FMA(av, bv[j], acc[i][j]);
            }
            GEMM_UNROLL for (int i = 0; i < rows; i += 3) a[i / 3]++;
        }
        for (int d = 0; d < st.adds; d++) {
            const float *p = slot(t, st.add[d]);
            GEMM_UNROLL for (int i = 0; i < rows; i++) GEMM_UNROLL for (int j = 0; j < NV; j++) acc[i][j] =
                V_ADD(V_LOAD(p + i * NR + j * VW), acc[i][j]);
        }
        if (st.last && t->bias) {
            GEMM_UNROLL for (int i = 0; i < rows; i++) GEMM_UNROLL for (int j = 0; j < NV; j++) acc[i][j] =
                V_ADD(acc[i][j], V_LOAD(t->bias + j * VW));
        }
        float *out = st.to == SLOT_C ? t->c : slot(t, st.to);
        const int64_t ld = st.to == SLOT_C ? ldc : NR;
        GEMM_UNROLL for (int i = 0; i < rows; i++) GEMM_UNROLL for (int j = 0; j < NV; j++)
            V_STORE(out + i * ld + j * VW, acc[i][j]);
    }
}

#define ROWS_4(F)        F(1) F(2) F(3) F(4)
#define ROWS_6(F)        ROWS_4(F) F(5) F(6)
#define ROWS_14(F)       ROWS_6(F) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14)
#define EACH_OF(mr, F)   ROWS_##mr(F)
#define EACH_ROWS(mr, F) EACH_OF(mr, F)
#define TILE(rows)                                                                                    \
    static GEMM_TARGET void packed##rows(const struct gemm_tile *t) { tile_rows(rows, GEMM_LDA, t); } \
    static GEMM_TARGET void direct##rows(const struct gemm_tile *t) { tile_rows(rows, t->lda, t); }
EACH_ROWS(MR, TILE)
#undef TILE

static GEMM_TARGET void copy(const float *src, int64_t lds, int64_t rows, int64_t cols, float *dst, int64_t ldd) {
    if (cols == NR) { /* a row of a B panel */
        for (int64_t r = 0; r < rows; r++)
            GEMM_UNROLL for (int j = 0; j < NV; j++) V_STORE(dst + r * ldd + j * VW, V_LOAD(src + r * lds + j * VW));
        return;
    }
    for (int64_t r = 0; r < rows; r++) memcpy(dst + r * ldd, src + r * lds, (size_t)cols * sizeof *dst);
}

#if VW > 1
/* VW rows and 4*quads columns. Loads go row by row (each vector takes 4 columns of the rows r, r+4, ...), so that a cache line is
 * done with before the next: rows at a power-of-two distance share one L1 set. */
GEMM_INLINE void transpose_quads(const int quads, const float *src, int64_t lds, float *dst, int64_t ldd) {
    V v[4][VW / 4];
    GEMM_UNROLL for (int r = 0; r < 4; r++) GEMM_UNROLL for (int q = 0; q < quads; q++) v[r][q] =
        V_ROWS(src + r * lds + 4 * q, 4 * lds);
    GEMM_UNROLL for (int q = 0; q < quads; q++) {
        const V a = V_LO(v[0][q], v[1][q]), b = V_LO(v[2][q], v[3][q]);
        const V c = V_HI(v[0][q], v[1][q]), d = V_HI(v[2][q], v[3][q]);
        float *p = dst + 4 * q * ldd;
        V_STORE(p, V_SHUF(a, b, 0x44));
        V_STORE(p + ldd, V_SHUF(a, b, 0xEE));
        V_STORE(p + 2 * ldd, V_SHUF(c, d, 0x44));
        V_STORE(p + 3 * ldd, V_SHUF(c, d, 0xEE));
    }
}
#endif

static GEMM_TARGET void transpose(const float *src, int64_t lds, int64_t rows, int64_t cols, float *dst, int64_t ldd) {
    int64_t r = 0;
#if VW > 1
    for (; cols >= 4 && r + VW <= rows; r += VW) {
        int64_t c = 0;
        for (; c + VW <= cols; c += VW) transpose_quads(VW / 4, src + r * lds + c, lds, dst + c * ldd + r, ldd);
        for (; c + 4 <= cols; c += 4) transpose_quads(1, src + r * lds + c, lds, dst + c * ldd + r, ldd);
        /* the last columns once more with their left neighbours: no read past the row */
        if (c < cols) transpose_quads(1, src + r * lds + cols - 4, lds, dst + (cols - 4) * ldd + r, ldd);
    }
#endif
    for (; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) dst[c * ldd + r] = src[r * lds + c];
}

#define PACKED(rows) packed##rows,
#define DIRECT(rows) direct##rows,
static void tile(const struct gemm_tile *t, int rows) {
    static void (*const by_rows[2][MR])(const struct gemm_tile *) = {{EACH_ROWS(MR, PACKED)}, {EACH_ROWS(MR, DIRECT)}};
    by_rows[t->lda != GEMM_LDA][rows - 1](t);
}

static const struct gemm_kernel kernel_ = {
    .name = GEMM_NAME,
    .mr = MR,
    .nr = NR,
    .kc = GEMM_KC,
    .kc_tree = GEMM_KC,
    .nb = NB,
    .lda = GEMM_LDA,
    .element = sizeof(float),
    .block = 1,
    .direct = true,
    .wake = 1 << 20,
    .pack = 8,
    .tile = tile,
    .pack_a = gemm_pack_a,
    .pack_b = gemm_pack_b,
    .copy = copy,
    .transpose = transpose,
};
