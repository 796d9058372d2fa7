/* Element-wise operations: no order to keep. All are bound by memory, with the bytes of ops.def. */
#include "base/vmath.h"
#include "dev/act.h"
#include "elem.h"
#include "packed.h"

struct add_one {
    enum { ARRAYS = 2, READ = 3, WRITE = 2 };
    __device__ void one(float *x) const { x[1] += x[0]; }
};
int gpu_add(struct cuda_gpu *g, const struct add_args *a) { return elem_run(g, "add", add_one{}, a->n, {a->x, a->y}); }

struct fill_one {
    enum { ARRAYS = 1, READ = 0, WRITE = 1 };
    float value;
    __device__ void one(float *x) const { x[0] = value; }
};
int gpu_fill(struct cuda_gpu *g, const struct fill_args *a) {
    return elem_run(g, "fill", fill_one{a->value}, a->n, {a->y});
}

struct scale_one {
    enum { ARRAYS = 1, READ = 1, WRITE = 1 };
    float s;
    __device__ void one(float *x) const { x[0] *= s; }
};
int gpu_scale(struct cuda_gpu *g, const struct scale_args *a) {
    return elem_run(g, "scale", scale_one{a->s}, a->n, {a->y});
}

/* An operation whose last array is its result, left packed too; or packed alone, where that array is null. */
template <int W, class F>
static __global__ void packed_elem_k(F f, elem_arrays a, struct packed_out o, int64_t rows, int64_t cols) {
    constexpr int LAST = F::ARRAYS - 1;
    GPU_EACH(i, rows * (cols / W)) {
        pack<W> x[F::ARRAYS];
#pragma unroll
        for (int k = 0; k < LAST; k++) x[k] = pack_load<W>(a.p[k] + W * i);
#pragma unroll
        for (int e = 0; e < W; e++) {
            float one[F::ARRAYS];
#pragma unroll
            for (int k = 0; k < LAST; k++) one[k] = x[k].v[e];
            f.one(one);
            x[LAST].v[e] = one[LAST];
        }
        if (a.p[LAST]) pack_store<W>(a.p[LAST] + W * i, x[LAST]);
        packed_store<W>(o, i / (cols / W), i % (cols / W) * W, x[LAST].v);
    }
}
template <class F>
static int packed_run(struct cuda_gpu *g, const char *op, F f, int64_t n, const struct packed_factor *to,
                      std::initializer_list<dptr> at) {
    const int64_t cols = to->k[to->segments];
    const struct packed_out o = packed_of(to);
    elem_arrays a = {};
    uint64_t all = 0;
    int k = 0;
    for (dptr p : at) all |= p.a, a.p[k++] = gpu_f32(p);
    const bool four = all % 16 == 0 && packed_by(o, 4);
    LAUNCH((four ? packed_elem_k<4, F> : packed_elem_k<1, F>), gpu_blocks(n / (four ? 4 : 1), GPU_THREADS), GPU_THREADS,
           0, g->stream, f, a, o, n / cols, cols);
    return gpu_launched(op);
}

struct swiglu_fwd_one {
    enum { ARRAYS = 3, READ = 3, WRITE = 4 };
    __device__ void one(float *x) const { x[2] = x[0] / (1.0f + vmath_exp(-x[0])) * x[1]; }
};
int gpu_swiglu_fwd(struct cuda_gpu *g, const struct swiglu_fwd_args *a) {
    if (a->packed.at.a && a->n > 0)
        return packed_run(g, "swiglu_fwd", swiglu_fwd_one{}, a->n, &a->packed, {a->g, a->u, a->y});
    return elem_run(g, "swiglu_fwd", swiglu_fwd_one{}, a->n, {a->g, a->u, a->y});
}

