/* Attention with bf16 factors on tensor cores (mma.sync m16n8k16), fp32 sums: a block has 128 left rows, 16 a warp, and walks over tiles of 64.
 *
 * Inside a product the tensor core adds in its own way, and exp is ex2.approx, so these are not the host's bits; they do not depend on the grid.
 * Bound: NMSE <= 6e-5 against fp64 of the factors before rounding, as for the host's bf16.
 *
 * Factors are rounded and laid out by head once (6 bytes an element), since a right tile is read from L2 by every left tile that sees it: forward
 * 128 * 64 * 4 * D FLOPs for 64 * 2 * D * 2 bytes, 128 FLOPs a byte of L2. Scores stay in registers: as accumulators of one product they are
 * the left factor of the next. Two stages of right tiles: one arrives while the other is used. */
#include "attn_bf16.h"

enum { ROWS = 128, WARPS = ROWS / 16, STAGES = 2 };
static_assert(WARPS * WARP == ATTN_THREADS, "a warp has 16 left rows");

/* Rows in shared memory are 16 bytes longer than D channels: 8 rows at one channel lie in different banks. */
template <int D> struct bf16_size {
    enum { LD = D + 8, LEFT = ROWS * LD, RIGHT = TILE * LD };
};

/* --- packing: x [b, from each n rows of `step`, heads, d] -> y [b, heads, n, D] of bf16, zeros from channel d on ------------------ */
struct bf16_pack {
    const float *x;
    int64_t ld, step, n, heads, d, wide, total; /* wide: D; total: groups of 8 channels */
    uint4 *y;
};
/* All arrays of a call, one for each y of the grid. */
struct bf16_packs {
    struct bf16_pack at[4];
    int n;
};
static __global__ void attn_pack_k(struct bf16_packs all) {
    const struct bf16_pack &p = all.at[blockIdx.y];
    GPU_EACH(i, p.total) {
        const int64_t groups = p.wide / 8, c = i % groups * 8, h = i / groups % p.heads, row = i / groups / p.heads,
                      seq = row / p.n, r = row % p.n;
        const float *x = p.x + (seq * p.step + r) * p.ld + h * p.d + c;
        uint32_t out[4];
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const uint32_t lo = c + 2 * e < p.d ? bf16_encode(x[2 * e]) : 0,
                           hi = c + 2 * e + 1 < p.d ? bf16_encode(x[2 * e + 1]) : 0;
            out[e] = lo | hi << 16;
        }
        p.y[((seq * p.heads + h) * p.n + r) * groups + c / 8] = make_uint4(out[0], out[1], out[2], out[3]);
    }
}
static void add_pack(struct bf16_packs *all, dptr x, int64_t ld, int64_t b, int64_t step, int64_t n, int64_t heads,
                     int64_t d, int64_t wide, bf16_t *y) {
    all->at[all->n++] = {gpu_f32(x), ld, step, n, heads, d, wide, b * n * heads * (wide / 8), (uint4 *)y};
}
static void pack(struct cuda_gpu *g, const struct bf16_packs &all) {
    int64_t most = 0;
    for (int i = 0; i < all.n; i++) most = all.at[i].total > most ? all.at[i].total : most;
    LAUNCH(attn_pack_k, dim3(gpu_blocks(most, GPU_THREADS), (unsigned)all.n), GPU_THREADS, 0, g->stream, all);
}

