/* RMS norm and its gradients.
 *
 * Bytes an element: forward 8 (12 with a copy, 16 with a residual), gradient of x 12 (16 with dres), of the gain 8. A block stages some rows
 * in shared memory with all its threads; 16 threads a row add the squares as the host's 16 lanes do (c / 16 dependent additions: 0.7 us for
 * 4096 channels, while the other blocks of the multiprocessor load), then all threads write. A row beyond the stage is taken in pieces and
 * read again from the L2 cache. Rows lie in shared memory 16 banks apart, so the two rows of a warp do not collide. */
#include "columns.h"
#include "elem.h"
#include "lanes.h"
#include "packed.h"

enum { STAGE = 8448, MAX_ROWS = GPU_THREADS / LANES, AHEAD = 4 };

/* How rows of c channels are staged in `floats` floats: `rows` of them a block, `stride` apart, `piece` channels at a time. */
struct stage_plan {
    int rows, stride, piece;
    dim3 block; /* x along a row, y over rows */
};
static stage_plan stage_plan_of(int64_t c, int floats) {
    stage_plan p = {1, floats, floats / LANES * LANES, dim3()};
    if (c <= floats - 2 * LANES) {
        p.piece = (int)c;
        p.stride = ((int)c + LANES - 1) / WARP * WARP + LANES;
        while (2 * p.rows <= MAX_ROWS && 2 * p.rows * p.stride <= floats) p.rows *= 2;
    }
    unsigned y = p.rows < 8 ? (unsigned)p.rows : 8;
    p.block = dim3(GPU_THREADS / y, y);
    return p;
}
static __device__ __forceinline__ int thread_in_block() { return (int)(threadIdx.y * blockDim.x + threadIdx.x); }

struct norm_fwd {
    const float *x, *delta, *gain;
    float *h, *y, *rstd;
    int64_t rows;
    int c;
    float eps;
    struct packed_out packed;
};
/* Piece [c0, c0 + n) of this block's rows: h = x + delta into the stage and h_out. */
template <int W>
static __device__ __forceinline__ void stage_fwd(const norm_fwd &a, const stage_plan &p, float *stage, int64_t r0,
                                                 int m, int c0, int n) {
    for (int q = (int)threadIdx.y; q < m; q += (int)blockDim.y)
        for (int j0 = (int)threadIdx.x; j0 < n / W; j0 += AHEAD * (int)blockDim.x) {
            const int64_t at = (r0 + q) * a.c + c0;
            pack<W> x[AHEAD], d[AHEAD] = {};
#pragma unroll
            for (int u = 0; u < AHEAD; u++) {
                int j = j0 + u * (int)blockDim.x;
                if (j >= n / W) break;
                x[u] = pack_load<W>(a.x + at + W * j);
                if (a.delta) d[u] = pack_load<W>(a.delta + at + W * j);
            }
#pragma unroll
            for (int u = 0; u < AHEAD; u++) {
                int j = j0 + u * (int)blockDim.x;
                if (j >= n / W) break;
                if (a.delta)
#pragma unroll
                    for (int e = 0; e < W; e++) x[u].v[e] += d[u].v[e];
                pack_store<W>(stage + q * p.stride + W * j, x[u]);
                if (a.h) pack_store<W>(a.h + at + W * j, x[u]);
            }
        }
}
template <int W> static __global__ void rmsnorm_fwd_k(norm_fwd a, stage_plan p) {
    __shared__ __align__(16) float stage[STAGE];
    __shared__ float scale[MAX_ROWS];
    const int64_t r0 = (int64_t)blockIdx.x * p.rows;
    const int m = a.rows - r0 < p.rows ? (int)(a.rows - r0) : p.rows;
    const int t = thread_in_block(), row = t / LANES, lane = t % LANES;
    float sum = 0;
    for (int c0 = 0; c0 < a.c; c0 += p.piece) {
        int n = a.c - c0 < p.piece ? a.c - c0 : p.piece;
        if (c0) __syncthreads();
        stage_fwd<W>(a, p, stage, r0, m, c0, n);
        __syncthreads();
        const float *s = stage + row * p.stride;
        if (row < m)
#pragma unroll 8
            for (int i = lane; i < n; i += LANES) sum += s[i] * s[i];
    }
    if (t < (m + 1) / 2 * WARP) {
        float rstd = 1.0f / sqrtf(lane_tree(sum) / (float)a.c + a.eps);
        if (lane == 0 && row < m) a.rstd[r0 + row] = scale[row] = rstd;
    }
    __syncthreads();
    const float *again = a.h ? a.h : a.x;
    for (int q = (int)threadIdx.y; q < m; q += (int)blockDim.y) GPU_EACH_COLUMN(j, a.c / W) {
            const int64_t at = (r0 + q) * a.c + W * j;
            pack<W> v = a.c == p.piece ? pack_load<W>(stage + q * p.stride + W * j) : pack_load<W>(again + at);
            pack<W> g = pack_load<W>(a.gain + W * j);
#pragma unroll
            for (int e = 0; e < W; e++) v.v[e] = v.v[e] * scale[q] * g.v[e];
            if (a.y) pack_store<W>(a.y + at, v);
            if (a.packed.codes) packed_store<W>(a.packed, r0 + q, W * j, v.v);
        }
}
int gpu_rmsnorm_fwd(struct cuda_gpu *g, const struct rmsnorm_fwd_args *a) {
    norm_fwd k = {gpu_f32(a->x), gpu_f32(a->delta),    gpu_f32(a->gain), gpu_f32(a->h_out),
                  gpu_f32(a->y), gpu_f32(a->rstd),     a->rows,          (int)a->c,
                  a->eps,        packed_of(&a->packed)};
    if (a->rows < 1) return 0;
    bool four =
        packs_fit({a->x.a, a->delta.a, a->gain.a, a->h_out.a, a->y.a, 4 * (uint64_t)a->c}) && packed_by(k.packed, 4);
    stage_plan p = stage_plan_of(a->c, STAGE);
    LAUNCH(four ? rmsnorm_fwd_k<4> : rmsnorm_fwd_k<1>, (unsigned)((a->rows + p.rows - 1) / p.rows), p.block, 0,
           g->stream, k, p);
    return gpu_launched("rmsnorm_fwd");
}

