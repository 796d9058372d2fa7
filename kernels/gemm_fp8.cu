/* Products of E4M3 codes with scales of tensors, rows or blocks: tensor cores by mma.sync, fp8 ones where the device has them.
 *
 * The runs of dev/ops.h: a run's sum is the tensor cores' own; it is scaled and added to the leaf in fp32, then tree and bias are those of fp32.
 * Fp8 tensor cores keep about 13 bits below the largest of the 33 terms that they add at once (Hopper), so a run of 128 k is as far as they
 * are trusted: NMSE <= 1e-6 against the fp64 product of codes and scales. Devices before sm_89 (and one whose fp8 product is wrong when it is
 * tried) widen codes to bf16, which is exact, in registers: NMSE <= 1e-9. Bits do not depend on m, n, tile or split: every tile makes the same steps.
 *
 * 128 x 128 x 64 is 2 MFLOP for 16 KiB: 128 FLOPs a byte of L2 (H100: 5.5 TB/s, so up to 700 TFLOP/s). Few rows (m <= 16: decoding) are bound
 * by reading B once, a byte a weight. */
#include <cstring>

#include "base/status.h"
#include "gemm_bf16.h"
#include "gemm_lt.h"
#include "numfmt/e4m3.h"
#include "ptx.h"

enum { STAGE = 64 /* k */, STAGES = 3, THREADS = 256, WARPS = THREADS / WARP, FEW = 16 };

struct factor {
    const uint8_t *codes;
    const float *scales;
    int64_t ld, rows;
    struct block_grid grid;
};
struct fp8_job {
    struct gemm_plan p; /* C, bias, leaves and merges */
    struct factor a, b;
    int64_t k0[OPS_MAX_SEGMENTS], k1[OPS_MAX_SEGMENTS]; /* of the leaves */
};

/* --- walking k -------------------------------------------------------------------------------------------------------------- */
/* Where a walk over the stages of leaves [leaf, leaves) stands: a stage is at most STAGE k of a run. */
struct walk {
    int leaf, leaves;
    int64_t k, end; /* end: of the run */
};
static __device__ __forceinline__ void walk_run(const struct fp8_job &j, struct walk *w) {
    if (w->leaf < w->leaves) w->end = ops_fp8_run(&j.a.grid, &j.b.grid, w->k, j.k1[w->leaf]);
}
static __device__ __forceinline__ struct walk walk_begin(const struct fp8_job &j, int leaf, int leaves) {
    struct walk w = {leaf, leaves, j.k0[leaf], 0};
    walk_run(j, &w);
    return w;
}
/* The length of the stage at w; then step behind it. */
static __device__ __forceinline__ int walk_next(const struct fp8_job &j, struct walk *w) {
    const int len = w->end - w->k < STAGE ? (int)(w->end - w->k) : STAGE;
    w->k += len;
    if (w->k < w->end) return len;
    if (w->k == j.k1[w->leaf] && ++w->leaf < w->leaves) w->k = j.k0[w->leaf];
    walk_run(j, w);
    return len;
}

/* --- a stage in shared memory: rows of 64 codes as 4 chunks of 16, placed as in gemm_bf16.cu -------------------------------------- */
static __device__ __forceinline__ int chunk_at(int row, int chunk) {
    return row * STAGE + ((chunk ^ (row >> 1 & 3)) << 4);
}
/* Rows [r0, r0 + ROWS) of len codes from k on; what is not there is zeros. */
template <int ROWS>
static __device__ __forceinline__ void copy_stage(uint8_t *s, const struct factor &f, int64_t r0, int64_t k, int len) {
#pragma unroll
    for (int c = threadIdx.x; c < ROWS * 4; c += THREADS) {
        const int64_t r = r0 + (c >> 2);
        const int at = (c & 3) * 16, left = r < f.rows ? len - at : 0;
        const uint8_t *x = f.codes + r * f.ld + k + at;
        uint8_t *to = s + chunk_at(c >> 2, c & 3);
        if (left >= 16 && ((uintptr_t)x & 15) == 0) {
            cp_async16(to, x);
            continue;
        }
        uint32_t word[4] = {0, 0, 0, 0};
        for (int i = 0; i < 16 && i < left; i++) word[i >> 2] |= (uint32_t)x[i] << 8 * (i & 3);
        *reinterpret_cast<uint4 *>(to) = make_uint4(word[0], word[1], word[2], word[3]);
    }
}

