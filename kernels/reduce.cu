/* Sums and maxima over boxes: bias gradients, leaves of the data-parallel sum, norms of gradients, calibration.
 *
 * All are bound by memory: 4 bytes an element (tree_fold: 4 and 4 / parts written). sum_squares is a warp for each row (three
 * fp64 operations an element, a sixth of an H100's rate), then one chain over the rows, a dependent fp64 addition each. */
#include "columns.h"
#include "elem.h"
#include "lanes.h"

/* --- bias gradients --------------------------------------------------------------------------------------------------------- */
static __global__ void colsum_k(const float *x, float *out, int64_t n, int c, int64_t ld) {
    int segment = (int)blockIdx.y;
    int64_t r0 = row_segment(n, segment);
    column_sum(
        out + (int64_t)segment * c, c, (int)(row_segment(n, segment + 1) - r0),
        [=](int k, int column) { return x[(r0 + k) * ld + column]; }, [](float v) { return v; });
}
int gpu_colsum(struct cuda_gpu *g, const struct colsum_args *a) {
    if (a->n < 1 || a->c < 1) return 0;
    LAUNCH(colsum_k, dim3(gpu_blocks(a->c, COLUMNS), OPS_ROW_SEGMENTS), GPU_THREADS, 0, g->stream, gpu_f32(a->x),
           gpu_f32(a->out), a->n, (int)a->c, a->ld);
    return gpu_launched("colsum");
}

/* --- leaves ----------------------------------------------------------------------------------------------------------------- */
enum { FOLD = 8 };
/* Leaves 0, step, 2 step, ... below `parts`, eight at a time into the first of the eight: three levels of the tree. */
template <int W> static __global__ void fold_k(float *x, int64_t parts, int64_t step, int64_t n) {
    for (int64_t first = blockIdx.y * FOLD * step; first < parts; first += gridDim.y * FOLD * step) GPU_EACH(i, n / W) {
            pack<W> leaf[FOLD];
            bool there[FOLD];
#pragma unroll
            for (int p = 0; p < FOLD; p++) {
                there[p] = first + p * step < parts;
                if (there[p]) leaf[p] = pack_load<W>(x + (first + p * step) * n + W * i);
            }
#pragma unroll
            for (int d = 1; d < FOLD; d *= 2)
#pragma unroll
                for (int p = 0; p + d < FOLD; p += 2 * d)
#pragma unroll
                    for (int e = 0; e < W; e++)
                        if (there[p + d]) leaf[p].v[e] += leaf[p + d].v[e];
            pack_store<W>(x + first * n + W * i, leaf[0]);
        }
}
int gpu_tree_fold(struct cuda_gpu *g, const struct tree_fold_args *a) {
    bool four = packs_fit({a->x.a, 4 * (uint64_t)a->n});
    for (int64_t step = 1; step < a->parts; step *= FOLD) {
        dim3 grid(gpu_blocks(a->n, (four ? 4 : 1) * GPU_THREADS), gpu_blocks(a->parts, FOLD * step));
        LAUNCH(four ? fold_k<4> : fold_k<1>, grid, GPU_THREADS, 0, g->stream, gpu_f32(a->x), a->parts, step, a->n);
    }
    return gpu_launched("tree_fold");
}