/* --- tiles ---------------------------------------------------------------------------------------------------------------------- */
/* R packed rows, of which n exist, to shared memory; zeros for the rest. */
template <int D, int R> static __device__ ATTN_PART void copy_tile(bf16_t *to, const bf16_t *x, int n) {
    for (int i = threadIdx.x; i < R * (D / 8); i += ATTN_THREADS) {
        bf16_t *y = to + i / (D / 8) * bf16_size<D>::LD + i % (D / 8) * 8;
        if (i / (D / 8) < n)
            cp_async16(y, x + (int64_t)i * 8);
        else
            *reinterpret_cast<uint4 *>(y) = make_uint4(0, 0, 0, 0);
    }
}
/* The tiles of a walk, one stage ahead: both matrices of each. */
template <int D, class Walk> struct bf16_feed {
    Walk ahead;
    bf16_t *stages;
    int at;
    bool live;

    __device__ __forceinline__ bf16_feed(const Walk &w, bf16_t *shared) : ahead(w), stages(shared), at(0) {
        live = ahead.next();
        fill(0);
    }
    __device__ ATTN_PART void fill(int stage) {
        bf16_t *to = stages + stage * 2 * bf16_size<D>::RIGHT;
        if (live) {
            copy_tile<D, TILE>(to, ahead.row(0), ahead.n());
            copy_tile<D, TILE>(to + bf16_size<D>::RIGHT, ahead.row(1), ahead.n());
            live = ahead.next();
        }
        cp_async_commit();
    }
    /* The next tile, matrix 0, and behind it matrix 1; give it back by `done`. All threads. */
    __device__ __forceinline__ const bf16_t *take() {
        fill(at ^ 1);
        cp_async_wait<STAGES - 1>();
        __syncthreads();
        return stages + at * 2 * bf16_size<D>::RIGHT;
    }
    __device__ __forceinline__ void done() {
        __syncthreads();
        at ^= 1;
    }
};

/* --- products of a warp --------------------------------------------------------------------------------------------------------- */
/* Accumulators [16, 8 n]: lane 4 g + t has rows g and g + 8, columns 8 j + 2 t + {0, 1}: element e is row g + e / 2 * 8, column .. + e % 2. */
static __device__ __forceinline__ void mma_pair(float (&c)[4], float (&d)[4], const uint32_t (&a)[4],
                                                const uint32_t (&b)[4]) {
    const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
    mma_m16n8k16_bf16(c, a, left);
    mma_m16n8k16_bf16(d, a, right);
}
/* s = left [16, D] right [TILE, D]' */
template <int D>
static __device__ ATTN_PART void channels_product(float (&s)[8][4], const bf16_t *left, const bf16_t *right) {
    enum { LD = bf16_size<D>::LD };
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[j][e] = 0;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        uint32_t a[4], b[4];
        ldmatrix_x4(a, left + lane % 16 * LD + k + lane / 16 * 8);
#pragma unroll
        for (int j = 0; j < 8; j += 2) {
            ldmatrix_x4(b, right + (j * 8 + lane % 8 + lane / 16 * 8) * LD + k + lane / 8 % 2 * 8);
            mma_pair(s[j], s[j + 1], a, b);
        }
    }
}
/* acc [16, D] += s [16, TILE] right [TILE, D], s rounded */
template <int D>
static __device__ ATTN_PART void rows_product(float (&acc)[D / 8][4], const float (&s)[8][4], const bf16_t *right) {
    enum { LD = bf16_size<D>::LD };
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const float(&x)[4] = s[2 * k], (&y)[4] = s[2 * k + 1];
        const uint32_t a[4] = {attn_pair(x[0], x[1]), attn_pair(x[2], x[3]), attn_pair(y[0], y[1]),
                               attn_pair(y[2], y[3])};
        uint32_t b[4];
#pragma unroll
        for (int j = 0; j < D / 8; j += 2) {
            ldmatrix_x4_trans(b, right + (k * 16 + lane % 16) * LD + j * 8 + lane / 16 * 8);
            mma_pair(acc[j], acc[j + 1], a, b);
        }
    }
}

/* --- forward -------------------------------------------------------------------------------------------------------------------- */
/* Scores become probabilities under the running maximum of their row (in units of log2); sums are of this lane's columns. */
template <int D>
static __device__ ATTN_PART void softmax(float (&s)[8][4], float (&acc)[D / 8][4], float (&top)[2], float (&sum)[2]) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
        float m = -INFINITY;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            m = s[j][2 * e] > m ? s[j][2 * e] : m;
            m = s[j][2 * e + 1] > m ? s[j][2 * e + 1] : m;
        }
        m = quad_max(m);
        m = top[e] > m ? top[e] : m;
        const float base = m == -INFINITY ? 0.0f : m, alpha = exp2_fast(top[e] - base);
        top[e] = m;
        sum[e] *= alpha;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            sum[e] += s[j][2 * e] = exp2_fast(s[j][2 * e] - base);
            sum[e] += s[j][2 * e + 1] = exp2_fast(s[j][2 * e + 1] - base);
        }