/* --- products of 32 k ---------------------------------------------------------------------------------------------------------- */
/* Codes `first` and the next of a register as bf16: the exponent is off by 120 until the multiplication, which makes denormals right too. */
static __device__ __forceinline__ uint32_t widen1(uint32_t code) {
    const uint32_t magnitude = code & 0x7fu,
                   bits = magnitude == 0x7fu ? 0x7fc00000u : bits_of(bits_float(magnitude << 20) * 0x1p120f);
    return bits >> 16 | (code & 0x80u) << 8;
}
static __device__ __forceinline__ uint32_t widen2(uint32_t four, int first) {
    const uint32_t two = four >> 8 * first;
    return widen1(two & 0xffu) | widen1(two >> 8 & 0xffu) << 16;
}
/* Which k of the 16 a place in a register stands for does not matter as long as it is the same one in A and B. */
template <bool WIDE, int MI, int NJ>
static __device__ __forceinline__ void mma_32(const uint32_t (&fa)[MI][4], const uint32_t (&fb)[NJ][2],
                                              float (&x)[MI * NJ * 4]) {
#pragma unroll
    for (int h = 0; h < (WIDE ? 2 : 1); h++)
#pragma unroll
        for (int j = 0; j < NJ; j++) {
            const uint32_t wide_b[2] = {WIDE ? widen2(fb[j][h], 0) : 0, WIDE ? widen2(fb[j][h], 2) : 0};
#pragma unroll
            for (int i = 0; i < MI; i++) {
                float(&sum)[4] = *reinterpret_cast<float(*)[4]>(&x[(i * NJ + j) * 4]);
                if constexpr (WIDE) {
                    const uint32_t lo = fa[i][2 * h], hi = fa[i][2 * h + 1],
                                   wide_a[4] = {widen2(lo, 0), widen2(hi, 0), widen2(lo, 2), widen2(hi, 2)};
                    mma_m16n8k16_bf16(sum, wide_a, wide_b);
                } else
                    mma_m16n8k32_e4m3(sum, fa[i], fb[j]);
            }
        }
}
template <bool WIDE, int MI, int NJ>
static __device__ __forceinline__ void mma_stage(const uint8_t *a, const uint8_t *b, int row, int col, int lane,
                                                 int len, float (&x)[MI * NJ * 4]) {
    for (int kk = 0; kk < 4 && kk * 16 < len; kk += 2) {
        uint32_t fa[MI][4], fb[NJ][2];
#pragma unroll
        for (int i = 0; i < MI; i++) ldmatrix_x4(fa[i], a + chunk_at(row + i * 16 + (lane & 15), kk + (lane >> 4)));
#pragma unroll
        for (int j = 0; j < NJ; j += 2)
            ldmatrix_x4(*reinterpret_cast<uint32_t(*)[4]>(&fb[j]),
                        b + chunk_at(col + j * 8 + (lane & 7) + (lane >> 4) * 8, kk + (lane >> 3 & 1)));
        mma_32<WIDE, MI, NJ>(fa, fb, x);
    }
}

/* --- tiles: DOWN x (8 / DOWN) warps of MI x 16 rows and NJ x 8 columns ------------------------------------------------------------ */
static __device__ __forceinline__ float scale_at(const struct factor &f, int64_t r, int64_t k) {
    if (r >= f.rows) return 0.0f;
    return f.scales[(f.grid.row0 + r) / f.grid.rows * f.grid.ld + (f.grid.col0 + k) / f.grid.cols];
}
/* The end of a run that had k: element e of lane l of an mma lies at row l / 4 + e / 2 * 8, column l % 4 * 2 + e % 2. */
template <int MI, int NJ>
static __device__ __forceinline__ void run_end(const struct fp8_job &j, int64_t r0, int64_t c0, int64_t k,
                                               float (&x)[MI * NJ * 4], float (&y)[MI * NJ * 4]) {
    float sb[NJ * 2];
#pragma unroll
    for (int i = 0; i < NJ * 2; i++) sb[i] = scale_at(j.b, c0 + i / 2 * 8 + i % 2, k);
#pragma unroll
    for (int h = 0; h < MI * 2; h++) {
        const float sa = scale_at(j.a, r0 + h / 2 * 16 + h % 2 * 8, k);
#pragma unroll
        for (int i = 0; i < NJ * 2; i++) {
            const int e = (h / 2 * NJ + i / 2) * 4 + h % 2 * 2 + i % 2;
            y[e] = y[e] + x[e] * (sa * sb[i]);
            x[e] = 0.0f;
        }
    }
}

