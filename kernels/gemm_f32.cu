/* fp32 products with the host's bits: one chain of fma for each element and leaf, the tree over leaves, then the bias.
 *
 * A block of 256 threads makes a tile of 128 x 128 of C (64 x 64 where that fills the device better), each thread 8 x 8 in registers; slabs
 * of 16 k go through shared memory while the next ones are on their way to registers. A slab of 128 x 128 reads 16 KiB for 0.5 MFLOP, 32
 * FLOPs a byte of L2, and 1 byte of shared memory a FLOP: bound by fp32 fma (H100: 60 TFLOP/s without tensor cores). Slabs end with their piece:
 * no k is padded, since fma(0, 0, -0) would be +0.
 *
 * Few rows (m <= 16: decoding) are bound by reading B once (m / 2 FLOPs a byte): blocks of 32 columns stream it through a ring of
 * asynchronous copies. */
#include "gemm.h"
#include "ptx.h"

enum { SLAB = 16 };

/* A slab of a factor for a tile of ROWS rows of C (columns, for B), on its way through registers. ALONG_K: its rows lie along k. */
template <bool ALONG_K, int ROWS> struct slab {
    enum { QUADS = ROWS * SLAB / 4 / GPU_THREADS, LD = ROWS + 4 /* of the copy in shared memory, [k][LD] */ };
    float4 q[QUADS];

    /* x: at the first k of the slab, `k` of which are there; rows from row0, `rows` of which are there */
    __device__ __forceinline__ void load(const float *x, int64_t ld, int k, int64_t row0, int64_t rows) {
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            const int c = threadIdx.x + i * GPU_THREADS;
            if (ALONG_K) {
                const int r = c / (SLAB / 4), kk = c % (SLAB / 4) * 4;
                q[i] = gemm_load4(x + (row0 + r) * ld + kk, r < rows ? k - kk : 0);
            } else {
                const int kk = c / (ROWS / 4), r = c % (ROWS / 4) * 4;
                q[i] = gemm_load4(x + kk * ld + row0 + r, kk < k ? rows - r : 0);
            }
        }
    }
    __device__ __forceinline__ void store(float *s) const {
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            const int c = threadIdx.x + i * GPU_THREADS;
            if (ALONG_K) {
                float *to = s + c % (SLAB / 4) * 4 * LD + c / (SLAB / 4);
                to[0] = q[i].x, to[LD] = q[i].y, to[2 * LD] = q[i].z, to[3 * LD] = q[i].w;
            } else {
                *reinterpret_cast<float4 *>(s + c / (ROWS / 4) * LD + c % (ROWS / 4) * 4) = q[i];
            }
        }
    }
};

/* Where the T x T sums of a thread lie in the tile: a warp has a quarter of the rows and half of the columns; its lanes, 4 x 8, take quads
 * of rows and of columns in turn, so that reads of shared memory are broadcasts or without conflict. */
template <int TILE> struct place {
    int row, col;
    __device__ __forceinline__ place() {
        const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
        row = warp % 4 * (TILE / 4) + lane / 8 * 4;
        col = warp / 4 * (TILE / 2) + lane % 8 * 4;
    }
    static __device__ __forceinline__ int row_of(int i) { return i / 4 * 16 + i % 4; }
    static __device__ __forceinline__ int col_of(int j) { return j / 4 * 32 + j % 4; }
};

/* One k of a tile. */
template <int T> __device__ __forceinline__ void chain(const float *a, const float *b, float (&x)[T * T]) {
    float av[T], bv[T];
#pragma unroll
    for (int i = 0; i < T; i += 4) {
        const float4 p = *reinterpret_cast<const float4 *>(a + i * 4), q = *reinterpret_cast<const float4 *>(b + i * 8);
        av[i] = p.x, av[i + 1] = p.y, av[i + 2] = p.z, av[i + 3] = p.w;
        bv[i] = q.x, bv[i + 1] = q.y, bv[i + 2] = q.z, bv[i + 3] = q.w;
    }
#pragma unroll
    for (int i = 0; i < T; i++)
#pragma unroll
        for (int j = 0; j < T; j++) x[i * T + j] = fmaf(av[i], bv[j], x[i * T + j]);
}