struct norm_bwd {
    const float *dy, *h, *gain, *rstd, *dres;
    float *dx;
    int64_t rows;
    int c;
};
/* Of one pack: up = dy * gain and hat = h * rstd. */
template <int W>
static __device__ __forceinline__ void up_and_hat(const norm_bwd &a, int64_t at, int j, float rstd, pack<W> *up,
                                                  pack<W> *hat) {
    pack<W> g = pack_load<W>(a.gain + W * j);
    *up = pack_load<W>(a.dy + at);
    *hat = pack_load<W>(a.h + at);
#pragma unroll
    for (int e = 0; e < W; e++) up->v[e] *= g.v[e], hat->v[e] *= rstd;
}
template <int W> static __global__ void rmsnorm_bwd_k(norm_bwd a, stage_plan p) {
    __shared__ __align__(16) float ups[STAGE / 2];
    __shared__ __align__(16) float hats[STAGE / 2];
    __shared__ float mean[MAX_ROWS];
    const int64_t r0 = (int64_t)blockIdx.x * p.rows;
    const int m = a.rows - r0 < p.rows ? (int)(a.rows - r0) : p.rows;
    const int t = thread_in_block(), row = t / LANES, lane = t % LANES;
    float sum = 0;
    for (int c0 = 0; c0 < a.c; c0 += p.piece) {
        int n = a.c - c0 < p.piece ? a.c - c0 : p.piece;
        if (c0) __syncthreads();
        for (int q = (int)threadIdx.y; q < m; q += (int)blockDim.y) {
            float rstd = a.rstd[r0 + q];
#pragma unroll 4
            for (int j = (int)threadIdx.x; j < n / W; j += (int)blockDim.x) {
                pack<W> up, hat;
                up_and_hat<W>(a, (r0 + q) * a.c + c0 + W * j, c0 / W + j, rstd, &up, &hat);
                pack_store<W>(ups + q * p.stride + W * j, up);
                pack_store<W>(hats + q * p.stride + W * j, hat);
            }
        }
        __syncthreads();
        const float *u = ups + row * p.stride, *h = hats + row * p.stride;
        if (row < m)
#pragma unroll 8
            for (int i = lane; i < n; i += LANES) sum += u[i] * h[i];
    }
    if (t < (m + 1) / 2 * WARP) {
        float s = lane_tree(sum) / (float)a.c;
        if (lane == 0 && row < m) mean[row] = s;
    }
    __syncthreads();
    for (int q = (int)threadIdx.y; q < m; q += (int)blockDim.y) {
        const float rstd = a.rstd[r0 + q], s = mean[q];
        for (int j0 = (int)threadIdx.x; j0 < a.c / W; j0 += AHEAD * (int)blockDim.x) {
            pack<W> res[AHEAD] = {};
#pragma unroll
            for (int u = 0; u < AHEAD; u++) { /* dx may be dy or dres: read before it is written */
                int j = j0 + u * (int)blockDim.x;
                if (a.dres && j < a.c / W) res[u] = pack_load<W>(a.dres + (r0 + q) * a.c + W * j);
            }
#pragma unroll
            for (int u = 0; u < AHEAD; u++) {
                int j = j0 + u * (int)blockDim.x;
                if (j >= a.c / W) break;
                pack<W> up, hat;
                if (a.c == p.piece)
                    up = pack_load<W>(ups + q * p.stride + W * j), hat = pack_load<W>(hats + q * p.stride + W * j);
                else
                    up_and_hat<W>(a, (r0 + q) * a.c + W * j, j, rstd, &up, &hat);
#pragma unroll
                for (int e = 0; e < W; e++) {
                    float d = rstd * (up.v[e] - hat.v[e] * s);
                    up.v[e] = a.dres ? d + res[u].v[e] : d;
                }
                pack_store<W>(a.dx + (r0 + q) * a.c + W * j, up);
            }
        }
    }
}

