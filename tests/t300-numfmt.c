/* TEST ranks=1 tier=1 */
/* numfmt/: every code of every format, every bf16 pattern, fp32 neighbours of all ties, and whole tensors, against what PyTorch 2.13 and
 * ModelOpt 0.47 produce (golden/modelopt/numfmt). */
#include "golden.h"
#include "numfmt/e5m2.h"
#include "numfmt/e8m0.h"
#include "numfmt/scale.h"

static struct golden codes, inputs, f8, nv, nv32, i8, i4, mx4, mx8;

static bool same_float(float a, float b) { return (a != a && b != b) || bits_of(a) == bits_of(b); }

/* An 8-bit float: decode of all codes; encode of all bf16 patterns; encode of fp32 values; each NaN is compared as a NaN. */
static void check_fp8(const char *name, float (*decode)(uint8_t), uint8_t (*encode)(float), const char *suffix) {
    char key[64];
    int wrong[4] = {0};
    snprintf(key, sizeof key, "%s.decode_f32", name);
    const float *table = golden_need(&codes, key).data;
    for (int i = 0; i < 256; i++) wrong[0] += !same_float(decode((uint8_t)i), table[i]);
    snprintf(key, sizeof key, "%s.from_bf16%s", name, suffix);
    const uint8_t *want = golden_need(&codes, key).data;
    for (int i = 0; i < 65536; i++) {
        uint8_t got = encode(bf16_decode((uint16_t)i));
        wrong[1] += !(got == want[i] || (decode(got) != decode(got) && decode(want[i]) != decode(want[i])));
    }
    for (int i = 0; i < 256; i++)
        wrong[2] += decode((uint8_t)i) == decode((uint8_t)i) && encode(decode((uint8_t)i)) != i;
    snprintf(key, sizeof key, "%s.edge_f32", name);
    struct golden_tensor edge = golden_need(&codes, key);
    snprintf(key, sizeof key, "%s.edge_code%s", name, suffix);
    want = golden_need(&codes, key).data;
    const float *x = edge.data;
    for (int64_t i = 0; i < edge.elems; i++) {
        uint8_t got = encode(x[i]);
        wrong[3] += !(got == want[i] || (x[i] != x[i] && decode(got) != decode(got)));
    }
    is_int(wrong[0], 0, "fp8: wrong values of 256 codes");
    is_int(wrong[1], 0, "fp8: wrong codes of 65536 bf16 patterns");
    is_int(wrong[2], 0, "fp8: values that do not encode to themselves (infinities saturate apart)");
    is_int(wrong[3], 0, "fp8: wrong codes at ties and their neighbours");
}

static void check_e2m1(void) {
    const float *table = golden_need(&codes, "e2m1.decode_f32").data;
    const uint8_t *want = golden_need(&codes, "e2m1.nvfp4_code_from_bf16").data;
    int wrong[4] = {0};
    for (int i = 0; i < 16; i++) wrong[0] += !same_float(e2m1_decode((uint8_t)i), table[i]);
    for (int i = 0; i < 65536; i++) {
        float x = bf16_decode((uint16_t)i);
        wrong[1] += e2m1_encode(x) != want[i];
        wrong[2] += !same_float(e2m1_round(x), e2m1_decode(e2m1_encode(x)));
    }
    struct golden_tensor edge = golden_need(&codes, "e2m1.edge_f32");
    want = golden_need(&codes, "e2m1.edge_code_nvfp4").data;
    for (int64_t i = 0; i < edge.elems; i++) wrong[3] += e2m1_encode(((const float *)edge.data)[i]) != want[i];
    is_int(wrong[0], 0, "e2m1: wrong values of 16 codes");
    is_int(wrong[1], 0, "e2m1: wrong codes of 65536 bf16 patterns");
    is_int(wrong[2], 0, "e2m1: round is decode of encode, sign of zero too");
    is_int(wrong[3], 0, "e2m1: wrong codes at ties and their neighbours");
    /* MXFP4 in one block whose largest element is 6, so that the scale is 1 */
    edge = golden_need(&codes, "e2m1.mx_edge_f32");
    want = golden_need(&codes, "e2m1.mx_edge_code").data;
    int down[2] = {0};
    for (int64_t i = 0; i < edge.elems; i++) down[0] += e2m1_encode_down(((const float *)edge.data)[i]) != want[i];
    for (int i = 0; i < 65536; i++) {
        float x = bf16_decode((uint16_t)i);
        down[1] += !same_float(e2m1_down(x), e2m1_decode(e2m1_encode_down(x)));
    }
    is_int(down[0], 0, "mxfp4: wrong codes at ties and their neighbours");
    is_int(down[1], 0, "mxfp4: round is decode of encode, sign of zero too");
}

