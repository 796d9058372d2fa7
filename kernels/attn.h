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
#include "numfmt/bf16.h"

enum { TILE = ATTN_KEYS, LANES = OPS_LANES, ATTN_THREADS = 256, CHUNK = 16, CHUNK_LD = CHUNK + 4, SLOTS = 3 };
enum {
    G = 4 /* adjacent columns of a thread */,
    P_LD = TILE + 4,
    SLOT = TILE * CHUNK_LD,
    ATTN_FEW = LANES /* queries that decoding has at most */
};
static_assert(ATTN_ROWS == ATTN_KEYS && TILE == 4 * LANES && ATTN_THREADS == LANES * LANES, "tiles are square");

/* Large parts: inline where they are to work on registers; once for each size where gcc compiles them for the CPU. */
#if CUEMU
#define ATTN_PART __attribute__((noinline))
#else
#define ATTN_PART __forceinline__
#endif

/* Sizes for heads of at most D channels: row distance in shared memory, rows in a chunk of rows. */
template <int D> struct attn_size {
    enum { LD = D + 4, ROWS = D <= 64 ? 16 : D <= 160 ? 8 : 4 };
    static_assert(D % 64 == 0 && ROWS * D <= SLOT && TILE % ROWS == 0, "a chunk fits its slot");
};

template <class T> static __device__ __forceinline__ T *attn_ptr(dptr p) { return reinterpret_cast<T *>(p.a); }
static __device__ __forceinline__ int least(int64_t a, int64_t b) { return (int)(a < b ? a : b); }

/* The first key that the row at position `at` sees; first: of that row, or null. */
static __device__ __forceinline__ int attn_lo(const int32_t *first, int at, int64_t window) {
    int lo = first ? *first : 0, from = window && at >= window ? (int)(at - window) + 1 : 0;
    return lo > from ? lo : from;
}
/* Does any of `rows` rows from position `at` see any of the keys [k0, k1)? The same answer in all threads. first: of row `at`. */
static __device__ ATTN_PART bool attn_seen(const int32_t *first, int at, int rows, int64_t window, int k0, int k1) {
    bool any = false;
    for (int r = threadIdx.x % WARP; r < rows; r += WARP) {
        int lo = attn_lo(first ? first + r : nullptr, at + r, window);
        any |= lo <= at + r && lo < k1 && at + r >= k0;
    }
    return __any_sync(0xffffffffu, any);
}

/* --- walks over right tiles: of matrices 0 and 1, whose rows lie ld[0] and ld[1] apart, elements E ------------------------------ */
/* Tiles of keys that `rows` rows from position `at` see: k and v. Start with k0 at attn_begin. */
template <class E> struct attn_key_walk {
    const E *k, *v; /* of the sequence and head */
    int64_t ld[2], window;
    const int32_t *first; /* of the first row, or null */
    int at, rows, k0;

    __device__ __forceinline__ bool next() {
        do k0 += TILE;
        while (k0 < at + rows && !attn_seen(first, at, rows, window, k0, k0 + TILE));
        return k0 < at + rows;
    }
    __device__ __forceinline__ int n() const { return least(TILE, at + rows - k0); }
    __device__ __forceinline__ const E *row(int m) const { return m ? v + k0 * ld[1] : k + k0 * ld[0]; }
};
/* One tile before the first that a window lets in. */
static __device__ __forceinline__ int attn_begin(int at, int64_t window) {
    return attn_lo(nullptr, at, window) / TILE * TILE - TILE;
}
/* Tiles of queries that see some of the keys [k0, k1), for each q head of a group in turn: q and dout. Start with head 0, q0 = k0 - TILE. */
template <class E> struct attn_query_walk {
    const E *q, *g;                      /* of the sequence and the first head */
    int64_t ld[2], window, step;         /* step: from head to head */
    const int32_t *first;                /* of the sequence, or null */
    int t, heads, k0, k1, end, head, q0; /* no query from `end` on sees the keys */

    __device__ __forceinline__ bool next() {
        for (;;) {
            q0 += TILE;
            if (q0 >= end) q0 = k0, head++;
            if (head >= heads) return false;
            if (attn_seen(first ? first + q0 : nullptr, q0, n(), window, k0, k1)) return true;
        }
    }
    __device__ __forceinline__ int n() const { return least(TILE, t - q0); }
    __device__ __forceinline__ const E *row(int m) const {
        return (m ? g : q) + q0 * (m ? ld[1] : ld[0]) + head * step;
    }
};

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
static __device__ ATTN_PART void attn_copy(float *to, const float *x, int64_t ld, int rows, int cols) {
    for (int i = threadIdx.x; i < ROWS * (COLS / 4); i += ATTN_THREADS) {
        int r = i / (COLS / 4), c = i % (COLS / 4) * 4;
        attn_copy4(to + r * LD + c, x + r * ld + c, r < rows ? cols - c : 0);
    }
}

/* What this thread copied of such a block becomes bf16. After its cp.async_wait; no other thread may have read it yet. */
template <int ROWS, int COLS, int LD> static __device__ ATTN_PART void attn_round(float *x) {
    for (int i = threadIdx.x; i < ROWS * (COLS / 4); i += ATTN_THREADS)
        for (int e = 0; e < 4; e++) {
            float *y = x + i / (COLS / 4) * LD + i % (COLS / 4) * 4 + e;
            *y = bf16_round(*y);
        }
}
static __device__ __forceinline__ float attn_factor(int bf16, float x) { return bf16 ? bf16_round(x) : x; }

