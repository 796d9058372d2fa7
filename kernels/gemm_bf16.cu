/* bf16 products with fp32 sums, the same on any grid: packing, tensor cores by mma.sync, and the choice between it, gemm_wgmma.cu and cuBLASLt.
 *
 * A leaf goes by in steps of 16 k, its pieces padded with zeros to 64; tree and bias are those of fp32.
 * Inside a step the tensor core adds 16 products and the sum so far in its own way, so these are not the host's bits. Bound: NMSE <= 1e-9
 * against the fp64 product of the rounded factors. Bits do not depend on m, n, tile or split, since every kernel here makes the same steps.
 *
 * Factors are fp32 in memory, or packed already (packed.h): by gpu_pack, or by the operation whose result they are. What is fp32 is rounded to
 * bf16 and laid out along k once (6 bytes an element), since a tile reads its factors from L2 n / 128 times: 128 x 128 x 32 is 1 MFLOP for
 * 16 KiB, 64 FLOPs a byte of L2 (H100: 5.5 TB/s, so up to 350 TFLOP/s; from fp32, half). Few rows (m <= 16: decoding) are bound by reading B
 * once; factors in fp32 are rounded on the way to shared memory. */
#include <type_traits>

#include "gemm_bf16.h"
#include "gemm_lt.h"
#include "ptx.h"

enum { TILE = 128, STEP_K = 32, STAGES = 3, THREADS = 256 };

/* --- packing ---------------------------------------------------------------------------------------------------------------- */
/* The piece of packed k. */
static __device__ __forceinline__ int piece_of(const struct gemm_packed &w, int64_t k) {
    int i = 0;
    while (w.at[i + 1] <= k) i++;
    return i;
}
static __device__ __forceinline__ uint4 round8(const float4 &x, const float4 &y) {
    return make_uint4(packed_pair(x.x, x.y), packed_pair(x.z, x.w), packed_pair(y.x, y.y), packed_pair(y.z, y.w));
}

/* Factors whose rows lie along k, one or both in a launch: a thread takes 8 k of a row, of `of_a` and then `of_b` padded ones. Rows past the last
 * are zeros. */
static __global__ void pack_along_k(struct gemm_plan p, struct gemm_packed w, int64_t of_a, int64_t of_b) {
    const int64_t chunks = w.k / 8;
    GPU_EACH(i, (of_a + of_b) * chunks) {
        const bool is_b = i >= of_a * chunks;
        const int64_t at = is_b ? i - of_a * chunks : i, r = at / chunks, k = at % chunks * 8, rows = is_b ? p.n : p.m;
        const int f = piece_of(w, k);
        const struct gemm_piece &q = p.piece[f];
        const int64_t in = k - w.at[f], left = r < rows ? q.k - in : 0;
        const float *x = (is_b ? q.b + r * q.ldb : q.a + r * q.lda) + in;
        *reinterpret_cast<uint4 *>((is_b ? w.b : w.a) + at * 8) =
            round8(gemm_load4(x, left), gemm_load4(x + 4, left - 4));
    }
}
/* One whose rows are k: squares of 64 x 64 are turned in shared memory. */
static __global__ void __launch_bounds__(THREADS) pack_across_k(struct gemm_plan p, struct gemm_packed w, bool is_b) {
    enum { SIDE = 64, LD = SIDE + 1 };
    __shared__ float s[SIDE * LD];
    const int64_t k0 = (int64_t)blockIdx.x * SIDE, r0 = (int64_t)blockIdx.y * SIDE, rows = is_b ? p.n : p.m;
    uint16_t *out = is_b ? w.b : w.a;
    for (int c = threadIdx.x; c < SIDE * SIDE / 4; c += THREADS) {
        const int kk = c / (SIDE / 4), r = c % (SIDE / 4) * 4;
        const int64_t k = k0 + kk;
        float4 v = make_float4(0, 0, 0, 0);
        if (k < w.k) {
            const int f = piece_of(w, k);
            const struct gemm_piece &q = p.piece[f];
            const int64_t in = k - w.at[f];
            v = gemm_load4((is_b ? q.b + in * q.ldb : q.a + in * q.lda) + r0 + r, in < q.k ? rows - r0 - r : 0);
        }
        float *to = s + kk * LD + r;
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    }
    __syncthreads();
    for (int c = threadIdx.x; c < SIDE * SIDE / 8; c += THREADS) {
        const int r = c / (SIDE / 8), k = c % (SIDE / 8) * 8;
        const float *x = s + k * LD + r;
        if (k0 + k >= w.k) continue;
        *reinterpret_cast<uint4 *>(out + (r0 + r) * w.k + k0 + k) =
            round8(make_float4(x[0], x[LD], x[2 * LD], x[3 * LD]),
                   make_float4(x[4 * LD], x[5 * LD], x[6 * LD], x[7 * LD]));
    }
}
static void pack_across(struct cuda_gpu *g, const struct gemm_plan *p, const struct gemm_packed *w, bool is_b) {
    const dim3 grid((unsigned)((w->k + 63) / 64), (unsigned)(gemm_padded(is_b ? p->n : p->m) / 64));
    LAUNCH(pack_across_k, grid, THREADS, 0, g->stream, *p, *w, is_b);
}
static int pack(struct cuda_gpu *g, const struct gemm_plan *p, const struct gemm_packed *w, bool a, bool b) {
    if (!a && !b) return 0;
    const int64_t of_a = a && p->layout != GEMM_TN ? gemm_padded(p->m) : 0,
                  of_b = b && p->layout == GEMM_NT ? gemm_padded(p->n) : 0;
    if (of_a + of_b > 0)
        LAUNCH(pack_along_k, gpu_blocks((of_a + of_b) * (w->k / 8), THREADS), THREADS, 0, g->stream, *p, *w, of_a,
               of_b);
    if (a && of_a == 0) pack_across(g, p, w, false);
    if (b && of_b == 0) pack_across(g, p, w, true);
    return gpu_launched("gemm");
}

