/* Fake quantization: every kind of dev/quant.def, in one pass over memory.
 *
 * 8 bytes an element, 4 read and 4 written, so on an H200 (4.8 TB/s) at best 0.6 T elements/s: 28 ns for a token of 16384, 98 us for a weight
 * of 14336 x 4096. An element costs one IEEE division and its rounding, some 30 instructions of the 55 that there is time for. */
#include "base/status.h"
#include "gpu.h"
#include "numfmt/scale.h"
#include "packed.h"

enum {
    HELD = 8, /* vectors of a long block that a thread keeps while the block's maximum is found: 256 x 8 x 4 elements */
    ENOUGH_BLOCKS = 1 << 12 /* of threads, for the largest device: more rows are done one after the other */
};

/* The arguments as the kernels take them. */
struct quant_job {
    const float *x, *amax, *maxima;
    float *y;
    int64_t rows, cols, ldx, ldy;
    int weight;
    struct block_grid grid;
    struct packed_out packed;
};

/* A row of quant.def. */
template <int KIND> struct rule;
#define FQ(KIND, name, blocks, of_amax, of_top, of_x)                                                             \
    template <> struct rule<FQ_##KIND> {                                                                          \
        static __device__ float scale([[maybe_unused]] float amax) { return of_amax; }                            \
        static __device__ float step([[maybe_unused]] float top, [[maybe_unused]] float scale) { return of_top; } \
        static __device__ float value(float x, float step, [[maybe_unused]] int weight) { return of_x; }          \
    };
#include "dev/quant.def"
#undef FQ

/* V neighbours of a row; four are moved at once. */
template <int V> struct vec { float at[V]; };
template <int V> static __device__ vec<V> get(const float *x) {
    if constexpr (V == 4) {
        float4 v = *reinterpret_cast<const float4 *>(x);
        return {{v.x, v.y, v.z, v.w}};
    } else
        return {{*x}};
}
template <int V> static __device__ void set(float *y, const vec<V> &v) {
    if constexpr (V == 4)
        __stcg(reinterpret_cast<float4 *>(y),
               make_float4(v.at[0], v.at[1], v.at[2], v.at[3])); /* a plain store is cut into four */
    else
        *y = v.at[0];
}

template <int KIND> static __device__ float scale_of(const struct quant_job &a) {
    float top = a.amax ? *a.amax : 0.0f;
    return rule<KIND>::scale(a.weight ? bf16_round(top) : top);
}
template <int KIND> static __device__ float step_of(const struct quant_job &a, float top, float scale) {
    return rule<KIND>::step(a.weight ? bf16_round(top) : top, scale);
}
template <int KIND, int V>
static __device__ void put(const struct quant_job &a, int64_t r, int64_t c, const vec<V> &x, float step) {
    vec<V> out;
#pragma unroll
    for (int i = 0; i < V; i++) out.at[i] = rule<KIND>::value(a.weight ? bf16_round(x.at[i]) : x.at[i], step, a.weight);
    if (a.y) set(a.y + r * a.ldy + c, out);
    if (a.packed.codes) packed_store<V>(a.packed, r, c, out.at);
}

/* Scales are known: of the tensor, or from the maxima of blocks (BLOCKS), which V neighbours share. A thread has V columns of some rows. */
template <int KIND, int BLOCKS, int V> static __global__ void known_k(struct quant_job a) {
    int64_t c = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (c >= a.cols) return;
    float scale = scale_of<KIND>(a), step = BLOCKS ? 0.0f : step_of<KIND>(a, 0.0f, scale);
    int64_t across = BLOCKS ? (a.grid.col0 + c) / a.grid.cols : 0;
    for (int64_t r = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; r < a.rows; r += (int64_t)gridDim.y * blockDim.y) {
        if (BLOCKS) {
            int64_t down = a.grid.rows == 1 ? a.grid.row0 + r : (a.grid.row0 + r) / a.grid.rows;
            step = step_of<KIND>(a, a.maxima[down * a.grid.ld + across], scale);
        }
        put<KIND, V>(a, r, c, get<V>(a.x + r * a.ldx + c), step);
    }
}

/* The largest of `top` over the team, 1 to 256 neighbouring threads, a power of two. All threads of the block call it. */
static __device__ int32_t team_max(int32_t top, int team) {
    __shared__ int32_t part[GPU_THREADS / WARP];
    for (int o = (team < WARP ? team : WARP) / 2; o > 0; o /= 2) {
        int32_t other = __shfl_xor_sync(0xffffffffu, top, o);
        top = other > top ? other : top;
    }
    if (team <= WARP) return top;
    int t = threadIdx.y * blockDim.x + threadIdx.x, first = t / team * (team / WARP);
    __syncthreads(); /* the maxima of the rows before were read */
    if (t % WARP == 0) part[t / WARP] = top;
    __syncthreads();
    for (int i = 0; i < team / WARP; i++) top = part[first + i] > top ? part[first + i] : top;
    return top;
}

