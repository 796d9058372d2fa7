/* The bf16 GEMM kernel for AMX: tiles of 32 x 32, a block of 32 k is four tdpbf16ps; packing rounds fp32 to bf16.
 *
 * tdpbf16ps adds to each element of C the sum of two chains of fp32 fma from +0, over the even and over the odd k of the block (Intel SDM;
 * tests/t220 compares it with the definition). Packed so that a tile is 1 KiB in one piece: host_pack.h has the layout of the panels. */
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

enum { MR = 32, NR = 32, HALF = 16, CHAIN = 640, KC = 1536, NB = 1536, SUMS = MR * NR };

/* --- packing ------------------------------------------------------------------------------------------------------------ */
INLINE __mmask16 lanes(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }
INLINE __m512i round32(__m512 lo, __m512 hi) { return (__m512i)_mm512_cvtne2ps_pbh(hi, lo); }

/* n <= 32 elements, rounded. */
INLINE void round_some(const float *src, int64_t n, uint16_t *dst) {
    const __m512i v = round32(_mm512_maskz_loadu_ps(lanes(n), src), _mm512_maskz_loadu_ps(lanes(n - 16), src + 16));
    _mm512_mask_storeu_epi16(dst, n < 32 ? (__mmask32)((1u << n) - 1) : 0xffffffffu, v);
}

/* n elements of a row, to packed k = `at` of a row whose blocks lie ldb apart. */
static AMX void round_row(const float *src, int64_t n, int64_t at, uint16_t *dst, int64_t ldb) {
    const int64_t head = size_min(n, -at & (GEMM_BLOCK - 1)); /* up to the next block */
    dst += at / GEMM_BLOCK * ldb;
    if (head) {
        round_some(src, head, dst + at % GEMM_BLOCK);
        dst += ldb;
    }
    int64_t i = head;
    for (; i + GEMM_BLOCK <= n; i += GEMM_BLOCK, dst += ldb)
        _mm512_storeu_si512(dst, round32(_mm512_loadu_ps(src + i), _mm512_loadu_ps(src + i + 16)));
    if (i < n) round_some(src + i, n - i, dst);
}

