/* Layer norm and its gradients.
 *
 * Bytes an element: forward 8 (16 with a residual), gradient of x 12 (16 with dres), of the gain 8. A warp has a row and reads it three times:
 * for the mean, for the squares of what differs from it, and to write; all but the first come out of the L1 and L2 caches (a block's 8 rows of
 * 4096 channels are 128 KB). Nothing passes between lanes but the sums, so y may be x, and dx dy or dres. */
#include "columns.h"
#include "elem.h"
#include "lanes.h"
#include "packed.h"

enum { ROWS = GPU_THREADS / WARP, AHEAD = 8 };
static inline unsigned row_blocks(int64_t rows) { return gpu_blocks(rows, ROWS, INT32_MAX); }
static __device__ __forceinline__ int64_t row_of_warp() { return (int64_t)blockIdx.x * ROWS + threadIdx.x / WARP; }

struct layer_fwd {
    const float *x, *delta, *gain, *bias;
    float *h, *y, *mean, *rstd;
    int64_t rows;
    int c;
    float eps, offset;
    struct packed_out packed;
};
template <int W> static __global__ void layernorm_fwd_k(layer_fwd a) {
    const int64_t r = row_of_warp();
    const int lane = (int)threadIdx.x % WARP;
    if (r >= a.rows) return;
    const float *x = a.x + r * a.c, *delta = a.delta ? a.delta + r * a.c : nullptr;
    auto load = [=](int i) { return delta ? x[i] + delta[i] : x[i]; };
    const float mean = lane_sum<float, AHEAD>(a.c, load, [](float h, int) { return h; }) / (float)a.c;
    const float squares = lane_sum<float, AHEAD>(a.c, load, [=](float h, int) { return (h - mean) * (h - mean); });
    const float rstd = 1.0f / sqrtf(squares / (float)a.c + a.eps);
    if (lane == 0) a.mean[r] = mean, a.rstd[r] = rstd;
    for (int j = W * lane; j < a.c; j += W * WARP) {
        const int64_t at = r * a.c + j;
        pack<W> h = pack_load<W>(x + j), g = pack_load<W>(a.gain + j), b = pack_load<W>(a.bias + j), d = {};
        if (delta) d = pack_load<W>(delta + j);
#pragma unroll
        for (int e = 0; e < W; e++) {
            if (delta) h.v[e] += d.v[e];
            g.v[e] = (h.v[e] - mean) * rstd * (g.v[e] + a.offset) + b.v[e];
        }
        if (a.h) pack_store<W>(a.h + at, h);
        if (a.y) pack_store<W>(a.y + at, g);
        if (a.packed.codes) packed_store<W>(a.packed, r, j, g.v);
    }
}
int gpu_layernorm_fwd(struct cuda_gpu *g, const struct layernorm_fwd_args *a) {
    const layer_fwd k = {gpu_f32(a->x), gpu_f32(a->delta), gpu_f32(a->gain),     gpu_f32(a->bias), gpu_f32(a->h_out),
                         gpu_f32(a->y), gpu_f32(a->mean),  gpu_f32(a->rstd),     a->rows,          (int)a->c,
                         a->eps,        a->offset,         packed_of(&a->packed)};
    if (a->rows < 1) return 0;
    const bool four = packs_fit({a->x.a, a->delta.a, a->gain.a, a->bias.a, a->h_out.a, a->y.a, 4 * (uint64_t)a->c}) &&
                      packed_by(k.packed, 4);
    LAUNCH(four ? layernorm_fwd_k<4> : layernorm_fwd_k<1>, row_blocks(a->rows), GPU_THREADS, 0, g->stream, k);
    return gpu_launched("layernorm_fwd");
}