/* --- tiles of 128 x 128 ------------------------------------------------------------------------------------------------------ */
/* A stage of a factor in shared memory: rows of 32 k, 64 bytes, as 4 chunks of 16; two rows are a line of all banks, and chunks change
 * places by pairs of rows, so that the 8 rows an ldmatrix reads lie in different banks. */
static __device__ __forceinline__ int chunk_at(int row, int chunk) {
    return row * STEP_K + ((chunk ^ (row >> 1 & 3)) << 3);
}

static __device__ __forceinline__ void copy_stage(uint16_t *s, const uint16_t *x, int64_t ld) {
#pragma unroll
    for (int c = threadIdx.x; c < TILE * 4; c += THREADS)
        cp_async16(s + chunk_at(c >> 2, c & 3), x + (c >> 2) * ld + (c & 3) * 8);
}

/* 32 k of a warp's 64 x 32. x: [4 tiles of 16 rows][4 of 8 columns][4 of an mma]. */
static __device__ __forceinline__ void mma_stage(const uint16_t *a, const uint16_t *b, int row, int col, int lane,
                                                 float (&x)[64]) {
#pragma unroll
    for (int kk = 0; kk < 4; kk += 2) {
        uint32_t fa[4][4], fb[2][4];
#pragma unroll
        for (int i = 0; i < 4; i++) ldmatrix_x4(fa[i], a + chunk_at(row + i * 16 + (lane & 15), kk + (lane >> 4)));
#pragma unroll
        for (int j = 0; j < 2; j++)
            ldmatrix_x4(fb[j], b + chunk_at(col + j * 16 + (lane & 7) + (lane >> 4) * 8, kk + (lane >> 3 & 1)));
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const uint32_t pair[2] = {fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]};
                mma_m16n8k16_bf16(*reinterpret_cast<float(*)[4]>(&x[(i * 4 + j) * 4]), fa[i], pair);
            }
    }
}

/* Sums of an mma: element e of lane l lies at row l / 4 + e / 2 * 8, column l % 4 * 2 + e % 2. This is where one begins. */
static __device__ __forceinline__ float begin(const struct gemm_plan &p, int64_t r, int64_t n) {
    return p.accumulate && r < p.m && n < p.n ? p.c[r * p.ldc + n] : 0.0f;
}

