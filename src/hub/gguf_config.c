/* config.json and generation_config.json out of a GGUF file's keys. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "hub/gguf_impl.h"

static enum status no_memory(void) { return TM_FAIL(TM_ERR_MEMORY, "out of memory"); }

/* The file has fp32 numbers where config.json has decimals: the shortest one that is this fp32 (9.99999975e-06 was 1e-05). */
static double shortest(double x) {
    char digits[32];
    for (int n = 1; n <= 9; n++) {
        snprintf(digits, sizeof digits, "%.*g", n, x);
        if (strtof(digits, NULL) == (float)x) return strtod(digits, NULL);
    }
    return x;
}

enum status gguf_token_id(const struct hub_gguf_hf *m, const char *what, int64_t *out) {
    char key[GGUF_KEY_BYTES];
    snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", what);
    TM_TRY(hub_gguf_get_i64(m->g, key, -1, out));
    if (*out < -1 || *out >= m->vocab)
        return TM_FAIL(TM_ERR_FORMAT, "%s: \"%s\" = %lld: the vocabulary has %lld tokens", hub_gguf_path(m->g), key,
                       (long long)*out, (long long)m->vocab);
    return TM_OK;
}

/* --- rope scaling ---------------------------------------------------------------------------------------------------------- */

/* A pair's divisor as llama3 scales it: 1 for short waves, `factor` for long ones, in between by how often the wave fits. */
static double llama3_divisor(double theta, int64_t pair, int64_t head_dim, double factor, double low, double high,
                             double length) {
    const double pi = 3.14159265358979323846;
    double wave = 2 * pi * pow(theta, 2.0 * (double)pair / (double)head_dim);
    if (wave < length / high) return 1;
    if (wave > length / low) return factor;
    double s = (length / wave - low) / (high - low);
    return 1 / ((1 - s) / factor + s);
}

/* The file has only the divisors; the published models all have the same three numbers beside the factor, which is the last divisor. */
static enum status rope_llama3(const struct hub_gguf_hf *m, const struct hub_gguf_tensor *t, double theta,
                               json_t **out) {
    enum { LOW = 1, HIGH = 4, LENGTH = 8192 };
    float *x;
    if (t->elems != m->head_dim / 2)
        return TM_FAIL(TM_ERR_SHAPE, "%s: tensor \"%s\" has %lld elements, expected %lld", hub_gguf_path(m->g), t->name,
                       (long long)t->elems, (long long)(m->head_dim / 2));
    TM_TRY(mem_alloc(&x, (size_t)t->elems, sizeof *x));
    enum status st = hub_gguf_read(m->g, t, 0, t->elems, x);
    double factor = st == TM_OK ? (double)x[t->elems - 1] : 1;
    for (int64_t i = 0; i < t->elems && st == TM_OK; i++) {
        double want = llama3_divisor(theta, i, m->head_dim, factor, LOW, HIGH, LENGTH);
        if (!(fabs((double)x[i] - want) <= 1e-4 * want))
            st =
                TM_FAIL(TM_ERR_UNSUPPORTED,
                        "%s: \"%s\"[%lld] = %g, but llama3's scaling by %g over %d positions has %g: no other is known",
                        hub_gguf_path(m->g), t->name, (long long)i, (double)x[i], factor, LENGTH, want);
    }
    mem_free(&x);
    TM_TRY(st);
    *out = json_pack("{s:s, s:f, s:f, s:f, s:i}", "rope_type", "llama3", "factor", shortest(factor), "low_freq_factor",
                     (double)LOW, "high_freq_factor", (double)HIGH, "original_max_position_embeddings", LENGTH);
    return *out ? TM_OK : no_memory();
}

static enum status rope_yarn(const struct hub_gguf_hf *m, double factor, json_t **out) {
    int64_t length;
    double attention, fast, slow;
    TM_TRY(gguf_arch_i64(m, "rope.scaling.original_context_length", m->context, &length));
    TM_TRY(gguf_arch_f64(m, "rope.scaling.attn_factor", 1, &attention));
    TM_TRY(gguf_arch_f64(m, "rope.scaling.yarn_beta_fast", 32, &fast));
    TM_TRY(gguf_arch_f64(m, "rope.scaling.yarn_beta_slow", 1, &slow));
    if (attention != 1)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: rope.scaling.attn_factor = %g: expected 1", hub_gguf_path(m->g),
                       attention);
    *out = json_pack("{s:s, s:f, s:I, s:f, s:f}", "rope_type", "yarn", "factor", factor,
                     "original_max_position_embeddings", (json_int_t)length, "beta_fast", shortest(fast), "beta_slow",
                     shortest(slow));
    return *out ? TM_OK : no_memory();
}

