/* Causal grouped-query attention, forward: a block per sequence, head and tile of 64 queries; scores never leave the chip.
 *
 * The order of every sum is host_attn.c's: scores are chains over channels, o a chain over keys rising, an online softmax over the same
 * tiles of 64 keys, 16 lanes a row. A tile of keys is 4 * 64 * 64 * D FLOPs for 2 * 64 * D floats from L2: compute-bound.
 *
 * With few queries (decoding) the q heads of a KV head share a block of 16 left rows, so keys and values are read once for the group. */
#include "attn.h"
#include "base/vmath.h"
#include "packed.h"

/* One tile of the online softmax for one row: 4 scores of each of 16 lanes become probabilities under the running maximum. Returns the factor
 * for what was summed before. */
static __device__ __forceinline__ float attn_softmax(float (&s)[4], float *top, float *sum) {
    float m = -INFINITY, part = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) m = s[j] > m ? s[j] : m;
#pragma unroll
    for (int x = 8; x; x /= 2) {
        float other = __shfl_xor_sync(0xffffffffu, m, x);
        m = other > m ? other : m;
    }
    m = *top > m ? *top : m;
    const float base = m == -INFINITY ? 0.0f : m, alpha = vmath_exp(*top - base);
#pragma unroll
    for (int j = 0; j < 4; j++) part += s[j] = vmath_exp(s[j] - base);
#pragma unroll
    for (int x = 8; x; x /= 2) part += __shfl_xor_sync(0xffffffffu, part, x);
    *top = m;
    *sum = *sum * alpha + part;
    return alpha;
}

template <int D, int R>
static constexpr size_t attn_fwd_shared = (SLOTS * SLOT + R * (P_LD + attn_size<D>::LD)) * sizeof(float);

/* The thread's columns of one row of o, packed. */
template <int D>
static __device__ ATTN_PART void attn_pack(const struct packed_out &o, int64_t row, int64_t col,
                                           const float (&x)[D / LANES], float factor, int d, int tx) {
#pragma unroll
    for (int j = 0; j < D / LANES; j++) {
        const int c = tx * G + LANES * G * (j / G) + j % G;
        const float y = x[j] * factor;
        if (c < d) packed_store<1>(o, row, col + c, &y);
    }
}

/* R left rows: row r is query q0 + r / pack of head head + r % pack. */
template <int D, int R>
static __global__ void __launch_bounds__(ATTN_THREADS, D <= 128 ? 2 : 1)
    attn_fwd_k(struct attn_fwd_args a, struct packed_out o, int pack) {
    enum { TR = R / LANES, LD = attn_size<D>::LD, ROWS = attn_size<D>::ROWS };
    DYN_SHARED(float, shared);
    float *q = shared + SLOTS * SLOT, *p = q + R * LD;
    const int ty = threadIdx.x / LANES, tx = threadIdx.x % LANES, d = (int)a.d;
    const int64_t heads = a.hq / pack, per = a.b * heads, i = blockIdx.x % per, seq = i / heads,
                  head = i % heads * pack;
    const int q0 = (int)(gridDim.x / per - 1 - blockIdx.x / per) * TILE,
              rows = least(TILE, a.t - q0); /* the long ones first */
    const int64_t token = seq * a.t + q0, kv = head / (a.hq / a.hkv), keys = seq * (a.tk ? a.tk : a.t);
    const int32_t *first = a.first.a ? attn_ptr<int32_t>(a.first) + token : nullptr;
    struct attn_key_walk<float> w = {
        .k = attn_ptr<float>(a.k) + keys * a.ldk + kv * a.d, .v = attn_ptr<float>(a.v) + keys * a.ldv + kv * a.d,
        .ld = {a.ldk, a.ldv}, .window = a.window, .first = first, .at = (int)a.t0 + q0, .rows = rows,
        .k0 = attn_begin((int)a.t0 + q0, a.window)
    };
    float acc[TR][D / LANES], top[TR], sum[TR];
    int lo[TR], at[TR]; /* what the rows see: keys lo .. at */

    for (int j = threadIdx.x; j < R * (D / 4); j += ATTN_THREADS) {
        int r = j / (D / 4), c = j % (D / 4) * 4;
        attn_copy4(q + r * LD + c, attn_ptr<float>(a.q) + (token + r / pack) * a.ldq + (head + r % pack) * d + c,
                   r < rows * pack ? d - c : 0);
    }
#pragma unroll
    for (int r = 0; r < TR; r++) {
        const int row = (ty * TR + r) / pack;
        top[r] = -INFINITY, sum[r] = 0;
        at[r] = row < rows ? w.at + row : -1;
        lo[r] = row < rows ? attn_lo(first ? first + row : nullptr, at[r], a.window) : 0;
#pragma unroll
        for (int c = 0; c < D / LANES; c++) acc[r][c] = 0;
    }
    attn_feed<D, attn_key_walk<float>, 2, 2, 2> feed(w, shared, d, a.bf16);
    feed.template round_left<R, LD>(q);
    while (w.next()) {
        float s[TR][4] = {};
        for (int c = 0; c < d; c += CHUNK) attn_channels<TR, LD>(s, q + ty * TR * LD + c, feed.channels(), tx);
#pragma unroll
        for (int r = 0; r < TR; r++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int key = w.k0 + tx + LANES * j;
                s[r][j] = key >= lo[r] && key <= at[r] ? s[r][j] * a.scale : -INFINITY;
            }
            const float alpha = attn_softmax(s[r], &top[r], &sum[r]);
            if (alpha != 1.0f) {
#pragma unroll
                for (int c = 0; c < D / LANES; c++) acc[r][c] *= alpha;
            }
#pragma unroll
            for (int j = 0; j < 4; j++) p[(ty * TR + r) * P_LD + tx + LANES * j] = attn_factor(a.bf16, s[r][j]);
        }
        __syncwarp(); /* a row's probabilities are read by its own 16 lanes */
        const int n = w.n();
        for (int r = 0; r < n; r += ROWS) attn_rows<TR, D>(acc, p + ty * TR * P_LD + r, feed.rows() + tx * G, n - r);
    }
    cp_async_wait<0>();
