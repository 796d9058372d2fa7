/* TEST ranks=1 tier=1 */
/* Fake quantization on the host: equal to decoding the codes that ModelOpt exports, in place and with row distances, for any thread count;
 * refusals. */
#include "dev/host.h"
#include "golden.h"
#include "numfmt/scale.h"

static struct dev device = {.threads = 1, .leaf = &leaf_portable}; /* all that the operation asks of a device */

static dptr at(const void *p) { return (dptr){(uint64_t)(uintptr_t)p}; }

static struct golden inputs, f8, nv, nv32, i8, i4, mx4, mx8, fake;

static const void *part(const struct golden *g, const char *name, const char *what) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", name, what);
    return golden_need(g, key).data;
}

/* A format as the op sees it: kind and block; a scale for each row: block 0. */
static const struct form {
    const char *what;
    int kind;
    int64_t block;
    bool tensor; /* has a scale of the whole tensor */
} forms[] = {{"fp8", FQ_FP8, 0, true},
             {"fp8 by rows", FQ_FP8_BLOCK, 0, false},
             {"int8", FQ_INT8, 0, true},
             {"int8 by rows", FQ_INT8_BLOCK, 0, false},
             {"int4", FQ_INT4_BLOCK, 128, false},
             {"int4 of 32", FQ_INT4_BLOCK, 32, false},
             {"nvfp4", FQ_NVFP4, 16, true},
             {"nvfp4 of 32", FQ_NVFP4, 32, true},
             {"nvfp4 a8", FQ_NVFP4_A8, 32, true},
             {"mxfp4", FQ_MXFP4, 32, false},
             {"mxfp8", FQ_MXFP8, 32, false}};
enum { FORMS = sizeof forms / sizeof *forms };

static int64_t width(const struct form *f, int64_t cols) { return f->block ? f->block : cols; }

static bool has(const char *name, const char *what, const struct golden *g) {
    struct golden_tensor t;
    char key[96];
    snprintf(key, sizeof key, "%s.%s", name, what);
    return golden_find(g, key, &t);
}

/* What the exported tensors of `name` decode to: codes times scales, from the peer's files alone. False: it has none in this form. */
static bool decoded(const char *name, const struct form *f, int64_t rows, int64_t cols, float *y) {
    bool b32 = f->block == 32;
    if (f->kind == FQ_INT8 || f->kind == FQ_NVFP4_A8) return false;
    if (f->kind == FQ_NVFP4 && b32 && !has(name, "packed", &nv32)) return false;
    const char *group = b32 ? "g32_scale" : "g128_scale", *codes4 = b32 ? "g32_packed" : "g128_packed";
    for (int64_t i = 0; i < rows * cols; i++) {
        int64_t row = i / cols, block = i / width(f, cols);
        switch (f->kind) {
        case FQ_FP8:
            y[i] =
                e4m3_decode(((const uint8_t *)part(&f8, name, "codes"))[i]) * *(const float *)part(&f8, name, "scale");
            break;
        case FQ_FP8_BLOCK:
            y[i] = e4m3_decode(((const uint8_t *)part(&f8, name, "pc_codes"))[i]) *
                   ((const float *)part(&f8, name, "pc_scale"))[row];
            break;
        case FQ_INT8_BLOCK:
            y[i] = (float)((const int8_t *)part(&i8, name, "pc_codes"))[i] *
                   ((const float *)part(&i8, name, "pc_scale"))[row];
            break;
        case FQ_INT4_BLOCK: {
            int byte = ((const uint8_t *)part(&i4, name, codes4))[row / 2 * cols + i % cols];
            int four = row & 1 ? byte >> 4 : byte & 15;
            y[i] = (float)(four > 7 ? four - 16 : four) * ((const float *)part(&i4, name, group))[block];
            break;
        }
        case FQ_MXFP8:
            y[i] = e4m3_decode(((const uint8_t *)part(&mx8, name, "codes"))[i]) *
                   e8m0_decode(((const uint8_t *)part(&mx8, name, "scale_e8m0"))[block]);
            break;
        default: {
            const struct golden *g = f->kind == FQ_MXFP4 ? &mx4 : b32 ? &nv32 : &nv;
            uint8_t byte = ((const uint8_t *)part(g, name, "packed"))[i / 2];
            float code = e2m1_decode(i & 1 ? byte >> 4 : byte & 15);
            y[i] = f->kind == FQ_MXFP4 ? code * e8m0_decode(((const uint8_t *)part(g, name, "scale_e8m0"))[block])
                                       : code * (e4m3_decode(((const uint8_t *)part(g, name, "scale_e4m3"))[block]) *
                                                 *(const float *)part(g, name, "scale_2"));
        }
        }
    }
    return true;
}

