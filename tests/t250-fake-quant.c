/* TEST ranks=1 tier=1 */
/* Fake quantization on the host: equal to decoding the codes that ModelOpt exports, in place and with row distances, for any thread count;
 * refusals. */
#include "dev/host.h"
#include "golden.h"
#include "numfmt/scale.h"

static struct dev device = {.threads = 1}; /* all that the operation asks of a device */

static dptr at(const void *p) { return (dptr){(uint64_t)(uintptr_t)p}; }

static struct golden inputs, f8, nv, i8;

static const void *part(const struct golden *g, const char *name, const char *what) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", name, what);
    return golden_need(g, key).data;
}

/* What the exported tensors of `name` decode to: codes times scales, from the peer's files alone. */
static void decoded(const char *name, int kind, int64_t rows, int64_t cols, float *y) {
    const uint8_t *c8 = part(&f8, name, "codes"), *packed = part(&nv, name, "packed"),
                  *block = part(&nv, name, "scale_e4m3");
    const int8_t *ic = part(&i8, name, "pc_codes");
    float s8 = *(const float *)part(&f8, name, "scale"), s2 = *(const float *)part(&nv, name, "scale_2");
    const float *is = part(&i8, name, "pc_scale");
    for (int64_t i = 0; i < rows * cols; i++) {
        uint8_t four = i & 1 ? packed[i / 2] >> 4 : packed[i / 2] & 15;
        y[i] = kind == FQ_FP8        ? e4m3_decode(c8[i]) * s8
               : kind == FQ_INT8_ROW ? (float)ic[i] * is[i / cols]
                                     : e2m1_decode(four) * (e4m3_decode(block[i / 16]) * s2);
    }
}

static void against_exports(const char *name, int kind) {
    struct golden_tensor t = golden_need(&inputs, name);
    int64_t rows = t.shape[0], cols = t.shape[1], ld = cols + 5;
    int bf16 = !strcmp(t.dtype, "BF16");
    float *x, *y, *want, *amax;
    must(mem_alloc(&x, (size_t)(rows * ld), sizeof *x));
    must(mem_alloc(&y, (size_t)(rows * ld), sizeof *y));
    must(mem_alloc(&want, (size_t)t.elems, sizeof *want));
    must(mem_alloc(&amax, (size_t)rows, sizeof *amax));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < ld; c++) {
            int64_t i = r * cols + c;
            float v = c >= cols ? 7.0f : bf16 ? bf16_decode(((const uint16_t *)t.data)[i]) : ((const float *)t.data)[i];
            x[r * ld + c] = v;
            y[r * ld + c] = -1.0f;
            int64_t at_row = kind == FQ_INT8_ROW ? r : 0;
            if (c < cols) amax[at_row] = fmaxf(amax[at_row], fabsf(v));
        }
    decoded(name, kind, rows, cols, want);
    int wrong = 0, outside = 0, alias = 0;
    struct fake_quant_args a = {at(x), at(y), at(amax), rows, cols, ld, ld, kind, bf16};
    must(host_fake_quant(&device, &a));
    a.y = a.x;
    must(host_fake_quant(&device, &a));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < ld; c++) {
            float got = y[r * ld + c];
            outside += c >= cols && (got != -1.0f || x[r * ld + c] != 7.0f);
            wrong += c < cols && bits_of(got) != bits_of(want[r * cols + c]);
            alias += c < cols && bits_of(got) != bits_of(x[r * ld + c]);
        }
    ok(!wrong && !outside && !alias,
       "%s, kind %d: the bits of the decoded export (%d wrong), in place too (%d), gaps kept (%d)", name, kind, wrong,
       alias, outside);
    mem_free(&x);
    mem_free(&y);
    mem_free(&want);
    mem_free(&amax);
}