/* A factor whose rows lie along k: `rows` rows from row `from`, [k / 32][ldb / 32 rows][32]. Zeros where no piece is. */
static void round_rows(const struct gemm_superblock *s, const struct gemm_args *a, bool is_b, int64_t from,
                       int64_t rows, uint16_t *dst, int64_t ldb) {
    int covered = 0;
    for (int i = 0; i < s->pieces; i++) covered += s->piece[i].len;
    if (covered < s->len) memset(dst, 0, (size_t)(s->len / GEMM_BLOCK * ldb) * sizeof *dst);
    for (int64_t r = 0; r < rows; r++, dst += GEMM_BLOCK)
        for (int i = 0; i < s->pieces; i++) {
            const struct gemm_term *t = &a->term[s->piece[i].term];
            const float *src = is_b ? gemm_host(t->b) + (from + r) * t->ldb : gemm_host(t->a) + (from + r) * t->lda;
            round_row(src + s->piece[i].k, s->piece[i].len, s->piece[i].at, dst, ldb);
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
                       int64_t m, int64_t rows, void *panels) {
    const float *row[KC];
    (void)kn;
    if (a->layout == GEMM_TN) k_rows(s, a, false, m, row);
    for (int64_t r = 0; r < rows; r += MR) {
        uint16_t *to = (uint16_t *)panels + r * s->len;
        if (a->layout != GEMM_TN) {
            round_rows(s, a, false, m + r, size_min(MR, rows - r), to, MR * GEMM_BLOCK);
            continue;
        }
        for (int k = 0; k < s->len; k += GEMM_BLOCK)
            for (int64_t h = r; h < r + MR; h += HALF, to += HALF * GEMM_BLOCK) {
                __m512i v[HALF];
                const __mmask16 here = lanes(rows - h);
                for (int p = 0; p < HALF; p++) v[p] = pairs(row[k + 2 * p], row[k + 2 * p + 1], h, here);
                transpose16(v);
                for (int i = 0; i < HALF; i++) _mm512_storeu_si512(to + i * GEMM_BLOCK, v[i]);
            }
    }
}

/* Columns of B as rows of bf16, then pairs of k across 16 columns. */
static AMX void pack_b_rows(const struct gemm_args *a, const struct gemm_superblock *s, int64_t n0, int64_t n1,
                            uint16_t *dst) {
    _Alignas(64) uint16_t row[HALF * KC];
    for (int64_t n = n0; n < size_ceil_div(n1 - n0, NR) * NR + n0; n += HALF) {
        const int64_t here = size_max(0, size_min(HALF, n1 - n));
        uint16_t *to = dst + (n - n0) / NR * NR * s->len + (n - n0) % NR * GEMM_BLOCK;
        if (here < HALF) memset(row, 0, sizeof row);
        round_rows(s, a, true, n, here, row, HALF * GEMM_BLOCK);
        for (int k = 0; k < s->len; k += GEMM_BLOCK, to += NR * GEMM_BLOCK) {
            __m512i v[HALF];
            for (int i = 0; i < HALF; i++) v[i] = _mm512_load_si512(row + (k / 2 + i) * 2 * HALF);
            transpose16(v);
            for (int p = 0; p < HALF; p++) _mm512_storeu_si512(to + p * 2 * HALF, v[p]);
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
        uint16_t *to = (uint16_t *)panels + k / GEMM_BLOCK * GEMM_BLOCK * NR + k % GEMM_BLOCK * HALF;
        for (int64_t n = 0; n < n1 - n0; n += NR, to += NR * s->len) {
            _mm512_storeu_si512(to, pairs(row[k], row[k + 1], n, lanes(n1 - n0 - n)));
            _mm512_storeu_si512(to + HALF * GEMM_BLOCK, pairs(row[k], row[k + 1], n + HALF, lanes(n1 - n0 - n - HALF)));
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

/* The tiles of C += A B over the blocks of a step. B streams from L2 past the panel of A, which stays in L1; each of its tiles is free for
 * two products before it is loaded again. */
INLINE void blocks(const uint16_t *a, const uint16_t *b, int n) {
    for (int i = 0; i < n; i++, a += GEMM_BLOCK * MR, b += GEMM_BLOCK * NR) {
        _tile_stream_loadd(6, b, 64);
        _tile_loadd(4, a, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, a + HALF * GEMM_BLOCK, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_stream_loadd(7, b + HALF * GEMM_BLOCK, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* All 32 x 32, whatever `rows`. */
static AMX void tile(const struct gemm_tile *t, int rows) {
    _Alignas(64) float sums[SUMS];
    (void)rows;
    for (const struct gemm_step *s = t->step; s < t->step + t->steps; s++) {
        const int64_t ldc = t->ldc;
        if (s->load) {
            _tile_loadd(0, t->c, ldc * 4);
            _tile_loadd(1, t->c + HALF, ldc * 4);
            _tile_loadd(2, t->c + HALF * ldc, ldc * 4);
            _tile_loadd(3, t->c + HALF * ldc + HALF, ldc * 4);
        } else {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        }
        blocks((const uint16_t *)t->a + s->k0 * MR, (const uint16_t *)t->b + s->k0 * NR, (s->k1 - s->k0) / GEMM_BLOCK);
        float *to = t->c;
        int64_t ld = ldc;
        if (s->to != SLOT_C) {
            to = s->to < SLOT_KEPT ? t->slot[0] + s->to * SUMS : t->slot[1] + (s->to - SLOT_KEPT) * SUMS;
            ld = NR;
        }
        const bool more = s->adds > 0 || (s->last && t->bias);
        float *x = more ? sums : to;
        const int64_t ldx = more ? NR : ld;
        _tile_stored(0, x, ldx * 4);
        _tile_stored(2, x + HALF * ldx, ldx * 4);
        _tile_stored(1, x + HALF, ldx * 4);
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
    .kc = CHAIN,
    .kc_tree = KC,
    .nb = NB,
    .element = sizeof(uint16_t),
    .block = GEMM_BLOCK,
    .whole = true,
    .packed = true,
    .wake = 1 << 24,
    .pack = 128,
    .tile = tile,
    .pack_a = pack_a,
    .pack_b = pack_b,
    .round_row = round_row,
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
