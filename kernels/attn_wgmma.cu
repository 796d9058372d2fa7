/* Attention forward on Hopper: wgmma fed by TMA, over the packed factors of attn_bf16.cu, with its masks and statistics. Compute capability 9.x only.
 *
 * A block has 128 queries of one head. One warp loads tiles of 128 keys and of their values into a ring of four slots, passing over tiles that
 * nobody sees; two warpgroups have 64 queries each. Their scores never leave registers: as sums of one product they are, rounded to bf16, the left
 * factor of the next. While a warpgroup takes exponentials of one tile, the tensor cores multiply the values of the tile before.
 *
 * A tile is 4 * 128 * 128 * D FLOPs for 2 * 128 * D * 2 bytes of L2: 128 FLOPs a byte. Shared memory: the queries and four slots of 256 D bytes,
 * 161 KiB with D = 128. Registers: 168 a thread, of which the loading warps give up so many that the others have 232; ptxas spills none.
 * 2048 causal queries of 32 heads of 128 over 8 KV heads are 34 GFLOP, 35 us of an H200's tensor cores (989 TFLOP/s), and 67 million exponentials,
 * 18 us (16 a clock and multiprocessor); rounding and laying out the factors moves 75 MB, 16 us, and the output is 34 MB, 7 us.
 *
 * Inside a product the tensor core adds in its own way, and the maximum runs over tiles of 128 keys where mma.sync has 64: not the bits of
 * attn_bf16.cu, but its bound, and they do not depend on the grid. CI only emulates it; so at its opening a comparison with attn_bf16.cu on the
 * device decides whether it serves. The backward: attn_bwd_wgmma.cu. */
#include "attn_wgmma.h"

enum { KEYS = 128 };
static_assert((int)ROWS == KEYS, "queries, keys and values have tiles of one size");
template <int D> struct tile_size {
    enum { TILE_BYTES = attn_tile<D, KEYS>::BYTES, SHARED = (1 + RING) * TILE_BYTES + 1024 };
};
/* What a block shares. Slots hold, in this order, keys 0, keys 1, values 0, keys 2, values 1, ...; keys END: there are no more. */
struct attn_ring {
    uint64_t queries, full[RING], empty[RING];
    int k0[RING]; /* of the tile in a slot */
};

#if HOPPER
/* --- one warp loads ------------------------------------------------------------------------------------------------------------- */
/* The next slot, by one lane. */
template <int D>
static __device__ __forceinline__ void fill(struct attn_ring *ring, struct attn_place *at, unsigned char *slots,
                                            const CUtensorMap *map, int k0, int64_t matrix) {
    const int i = at->slot;
    if (threadIdx.x % WARP == 0) {
        mbarrier_wait(&ring->empty[i], at->parity ^ 1); /* the first turn passes */
        ring->k0[i] = k0;
        if (k0 == END) {
            mbarrier_arrive(&ring->full[i]);
        } else {
            mbarrier_expect(&ring->full[i], tile_size<D>::TILE_BYTES);
            load_tile<D, KEYS>(slots + i * tile_size<D>::TILE_BYTES, map, k0, matrix, &ring->full[i]);
        }
    }
    at->next();
}
/* Queries from position `at` on, then all tiles that some of the `rows` see. */
template <int D>
static __device__ __forceinline__ void
load_tiles(const struct attn_fwd_args &a, struct attn_ring *ring, unsigned char *slots, const CUtensorMap *map_k,
           const CUtensorMap *map_v, int64_t kv, int at, int rows, const int32_t *first) {
    struct attn_place place = {0, 0};
    int k0 = attn_lo(nullptr, at, a.window) / KEYS * KEYS;
    for (int before = END;; k0 += KEYS) {
        while (k0 < at + rows && !attn_seen(first, at, rows, a.window, k0, k0 + KEYS)) k0 += KEYS;
        const bool more = k0 < at + rows;
        fill<D>(ring, &place, slots, map_k, more ? k0 : (int)END, kv);
        if (before != END) fill<D>(ring, &place, slots, map_v, before, kv);
        if (!more) break;
        before = k0;
    }
}

