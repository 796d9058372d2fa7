/* What t850 needs beyond a shell: the GGUF that llama.cpp's converter would make of a small llama in a Hugging Face directory.
 *
 *   DIR OUT    model.safetensors (bf16), config.json and tokenizer.json (byte-level BPE with GPT-2's words) become OUT
 * Rows of q and k: reshape(heads, 2, d/2).swapaxes(1, 2), as its LlamaModel.permute has it. */
#include "gguf_make.h"
#include "golden.h"

static json_t *config, *tokenizer;
static struct golden weights;

static int64_t fact(const char *key) { return json_integer_value(json_object_get(config, key)); }

static void put_keys(void) {
    static const char *const facts[][2] = {{"llama.block_count", "num_hidden_layers"},
                                           {"llama.context_length", "max_position_embeddings"},
                                           {"llama.embedding_length", "hidden_size"},
                                           {"llama.feed_forward_length", "intermediate_size"},
                                           {"llama.attention.head_count", "num_attention_heads"},
                                           {"llama.attention.head_count_kv", "num_key_value_heads"},
                                           {"tokenizer.ggml.bos_token_id", "bos_token_id"},
                                           {"tokenizer.ggml.eos_token_id", "eos_token_id"}};
    gguf_key_text("general.architecture", "llama");
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) gguf_key_u32(facts[i][0], (uint32_t)fact(facts[i][1]));
    gguf_key_f32("llama.rope.freq_base", (float)json_number_value(json_object_get(config, "rope_theta")));
    gguf_key_f32("llama.attention.layer_norm_rms_epsilon",
                 (float)json_number_value(json_object_get(config, "rms_norm_eps")));
    gguf_key_text("tokenizer.ggml.model", "gpt2");
    gguf_key_text("tokenizer.ggml.pre", "gpt-2");
}

static void put_tokens(void) {
    const json_t *model = json_object_get(tokenizer, "model"), *merges = json_object_get(model, "merges");
    const char *names[65536] = {0}, *key;
    json_t *value;
    size_t i, n = json_object_size(json_object_get(model, "vocab"));
    json_object_foreach(json_object_get(model, "vocab"), key, value) names[json_integer_value(value)] = key;
    gguf_key_array("tokenizer.ggml.tokens", MAKE_TEXT, n);
    for (i = 0; i < n; i++) gguf_text(names[i]);
    gguf_key_array("tokenizer.ggml.token_type", MAKE_I32, n);
    for (i = 0; i < n; i++) gguf_u32(i == 0 ? 3 : 1); /* <|endoftext|> is its only special token */
    gguf_key_array("tokenizer.ggml.merges", MAKE_TEXT, json_array_size(merges));
    json_array_foreach((json_t *)merges, i, value) {
        char text[512];
        if (json_is_array(value))
            snprintf(text, sizeof text, "%s %s", json_string_value(json_array_get(value, 0)),
                     json_string_value(json_array_get(value, 1)));
        gguf_text(json_is_array(value) ? text : json_string_value(value));
    }
}

static const struct {
    const char *hub, *gguf;
    const char *heads; /* of config.json */
} names[] = {{"input_layernorm", "attn_norm", NULL},
             {"self_attn.q_proj", "attn_q", "num_attention_heads"},
             {"self_attn.k_proj", "attn_k", "num_key_value_heads"},
             {"self_attn.v_proj", "attn_v", NULL},
             {"self_attn.o_proj", "attn_output", NULL},
             {"post_attention_layernorm", "ffn_norm", NULL},
             {"mlp.gate_proj", "ffn_gate", NULL},
             {"mlp.up_proj", "ffn_up", NULL},
             {"mlp.down_proj", "ffn_down", NULL}};
enum { NAMES = sizeof names / sizeof *names };

/* Call put(hub name, GGUF name, heads) for every tensor. */
static void each(void (*put)(const char *hub, const char *gguf, int64_t heads)) {
    char hub[128], gguf[128];
    put("model.embed_tokens.weight", "token_embd.weight", 0);
    put("model.norm.weight", "output_norm.weight", 0);
    for (int64_t l = 0; l < fact("num_hidden_layers"); l++)
        for (int k = 0; k < NAMES; k++) {
            snprintf(hub, sizeof hub, "model.layers.%d.%s.weight", (int)l, names[k].hub);
            snprintf(gguf, sizeof gguf, "blk.%d.%s.weight", (int)l, names[k].gguf);
            put(hub, gguf, names[k].heads ? fact(names[k].heads) : 0);
        }
}

static uint64_t offset;
static void put_info(const char *hub, const char *gguf, int64_t heads) {
    struct golden_tensor t = golden_need(&weights, hub);
    (void)heads;
    gguf_tensor(gguf, t.rank, t.shape, 30, offset);
    offset += (t.bytes + 31) / 32 * 32;
}
static void put_data(const char *hub, const char *gguf, int64_t heads) {
    struct golden_tensor t = golden_need(&weights, hub);
    size_t row = t.bytes / (size_t)t.shape[0];
    (void)gguf;
    int64_t d = heads ? t.shape[0] / heads : 2;
    for (int64_t r = 0; r < t.shape[0]; r++) { /* row (h, i, half) of the file is row (h, half, i) of the hub */
        int64_t from = heads ? r / d * d + r % 2 * (d / 2) + r % d / 2 : r;
        gguf_raw((const char *)t.data + (size_t)from * row, row);
    }
    gguf_align(32);
}

int main(int argc, char **argv) {
    char path[1024];
    if (argc != 3) return 2;
    snprintf(path, sizeof path, "%s/model.safetensors", argv[1]);
    if (!golden_open(&weights, path)) return 2;
    snprintf(path, sizeof path, "%s/config.json", argv[1]);
    if (json_read_file(path, 1 << 20, &config) != TM_OK) return 2;
    snprintf(path, sizeof path, "%s/tokenizer.json", argv[1]);
    if (json_read_file(path, 1 << 26, &tokenizer) != TM_OK) return 2;
    gguf_head(3, 0, 0);
    put_keys();
    put_tokens();
    each(put_info);
    gguf_count();
    gguf_align(32);
    each(put_data);
    return file_write(argv[2], made.p, made.len) == TM_OK ? 0 : 1;
}
