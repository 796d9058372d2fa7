/* bf16 products on Hopper: wgmma fed by TMA, over the same packed factors and leaves as gemm_bf16.cu. Compute capability 9.x only.
 *
 * A block walks tiles of 128 x 256 of C: one warp loads stages of 64 k (48 KiB) into a ring of four, two warpgroups multiply 64 x 256 each, in
 * registers: 85 FLOPs a byte of L2 (5.5 TB/s: up to 470 TFLOP/s), where tiles of 128 x 128 give 64. Sums that wait for their partner lie in work
 * space, three tiles for each block. wgmma's bits need not be those of mma.sync: a device uses one of the two for all products that must be
 * invariant. CI only emulates what it says; so at its opening a product with known integers decides whether it serves. */
#include "gemm_bf16.h"
#include "hopper.h"

#include "base/status.h"

enum {
    ROWS = 128,
    COLS = 256,
    STEP = HOPPER_ROW,
    STAGES = 4,
    GROUP = HOPPER_GROUP,
    THREADS = 3 * GROUP,
    SUMS = 128 /* of a thread */
};
enum { STAGE_A = ROWS * STEP * 2, STAGE_B = COLS * STEP * 2, SHARED = STAGES * (STAGE_A + STAGE_B) + 1024 };

#if HOPPER
static __device__ __forceinline__ void load_tiles(const struct gemm_plan &p, const CUtensorMap *map_a,
                                                  const CUtensorMap *map_b, int64_t k_all, unsigned char *s,
                                                  uint64_t *full, uint64_t *empty) {
    const int64_t tiles_m = (p.m + ROWS - 1) / ROWS, tiles_n = (p.n + COLS - 1) / COLS;
    int stage = 0, turn = 0;
    for (int64_t tile = blockIdx.x; tile < tiles_m * tiles_n; tile += gridDim.x) {
        int64_t i, j;
        gemm_tile_of(tile, tiles_m, tiles_n, &i, &j);
        for (int64_t k = 0; k < k_all; k += STEP) {
            mbarrier_wait(&empty[stage], turn ^ 1); /* the first turn passes */
            mbarrier_expect(&full[stage], STAGE_A + STAGE_B);
            tma_load(s + stage * STAGE_A, map_a, (int)k, (int)(i * ROWS), 0, &full[stage]);
            tma_load(s + STAGES * STAGE_A + stage * STAGE_B, map_b, (int)k, (int)(j * COLS), 0, &full[stage]);
            if (++stage == STAGES) stage = 0, turn ^= 1;
        }
    }
}

static __device__ __forceinline__ void multiply_tiles(const struct gemm_plan &p, const struct gemm_packed &w,
                                                      float *wait, const unsigned char *s, uint64_t *full,
                                                      uint64_t *empty) {
    const int thread = threadIdx.x % GROUP, group = threadIdx.x / GROUP, lane = thread % WARP;
    const int64_t tiles_m = (p.m + ROWS - 1) / ROWS, tiles_n = (p.n + COLS - 1) / COLS;
    int stage = 0, turn = 0;
    float x[SUMS];
    for (int64_t tile = blockIdx.x; tile < tiles_m * tiles_n; tile += gridDim.x) {
        int64_t i, j, k = 0;
        int depth = 0;
        gemm_tile_of(tile, tiles_m, tiles_n, &i, &j);
        const int64_t r0 = i * ROWS + group * 64 + thread / WARP * 16 + lane / 4, c0 = j * COLS + lane % 4 * 2;
        for (int leaf = 0; leaf < p.leaves; leaf++) {
#pragma unroll
            for (int e = 0; e < SUMS; e++) {
                const int64_t r = r0 + e / 2 % 2 * 8, n = c0 + e / 4 * 8 + e % 2;
                x[e] = p.accumulate && r < p.m && n < p.n ? p.c[r * p.ldc + n] : 0.0f;
            }
            for (const int64_t to = w.at[p.first[leaf + 1]]; k < to; k += STEP) {
                mbarrier_wait(&full[stage], turn);
                const uint64_t a = wgmma_matrix(shared_at(s + stage * STAGE_A + group * (STAGE_A / 2)), 0),
                               b = wgmma_matrix(shared_at(s + STAGES * STAGE_A + stage * STAGE_B), 0);
                wgmma_hold(x);
                wgmma_fence();
#pragma unroll
                for (int kk = 0; kk < STEP / 16; kk++) { /* 16 k are 32 bytes, 2 units of an address */
                    wgmma_along_k<128, true>(x, a + 2 * kk, b + 2 * kk);
                    wgmma_along_k<128, true>(x + 64, a + 2 * kk, b + (STAGE_B / 2 >> 4) + 2 * kk);
                }
                wgmma_commit();
                wgmma_wait<0>();
                wgmma_hold(x);
                if (lane == 0) mbarrier_arrive(&empty[stage]);
                if (++stage == STAGES) stage = 0, turn ^= 1;
            }
            for (int d = 0; d < p.merges[leaf]; d++) {
                const float *other = wait + --depth * (ROWS * COLS);
#pragma unroll
                for (int e = 0; e < SUMS; e++) x[e] = other[e * 2 * GROUP + threadIdx.x] + x[e];
            }
            if (leaf + 1 == p.leaves) break;
            float *mine = wait + depth++ * (ROWS * COLS);
#pragma unroll
            for (int e = 0; e < SUMS; e++) mine[e * 2 * GROUP + threadIdx.x] = x[e];
        }
#pragma unroll
        for (int e = 0; e < SUMS; e += 2)
            gemm_store2(p, nullptr, 0, r0 + e / 2 % 2 * 8, c0 + e / 4 * 8, x[e], x[e + 1]);
    }
}
#endif

