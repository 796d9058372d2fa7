/* What the attention kernels share: which tiles are seen, matrices on their way to shared memory, and the two products of tiles.
 *
 * A block of 256 threads has a tile of TILE "left" rows (queries, or keys for dk and dv) and walks over tiles of "right" rows. Thread
 * (ty, tx), tx < 16, owns the left rows ty * TR + i; of a [TILE, TILE] product the columns tx + 16 j, so that the 16 lanes of a row are the
 * 16 virtual lanes of its sum; of a [TILE, D] product the columns tx * G + 16 G j + 0 .. G - 1. Right rows come as chunks: CHUNK channels
 * of a whole tile for products over channels, some whole rows for products over rows, copied by cp.async while others are in use. */
#pragma once
#include "ptx.h"

#include "base/status.h"
#include "dev/leaf.h"

enum { TILE = ATTN_KEYS, LANES = OPS_LANES, ATTN_THREADS = 256, CHUNK = 16, CHUNK_LD = CHUNK + 4, SLOTS = 3 };
enum { P_LD = TILE + 4, SLOT = TILE * CHUNK_LD };
static_assert(ATTN_ROWS == ATTN_KEYS && TILE == 4 * LANES && ATTN_THREADS == LANES * LANES, "tiles are square");

/* Sizes for heads of at most D channels: row distance in shared memory, columns of a thread, rows in a chunk of rows. */
template <int D> struct attn_size {
    enum { LD = D + 4, G = D % 64 ? 2 : 4, NG = D / (LANES * G), ROWS = D <= 64 ? 16 : D <= 160 ? 8 : 4 };
    static_assert(D % 32 == 0 && ROWS * D <= SLOT && TILE % ROWS == 0, "a chunk fits its slot");
};

template <class T> static __device__ __forceinline__ T *attn_ptr(dptr p) { return reinterpret_cast<T *>(p.a); }
static __device__ __forceinline__ int least(int64_t a, int64_t b) { return (int)(a < b ? a : b); }

/* The first key that the row at position `at` sees; first: of that row, or null. */
static __device__ __forceinline__ int attn_lo(const int32_t *first, int at, int64_t window) {
    int lo = first ? *first : 0, from = window && at >= window ? (int)(at - window) + 1 : 0;
    return lo > from ? lo : from;
}
/* Does any of `rows` rows from position `at` see any of the keys [k0, k0 + TILE)? The same answer in all threads. first: of row `at`. */
static __device__ __forceinline__ bool attn_seen(const int32_t *first, int at, int rows, int64_t window, int k0) {
    bool any = false;
    for (int r = threadIdx.x % WARP; r < rows; r += WARP) {
        int lo = attn_lo(first ? first + r : nullptr, at + r, window);
        any |= lo <= at + r && lo < k0 + TILE && at + r >= k0;
    }
    return __any_sync(0xffffffffu, any);
}

/* --- to shared memory --------------------------------------------------------------------------------------------------------- */
/* Four floats, the first `n` of which exist; zeros for the rest. */
static __device__ __forceinline__ void attn_copy4(float *to, const float *from, int n) {
    if (n >= 4 && ((uintptr_t)from & 15) == 0) {
        cp_async16(to, from);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) to[i] = i < n ? from[i] : 0;
    }
}
/* A block [ROWS, COLS] of a matrix, of which rows x cols exist, to rows LD apart. */
template <int ROWS, int COLS, int LD>
static __device__ __forceinline__ void attn_copy(float *to, const float *x, int64_t ld, int rows, int cols) {
    for (int i = threadIdx.x; i < ROWS * (COLS / 4); i += ATTN_THREADS) {
        int r = i / (COLS / 4), c = i % (COLS / 4) * 4;
        attn_copy4(to + r * LD + c, x + r * ld + c, r < rows ? cols - c : 0);
    }
}

/* The chunks of all tiles of a walk, in order. A walk has bool next() (to its first, then the following tile; false at the end), int n()
 * (rows of the tile) and const float *row(m), the first row of the tile in matrix m (0 or 1), rows ld[m] apart. A tile is PASSES passes;
 * bit p of MATRIX says which matrix pass p takes, bit p of BY_ROWS that it goes by rows. */