/* --- two warpgroups multiply ------------------------------------------------------------------------------------------------------ */
/* acc [64, D] += p [64, KEYS] v [KEYS, D], queued. */
template <int D>
static __device__ __forceinline__ void values_product(float (&acc)[D / 2], const uint32_t (&p)[KEYS / 16][4],
                                                      uint32_t v) {
    wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < KEYS / 16; kk++) rows_step<D, KEYS>(acc, p, v, kk);
    wgmma_commit();
}
/* What the thread's two rows see: keys lo .. at. */
struct attn_sight {
    int lo[2], at[2];
};
/* Scores become probabilities under the running maximum of their row (in units of log2); sums are of this lane's columns. What was summed before
 * is to be multiplied by alpha. */
static __device__ ATTN_PART void softmax(float (&s)[KEYS / 2], const struct attn_sight &see, int k0, float factor,
                                         float (&top)[2], float (&sum)[2], float (&alpha)[2]) {
    const bool whole = k0 >= see.lo[0] && k0 >= see.lo[1] && k0 + KEYS - 1 <= see.at[0] && k0 + KEYS - 1 <= see.at[1];
    if (!__all_sync(0xffffffffu, whole)) {
#pragma unroll
        for (int i = 0; i < KEYS / 2; i++) {
            const int key = k0 + i / 4 * 8 + (int)threadIdx.x % 4 * 2 + i % 2, e = i / 2 % 2;
            if (key < see.lo[e] || key > see.at[e]) s[i] = -INFINITY;
        }
    }
#pragma unroll
    for (int e = 0; e < 2; e++) {
        float m = -INFINITY;
#pragma unroll
        for (int i = 2 * e; i < KEYS / 2; i += 4) {
            m = s[i] > m ? s[i] : m;
            m = s[i + 1] > m ? s[i + 1] : m;
        }
        m = quad_max(m) * factor;
        m = top[e] > m ? top[e] : m;
        const float base = m == -INFINITY ? 0.0f : m;
        alpha[e] = exp2_fast(top[e] - base);
        top[e] = m;
        sum[e] *= alpha[e];
#pragma unroll
        for (int i = 2 * e; i < KEYS / 2; i += 4) {
            sum[e] += s[i] = exp2_fast(fmaf(s[i], factor, -base));
            sum[e] += s[i + 1] = exp2_fast(fmaf(s[i + 1], factor, -base));
        }
    }
}

/* acc [64, D], top and sum of a warpgroup's rows over all tiles of the ring. q: its queries. */
template <int D>
static __device__ __forceinline__ void attend(struct attn_ring *ring, uint32_t q, uint32_t slots,
                                              const struct attn_sight &see, float factor, float (&acc)[D / 2],
                                              float (&top)[2], float (&sum)[2]) {
    const bool one = threadIdx.x % WARP == 0;
    struct attn_place at = {0, 0};
    float s[KEYS / 2], alpha[2];
    uint32_t p[KEYS / 16][4];
    mbarrier_wait(&ring->queries, 0);
    mbarrier_wait(&ring->full[0], 0);
    const int begin = ring->k0[0];
    if (begin == END) return;
    channels_product<D, KEYS>(s, q, slots);
    wgmma_wait<0>();
    wgmma_hold(s);
    if (one) mbarrier_arrive(&ring->empty[0]);
    softmax(s, see, begin, factor, top, sum, alpha);
    round_pairs(p, s);
    at.next();
    for (;;) {
        const int i = at.slot;
        mbarrier_wait(&ring->full[i], at.parity);
        const int k0 = ring->k0[i];
        if (k0 == END) break;
        at.next();
        const int j = at.slot;
        wgmma_hold(s);
        wgmma_hold(acc);
        hold_pairs(p);
        channels_product<D, KEYS>(s, q, slots + i * tile_size<D>::TILE_BYTES);
        mbarrier_wait(&ring->full[j], at.parity);
        values_product<D>(acc, p, slots + j * tile_size<D>::TILE_BYTES);
        wgmma_wait<1>();
        wgmma_hold(s);
        if (one) mbarrier_arrive(&ring->empty[i]);
        softmax(s, see, k0, factor, top, sum, alpha);
        wgmma_wait<0>();
        wgmma_hold(acc);
        hold_pairs(p);
        if (one) mbarrier_arrive(&ring->empty[j]);
        at.next();
#pragma unroll
        for (int x = 0; x < D / 2; x++) acc[x] *= alpha[x / 2 % 2];
        round_pairs(p, s);
    }
    at.next();
    mbarrier_wait(&ring->full[at.slot], at.parity);
    wgmma_hold(acc);
    hold_pairs(p);
    values_product<D>(acc, p, slots + at.slot * tile_size<D>::TILE_BYTES);
    wgmma_wait<0>();
    wgmma_hold(acc);
}
#endif