/* fp32 weights that are not bf16 yet: the same as rounding first; activations are not rounded. Any thread count. */
static void rounding_and_threads(void) {
    enum { R = 300, C = 256 };
    float *x, *b, *y[3], amax[R] = {0};
    must(mem_alloc(&x, R * C, sizeof *x));
    must(mem_alloc(&b, R * C, sizeof *b));
    for (int i = 0; i < 3; i++) must(mem_alloc(&y[i], R * C, sizeof *b));
    uint32_t seed = 1;
    for (int i = 0; i < R * C; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = ((float)(seed >> 8) / 16777216.0f - 0.5f) * 0.1f;
    }
    int differ = 0;
    for (int i = 0; i < R * C; i++) b[i] = bf16_decode(bf16_encode(x[i]));
    for (int kind = FQ_FP8; kind <= FQ_NVFP4; kind++) {
        for (int r = 0; r < R; r++) amax[r] = 0.05f; /* not a bf16: a weight's is rounded as the weight is */
        for (int run = 0; run < 3; run++) {
            device.threads = run == 1 ? 2 : 1;
            struct fake_quant_args a = {at(run == 2 ? b : x), at(y[run]), at(amax), R, C, C, C, kind, 1};
            must(host_fake_quant(&device, &a));
        }
        ok(!memcmp(y[0], y[1], R * C * 4), "kind %d: the same bits with 1 and 2 threads", kind);
        ok(!memcmp(y[0], y[2], R * C * 4), "kind %d: weights are rounded to bf16 first", kind);
        must(host_fake_quant(&device, &(struct fake_quant_args){at(x), at(y[1]), at(amax), R, C, C, C, kind, 0}));
        for (int i = 0; i < R * C; i++) differ += y[0][i] != y[1][i];
        ok(differ > 100, "kind %d: activations are not (%d differ)", kind, differ);
        double bound = kind == FQ_FP8 ? 1.2e-3 : kind == FQ_NVFP4 ? 1.6e-2 : 2e-5; /* of uniform noise, step^2 / 12 */
        float *lo = y[1];
        ok(tap_nmse(lo, x, R * C) < bound, "kind %d: NMSE %.3g below %.3g", kind, tap_nmse(lo, x, R * C), bound);
    }
    mem_free(&x);
    mem_free(&b);
    for (int i = 0; i < 3; i++) mem_free(&y[i]);
}

static void edges(void) {
    float x[16] = {1, -0.0f, NAN, INFINITY, -INFINITY, 1e-30f, -1e-30f}, y[16], amax = 1, zero = 0;
    for (int kind = FQ_FP8; kind <= FQ_NVFP4; kind++) {
        must(host_fake_quant(&device, &(struct fake_quant_args){at(x), at(y), at(&amax), 1, 16, 16, 16, kind, 0}));
        float top = kind == FQ_FP8 || kind == FQ_NVFP4 ? 1.0f : 1.0f + 1e-6f;
        ok(isnan(y[2]) && fabsf(y[3]) <= top * 1.001f && y[4] < -0.9f && y[5] == 0 && y[7] == 0,
           "kind %d: NaN stays, infinity saturates at the amax", kind);
        must(host_fake_quant(&device,
                             &(struct fake_quant_args){at(x + 8), at(y + 8), at(&zero), 1, 0, 16, 16, kind, 0}));
    }
    memset(x, 0, sizeof x);
    for (int kind = FQ_FP8; kind <= FQ_NVFP4; kind++) {
        must(host_fake_quant(&device, &(struct fake_quant_args){at(x), at(y), at(&zero), 1, 16, 16, 16, kind, 1}));
        int bad = 0;
        for (int i = 0; i < 16; i++) bad += bits_of(y[i]) != 0;
        is_int(bad, 0, "all zero stays all zero");
    }
    is_status(host_fake_quant(&device, &(struct fake_quant_args){at(x), at(y), at(&amax), 1, 15, 16, 16, FQ_NVFP4, 0}),
              TM_ERR_SHAPE);
    is_status(host_fake_quant(&device, &(struct fake_quant_args){at(x), at(y), at(&amax), 1, 16, 16, 16, 99, 0}),
              TM_ERR_INTERNAL);
}

int main(void) {
    static const char *const names[] = {"normal",      "normal_f32", "heavy", "special",
                                        "special_f32", "huge",       "ties",  "ties_448"};
    static const struct {
        struct golden *g;
        const char *file;
    } files[] = {{&inputs, "inputs"}, {&f8, "fp8"}, {&nv, "nvfp4_b16"}, {&i8, "int8"}};
    rounding_and_threads();
    edges();
    const char *root = golden_root();
    for (int i = 0; root && i < 4; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/golden/modelopt/numfmt/%s.safetensors", root, files[i].file);
        if (!ok(golden_open(files[i].g, path), "open %s", files[i].file)) return tap_done();
    }
    for (size_t i = 0; root && i < sizeof names / sizeof *names; i++) {
        against_exports(names[i], FQ_FP8);
        against_exports(names[i], FQ_INT8_ROW);
        against_exports(names[i], FQ_NVFP4);
    }
    for (int i = 0; root && i < 4; i++) golden_close(files[i].g);
    return tap_done();
}
