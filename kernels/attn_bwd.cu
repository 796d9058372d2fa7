/* Gradients of causal grouped-query attention: probabilities are recomputed from the log-sum, twice, so that no sum needs an atomic.
 *
 * One kernel owns tiles of 64 queries and makes dq, a chain over keys rising; the other owns tiles of 64 keys of a KV head and makes dk and dv,
 * chains over the q heads of the group, then query rows rising: host_attn.c's orders. A pair of tiles costs 7 products of 2 * 64 * 64 * D FLOPs
 * (5 if one kernel did both) for 7 * 64 * D floats from L2: compute-bound. */
#include "attn.h"
#include "base/vmath.h"

/* delta [N, hq] = sum over channels of dout * o: 16 lanes a row and head. */
static __global__ void attn_delta_k(struct attn_bwd_args a) {
    const int64_t i = (int64_t)blockIdx.x * (ATTN_THREADS / LANES) + threadIdx.x / LANES;
    const bool live = i < a.b * a.t * a.hq;
    const int64_t at = live ? i / a.hq * a.ldo + i % a.hq * a.d : 0;
    const float *o = attn_ptr<float>(a.o) + at, *g = attn_ptr<float>(a.dout) + at;
    float sum = 0;
    for (int64_t c = threadIdx.x % LANES; live && c < a.d; c += LANES) sum += g[c] * o[c];
#pragma unroll
    for (int x = 8; x; x /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, x);
    if (live && threadIdx.x % LANES == 0) attn_ptr<float>(a.delta)[i] = sum;
}

/* Of one score and dp = dout . v: the probability, and the gradient of the unscaled score. */
static __device__ __forceinline__ void attn_grad(bool seen, float scale, float lse, float delta, float *s, float *dp) {
    const float x = vmath_exp(*s * scale - lse), y = x * (*dp - delta) * scale;
    *s = seen ? x : 0.0f;
    *dp = seen ? y : 0.0f;
}

template <int D>
static constexpr size_t attn_bwd_shared = (SLOTS * SLOT + TILE * (P_LD + 2 * attn_size<D>::LD)) * sizeof(float);

