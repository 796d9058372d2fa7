/* Vocabulary-parallel softmax, cross-entropy and KL divergence over rows of logits.
 *
 * Bytes an element: row_max and sum_exp 4, ce_grad 8, kl_grad 12 (8 without the gradient); an exp is about 30 instructions without an fma,
 * so sum_exp is near both limits of an H100 (4 B / 3.35 TB/s = 1.2 ps, 35 / 28 T/s = 1.25 ps), the others are bound by memory. Sums: a warp
 * for each (row, segment), 8 of them a block, the tree over segments in the block. Maxima: a block for each row. */
#include "base/vmath.h"
#include "lanes.h"

enum { WARPS = GPU_THREADS / WARP, MAX_WARPS = 1024 / WARP, NOWHERE = INT32_MAX };

/* --- maximum ----------------------------------------------------------------------------------------------------------------
 * The host's maximum is a tree over lanes that keeps the left one of equals. It shows in the sign of a zero, so the tree is kept. */
struct peak {
    float value;
    int at;
};
/* Of one lane: the greater, of equals the one that comes first. */
static __device__ __forceinline__ peak peak_of_lane(peak x, peak y) {
    return y.value > x.value || (y.value == x.value && y.at < x.at) ? y : x;
}
static __global__ void row_max_k(const float *logits, float *rowmax, int32_t *best, int v, int64_t ld, int64_t col0,
                                 float inv_temp) {
    __shared__ peak part[MAX_WARPS][LANES];
    enum { AHEAD = 8 };
    const float *z = logits + blockIdx.x * ld;
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, threads = (int)blockDim.x;
    peak p = {-INFINITY, NOWHERE};
    for (int j0 = (int)threadIdx.x; j0 < v;
         j0 += AHEAD * threads) { /* `threads` is a multiple of 16: a thread stays in its lane */
        float x[AHEAD];
#pragma unroll
        for (int u = 0; u < AHEAD; u++) x[u] = j0 + u * threads < v ? z[j0 + u * threads] : NAN;
#pragma unroll
        for (int u = 0; u < AHEAD; u++)
            if (x[u] > p.value || (x[u] == p.value && p.at == NOWHERE)) p = {x[u], j0 + u * threads};
    }
    p = peak_of_lane(p, {__shfl_xor_sync(0xffffffffu, p.value, LANES), __shfl_xor_sync(0xffffffffu, p.at, LANES)});
    if (lane < LANES) part[warp][lane] = p;
    __syncthreads();
    if (threadIdx.x >= LANES) return;
    for (int w = 1; w < threads / WARP; w++) p = peak_of_lane(p, part[w][lane]);
#pragma unroll
    for (int distance = LANES / 2; distance; distance /= 2) { /* a lane in use is always the left one */
        float y = __shfl_xor_sync(0xffffu, p.value, distance);
        int at = __shfl_xor_sync(0xffffu, p.at, distance);
        if (y > p.value || (y == p.value && at < p.at)) p.at = at;
        if (y > p.value) p.value = y;
    }
    if (lane) return;
    rowmax[blockIdx.x] = p.value * inv_temp;
    if (best) best[blockIdx.x] = p.at == NOWHERE ? NOWHERE : (int32_t)(col0 + p.at);
}
int gpu_row_max(struct cuda_gpu *g, const struct row_max_args *a) {
    if (a->n < 1) return 0;
    unsigned threads = a->n < 512 && a->v > 8192 ? 1024 : GPU_THREADS; /* few rows: more loads in flight for each */
    LAUNCH(row_max_k, (unsigned)a->n, threads, 0, g->stream, gpu_f32(a->z), gpu_f32(a->rowmax), gpu_i32(a->best),
           (int)a->v, a->ld, a->col0, a->inv_temp);
    return gpu_launched("row_max");
}

/* --- sums over segments ----------------------------------------------------------------------------------------------------- */
struct vocab_cut {
    int segments, at[OPS_MAX_SEGMENTS + 1];
};
static vocab_cut vocab_cut_of(int segments, const int64_t *seg) {
    vocab_cut c = {segments, {}};
    for (int s = 0; s <= segments; s++) c.at[s] = (int)seg[s];
    return c;
}
static int rows_of_block(int segments) { return WARPS / segments; }

