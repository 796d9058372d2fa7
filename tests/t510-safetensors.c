/* TEST ranks=1 tier=1 */
/* hub/: the safetensors reader: files by others, every type, boxes against a naive slice, refusals of what a loader asks. */
#include "base/rng.h"
#include "hub/safetensors.h"
#include "hub_files.h"
#include "numfmt/f16.h"

/* Half precision against its definition: sign, exponent, fraction by ldexp; rounding by midpoints of neighbours. */
static void halves(void) {
    bool exact = true, back = true, ties = true, near = true;
    for (uint32_t c = 0; c < 0x7c00; c++) {
        int e = (int)(c >> 10);
        float want = (float)(e ? ldexp(1024 + (c & 1023), e - 25) : ldexp(c, -24)), x = f16_to_f32((uint16_t)c);
        exact = exact && x == want && f16_to_f32((uint16_t)(c | 0x8000)) == -want;
        back = back && f16_from_f32(x) == c && f16_from_f32(-x) == (c | 0x8000);
        float next = c == 0x7bff ? 65536.0f : f16_to_f32((uint16_t)(c + 1)), mid = x + (next - x) / 2;
        ties = ties && f16_from_f32(mid) == c + (c & 1);
        near = near && f16_from_f32(nextafterf(mid, 0)) == c && f16_from_f32(nextafterf(mid, 1e9f)) == c + 1;
    }
    ok(exact, "f16: every finite code has its value");
    ok(back, "f16: every finite value has its code");
    ok(ties, "f16: midpoints go to the even code");
    ok(near, "f16: one fp32 step beside a midpoint goes to the nearer code");
    ok(isinf(f16_to_f32(0x7c00)) && f16_to_f32(0xfc00) < 0 && isnan(f16_to_f32(0x7e01)), "f16: Inf and NaN");
    ok(f16_from_f32(INFINITY) == 0x7c00 && f16_from_f32(-1e30f) == 0xfc00 && isnan(f16_to_f32(f16_from_f32(NAN))),
       "f16: Inf, overflow and NaN");
}

/* formats/hf and formats/hf_sharded hold the same model, written by transformers in one and in four files. */
static void shards(void) {
    struct hub_model *one, *four, *by_index;
    must(hub_open(in_shared("megatron/formats/hf"), &one));
    must(hub_open(in_shared("megatron/formats/hf_sharded"), &four));
    must(hub_open(in_shared("megatron/formats/hf_sharded/model.safetensors.index.json"), &by_index));
    is_int(hub_count(one), 21, "tensors of the whole");
    is_int(hub_count(four), 21, "tensors of the shards");
    is_int(hub_count(by_index), 21, "tensors by the index");
    int same = 0, files = 0;
    for (int64_t i = 0; i < hub_count(one); i++) {
        const struct hub_entry *a = hub_entry(one, i), *b = hub_find(four, a->name);
        float *x, *y;
        if (!b || a->elems != b->elems) continue;
        must(mem_alloc(&x, (size_t)a->elems, sizeof *x));
        must(mem_alloc(&y, (size_t)a->elems, sizeof *y));
        must(hub_read_box(one, a, NULL, x));
        must(hub_read_box(four, b, NULL, y));
        same += !memcmp(x, y, (size_t)a->bytes) && hub_count_nonfinite(x, a->elems) == 0 && x[0] != 0;
        if (b->file + 1 > files) files = b->file + 1;
        mem_free(&x);
        mem_free(&y);
    }
    is_int(same, 21, "tensors equal in both");
    is_int(files, 4, "shards");
    hub_close(&one);
    hub_close(&four);
    hub_close(&by_index);
}