/* The chunks of all tiles of a walk, in order. A tile is PASSES passes; bit p of MATRIX says which matrix pass p takes, bit p of BY_ROWS that
 * it goes by rows. */
template <int D, class Walk, int PASSES, int MATRIX, int BY_ROWS> struct attn_feed {
    Walk walk;
    float *slots;
    int d, bf16, pass, at, filled, taken;
    bool live;

    __device__ __forceinline__ attn_feed(const Walk &w, float *shared, int channels, int rounded)
        : walk(w), slots(shared), d(channels), bf16(rounded), pass(0), at(0), filled(0), taken(0) {
        live = walk.next();
        for (int i = 0; i < SLOTS - 1; i++) fill();
    }
    /* A left tile whose copies were started before this feed. */
    template <int ROWS, int LD> __device__ __forceinline__ void round_left(float *x) {
        if (!bf16) return;
        cp_async_wait<SLOTS - 2>();
        attn_round<ROWS, D, LD>(x);
    }
    __device__ ATTN_PART void fill() {
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
    /* The next chunk, of channels or of rows; the one before it is given back. All threads. */
    __device__ __forceinline__ const float *channels() { return take<TILE, CHUNK, CHUNK_LD>(); }
    __device__ __forceinline__ const float *rows() { return take<attn_size<D>::ROWS, D, D>(); }
    template <int ROWS, int COLS, int LD> __device__ ATTN_PART const float *take() {
        float *chunk = slots + taken++ % SLOTS * SLOT;
        cp_async_wait<SLOTS - 2>();
        if (bf16) attn_round<ROWS, COLS, LD>(chunk);
        __syncthreads();
        fill();
        return chunk;
    }
};

/* --- products: one chain of fma over channels or rows, rising ----------------------------------------------------------------- */
/* s[i][j] += left row i * right row tx + 16 j over a chunk of channels; what is beyond d is zero in both. left: from its own first row. */
template <int TR, int LD>
static __device__ ATTN_PART void attn_channels(float (&s)[TR][4], const float *left, const float *chunk, int tx) {
#pragma unroll 2
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
static __device__ __forceinline__ void attn_load(float (&b)[4], const float *x) {
    const float4 v = *reinterpret_cast<const float4 *>(x);
    b[0] = v.x, b[1] = v.y, b[2] = v.z, b[3] = v.w;
}
/* acc[i] += p[i] * row, the thread's columns of it. */
template <int TR, int D>
static __device__ __forceinline__ void attn_row(float (&acc)[TR][D / LANES], const float (&p)[TR], const float *row) {
#pragma unroll
    for (int j = 0; j < D / (LANES * G); j++) {
        float b[G];
        attn_load(b, row + LANES * G * j);
#pragma unroll
        for (int i = 0; i < TR; i++)
#pragma unroll
            for (int e = 0; e < G; e++) acc[i][j * G + e] = fmaf(p[i], b[e], acc[i][j * G + e]);
    }
}
/* acc += p * chunk over its first m rows. p: left row 0 at the chunk's first row, P_LD apart; chunk: at the thread's first column. */
template <int TR, int D>
static __device__ ATTN_PART void attn_rows(float (&acc)[TR][D / LANES], const float *p, const float *chunk, int m) {
    float one[TR];
    int r = 0;
    m = m < (int)attn_size<D>::ROWS ? m : (int)attn_size<D>::ROWS;
    for (; r + 4 <= m; r += 4) {
        float four[TR][4];
#pragma unroll
        for (int i = 0; i < TR; i++) attn_load(four[i], p + i * P_LD + r);
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
static __device__ ATTN_PART void attn_store(float *to, const float (&row)[D / LANES], float factor, int d, int tx) {
#pragma unroll
    for (int j = 0; j < D / (LANES * G); j++) {
        const int c = tx * G + LANES * G * j;
        if (c + 4 <= d && ((uintptr_t)(to + c) & 15) == 0) {
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
#define ATTN_FOR_D(d, LAUNCHER, ...)           \
    ((d) <= 64    ? LAUNCHER<64>(__VA_ARGS__)  \
     : (d) <= 128 ? LAUNCHER<128>(__VA_ARGS__) \
     : (d) <= 256 ? LAUNCHER<256>(__VA_ARGS__) \
     : (d) <= 320 ? LAUNCHER<320>(__VA_ARGS__) \
                  : gpu_fail(TM_ERR_UNSUPPORTED, "attention: heads of %lld channels, at most 320", (long long)(d)))
/* A kernel may have more than 48 KiB of dynamic shared memory only when told so. False: the device has less. */
template <class Kernel> static bool attn_fits(Kernel kernel, size_t shared) {
    const bool fits = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                           cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared) == cudaSuccess;
    if (!fits) (void)cudaGetLastError(); /* it is no error of what comes next */
    return fits;
}
static inline int attn_too_large(int64_t d) {
    return gpu_fail(TM_ERR_UNSUPPORTED, "attention: heads of %lld channels: more shared memory than this device has",
                    (long long)d);
}

/* bf16 products on tensor cores. *done: whether they serve (not for few queries, heads of over 128 channels, devices with little shared
 * memory); delta is there for the backward. */
int attn_bf16_fwd(struct cuda_gpu *g, const struct attn_fwd_args *a, bool *done);
int attn_bf16_bwd(struct cuda_gpu *g, const struct attn_bwd_args *a, bool *done);