template <int LAYOUT, int TILE>
static __global__ void __launch_bounds__(GPU_THREADS, 2) f32_tile_k(struct gemm_plan p, float *split) {
    enum { T = TILE / 16, LD = TILE + 4 };
    __shared__ __align__(16) float sa[2][SLAB * LD], sb[2][SLAB * LD];
    const place<TILE> at;
    slab<LAYOUT != GEMM_TN, TILE> qa;
    slab<LAYOUT == GEMM_NT, TILE> qb;
    float x[T * T], wait[GEMM_WAITING][T * T];
    int64_t m0, n0;
    int leaf, leaves, depth = 0, buffer = 0;
    gemm_tile_of(blockIdx.x, (p.m + TILE - 1) / TILE, (p.n + TILE - 1) / TILE, &m0, &n0);
    m0 *= TILE, n0 *= TILE;
    gemm_leaves(p, split, &leaf, &leaves);
    int piece = p.first[leaf];
    int64_t k = 0;
    const auto load = [&]() {
        const struct gemm_piece &f = p.piece[piece];
        const int here = f.k - k < SLAB ? (int)(f.k - k) : SLAB;
        qa.load(f.a + (LAYOUT == GEMM_TN ? k * f.lda : k), f.lda, here, m0, p.m - m0);
        qb.load(f.b + (LAYOUT == GEMM_NT ? k : k * f.ldb), f.ldb, here, n0, p.n - n0);
        return here;
    };
    int here = load();
    qa.store(sa[0]);
    qb.store(sb[0]);
    __syncthreads();
    for (;; leaf++) {
#pragma unroll
        for (int i = 0; i < T * T; i++) {
            const int64_t r = m0 + at.row + at.row_of(i / T), c = n0 + at.col + at.col_of(i % T);
            x[i] = p.accumulate && r < p.m && c < p.n ? p.c[r * p.ldc + c] : 0.0f;
        }
        for (bool more = true; more;) {
            const int now = here;
            k += SLAB;
            if (k >= p.piece[piece].k) {
                k = 0;
                more = ++piece < p.first[leaf + 1];
            }
            const bool next = piece < p.first[leaves];
            if (next) here = load();
            const float *a = sa[buffer] + at.row, *b = sb[buffer] + at.col;
            if (now == SLAB) {
#pragma unroll
                for (int i = 0; i < SLAB; i++) chain<T>(a + i * LD, b + i * LD, x);
            } else {
                for (int i = 0; i < now; i++) chain<T>(a + i * LD, b + i * LD, x);
            }
            buffer ^= 1;
            if (next) {
                qa.store(sa[buffer]);
                qb.store(sb[buffer]);
            }
            __syncthreads();
        }
        if (split || gemm_leaf_end(p, leaf, x, wait, &depth)) break;
    }
    float *c = split ? split + leaf * p.m * p.n : p.c;
    const int64_t ldc = split ? p.n : p.ldc;
#pragma unroll
    for (int i = 0; i < T; i++)
#pragma unroll
        for (int j = 0; j < T; j += 4) {
            const int64_t r = m0 + at.row + at.row_of(i), n = n0 + at.col + at.col_of(j);
            float *v = &x[i * T + j];
            if (r >= p.m || n >= p.n) continue;
            if (p.bias && !split) {
                const float4 b = gemm_load4(p.bias + n, p.n - n);
                v[0] += b.x, v[1] += b.y, v[2] += b.z, v[3] += b.w;
            }
            gemm_store4(c + r * ldc + n, p.n - n, v);
        }
}

/* --- few rows --------------------------------------------------------------------------------------------------------------- */
enum {
    FEW = 16,
    COLS = 32,
    STEP = 64,
    STAGES = 3,
    FEW_THREADS = 128,
    FEW_LD = STEP + 4,
    EACH = FEW * WARP / FEW_THREADS
};

/* `rows` rows of `len` numbers into shared rows of `to_ld`: asynchronous where four lie together on both sides. */
static __device__ __forceinline__ void copy_rows(float *to, int to_ld, const float *x, int64_t ld, int rows, int len,
                                                 int quads) {
    for (int c = threadIdx.x; c < rows * quads; c += FEW_THREADS) {
        const int r = c / quads, i = c % quads * 4;
        const float *from = x + r * ld + i;
        float *s = to + r * to_ld + i;
        if (i + 4 <= len && ((uintptr_t)from & 15) == 0) {
            cp_async16(s, from);
        } else {
            for (int e = 0; e < 4 && i + e < len; e++) s[e] = from[e];
        }
    }
}