/* Facts of golden/models/tiny/llama/model.safetensors as Python's json and struct see them. */
static void tiny_llama(void) {
    struct hub_model *m;
    const struct hub_entry *e;
    must(hub_open(in_shared("models/tiny/llama"), &m));
    is_int(hub_count(m), 21, "tensors of the tiny llama");
    is_str(hub_entry(m, 0)->name, "lm_head.weight", "the first name");
    is_str(hub_entry(m, 20)->name, "model.norm.weight", "the last name");
    must(hub_need(m, "model.layers.0.mlp.down_proj.weight", 2, (const int64_t[]){64, 56}, &e));
    is_int(e->offset, 8 + 2120 + 49408, "position of down_proj in the file");
    is_int(e->bytes, 64 * 56 * 4, "its bytes");
    is_int(e->dtype, DTYPE_f32, "its type");
    ok(strstr(hub_path(m, e), "tiny/llama/model.safetensors") != NULL, "its file");
    ok(hub_find(m, "model.layers.0") == NULL && hub_find(m, "zzz") == NULL && hub_find(m, "") == NULL, "absent names");
    hub_close(&m);
}

/* One file with all types, values by hand. */
static void types(void) {
    static const char header[] = "{\"f64\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,16]},"
                                 "\"i64\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[16,32]},"
                                 "\"u64\":{\"dtype\":\"U64\",\"shape\":[1],\"data_offsets\":[32,40]},"
                                 "\"i32\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[40,48]},"
                                 "\"u32\":{\"dtype\":\"U32\",\"shape\":[1],\"data_offsets\":[48,52]},"
                                 "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[52,56]},"
                                 "\"f16\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[56,60]},"
                                 "\"bf16\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[60,64]},"
                                 "\"i16\":{\"dtype\":\"I16\",\"shape\":[1],\"data_offsets\":[64,66]},"
                                 "\"u16\":{\"dtype\":\"U16\",\"shape\":[1],\"data_offsets\":[66,68]},"
                                 "\"i8\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[68,69]},"
                                 "\"u8\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[69,70]},"
                                 "\"bool\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[70,72]},"
                                 "\"empty\":{\"dtype\":\"F32\",\"shape\":[3,0],\"data_offsets\":[72,72]},"
                                 "\"__metadata__\":{\"format\":\"pt\"}}  ";
    unsigned char d[72] = {0};
    memcpy(d, (double[]){0.1, -1e300}, 16);
    memcpy(d + 16, (int64_t[]){-5, 1099511627776}, 16);
    memcpy(d + 32, (uint64_t[]){UINT64_MAX}, 8);
    memcpy(d + 40, (int32_t[]){INT32_MIN, 7}, 8);
    memcpy(d + 48, (uint32_t[]){4000000000u}, 4);
    memcpy(d + 52, (float[]){2.5f}, 4);
    memcpy(d + 56, (uint16_t[]){0x3c01, 0xfbff, 0x3fc0, 0x7f80, 0xfffe, 0xfffe}, 12);
    memcpy(d + 68, (unsigned char[]){0xff, 0xff, 1, 0}, 4);
    put_file("types.safetensors", header, sizeof header - 1, d, sizeof d);
    struct hub_model *m;
    must(hub_open(in_scratch("types.safetensors"), &m));
    float x[2];
    int64_t n[2];
    int32_t k[2];
    uint16_t raw[2];
    must(hub_read_box(m, hub_find(m, "f64"), NULL, x));
    ok(x[0] == 0.1f && isinf(x[1]), "F64 is rounded to fp32; too large becomes Inf");
    must(hub_read_box(m, hub_find(m, "scalar"), NULL, x));
    ok(x[0] == 2.5f, "a scalar");
    struct tensor_box none = tensor_box_whole(0, NULL);
    x[0] = 0;
    must(hub_read_box(m, hub_find(m, "scalar"), &none, x));
    ok(x[0] == 2.5f, "a scalar by its box");
    must(hub_read_box(m, hub_find(m, "f16"), NULL, x));
    ok(x[0] == 1.0009765625f && x[1] == -65504.0f, "F16");
    must(hub_read_box(m, hub_find(m, "bf16"), NULL, x));
    ok(x[0] == 1.5f && isinf(x[1]), "BF16");
    is_status(hub_need_finite(m, hub_find(m, "bf16"), x, 2), TM_ERR_NUMERIC);
    ok(strstr(status_message(), "types.safetensors: tensor \"bf16\" holds 1 values") != NULL, "named: %s",
       status_message());
    must(hub_read_raw(m, hub_find(m, "bf16"), NULL, raw));
    ok(raw[0] == 0x3fc0 && raw[1] == 0x7f80, "raw bytes");
    must(hub_read_box(m, hub_find(m, "empty"), NULL, NULL));
    must(hub_read_i64(m, hub_find(m, "i64"), NULL, n));
    ok(n[0] == -5 && n[1] == 1099511627776, "I64");
    must(hub_read_i32(m, hub_find(m, "i32"), NULL, k));
    ok(k[0] == INT32_MIN && k[1] == 7, "I32");
    static const char *const small[] = {"u32", "i16", "u16", "i8", "u8"};
    static const int64_t want[] = {4000000000, -2, 65534, -1, 255};
    for (int i = 0; i < 5; i++) {
        must(hub_read_i64(m, hub_find(m, small[i]), NULL, n));
        is_int(n[0], want[i], small[i]);
    }
    must(hub_read_i32(m, hub_find(m, "bool"), NULL, k));
    ok(k[0] == 1 && k[1] == 0, "BOOL");
    is_status(hub_read_i64(m, hub_find(m, "u64"), NULL, n), TM_ERR_DATA);
    is_status(hub_read_i32(m, hub_find(m, "i64"), NULL, k), TM_ERR_DATA);
    ok(strstr(status_message(), "tensor \"i64\" holds 1099511627776") != NULL, "named: %s", status_message());
    is_status(hub_read_box(m, hub_find(m, "i32"), NULL, x), TM_ERR_UNSUPPORTED);
    is_status(hub_read_i64(m, hub_find(m, "f16"), NULL, n), TM_ERR_UNSUPPORTED);
    hub_close(&m);
}