/* 128 queries of one head. The maps are of [b * heads, rows, D]; k and v have t0 + T rows a head. */
template <int D>
static __global__ void __launch_bounds__(THREADS, 1)
    attn_fwd_wgmma_k(const __grid_constant__ CUtensorMap map_q, const __grid_constant__ CUtensorMap map_k,
                     const __grid_constant__ CUtensorMap map_v, struct attn_fwd_args a, struct packed_out o) {
#if HOPPER
    DYN_SHARED(unsigned char, raw);
    __shared__ struct attn_ring ring;
    unsigned char *queries = raw + (-shared_at(raw) & 1023), /* a swizzle repeats every 1024 bytes */
        *slots = queries + tile_size<D>::TILE_BYTES;
    const int group = threadIdx.x / GROUP;
    const int64_t per = a.b * a.hq, i = blockIdx.x % per, seq = i / a.hq, head = i % a.hq,
                  kv = seq * a.hkv + head / (a.hq / a.hkv);
    const int q0 = (int)(gridDim.x / per - 1 - blockIdx.x / per) * ROWS,
              rows = least(ROWS, a.t - q0), /* the long ones first */
        from = (int)a.t0 + q0;
    const int64_t token = seq * a.t + q0;
    const int32_t *first = a.first.a ? attn_ptr<int32_t>(a.first) + token : nullptr;
    if (threadIdx.x == 0) {
        mbarrier_init(&ring.queries, 1);
        for (int x = 0; x < RING; x++) {
            mbarrier_init(&ring.full[x], 1);
            mbarrier_init(&ring.empty[x], 2 * GROUP / WARP); /* the warps that multiply */
        }
        mbarrier_ready();
    }
    __syncthreads();
    if (group == 2) {
        registers_fewer<40>();
        if (threadIdx.x / WARP != 2 * GROUP / WARP) return;
        if (threadIdx.x % WARP == 0) {
            mbarrier_expect(&ring.queries, tile_size<D>::TILE_BYTES);
            load_tile<D, ROWS>(queries, &map_q, q0, i, &ring.queries);
        }
        load_tiles<D>(a, &ring, slots, &map_k, &map_v, kv, from, rows, first);
    } else {
        registers_more<232>();
        const int lane = threadIdx.x % WARP, r0 = threadIdx.x / WARP * 16 + lane / 4, d = (int)a.d;
        float acc[D / 2] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
        struct attn_sight see;
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int row = r0 + 8 * e;
            see.at[e] = row < rows ? from + row : -1;
            see.lo[e] = row < rows ? attn_lo(first ? first + row : nullptr, see.at[e], a.window) : 0;
        }
        attend<D>(&ring, shared_at(queries) + group * 64 * HOPPER_ROW * 2, shared_at(slots), see, a.scale * LOG2E, acc,
                  top, sum);
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int64_t row = token + r0 + 8 * e;
            const float all = quad_sum(sum[e]), inverse = all == 0 ? 0 : 1.0f / all;
            if (see.at[e] < 0) continue;
            if (a.o.a) attn_store_row<D>(attn_ptr<float>(a.o) + row * a.ldo + head * d, acc, e, inverse, d);
            if (o.codes) attn_pack_row<D>(o, row, head * d, acc, e, inverse, d);
            if (lane % 4 == 0)
                attn_ptr<float>(a.lse)[row * a.hq + head] =
                    all == 0 ? -INFINITY : (float)((double)top[e] * LN2 + vmath_log_wide(all));
        }
    }
#endif
}