/* dq of 64 queries of one head. Passes of a tile of keys: k and v by channels, k by rows. */
template <int D>
static __global__ void __launch_bounds__(ATTN_THREADS, D <= 128 ? 2 : 1) attn_dq_k(struct attn_bwd_args a) {
    enum { TR = TILE / LANES, LD = attn_size<D>::LD, ROWS = attn_size<D>::ROWS };
    DYN_SHARED(float, shared);
    float *q = shared + SLOTS * SLOT, *g = q + TILE * LD, *p = g + TILE * LD;
    const int ty = threadIdx.x / LANES, tx = threadIdx.x % LANES, d = (int)a.d;
    const int64_t per = a.b * a.hq, i = blockIdx.x % per, seq = i / a.hq, head = i % a.hq, kv = head / (a.hq / a.hkv);
    const int q0 = (int)(gridDim.x / per - 1 - blockIdx.x / per) * TILE,
              rows = least(TILE, a.t - q0); /* the long ones first */
    const int64_t token = seq * a.t + q0;
    const int32_t *first = a.first.a ? attn_ptr<int32_t>(a.first) + token : nullptr;
    struct attn_key_walk<float> w = {
        .k = attn_ptr<float>(a.k) + seq * a.t * a.ldk + kv * a.d,
        .v = attn_ptr<float>(a.v) + seq * a.t * a.ldv + kv * a.d, .ld = {a.ldk, a.ldv}, .window = a.window,
        .first = first, .at = q0, .rows = rows, .k0 = attn_begin(q0, a.window)
    };
    float acc[TR][D / LANES], lse[TR], delta[TR];
    int lo[TR], at[TR]; /* what the rows see: keys lo .. at */

    attn_copy<TILE, D, LD>(q, attn_ptr<float>(a.q) + token * a.ldq + head * d, a.ldq, rows, d);
    attn_copy<TILE, D, LD>(g, attn_ptr<float>(a.dout) + token * a.ldo + head * d, a.ldo, rows, d);
#pragma unroll
    for (int r = 0; r < TR; r++) {
        const int row = ty * TR + r;
        const bool live = row < rows;
        at[r] = live ? q0 + row : -1;
        lo[r] = live ? attn_lo(first ? first + row : nullptr, at[r], a.window) : 0;
        lse[r] = live ? attn_ptr<float>(a.lse)[(token + row) * a.hq + head] : 0;
        delta[r] = live ? attn_ptr<float>(a.delta)[(token + row) * a.hq + head] : 0;
#pragma unroll
        for (int c = 0; c < D / LANES; c++) acc[r][c] = 0;
    }
    attn_feed<D, attn_key_walk<float>, 3, 2, 4> feed(w, shared, d, a.bf16);
    feed.template round_left<TILE, LD>(q);
    feed.template round_left<TILE, LD>(g);
    while (w.next()) {
        float s[TR][4] = {}, dp[TR][4] = {};
        for (int c = 0; c < d; c += CHUNK) attn_channels<TR, LD>(s, q + ty * TR * LD + c, feed.channels(), tx);
        for (int c = 0; c < d; c += CHUNK) attn_channels<TR, LD>(dp, g + ty * TR * LD + c, feed.channels(), tx);
#pragma unroll
        for (int r = 0; r < TR; r++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int key = w.k0 + tx + LANES * j;
                attn_grad(key >= lo[r] && key <= at[r], a.scale, lse[r], delta[r], &s[r][j], &dp[r][j]);
                p[(ty * TR + r) * P_LD + tx + LANES * j] = attn_factor(a.bf16, dp[r][j]);
            }
        __syncwarp(); /* a row is read by its own 16 lanes */
        const int n = w.n();
        for (int r = 0; r < n; r += ROWS) attn_rows<TR, D>(acc, p + ty * TR * P_LD + r, feed.rows() + tx * G, n - r);
    }
    cp_async_wait<0>();
#pragma unroll
    for (int r = 0; r < TR; r++)
        if (at[r] >= 0)
            attn_store<D>(attn_ptr<float>(a.dq) + (token + ty * TR + r) * a.ldq + head * d, acc[r], 1, d, tx);
}

/* dk and dv of 64 keys of one KV head. Passes of a tile of queries: q and dout by channels, dout and q by rows. Products are transposed:
 * keys are the left rows. */