/* --- squares ---------------------------------------------------------------------------------------------------------------- */
enum { WARPS = GPU_THREADS / WARP };
static __global__ void square_rows_k(const float *x, double *part, int64_t rows, int cols, int64_t ld) {
    int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (r >= rows) return;
    const float *row = x + r * ld;
    double sum = lane_sum<double, 8>(
        cols, [=](int i) { return row[i]; }, [](float v, int) { return (double)v * (double)v; });
    if (threadIdx.x % WARP == 0) part[r] = sum;
}
/* One warp; a lane holds one of the next 32 rows. */
static __global__ void add_rows_k(const double *part, double *out, int64_t rows) {
    double sum = 0, next = threadIdx.x < rows ? part[threadIdx.x] : 0;
    for (int64_t at = 0; at < rows; at += WARP) {
        double x = next;
        int64_t ahead = at + WARP + threadIdx.x;
        next = ahead < rows ? part[ahead] : 0;
#pragma unroll
        for (int k = 0; k < WARP; k++) sum += __shfl_sync(0xffffffffu, x, k); /* +0 beyond the last: sum is never -0 */
    }
    if (threadIdx.x == 0) *out = sum;
}
int gpu_sum_squares(struct cuda_gpu *g, const struct sum_squares_args *a) {
    void *part;
    GPU_TRY(gpu_work(g, sizeof(double) * (size_t)(a->rows < 1 ? 1 : a->rows), &part));
    if (a->rows > 0)
        LAUNCH(square_rows_k, (unsigned)((a->rows + WARPS - 1) / WARPS), GPU_THREADS, 0, g->stream, gpu_f32(a->x),
               (double *)part, a->rows, (int)a->cols, a->ld);
    LAUNCH(add_rows_k, 1, WARP, 0, g->stream, (double *)part, gpu_ptr<double>(a->out), a->rows);
    return gpu_launched("sum_squares");
}

/* --- absolute maxima --------------------------------------------------------------------------------------------------------
 * Magnitudes as integers order like the numbers, with NaN above everything. */
enum { MAGNITUDE = 0x7fffffff };
template <int W> static __device__ __forceinline__ unsigned pack_amax(unsigned top, pack<W> p) {
#pragma unroll
    for (int e = 0; e < W; e++) {
        unsigned b = __float_as_uint(p.v[e]) & MAGNITUDE;
        top = b > top ? b : top;
    }
    return top;
}
/* *out = max(|*out|, bits), while others may do the same. */
static __device__ __forceinline__ void raise(unsigned *out, unsigned bits) {
    unsigned seen = *(volatile unsigned *)out, old;
    do {
        old = seen;
        unsigned want = (old & MAGNITUDE) > bits ? old & MAGNITUDE : bits;
        if (want == old) return;
        seen = atomicCAS(out, old, want);
    } while (seen != old);
}
static __device__ __forceinline__ unsigned max_over(unsigned top, int threads) {
    for (int distance = threads / 2; distance; distance /= 2) {
        unsigned other = __shfl_xor_sync(0xffffffffu, top, distance);
        top = other > top ? other : top;
    }
    return top;
}

enum { AMAX_AHEAD = 4 };
template <int W> static __global__ void amax_k(const float *x, unsigned *out, int64_t rows, int64_t packs, int64_t ld) {
    __shared__ unsigned part[WARPS];
    unsigned top = 0;
    const int64_t stride = (int64_t)gridDim.x * GPU_THREADS;
    for (int64_t r = blockIdx.y; r < rows; r += gridDim.y)
        for (int64_t j0 = (int64_t)blockIdx.x * GPU_THREADS + threadIdx.x; j0 < packs; j0 += AMAX_AHEAD * stride) {
            pack<W> p[AMAX_AHEAD] = {};
#pragma unroll
            for (int u = 0; u < AMAX_AHEAD; u++)
                if (j0 + u * stride < packs) p[u] = pack_load<W>(x + r * ld + W * (j0 + u * stride));
#pragma unroll
            for (int u = 0; u < AMAX_AHEAD; u++) top = pack_amax<W>(top, p[u]);
        }
    top = max_over(top, WARP);
    if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = top;
    __syncthreads();
    if (threadIdx.x) return;
    for (int w = 1; w < WARPS; w++) top = part[w] > top ? part[w] : top;
    raise(out, top);
}
int gpu_amax(struct cuda_gpu *g, const struct amax_args *a) {
    enum { BLOCKS = 2048 }; /* enough for any GPU; each raises the result once */
    int64_t rows = a->ld == a->cols ? 1 : a->rows, cols = a->ld == a->cols ? a->rows * a->cols : a->cols;
    bool four = packs_fit({a->x.a, 4 * (uint64_t)cols, 4 * (uint64_t)(rows > 1 ? a->ld : 0)});
    int64_t packs = four ? cols / 4 : cols;
    unsigned across = gpu_blocks(packs, AMAX_AHEAD * GPU_THREADS, BLOCKS);
    LAUNCH(four ? amax_k<4> : amax_k<1>, dim3(across, gpu_blocks(rows, 1, BLOCKS / across)), GPU_THREADS, 0, g->stream,
           gpu_f32(a->x), gpu_ptr<unsigned>(a->out), rows, packs, a->ld);
    return gpu_launched("amax");
}

