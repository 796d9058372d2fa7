/* Rotary embedding in place: 8 bytes an element; cosines and sines of a token stay in the L1 cache over its heads. */
#include "elem.h"

template <int W>
static __global__ void rope_k(float *x, const int32_t *positions, const float *table, struct rope_args a, float sign) {
    int half = (int)(a.rot / 2), packs = half / W;
    GPU_EACH_ROW(t, a.n) {
        const float *cos_at = table + positions[t] * a.rot;
        GPU_EACH_COLUMN(j, (int)a.heads * packs) {
            int i = j % packs * W;
            float *at = x + t * a.ld + j / packs * a.d + i;
            pack<W> p = pack_load<W>(at), q = pack_load<W>(at + half);
            pack<W> c = pack_load<W>(cos_at + i), s = pack_load<W>(cos_at + half + i);
#pragma unroll
            for (int e = 0; e < W; e++) {
                float u = p.v[e], v = q.v[e], sn = s.v[e] * sign;
                p.v[e] = u * c.v[e] - v * sn;
                q.v[e] = v * c.v[e] + u * sn;
            }
            pack_store<W>(at, p);
            pack_store<W>(at + half, q);
        }
    }
}
int gpu_rope(struct cuda_gpu *g, const struct rope_args *a) {
    bool four = packs_fit({a->x.a, a->table.a, 2 * (uint64_t)a->rot, 4 * (uint64_t)a->d, 4 * (uint64_t)a->ld});
    row_grid k = row_grid_of(a->n, a->heads * (a->rot / 2) / (four ? 4 : 1));
    LAUNCH(four ? rope_k<4> : rope_k<1>, k.grid, k.block, 0, g->stream, gpu_f32(a->x), gpu_i32(a->positions),
           gpu_f32(a->table), *a, a->sign < 0 ? -1.0f : 1.0f);
    return gpu_launched("rope");
}