#pragma unroll
        for (int j = 0; j < D / 8; j++) acc[j][2 * e] *= alpha, acc[j][2 * e + 1] *= alpha;
    }
}

/* 128 queries of one head. q, k, v: packed; k and v have t0 + T rows a head. */
template <int D>
static __global__ void __launch_bounds__(ATTN_THREADS, 1)
    attn_fwd_bf16_k(struct attn_fwd_args a, struct packed_out o, const bf16_t *q, const bf16_t *k, const bf16_t *v) {
    enum { LD = bf16_size<D>::LD };
    DYN_SHARED(bf16_t, left);
    const int lane = threadIdx.x % WARP, r0 = threadIdx.x / WARP * 16, d = (int)a.d;
    const int64_t per = a.b * a.hq, i = blockIdx.x % per, seq = i / a.hq, head = i % a.hq,
                  kv = seq * a.hkv + head / (a.hq / a.hkv);
    const int q0 = (int)(gridDim.x / per - 1 - blockIdx.x / per) * ROWS,
              rows = least(ROWS, a.t - q0); /* the long ones first */
    const int64_t token = seq * a.t + q0, keys = a.t0 + a.t;
    const int32_t *first = a.first.a ? attn_ptr<int32_t>(a.first) + token : nullptr;
    const float factor = a.scale * LOG2E;
    struct attn_key_walk<bf16_t> w = {
        .k = k + kv * keys * D, .v = v + kv * keys * D, .ld = {D, D}, .window = a.window, .first = first,
        .at = (int)a.t0 + q0, .rows = rows, .k0 = attn_begin((int)a.t0 + q0, a.window)
    };
    float acc[D / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    int lo[2], at[2]; /* what the lane's two rows see: keys lo .. at */

    copy_tile<D, ROWS>(left, q + (i * a.t + q0) * D, rows);
#pragma unroll
    for (int e = 0; e < 2; e++) {
        const int row = r0 + lane / 4 + 8 * e;
        at[e] = row < rows ? w.at + row : -1;
        lo[e] = row < rows ? attn_lo(first ? first + row : nullptr, at[e], a.window) : 0;
    }
    bf16_feed<D, attn_key_walk<bf16_t>> feed(w, left + bf16_size<D>::LEFT);
    while (w.next()) {
        const bf16_t *right = feed.take();
        const bool whole = w.k0 >= lo[0] && w.k0 >= lo[1] && w.k0 + TILE - 1 <= at[0] && w.k0 + TILE - 1 <= at[1];
        float s[8][4];
        channels_product<D>(s, left + r0 * LD, right);
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[j][e] *= factor;
        if (!__all_sync(0xffffffffu, whole)) {
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int key = w.k0 + 8 * j + lane % 4 * 2 + e % 2;
                    if (key < lo[e / 2] || key > at[e / 2]) s[j][e] = -INFINITY;
                }
        }
        softmax<D>(s, acc, top, sum);
        rows_product<D>(acc, s, right + bf16_size<D>::RIGHT);
        feed.done();
    }
    cp_async_wait<0>();
#pragma unroll
    for (int e = 0; e < 2; e++) {
        const int64_t row = token + r0 + lane / 4 + 8 * e;
        const float all = quad_sum(sum[e]), inverse = all == 0 ? 0 : 1.0f / all;
        if (at[e] < 0) continue;
        if (a.o.a) attn_store_row<D>(attn_ptr<float>(a.o) + row * a.ldo + head * d, &acc[0][0], e, inverse, d);
        if (o.codes) attn_pack_row<D>(o, row, head * d, &acc[0][0], e, inverse, d);
        if (lane % 4 == 0)
            attn_ptr<float>(a.lse)[row * a.hq + head] =
                all == 0 ? -INFINITY : (float)((double)top[e] * LN2 + vmath_log_wide(all));
    }
}

