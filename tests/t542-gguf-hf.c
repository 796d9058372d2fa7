/* TEST ranks=1 tier=1 */
/* hub/: a GGUF model as a Hugging Face directory: the weights of a model that llama.cpp's rules reordered come back bit for bit, the
 * tokenizers of the goldens come back member for member, and what cannot be said in Hugging Face's terms is refused. */
#include "gguf_make.h"
#include "golden.h"
#include "hub/gguf_hf.h"
#include "numfmt/bf16.h"
#include "tok/tok.h"

/* --- weights ---------------------------------------------------------------------------------------------------------------- */

/* megatron/formats/hf and gguf/tiny-F32.gguf are one model; q and k were reordered by llama.cpp's formula. */
static void weights(void) {
    struct golden hf;
    struct hub_gguf *g;
    struct hub_gguf_hf *m, *half;
    ok(golden_open(&hf, in_shared("megatron/formats/hf/model.safetensors")), "the model as Hugging Face has it");
    must(hub_gguf_open(in_shared("megatron/formats/gguf/tiny-F32.gguf"), &g));
    must(hub_gguf_hf_create(g, DTYPE_f32, &m));
    must(hub_gguf_hf_create(g, DTYPE_bf16, &half));
    is_int(m->n, 21, "tensors");
    int equal = 0, rounded = 0, parts = 0;
    for (int i = 0; i < m->n; i++) {
        const struct hub_tensor *h = &m->tensors[i];
        struct golden_tensor w = golden_need(&hf, h->name);
        float x[4096];
        uint16_t y[4096];
        must(hub_gguf_hf_rows(m, i, 0, h->shape[0], x));
        must(hub_gguf_hf_rows(half, i, 0, h->shape[0], y));
        equal += w.rank == h->rank && w.shape[0] == h->shape[0] && h->dtype == DTYPE_f32 && !memcmp(x, w.data, w.bytes);
        int wrong = 0;
        for (int64_t k = 0; k < w.elems; k++) wrong += y[k] != bf16_encode(x[k]);
        rounded += !wrong;
        float part[4096];
        int64_t cols = w.elems / h->shape[0];
        must(hub_gguf_hf_rows(m, i, 3, 7, part));
        parts += !memcmp(part, x + 3 * cols, (size_t)(7 * cols) * sizeof *x);
    }
    is_int(equal, 21, "tensors equal bit for bit");
    is_int(rounded, 21, "tensors rounded to bf16 once");
    is_int(parts, 21, "tensors whose rows 3 to 9 alone are the same");
    enum dtype dtype;
    must(hub_gguf_dtype(g, &dtype));
    is_int(dtype, DTYPE_f32, "what the file holds");
    json_t *config, *want;
    must(hub_gguf_config(m, &config));
    must(json_read_file(in_shared("megatron/formats/hf/config.json"), 1 << 20, &want));
    static const char *const keys[] = {"model_type",        "architectures",       "hidden_size",
                                       "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                                       "intermediate_size", "vocab_size",          "rms_norm_eps",
                                       "head_dim",          "tie_word_embeddings", "max_position_embeddings"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        json_t *a = json_object_get(config, keys[i]), *b = json_object_get(want, keys[i]);
        ok(!b || json_equal(a, b), "config.json: %s", keys[i]);
    }
    json_decref(config);
    json_decref(want);
    hub_gguf_hf_destroy(&m);
    hub_gguf_hf_destroy(&half);
    hub_gguf_close(&g);
    golden_close(&hf);
}

/* --- models made by hand ---------------------------------------------------------------------------------------------------- */

enum { HIDDEN = 32, HEADS = 4, KV = 2, DIM = 8, FFN = 64 };

struct made_model {
    const char *arch, *model, *pre; /* NULL: llama, gpt2, gpt-2 */
    const char *drop, *extra;       /* a tensor left out, one too many */
    const json_t *tokenizer;        /* of the goldens; NULL: tokens "a", "b", "c", "ab" and the merge "a b" */
    const char *token, *merge;      /* instead of "c" and "a b" */
    const char *template;
    int64_t q_rows;
    float *factors; /* [DIM / 2] of the rotary frequencies */
    bool bias, no_types;
    float bad;                     /* the first number of the embedding */
    uint32_t kv_heads, key_length; /* 0: as they should be, not there */
};

