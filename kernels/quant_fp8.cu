/* E4M3 codes and their scales.
 *
 * 5 bytes an element, 4 read and 1 written, so on an H200 (4.8 TB/s) at best 1 T elements/s; where maxima are taken here a block is read twice,
 * the second time from L1. */
#include "base/status.h"
#include "gpu.h"
#include "numfmt/scale.h"

struct code_job {
    const float *x, *maxima;
    float *scales;
    uint8_t *codes;
    int64_t rows, cols, ldx, ldc;
    int weight, quotient; /* x is rounded to bf16 first; what is encoded too */
    struct block_grid grid;
};

static __device__ __forceinline__ uint32_t code_of(const struct code_job &j, int64_t r, int64_t c, float scale) {
    const float x = j.x[r * j.ldx + c];
    return e4m3_encode(scale_divide_fp8(j.weight ? bf16_round(x) : x, scale, j.quotient));
}
static __device__ __forceinline__ int64_t block_at(const struct code_job &j, int64_t r, int64_t c) {
    return (j.grid.row0 + r) / j.grid.rows * j.grid.ld + (j.grid.col0 + c) / j.grid.cols;
}

/* Maxima are known: a thread has up to 4 columns. The first element of a block in this box writes its scale. */
static __global__ void known_k(struct code_job j) {
    const int64_t quads = (j.cols + 3) / 4;
    GPU_EACH(i, j.rows * quads) {
        const int64_t r = i / quads, c0 = i % quads * 4;
        uint8_t *out = j.codes + r * j.ldc;
        uint32_t four = 0;
        for (int64_t c = c0; c < c0 + 4 && c < j.cols; c++) {
            const int64_t at = block_at(j, r, c);
            const float scale = scale_fp8(j.weight ? bf16_round(j.maxima[at]) : j.maxima[at]);
            if ((c == 0 || (j.grid.col0 + c) % j.grid.cols == 0) && (r == 0 || (j.grid.row0 + r) % j.grid.rows == 0))
                j.scales[at] = scale;
            four |= code_of(j, r, c, scale) << 8 * (c - c0);
        }
        if (c0 + 4 <= j.cols && ((uintptr_t)(out + c0) & 3) == 0)
            *reinterpret_cast<uint32_t *>(out + c0) = four;
        else
            for (int64_t c = c0; c < c0 + 4 && c < j.cols; c++) out[c] = (uint8_t)(four >> 8 * (c - c0));
    }
}

/* Maxima are taken here, each of a block of one row: a warp has one, TEAM warps a long one. */
template <int TEAM> static __global__ void measured_k(struct code_job j) {
    __shared__ int32_t part[GPU_THREADS / WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, teams = GPU_THREADS / WARP / TEAM,
              first = warp / TEAM * TEAM;
    const int64_t across = j.cols / j.grid.cols, all = j.rows * across;
    for (int64_t b0 = (int64_t)blockIdx.x * teams; b0 < all; b0 += (int64_t)gridDim.x * teams) {
        const int64_t b = b0 + warp / TEAM, r = b / across, c0 = b % across * j.grid.cols,
                      n = b < all ? j.grid.cols : 0;
        int32_t top = 0;
        for (int64_t i = warp % TEAM * WARP + lane; i < n; i += TEAM * WARP) {
            const int32_t u = bits_magnitude(j.x[r * j.ldx + c0 + i]);
            top = u > top ? u : top;
        }
        top = __reduce_max_sync(0xffffffffu, top);
        if (TEAM > 1) {
            __syncthreads(); /* the maxima of the blocks before were read */
            if (lane == 0) part[warp] = top;
            __syncthreads();
            for (int i = 0; i < TEAM; i++) top = part[first + i] > top ? part[first + i] : top;
        }
        const float largest = bits_float((uint32_t)top), scale = scale_fp8(j.weight ? bf16_round(largest) : largest);
        if (n && lane == 0 && warp == first) j.scales[block_at(j, r, c0)] = scale;
        for (int64_t i = warp % TEAM * WARP + lane; i < n; i += TEAM * WARP)
            j.codes[r * j.ldc + c0 + i] = (uint8_t)code_of(j, r, c0 + i, scale);
    }
}

int gpu_quant_fp8(struct cuda_gpu *g, const struct quant_fp8_args *a) {
    const struct fake_quant_args *f = &a->of;
    const bool tensor = f->kind == FQ_FP8;
    struct code_job j = {gpu_f32(f->x),
                         gpu_f32(tensor ? f->amax : f->maxima),
                         gpu_f32(a->scales),
                         gpu_ptr<uint8_t>(a->codes),
                         f->rows,
                         f->cols,
                         f->ldx,
                         a->ldc,
                         f->round_bf16,
                         f->round_bf16 && tensor,
                         f->grid};
    if (f->kind != FQ_FP8 && f->kind != FQ_FP8_BLOCK)
        return gpu_fail(TM_ERR_INTERNAL, "quant_fp8: kind %d has no E4M3 codes", f->kind);
    if (f->rows <= 0 || f->cols <= 0) return 0;
    if (tensor) j.grid = {INT32_MAX, INT32_MAX, 0, 0, 1};
    if (j.maxima) {
        LAUNCH(known_k, gpu_blocks(f->rows * ((f->cols + 3) / 4), GPU_THREADS), GPU_THREADS, 0, g->stream, j);
    } else {
        const int64_t blocks = f->rows * (f->cols / f->grid.cols);
        if (f->grid.cols > 512)
            LAUNCH(measured_k<8>, gpu_blocks(blocks, 1), GPU_THREADS, 0, g->stream, j);
        else
            LAUNCH(measured_k<1>, gpu_blocks(blocks, 8), GPU_THREADS, 0, g->stream, j);
    }
    return gpu_launched("quant_fp8");
}
