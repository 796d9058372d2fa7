/* Fuzz: GGUF files. Tensors of one that opens are decoded, and it is turned into a Hugging Face directory as far as it goes. */
#include "base/json.h"
#include "fuzz.h"
#include "gguf_make.h"
#include "hub/gguf_hf.h"

enum { ELEMS_MAX = 4096 };

static void read_tensors(const struct hub_gguf *g) {
    static float out[ELEMS_MAX];
    for (int i = 0; i < hub_gguf_count(g); i++) {
        const struct hub_gguf_tensor *t = hub_gguf_tensor(g, i);
        fuzz_check(hub_gguf_find(g, t->name) == t, "a tensor is found by its name");
        if (t->elems <= ELEMS_MAX) fuzz_must(hub_gguf_read(g, t, 0, t->elems, out));
    }
}

static void read_rows(struct hub_gguf_hf *m) {
    static float out[ELEMS_MAX];
    for (int i = 0; i < m->n; i++) {
        const struct hub_tensor *h = &m->tensors[i];
        int64_t cols = 1;
        for (int k = 1; k < h->rank; k++) cols *= h->shape[k];
        if (h->shape[0] <= ELEMS_MAX / cols) (void)hub_gguf_hf_rows(m, i, 0, h->shape[0], out);
    }
}

static void convert(const struct hub_gguf *g) {
    struct hub_gguf_hf *m;
    enum dtype dtype;
    json_t *config = NULL, *generation = NULL;
    if (hub_gguf_dtype(g, &dtype) != TM_OK || hub_gguf_hf_create(g, dtype, &m) != TM_OK) return;
    read_rows(m);
    if (hub_gguf_config(m, &config) == TM_OK) json_decref(config);
    if (hub_gguf_generation_config(m, &generation) == TM_OK) json_decref(generation);
    (void)hub_gguf_write_tokenizer(m, fuzz_dir);
    hub_gguf_hf_destroy(&m);
}

static void run(struct fuzz_input in) {
    struct hub_gguf *g;
    fuzz_put("x.gguf", in.p, in.n);
    enum status st = hub_gguf_open(fuzz_path("x.gguf"), &g);
    fuzz_check((st == TM_OK) == (g != NULL), "a handle, or an error");
    if (st != TM_OK) return;
    read_tensors(g);
    convert(g);
    hub_gguf_close(&g);
}

static void set_up(void) {}

/* --- seeds --- */
enum { HIDDEN = 4, HEADS = 2, KV = 1, DIM = 2, FFN = 4, VOCAB = 4 };

static uint64_t data_bytes;
static void tensor(const char *name, int rank, int64_t rows, int64_t cols) {
    gguf_tensor(name, rank, (int64_t[]){rows, cols}, 0, data_bytes);
    data_bytes += (uint64_t)(rows * (rank == 2 ? cols : 1) * 4 + 31) / 32 * 32;
}

static void put_tokens(const char *model) {
    static const char *const tokens[VOCAB] = {"a", "b", "<s>", "ab"};
    gguf_key_text("tokenizer.ggml.model", model);
    gguf_key_text("tokenizer.ggml.pre", "gpt-2");
    gguf_key_array("tokenizer.ggml.tokens", MAKE_TEXT, VOCAB);
    for (int i = 0; i < VOCAB; i++) gguf_text(tokens[i]);
    gguf_key_array("tokenizer.ggml.token_type", MAKE_I32, VOCAB);
    for (int i = 0; i < VOCAB; i++) gguf_u32(i == 2 ? 3 : 1);
    gguf_key_array("tokenizer.ggml.scores", MAKE_F32, VOCAB);
    for (int i = 0; i < VOCAB; i++) gguf_raw(&(float){-(float)i}, 4);
    gguf_key_array("tokenizer.ggml.merges", MAKE_TEXT, 1);
    gguf_text("a b");
    gguf_key_u32("tokenizer.ggml.bos_token_id", 2);
    gguf_key_bool("tokenizer.ggml.add_bos_token", true);
    gguf_key_text("tokenizer.chat_template", "{{ x }}");
}

static void put_layer(void) {
    tensor("token_embd.weight", 2, VOCAB, HIDDEN);
    tensor("output_norm.weight", 1, HIDDEN, 1);
    tensor("blk.0.attn_norm.weight", 1, HIDDEN, 1);
    tensor("blk.0.attn_q.weight", 2, HEADS * DIM, HIDDEN);
    tensor("blk.0.attn_k.weight", 2, KV * DIM, HIDDEN);
    tensor("blk.0.attn_v.weight", 2, KV * DIM, HIDDEN);
    tensor("blk.0.attn_output.weight", 2, HIDDEN, HEADS * DIM);
    tensor("blk.0.ffn_norm.weight", 1, HIDDEN, 1);
    tensor("blk.0.ffn_gate.weight", 2, FFN, HIDDEN);
    tensor("blk.0.ffn_up.weight", 2, FFN, HIDDEN);
    tensor("blk.0.ffn_down.weight", 2, HIDDEN, FFN);
}

static void model(const char *name, const char *tokenizer, const char *scaling) {
    gguf_head(3, 0, 0);
    gguf_key_text("general.architecture", "llama");
    gguf_key_u32("llama.block_count", 1);
    gguf_key_u32("llama.context_length", 64);
    gguf_key_u32("llama.embedding_length", HIDDEN);
    gguf_key_u32("llama.feed_forward_length", FFN);
    gguf_key_u32("llama.attention.head_count", HEADS);
    gguf_key_u32("llama.attention.head_count_kv", KV);
    gguf_key_f32("llama.rope.freq_base", 500000);
    gguf_key_text("llama.rope.scaling.type", scaling);
    gguf_key_f32("llama.rope.scaling.factor", 4);
    put_tokens(tokenizer);
    data_bytes = 0;
    put_layer();
    if (!strcmp(scaling, "none")) tensor("rope_freqs.weight", 1, DIM / 2, 1);
    gguf_count();
    gguf_align(32);
    for (uint64_t i = 0; i < data_bytes / 4; i++) gguf_raw(&(float){1}, 4);
    fuzz_seed(name, made.p, made.len);
}

static void seeds(void) {
    static const uint32_t types[][3] = {{0, 1, 4},      {1, 1, 2},      {2, 32, 18},   {3, 32, 20},    {6, 32, 22},
                                        {7, 32, 24},    {8, 32, 34},    {10, 256, 84}, {11, 256, 110}, {12, 256, 144},
                                        {13, 256, 176}, {14, 256, 210}, {30, 1, 2}};
    model("gpt2", "gpt2", "none");
    model("llama", "llama", "yarn");
    model("linear", "gpt2", "linear");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) { /* a block of each type: id, elements, bytes */
        char name[32];
        gguf_head(i % 2 ? 2 : 3, 0, 0);
        gguf_key_u32("general.alignment", 8);
        gguf_tensor("x", 1, &(int64_t){types[i][1]}, types[i][0], 0);
        gguf_count();
        gguf_align(8);
        for (uint32_t k = 0; k < types[i][2]; k++) gguf_raw(&(char){(char)k}, 1);
        snprintf(name, sizeof name, "type-%u", types[i][0]);
        fuzz_seed(name, made.p, made.len);
    }
    str_free(&made);
}

FUZZ_TARGET(set_up, run, seeds)