template <int D, class Walk, int PASSES, int MATRIX, int BY_ROWS> struct attn_feed {
    Walk walk;
    float *slots;
    int d, pass, at, filled, taken;
    bool live;

    __device__ __forceinline__ attn_feed(const Walk &w, float *shared, int channels)
        : walk(w), slots(shared), d(channels), pass(0), at(0), filled(0), taken(0) {
        live = walk.next();
        for (int i = 0; i < SLOTS - 1; i++) fill();
    }
    __device__ __forceinline__ void fill() {
        if (live) {
            const int m = MATRIX >> pass & 1, by_rows = BY_ROWS >> pass & 1, n = walk.n();
            const float *x = walk.row(m);
            const int64_t ld = m ? walk.ld[1] : walk.ld[0];
            float *to = slots + filled % SLOTS * SLOT;
            if (by_rows)
                attn_copy<attn_size<D>::ROWS, D, D>(to, x + at * ld, ld, n - at, d);
            else
                attn_copy<TILE, CHUNK, CHUNK_LD>(to, x + at, ld, n, d - at);
            filled++;
            at += by_rows ? (int)attn_size<D>::ROWS : (int)CHUNK;
            if (at >= (by_rows ? n : d)) {
                at = 0;
                if (++pass == PASSES) pass = 0, live = walk.next();
            }
        }
        cp_async_commit();
    }
    /* The next chunk; the one before it is given back. All threads. */
    __device__ __forceinline__ const float *take() {
        cp_async_wait<SLOTS - 2>();
        __syncthreads();
        fill();
        return slots + taken++ % SLOTS * SLOT;
    }
};

/* Tiles of keys that the rows of a block see, `rows` of them from position `at`: keys are matrix 0, values matrix 1. Start with k0 at
 * attn_begin. */
struct attn_key_walk {
    const float *k, *v; /* of the sequence and head */
    int64_t ld[2], window;
    const int32_t *first; /* of the first row, or null */
    int at, rows, k0;

    __device__ __forceinline__ bool next() {
        do k0 += TILE;
        while (k0 < at + rows && !attn_seen(first, at, rows, window, k0));
        return k0 < at + rows;
    }
    __device__ __forceinline__ int n() const { return least(TILE, at + rows - k0); }
    __device__ __forceinline__ const float *row(int m) const { return m ? v + k0 * ld[1] : k + k0 * ld[0]; }
};
/* One tile before the first that a window lets in. */
static __device__ __forceinline__ int attn_begin(int at, int64_t window) {
    return attn_lo(nullptr, at, window) / TILE * TILE - TILE;
}