/* Element i of the tensor is i (fp32) or the bf16 of i % 251, so that a slice is known without reading. */
static bool box_is_right(const struct hub_entry *e, const struct tensor_box *b, const float *x, int modulus) {
    int64_t k = 0, lo[4] = {0}, hi[4] = {1, 1, 1, 1}, shape[4] = {1, 1, 1, 1};
    for (int i = 0; i < e->rank; i++) {
        lo[4 - e->rank + i] = b->lo[i];
        hi[4 - e->rank + i] = b->hi[i];
        shape[4 - e->rank + i] = e->shape[i];
    }
    for (int64_t p = lo[0]; p < hi[0]; p++)
        for (int64_t q = lo[1]; q < hi[1]; q++)
            for (int64_t r = lo[2]; r < hi[2]; r++)
                for (int64_t s = lo[3]; s < hi[3]; s++, k++) {
                    int64_t i = ((p * shape[1] + q) * shape[2] + r) * shape[3] + s;
                    if (x[k] != (float)(i % modulus)) return false;
                }
    return k == tensor_box_elems(b) && x[k] == -1; /* nothing written behind */
}

static void random_boxes(const char *name, const struct hub_model *m, int modulus) {
    const struct hub_entry *e = hub_find(m, name);
    float *x;
    must(mem_alloc(&x, (size_t)e->elems + 1, sizeof *x));
    int right = 0, trials = 200;
    for (int t = 0; t < trials; t++) {
        struct tensor_box b = {.rank = e->rank};
        for (int i = 0; i < e->rank; i++) {
            uint64_t at = (uint64_t)(t * 8 + i * 2);
            b.lo[i] = (int64_t)rng_below(1, 2, at, (uint32_t)e->shape[i] + 1);
            b.hi[i] = t % 3 == i ? e->shape[i]
                                 : b.lo[i] + (int64_t)rng_below(1, 2, at + 1, (uint32_t)(e->shape[i] - b.lo[i]) + 1);
            if (t % 4 == 1 && i > 0) {
                b.lo[i] = 0; /* whole later axes: longer runs */
                b.hi[i] = e->shape[i];
            }
        }
        for (int64_t i = 0; i <= e->elems; i++) x[i] = -1;
        right += hub_read_box(m, e, &b, x) == TM_OK && box_is_right(e, &b, x, modulus);
    }
    is_int(right, trials, name);
    mem_free(&x);
}

