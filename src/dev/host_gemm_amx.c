/* The bf16 GEMM kernel for AMX: tiles of 32 x 32, a block of 32 k is four tdpbf16ps; packing rounds fp32 to bf16.
 *
 * tdpbf16ps adds to each element of C the sum of two chains of fp32 fma from +0, over the even and over the odd k of the block (Intel SDM;
 * tests/t220 compares it with the definition). Packed A is [row][k]; a panel of B is [k / 2][32 columns][2]. */
#include "dev/host_gemm_kernel.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/size.h"

#define AMX    __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512bf16")))
#define INLINE static inline __attribute__((always_inline)) AMX

enum { MR = 32, NR = 32, HALF = 16, KC = 1536, NB = 1536, LDA = KC + 32, SUMS = MR * NR };

/* --- packing ------------------------------------------------------------------------------------------------------------ */
INLINE __mmask16 lanes(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }
INLINE __m512i round32(__m512 lo, __m512 hi) { return (__m512i)_mm512_cvtne2ps_pbh(hi, lo); }

/* n elements, rounded. */
static AMX void round_row(const float *src, int64_t n, uint16_t *dst) {
    int64_t i = 0;
    for (; i + 32 <= n; i += 32)
        _mm512_storeu_si512(dst + i, round32(_mm512_loadu_ps(src + i), _mm512_loadu_ps(src + i + 16)));
    for (; i < n; i += 16) {
        const __mmask16 m = lanes(n - i);
        _mm256_mask_storeu_epi16(dst + i, m, (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(m, src + i)));
    }
}

/* A factor whose rows lie along k: row r of `rows` from row `from`, [row][ldd]. Zeros where no piece is. */
static void round_rows(const struct gemm_superblock *s, const struct gemm_args *a, bool is_b, int64_t from,
                       int64_t rows, uint16_t *dst, int64_t ldd) {
    int covered = 0;
    for (int i = 0; i < s->pieces; i++) covered += s->piece[i].len;
    for (int64_t r = 0; r < rows; r++, dst += ldd) {
        if (covered < s->len) memset(dst, 0, (size_t)s->len * sizeof *dst);
        for (int i = 0; i < s->pieces; i++) {
            const struct gemm_term *t = &a->term[s->piece[i].term];
            const float *src = is_b ? gemm_host(t->b) + (from + r) * t->ldb : gemm_host(t->a) + (from + r) * t->lda;
            round_row(src + s->piece[i].k, s->piece[i].len, dst + s->piece[i].at);
        }
    }
}

/* A factor whose rows are k: where row k (packed) begins, at element `from`; NULL where no piece is. */
static void k_rows(const struct gemm_superblock *s, const struct gemm_args *a, bool is_b, int64_t from,
                   const float **row) {
    memset(row, 0, (size_t)s->len * sizeof *row);
    for (int i = 0; i < s->pieces; i++) {
        const struct gemm_term *t = &a->term[s->piece[i].term];
        const int64_t ld = is_b ? t->ldb : t->lda;
        const float *p = (is_b ? gemm_host(t->b) : gemm_host(t->a)) + s->piece[i].k * ld + from;
        for (int k = 0; k < s->piece[i].len; k++) row[s->piece[i].at + k] = p + k * ld;
    }
}

/* 16 elements of two such rows as pairs. */
INLINE __m512i pairs(const float *even, const float *odd, int64_t at, __mmask16 m) {
    static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512 e = even ? _mm512_maskz_loadu_ps(m, even + at) : _mm512_setzero_ps();
    const __m512 o = odd ? _mm512_maskz_loadu_ps(m, odd + at) : _mm512_setzero_ps();
    return _mm512_permutexvar_epi16(_mm512_loadu_si512(order), round32(e, o));
}