static void check_e8m0(void) {
    static const struct {
        const char *table, *edge;
        float largest;
    } cases[] = {{"e8m0.mxfp8_byte_from_bf16_amax", "e8m0.edge_bitrule_mxfp8_byte", 448.0f},
                 {"e8m0.mxfp4_byte_from_bf16_amax", "e8m0.edge_bitrule_mxfp4_byte", 6.0f}};
    struct golden_tensor edge = golden_need(&codes, "e8m0.edge_amax_f32");
    for (int c = 0; c < 2; c++) {
        const uint8_t *want = golden_need(&codes, cases[c].table).data, *bit = golden_need(&codes, cases[c].edge).data;
        int wrong = 0, wrong_edge = 0;
        for (int i = 0; i < 0x7f80; i++)
            wrong += e8m0_encode_up(bf16_decode((uint16_t)i) / cases[c].largest) != want[i];
        for (int64_t i = 0; i < edge.elems; i++)
            wrong_edge += e8m0_encode_up(((const float *)edge.data)[i] / cases[c].largest) != bit[i];
        is_int(wrong, 0, "e8m0: wrong bytes of all finite bf16 maxima");
        is_int(wrong_edge, 0, "e8m0: wrong bytes beside powers of two");
    }
    int wrong = 0;
    for (int i = 0; i < 255; i++) wrong += e8m0_decode((uint8_t)i) != ldexpf(1.0f, i - 127);
    ok(wrong == 0 && e8m0_decode(255) != e8m0_decode(255), "e8m0: decode is 2^(code - 127), 255 is NaN");
}

static void check_integers(void) {
    struct golden_tensor w = golden_need(&codes, "int8.w");
    const float *x = w.data, *s = golden_need(&codes, "int8.scale").data;
    const float *x4 = golden_need(&codes, "int4.w").data, *s4 = golden_need(&codes, "int4.scale").data;
    const int8_t *c = golden_need(&codes, "int8.code").data, *c4 = golden_need(&codes, "int4.code").data;
    int wrong = 0, wrong4 = 0;
    for (int64_t i = 0; i < w.elems; i++) {
        wrong += int8_encode(x[i] / s[i]) != c[i];
        wrong4 += int4_encode(x4[i] / s4[i]) != c4[i];
    }
    is_int(wrong, 0, "int8: wrong codes");
    is_int(wrong4, 0, "int4: wrong codes");
    ok(int8_encode(NAN) == 0 && int8_encode(INFINITY) == 127 && int8_encode(-INFINITY) == -128, "int8: NaN and Inf");
    ok(isnan(int8_round(NAN)) && isnan(int4_round(NAN)), "integers: NaN stays NaN in fp32");
}

static void check_bf16(void) {
    int wrong = 0;
    for (int i = 0; i < 65536; i++) {
        float x = bf16_decode((uint16_t)i);
        wrong += x == x ? bf16_encode(x) != i || !same_float(bf16_round(x), x) : bf16_encode(x) != 0x7fc0;
    }
    is_int(wrong, 0, "bf16: each code comes back; NaN is 0x7fc0");
    struct golden_tensor f = golden_need(&inputs, "special_f32");
    const uint16_t *b = golden_need(&inputs, "special").data;
    wrong = 0;
    for (int64_t i = 0; i < f.elems; i++) wrong += bf16_encode(((const float *)f.data)[i]) != b[i];
    is_int(wrong, 0, "bf16: wrong codes of fp32 numbers (PyTorch's cast)");
    ok(bf16_encode(3.4e38f) == 0x7f80 && bf16_encode(1.00390625f) == 0x3f80 && bf16_encode(1.01171875f) == 0x3f82,
       "bf16: overflow to infinity, ties to even");
}