static float value_at(const struct golden_tensor *t, int64_t i) {
    return !strcmp(t->dtype, "BF16") ? bf16_decode(((const uint16_t *)t->data)[i]) : ((const float *)t->data)[i];
}

/* Maxima given ahead (as when a group of ranks agrees on them) are the same as those taken on the way. */
static void against_exports(const char *name, const struct form *f) {
    struct golden_tensor t = golden_need(&inputs, name);
    int64_t rows = t.shape[0], cols = t.shape[1], ld = cols + 5, block = width(f, cols), across = cols / block;
    int bf16 = !strcmp(t.dtype, "BF16");
    float *x, *y, *want, *maxima, amax = 0;
    must(mem_alloc(&x, (size_t)(rows * ld), sizeof *x));
    must(mem_alloc(&y, (size_t)(rows * ld), sizeof *y));
    must(mem_alloc(&want, (size_t)t.elems, sizeof *want));
    must(mem_alloc(&maxima, (size_t)(rows * across), sizeof *maxima));
    if (!decoded(name, f, rows, cols, want)) goto done;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < ld; c++) {
            float v = c < cols ? value_at(&t, r * cols + c) : 7.0f;
            x[r * ld + c] = v;
            y[r * ld + c] = -1.0f;
            if (c < cols) amax = fmaxf(amax, fabsf(v));
        }
    int wrong = 0, outside = 0, alias = 0;
    struct fake_quant_args a = {
        at(x), at(y), at(&amax), rows, cols, ld, ld, f->kind, bf16, {0}, .grid = {1, block, 0, 0, across}};
    must(host_fake_quant(&device, &a));
    must(host_amax_blocks(&device, &(struct amax_blocks_args){at(x), at(maxima), rows, cols, ld, a.grid}));
    a.y = a.x;
    a.maxima = at(maxima);
    must(host_fake_quant(&device, &a));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < ld; c++) {
            float got = y[r * ld + c];
            outside += c >= cols && (got != -1.0f || x[r * ld + c] != 7.0f);
            wrong += c < cols && bits_of(got) != bits_of(want[r * cols + c]);
            alias += c < cols && bits_of(got) != bits_of(x[r * ld + c]);
        }
    ok(!wrong && !outside && !alias,
       "%s, %s: the bits of the decoded export (%d wrong), in place and with given maxima too (%d), gaps kept (%d)",
       name, f->what, wrong, alias, outside);
done:
    mem_free(&x);
    mem_free(&y);
    mem_free(&want);
    mem_free(&maxima);
}

/* Boxes of a tensor, cut anywhere, with the maxima of its blocks: the bits of the whole. */
static void cut_anywhere(void) {
    enum { R = 40, C = 256, AT = 77, DOWN = 13 };
    static float x[R * C], whole[R * C], parts[R * C], maxima[R * C];
    uint32_t seed = 5;
    for (int i = 0; i < R * C; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) / 16777216.0f - 0.5f;
    }
    float amax = 0.5f;
    for (int i = 0; i <= FORMS; i++) { /* the last: fp8 by tiles of 16 x 32 */
        const struct form tiles = {"fp8 by tiles", FQ_FP8_BLOCK, 32, false}, *f = i < FORMS ? &forms[i] : &tiles;
        struct block_grid g = {i < FORMS ? 1 : 16, width(f, C), 0, 0, C / width(f, C)};
        memset(maxima, 0, sizeof maxima);
        struct fake_quant_args a = {at(x), at(whole), at(&amax), R, C, C, C, f->kind, 1, at(maxima), .grid = g};
        for (int k = 0; k < 4; k++) { /* each box raises the maxima of the blocks it sees a part of */
            int64_t r0 = k & 2 ? DOWN : 0, c0 = k & 1 ? AT : 0, rows = k & 2 ? R - DOWN : DOWN,
                    cols = k & 1 ? C - AT : AT;
            struct block_grid box = {g.rows, g.cols, r0, c0, g.ld};
            must(host_amax_blocks(&device,
                                  &(struct amax_blocks_args){at(x + r0 * C + c0), at(maxima), rows, cols, C, box}));
        }
        must(host_fake_quant(&device, &a));
        for (int k = 0; k < 4; k++) {
            int64_t r0 = k & 2 ? DOWN : 0, c0 = k & 1 ? AT : 0, rows = k & 2 ? R - DOWN : DOWN,
                    cols = k & 1 ? C - AT : AT;
            struct fake_quant_args b = a;
            b.x = at(x + r0 * C + c0), b.y = at(parts + r0 * C + c0), b.rows = rows, b.cols = cols;
            b.grid.row0 = r0, b.grid.col0 = c0;
            must(host_fake_quant(&device, &b));
        }
        ok(!memcmp(whole, parts, sizeof whole), "%s: four boxes, cut inside blocks, give the bits of the whole",
           f->what);
        if (i == FORMS) continue;
        a.maxima = (dptr){0};
        a.y = at(parts);
        must(host_fake_quant(&device, &a));
        ok(!memcmp(whole, parts, sizeof whole), "%s: as do maxima taken on the way", f->what);
    }
}

