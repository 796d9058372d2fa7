/* TEST ranks=1 tier=1 */
/* hub/: the GGUF reader on files of gguf-py: every tensor type bit for bit against its decoder, values by key, pieces. */
#include "gguf_make.h"
#include "golden.h"
#include "hub/gguf.h"
#include "numfmt/f16.h"

static float *read_whole(const struct hub_gguf *g, const struct hub_gguf_tensor *t) {
    float *x;
    must(mem_alloc(&x, (size_t)t->elems, sizeof *x));
    must(hub_gguf_read(g, t, 0, t->elems, x));
    return x;
}

/* Three tensors each of a model quantized by gguf-py. */
static void quantized_models(void) {
    static const char *const types[] = {"F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"};
    static const char *const names[] = {"blk.0.attn_q.weight", "blk.1.ffn_down.weight", "output.weight"};
    struct golden want;
    ok(golden_open(&want, in_shared("megatron/formats/gguf/dequantized.safetensors")), "the decoded tensors");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct hub_gguf *g;
        char path[128], key[64];
        int equal = 0;
        snprintf(path, sizeof path, "megatron/formats/gguf/tiny-%s.gguf", types[i]);
        must(hub_gguf_open(in_shared(path), &g));
        is_int(hub_gguf_count(g), 21, "tensors");
        for (int k = 0; k < 3; k++) {
            const struct hub_gguf_tensor *t = hub_gguf_find(g, names[k]);
            snprintf(key, sizeof key, "%s.%s", types[i], names[k]);
            struct golden_tensor w = golden_need(&want, key);
            float *x = read_whole(g, t);
            equal += t->elems == w.elems && t->rank == w.rank && !memcmp(t->shape, w.shape, sizeof(int64_t) * 2) &&
                     !strcmp(hub_gguf_type(t), types[i]) && !memcmp(x, w.data, w.bytes);
            mem_free(&x);
        }
        is_int(equal, 3, types[i]);
        hub_gguf_close(&g);
    }
    golden_close(&want);
}

/* Random blocks of every type, the K ones among them, put into a file of our own. */
static void blocks(void) {
    static const struct {
        const char *name;
        uint32_t id;
    } types[] = {{"Q4_0", 2},  {"Q4_1", 3},  {"Q5_0", 6},  {"Q5_1", 7},  {"Q8_0", 8}, {"Q2_K", 10},
                 {"Q3_K", 11}, {"Q4_K", 12}, {"Q5_K", 13}, {"Q6_K", 14}, {"BF16", 30}};
    struct golden want;
    ok(golden_open(&want, in_shared("megatron/formats/gguf/block_decode.safetensors")), "blocks of gguf-py");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char key[32];
        struct hub_gguf *g;
        snprintf(key, sizeof key, "%s.raw", types[i].name);
        struct golden_tensor raw = golden_need(&want, key);
        snprintf(key, sizeof key, "%s.values", types[i].name);
        struct golden_tensor values = golden_need(&want, key);
        gguf_head(3, 1, 0);
        gguf_tensor("x", 1, &values.elems, types[i].id, 0);
        gguf_align(32);
        gguf_raw(raw.data, raw.bytes);
        must(hub_gguf_open(gguf_put("x.gguf"), &g));
        const struct hub_gguf_tensor *t = hub_gguf_find(g, "x");
        float *x = read_whole(g, t);
        ok(t->bytes == (int64_t)raw.bytes && !memcmp(x, values.data, values.bytes), "%s: %lld values bit for bit",
           types[i].name, (long long)values.elems);
        mem_free(&x);
        hub_gguf_close(&g);
    }
    struct hub_gguf *g;
    must(hub_gguf_open(in_shared("megatron/formats/gguf/blocks-K.gguf"), &g));
    const struct hub_gguf_tensor *t = hub_gguf_find(g, "x.Q5_K");
    ok(t && t->shape[0] == 2 && t->shape[1] == 512 && !strcmp(hub_gguf_type(t), "Q5_K"), "a file of K blocks");
    float *x = read_whole(g, t), part[256];
    ok(!memcmp(x, golden_need(&want, "Q5_K.values").data, 4 * 1024), "its values");
    must(hub_gguf_read(g, t, 768, 256, part));
    ok(!memcmp(part, x + 768, sizeof part), "its last block alone");
    is_status(hub_gguf_read(g, t, 128, 256, part), TM_ERR_SHAPE);
    is_status(hub_gguf_read(g, t, 768, 512, part), TM_ERR_SHAPE);
    ok(strstr(status_message(), "elements [768, 1280) of tensor \"x.Q5_K\", which has 1024 in blocks of 256") != NULL,
       "says \"%s\"", status_message());
    mem_free(&x);
    hub_gguf_close(&g);
    golden_close(&want);
}