/* Tensors. x: as fp32; *bf16: it was bf16, so FP8 per tensor rounds the quotient. */
static float *values(const char *name, struct golden_tensor *t, int *bf16) {
    *t = golden_need(&inputs, name);
    *bf16 = !strcmp(t->dtype, "BF16");
    float *x;
    must(mem_alloc(&x, (size_t)t->elems, sizeof *x));
    for (int64_t i = 0; i < t->elems; i++)
        x[i] = *bf16 ? bf16_decode(((const uint16_t *)t->data)[i]) : ((const float *)t->data)[i];
    return x;
}
static float largest(const float *x, int64_t n) {
    float m = 0;
    for (int64_t i = 0; i < n; i++) m = fmaxf(m, fabsf(x[i]));
    return m;
}
static const void *part(const struct golden *g, const char *name, const char *what) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", name, what);
    return golden_need(g, key).data;
}

static void check_tensor_fp8_int8(const char *name) {
    struct golden_tensor t;
    int bf16, wrong[3] = {0}, zero = !strcmp(name, "zero");
    float *x = values(name, &t, &bf16), scale = scale_fp8(largest(x, t.elems));
    const uint8_t *c = part(&f8, name, "codes"), *pc = part(&f8, name, "pc_codes");
    const int8_t *ic = part(&i8, name, "pc_codes");
    const float *ps = part(&f8, name, "pc_scale"), *is = part(&i8, name, "pc_scale");
    int64_t cols = t.shape[1];
    wrong[0] += !zero && !same_float(scale, *(const float *)part(&f8, name, "scale"));
    for (int64_t r = 0; r < t.shape[0]; r++) {
        float m = largest(x + r * cols, cols), s = scale_fp8(m), q = scale_int8(m);
        wrong[1] += !same_float(s, ps[r]);
        wrong[2] += !same_float(q, is[r]);
        for (int64_t i = r * cols; i < (r + 1) * cols; i++) {
            uint8_t got = e4m3_encode(scale_divide_fp8(x[i], scale, bf16));
            wrong[0] += got != (zero ? 0 : c[i]); /* the peer divides 0 by 0 there */
            wrong[1] += e4m3_encode(scale_divide_fp8(x[i], s, 0)) != pc[i];
            wrong[2] += int8_encode(x[i] / q) != ic[i];
        }
    }
    ok(!wrong[0], "%s: fp8 per tensor, scale and %" PRId64 " codes (%d wrong)", name, t.elems, wrong[0]);
    ok(!wrong[1], "%s: fp8 per row, scales and codes (%d wrong)", name, wrong[1]);
    ok(!wrong[2], "%s: int8 per row, scales and codes (%d wrong)", name, wrong[2]);
    if (zero) ok(scale == 1.0f, "zero: the scale is 1");
    mem_free(&x);
}

static void check_tensor_nvfp4(const struct golden *g, const char *name, int block) {
    struct golden_tensor t, deq = {0};
    char key[96];
    snprintf(key, sizeof key, "%s.packed", name);
    if (!golden_find(g, key, &t)) return;
    int bf16, wrong[3] = {0}, zero = !strcmp(name, "zero");
    float *x = values(name, &t, &bf16), s2 = scale_nvfp4_tensor(largest(x, t.elems));
    const uint8_t *packed = part(g, name, "packed"), *scale = part(g, name, "scale_e4m3");
    snprintf(key, sizeof key, "%s.deq_f32", name);
    bool has = golden_find(g, key, &deq) && !zero;
    ok(zero ? s2 == 1.0f : same_float(s2, *(const float *)part(g, name, "scale_2")), "%s: nvfp4 second scale", name);
    for (int64_t b = 0; b < t.elems / block; b++) {
        const float *v = x + b * block;
        float s = scale_nvfp4_block(largest(v, block), s2), step = scale_nvfp4_step(s, s2);
        wrong[0] += e4m3_encode(s) != (zero ? e4m3_encode(1.0f) : scale[b]);
        for (int i = 0; i < block; i++) {
            uint8_t byte = packed[(b * block + i) / 2], want = i & 1 ? byte >> 4 : byte & 15;
            float y = fake_nvfp4(v[i], step);
            wrong[1] += e2m1_encode(v[i] / step) != (zero ? 0 : want);
            wrong[2] += !same_float(y, e2m1_decode(e2m1_encode(v[i] / step)) * (s * s2));
            if (has) wrong[2] += y != ((const float *)deq.data)[b * block + i];
        }
    }
    ok(!wrong[0], "%s: nvfp4 of %d, block scales (%d wrong)", name, block, wrong[0]);
    ok(!wrong[1], "%s: nvfp4 of %d, codes (%d wrong)", name, block, wrong[1]);
    ok(!wrong[2], "%s: fake nvfp4 is the code times its scales (%d wrong)", name, wrong[2]);
    mem_free(&x);
}