/* fp32 weights that are not bf16 yet: the same as rounding first; activations are not rounded. Any thread count. */
static void rounding_and_threads(void) {
    enum { R = 300, C = 256 };
    float *x, *b, *y[3], amax = 0.05f; /* not a bf16: a weight's is rounded as the weight is */
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
    for (int k = 0; k < FORMS; k++) {
        const struct form *f = &forms[k];
        int kind = f->kind;
        const struct block_grid g = {1, width(f, C), 0, 0, C / width(f, C)};
        differ = 0;
        for (int run = 0; run < 3; run++) {
            device.threads = run == 1 ? 2 : 1;
            struct fake_quant_args a = {
                at(run == 2 ? b : x), at(y[run]), at(&amax), R, C, C, C, kind, 1, {0}, .grid = g};
            must(host_fake_quant(&device, &a));
        }
        ok(!memcmp(y[0], y[1], R * C * 4), "%s: the same bits with 1 and 2 threads", f->what);
        ok(!memcmp(y[0], y[2], R * C * 4), "%s: weights are rounded to bf16 first", f->what);
        must(host_fake_quant(
            &device, &(struct fake_quant_args){at(x), at(y[1]), at(&amax), R, C, C, C, kind, 0, {0}, .grid = g}));
        for (int i = 0; i < R * C; i++) differ += y[0][i] != y[1][i];
        ok(differ > 100, "%s: activations are not (%d differ)", f->what, differ);
        double bound = kind == FQ_INT8 || kind == FQ_INT8_BLOCK  ? 2e-5 /* of uniform noise, step^2 / 12 */
                       : kind == FQ_INT4_BLOCK                   ? 7.5e-3
                       : kind == FQ_MXFP4                        ? 2.5e-2
                       : kind == FQ_NVFP4 || kind == FQ_NVFP4_A8 ? 1.7e-2
                                                                 : 1.2e-3;
        float *lo = y[1];
        ok(tap_nmse(lo, x, R * C) < bound, "%s: NMSE %.3g below %.3g", f->what, tap_nmse(lo, x, R * C), bound);
    }
    mem_free(&x);
    mem_free(&b);
    for (int i = 0; i < 3; i++) mem_free(&y[i]);
}

static enum status run(const float *x, float *y, const float *amax, int64_t cols, int kind, int weight) {
    return host_fake_quant(&device,
                           &(struct fake_quant_args){
                               at(x), at(y), at(amax), 1, cols, 32, 32, kind, weight, {0}, .grid = {1, 32, 0, 0, 1}});
}

static void edges(void) {
    float x[32] = {1, -0.0f, NAN, INFINITY, -INFINITY, 1e-30f, -1e-30f}, y[32], amax = 1, zero = 0;
    for (int k = 0; k < FORMS; k++) {
        const struct form *f = &forms[k];
        must(run(x, y, &amax, 32, f->kind, 0));
        ok(isnan(y[2]), "%s: NaN stays", f->what);
        if (f->tensor)
            ok(fabsf(y[3]) <= (f->kind == FQ_NVFP4_A8 ? 6.0f : 1.002f) && y[3] > 0.9f && y[4] < -0.9f && y[5] == 0 &&
                   y[7] == 0,
               "%s: infinity saturates at the amax", f->what);
        else
            ok(!(fabsf(y[3]) < 1e30f), "%s: a block with an infinity does not look sound", f->what);
        must(run(x + 8, y + 8, &zero, 0, f->kind, 0));
    }
    memset(x, 0, sizeof x);
    for (int k = 0; k < FORMS; k++) {
        must(run(x, y, &zero, 32, forms[k].kind, 1));
        int bad = 0;
        for (int i = 0; i < 32; i++)
            bad += y[i] != 0 || (signbit(y[i]) && forms[k].kind != FQ_MXFP4); /* MXFP4's zero is -0 */
        is_int(bad, 0, "all zero stays all zero");
    }
    is_status(run(x, y, &amax, 31, FQ_NVFP4, 0), TM_ERR_SHAPE);
    is_status(run(x, y, &amax, 31, FQ_MXFP8, 0), TM_ERR_SHAPE);
    is_status(run(x, y, &amax, 32, FQ_KINDS, 0), TM_ERR_INTERNAL);
    is_status(host_fake_quant(&device, &(struct fake_quant_args){.x = at(x), .kind = FQ_MXFP4, .rows = 1, .cols = 32}),
              TM_ERR_SHAPE);
    is_status(host_amax_blocks(&device, &(struct amax_blocks_args){.x = at(x), .rows = 1, .cols = 32}), TM_ERR_SHAPE);
}