static uint64_t data_bytes;
static int64_t vocab_of(const struct made_model *o) {
    const json_t *vocab = json_object_get(json_object_get(o->tokenizer, "model"), "vocab");
    return vocab ? (int64_t)json_object_size(vocab) : 4;
}
static void one(const struct made_model *o, const char *name, int rank, int64_t rows, int64_t cols) {
    if (o->drop && !strcmp(o->drop, name)) return;
    gguf_tensor(name, rank, (int64_t[]){rows, cols}, 0, data_bytes);
    data_bytes += (uint64_t)(rows * (rank == 2 ? cols : 1) * 4 + 31) / 32 * 32;
}

static void put_tokens(const struct made_model *o) {
    static const char *const plain[] = {"a", "b", "c", "ab"};
    const json_t *j = json_object_get(o->tokenizer, "model"), *vocab = json_object_get(j, "vocab");
    int64_t n = vocab_of(o);
    const char *names[4096], *key;
    int types[4096] = {0};
    json_t *value;
    size_t i;
    for (int64_t k = 0; k < 4; k++) names[k] = k == 2 && o->token ? o->token : plain[k];
    json_object_foreach((json_t *)vocab, key, value) names[json_integer_value(value)] = key;
    json_array_foreach(json_object_get(o->tokenizer, "added_tokens"), i, value) {
        int64_t id = json_integer_value(json_object_get(value, "id"));
        types[id] = json_is_true(json_object_get(value, "special")) ? 3 : 4;
    }
    gguf_key_array("tokenizer.ggml.tokens", MAKE_TEXT, (uint64_t)n);
    for (int64_t k = 0; k < n; k++) gguf_text(names[k]);
    if (!o->no_types) {
        gguf_key_array("tokenizer.ggml.token_type", MAKE_I32, (uint64_t)n);
        for (int64_t k = 0; k < n; k++) gguf_u32(types[k] ? (uint32_t)types[k] : 1);
    }
    gguf_key_array("tokenizer.ggml.scores", MAKE_F32, (uint64_t)n);
    for (int64_t k = 0; k < n; k++) gguf_raw(&(float){-(float)k}, 4);
    const json_t *merges = json_object_get(j, "merges");
    gguf_key_array("tokenizer.ggml.merges", MAKE_TEXT, merges ? json_array_size(merges) : 1);
    if (!merges) gguf_text(o->merge ? o->merge : "a b");
    json_array_foreach((json_t *)merges, i, value) {
        char text[512];
        snprintf(text, sizeof text, "%s %s", json_string_value(json_array_get(value, 0)),
                 json_string_value(json_array_get(value, 1)));
        gguf_text(text);
    }
}

static const char *make(struct made_model o) {
    const char *arch = o.arch ? o.arch : "llama";
    static const struct {
        const char *key;
        uint32_t value;
    } facts[] = {{"block_count", 1},           {"context_length", 131072},      {"embedding_length", HIDDEN},
                 {"feed_forward_length", FFN}, {"attention.head_count", HEADS}, {"attention.head_count_kv", KV}};
    gguf_head(3, 0, 0);
    gguf_key_text("general.architecture", arch);
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) {
        char key[64];
        snprintf(key, sizeof key, "%s.%s", arch, facts[i].key);
        gguf_key_u32(key, i == 5 && o.kv_heads ? o.kv_heads : facts[i].value);
    }
    if (o.key_length) gguf_key_u32("llama.attention.key_length", o.key_length);
    gguf_key_f32("llama.rope.freq_base", 500000);
    gguf_key_text("tokenizer.ggml.model", o.model ? o.model : "gpt2");
    if (!o.pre || *o.pre) gguf_key_text("tokenizer.ggml.pre", o.pre ? o.pre : "gpt-2");
    if (o.template) gguf_key_text("tokenizer.chat_template", o.template);
    gguf_key_u32("tokenizer.ggml.bos_token_id", 3);
    gguf_key_u32("tokenizer.ggml.eos_token_id", 2);
    gguf_key_u32("tokenizer.ggml.eot_token_id", 1);
    put_tokens(&o);
    data_bytes = 0;
    one(&o, "token_embd.weight", 2, vocab_of(&o), HIDDEN);
    one(&o, "output_norm.weight", 1, HIDDEN, 1);
    one(&o, "blk.0.attn_norm.weight", 1, HIDDEN, 1);
    one(&o, "blk.0.attn_q.weight", 2, o.q_rows ? o.q_rows : HEADS * DIM, HIDDEN);
    one(&o, "blk.0.attn_k.weight", 2, KV * DIM, HIDDEN);
    one(&o, "blk.0.attn_v.weight", 2, KV * DIM, HIDDEN);
    one(&o, "blk.0.attn_output.weight", 2, HIDDEN, HEADS * DIM);
    if (o.bias) one(&o, "blk.0.attn_q.bias", 1, HEADS * DIM, 1);
    if (o.bias) one(&o, "blk.0.attn_k.bias", 1, KV * DIM, 1);
    if (o.bias) one(&o, "blk.0.attn_v.bias", 1, KV * DIM, 1);
    if (o.bias && !o.arch) one(&o, "blk.0.attn_output.bias", 1, HIDDEN, 1);
    one(&o, "blk.0.ffn_norm.weight", 1, HIDDEN, 1);
    one(&o, "blk.0.ffn_gate.weight", 2, FFN, HIDDEN);
    one(&o, "blk.0.ffn_up.weight", 2, FFN, HIDDEN);
    one(&o, "blk.0.ffn_down.weight", 2, HIDDEN, FFN);
    if (o.extra) one(&o, o.extra, 1, HIDDEN, 1);
    uint64_t before = data_bytes;
    if (o.factors) one(&o, "rope_freqs.weight", 1, DIM / 2, 1);
    gguf_count();
    gguf_align(32);
    gguf_raw(&o.bad, 4);
    for (uint64_t i = 1; i < before / 4; i++) gguf_raw(&(float){(float)i}, 4);
    if (o.factors) gguf_raw(o.factors, DIM / 2 * 4);
    gguf_align(32);
    return gguf_put("made.gguf");
}