/* v[i] element j <-> v[j] element i, of 4 bytes. */
INLINE void transpose16(__m512i v[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) { /* 128-bit lanes */
        t[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        v[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        v[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        v[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

static AMX void pack_a(const struct gemm_kernel *kn, const struct gemm_args *a, const struct gemm_superblock *s,
                       int64_t m, int64_t rows, void *dst) {
    const float *row[KC];
    (void)kn;
    if (a->layout != GEMM_TN) {
        round_rows(s, a, false, m, rows, dst, LDA);
        return;
    }
    k_rows(s, a, false, m, row);
    for (int k = 0; k < s->len; k += GEMM_BLOCK)
        for (int64_t r = 0; r < rows; r += HALF) {
            __m512i v[HALF];
            uint16_t *to = (uint16_t *)dst + r * LDA + k;
            const __mmask16 here = lanes(rows - r);
            for (int p = 0; p < HALF; p++) v[p] = pairs(row[k + 2 * p], row[k + 2 * p + 1], r, here);
            transpose16(v);
            for (int i = 0; i < HALF && i < rows - r; i++) _mm512_storeu_si512(to + i * LDA, v[i]);
        }
}

/* Columns of B as rows of bf16, then pairs of k across 16 columns. */
static AMX void pack_b_rows(const struct gemm_args *a, const struct gemm_superblock *s, int64_t n0, int64_t n1,
                            uint16_t *dst) {
    _Alignas(64) uint16_t row[HALF * LDA];
    for (int64_t n = n0; n < size_ceil_div(n1 - n0, NR) * NR + n0; n += HALF) {
        const int64_t here = size_max(0, size_min(HALF, n1 - n));
        uint16_t *to = dst + (n - n0) / NR * NR * s->len + (n - n0) % NR * 2;
        round_rows(s, a, true, n, here, row, LDA);
        memset(row + here * LDA, 0, (size_t)((HALF - here) * LDA) * sizeof *row);
        for (int k = 0; k < s->len; k += GEMM_BLOCK) {
            __m512i v[HALF];
            for (int i = 0; i < HALF; i++) v[i] = _mm512_load_si512(row + i * LDA + k);
            transpose16(v);
            for (int p = 0; p < HALF; p++) _mm512_storeu_si512(to + (k / 2 + p) * 2 * NR, v[p]);
        }
    }
}

static AMX void pack_b(const struct gemm_kernel *kn, const struct gemm_args *a, const struct gemm_superblock *s,
                       int64_t n0, int64_t n1, void *panels) {
    const float *row[KC];
    (void)kn;
    if (a->layout == GEMM_NT) {
        pack_b_rows(a, s, n0, n1, panels);
        return;
    }
    k_rows(s, a, true, n0, row);
    for (int k = 0; k < s->len; k += 2) { /* across all panels: a long read from each row */
        uint16_t *to = (uint16_t *)panels + k * NR;
        for (int64_t n = 0; n < n1 - n0; n += NR, to += NR * s->len) {
            _mm512_storeu_si512(to, pairs(row[k], row[k + 1], n, lanes(n1 - n0 - n)));
            _mm512_storeu_si512(to + NR, pairs(row[k], row[k + 1], n + HALF, lanes(n1 - n0 - n - HALF)));
        }
    }
}

/* --- tiles -------------------------------------------------------------------------------------------------------------- */
/* Add the sums of the step's slots to x, then the bias, and put it where it belongs. */
static AMX void finish(const struct gemm_tile *t, const struct gemm_step *s, const float *x, float *out, int64_t ldo) {
    const float *add[GEMM_DEPTH];
    for (int d = 0; d < s->adds; d++)
        add[d] = s->add[d] < SLOT_KEPT ? t->slot[0] + s->add[d] * SUMS : t->slot[1] + (s->add[d] - SLOT_KEPT) * SUMS;
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NR; j += HALF) {
            __m512 v = _mm512_load_ps(x + i * NR + j);
            for (int d = 0; d < s->adds; d++) v = _mm512_add_ps(_mm512_loadu_ps(add[d] + i * NR + j), v);
            if (s->last && t->bias) v = _mm512_add_ps(v, _mm512_loadu_ps(t->bias + j));
            _mm512_storeu_ps(out + i * ldo + j, v);
        }
}

/* All 32 x 32, whatever `rows`. */
static AMX void tile(const struct gemm_tile *t, int rows) {
    _Alignas(64) float sums[SUMS];
    (void)rows;
    for (const struct gemm_step *s = t->step; s < t->step + t->steps; s++) {
        const int64_t ldc = t->ldc * 4;
        if (s->load) {
            _tile_loadd(0, t->c, ldc);
            _tile_loadd(1, t->c + HALF, ldc);
            _tile_loadd(2, t->c + HALF * t->ldc, ldc);
            _tile_loadd(3, t->c + HALF * t->ldc + HALF, ldc);
        } else {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        }
        const uint16_t *a = (const uint16_t *)t->a + s->k0, *b = (const uint16_t *)t->b + s->k0 * NR;
        for (int k = s->k0; k < s->k1; k += GEMM_BLOCK, a += GEMM_BLOCK, b += GEMM_BLOCK * NR) {
            _tile_loadd(4, a, LDA * 2);
            _tile_loadd(6, b, NR * 4);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, b + 2 * HALF, NR * 4);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, a + HALF * LDA, LDA * 2);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        float *to = t->c;
        int64_t ld = t->ldc;
        if (s->to != SLOT_C) {
            to = s->to < SLOT_KEPT ? t->slot[0] + s->to * SUMS : t->slot[1] + (s->to - SLOT_KEPT) * SUMS;
            ld = NR;
        }
        const bool more = s->adds > 0 || (s->last && t->bias);
        float *x = more ? sums : to;
        const int64_t ldx = more ? NR : ld;
        _tile_stored(0, x, ldx * 4);
        _tile_stored(1, x + HALF, ldx * 4);
        _tile_stored(2, x + HALF * ldx, ldx * 4);
        _tile_stored(3, x + HALF * ldx + HALF, ldx * 4);
        if (more) finish(t, s, sums, to, ld);
    }
}

/* All eight tiles are 16 rows of 64 bytes. Constant data: gcc 12 tells the compiler of its first bytes only, and the rest would be dropped
 * as dead stores. */
static const struct {
    uint8_t palette, start, zero[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} config = {.palette = 1,
            .bytes = {64, 64, 64, 64, 64, 64, 64, 64},
            .rows = {HALF, HALF, HALF, HALF, HALF, HALF, HALF, HALF}};
static AMX void enter(void) { _tile_loadconfig(&config); }
static AMX void leave(void) { _tile_release(); } /* the system then has no tiles to save */

static const struct gemm_kernel kernel_ = {
    .name = "amx",
    .mr = MR,
    .nr = NR,
    .kc = KC,
    .nb = NB,
    .lda = LDA,
    .element = sizeof(uint16_t),
    .block = GEMM_BLOCK,
    .whole = true,
    .wake = 1 << 24,
    .pack = 128,
    .tile = tile,
    .pack_a = pack_a,
    .pack_b = pack_b,
    .enter = enter,
    .leave = leave,
};

/* The CPU has it and the system lets this process use it (Linux hands out the 8 KiB of tile state on request only). */
const struct gemm_kernel *gemm_kernel_amx(void) {
    enum { ARCH_REQUEST = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return NULL; /* BF16, TILE */
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return NULL;                    /* AVX512_BF16 */
    if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) return NULL;
    return syscall(SYS_arch_prctl, ARCH_REQUEST, TILE_DATA) == 0 ? &kernel_ : NULL;
}
#else
const struct gemm_kernel *gemm_kernel_amx(void) { return NULL; }
#endif
