/* AdamW: 16 bytes read and 12 written an element, all the time there is (0.3 ms for 36 M weights at 3.35 TB/s). */
#include "elem.h"
#include "numfmt/bf16.h"

struct adamw_one { /* the names of the host's loop (dev/leaf_body.h) */
    enum { ARRAYS = 4, READ = 15, WRITE = 7 };
    float b1, b2, c1, c2, k1, k2, eps, lr, decay, gs;
    uint32_t rounding_seed;
    __device__ void one(float *x) const {
        float &w = x[0], &m = x[1], &v = x[2], g = x[3] * gs;
        m = b1 * m + c1 * g;
        v = b2 * v + c2 * (g * g);
        w -= lr * ((m / k1) / (sqrtf(v / k2) + eps) + decay * w);
        if (rounding_seed) w = bf16_round_stochastic(w, bf16_hash(bf16_hash(bf16_hash(rounding_seed, w), m), v));
    }
};
int gpu_adamw(struct cuda_gpu *g, const struct adamw_args *a) {
    adamw_one f = {a->beta1, a->beta2, 1 - a->beta1, 1 - a->beta2,  a->correction1,  a->correction2,
                   a->eps,   a->lr,    a->decay,     a->grad_scale, a->rounding_seed};
    return elem_run(g, "adamw", f, a->n, {a->w, a->m, a->v, a->g});
}