/* --- backward ------------------------------------------------------------------------------------------------------------------- */
/* dq of 128 queries of one head: scores and dp by channels, then ds k. */
template <int D>
static __global__ void __launch_bounds__(ATTN_THREADS, 1)
    attn_dq_bf16_k(struct attn_bwd_args a, const bf16_t *q, const bf16_t *g, const bf16_t *k, const bf16_t *v) {
    enum { LD = bf16_size<D>::LD, LEFT = bf16_size<D>::LEFT };
    DYN_SHARED(bf16_t, left);
    const int lane = threadIdx.x % WARP, r0 = threadIdx.x / WARP * 16, d = (int)a.d;
    const int64_t per = a.b * a.hq, i = blockIdx.x % per, seq = i / a.hq, head = i % a.hq,
                  kv = seq * a.hkv + head / (a.hq / a.hkv);
    const int q0 = (int)(gridDim.x / per - 1 - blockIdx.x / per) * ROWS,
              rows = least(ROWS, a.t - q0); /* the long ones first */
    const int64_t token = seq * a.t + q0;
    const int32_t *first = a.first.a ? attn_ptr<int32_t>(a.first) + token : nullptr;
    struct attn_key_walk<bf16_t> w = {
        .k = k + kv * a.t * D, .v = v + kv * a.t * D, .ld = {D, D}, .window = a.window, .first = first, .at = q0,
        .rows = rows, .k0 = attn_begin(q0, a.window)
    };
    float acc[D / 8][4] = {}, lse[2], delta[2]; /* lse in units of log2 */
    int lo[2], at[2];

    copy_tile<D, ROWS>(left, q + (i * a.t + q0) * D, rows);
    copy_tile<D, ROWS>(left + LEFT, g + (i * a.t + q0) * D, rows);
#pragma unroll
    for (int e = 0; e < 2; e++) {
        const int row = r0 + lane / 4 + 8 * e;
        const bool live = row < rows;
        at[e] = live ? q0 + row : -1;
        lo[e] = live ? attn_lo(first ? first + row : nullptr, at[e], a.window) : 0;
        lse[e] = live ? attn_ptr<float>(a.lse)[(token + row) * a.hq + head] * LOG2E : 0;
        delta[e] = live ? attn_ptr<float>(a.delta)[(token + row) * a.hq + head] : 0;
    }
    bf16_feed<D, attn_key_walk<bf16_t>> feed(w, left + 2 * LEFT);
    while (w.next()) {
        const bf16_t *right = feed.take();
        float s[8][4], dp[8][4];
        channels_product<D>(s, left + r0 * LD, right);
        channels_product<D>(dp, left + LEFT + r0 * LD, right + bf16_size<D>::RIGHT);
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int key = w.k0 + 8 * j + lane % 4 * 2 + e % 2, h = e / 2;
                const float p = exp2_fast(fmaf(s[j][e], a.scale * LOG2E, -lse[h]));
                dp[j][e] = key >= lo[h] && key <= at[h] ? p * (dp[j][e] - delta[h]) * a.scale : 0.0f;
            }
        rows_product<D>(acc, dp, right);
        feed.done();
    }
    cp_async_wait<0>();
#pragma unroll
    for (int e = 0; e < 2; e++)
        if (at[e] >= 0)
            attn_store_row<D>(attn_ptr<float>(a.dq) + (token + r0 + lane / 4 + 8 * e) * a.ldq + head * d, &acc[0][0], e,
                              1, d);
}