/* null, or what config.json calls rope_scaling. */
static enum status rope_scaling(const struct hub_gguf_hf *m, double theta, json_t **out) {
    const char *type;
    double factor;
    const struct hub_gguf_tensor *factors = hub_gguf_find(m->g, GGUF_ROPE_FACTORS);
    TM_TRY(gguf_arch_text(m, "rope.scaling.type", "none", &type));
    TM_TRY(gguf_arch_f64(m, "rope.scale_linear", 1, &factor)); /* the older spelling, of linear only */
    if (factor != 1) type = "linear";
    TM_TRY(gguf_arch_f64(m, "rope.scaling.factor", factor, &factor));
    factor = shortest(factor);
    if (factors) return rope_llama3(m, factors, theta, out);
    if (!strcmp(type, "yarn")) return rope_yarn(m, factor, out);
    if (!strcmp(type, "linear"))
        *out = json_pack("{s:s, s:f}", "rope_type", "linear", "factor", factor);
    else if (!strcmp(type, "none"))
        *out = json_null();
    else
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: rope scaling \"%s\" is not supported; supported: none, linear, yarn",
                       hub_gguf_path(m->g), type);
    return *out ? TM_OK : no_memory();
}

/* --- the files ------------------------------------------------------------------------------------------------------------- */

static int set_ids(json_t *j, int64_t bos, int64_t eos, int64_t pad) {
    int rc = 0;
    if (bos >= 0) rc |= json_object_set_new(j, "bos_token_id", json_integer(bos));
    if (eos >= 0) rc |= json_object_set_new(j, "eos_token_id", json_integer(eos));
    if (pad >= 0) rc |= json_object_set_new(j, "pad_token_id", json_integer(pad));
    return rc;
}

enum status hub_gguf_config(const struct hub_gguf_hf *m, json_t **out) {
    const struct gguf_arch *a = &gguf_archs[m->arch];
    double theta, eps;
    int64_t bos, eos, pad;
    json_t *rope;
    *out = NULL;
    TM_TRY(gguf_arch_f64(m, "rope.freq_base", 10000, &theta));
    TM_TRY(gguf_arch_f64(m, "attention.layer_norm_rms_epsilon", 1e-5, &eps));
    TM_TRY(gguf_token_id(m, "bos", &bos));
    TM_TRY(gguf_token_id(m, "eos", &eos));
    TM_TRY(gguf_token_id(m, "padding", &pad));
    theta = shortest(theta);
    TM_TRY(rope_scaling(m, theta, &rope));
    json_t *j =
        json_pack("{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:o, s:s, s:b, s:b, s:f, s:f, s:b}",
                  "architectures", a->class, "model_type", a->type, "hidden_size", (json_int_t)m->hidden,
                  "intermediate_size", (json_int_t)m->ffn, "num_hidden_layers", (json_int_t)m->layers,
                  "num_attention_heads", (json_int_t)m->heads, "num_key_value_heads", (json_int_t)m->kv_heads,
                  "head_dim", (json_int_t)m->head_dim, "vocab_size", (json_int_t)m->vocab, "max_position_embeddings",
                  (json_int_t)m->context, "rms_norm_eps", shortest(eps), "rope_theta", theta, "rope_scaling", rope,
                  "hidden_act", "silu", "attention_bias", m->attention_bias, "mlp_bias", m->mlp_bias,
                  "attention_dropout", 0.0, "initializer_range", 0.02, "tie_word_embeddings", m->tied);
    if (!j) return no_memory();
    int rc = set_ids(j, bos, eos, pad);
    rc |= json_object_set_new(j, "torch_dtype", json_string(m->tensors[0].dtype == DTYPE_f32 ? "float32" : "bfloat16"));
    rc |= json_object_set_new(j, "use_cache", json_true());
    if (rc) json_decref(j);
    *out = rc ? NULL : j;
    return rc ? no_memory() : TM_OK;
}

/* An end of turn beside the end of text ends a continuation, too. */
enum status hub_gguf_generation_config(const struct hub_gguf_hf *m, json_t **out) {
    int64_t bos, eos, pad, eot;
    TM_TRY(gguf_token_id(m, "bos", &bos));
    TM_TRY(gguf_token_id(m, "eos", &eos));
    TM_TRY(gguf_token_id(m, "padding", &pad));
    TM_TRY(gguf_token_id(m, "eot", &eot));
    *out = json_object();
    int rc = set_ids(*out, bos, eos, pad);
    if (eos >= 0 && eot >= 0 && eot != eos)
        rc |= json_object_set_new(*out, "eos_token_id", json_pack("[I, I]", (json_int_t)eos, (json_int_t)eot));
    if (*out && !rc) return TM_OK;
    json_decref(*out);
    return no_memory();
}