static __global__ void __launch_bounds__(THREADS, 2)
    bf16_tile_k(struct gemm_plan p, struct gemm_packed w, float *split) {
    __shared__ __align__(128) uint16_t s[STAGES][2][TILE * STEP_K];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, row = warp / 4 * 64, col = warp % 4 * 32;
    float x[64], wait[GEMM_WAITING][64];
    int64_t m0, n0;
    int leaf, leaves, depth = 0, stage = 0;
    gemm_tile_of(blockIdx.x, (p.m + TILE - 1) / TILE, (p.n + TILE - 1) / TILE, &m0, &n0);
    m0 *= TILE, n0 *= TILE;
    gemm_leaves(p, split, &leaf, &leaves);
    const uint16_t *a = w.a + m0 * w.k, *b = w.b + n0 * w.k;
    const int64_t end = w.at[p.first[leaves]];
    int64_t k = w.at[p.first[leaf]], ahead = k;
    const auto copy = [&](int to) {
        if (ahead < end) {
            copy_stage(s[to][0], a + ahead, w.k);
            copy_stage(s[to][1], b + ahead, w.k);
        }
        ahead += STEP_K;
        cp_async_commit();
    };
    for (int i = 0; i < STAGES - 1; i++) copy(i);
    const int64_t r0 = m0 + row + lane / 4, c0 = n0 + col + lane % 4 * 2;
    for (;; leaf++) {
#pragma unroll
        for (int i = 0; i < 64; i++) x[i] = begin(p, r0 + i / 16 * 16 + i % 4 / 2 * 8, c0 + i / 4 % 4 * 8 + i % 2);
        for (const int64_t to = w.at[p.first[leaf + 1]]; k < to; k += STEP_K) {
            cp_async_wait<STAGES - 2>();
            __syncthreads(); /* the copies of all threads are there, and the stage before has been read */
            copy((stage + STAGES - 1) % STAGES);
            mma_stage(s[stage][0], s[stage][1], row, col, lane, x);
            stage = (stage + 1) % STAGES;
        }
        if (split || gemm_leaf_end(p, leaf, x, wait, &depth)) break;
    }
    cp_async_wait<0>();
#pragma unroll
    for (int i = 0; i < 64; i += 2)
        gemm_store2(p, split, leaf, r0 + i / 16 * 16 + i % 4 / 2 * 8, c0 + i / 4 % 4 * 8, x[i], x[i + 1]);
}

/* --- few rows --------------------------------------------------------------------------------------------------------------- */
enum {
    FEW = 16,
    COLS = 64,
    STEP = 64,
    FEW_THREADS = 128,
    FEW_LD = STEP + 8 /* 9 chunks of 16 bytes: rows in different banks */
};

/* STEP k of ROWS rows of a factor, on their way through registers to rounded rows in shared memory. */
template <bool ALONG_K, int ROWS> struct few_slab {
    enum { QUADS = ROWS * STEP / 4 / FEW_THREADS };
    float4 q[QUADS];
    __device__ __forceinline__ void load(const float *x, int64_t ld, int64_t k, int64_t rows) {
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            const int c = threadIdx.x + i * FEW_THREADS;
            if (ALONG_K) {
                const int r = c / (STEP / 4), kk = c % (STEP / 4) * 4;
                q[i] = gemm_load4(x + r * ld + kk, r < rows ? k - kk : 0);
            } else {
                const int kk = c / (ROWS / 4), r = c % (ROWS / 4) * 4;
                q[i] = gemm_load4(x + kk * ld + r, kk < k ? rows - r : 0);
            }
        }
    }
    __device__ __forceinline__ void store(uint16_t *s) const {
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            const int c = threadIdx.x + i * FEW_THREADS;
            const uint32_t lo = packed_pair(q[i].x, q[i].y), hi = packed_pair(q[i].z, q[i].w);
            if (ALONG_K) {
                *reinterpret_cast<uint2 *>(s + c / (STEP / 4) * FEW_LD + c % (STEP / 4) * 4) = make_uint2(lo, hi);
            } else {
                uint16_t *to = s + c % (ROWS / 4) * 4 * FEW_LD + c / (ROWS / 4);
                to[0] = (uint16_t)lo, to[FEW_LD] = (uint16_t)(lo >> 16), to[2 * FEW_LD] = (uint16_t)hi,
                to[3 * FEW_LD] = (uint16_t)(hi >> 16);
            }
        }
    }
};

/* The same of a packed factor. */
template <int ROWS> struct few_codes {
    enum { QUADS = ROWS * STEP / 4 / FEW_THREADS };
    uint2 q[QUADS];
    __device__ __forceinline__ void load(const uint16_t *x, int64_t ld, int64_t, int64_t rows) {
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            const int c = threadIdx.x + i * FEW_THREADS, r = c / (STEP / 4), kk = c % (STEP / 4) * 4;
            q[i] = r < rows ? *reinterpret_cast<const uint2 *>(x + r * ld + kk) : make_uint2(0, 0);
        }
    }
    __device__ __forceinline__ void store(uint16_t *s) const {
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            const int c = threadIdx.x + i * FEW_THREADS;
            *reinterpret_cast<uint2 *>(s + c / (STEP / 4) * FEW_LD + c % (STEP / 4) * 4) = q[i];
        }
    }
};
template <bool ALONG_K, int ROWS, bool PACKED>
using few_of = std::conditional_t<PACKED, few_codes<ROWS>, few_slab<ALONG_K, ROWS>>;