template <bool WIDE, int MI, int NJ, int DOWN>
static __global__ void __launch_bounds__(THREADS) fp8_tile_k(struct fp8_job j, float *split) {
    enum { ROWS = MI * 16 * DOWN, COLS = NJ * 8 * (WARPS / DOWN), SUMS = MI * NJ * 4 };
    __shared__ __align__(128) uint8_t sa[STAGES][ROWS * STAGE], sb[STAGES][COLS * STAGE];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, row = warp / (WARPS / DOWN) * MI * 16,
              col = warp % (WARPS / DOWN) * NJ * 8;
    float x[SUMS] = {}, y[SUMS] = {}, wait[GEMM_WAITING][SUMS];
    int64_t m0, n0;
    int leaf, leaves, depth = 0, stage = 0;
    gemm_tile_of(blockIdx.x, (j.p.m + ROWS - 1) / ROWS, (j.p.n + COLS - 1) / COLS, &m0, &n0);
    m0 *= ROWS, n0 *= COLS;
    gemm_leaves(j.p, split, &leaf, &leaves);
    struct walk here = walk_begin(j, leaf, leaves), ahead = here;
    const auto copy = [&](int to) {
        if (ahead.leaf < ahead.leaves) {
            const int64_t k = ahead.k;
            const int len = walk_next(j, &ahead);
            copy_stage<ROWS>(sa[to], j.a, m0, k, len);
            copy_stage<COLS>(sb[to], j.b, n0, k, len);
        }
        cp_async_commit();
    };
    for (int i = 0; i < STAGES - 1; i++) copy(i);
    const int64_t r0 = m0 + row + lane / 4, c0 = n0 + col + lane % 4 * 2;
    for (;;) {
        const int64_t k = here.k, end = here.end;
        cp_async_wait<STAGES - 2>();
        __syncthreads(); /* the copies of all threads are there, and the stage before has been read */
        copy((stage + STAGES - 1) % STAGES);
        const int len = walk_next(j, &here);
        mma_stage<WIDE, MI, NJ>(sa[stage], sb[stage], row, col, lane, len, x);
        stage = (stage + 1) % STAGES;
        if (k + len < end) continue;
        run_end<MI, NJ>(j, r0, c0, k, x, y);
        if (here.leaf == leaf) continue;
        if (split || gemm_leaf_end(j.p, leaf, y, wait, &depth)) break;
        leaf = here.leaf;
#pragma unroll
        for (int i = 0; i < SUMS; i++) y[i] = 0.0f;
    }
    cp_async_wait<0>();
#pragma unroll
    for (int i = 0; i < SUMS; i += 2)
        gemm_store2(j.p, split, leaf, r0 + i / 4 / NJ * 16 + i % 4 / 2 * 8, c0 + i / 4 % NJ * 8, y[i], y[i + 1]);
}

static int run_tiles(struct cuda_gpu *g, const struct fp8_job *j, bool codes) {
    typedef void kernel(struct fp8_job, float *);
    static kernel *const kernels[2][2] = {{fp8_tile_k<true, 4, 4, 2>, fp8_tile_k<true, 1, 2, 1>},
                                          {fp8_tile_k<false, 4, 4, 2>, fp8_tile_k<false, 1, 2, 1>}};
    const bool few = j->p.m <= FEW;
    const int64_t rows = few ? 16 : 128, tiles = (j->p.m + rows - 1) / rows * ((j->p.n + 127) / 128);
    const bool splits = gemm_splits(g, &j->p, tiles);
    void *split = nullptr;
    if (splits) GPU_TRY(gpu_work(g, gemm_split_bytes(&j->p), &split));
    LAUNCH(kernels[codes][few], dim3((unsigned)tiles, 1, splits ? (unsigned)j->p.leaves : 1), THREADS, 0, g->stream, *j,
           (float *)split);
    GPU_TRY(gpu_launched("gemm_fp8"));
    return splits ? gemm_fold(g, &j->p, (const float *)split) : 0;
}

/* --- cuBLASLt: where the order of sums is free, and each factor has one scale ---------------------------------------------------- */
static const float *one_scale(const struct factor &f, int64_t k) {
    const struct block_grid &g = f.grid;
    if (g.row0 % g.rows + f.rows > g.rows || g.col0 % g.cols + k > g.cols) return nullptr;
    return f.scales + g.row0 / g.rows * g.ld + g.col0 / g.cols;
}
static int run_lt(struct cuda_gpu *g, const struct fp8_job *j, int64_t k, bool *served) {
    const struct lt_product x = {.layout = GEMM_NT,
                                 .type = LT_E4M3,
                                 .m = j->p.m,
                                 .n = j->p.n,
                                 .k = k,
                                 .lda = j->a.ld,
                                 .ldb = j->b.ld,
                                 .ldc = j->p.ldc,
                                 .a = j->a.codes,
                                 .b = j->b.codes,
                                 .c = j->p.c,
                                 .scale_a = one_scale(j->a, k),
                                 .scale_b = one_scale(j->b, k)};
    *served = false;
    if (!x.scale_a || !x.scale_b || (j->p.bias && j->p.ldc != j->p.n)) return 0;
    GPU_TRY(gemm_lt_run(g, &x, served));
    if (!*served || !j->p.bias) return 0;
    const struct bias_add_args add = {{(uint64_t)(uintptr_t)j->p.c}, {(uint64_t)(uintptr_t)j->p.bias}, j->p.m, j->p.n};
    return gpu_bias_add(g, &add);
}