/* MXFP4 and MXFP8: scales, codes, and values of codes; a block of zeros too is the peer's (scale 2^-127). */
static void check_tensor_mx(const char *name, bool four) {
    struct golden_tensor t, deq;
    char key[96];
    const struct golden *g = four ? &mx4 : &mx8;
    int bf16, wrong[3] = {0};
    float *x = values(name, &t, &bf16);
    const uint8_t *c = part(g, name, four ? "packed" : "codes"), *scale = part(g, name, "scale_e8m0");
    snprintf(key, sizeof key, "%s.deq_f32", name);
    bool has = golden_find(g, key, &deq);
    for (int64_t b = 0; b < t.elems / 32; b++) {
        float m = largest(x + b * 32, 32);
        uint8_t code = four ? scale_mxfp4(m) : scale_mxfp8(m);
        float step = e8m0_decode(code);
        wrong[0] += code != scale[b];
        for (int64_t i = b * 32; i < b * 32 + 32; i++) {
            uint8_t want = !four ? c[i] : i & 1 ? c[i / 2] >> 4 : c[i / 2] & 15;
            uint8_t got = four ? e2m1_encode_down(x[i] / step) : e4m3_encode(x[i] / step);
            float y = four ? fake_mxfp4(x[i], step) : fake_mxfp8(x[i], step);
            wrong[1] += got != want;
            wrong[2] += !same_float(y, (four ? e2m1_decode(want) : e4m3_decode(want)) * step);
            if (has) wrong[2] += y != ((const float *)deq.data)[i];
        }
    }
    ok(!wrong[0], "%s: %s block scales (%d wrong)", name, four ? "mxfp4" : "mxfp8", wrong[0]);
    ok(!wrong[1], "%s: %s codes (%d wrong)", name, four ? "mxfp4" : "mxfp8", wrong[1]);
    ok(!wrong[2], "%s: fake %s is the code times its scale (%d wrong)", name, four ? "mxfp4" : "mxfp8", wrong[2]);
    mem_free(&x);
}

/* FP8 in tiles of 128 x 128, ragged at the edges; the scales here are the peer's bf16 ones. */
static void check_tensor_tiles(const char *name) {
    struct golden_tensor t;
    int bf16, wrong = 0;
    float *x = values(name, &t, &bf16), top[2][3] = {{0}};
    const uint8_t *c = part(&f8, name, "codes_fp32_scale");
    int64_t cols = t.shape[1];
    for (int64_t i = 0; i < t.elems; i++) {
        float *m = &top[i / cols / 128][i % cols / 128];
        *m = fmaxf(*m, fabsf(x[i]));
    }
    for (int64_t i = 0; i < t.elems; i++)
        wrong += e4m3_encode(x[i] / bf16_round(scale_fp8(top[i / cols / 128][i % cols / 128]))) != c[i];
    ok(!wrong, "%s: fp8 in tiles of 128 (%d codes wrong)", name, wrong);
    mem_free(&x);
}