/* Half precision 0, 1, 2, ... over more than one buffer, at an alignment of its own, in version 2. */
static void long_tensor(void) {
    enum { ROWS = 700, COLS = 1031 };
    struct hub_gguf *g;
    gguf_head(2, 2, 1);
    gguf_key_u32("general.alignment", 4096);
    gguf_tensor("b", 2, (int64_t[]){ROWS, COLS}, 1, 4096);
    gguf_tensor("a", 1, (int64_t[]){3}, 0, 0);
    gguf_align(4096);
    gguf_raw((float[]){1, -2, 0.1f}, 12);
    gguf_align(4096);
    for (int i = 0; i < ROWS * COLS; i++) gguf_raw(&(uint16_t){(uint16_t)(i % 0x7c00)}, 2);
    must(hub_gguf_open(gguf_put("long.gguf"), &g));
    const struct hub_gguf_tensor *a = hub_gguf_tensor(g, 0), *b = hub_gguf_tensor(g, 1);
    ok(!strcmp(a->name, "a") && !strcmp(b->name, "b") && b->shape[0] == ROWS && b->shape[1] == COLS, "sorted by name");
    float *x = read_whole(g, a), *y = read_whole(g, b);
    ok(x[0] == 1 && x[1] == -2 && x[2] == 0.1f, "a small one");
    int wrong = 0;
    for (int i = 0; i < ROWS * COLS; i++) wrong += y[i] != f16_to_f32((uint16_t)(i % 0x7c00));
    is_int(wrong, 0, "wrong values of 721700");
    mem_free(&x);
    mem_free(&y);
    hub_gguf_close(&g);
}

static void values(void) {
    struct hub_gguf *g;
    int64_t i, n;
    double f, *numbers;
    bool b;
    const char *s;
    struct hub_gguf_texts texts;
    must(hub_gguf_open(in_shared("megatron/formats/gguf/tiny-Q8_0.gguf"), &g));
    must(hub_gguf_get_i64(g, "llama.embedding_length", 0, &i));
    is_int(i, 32, "an integer");
    must(hub_gguf_get_f64(g, "llama.attention.layer_norm_rms_epsilon", 0, &f));
    ok((float)f == 1e-5f, "a real");
    must(hub_gguf_get_f64(g, "llama.context_length", 0, &f));
    ok(f == 64, "an integer as a real");
    must(hub_gguf_get_bool(g, "temper.test.flag", false, &b));
    ok(b, "a bool");
    must(hub_gguf_get_text(g, "general.architecture", "", &s));
    ok(!strcmp(s, "llama"), "a text");
    must(hub_gguf_get_texts(g, "tokenizer.ggml.tokens", &texts));
    ok(texts.n == 64 && !strcmp(texts.at[0], "t0") && !strcmp(texts.at[63], "t63"), "texts");
    hub_gguf_texts_free(&texts);
    must(hub_gguf_get_numbers(g, "temper.test.ints", &numbers, &n));
    ok(n == 3 && numbers[0] == 1 && numbers[1] == -2 && numbers[2] == 3, "numbers");
    mem_free(&numbers);
    must(hub_gguf_get_numbers(g, "tokenizer.ggml.scores", &numbers, &n));
    ok(n == 64 && numbers[63] == -63, "real numbers");
    mem_free(&numbers);
    must(hub_gguf_get_i64(g, "absent", 7, &i));
    must(hub_gguf_get_texts(g, "absent", &texts));
    ok(i == 7 && texts.n == 0 && !hub_gguf_has(g, "absent") && hub_gguf_has(g, "general.name"), "absent keys");
    is_status(hub_gguf_get_i64(g, "general.name", 0, &i), TM_ERR_FORMAT);
    ok(strstr(status_message(), "\"general.name\" is a text: expected an integer") != NULL, "says \"%s\"",
       status_message());
    is_status(hub_gguf_get_texts(g, "temper.test.ints", &texts), TM_ERR_FORMAT);
    is_status(hub_gguf_get_numbers(g, "tokenizer.ggml.tokens", &numbers, &n), TM_ERR_FORMAT);
    is_status(hub_gguf_get_bool(g, "llama.block_count", false, &b), TM_ERR_FORMAT);
    is_status(hub_gguf_get_i64(g, "temper.test.flag", 0, &i), TM_ERR_FORMAT);
    is_status(hub_gguf_need_i64(g, "absent", &i), TM_ERR_FORMAT);
    hub_gguf_close(&g);
}

int main(void) {
    scratch_open();
    long_tensor();
    if (find_shared()) {
        quantized_models();
        blocks();
        values();
    } else {
        printf("# the goldens are not on this machine: TEMPER_SHARED\n");
    }
    scratch_close();
    str_free(&made);
    is_int(mem_bytes(), 0, "all memory is given back");
    return tap_done();
}