struct opened {
    struct hub_gguf *g;
    struct hub_gguf_hf *m;
};
static enum status open_made(struct made_model o, struct opened *out) {
    must(hub_gguf_open(make(o), &out->g));
    enum status st = hub_gguf_hf_create(out->g, DTYPE_bf16, &out->m);
    return st;
}
static void close_made(struct opened *x) {
    hub_gguf_hf_destroy(&x->m);
    hub_gguf_close(&x->g);
}

/* --- architectures and configuration ---------------------------------------------------------------------------------------- */

static void model_refused(struct made_model o, enum status want, const char *part) {
    struct opened x;
    is_status(open_made(o, &x), want);
    ok(strstr(status_message(), part) != NULL, "says \"%s\"", status_message());
    close_made(&x);
}

static void architectures(void) {
    struct opened x;
    model_refused((struct made_model){.arch = "gemma2"}, TM_ERR_UNSUPPORTED,
                  "architecture \"gemma2\" is not supported; supported: llama, qwen2, qwen3");
    model_refused((struct made_model){.drop = "blk.0.ffn_up.weight"}, TM_ERR_FORMAT,
                  "no tensor \"blk.0.ffn_up.weight\"");
    model_refused((struct made_model){.drop = "token_embd.weight"}, TM_ERR_FORMAT, "no tensor \"token_embd.weight\"");
    model_refused((struct made_model){.extra = "blk.0.ffn_gate_inp.weight"}, TM_ERR_UNSUPPORTED,
                  "tensor \"blk.0.ffn_gate_inp.weight\" has no place in a llama model");
    model_refused((struct made_model){.kv_heads = UINT32_MAX}, TM_ERR_FORMAT,
                  "4294967295 key heads of 8 elements: expected 1 to 4, 2 to 4096 and even");
    model_refused((struct made_model){.key_length = UINT32_MAX - 1}, TM_ERR_FORMAT,
                  "2 key heads of 4294967294 elements");
    model_refused((struct made_model){.q_rows = 40}, TM_ERR_SHAPE,
                  "tensor \"blk.0.attn_q.weight\" has 40 rows, expected 4 heads of 8");
    model_refused((struct made_model){.arch = "qwen2"}, TM_ERR_UNSUPPORTED, "layers without attn_q.bias");
    model_refused((struct made_model){.arch = "qwen3"}, TM_ERR_UNSUPPORTED, "layers without attn_q_norm.weight");
    model_refused((struct made_model){.bias = true, .drop = "blk.0.attn_output.bias"}, TM_ERR_UNSUPPORTED,
                  "layers with attn_q.bias: no llama model is so");
    model_refused((struct made_model){.extra = "blk.0.ffn_up.bias"}, TM_ERR_UNSUPPORTED, "layers with ffn_up.bias");
    /* qwen2 has biases, and its rows stay where they are */
    must(open_made((struct made_model){.arch = "qwen2", .bias = true}, &x));
    is_int(x.m->n, 14, "tensors of a qwen2 layer and a tied head");
    int64_t wrong = 0, checked = 0;
    for (int i = 0; i < x.m->n; i++) {
        uint16_t y[HEADS * DIM * HIDDEN];
        if (strcmp(x.m->tensors[i].name, "model.layers.0.self_attn.q_proj.weight")) continue;
        must(hub_gguf_hf_rows(x.m, i, 0, HEADS * DIM, y));
        int64_t first =
            (hub_gguf_find(x.g, "blk.0.attn_q.weight")->offset - hub_gguf_find(x.g, "token_embd.weight")->offset) / 4;
        for (int64_t k = 0; k < HEADS * DIM * HIDDEN; k++) wrong += y[k] != bf16_encode((float)(first + k));
        checked++;
    }
    ok(checked == 1 && wrong == 0, "q of qwen2 in the file's order");
    close_made(&x);
    /* llama's bias is reordered with its rows: 0 2 4 6 1 3 5 7 of each head */
    must(open_made((struct made_model){.bias = true}, &x));
    for (int i = 0; i < x.m->n; i++) {
        uint16_t y[KV * DIM];
        if (strcmp(x.m->tensors[i].name, "model.layers.0.self_attn.k_proj.bias")) continue;
        must(hub_gguf_hf_rows(x.m, i, 0, KV * DIM, y));
        static const int order[] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
        int64_t first =
            (hub_gguf_find(x.g, "blk.0.attn_k.bias")->offset - hub_gguf_find(x.g, "token_embd.weight")->offset) / 4;
        wrong = 0;
        for (int k = 0; k < KV * DIM; k++) wrong += y[k] != bf16_encode((float)(first + order[k]));
    }
    is_int(wrong, 0, "k bias of llama in Hugging Face's order");
    close_made(&x);
    must(open_made((struct made_model){.bad = NAN}, &x));
    uint16_t y[4 * HIDDEN];
    is_status(hub_gguf_hf_rows(x.m, 0, 0, 4, y), TM_ERR_NUMERIC);
    ok(strstr(status_message(), "tensor \"model.embed_tokens.weight\" holds NaN or Inf") != NULL, "says \"%s\"",
       status_message());
    close_made(&x);
}