/* --- products: one chain of fma over channels or rows, rising ----------------------------------------------------------------- */
/* s[i][j] += left row i * right row tx + 16 j over a chunk of channels; what is beyond d is zero in both. left: from its own first row. */
template <int TR, int LD>
static __device__ __forceinline__ void attn_channels(float (&s)[TR][4], const float *left, const float *chunk, int tx) {
#pragma unroll
    for (int c = 0; c < CHUNK; c += 4) {
        float4 a[TR], b[4];
#pragma unroll
        for (int j = 0; j < 4; j++) b[j] = *reinterpret_cast<const float4 *>(chunk + (tx + LANES * j) * CHUNK_LD + c);
#pragma unroll
        for (int i = 0; i < TR; i++) a[i] = *reinterpret_cast<const float4 *>(left + i * LD + c);
#pragma unroll
        for (int i = 0; i < TR; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                s[i][j] = fmaf(a[i].x, b[j].x, s[i][j]);
                s[i][j] = fmaf(a[i].y, b[j].y, s[i][j]);
                s[i][j] = fmaf(a[i].z, b[j].z, s[i][j]);
                s[i][j] = fmaf(a[i].w, b[j].w, s[i][j]);
            }
    }
}
template <int G> static __device__ __forceinline__ void attn_load(float (&b)[G], const float *x) {
    if constexpr (G == 4) {
        float4 v = *reinterpret_cast<const float4 *>(x);
        b[0] = v.x, b[1] = v.y, b[2] = v.z, b[3] = v.w;
    } else {
        float2 v = *reinterpret_cast<const float2 *>(x);
        b[0] = v.x, b[1] = v.y;
    }
}
/* acc[i] += p[i] * row, the thread's columns of it. */
template <int TR, int D>
static __device__ __forceinline__ void attn_row(float (&acc)[TR][D / LANES], const float (&p)[TR], const float *row) {
    constexpr int G = attn_size<D>::G;
#pragma unroll
    for (int j = 0; j < attn_size<D>::NG; j++) {
        float b[G];
        attn_load<G>(b, row + LANES * G * j);
#pragma unroll
        for (int i = 0; i < TR; i++)
#pragma unroll
            for (int e = 0; e < G; e++) acc[i][j * G + e] = fmaf(p[i], b[e], acc[i][j * G + e]);
    }
}
/* acc += p * chunk over its first m rows. p: left row 0 at the chunk's first row, P_LD apart; chunk: at the thread's first column. */
template <int TR, int D>
static __device__ __forceinline__ void attn_rows(float (&acc)[TR][D / LANES], const float *p, const float *chunk, int m) {
    float one[TR];
    int r = 0;
    m = m < (int)attn_size<D>::ROWS ? m : (int)attn_size<D>::ROWS;
    for (; r + 4 <= m; r += 4) {
        float four[TR][4];
#pragma unroll
        for (int i = 0; i < TR; i++) attn_load<4>(four[i], p + i * P_LD + r);
#pragma unroll
        for (int q = 0; q < 4; q++) {
#pragma unroll
            for (int i = 0; i < TR; i++) one[i] = four[i][q];
            attn_row<TR, D>(acc, one, chunk + (r + q) * D);
        }
    }
    for (; r < m; r++) {
#pragma unroll
        for (int i = 0; i < TR; i++) one[i] = p[i * P_LD + r];
        attn_row<TR, D>(acc, one, chunk + r * D);
    }
}
/* The thread's columns of one row of a result, times `factor`. */
template <int D>
static __device__ __forceinline__ void attn_store(float *to, const float (&row)[D / LANES], float factor, int d, int tx) {
    constexpr int G = attn_size<D>::G;
#pragma unroll
    for (int j = 0; j < attn_size<D>::NG; j++) {
        const int c = tx * G + LANES * G * j;
        if (G == 4 && c + 4 <= d && ((uintptr_t)(to + c) & 15) == 0) {
            *reinterpret_cast<float4 *>(to + c) = make_float4(row[j * G] * factor, row[j * G + 1] * factor,
                                                              row[j * G + 2] * factor, row[j * G + 3] * factor);
        } else {
#pragma unroll
            for (int e = 0; e < G; e++)
                if (c + e < d) to[c + e] = row[j * G + e] * factor;
        }
    }
}

/* --- launching ------------------------------------------------------------------------------------------------------------------ */
/* Calls LAUNCHER<D, ...>(...) for the smallest D that holds d channels. */
#define ATTN_FOR_D(d, LAUNCHER, ...)                                                                       \
    ((d) <= 64    ? LAUNCHER<64>(__VA_ARGS__)                                                              \
     : (d) <= 96  ? LAUNCHER<96>(__VA_ARGS__)                                                              \
     : (d) <= 128 ? LAUNCHER<128>(__VA_ARGS__)                                                             \
     : (d) <= 192 ? LAUNCHER<192>(__VA_ARGS__)                                                             \
     : (d) <= 256 ? LAUNCHER<256>(__VA_ARGS__)                                                             \
     : (d) <= 320 ? LAUNCHER<320>(__VA_ARGS__)                                                             \
                  : gpu_fail(TM_ERR_UNSUPPORTED, "attention: heads of %lld channels, at most 320", (long long)(d)))
/* A kernel may have more than 48 KiB of dynamic shared memory only when told so; a device that lacks it says no here. */
template <class Kernel> static int attn_allow(Kernel kernel, size_t shared) {
    return gpu_check(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared),
                     "attention: asking for shared memory");
}