struct layer_bwd {
    const float *dy, *h, *gain, *mean, *rstd, *dres;
    float *dx;
    int64_t rows;
    int c;
    float offset;
};
struct layer_term {
    float dy, h, gain;
};
template <int W> static __global__ void layernorm_bwd_k(layer_bwd a) {
    const int64_t r = row_of_warp();
    if (r >= a.rows) return;
    const float *dy = a.dy + r * a.c, *h = a.h + r * a.c, *gain = a.gain, offset = a.offset;
    const float mean = a.mean[r], rstd = a.rstd[r];
    const float up = lane_sum<float, AHEAD>(
                         a.c,
                         [=](int i) {
                             return layer_term{dy[i], 0, gain[i]};
                         },
                         [=](layer_term x, int) { return x.dy * (x.gain + offset); }) /
                     (float)a.c;
    const float along = lane_sum<float, AHEAD>(
                            a.c,
                            [=](int i) {
                                return layer_term{dy[i], h[i], gain[i]};
                            },
                            [=](layer_term x, int) { return x.dy * (x.gain + offset) * ((x.h - mean) * rstd); }) /
                        (float)a.c;
    for (int j = W * ((int)threadIdx.x % WARP); j < a.c; j += W * WARP) {
        const int64_t at = r * a.c + j;
        pack<W> u = pack_load<W>(dy + j), v = pack_load<W>(h + j), g = pack_load<W>(gain + j), d = {};
        if (a.dres) d = pack_load<W>(a.dres + at);
#pragma unroll
        for (int e = 0; e < W; e++) {
            const float x = rstd * (u.v[e] * (g.v[e] + offset) - up - (v.v[e] - mean) * rstd * along);
            u.v[e] = a.dres ? x + d.v[e] : x;
        }
        pack_store<W>(a.dx + at, u);
    }
}

/* The gain: leaf (segment), rows rising. */
struct layer_gain {
    const float *dy, *h, *mean, *rstd;
    float *dgain;
    int64_t rows;
    int c;
};
struct layer_gain_term {
    float dy, h, mean, rstd;
};
static __global__ void layernorm_dgain_k(layer_gain a) {
    const int64_t r0 = row_segment(a.rows, (int)blockIdx.y), r1 = row_segment(a.rows, (int)blockIdx.y + 1);
    column_sum(
        a.dgain + (int64_t)blockIdx.y * a.c, a.c, (int)(r1 - r0),
        [=](int k, int column) {
            const int64_t r = r0 + k;
            return layer_gain_term{a.dy[r * a.c + column], a.h[r * a.c + column], a.mean[r], a.rstd[r]};
        },
        [](layer_gain_term x) { return x.dy * ((x.h - x.mean) * x.rstd); });
}
int gpu_layernorm_bwd(struct cuda_gpu *g, const struct layernorm_bwd_args *a) {
    if (a->rows < 1) return 0;
    if (a->dgain.a) { /* before dx, which may overwrite dy */
        const layer_gain k = {gpu_f32(a->dy),    gpu_f32(a->h), gpu_f32(a->mean), gpu_f32(a->rstd),
                              gpu_f32(a->dgain), a->rows,       (int)a->c};
        LAUNCH(layernorm_dgain_k, dim3(gpu_blocks(a->c, COLUMNS), OPS_ROW_SEGMENTS), GPU_THREADS, 0, g->stream, k);
    }
    const layer_bwd k = {gpu_f32(a->dy),   gpu_f32(a->h),  gpu_f32(a->gain), gpu_f32(a->mean), gpu_f32(a->rstd),
                         gpu_f32(a->dres), gpu_f32(a->dx), a->rows,          (int)a->c,        a->offset};
    const bool four = packs_fit({a->dy.a, a->h.a, a->gain.a, a->dres.a, a->dx.a, 4 * (uint64_t)a->c});
    LAUNCH(four ? layernorm_bwd_k<4> : layernorm_bwd_k<1>, row_blocks(a->rows), GPU_THREADS, 0, g->stream, k);
    return gpu_launched("layernorm_bwd");
}