/* Whether element j of blocks of 32 lies between two MXFP4 codes of which the even one is the larger. */
static bool tie(const float *x, int j) {
    float top = 0, v;
    for (int i = j / 32 * 32; i < j / 32 * 32 + 32; i++) top = fmaxf(top, fabsf(x[i]));
    v = fabsf(x[j]) / e8m0_decode(scale_mxfp4(top));
    return v == 0.75f || v == 1.75f || v == 3.5f;
}

/* The peer's fake quantization of weights and activations (golden/modelopt/fakequant). It multiplies by 448/amax and back by the rounded
 * inverse, and flushes what is very small (maxima up to 2^-24, NVFP4 steps below 1e-5) to zero; ours is the export's rule for both. So: equal
 * to a few units in the last place of the value, but for elements beside a tie, which may fall on the other side. MX formats scale by powers
 * of two: equal bits, but for MXFP4's ties. */
static void against_fake(void) {
    static const struct {
        const char *name;
        int form;
        bool exact;
    } list[] = {{"fp8_tensor", 0, false},    {"fp8_axis0", 1, false},  {"fp8_per_token", 1, false},
                {"int8_tensor", 2, false},   {"int8_axis0", 3, false}, {"int4_b128", 4, false},
                {"int4_b32", 5, false},      {"nvfp4", 6, false},      {"mxfp4_OUR_RULE", 9, true},
                {"mxfp8_OUR_RULE", 10, true}};
    static const char *const names[] = {"a", "a_bf16", "special"};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        for (int k = 0; k < 3; k++) {
            const struct form *f = &forms[list[i].form];
            char key[64];
            float x[24 * 128], y[24 * 128], amax = 0;
            int far = 0, bits = 0;
            snprintf(key, sizeof key, "in.%s", names[k]);
            struct golden_tensor in = golden_need(&fake, key);
            snprintf(key, sizeof key, "%s.%s.out", list[i].name, names[k]);
            struct golden_tensor out = golden_need(&fake, key);
            for (int j = 0; j < 24 * 128; j++) amax = fmaxf(amax, fabsf(x[j] = value_at(&in, j)));
            must(host_fake_quant(
                &device,
                &(struct fake_quant_args){
                    at(x), at(y), at(&amax), 24, 128, 128, 128, f->kind, 0, {0}, .grid = {1, width(f, 128), 0, 0, 1}}));
            bool bf16 = !strcmp(in.dtype, "BF16");
            for (int j = 0; j < 24 * 128; j++) {
                float want = value_at(&out, j), got = bf16 ? bf16_round(y[j]) : y[j];
                bool flushed = want == 0 && fabsf(x[j]) < 1e-3f;
                if (f->kind == FQ_MXFP4 && got != want && tie(x, j)) continue;
                far += !flushed && !(fabsf(got - want) <= (bf16 ? 8e-3f : 4e-7f) * fabsf(want));
                bits += got != want;
            }
            ok(list[i].exact ? !bits : far <= 3, "%s of %s: %d bits differ, %d elements beside ties", list[i].name,
               names[k], bits, far);
        }
}

int main(void) {
    static const char *const names[] = {"normal",      "normal_f32", "heavy", "special",
                                        "special_f32", "huge",       "ties",  "ties_448"};
    static const struct {
        struct golden *g;
        const char *file;
    } files[] = {{&inputs, "numfmt/inputs"},  {&f8, "numfmt/fp8"},    {&nv, "numfmt/nvfp4_b16"},
                 {&nv32, "numfmt/nvfp4_b32"}, {&i8, "numfmt/int8"},   {&i4, "numfmt/int4"},
                 {&mx4, "numfmt/mxfp4"},      {&mx8, "numfmt/mxfp8"}, {&fake, "fakequant/fakequant"}};
    enum { FILES = sizeof files / sizeof *files };
    rounding_and_threads();
    edges();
    cut_anywhere();
    const char *root = golden_root();
    for (int i = 0; root && i < FILES; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/golden/modelopt/%s.safetensors", root, files[i].file);
        if (!ok(golden_open(files[i].g, path), "open %s", files[i].file)) return tap_done();
    }
    for (size_t i = 0; root && i < sizeof names / sizeof *names; i++)
        for (int k = 0; k < FORMS; k++) against_exports(names[i], &forms[k]);
    if (root) against_fake();
    for (int i = 0; root && i < FILES; i++) golden_close(files[i].g);
    return tap_done();
}