#pragma unroll
    for (int r = 0; r < TR; r++) {
        const int64_t row = token + (ty * TR + r) / pack, h = head + (ty * TR + r) % pack;
        if (at[r] < 0) continue;
        const float inverse = sum[r] == 0 ? 0 : 1.0f / sum[r];
        if (a.o.a) attn_store<D>(attn_ptr<float>(a.o) + row * a.ldo + h * a.d, acc[r], inverse, d, tx);
        if (o.codes) attn_pack<D>(o, row, h * a.d, acc[r], inverse, d, tx);
        if (tx == 0)
            attn_ptr<float>(a.lse)[row * a.hq + h] =
                sum[r] == 0 ? -INFINITY : (float)((double)top[r] + vmath_log_wide(sum[r]));
    }
}

template <int D, int R> static int attn_fwd_launch(struct cuda_gpu *g, const struct attn_fwd_args *a, int64_t pack) {
    auto kernel = attn_fwd_k<D, R>;
    const size_t shared = attn_fwd_shared<D, R>;
    if (!attn_fits(kernel, shared)) return attn_too_large(a->d);
    LAUNCH(kernel, (unsigned)(a->b * (a->hq / pack) * ((a->t + TILE - 1) / TILE)), ATTN_THREADS, shared, g->stream, *a,
           packed_of(&a->packed), (int)pack);
    return gpu_launched("attn_fwd");
}
template <int D> static int attn_fwd_for(struct cuda_gpu *g, const struct attn_fwd_args *a) {
    const int64_t group = a->hq / a->hkv;
    int64_t pack = 1;
    for (int64_t i = 2; i <= group && i * a->t <= ATTN_FEW; i++) pack = group % i ? pack : i;
    return a->t * pack <= ATTN_FEW ? attn_fwd_launch<D, ATTN_FEW>(g, a, pack) : attn_fwd_launch<D, TILE>(g, a, 1);
}
int gpu_attn_fwd(struct cuda_gpu *g, const struct attn_fwd_args *a) {
    bool done = false;
    if (a->b * a->t * a->hq == 0) return 0;
    if (a->bf16) GPU_TRY(attn_bf16_fwd(g, a, &done));
    if (done) return 0;
    return ATTN_FOR_D(a->d, attn_fwd_for, g, a);
}
