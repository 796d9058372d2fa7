/* Fuzz: config.json and hf_quant_config.json, parted by a NUL byte: a model's facts, and --verify-export of a directory that has them. */
#include "model/config.h"
#include "base/json.h"
#include "fuzz.h"
#include "hub/pretty.h"
#include "stage/verify.h"

/* A configuration is written into exports. */
static void print(const char *text) {
    struct str out = {0};
    json_t *j;
    fuzz_must(json_read_buffer(text, strlen(text), "config.json", &j));
    (void)hub_json_text(j, 2, &out);
    json_decref(j);
    str_free(&out);
}

static void run(struct fuzz_input in) {
    struct model_config c;
    struct str out = {0};
    char *text = fuzz_take_text(&in);
    if (model_config_parse(text, "config.json", &c) == TM_OK) {
        float table[4 * (1 << 12)]; /* two positions of the largest head */
        fuzz_check(model_config_params(&c) > 0, "a model has parameters");
        model_rope_table(&c, 2, table);
        print(text);
    }
    model_config_free(&c);
    fuzz_put_text("config.json", text);
    fuzz_put("hf_quant_config.json", in.p, in.n);
    if (!in.n) unlink(fuzz_path("hf_quant_config.json"));
    (void)stage_verify_export(fuzz_dir, &out);
    str_free(&out);
    mem_free(&text);
}

static void set_up(void) {
    static const char file[] =
        "\x44\0\0\0\0\0\0\0{\"a.weight_scale\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}  "
        "\0\0\x80\x3f";
    fuzz_put("model.safetensors", file, sizeof file - 1);
}

static void seeds(void) {
    static const char *const more[] = {
        "{\"model_type\":\"qwen3\",\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"intermediate_"
        "size\":128,"
        "\"vocab_size\":96,\"num_key_value_heads\":2,\"head_dim\":32,\"sliding_window\":16,\"use_sliding_window\":true,"
        "\"max_window_layers\":1,\"layer_types\":[\"full_attention\",\"sliding_attention\"],\"attention_bias\":true,"
        "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":32768}}",
        "{\"model_type\":\"mistral\",\"hidden_size\":64,\"num_hidden_layers\":1,\"num_attention_heads\":4,"
        "\"intermediate_size\":128,"
        "\"vocab_size\":96,\"sliding_window\":null,\"rope_parameters\":{\"type\":\"llama3\",\"rope_theta\":500000.0,"
        "\"factor\":8.0,"
        "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192},\"tie_word_"
        "embeddings\":true}",
        "{\"model_type\":\"nemotron\",\"hidden_size\":64,\"num_hidden_layers\":1,\"num_attention_heads\":4,"
        "\"intermediate_size\":128,\"vocab_size\":96,\"num_key_value_heads\":2,\"head_dim\":32,\"hidden_act\":\"gelu\","
        "\"partial_rotary_factor\":0.5,\"norm_eps\":1e-5,\"mlp_bias\":true}"};
    static const char quantized[] = "{\"model_type\":\"llama\",\"quantization_config\":{\"quant_algo\":\"NVFP4\"}}\0"
                                    "{\"producer\":{\"name\":\"temper\"},\"quantization\":{\"quant_algo\":\"NVFP4\"}}";
    char *text;
    size_t n;
    fuzz_must(file_read("tests/data/tiny-llama/config.json", 1 << 16, &text, &n));
    fuzz_seed("llama", text, n);
    mem_free(&text);
    fuzz_seed_text("qwen3", more[0]);
    fuzz_seed_text("mistral", more[1]);
    fuzz_seed_text("nemotron", more[2]);
    fuzz_seed("quantized", quantized, sizeof quantized - 1);
}

FUZZ_TARGET(set_up, run, seeds)