struct swiglu_bwd_one {
    enum { ARRAYS = 5, READ = 7, WRITE = 24 };
    __device__ void one(float *v) const {
        float x = v[0], w = v[1], e = v[2], s = 1.0f / (1.0f + vmath_exp(-x));
        v[3] = e * w * (s * (1.0f + x * (1.0f - s)));
        v[4] = e * (x * s);
    }
};
int gpu_swiglu_bwd(struct cuda_gpu *g, const struct swiglu_bwd_args *a) {
    return elem_run(g, "swiglu_bwd", swiglu_bwd_one{}, a->n, {a->g, a->u, a->dy, a->dg, a->du});
}

struct act_fwd_one {
    enum { ARRAYS = 2, READ = 1, WRITE = 2 };
    int kind;
    __device__ void one(float *x) const {
#define ACT(KIND, f, hf) \
    if (kind == ACT_##KIND) x[1] = act_##f(x[0]);
#include "dev/act.def"
#undef ACT
    }
};
int gpu_act_fwd(struct cuda_gpu *g, const struct act_fwd_args *a) {
    const act_fwd_one f = {a->kind};
    if (a->packed.at.a && a->n > 0) return packed_run(g, "act_fwd", f, a->n, &a->packed, {a->x, a->y});
    return elem_run(g, "act_fwd", f, a->n, {a->x, a->y});
}

struct act_bwd_one {
    enum { ARRAYS = 3, READ = 3, WRITE = 4 };
    int kind;
    __device__ void one(float *x) const {
#define ACT(KIND, f, hf) \
    if (kind == ACT_##KIND) x[2] = x[1] * act_##f##_slope(x[0]);
#include "dev/act.def"
#undef ACT
    }
};
int gpu_act_bwd(struct cuda_gpu *g, const struct act_bwd_args *a) {
    return elem_run(g, "act_bwd", act_bwd_one{a->kind}, a->n, {a->x, a->dy, a->dx});
}

int gpu_copy(struct cuda_gpu *g, const struct copy_args *a) {
    return gpu_check(cudaMemcpyAsync(gpu_ptr<void>(a->y), gpu_ptr<void>(a->x), a->bytes, cudaMemcpyDeviceToDevice,
                                     g->stream),
                     "copy");
}

/* --- rows ----------------------------------------------------------------------------------------------------------------- */
template <int W> static __global__ void copy_rows_k(const float *x, float *y, struct copy_rows_args a) {
    GPU_EACH_ROW(r, a.rows)
    GPU_EACH_COLUMN(j, a.cols / W) pack_store<W>(y + r * a.ldy + W * j, pack_load<W>(x + r * a.ldx + W * j));
}
int gpu_copy_rows(struct cuda_gpu *g, const struct copy_rows_args *a) {
    bool four = packs_fit({a->x.a, a->y.a, 4 * (uint64_t)a->cols, 4 * (uint64_t)a->ldx, 4 * (uint64_t)a->ldy});
    row_grid k = row_grid_of(a->rows, four ? a->cols / 4 : a->cols);
    LAUNCH(four ? copy_rows_k<4> : copy_rows_k<1>, k.grid, k.block, 0, g->stream, gpu_f32(a->x), gpu_f32(a->y), *a);
    return gpu_launched("copy_rows");
}

template <int W> static __global__ void bias_add_k(float *x, const float *bias, struct bias_add_args a) {
    GPU_EACH_ROW(r, a.rows)
    GPU_EACH_COLUMN(j, a.c / W) {
        pack<W> v = pack_load<W>(x + r * a.c + W * j), b = pack_load<W>(bias + W * j);
#pragma unroll
        for (int e = 0; e < W; e++) v.v[e] += b.v[e];
        pack_store<W>(x + r * a.c + W * j, v);
    }
}
int gpu_bias_add(struct cuda_gpu *g, const struct bias_add_args *a) {
    bool four = packs_fit({a->x.a, a->bias.a, 4 * (uint64_t)a->c});
    row_grid k = row_grid_of(a->rows, four ? a->c / 4 : a->c);
    LAUNCH(four ? bias_add_k<4> : bias_add_k<1>, k.grid, k.block, 0, g->stream, gpu_f32(a->x), gpu_f32(a->bias), *a);
    return gpu_launched("bias_add");
}