/* A block of the grid is cut into bands of at most BAND rows; a group of 2^shift threads (at most a warp) takes a band. threadIdx.x runs
 * over groups along the row, y over bands. */
enum { BAND = 16 };
struct amax_grid {
    const float *x;
    unsigned *out;
    int64_t rows, cols, ld;
    struct block_grid grid;
    int64_t first_row, first_col; /* of the blocks that are here */
    int bands, all_bands;         /* of a block; of all rows of blocks here */
    int shift;
};
template <int W> static __global__ void amax_blocks_k(amax_grid a) {
    const struct block_grid &g = a.grid;
    const int lane = (int)threadIdx.x & ((1 << a.shift) - 1);
    const int64_t k = a.first_col + (((int64_t)blockIdx.x * blockDim.x + threadIdx.x) >> a.shift);
    const int64_t c0 = k * g.cols - g.col0 > 0 ? k * g.cols - g.col0 : 0;
    const int64_t c1 = (k + 1) * g.cols - g.col0 < a.cols ? (k + 1) * g.cols - g.col0 : a.cols;
    for (int y0 = (int)(blockIdx.y * blockDim.y); y0 < a.all_bands; y0 += (int)(gridDim.y * blockDim.y)) {
        const int y = y0 + (int)threadIdx.y, of = a.bands == 1 ? y : y / a.bands, band = y - of * a.bands;
        const int64_t b = a.first_row + of, end = (b + 1) * g.rows - g.row0;
        int64_t r0 = b * g.rows + band * BAND - g.row0, r1 = r0 + BAND < end ? r0 + BAND : end;
        r0 = r0 > 0 ? r0 : 0;
        r1 = r1 < a.rows ? r1 : a.rows;
        const bool some = y < a.all_bands && r0 < r1 && c0 < c1;
        unsigned top = 0;
        if (some)
#pragma unroll 4
            for (int64_t r = r0; r < r1; r++)
#pragma unroll 4
                for (int64_t c = c0 + W * lane; c < c1; c += W << a.shift)
                    top = pack_amax<W>(top, pack_load<W>(a.x + r * a.ld + c));
        top = max_over(top, 1 << a.shift); /* of whole warps: the shuffle stays inside a group */
        if (lane || !some) continue;
        unsigned *out = a.out + b * g.ld + k;
        if (a.bands > 1)
            raise(out, top);
        else
            *out = (*out & MAGNITUDE) > top ? *out & MAGNITUDE : top;
    }
}
int gpu_amax_blocks(struct cuda_gpu *g, const struct amax_blocks_args *a) {
    const struct block_grid *b = &a->grid;
    if (a->rows < 1 || a->cols < 1) return 0;
    bool four =
        packs_fit({a->x.a, 4 * (uint64_t)a->cols, 4 * (uint64_t)a->ld, 4 * (uint64_t)b->cols, 4 * (uint64_t)b->col0});
    amax_grid k = {gpu_f32(a->x),     gpu_ptr<unsigned>(a->out), a->rows, a->cols, a->ld, *b,
                   b->row0 / b->rows, b->col0 / b->cols,         1,       0,       0};
    int64_t packs = four ? b->cols / 4 : b->cols, columns = (b->col0 + a->cols - 1) / b->cols - k.first_col + 1;
    k.bands = (int)((b->rows + BAND - 1) / BAND);
    k.all_bands = (int)((b->row0 + a->rows - 1) / b->rows - k.first_row + 1) * k.bands;
    while (1 << k.shift < WARP && 1 << k.shift < packs) k.shift++;
    row_grid shape = row_grid_of(k.all_bands, columns << k.shift);
    dim3 grid(gpu_blocks(columns << k.shift, shape.block.x, INT32_MAX), shape.grid.x);
    LAUNCH(four ? amax_blocks_k<4> : amax_blocks_k<1>, grid, shape.block, 0, g->stream, k);
    return gpu_launched("amax_blocks");
}