/* Maxima are taken here: a team of threads has one block of a row at a time. What KEEP vectors a thread do not hold is read again. */
template <int KIND, int V, int KEEP> static __global__ void measured_k(struct quant_job a, int team) {
    int lane = threadIdx.x % team;
    int64_t c = ((int64_t)blockIdx.x * (blockDim.x / team) + threadIdx.x / team) * a.grid.cols,
            next = (int64_t)team * V;
    float scale = scale_of<KIND>(a);
    for (int64_t r0 = (int64_t)blockIdx.y * blockDim.y; r0 < a.rows; r0 += (int64_t)gridDim.y * blockDim.y) {
        int64_t r = r0 + threadIdx.y, n = c < a.cols && r < a.rows ? a.grid.cols : 0;
        const float *x = a.x + r * a.ldx + c;
        vec<V> kept[KEEP] = {};
        int32_t top = 0;
        auto raise = [&](const vec<V> &v) {
#pragma unroll
            for (int i = 0; i < V; i++) {
                int32_t u = bits_magnitude(v.at[i]);
                top = u > top ? u : top;
            }
        };
#pragma unroll
        for (int k = 0; k < KEEP; k++)
            if (lane * V + k * next < n) raise(kept[k] = get<V>(x + lane * V + k * next));
        for (int64_t i = lane * V + KEEP * next; i < n; i += next) raise(get<V>(x + i));
        float step = step_of<KIND>(a, bits_float((uint32_t)team_max(top, team)), scale);
#pragma unroll
        for (int k = 0; k < KEEP; k++)
            if (lane * V + k * next < n) put<KIND, V>(a, r, c + lane * V + k * next, kept[k], step);
        for (int64_t i = lane * V + KEEP * next; i < n; i += next) put<KIND, V>(a, r, c + i, get<V>(x + i), step);
    }
}

static int power_of_two(int64_t from, int most) {
    int p = 1;
    while (p < from && p < most) p *= 2;
    return p;
}

/* Blocks of 256 threads for `across` threads to a row, in parts of at most `most`. */
static dim3 threads_of(int64_t across, int most) {
    int x = power_of_two(across, most);
    return dim3((unsigned)x, (unsigned)(GPU_THREADS / x));
}
static dim3 blocks_of(const struct quant_job &j, int64_t across, dim3 threads) {
    int64_t x = (across + threads.x - 1) / threads.x;
    return dim3((unsigned)x, gpu_blocks(j.rows, threads.y, x < ENOUGH_BLOCKS ? ENOUGH_BLOCKS / x : 1));
}

template <int KIND, int BLOCKS, int V> static void known(struct cuda_gpu *g, const struct quant_job &j) {
    int64_t across = j.cols / V;
    dim3 threads = threads_of(across, WARP), blocks = blocks_of(j, across, threads);
    LAUNCH((known_k<KIND, BLOCKS, V>), blocks, threads, 0, g->stream, j);
}
template <int KIND, int V> static void measured(struct cuda_gpu *g, const struct quant_job &j) {
    int team = power_of_two(j.grid.cols / V, GPU_THREADS);
    int64_t across = j.cols / j.grid.cols * team;
    dim3 threads = threads_of(across, team > WARP ? team : WARP), blocks = blocks_of(j, across, threads);
    if (V > 1 && j.grid.cols > (int64_t)team * V)
        LAUNCH((measured_k < KIND, V, V == 1 ? 1 : HELD >), blocks, threads, 0, g->stream, j, team);
    else
        LAUNCH((measured_k<KIND, V, 1>), blocks, threads, 0, g->stream, j, team);
}

/* Whether four neighbours lie on 16 bytes and in one block, everywhere. */
static bool by_four(const struct quant_job &j, bool blocks) {
    uintptr_t low = (uintptr_t)j.x | (uintptr_t)j.y;
    int64_t counts = j.cols | j.ldx | j.ldy;
    if (blocks) counts |= j.grid.cols | (j.maxima ? j.grid.col0 : 0);
    return low % 16 == 0 && counts % 4 == 0;
}

template <int KIND, int BLOCKS> static void run(struct cuda_gpu *g, const struct quant_job &j) {
    bool four = by_four(j, BLOCKS) && packed_by(j.packed, 4);
    if constexpr (BLOCKS)
        if (!j.maxima) {
            four ? measured<KIND, 4>(g, j) : measured<KIND, 1>(g, j);
            return;
        }
    four ? known<KIND, BLOCKS, 4>(g, j) : known<KIND, BLOCKS, 1>(g, j);
}

int gpu_fake_quant(struct cuda_gpu *g, const struct fake_quant_args *a) {
    struct quant_job j = {
        gpu_f32(a->x), gpu_f32(a->amax), gpu_f32(a->maxima),   gpu_f32(a->y), a->rows, a->cols, a->ldx, a->ldy,
        a->round_bf16, a->grid,          packed_of(&a->packed)};
    if (a->rows <= 0 || a->cols <= 0) return 0;
    switch (a->kind) {
#define FQ(KIND, name, blocks, of_amax, of_top, of_x) \
    case FQ_##KIND:                                   \
        run<FQ_##KIND, blocks>(g, j);                 \
        break;
#include "dev/quant.def"
#undef FQ
    default: return gpu_fail(TM_ERR_INTERNAL, "fake_quant: kind %d does not exist", a->kind);
    }
    return gpu_launched("fake_quant");
}