/* A lane is a column, a warp takes rows warp, warp + 4, ... of C. */
template <int LAYOUT>
static __global__ void __launch_bounds__(FEW_THREADS) f32_rows_k(struct gemm_plan p, float *split) {
    __shared__ __align__(16) float sa[STAGES][FEW * FEW_LD], sb[STAGES][COLS * FEW_LD];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, m = (int)p.m;
    const int64_t n0 = (int64_t)blockIdx.x * COLS;
    const int cols = p.n - n0 < COLS ? (int)(p.n - n0) : COLS;
    float x[EACH], wait[GEMM_WAITING][EACH];
    int leaf, leaves, depth = 0;
    gemm_leaves(p, split, &leaf, &leaves);
    int ahead = p.first[leaf], piece = ahead; /* of the copies, of the sums */
    int64_t ahead_k = 0, k = 0;
    const auto copy = [&](int stage) {
        if (ahead < p.first[leaves]) {
            const struct gemm_piece &f = p.piece[ahead];
            const int here = f.k - ahead_k < STEP ? (int)(f.k - ahead_k) : STEP;
            if (LAYOUT == GEMM_TN) {
                for (int c = threadIdx.x; c < here * m; c += FEW_THREADS)
                    sa[stage][c % m * FEW_LD + c / m] = f.a[(ahead_k + c / m) * f.lda + c % m];
            } else {
                copy_rows(sa[stage], FEW_LD, f.a + ahead_k, f.lda, m, here, STEP / 4);
            }
            if (LAYOUT == GEMM_NT)
                copy_rows(sb[stage], FEW_LD, f.b + n0 * f.ldb + ahead_k, f.ldb, cols, here, STEP / 4);
            else
                copy_rows(sb[stage], COLS, f.b + ahead_k * f.ldb + n0, f.ldb, here, cols, COLS / 4);
            ahead_k += STEP;
            if (ahead_k >= f.k) ahead++, ahead_k = 0;
        }
        cp_async_commit();
    };
    for (int s = 0; s < STAGES - 1; s++) copy(s);
    for (int stage = 0;; leaf++) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int r = warp + 4 * i;
            x[i] = p.accumulate && r < m && lane < cols ? p.c[r * p.ldc + n0 + lane] : 0.0f;
        }
        while (piece < p.first[leaf + 1]) {
            const int here = p.piece[piece].k - k < STEP ? (int)(p.piece[piece].k - k) : STEP;
            cp_async_wait<STAGES - 2>();
            __syncthreads(); /* the copies of all threads are there, and the stage before has been read */
            copy((stage + STAGES - 1) % STAGES);
            const float *a = sa[stage] + warp * FEW_LD, *b = sb[stage] + (LAYOUT == GEMM_NT ? lane * FEW_LD : lane);
            int i = 0;
            for (; i + 4 <= here; i += 4) {
                const float4 u = LAYOUT == GEMM_NT ? *reinterpret_cast<const float4 *>(b + i)
                                                   : make_float4(b[i * COLS], b[(i + 1) * COLS], b[(i + 2) * COLS],
                                                                 b[(i + 3) * COLS]);
#pragma unroll
                for (int r = 0; r < EACH; r++)
                    if (warp + 4 * r < m) {
                        const float4 v = *reinterpret_cast<const float4 *>(a + 4 * r * FEW_LD + i);
                        x[r] = fmaf(v.w, u.w, fmaf(v.z, u.z, fmaf(v.y, u.y, fmaf(v.x, u.x, x[r]))));
                    }
            }
            for (; i < here; i++)
#pragma unroll
                for (int r = 0; r < EACH; r++)
                    if (warp + 4 * r < m) x[r] = fmaf(a[4 * r * FEW_LD + i], b[LAYOUT == GEMM_NT ? i : i * COLS], x[r]);
            stage = (stage + 1) % STAGES;
            k += STEP;
            if (k >= p.piece[piece].k) piece++, k = 0;
        }
        if (split || gemm_leaf_end(p, leaf, x, wait, &depth)) break;
    }
    cp_async_wait<0>();
    if (lane >= cols) return;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int64_t r = warp + 4 * i, n = n0 + lane;
        if (r >= m) continue;
        if (split)
            split[(leaf * p.m + r) * p.n + n] = x[i];
        else
            p.c[r * p.ldc + n] = p.bias ? x[i] + p.bias[n] : x[i];
    }
}

/* --- choice ----------------------------------------------------------------------------------------------------------------- */
int gemm_f32(struct cuda_gpu *g, const struct gemm_plan *p) {
    typedef void kernel(struct gemm_plan, float *);
    static kernel *const kernels[3][3] = {/* by layout */
                                          {f32_tile_k<GEMM_NT, 128>, f32_tile_k<GEMM_NT, 64>, f32_rows_k<GEMM_NT>},
                                          {f32_tile_k<GEMM_NN, 128>, f32_tile_k<GEMM_NN, 64>, f32_rows_k<GEMM_NN>},
                                          {f32_tile_k<GEMM_TN, 128>, f32_tile_k<GEMM_TN, 64>, f32_rows_k<GEMM_TN>}};
    static const struct {
        int rows, cols;
        unsigned threads;
    } tile[] = {{128, 128, GPU_THREADS}, {64, 64, GPU_THREADS}, {FEW, COLS, FEW_THREADS}};
    const int64_t large = (p->m + 127) / 128 * ((p->n + 127) / 128);
    const int which = p->m <= FEW ? 2 : large * p->leaves < g->gemm->multiprocessors ? 1 : 0;
    const int64_t tiles =
        (p->m + tile[which].rows - 1) / tile[which].rows * ((p->n + tile[which].cols - 1) / tile[which].cols);
    const bool splits = gemm_splits(g, p, tiles);
    void *split = nullptr;
    if (splits) GPU_TRY(gpu_work(g, gemm_split_bytes(p), &split));
    LAUNCH(kernels[p->layout][which], dim3((unsigned)tiles, 1, splits ? (unsigned)p->leaves : 1), tile[which].threads,
           0, g->stream, *p, (float *)split);
    GPU_TRY(gpu_launched("gemm"));
    return splits ? gemm_fold(g, p, (const float *)split) : 0;
}