/* Divisors that transformers computes for llama3's scaling (theta 500000, head 8, factor 8, 1, 4, 8192): the waves are 6.28, 167, 4443 and
 * 118145 positions long; 4443 lies between 2048 and 8192: s = (8192/4443 - 1)/3, 1/((1 - s)/8 + s). */
static void rope(void) {
    struct opened x;
    json_t *c;
    float right[] = {1, 1, 2.6945297f, 8}, wrong[] = {1, 1, 2.5f, 8};
    must(open_made((struct made_model){.factors = right}, &x));
    must(hub_gguf_config(x.m, &c));
    const json_t *s = json_object_get(c, "rope_scaling");
    is_str(json_string_value(json_object_get(s, "rope_type")), "llama3", "the scaling that the factors say");
    ok(json_real_value(json_object_get(s, "factor")) == 8 &&
           json_real_value(json_object_get(s, "high_freq_factor")) == 4,
       "its numbers");
    ok(json_real_value(json_object_get(c, "rope_theta")) == 500000, "theta");
    json_decref(c);
    must(hub_gguf_generation_config(x.m, &c));
    s = json_object_get(c, "eos_token_id");
    ok(json_array_size(s) == 2 && json_integer_value(json_array_get(s, 1)) == 1, "the end of a turn ends, too");
    json_decref(c);
    close_made(&x);
    must(open_made((struct made_model){.factors = wrong}, &x));
    is_status(hub_gguf_config(x.m, &c), TM_ERR_UNSUPPORTED);
    ok(strstr(status_message(), "\"rope_freqs.weight\"[2] = 2.5, but llama3's scaling by 8") != NULL, "says \"%s\"",
       status_message());
    close_made(&x);
}

/* --- tokenizers ------------------------------------------------------------------------------------------------------------- */