/* --- the gain ---------------------------------------------------------------------------------------------------------------
 * Leaf (group, segment): tokens of the segment rising, the heads of the group rising in each. */
struct gain_rows {
    const float *dy, *h, *rstd;
    float *dgain;
    int64_t tokens;
    int heads, group_heads, c;
};
struct gain_term {
    float dy, h, rstd;
};
static __global__ void dgain_k(gain_rows a) {
    int group = (int)blockIdx.z, segment = (int)blockIdx.y, h0 = group * a.group_heads;
    int heads = a.heads - h0 < a.group_heads ? a.heads - h0 : a.group_heads;
    int64_t t0 = row_segment(a.tokens, segment);
    int count = (int)(row_segment(a.tokens, segment + 1) - t0) * heads;
    column_sum(
        a.dgain + ((int64_t)group * OPS_ROW_SEGMENTS + segment) * a.c, a.c, count,
        [=](int k, int column) {
            int64_t r = a.heads == 1 ? t0 + k : (t0 + k / heads) * a.heads + h0 + k % heads;
            return gain_term{a.dy[r * a.c + column], a.h[r * a.c + column], a.rstd[r]};
        },
        [](gain_term x) { return x.dy * (x.h * x.rstd); });
}

int gpu_rmsnorm_bwd(struct cuda_gpu *g, const struct rmsnorm_bwd_args *a) {
    int64_t rows = a->tokens * a->heads;
    if (rows < 1) return 0;
    if (a->dgain.a) { /* before dx, which may overwrite dy */
        gain_rows k = {gpu_f32(a->dy), gpu_f32(a->h), gpu_f32(a->rstd),    gpu_f32(a->dgain),
                       a->tokens,      (int)a->heads, (int)a->group_heads, (int)a->c};
        unsigned groups = (unsigned)((a->heads + a->group_heads - 1) / a->group_heads);
        LAUNCH(dgain_k, dim3(gpu_blocks(a->c, COLUMNS), OPS_ROW_SEGMENTS, groups), GPU_THREADS, 0, g->stream, k);
    }
    norm_bwd k = {gpu_f32(a->dy), gpu_f32(a->h), gpu_f32(a->gain), gpu_f32(a->rstd), gpu_f32(a->dres),
                  gpu_f32(a->dx), rows,          (int)a->c};
    bool four = packs_fit({a->dy.a, a->h.a, a->gain.a, a->dres.a, a->dx.a, 4 * (uint64_t)a->c});
    stage_plan p = stage_plan_of(a->c, STAGE / 2);
    LAUNCH(four ? rmsnorm_bwd_k<4> : rmsnorm_bwd_k<1>, (unsigned)((rows + p.rows - 1) / p.rows), p.block, 0, g->stream,
           k, p);
    return gpu_launched("rmsnorm_bwd");
}
