/* Element-wise operations: one thread an element, no order to keep. */
#include "base/vmath.h"
#include "gpu.h"

static __global__ void add_k(const float *x, float *y, int64_t n) {
    GPU_EACH(i, n) y[i] += x[i];
}
int gpu_add(struct cuda_gpu *g, const struct add_args *a) {
    LAUNCH(add_k, gpu_blocks(a->n, GPU_THREADS), GPU_THREADS, 0, g->stream, gpu_f32(a->x), gpu_f32(a->y), a->n);
    return gpu_launched("add");
}

int gpu_copy(struct cuda_gpu *g, const struct copy_args *a) {
    return gpu_check(cudaMemcpyAsync(gpu_ptr<void>(a->y), gpu_ptr<void>(a->x), a->bytes, cudaMemcpyDeviceToDevice, g->stream), "copy");
}

static __global__ void copy_rows_k(const float *x, float *y, struct copy_rows_args a) {
    GPU_EACH(i, a.rows * a.cols) {
        int64_t r = i / a.cols, c = i % a.cols;
        y[r * a.ldy + c] = x[r * a.ldx + c];
    }
}
int gpu_copy_rows(struct cuda_gpu *g, const struct copy_rows_args *a) {
    LAUNCH(copy_rows_k, gpu_blocks(a->rows * a->cols, GPU_THREADS), GPU_THREADS, 0, g->stream, gpu_f32(a->x), gpu_f32(a->y), *a);
    return gpu_launched("copy_rows");
}

static __global__ void fill_k(float *y, int64_t n, float value) {
    GPU_EACH(i, n) y[i] = value;
}
int gpu_fill(struct cuda_gpu *g, const struct fill_args *a) {
    LAUNCH(fill_k, gpu_blocks(a->n, GPU_THREADS), GPU_THREADS, 0, g->stream, gpu_f32(a->y), a->n, a->value);
    return gpu_launched("fill");
}

static __global__ void scale_k(float *y, int64_t n, float s) {
    GPU_EACH(i, n) y[i] *= s;
}
int gpu_scale(struct cuda_gpu *g, const struct scale_args *a) {
    LAUNCH(scale_k, gpu_blocks(a->n, GPU_THREADS), GPU_THREADS, 0, g->stream, gpu_f32(a->y), a->n, a->s);
    return gpu_launched("scale");
}

static __global__ void bias_add_k(float *x, const float *bias, int64_t n, int64_t c) {
    GPU_EACH(i, n) x[i] += bias[i % c];
}
int gpu_bias_add(struct cuda_gpu *g, const struct bias_add_args *a) {
    LAUNCH(bias_add_k, gpu_blocks(a->rows * a->c, GPU_THREADS), GPU_THREADS, 0, g->stream, gpu_f32(a->x), gpu_f32(a->bias), a->rows * a->c, a->c);
    return gpu_launched("bias_add");
}

static __global__ void swiglu_fwd_k(const float *gate, const float *u, float *y, int64_t n) {
    GPU_EACH(i, n) y[i] = gate[i] / (1.0f + vmath_exp(-gate[i])) * u[i];
}
int gpu_swiglu_fwd(struct cuda_gpu *g, const struct swiglu_fwd_args *a) {
    LAUNCH(swiglu_fwd_k, gpu_blocks(a->n, GPU_THREADS), GPU_THREADS, 0, g->stream, gpu_f32(a->g), gpu_f32(a->u), gpu_f32(a->y), a->n);
    return gpu_launched("swiglu_fwd");
}

/* dg and du may be g and u: each element is read before it is written. */
static __global__ void swiglu_bwd_k(const float *gate, const float *u, const float *dy, float *dg, float *du, int64_t n) {
    GPU_EACH(i, n) {
        float x = gate[i], e = dy[i], s = 1.0f / (1.0f + vmath_exp(-x)), w = u[i];
        dg[i] = e * w * (s * (1.0f + x * (1.0f - s)));
        du[i] = e * (x * s);
    }
}
int gpu_swiglu_bwd(struct cuda_gpu *g, const struct swiglu_bwd_args *a) {
    LAUNCH(swiglu_bwd_k, gpu_blocks(a->n, GPU_THREADS), GPU_THREADS, 0, g->stream, gpu_f32(a->g), gpu_f32(a->u), gpu_f32(a->dy), gpu_f32(a->dg),
           gpu_f32(a->du), a->n);
    return gpu_launched("swiglu_bwd");
}