/* Row and segment of this warp; false: none. */
struct place {
    int64_t row;
    int segment;
};
static __device__ __forceinline__ bool place_of_warp(const vocab_cut &cut, int64_t n, place *p) {
    int warp = (int)threadIdx.x / WARP, rows = WARPS / cut.segments;
    p->row = (int64_t)blockIdx.x * rows + warp / cut.segments;
    p->segment = warp % cut.segments;
    return warp < rows * cut.segments && p->row < n;
}
/* The tree over all segments of a row; x + nothing = x. */
static __device__ float segment_tree(const vocab_cut &cut, const float *part) {
    float value[OPS_MAX_SEGMENTS] = {};
    bool there[OPS_MAX_SEGMENTS] = {};
#pragma unroll
    for (int s = 0; s < OPS_MAX_SEGMENTS; s++)
        if (s < cut.segments && cut.at[s] < cut.at[s + 1]) there[s] = true, value[s] = part[s];
#pragma unroll
    for (int step = 1; step < OPS_MAX_SEGMENTS; step *= 2)
#pragma unroll
        for (int s = 0; s + step < OPS_MAX_SEGMENTS; s += 2 * step)
            if (there[s + step]) {
                value[s] = there[s] ? value[s] + value[s + step] : value[s + step];
                there[s] = true;
            }
    return value[0];
}

struct sum_exp_rows {
    const float *z, *top;
    const int32_t *labels;
    float *sum, *target;
    int64_t n, ld, col0;
    int v;
    float inv_temp;
};
static __global__ void sum_exp_k(sum_exp_rows a, vocab_cut cut) {
    __shared__ float part[WARPS];
    place p;
    if (place_of_warp(cut, a.n, &p)) {
        const float *z = a.z + p.row * a.ld + cut.at[p.segment], top = a.top[p.row], k = a.inv_temp;
        const float sum = lane_sum<float, 16>(
            cut.at[p.segment + 1] - cut.at[p.segment], [=](int i) { return z[i]; },
            [=](float x, int) { return vmath_exp(x * k - top); });
        if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = sum;
    }
    __syncthreads();
    int rows = WARPS / cut.segments, r = (int)threadIdx.x;
    int64_t row = (int64_t)blockIdx.x * rows + r;
    if (r >= rows || row >= a.n) return;
    a.sum[row] = segment_tree(cut, part + r * cut.segments);
    if (!a.target) return;
    int64_t j = a.labels[row] - a.col0;
    a.target[row] = j >= 0 && j < a.v ? a.z[row * a.ld + j] * a.inv_temp + 0.0f : 0.0f; /* never -0 */
}
int gpu_sum_exp(struct cuda_gpu *g, const struct sum_exp_args *a) {
    sum_exp_rows r = {
        gpu_f32(a->z), gpu_f32(a->rowmax), gpu_i32(a->labels), gpu_f32(a->sumexp), gpu_f32(a->target), a->n, a->ld,
        a->col0,       (int)a->v,          a->inv_temp};
    if (a->n < 1) return 0;
    if (a->with_max) { /* rows of one read: what fits is then in L2 */
        const struct row_max_args m = {a->z, a->rowmax, a->best, a->n, a->v, a->ld, a->col0, a->inv_temp};
        const int st = gpu_row_max(g, &m);
        if (st) return st;
    }
    unsigned blocks = (unsigned)((a->n + rows_of_block(a->segments) - 1) / rows_of_block(a->segments));
    LAUNCH(sum_exp_k, blocks, GPU_THREADS, 0, g->stream, r, vocab_cut_of(a->segments, a->seg));
    return gpu_launched("sum_exp");
}

