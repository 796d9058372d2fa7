/* Embedding look-up and its gradient. Bound by memory: 8 bytes an element forward, 4 backward and 8 for each row that is touched.
 *
 * The gradient of a row is a chain over its tokens, rising. So tokens are sorted by row, with comparisons of integers only (tiles of
 * SORT_TILE by counting smaller ones, then each token's place by a binary search in every tile: n * n / SORT_TILE * 10 steps, a few
 * microseconds for 8192 tokens), and a block takes the tokens of one row and some of its columns, eight loads ahead of the additions. */
#include "elem.h"

enum { SORT_TILE = 512, AHEAD = 8 };

template <int W>
static __global__ void embed_fwd_k(const int32_t *ids, const float *table, float *y, struct embed_fwd_args a) {
    GPU_EACH_ROW(t, a.n) {
        int64_t row = ids[t] - a.row0;
        bool here = row >= 0 && row < a.rows;
        GPU_EACH_COLUMN(j, a.c / W) {
            pack<W> p = {};
            if (here) p = pack_load<W>(table + row * a.c + W * j);
#pragma unroll
            for (int e = 0; e < W; e++) p.v[e] = 0.0f + p.v[e]; /* -0 becomes +0 */
            pack_store<W>(y + t * a.c + W * j, p);
        }
    }
}
int gpu_embed_fwd(struct cuda_gpu *g, const struct embed_fwd_args *a) {
    bool four = packs_fit({a->table.a, a->y.a, 4 * (uint64_t)a->c});
    row_grid k = row_grid_of(a->n, four ? a->c / 4 : a->c);
    LAUNCH(four ? embed_fwd_k<4> : embed_fwd_k<1>, k.grid, k.block, 0, g->stream, gpu_i32(a->ids), gpu_f32(a->table),
           gpu_f32(a->y), *a);
    return gpu_launched("embed_fwd");
}

/* Tokens by (row, token): in tiles, then all. Those of no row here have row `rows` and come last. */
struct token_order {
    int32_t *tile_row, *tile_token, *row, *token;
    int n;
};
static __global__ void sort_tile_k(const int32_t *ids, int64_t row0, int32_t rows, token_order o) {
    __shared__ int32_t key[SORT_TILE];
    int base = (int)blockIdx.x * SORT_TILE, t = (int)threadIdx.x, m = o.n - base < SORT_TILE ? o.n - base : SORT_TILE;
    if (t < m) {
        int64_t row = ids[base + t] - row0;
        key[t] = row >= 0 && row < rows ? (int32_t)row : rows;
    }
    __syncthreads();
    if (t >= m) return;
    int mine = key[t], place = base;
#pragma unroll 8
    for (int j = 0; j < m; j++) place += key[j] < mine || (key[j] == mine && j < t);
    o.tile_row[place] = mine;
    o.tile_token[place] = base + t;
}
/* How many of m rising numbers are below `row`, or not above it. */
static __device__ __forceinline__ int count_below(const int32_t *rising, int m, int32_t row, bool or_equal) {
    int n = 0;
#pragma unroll
    for (int step = SORT_TILE; step; step /= 2)
        if (n + step <= m) {
            int32_t x = rising[n + step - 1];
            if (x < row || (or_equal && x == row)) n += step;
        }
    return n;
}
static __global__ void merge_tiles_k(token_order o) {
    GPU_EACH(i, o.n) {
        int own = (int)i / SORT_TILE, place = (int)i % SORT_TILE;
        int32_t row = o.tile_row[i];
#pragma unroll 4
        for (int base = 0; base < o.n; base += SORT_TILE)
            if (base != own * SORT_TILE)
                place += count_below(o.tile_row + base, o.n - base < SORT_TILE ? o.n - base : SORT_TILE, row,
                                     base < own * SORT_TILE);
        o.row[place] = row;
        o.token[place] = o.tile_token[i];
    }
}
template <int W>
static __global__ void embed_bwd_k(const float *dy, float *dtable, token_order o, int64_t c, int32_t rows) {
    int first = (int)blockIdx.x;
    int32_t row = o.row[first];
    int64_t j = (int64_t)W * (blockIdx.y * blockDim.x + threadIdx.x);
    if (row == rows || (first > 0 && o.row[first - 1] == row) || j >= c) return;
    pack<W> sum = pack_load<W>(dtable + row * c + j);
    for (int i = first; i < o.n && o.row[i] == row; i += AHEAD) {
        pack<W> x[AHEAD];
        bool there[AHEAD];
#pragma unroll
        for (int u = 0; u < AHEAD; u++) {
            there[u] = i + u < o.n && o.row[i + u] == row;
            if (there[u]) x[u] = pack_load<W>(dy + o.token[i + u] * c + j);
        }
#pragma unroll
        for (int u = 0; u < AHEAD; u++)
#pragma unroll
            for (int e = 0; e < W; e++)
                if (there[u]) sum.v[e] += x[u].v[e];
    }
    pack_store<W>(dtable + row * c + j, sum);
}
int gpu_embed_bwd(struct cuda_gpu *g, const struct embed_bwd_args *a) {
    if (a->n < 1 || a->c < 1) return 0;
    void *work;
    GPU_TRY(gpu_work(g, 16 * (size_t)a->n, &work));
    int32_t *w = (int32_t *)work;
    token_order o = {w, w + a->n, w + 2 * a->n, w + 3 * a->n, (int)a->n};
    bool four = packs_fit({a->dy.a, a->dtable.a, 4 * (uint64_t)a->c});
    int64_t packs = four ? a->c / 4 : a->c;
    unsigned x = WARP;
    while (x < 128 && x < packs) x *= 2;
    LAUNCH(sort_tile_k, gpu_blocks(a->n, SORT_TILE), SORT_TILE, 0, g->stream, gpu_i32(a->ids), a->row0,
           (int32_t)a->rows, o);
    LAUNCH(merge_tiles_k, gpu_blocks(a->n, GPU_THREADS), GPU_THREADS, 0, g->stream, o);
    LAUNCH(four ? embed_bwd_k<4> : embed_bwd_k<1>, dim3((unsigned)a->n, gpu_blocks(packs, x)), x, 0, g->stream,
           gpu_f32(a->dy), gpu_f32(a->dtable), o, a->c, (int32_t)a->rows);
    return gpu_launched("embed_bwd");
}
