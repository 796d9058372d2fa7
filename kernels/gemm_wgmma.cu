/* bf16 products on Hopper: wgmma fed by TMA, over the same packed factors and leaves as gemm_bf16.cu. Compute capability 9.x only.
 *
 * A block walks tiles of 128 x 256 of C: one warp loads stages of 64 k (48 KiB) into a ring of four, two warpgroups multiply 64 x 256 each, in
 * registers: 85 FLOPs a byte of L2 (5.5 TB/s: up to 470 TFLOP/s), where tiles of 128 x 128 give 64. Sums that wait for their partner lie in work
 * space, three tiles for each block. wgmma's bits need not be those of mma.sync: a device uses one of the two for all products that must be
 * invariant. CI only compiles this file; so at its first use a product with known integers decides whether it serves. */
#include "gemm_bf16.h"

#include "base/status.h"

enum { ROWS = 128, COLS = 256, STEP = 64, STAGES = 4, GROUP = 128, THREADS = 3 * GROUP, SUMS = 128 /* of a thread */ };
enum { STAGE_A = ROWS * STEP * 2, STAGE_B = COLS * STEP * 2, SHARED = STAGES * (STAGE_A + STAGE_B) + 1024 };

#if !CUEMU
#include <cuda.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
static __device__ __forceinline__ uint32_t shared_at(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
static __device__ __forceinline__ void barrier_init(uint64_t *b, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_at(b)), "r"(count) : "memory");
}
static __device__ __forceinline__ void barrier_arrive(uint64_t *b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_at(b)) : "memory");
}
static __device__ __forceinline__ void barrier_expect(uint64_t *b, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_at(b)), "r"(bytes) : "memory");
}
/* Until the phase of this parity is complete. */
static __device__ __forceinline__ void barrier_wait(uint64_t *b, int parity) {
    asm volatile("{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra done;\nbra "
                 "again;\ndone:\n}" ::"r"(shared_at(b)),
                 "r"(parity)
                 : "memory");
}
static __device__ __forceinline__ void tma_load(void *s, const CUtensorMap *map, int k, int row, uint64_t *b) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            shared_at(s)),
        "l"(map), "r"(k), "r"(row), "r"(shared_at(b))
        : "memory");
}
/* A matrix of rows of 64 k in shared memory, swizzled by 128 bytes: groups of 8 rows lie 1024 bytes apart. */
static __device__ __forceinline__ uint64_t matrix_at(const void *s) {
    return (uint64_t)(shared_at(s) >> 4 & 0x3fff) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}
/* x [64] += A [64 rows, 16 k] B [128 rows, 16 k]'. Element i of a thread: row warp * 16 + lane / 4 + i / 2 % 2 * 8, column i / 4 * 8 + lane % 4 * 2 + i % 2. */
static __device__ __forceinline__ void wgmma(float *x, uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "%64, %65, 1, 1, 1, 0, 0;"
                 : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3]), "+f"(x[4]), "+f"(x[5]), "+f"(x[6]), "+f"(x[7]),
                   "+f"(x[8]), "+f"(x[9]), "+f"(x[10]), "+f"(x[11]), "+f"(x[12]), "+f"(x[13]), "+f"(x[14]), "+f"(x[15]),
                   "+f"(x[16]), "+f"(x[17]), "+f"(x[18]), "+f"(x[19]), "+f"(x[20]), "+f"(x[21]), "+f"(x[22]),
                   "+f"(x[23]), "+f"(x[24]), "+f"(x[25]), "+f"(x[26]), "+f"(x[27]), "+f"(x[28]), "+f"(x[29]),
                   "+f"(x[30]), "+f"(x[31]), "+f"(x[32]), "+f"(x[33]), "+f"(x[34]), "+f"(x[35]), "+f"(x[36]),
                   "+f"(x[37]), "+f"(x[38]), "+f"(x[39]), "+f"(x[40]), "+f"(x[41]), "+f"(x[42]), "+f"(x[43]),
                   "+f"(x[44]), "+f"(x[45]), "+f"(x[46]), "+f"(x[47]), "+f"(x[48]), "+f"(x[49]), "+f"(x[50]),
                   "+f"(x[51]), "+f"(x[52]), "+f"(x[53]), "+f"(x[54]), "+f"(x[55]), "+f"(x[56]), "+f"(x[57]),
                   "+f"(x[58]), "+f"(x[59]), "+f"(x[60]), "+f"(x[61]), "+f"(x[62]), "+f"(x[63])
                 : "l"(a), "l"(b));
}