struct kl_rows {
    float *zs;
    const float *zt, *smax, *ssum, *tmax, *tsum, *weight;
    float *kl;
    int64_t n, lds, ldt;
    float inv_temp;
};
struct logit_pair {
    float s, t;
};
static __global__ void kl_grad_k(kl_rows a, vocab_cut cut) {
    __shared__ float part[WARPS];
    place p;
    if (place_of_warp(cut, a.n, &p)) {
        float *zs = a.zs + p.row * a.lds + cut.at[p.segment];
        const float *zt = a.zt + p.row * a.ldt + cut.at[p.segment];
        const float k = a.inv_temp, smax = a.smax[p.row], tmax = a.tmax[p.row], ssum = a.ssum[p.row],
                    tsum = a.tsum[p.row];
        const float sinv = 1.0f / ssum, tinv = 1.0f / tsum, w = a.weight ? a.weight[p.row] : 0;
        const bool grad = a.weight;
        /* log p - log q with the row constants in one: the difference of near logits is exact */
        const float shift = (float)((double)tmax - (double)smax + (vmath_log_wide(tsum) - vmath_log_wide(ssum)));
        const float sum = lane_sum<float, 8>(
            cut.at[p.segment + 1] - cut.at[p.segment],
            [=](int i) {
                return logit_pair{zs[i], zt[i]};
            },
            [=](logit_pair x, int i) {
                float pt = vmath_exp(x.t * k - tmax) * tinv;
                if (grad) zs[i] = (vmath_exp(x.s * k - smax) * sinv - pt) * w;
                return pt == 0 ? 0 : pt * ((x.t - x.s) * k - shift); /* a teacher's -inf is no NaN here */
            });
        if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = sum;
    }
    __syncthreads();
    int rows = WARPS / cut.segments, r = (int)threadIdx.x;
    int64_t row = (int64_t)blockIdx.x * rows + r;
    if (r < rows && row < a.n) a.kl[row] = segment_tree(cut, part + r * cut.segments);
}
int gpu_kl_grad(struct cuda_gpu *g, const struct kl_grad_args *a) {
    kl_rows r = {gpu_f32(a->zs),
                 gpu_f32(a->zt),
                 gpu_f32(a->smax),
                 gpu_f32(a->ssum),
                 gpu_f32(a->tmax),
                 gpu_f32(a->tsum),
                 gpu_f32(a->weight),
                 gpu_f32(a->kl),
                 a->n,
                 a->lds,
                 a->ldt,
                 a->inv_temp};
    if (a->n < 1) return 0;
    unsigned blocks = (unsigned)((a->n + rows_of_block(a->segments) - 1) / rows_of_block(a->segments));
    LAUNCH(kl_grad_k, blocks, GPU_THREADS, 0, g->stream, r, vocab_cut_of(a->segments, a->seg));
    return gpu_launched("kl_grad");
}

/* --- the gradient of the cross-entropy -------------------------------------------------------------------------------------- */
struct ce_rows {
    float *z;
    const float *top, *sum, *weight;
    const int32_t *labels;
    int v;
    int64_t ld, col0;
};
enum { CE_AHEAD = 8, CE_COLUMNS = CE_AHEAD * GPU_THREADS };
static __global__ void ce_grad_k(ce_rows a) {
    int64_t i = blockIdx.x, label = a.labels[i] - a.col0;
    float *z = a.z + i * a.ld, x[CE_AHEAD], w = a.weight[i], inv = 1.0f / a.sum[i], top = a.top[i];
    for (int j0 = (int)(blockIdx.y * CE_COLUMNS + threadIdx.x); j0 < a.v; j0 += (int)(gridDim.y * CE_COLUMNS)) {
#pragma unroll
        for (int u = 0; u < CE_AHEAD; u++)
            if (j0 + u * GPU_THREADS < a.v) x[u] = z[j0 + u * GPU_THREADS];
#pragma unroll
        for (int u = 0; u < CE_AHEAD; u++) {
            int j = j0 + u * GPU_THREADS;
            if (j >= a.v) break;
            float p = vmath_exp(x[u] - top) * inv;
            z[j] = w == 0 ? 0 : j == label ? (p - 1.0f) * w : p * w; /* a masked token: whatever its logits are */
        }
    }
}
int gpu_ce_grad(struct cuda_gpu *g, const struct ce_grad_args *a) {
    ce_rows r = {
        gpu_f32(a->z), gpu_f32(a->rowmax), gpu_f32(a->sumexp), gpu_f32(a->weight), gpu_i32(a->labels), (int)a->v, a->ld,
        a->col0};
    if (a->n < 1) return 0;
    LAUNCH(ce_grad_k, dim3((unsigned)a->n, gpu_blocks(a->v, CE_COLUMNS)), GPU_THREADS, 0, g->stream, r);
    return gpu_launched("ce_grad");
}