/* --- does it serve? --------------------------------------------------------------------------------------------------------- */
enum { TRY_M = 40, TRY_N = 144, TRY_K = 160 };
/* The product by cuBLASLt, or by our own kernel; c lies behind the codes and their scale. */
static int try_product(struct cuda_gpu *g, bool lt, bool *serves) {
    const int64_t codes = (TRY_M + TRY_N) * TRY_K, bytes = TRY_M * TRY_N * 4, back = codes + 64;
    const struct block_grid all = {INT32_MAX, INT32_MAX, 0, 0, 1};
    const float one = 1.0f;
    uint8_t *staging = (uint8_t *)g->staging;
    struct fp8_job j = {};
    char *work;
    bool served = true;
    for (int i = 0; i < codes; i++) {
        const int r = i / TRY_K, k = i % TRY_K;
        staging[i] = e4m3_encode((float)(r < TRY_M ? gemm_trial_a(r, k) : gemm_trial_b(r - TRY_M, k)));
    }
    memcpy(staging + codes, &one, sizeof one);
    GPU_TRY(gpu_work(g, (size_t)(codes + 16 + bytes), (void **)&work));
    j.a = {(uint8_t *)work, (float *)(work + codes), TRY_K, TRY_M, all};
    j.b = {(uint8_t *)work + TRY_M * TRY_K, (float *)(work + codes), TRY_K, TRY_N, all};
    j.p.m = TRY_M, j.p.n = j.p.ldc = TRY_N, j.p.leaves = 1, j.k1[0] = TRY_K;
    j.p.c = (float *)(work + codes + 16);
    GPU_TRY(gpu_check(cudaMemcpyAsync(work, staging, (size_t)codes + 4, cudaMemcpyHostToDevice, g->stream),
                      "copying to the device"));
    GPU_TRY(lt ? run_lt(g, &j, TRY_K, &served) : run_tiles(g, &j, true));
    GPU_TRY(gpu_check(cudaMemcpyAsync(staging + back, j.p.c, (size_t)bytes, cudaMemcpyDeviceToHost, g->stream),
                      "copying from the device"));
    GPU_TRY(gpu_check(cudaStreamSynchronize(g->stream), "trying fp8 products"));
    *serves = served && gemm_trial_right((const float *)(staging + back), TRY_M, TRY_N, TRY_K);
    return 0;
}
int gemm_fp8_open(struct cuda_gpu *g) {
    struct gemm_state *s = g->gemm;
    if (s->major * 10 + s->minor < 89) return 0;
    GPU_TRY(try_product(g, false, &s->fp8));
    return s->lt ? try_product(g, true, &s->fp8_lt) : 0;
}

int gpu_gemm_fp8(struct cuda_gpu *g, const struct gemm_fp8_args *a) {
    struct gemm_args tree = {};
    struct fp8_job j = {};
    if (a->m == 0 || a->n == 0) return 0;
    tree.terms = 1, tree.segments = a->segments;
    memcpy(tree.term[0].k, a->k, sizeof a->k);
    j.p.leaves = ops_gemm_tree(&tree, j.p.merges);
    for (int i = 0, leaf = 0; i < a->segments; i++)
        if (a->k[i + 1] > a->k[i]) j.k0[leaf] = a->k[i], j.k1[leaf++] = a->k[i + 1];
    j.p.m = a->m, j.p.n = a->n, j.p.ldc = a->ldc;
    j.p.c = gpu_f32(a->c), j.p.bias = gpu_f32(a->bias);
    j.a = {gpu_ptr<uint8_t>(a->a.codes), gpu_f32(a->a.scales), a->a.ld, a->m, a->a.grid};
    j.b = {gpu_ptr<uint8_t>(a->b.codes), gpu_f32(a->b.scales), a->b.ld, a->n, a->b.grid};
    if (g->gemm->fp8_lt && j.p.leaves) {
        bool served;
        GPU_TRY(run_lt(g, &j, a->k[a->segments], &served));
        if (served) return 0;
    }
    return j.p.leaves ? run_tiles(g, &j, g->gemm->fp8) : gemm_fold(g, &j.p, nullptr);
}