/* A warp has the 16 rows and 16 of the block's columns. */
template <int LAYOUT, bool PACKED_A, bool PACKED_B>
static __global__ void __launch_bounds__(FEW_THREADS)
    bf16_rows_k(struct gemm_plan p, struct gemm_packed w, float *split) {
    __shared__ __align__(16) uint16_t sa[2][FEW * FEW_LD], sb[2][COLS * FEW_LD];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int64_t n0 = (int64_t)blockIdx.x * COLS, r0 = lane / 4, c0 = n0 + warp * 16 + lane % 4 * 2;
    few_of<LAYOUT != GEMM_TN, FEW, PACKED_A> qa;
    few_of<LAYOUT == GEMM_NT, COLS, PACKED_B> qb;
    float x[8], wait[GEMM_WAITING][8];
    int leaf, leaves, depth = 0, buffer = 0;
    gemm_leaves(p, split, &leaf, &leaves);
    int piece = p.first[leaf];
    int64_t k = 0;
    const auto load = [&]() {
        const struct gemm_piece &f = p.piece[piece];
        const int here = f.k - k < STEP ? (int)(f.k - k) : STEP;
        if constexpr (PACKED_A)
            qa.load(w.a + w.at[piece] + k, w.k, here, p.m);
        else
            qa.load(f.a + (LAYOUT == GEMM_TN ? k * f.lda : k), f.lda, here, p.m);
        if constexpr (PACKED_B)
            qb.load(w.b + n0 * w.k + w.at[piece] + k, w.k, here, p.n - n0);
        else
            qb.load(f.b + (LAYOUT == GEMM_NT ? n0 * f.ldb + k : k * f.ldb + n0), f.ldb, here, p.n - n0);
        return (here + STEP_K - 1) / STEP_K * STEP_K;
    };
    int here = load();
    qa.store(sa[0]);
    qb.store(sb[0]);
    __syncthreads();
    for (;; leaf++) {
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = begin(p, r0 + i % 4 / 2 * 8, c0 + i / 4 * 8 + i % 2);
        for (bool more = true; more;) {
            const int now = here;
            k += STEP;
            if (k >= p.piece[piece].k) {
                k = 0;
                more = ++piece < p.first[leaf + 1];
            }
            const bool next = piece < p.first[leaves];
            if (next) here = load();
            for (int kk = 0; kk < now; kk += 16) {
                uint32_t fa[4], fb[4];
                ldmatrix_x4(fa, sa[buffer] + (lane & 15) * FEW_LD + kk + (lane >> 4) * 8);
                ldmatrix_x4(fb, sb[buffer] + (warp * 16 + (lane & 7) + (lane >> 4) * 8) * FEW_LD + kk +
                                    (lane >> 3 & 1) * 8);
                const uint32_t left[2] = {fb[0], fb[1]}, right[2] = {fb[2], fb[3]};
                mma_m16n8k16_bf16(*reinterpret_cast<float(*)[4]>(&x[0]), fa, left);
                mma_m16n8k16_bf16(*reinterpret_cast<float(*)[4]>(&x[4]), fa, right);
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
#pragma unroll
    for (int i = 0; i < 8; i += 2) gemm_store2(p, split, leaf, r0 + i % 4 / 2 * 8, c0 + i / 4 * 8, x[i], x[i + 1]);
}
static int run_rows(struct cuda_gpu *g, const struct gemm_plan *p, const struct gemm_packed *w) {
    typedef void kernel(struct gemm_plan, struct gemm_packed, float *);
    static kernel *const kernels[] = {bf16_rows_k<GEMM_NT, false, false>, bf16_rows_k<GEMM_NN, false, false>,
                                      bf16_rows_k<GEMM_TN, false, false>, bf16_rows_k<GEMM_NT, true, false>,
                                      bf16_rows_k<GEMM_NT, false, true>,  bf16_rows_k<GEMM_NT, true, true>};
    const int which = w->a || w->b ? 2 + (w->a ? 1 : 0) + (w->b ? 2 : 0) : p->layout;
    const int64_t tiles = (p->n + COLS - 1) / COLS;
    const bool splits = gemm_splits(g, p, tiles);
    void *split = nullptr;
    if (splits) GPU_TRY(gpu_work(g, gemm_split_bytes(p), &split));
    LAUNCH(kernels[which], dim3((unsigned)tiles, 1, splits ? (unsigned)p->leaves : 1), FEW_THREADS, 0, g->stream, *p,
           *w, (float *)split);
    GPU_TRY(gpu_launched("gemm"));
    return splits ? gemm_fold(g, p, (const float *)split) : 0;
}

/* --- choice ----------------------------------------------------------------------------------------------------------------- */
/* sums: work space for leaves or waiting sums, or NULL. */
static int run_packed(struct cuda_gpu *g, const struct gemm_plan *p, const struct gemm_packed *w, float *sums) {
    if (g->gemm->lt) {
        const struct lt_product x = {.layout = GEMM_NT,
                                     .type = LT_BF16,
                                     .accumulate = p->accumulate,
                                     .m = p->m,
                                     .n = p->n,
                                     .k = w->k,
                                     .lda = w->k,
                                     .ldb = w->k,
                                     .ldc = p->ldc,
                                     .a = w->a,
                                     .b = w->b,
                                     .c = p->c,
                                     .bias = p->bias};
        bool served;
        GPU_TRY(gemm_lt_run(g, &x, &served));
        if (served) return 0;
    }
    if (g->gemm->wgmma) return gemm_wgmma_run(g, p, w, sums);
    LAUNCH(bf16_tile_k, dim3((unsigned)gemm_tiles(p), 1, sums ? (unsigned)p->leaves : 1), THREADS, 0, g->stream, *p, *w,
           sums);
    GPU_TRY(gpu_launched("gemm"));
    return sums ? gemm_fold(g, p, sums) : 0;
}

/* Packed factors that did not come with the product are work space: parts of C are as large as OPS_GEMM_PACKED allows. */
int gemm_bf16(struct cuda_gpu *g, const struct gemm_plan *p) {
    const bool wgmma = g->gemm->wgmma;
    struct gemm_packed w = {};
    for (int i = 0; i < p->first[p->leaves]; i++) w.at[i + 1] = w.at[i] + packed_k(p->piece[i].k);
    w.k = w.at[p->first[p->leaves]];
    w.a = p->packed_a ? p->packed_a + p->packed_row * w.k : nullptr;
    w.b = p->packed_b;
    if (p->m <= FEW && !(wgmma && g->invariant)) return run_rows(g, p, &w);
    const bool packs_a = !w.a, packs_b = !w.b;
    const int64_t fit = OPS_GEMM_PACKED / (w.k * 2) / TILE * TILE, most = fit > 0 ? fit : (int64_t)TILE;
    const int64_t rows = !packs_a || p->m < most ? p->m : most, cols = !packs_b || p->n < most ? p->n : most;
    const struct gemm_plan largest = gemm_part(p, 0, rows, 0, cols);
    const size_t bytes_a = packs_a ? (size_t)(gemm_padded(rows) * w.k) * 2 : 0,
                 bytes_b = packs_b ? (size_t)(gemm_padded(cols) * w.k) * 2 : 0,
                 bytes = wgmma                                            ? gemm_wgmma_bytes(g, &largest)
                         : gemm_splits(g, &largest, gemm_tiles(&largest)) ? gemm_split_bytes(&largest)
                                                                          : 0;
    char *work = nullptr;
    if (bytes_a + bytes_b + bytes > 0) GPU_TRY(gpu_work(g, bytes_a + bytes_b + bytes, (void **)&work));
    if (packs_a) w.a = (uint16_t *)work;
    if (packs_b) w.b = (uint16_t *)(work + bytes_a);
    float *sums = bytes ? (float *)(work + bytes_a + bytes_b) : nullptr;
    for (int64_t n = 0; n < p->n; n += cols)
        for (int64_t m = 0; m < p->m; m += rows) {
            const struct gemm_plan part =
                gemm_part(p, m, p->m - m < rows ? p->m - m : rows, n, p->n - n < cols ? p->n - n : cols);
            GPU_TRY(pack(g, &part, &w, packs_a && (n == 0 || rows < p->m), packs_b && m == 0));
            GPU_TRY(run_packed(g, &part, &w, sums));
        }
    return 0;
}

/* A factor of its own: the plan of a product that has the other one packed. */
int gpu_pack(struct cuda_gpu *g, const struct pack_args *a) {
    struct gemm_plan p = {};
    struct gemm_packed w = {};
    int pieces = 0;
    (a->is_b ? p.n : p.m) = a->rows;
    p.layout = GEMM_NT;
    for (int j = 0; j < a->to.segments; j++) {
        const int64_t k = a->to.k[j], len = a->to.k[j + 1] - k;
        if (len <= 0) continue;
        const float *x = gpu_f32(a->x) + k;
        p.piece[pieces] = {x, x, a->ldx, a->ldx, len};
        w.at[pieces + 1] = w.at[pieces] + packed_k(len);
        pieces++;
    }
    w.k = w.at[pieces];
    w.a = w.b = gpu_ptr<uint16_t>(a->to.at);
    return a->rows > 0 && pieces > 0 ? pack(g, &p, &w, !a->is_b, a->is_b) : 0;
}
