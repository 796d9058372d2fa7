/* What the attention kernels on Hopper share: tiles in shared memory, a ring that one warp fills by TMA, the two products of a warpgroup, and the
 * trial at a device's opening. */
#pragma once
#include "attn_bf16.h"
#include "hopper.h"

/* Left rows of a block, slots of its ring, and its threads: two warpgroups multiply 64 left rows each, one warp of the third loads. */
enum { ROWS = 128, RING = 4, GROUP = HOPPER_GROUP, THREADS = 3 * GROUP, END = INT32_MAX };
static_assert(ROWS == 2 * 64, "a warpgroup has half of the left rows");

/* A tile of R rows in shared memory: a block of 64 channels behind the other. */
template <int D, int R> struct attn_tile {
    enum { BLOCK = R * HOPPER_ROW * 2, BYTES = D / HOPPER_ROW * BLOCK };
};
/* A place in the ring; parity: of the phase that fills it. */
struct attn_place {
    int slot, parity;
    __device__ __forceinline__ void next() {
        if (++slot == RING) slot = 0, parity ^= 1;
    }
};

#if HOPPER
/* Rows of a matrix from `row` on, by one lane; attn_tile<D, R>::BYTES at b. */
template <int D, int R>
static __device__ __forceinline__ void load_tile(unsigned char *to, const CUtensorMap *map, int row, int64_t matrix,
                                                 uint64_t *b) {
    for (int i = 0; i < D / HOPPER_ROW; i++)
        tma_load(to + i * attn_tile<D, R>::BLOCK, map, i * HOPPER_ROW, row, (int)matrix, b);
}
/* s [64, N] = left [64, D] right [N, D]', queued. left: 64 rows of a tile of ROWS. */
template <int D, int N>
static __device__ __forceinline__ void channels_product(float (&s)[N / 2], uint32_t left, uint32_t right) {
    wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++) {
        const uint64_t a = wgmma_matrix(left + kk / 4 * attn_tile<D, ROWS>::BLOCK, 0) + 2 * (kk % 4),
                       b = wgmma_matrix(right + kk / 4 * attn_tile<D, N>::BLOCK, 0) + 2 * (kk % 4);
        if (kk == 0)
            wgmma_along_k<N, false>(s, a, b);
        else
            wgmma_along_k<N, true>(s, a, b);
    }
    wgmma_commit();
}
/* acc [64, D] += p [64, K] right [K, D], 16 of K, to a group that is open. */
template <int D, int K>
static __device__ __forceinline__ void rows_step(float (&acc)[D / 2], const uint32_t (&p)[K / 16][4], uint32_t right,
                                                 int kk) {
    wgmma_rows<D>(acc, p[kk], wgmma_matrix(right + kk * 16 * HOPPER_ROW * 2, attn_tile<D, K>::BLOCK));
}
/* Sums of one product, rounded, as the left factor of the next. */
template <int N> static __device__ __forceinline__ void round_pairs(uint32_t (&p)[N][4], const float (&s)[8 * N]) {
#pragma unroll
    for (int i = 0; i < 4 * N; i++) p[i / 4][i % 4] = attn_pair(s[2 * i], s[2 * i + 1]);
}
template <int N> static __device__ __forceinline__ void hold_pairs(uint32_t (&p)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; i++) wgmma_hold(p[i]);
}
#endif

/* --- does it serve? A comparison with attn_bf16.cu on the device ---------------------------------------------------------------- */
/* More than a tile of keys, of which a window hides some. */
enum { TRY_T = 160, TRY_WINDOW = 100 };
static inline void try_numbers(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = (float)((i * 2654435761u >> 16) % 33) * 0.125f - 2;
}
static inline bool try_agrees(const float *x, const float *want, int64_t n, double nmse) {
    double error = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        error += ((double)x[i] - want[i]) * ((double)x[i] - want[i]);
        norm += (double)want[i] * want[i];
    }
    return error <= nmse * norm && norm > 0;
}