static void boxes(void) {
    enum { COUNT = 2 * 3 * 5 * 7, LARGE = 3 * 300000 };
    static float f[COUNT];
    static uint16_t h[LARGE];
    for (int i = 0; i < COUNT; i++) f[i] = (float)i;
    for (int i = 0; i < LARGE; i++) {
        float v = (float)(i % 251);
        uint32_t bits;
        memcpy(&bits, &v, 4);
        h[i] = (uint16_t)(bits >> 16); /* integers below 256 are exact in bf16 */
    }
    static const char *const shapes[] = {"210", "10,21", "2,15,7", "2,3,5,7"};
    for (int i = 0; i < 4; i++) {
        char header[256], name[32];
        snprintf(header, sizeof header, "{\"rank %d\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[0,840]}}",
                 i + 1, shapes[i]);
        put_file("boxes.safetensors", header, strlen(header), f, sizeof f);
        struct hub_model *m;
        must(hub_open(in_scratch("boxes.safetensors"), &m));
        snprintf(name, sizeof name, "rank %d", i + 1);
        random_boxes(name, m, COUNT);
        hub_close(&m);
    }
    static const char header[] = "{\"large\":{\"dtype\":\"BF16\",\"shape\":[3,300000],\"data_offsets\":[0,1800000]}}";
    put_file("large.safetensors", header, sizeof header - 1, h, sizeof h);
    struct hub_model *m;
    must(hub_open(in_scratch("large.safetensors"), &m));
    const struct hub_entry *e = hub_find(m, "large");
    float *x;
    must(mem_alloc(&x, LARGE + 1, sizeof *x));
    x[LARGE] = -1;
    struct tensor_box whole = tensor_box_whole(2, e->shape), far = {.rank = 2, .lo = {1, 5}, .hi = {3, 299999}};
    must(hub_read_box(m, e, &whole, x));
    ok(box_is_right(e, &whole, x, 251), "a run longer than the buffer");
    x[2 * 299994] = -1;
    must(hub_read_box(m, e, &far, x));
    ok(box_is_right(e, &far, x, 251), "two runs of a box");
    mem_free(&x);
    struct tensor_box bad = {.rank = 2, .lo = {1, 5}, .hi = {4, 6}}, flat = {.rank = 1, .hi = {1}};
    float y[2];
    is_status(hub_read_box(m, e, &bad, y), TM_ERR_SHAPE);
    ok(strstr(status_message(), "tensor \"large\": [1, 4) of axis 0 is wanted, which has 3") != NULL, "named: %s",
       status_message());
    is_status(hub_read_box(m, e, &flat, y), TM_ERR_SHAPE);
    is_status(hub_need(m, "large", 2, (const int64_t[]){3, 300001}, &e), TM_ERR_SHAPE);
    ok(strstr(status_message(), "large.safetensors: tensor \"large\" has shape [3, 300000], expected [3, 300001]") !=
           NULL,
       "named: %s", status_message());
    is_status(hub_need(m, "absent", 2, NULL, &e), TM_ERR_FORMAT);
    ok(strstr(status_message(), "large.safetensors: no tensor \"absent\"") != NULL, "named: %s", status_message());
    hub_close(&m);
}

int main(void) {
    scratch_open();
    halves();
    types();
    boxes();
    if (find_shared()) {
        shards();
        tiny_llama();
    } else
        ok(true, "files by others # SKIP no shared goldens");
    scratch_close();
    is_int(mem_bytes(), 0, "all memory is given back");
    return tap_done();
}