static void check_tensor_int4(const char *name, int group) {
    struct golden_tensor t;
    char key[2][32];
    int bf16, wrong = 0;
    float *x = values(name, &t, &bf16);
    snprintf(key[0], sizeof key[0], "g%d_packed", group);
    snprintf(key[1], sizeof key[1], "g%d_scale", group);
    const uint8_t *packed = part(&i4, name, key[0]);
    const float *scale = part(&i4, name, key[1]);
    int64_t cols = t.shape[1], groups = cols / group;
    for (int64_t r = 0; r < t.shape[0]; r++)
        for (int64_t k = 0; k < cols; k++) {
            const float *v = x + r * cols + k / group * group;
            float s = scale_int4(largest(v, group));
            uint8_t byte = packed[r / 2 * cols + k], want = r & 1 ? byte >> 4 : byte & 15;
            wrong += !same_float(s, scale[r * groups + k / group]);
            wrong += ((uint8_t)int4_encode(x[r * cols + k] / s) & 15) != want;
        }
    ok(!wrong, "%s: int4 in groups of %d (%d wrong)", name, group, wrong);
    mem_free(&x);
}

static void check_scales(void) {
    ok(scale_fp8(0) == 1 && scale_int8(0) == 1 && scale_nvfp4_tensor(0) == 1 && scale_nvfp4_block(0, 1) == 1,
       "nothing but zeros: all scales are 1");
    ok(scale_fp8(1e-45f) == 1 && scale_nvfp4_tensor(1e-42f) == 1, "a scale that underflows is 1");
    ok(isnan(scale_fp8(NAN)) && isinf(scale_nvfp4_tensor(INFINITY)), "a NaN or infinite amax is not hidden");
    int wrong = 0;
    for (uint32_t i = 0; i < 200000; i++) { /* the peer divides in double and rounds */
        float amax = bits_float(i * 10007u);
        wrong += amax / 448.0f != (float)((double)amax / 448.0) || amax / 2688.0f != (float)((double)amax / 2688.0);
    }
    is_int(wrong, 0, "fp32 division is the double quotient rounded");
    ok(isnan(fake_fp8(NAN, 1, 1)) && isnan(fake_int8(NAN, 1)) && isnan(fake_nvfp4(NAN, 1)), "NaN stays NaN");
}

int main(void) {
    static const char *const names[] = {"normal", "normal_f32", "heavy", "special", "special_f32",
                                        "huge",   "zero",       "ties",  "ties_448"};
    static const struct {
        struct golden *g;
        const char *file;
    } files[] = {{&codes, "codes"}, {&inputs, "inputs"}, {&f8, "fp8"},    {&nv, "nvfp4_b16"}, {&nv32, "nvfp4_b32"},
                 {&i8, "int8"},     {&i4, "int4"},       {&mx4, "mxfp4"}, {&mx8, "mxfp8"}};
    enum { FILES = sizeof files / sizeof *files };
    const char *root = golden_root();
    if (!root) return tap_skip_all("no reference data (set TEMPER_SHARED)");
    for (int i = 0; i < FILES; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/golden/modelopt/numfmt/%s.safetensors", root, files[i].file);
        if (!ok(golden_open(files[i].g, path), "open %s", files[i].file)) return tap_done();
    }
    check_fp8("e4m3", e4m3_decode, e4m3_encode, "");
    check_fp8("e4m3", e4m3_decode, e4m3_encode, "_sat");
    check_fp8("e5m2", e5m2_decode, e5m2_encode, "");
    int wrong = 0;
    const uint8_t *sat = golden_need(&codes, "e5m2.from_bf16_sat").data;
    for (int i = 0; i < 65536; i++) {
        float x = bf16_decode((uint16_t)i);
        wrong += x == x && e5m2_encode_sat(x) != sat[i];
    }
    is_int(wrong, 0, "e5m2 saturating: wrong codes of all bf16 patterns");
    check_e2m1();
    check_e8m0();
    check_integers();
    check_bf16();
    check_scales();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        check_tensor_fp8_int8(names[i]);
        check_tensor_nvfp4(&nv, names[i], 16);
        check_tensor_nvfp4(&nv32, names[i], 32);
        check_tensor_mx(names[i], true);
        check_tensor_mx(names[i], false);
        check_tensor_int4(names[i], 128);
        check_tensor_int4(names[i], 32);
    }
    check_tensor_tiles("fp8_2d_b128");
    check_tensor_tiles("fp8_2d_b128_ragged");
    for (int i = 0; i < FILES; i++) golden_close(files[i].g);
    return tap_done();
}