/* dk and dv of 128 keys of one KV head: transposed, keys are the left rows. What the columns need lies in shared memory: [3][TILE]. */
template <int D>
static __global__ void __launch_bounds__(ATTN_THREADS, 1)
    attn_dkv_bf16_k(struct attn_bwd_args a, const bf16_t *q, const bf16_t *g, const bf16_t *k, const bf16_t *v) {
    enum { LD = bf16_size<D>::LD, LEFT = bf16_size<D>::LEFT };
    DYN_SHARED(bf16_t, left);
    float *lse = reinterpret_cast<float *>(left + 2 * LEFT + STAGES * 2 * bf16_size<D>::RIGHT), *delta = lse + TILE;
    int *lo = reinterpret_cast<int *>(delta + TILE);
    const int lane = threadIdx.x % WARP, r0 = threadIdx.x / WARP * 16, d = (int)a.d, group = (int)(a.hq / a.hkv);
    const int64_t per = a.b * a.hkv, i = blockIdx.x % per, seq = i / a.hkv, kv = i % a.hkv, token = seq * a.t;
    const int k0 = (int)(blockIdx.x / per) * ROWS, keys = least(ROWS, a.t - k0);
    struct attn_query_walk<bf16_t> w = {
        .q = q + i * group * a.t * D, .g = g + i * group * a.t * D, .ld = {D, D}, .window = a.window, .step = a.t * D,
        .first = a.first.a ? attn_ptr<int32_t>(a.first) + token : nullptr, .t = (int)a.t, .heads = group, .k0 = k0,
        .k1 = k0 + ROWS, .end = least(a.t, a.window ? k0 + ROWS + a.window - 1 : a.t), .head = 0, .q0 = k0 - TILE
    };
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};

    copy_tile<D, ROWS>(left, k + (i * a.t + k0) * D, keys);
    copy_tile<D, ROWS>(left + LEFT, v + (i * a.t + k0) * D, keys);
    bf16_feed<D, attn_query_walk<bf16_t>> feed(w, left + 2 * LEFT);
    while (w.next()) {
        if (threadIdx.x < TILE) {
            const int x = threadIdx.x, at = w.q0 + x;
            const int64_t row = (token + at) * a.hq + kv * group + w.head;
            const bool live = x < w.n();
            lse[x] = live ? attn_ptr<float>(a.lse)[row] * LOG2E : 0;
            delta[x] = live ? attn_ptr<float>(a.delta)[row] : 0;
            lo[x] = live ? attn_lo(w.first ? w.first + at : nullptr, at, a.window) : INT32_MAX;
        }
        const bf16_t *right = feed.take();
        float s[8][4], dp[8][4];
        channels_product<D>(s, left + r0 * LD, right);
        channels_product<D>(dp, left + LEFT + r0 * LD, right + bf16_size<D>::RIGHT);
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int x = 8 * j + lane % 4 * 2 + e % 2, key = k0 + r0 + lane / 4 + e / 2 * 8;
                const float p = exp2_fast(fmaf(s[j][e], a.scale * LOG2E, -lse[x]));
                const bool seen = key >= lo[x] && key <= w.q0 + x;
                s[j][e] = seen ? p : 0.0f;
                dp[j][e] = seen ? p * (dp[j][e] - delta[x]) * a.scale : 0.0f;
            }
        rows_product<D>(dv, s, right + bf16_size<D>::RIGHT);
        rows_product<D>(dk, dp, right);
        feed.done();
    }
    cp_async_wait<0>();
#pragma unroll
    for (int e = 0; e < 2; e++) {
        const int key = r0 + lane / 4 + 8 * e;
        if (key >= keys) continue;
        attn_store_row<D>(attn_ptr<float>(a.dk) + (token + k0 + key) * a.ldk + kv * d, &dk[0][0], e, 1, d);
        attn_store_row<D>(attn_ptr<float>(a.dv) + (token + k0 + key) * a.ldv + kv * d, &dv[0][0], e, 1, d);
    }
}