static __device__ __forceinline__ void load_tiles(const struct gemm_plan &p, const CUtensorMap *map_a,
                                                  const CUtensorMap *map_b, int64_t k_all, unsigned char *s,
                                                  uint64_t *full, uint64_t *empty) {
    const int64_t tiles_m = (p.m + ROWS - 1) / ROWS, tiles_n = (p.n + COLS - 1) / COLS;
    int stage = 0, turn = 0;
    for (int64_t tile = blockIdx.x; tile < tiles_m * tiles_n; tile += gridDim.x) {
        int64_t i, j;
        gemm_tile_of(tile, tiles_m, tiles_n, &i, &j);
        for (int64_t k = 0; k < k_all; k += STEP) {
            barrier_wait(&empty[stage], turn ^ 1); /* the first turn passes */
            barrier_expect(&full[stage], STAGE_A + STAGE_B);
            tma_load(s + stage * STAGE_A, map_a, (int)k, (int)(i * ROWS), &full[stage]);
            tma_load(s + STAGES * STAGE_A + stage * STAGE_B, map_b, (int)k, (int)(j * COLS), &full[stage]);
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
                barrier_wait(&full[stage], turn);
                const uint64_t a = matrix_at(s + stage * STAGE_A + group * (STAGE_A / 2)),
                               b = matrix_at(s + STAGES * STAGE_A + stage * STAGE_B);
                asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
                for (int kk = 0; kk < STEP / 16; kk++) { /* 16 k are 32 bytes, 2 units of an address */
                    wgmma(x, a + 2 * kk, b + 2 * kk);
                    wgmma(x + 64, a + 2 * kk, b + (STAGE_B / 2 >> 4) + 2 * kk);
                }
                asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
                asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
                if (thread == 0) barrier_arrive(&empty[stage]);
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
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    DYN_SHARED(unsigned char, raw);
    __shared__ __align__(8) uint64_t full[STAGES], empty[STAGES];
    unsigned char *s = raw + (-shared_at(raw) & 1023); /* a swizzle repeats every 1024 bytes */
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&full[i], 1);
            barrier_init(&empty[i], 2); /* both warpgroups */
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (threadIdx.x / GROUP == 2) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 2 * GROUP) load_tiles(p, &map_a, &map_b, w.k, s, full, empty);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        multiply_tiles(p, w, wait + (int64_t)blockIdx.x * GEMM_WAITING * ROWS * COLS, s, full, empty);
    }
#endif
}

typedef CUresult encode_tiled(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                              const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* The map of [rows, k] in boxes of box_rows x STEP; what lies past the last row reads as zeros. */
static int make_map(encode_tiled *encode, const uint16_t *x, int64_t rows, int64_t k, int box_rows, CUtensorMap *map) {
    const cuuint64_t size[] = {(cuuint64_t)k, (cuuint64_t)rows}, stride[] = {(cuuint64_t)k * 2};
    const cuuint32_t box[] = {STEP, (cuuint32_t)box_rows}, step[] = {1, 1};
    const CUresult r = encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)x, size, stride, box, step,
                              CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return r == CUDA_SUCCESS ? 0
                             : gpu_fail(TM_ERR_DEVICE, "gemm: a tensor map of %lld x %lld: driver error %d",
                                        (long long)rows, (long long)k, (int)r);
}
static int64_t blocks_of(const struct cuda_gpu *g, const struct gemm_plan *p) {
    const int64_t tiles = (p->m + ROWS - 1) / ROWS * ((p->n + COLS - 1) / COLS);
    return tiles < g->gemm->multiprocessors ? tiles : g->gemm->multiprocessors;
}
size_t gemm_wgmma_bytes(const struct cuda_gpu *g, const struct gemm_plan *p) {
    return p->leaves > 1 ? (size_t)blocks_of(g, p) * GEMM_WAITING * ROWS * COLS * sizeof(float) : 0;
}
int gemm_wgmma_run(struct cuda_gpu *g, const struct gemm_plan *p, const struct gemm_packed *w, float *wait) {
    encode_tiled *encode = (encode_tiled *)g->gemm->encode;
    CUtensorMap a, b;
    GPU_TRY(make_map(encode, w->a, gemm_padded(p->m), w->k, ROWS, &a));
    GPU_TRY(make_map(encode, w->b, gemm_padded(p->n), w->k, COLS, &b));
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
    GPU_TRY(gpu_check(cudaMemcpyAsync(codes, p.c, TRY_M * TRY_N * 4, cudaMemcpyDeviceToHost, g->stream),
                      "copying from the device"));
    GPU_TRY(gpu_check(cudaStreamSynchronize(g->stream), "trying wgmma"));
    *serves = gemm_trial_right((const float *)g->staging, TRY_M, TRY_N, TRY_K);
    return 0;
}
int gemm_wgmma_open(struct cuda_gpu *g, bool *serves) {
    cudaDriverEntryPointQueryResult found;
    void *encode = nullptr;
    *serves = false;
    if (g->gemm->major != 9) return 0;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, cudaEnableDefault, &found) !=
            cudaSuccess ||
        found != cudaDriverEntryPointSuccess) {
        (void)cudaGetLastError(); /* a driver without it */
        return 0;
    }
    g->gemm->encode = encode;
    GPU_TRY(gpu_check(cudaFuncSetAttribute(wgmma_tile_k, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED),
                      "asking for shared memory"));
    return try_product(g, serves);
}
#else
size_t gemm_wgmma_bytes(const struct cuda_gpu *, const struct gemm_plan *) { return 0; }
int gemm_wgmma_run(struct cuda_gpu *, const struct gemm_plan *, const struct gemm_packed *, float *) {
    return gpu_fail(TM_ERR_INTERNAL, "gemm: no wgmma here");
}
int gemm_wgmma_open(struct cuda_gpu *, bool *serves) {
    *serves = false;
    return 0;
}
#endif