static __global__ void __launch_bounds__(THREADS, 1)
    wgmma_tile_k(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                 struct gemm_plan p, struct gemm_packed w, float *wait) {
#if HOPPER
    DYN_SHARED(unsigned char, raw);
    __shared__ __align__(8) uint64_t full[STAGES], empty[STAGES];
    unsigned char *s = raw + (-shared_at(raw) & 1023); /* a swizzle repeats every 1024 bytes */
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(&full[i], 1);
            mbarrier_init(&empty[i], 2 * GROUP / WARP); /* the warps that multiply */
        }
        mbarrier_ready();
    }
    __syncthreads();
    if (threadIdx.x / GROUP == 2) {
        registers_fewer<40>();
        if (threadIdx.x == 2 * GROUP) load_tiles(p, &map_a, &map_b, w.k, s, full, empty);
    } else {
        registers_more<232>();
        multiply_tiles(p, w, wait + (int64_t)blockIdx.x * GEMM_WAITING * ROWS * COLS, s, full, empty);
    }
#endif
}

static int64_t blocks_of(const struct cuda_gpu *g, const struct gemm_plan *p) {
    const int64_t tiles = (p->m + ROWS - 1) / ROWS * ((p->n + COLS - 1) / COLS);
    return tiles < g->gemm->multiprocessors ? tiles : g->gemm->multiprocessors;
}
size_t gemm_wgmma_bytes(const struct cuda_gpu *g, const struct gemm_plan *p) {
    return p->leaves > 1 ? (size_t)blocks_of(g, p) * GEMM_WAITING * ROWS * COLS * sizeof(float) : 0;
}
int gemm_wgmma_run(struct cuda_gpu *g, const struct gemm_plan *p, const struct gemm_packed *w, float *wait) {
    CUtensorMap a, b;
    GPU_TRY(hopper_map(g, w->a, w->k, gemm_padded(p->m), 1, ROWS, &a));
    GPU_TRY(hopper_map(g, w->b, w->k, gemm_padded(p->n), 1, COLS, &b));
    LAUNCH(wgmma_tile_k, (unsigned)blocks_of(g, p), THREADS, SHARED, g->stream, a, b, *p, *w, wait);
    return gpu_launched("gemm");
}

/* --- does it serve? --------------------------------------------------------------------------------------------------------- */
enum { TRY_M = 136, TRY_N = 264, TRY_K = 128 };
static int try_product(struct cuda_gpu *g, bool *serves) {
    const int64_t rows_a = gemm_padded(TRY_M), rows_b = gemm_padded(TRY_N), ab = (rows_a + rows_b) * TRY_K * 2;
    struct gemm_packed w = {.k = TRY_K, .at = {0, TRY_K / 2, TRY_K}};
    struct gemm_plan p = {.m = TRY_M, .n = TRY_N, .ldc = TRY_N, .leaves = 2, .first = {0, 1, 2}, .merges = {0, 1}};
    uint16_t *codes = (uint16_t *)g->staging;
    float *c = (float *)((char *)g->staging + ab);
    char *work;
    for (int64_t i = 0; i < (rows_a + rows_b) * TRY_K; i++) {
        const int r = (int)(i / TRY_K), k = (int)(i % TRY_K);
        codes[i] = bf16_encode((float)(r < rows_a ? gemm_trial_a(r, k) : gemm_trial_b(r - (int)rows_a, k)));
    }
    GPU_TRY(gpu_work(g, (size_t)ab + TRY_M * TRY_N * 4 + gemm_wgmma_bytes(g, &p), (void **)&work));
    w.a = (uint16_t *)work;
    w.b = w.a + rows_a * TRY_K;
    p.c = (float *)(work + ab);
    GPU_TRY(gpu_check(cudaMemcpyAsync(work, codes, (size_t)ab, cudaMemcpyHostToDevice, g->stream),
                      "copying to the device"));
    GPU_TRY(gemm_wgmma_run(g, &p, &w, p.c + TRY_M * TRY_N));
    GPU_TRY(gpu_check(cudaMemcpyAsync(c, p.c, TRY_M * TRY_N * 4, cudaMemcpyDeviceToHost, g->stream),
                      "copying from the device"));
    GPU_TRY(gpu_check(cudaStreamSynchronize(g->stream), "trying wgmma"));
    *serves = gemm_trial_right(c, TRY_M, TRY_N, TRY_K);
    return 0;
}
int gemm_wgmma_open(struct cuda_gpu *g, bool *serves) {
    *serves = false;
    if (!g->encode) return 0;
    GPU_TRY(gpu_check(cudaFuncSetAttribute(wgmma_tile_k, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED),
                      "asking for shared memory"));
    return try_product(g, serves);
}