static void member(const json_t *mine, const json_t *want, const char *where, const char *key) {
    const json_t *a = json_object_get(mine, key), *b = json_object_get(want, key);
    ok(a && json_equal(a, b), "%s: %s", where, key);
}

static void tokenizer(const char *golden, const char *model, const char *pre, const char *bos) {
    char path[128];
    struct opened x;
    json_t *want, *mine, *config;
    snprintf(path, sizeof path, "data/tokenizers/%s.tokenizer.json", golden);
    must(json_read_file(in_shared(path), 1 << 26, &want));
    must(open_made((struct made_model){.model = model, .pre = pre, .tokenizer = want, .template = "{{ messages }}"},
                   &x));
    must(file_make_dirs(in_scratch("tok")));
    must(hub_gguf_write_tokenizer(x.m, in_scratch("tok")));
    must(json_read_file(in_scratch("tok/tokenizer.json"), 1 << 26, &mine));
    static const char *const keys[] = {"version", "added_tokens", "normalizer", "pre_tokenizer", "decoder", "model"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) member(mine, want, golden, keys[i]);
    const json_t *template = json_object_get(mine, "post_processor");
    if (bos) {
        const json_t *single = json_object_get(template, "single");
        const json_t *first = json_object_get(json_array_get(single, 0), "SpecialToken");
        is_int(json_array_size(single), 2, "bos and the text");
        is_str(json_string_value(json_object_get(first, "id")), bos, "bos");
    } else {
        ok(json_is_null(template), "nothing around a text");
    }
    must(json_read_file(in_scratch("tok/tokenizer_config.json"), 1 << 20, &config));
    is_str(json_string_value(json_object_get(config, "chat_template")), "{{ messages }}", "the chat template");
    if (!strcmp(model, "gpt2")) {
        struct tok *t;
        must(tok_open(in_scratch("tok"), &t));
        is_int(tok_eos(t), 2, "the tokenizer opens; its eos");
        tok_close(&t);
    }
    json_decref(want);
    json_decref(mine);
    json_decref(config);
    close_made(&x);
}

static void tokenizer_refused(struct made_model o, enum status want, const char *part) {
    struct opened x;
    must(open_made(o, &x));
    must(file_make_dirs(in_scratch("tok")));
    is_status(hub_gguf_write_tokenizer(x.m, in_scratch("tok")), want);
    ok(strstr(status_message(), part) != NULL, "says \"%s\"", status_message());
    close_made(&x);
}

static void tokenizer_refusals(void) {
    tokenizer_refused((struct made_model){.model = "bert"}, TM_ERR_UNSUPPORTED, "tokenizer \"bert\" is not supported");
    tokenizer_refused((struct made_model){.pre = "dbrx"}, TM_ERR_UNSUPPORTED,
                      "tokenizer.ggml.pre = \"dbrx\" is not supported; supported: gpt-2, smollm, llama-bpe");
    tokenizer_refused((struct made_model){.pre = ""}, TM_ERR_UNSUPPORTED, "tokenizer.ggml.pre = \"\"");
    tokenizer_refused((struct made_model){.token = "a"}, TM_ERR_FORMAT, "two tokens are \"a\", one of them number 2");
    tokenizer_refused((struct made_model){.token = "\xff"}, TM_ERR_FORMAT, "token 2 is not UTF-8");
    tokenizer_refused((struct made_model){.merge = "ab"}, TM_ERR_FORMAT, "merge 0 is \"ab\": expected two tokens");
    tokenizer_refused((struct made_model){.merge = "a "}, TM_ERR_FORMAT, "merge 0 is \"a \"");
    tokenizer_refused((struct made_model){.template = "\xc3"}, TM_ERR_FORMAT, "chat_template is not UTF-8");
}

int main(void) {
    scratch_open();
    architectures();
    rope();
    tokenizer_refusals();
    if (find_shared()) {
        weights();
        tokenizer("gpt2_bpe", "gpt2", "gpt-2", NULL);
        tokenizer("qwen2_bpe", "gpt2", "qwen2", NULL);
        tokenizer("llama3_bpe", "gpt2", "llama-bpe", "<|begin_of_text|>");
        tokenizer("llama2_spm", "llama", "", "<0x00>");
    } else {
        printf("# the goldens are not on this machine: TEMPER_SHARED\n");
    }
    scratch_close();
    str_free(&made);
    is_int(mem_bytes(), 0, "all memory is given back");
    return tap_done();
}