template <int D>
static __global__ void __launch_bounds__(ATTN_THREADS, D <= 128 ? 2 : 1) attn_dkv_k(struct attn_bwd_args a) {
    enum { TR = TILE / LANES, LD = attn_size<D>::LD, ROWS = attn_size<D>::ROWS };
    DYN_SHARED(float, shared);
    float *k = shared + SLOTS * SLOT, *v = k + TILE * LD, *p = v + TILE * LD;
    const int ty = threadIdx.x / LANES, tx = threadIdx.x % LANES, d = (int)a.d, group = (int)(a.hq / a.hkv);
    const int64_t per = a.b * a.hkv, i = blockIdx.x % per, seq = i / a.hkv, kv = i % a.hkv, token = seq * a.t;
    const int k0 = (int)(blockIdx.x / per) * TILE, keys = least(TILE, a.t - k0);
    const float *lse = attn_ptr<float>(a.lse) + token * a.hq + kv * group,
                *delta = attn_ptr<float>(a.delta) + token * a.hq + kv * group;
    struct attn_query_walk<float> w = {
        .q = attn_ptr<float>(a.q) + token * a.ldq + kv * group * d,
        .g = attn_ptr<float>(a.dout) + token * a.ldo + kv * group * d, .ld = {a.ldq, a.ldo}, .window = a.window,
        .step = d, .first = a.first.a ? attn_ptr<int32_t>(a.first) + token : nullptr, .t = (int)a.t, .heads = group,
        .k0 = k0, .k1 = k0 + TILE, .end = least(a.t, a.window ? k0 + TILE + a.window - 1 : a.t), .head = 0,
        .q0 = k0 - TILE
    };
    float dk[TR][D / LANES], dv[TR][D / LANES];

    attn_copy<TILE, D, LD>(k, attn_ptr<float>(a.k) + (token + k0) * a.ldk + kv * d, a.ldk, keys, d);
    attn_copy<TILE, D, LD>(v, attn_ptr<float>(a.v) + (token + k0) * a.ldv + kv * d, a.ldv, keys, d);
#pragma unroll
    for (int r = 0; r < TR; r++)
#pragma unroll
        for (int c = 0; c < D / LANES; c++) dk[r][c] = dv[r][c] = 0;
    attn_feed<D, attn_query_walk<float>, 4, 6, 12> feed(w, shared, d, a.bf16);
    feed.template round_left<TILE, LD>(k);
    feed.template round_left<TILE, LD>(v);
    while (w.next()) {
        float s[TR][4] = {}, dp[TR][4] = {};
        const int n = w.n();
        for (int c = 0; c < d; c += CHUNK) attn_channels<TR, LD>(s, k + ty * TR * LD + c, feed.channels(), tx);
        for (int c = 0; c < d; c += CHUNK) attn_channels<TR, LD>(dp, v + ty * TR * LD + c, feed.channels(), tx);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int x = tx + LANES * j, at = w.q0 + x;
            const bool live = x < n;
            const int lo = live ? attn_lo(w.first ? w.first + at : nullptr, at, a.window) : 0;
            const float l = live ? lse[at * a.hq + w.head] : 0, e = live ? delta[at * a.hq + w.head] : 0;
#pragma unroll
            for (int r = 0; r < TR; r++) {
                const int key = k0 + ty * TR + r;
                attn_grad(live && key >= lo && key <= at, a.scale, l, e, &s[r][j], &dp[r][j]);
                p[(ty * TR + r) * P_LD + x] = attn_factor(a.bf16, s[r][j]);
            }
        }
        __syncwarp(); /* a row is read by its own 16 lanes */
        for (int r = 0; r < n; r += ROWS) attn_rows<TR, D>(dv, p + ty * TR * P_LD + r, feed.rows() + tx * G, n - r);
        __syncwarp();
#pragma unroll
        for (int r = 0; r < TR; r++)
#pragma unroll
            for (int j = 0; j < 4; j++) p[(ty * TR + r) * P_LD + tx + LANES * j] = attn_factor(a.bf16, dp[r][j]);
        __syncwarp();
        for (int r = 0; r < n; r += ROWS) attn_rows<TR, D>(dk, p + ty * TR * P_LD + r, feed.rows() + tx * G, n - r);
    }
    cp_async_wait<0>();
#pragma unroll
    for (int r = 0; r < TR; r++) {
        const int64_t row = token + k0 + ty * TR + r;
        if (ty * TR + r >= keys) continue;
        attn_store<D>(attn_ptr<float>(a.dk) + row * a.ldk + kv * d, dk[r], 1, d, tx);
        attn_store<D>(attn_ptr<float>(a.dv) + row * a.ldv + kv * d, dv[r], 1, d, tx);
    }
}

template <int D> static int attn_bwd_for(struct cuda_gpu *g, const struct attn_bwd_args *a) {
    auto dq = attn_dq_k<D>;
    auto dkv = attn_dkv_k<D>;
    const size_t shared = attn_bwd_shared<D>;
    const int64_t tiles = (a->t + TILE - 1) / TILE;
    if (!attn_fits(dq, shared) || !attn_fits(dkv, shared)) return attn_too_large(a->d);
    LAUNCH(dkv, (unsigned)(a->b * a->hkv * tiles), ATTN_THREADS, shared, g->stream, *a);
    LAUNCH(dq, (unsigned)(a->b * a->hq * tiles), ATTN_THREADS, shared, g->stream, *a);
    return gpu_launched("attn_bwd");
}
int gpu_attn_bwd(struct cuda_gpu *g, const struct attn_bwd_args *a) {
    const int64_t rows = a->b * a->t * a->hq, each = ATTN_THREADS / LANES;
    bool done = false;
    if (rows == 0) return 0;
    LAUNCH(attn_delta_k, (unsigned)((rows + each - 1) / each), ATTN_THREADS, 0, g->stream, *a);
    if (a->bf16) GPU_TRY(attn_bf16_bwd(g, a, &done));
    return done ? 0 : ATTN_FOR_D(a->d, attn_bwd_for, g, a);
}