/* --- launching ------------------------------------------------------------------------------------------------------------------ */
template <int D>
static int forward(struct cuda_gpu *g, const struct attn_fwd_args *a, const bf16_t *q, const bf16_t *k,
                   const bf16_t *v) {
    CUtensorMap mq, mk, mv;
    GPU_TRY(hopper_map(g, q, D, a->t, a->b * a->hq, ROWS, &mq));
    GPU_TRY(hopper_map(g, k, D, a->t0 + a->t, a->b * a->hkv, KEYS, &mk));
    GPU_TRY(hopper_map(g, v, D, a->t0 + a->t, a->b * a->hkv, KEYS, &mv));
    LAUNCH(attn_fwd_wgmma_k<D>, (unsigned)(a->b * a->hq * ((a->t + ROWS - 1) / ROWS)), THREADS, tile_size<D>::SHARED,
           g->stream, mq, mk, mv, *a, packed_of(&a->packed));
    return gpu_launched("attn_fwd");
}
int attn_wgmma_fwd(struct cuda_gpu *g, const struct attn_fwd_args *a, const bf16_t *q, const bf16_t *k,
                   const bf16_t *v) {
    return a->d <= 64 ? forward<64>(g, a, q, k, v) : forward<128>(g, a, q, k, v);
}

/* --- does it serve? --------------------------------------------------------------------------------------------------------------- */
/* A head of d channels: o [T, d] and lse [T] of mma.sync and of wgmma.
 * Probabilities are rounded under different maxima, 2^-18 / 3 in the mean square for each: NMSE below 1e-5 where all is right. */
static int try_heads(struct cuda_gpu *g, int64_t d, float *work, bool *right) {
    const int64_t in = TRY_T * 3 * d, out = TRY_T * (d + 1);
    float *x = (float *)g->staging, *y[2] = {x + in, x + in + out};
    bool done;
    try_numbers(x, in);
    GPU_TRY(gpu_check(cudaMemcpyAsync(work, x, (size_t)in * 4, cudaMemcpyHostToDevice, g->stream),
                      "copying to the device"));
    for (int wgmma = 0; wgmma < 2; wgmma++) {
        struct attn_fwd_args a = {.b = 1,
                                  .t = TRY_T,
                                  .hq = 1,
                                  .hkv = 1,
                                  .d = d,
                                  .ldq = d,
                                  .ldk = d,
                                  .ldv = d,
                                  .ldo = d,
                                  .window = TRY_WINDOW,
                                  .scale = 0.125f,
                                  .bf16 = 1};
        const auto at = [&](int64_t i) { return dptr{(uint64_t)(uintptr_t)(work + i)}; };
        a.q = at(0), a.k = at(TRY_T * d), a.v = at(TRY_T * 2 * d), a.o = at(in), a.lse = at(in + TRY_T * d);
        g->attn_wgmma = wgmma;
        GPU_TRY(gpu_check(cudaMemsetAsync(work + in, 0xff, (size_t)out * 4, g->stream), "clearing device memory"));
        GPU_TRY(attn_bf16_fwd(g, &a, &done));
        if (!done) return 0; /* nothing to compare with */
        GPU_TRY(gpu_check(cudaMemcpyAsync(y[wgmma], work + in, (size_t)out * 4, cudaMemcpyDeviceToHost, g->stream),
                          "copying from the device"));
    }
    GPU_TRY(gpu_check(cudaStreamSynchronize(g->stream), "trying wgmma"));
    *right = try_agrees(y[1], y[0], out, 1e-5);
    return 0;
}
int gpu_attn_open(struct cuda_gpu *g) {
    bool small = false, large = false;
    void *work;
    if (!g->encode || !attn_fits(attn_fwd_wgmma_k<64>, tile_size<64>::SHARED) ||
        !attn_fits(attn_fwd_wgmma_k<128>, tile_size<128>::SHARED))
        return 0;
    GPU_TRY(gpu_check(cudaMalloc(&work, TRY_T * (4 * 128 + 1) * sizeof(float)), "allocating device memory"));
    int st = try_heads(g, 64, (float *)work, &small);
    if (!st) st = try_heads(g, 128, (float *)work, &large);
    g->attn_wgmma = small && large;
    (void)cudaFree(work);
    return st ? st : attn_wgmma_bwd_open(g);
}