/* --- launching ------------------------------------------------------------------------------------------------------------------ */
template <int D> static int forward(struct cuda_gpu *g, const struct attn_fwd_args *a, bool *done) {
    const size_t shared = (bf16_size<D>::LEFT + STAGES * 2 * bf16_size<D>::RIGHT) * sizeof(bf16_t);
    const bool wgmma = g->attn_wgmma && a->scale > 0;
    const int64_t keys = a->t0 + a->t, nq = a->b * a->hq * a->t * D, nkv = a->b * a->hkv * keys * D;
    auto kernel = attn_fwd_bf16_k<D>;
    void *work;
    if (!(*done = wgmma || attn_fits(kernel, shared))) return 0;
    GPU_TRY(gpu_work(g, (size_t)(nq + 2 * nkv) * sizeof(bf16_t), &work));
    bf16_t *q = (bf16_t *)work, *k = q + nq, *v = k + nkv;
    const int64_t step = a->tk ? a->tk : a->t;
    struct bf16_packs all = {};
    add_pack(&all, a->q, a->ldq, a->b, a->t, a->t, a->hq, a->d, D, q);
    add_pack(&all, a->k, a->ldk, a->b, step, keys, a->hkv, a->d, D, k);
    add_pack(&all, a->v, a->ldv, a->b, step, keys, a->hkv, a->d, D, v);
    pack(g, all);
    if (wgmma) return attn_wgmma_fwd(g, a, q, k, v);
    LAUNCH(kernel, (unsigned)(a->b * a->hq * ((a->t + ROWS - 1) / ROWS)), ATTN_THREADS, shared, g->stream, *a,
           packed_of(&a->packed), q, k, v);
    return gpu_launched("attn_fwd");
}
template <int D> static int backward(struct cuda_gpu *g, const struct attn_bwd_args *a, bool *done) {
    const size_t shared = (2 * bf16_size<D>::LEFT + STAGES * 2 * bf16_size<D>::RIGHT) * sizeof(bf16_t),
                 columns = 3 * TILE * sizeof(float);
    const int64_t nq = a->b * a->hq * a->t * D, nkv = a->b * a->hkv * a->t * D, tiles = (a->t + ROWS - 1) / ROWS;
    auto dq = attn_dq_bf16_k<D>;
    auto dkv = attn_dkv_bf16_k<D>;
    void *work;
    if (!(*done = g->attn_bwd_wgmma || (attn_fits(dq, shared) && attn_fits(dkv, shared + columns)))) return 0;
    GPU_TRY(gpu_work(g, (size_t)(2 * nq + 2 * nkv) * sizeof(bf16_t), &work));
    bf16_t *q = (bf16_t *)work, *dout = q + nq, *k = dout + nq, *v = k + nkv;
    struct bf16_packs all = {};
    add_pack(&all, a->q, a->ldq, a->b, a->t, a->t, a->hq, a->d, D, q);
    add_pack(&all, a->dout, a->ldo, a->b, a->t, a->t, a->hq, a->d, D, dout);
    add_pack(&all, a->k, a->ldk, a->b, a->t, a->t, a->hkv, a->d, D, k);
    add_pack(&all, a->v, a->ldv, a->b, a->t, a->t, a->hkv, a->d, D, v);
    pack(g, all);
    if (g->attn_bwd_wgmma) return attn_wgmma_bwd(g, a, q, dout, k, v);
    LAUNCH(dkv, (unsigned)(a->b * a->hkv * tiles), ATTN_THREADS, shared + columns, g->stream, *a, q, dout, k, v);
    LAUNCH(dq, (unsigned)(a->b * a->hq * tiles), ATTN_THREADS, shared, g->stream, *a, q, dout, k, v);
    return gpu_launched("attn_bwd");
}
int attn_bf16_fwd(struct cuda_gpu *g, const struct attn_fwd_args *a, bool *done) {
    *done = false;
    if (a->t <= ATTN_FEW || a->d > 128) return 0;
    return a->d <= 64 ? forward<64>(g, a, done) : forward<128>(g, a, done);
}
int attn_bf16_bwd(struct cuda_gpu *g, const struct attn_bwd_args *a, bool *done) {
    *done = false;
    if (a->t <= ATTN_FEW || a->d > 128) return 0;
    return a->d <= 64 ? backward<64>(g, a, done) : backward<128>(g, a, done);
}
