/* Reading of config.json. */
#include "model/config.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"

enum bias { NO, YES, KEY };
enum window { NONE, ALL, LAYERS };
enum norm { RMS, LAYER1P };
enum mlp { GATED, PLAIN };
static const struct {
    const char *name, *class;
    enum bias qkv, out;
    bool qk_norm;
    enum window window;
    enum norm norm;
    enum mlp mlp;
} families[] = {
#define FAMILY(name, class, qkv, out, qk_norm, window, norm, mlp) {#name, class, qkv, out, qk_norm, window, norm, mlp},
#include "model/family.def"
#undef FAMILY
};
enum { FAMILIES = sizeof families / sizeof *families };

const char *model_family_name(int family) { return families[family].name; }
int model_family_count(void) { return FAMILIES; }

static enum status find_family(const char *type, const char *where, int *out) {
    struct str known = {0};
    for (int i = 0; i < FAMILIES; i++) {
        if (!strcmp(families[i].name, type)) {
            *out = i;
            str_free(&known);
            return TM_OK;
        }
        TM_TRY(str_printf(&known, "%s%s", i ? ", " : "", families[i].name));
    }
    enum status st =
        TM_FAIL(TM_ERR_UNSUPPORTED, "%s: model_type \"%s\" is not supported; supported: %s", where, type, known.p);
    str_free(&known);
    return st;
}

static enum status check_theta(double theta, const char *where) {
    if (theta > 0 && isfinite(theta)) return TM_OK;
    return TM_FAIL(TM_ERR_FORMAT, "%s: rope_theta = %g: expected a number > 0", where, theta);
}

static enum status read_rope(const json_t *j, const char *where, struct model_config *c) {
    struct model_rope *r = &c->rope;
    const json_t *s = json_object_get(j, "rope_scaling");
    if (!s || json_is_null(s)) s = json_object_get(j, "rope_parameters"); /* the newer spelling */
    *r = (struct model_rope){.factor = 1, .attention_factor = 1, .truncate = true};
    TM_TRY(json_get_f64(j, "rope_theta", where, 10000, &r->theta));
    if (!s || json_is_null(s)) return check_theta(r->theta, where);
    if (!json_is_object(s)) return TM_FAIL(TM_ERR_FORMAT, "%s: \"rope_scaling\" is not an object", where);
    const char *kind;
    TM_TRY(json_get_str(s, "type", where, "default", &kind));
    TM_TRY(json_get_str(s, "rope_type", where, kind, &kind));
    TM_TRY(json_get_f64(s, "rope_theta", where, r->theta, &r->theta));
    TM_TRY(check_theta(r->theta, where));
    TM_TRY(json_get_f64(s, "factor", where, 1, &r->factor));
    TM_TRY(json_get_f64(s, "low_freq_factor", where, 1, &r->low_freq_factor));
    TM_TRY(json_get_f64(s, "high_freq_factor", where, 4, &r->high_freq_factor));
    TM_TRY(json_get_f64(s, "beta_fast", where, 32, &r->beta_fast));
    TM_TRY(json_get_f64(s, "beta_slow", where, 1, &r->beta_slow));
    TM_TRY(json_get_bool(s, "truncate", where, true, &r->truncate));
    TM_TRY(json_get_i64(s, "original_max_position_embeddings", where, c->max_position, &r->original_max_position));
    if (!(r->factor > 0) || r->original_max_position < 1 || r->high_freq_factor == r->low_freq_factor)
        return TM_FAIL(TM_ERR_FORMAT, "%s: rope_scaling has a factor or length that is not positive", where);
    if (!strcmp(kind, "default")) return TM_OK;
    if (!strcmp(kind, "linear"))
        r->kind = MODEL_ROPE_LINEAR;
    else if (!strcmp(kind, "llama3"))
        r->kind = MODEL_ROPE_LLAMA3;
    else if (!strcmp(kind, "yarn"))
        r->kind = MODEL_ROPE_YARN;
    else
        return TM_FAIL(TM_ERR_UNSUPPORTED,
                       "%s: rope type \"%s\" is not supported; supported: default, linear, llama3, yarn", where, kind);
    if (r->kind != MODEL_ROPE_YARN) return TM_OK;
    double mscale, all_dim;
    TM_TRY(json_get_f64(s, "mscale", where, 0, &mscale));
    TM_TRY(json_get_f64(s, "mscale_all_dim", where, 0, &all_dim));
    double grow = r->factor > 1 ? 0.1 * log(r->factor) : 0; /* Peng et al. 2023 (YaRN), equation 22 */
    double absent = mscale != 0 && all_dim != 0 ? (grow * mscale + 1) / (grow * all_dim + 1) : grow + 1;
    return json_get_f64(s, "attention_factor", where, absent, &r->attention_factor);
}

/* The rotary share of a head, which its family has for itself: the first channels. Then only the plain kind is known there. */
static enum status read_rotary_share(const json_t *j, const char *where, struct model_config *c) {
    double share;
    c->rotary = c->head_dim;
    if (families[c->family].norm != LAYER1P) return TM_OK;
    const json_t *newer = json_object_get(j, "rope_parameters");
    TM_TRY(json_get_f64(j, "partial_rotary_factor", where, 0.5, &share));
    if (json_is_object(newer)) TM_TRY(json_get_f64(newer, "partial_rotary_factor", where, share, &share));
    if (share > 0 && share <= 1) c->rotary = (int64_t)((double)c->head_dim * share);
    if (!(share > 0 && share <= 1) || c->rotary < 2 || c->rotary % 2)
        return TM_FAIL(TM_ERR_FORMAT,
                       "%s: partial_rotary_factor = %g of head_dim = %lld: expected an even number of channels", where,
                       share, (long long)c->head_dim);
    if (c->rope.kind == MODEL_ROPE_DEFAULT) return TM_OK;
    return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: rope_scaling is not supported for %s", where, families[c->family].name);
}

/* hidden_act, which goes with the MLP's form. */
static enum status read_activation(const json_t *j, const char *where, struct model_config *c) {
    static const char *const names[ACT_KINDS] = {
#define ACT(kind, function, name) [ACT_##kind] = name,
#include "dev/act.def"
#undef ACT
    };
    const char *act, *type = families[c->family].name;
    c->gated = families[c->family].mlp == GATED;
    TM_TRY(json_get_str(j, "hidden_act", where, c->gated ? "silu" : names[ACT_RELU2], &act));
    if (c->gated && strcmp(act, "silu") != 0)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: hidden_act \"%s\" is not supported for %s; supported: silu", where, act,
                       type);
    for (int i = 0; i < ACT_KINDS; i++) {
        c->act = (enum act_kind)i;
        if (c->gated || !strcmp(act, names[i])) return TM_OK;
    }
    struct str known = {0};
    for (int i = 0; i < ACT_KINDS; i++) TM_TRY(str_printf(&known, "%s%s", i ? ", " : "", names[i]));
    enum status st = TM_FAIL(TM_ERR_UNSUPPORTED, "%s: hidden_act \"%s\" is not supported for %s; supported: %s", where,
                             act, type, known.p);
    str_free(&known);
    return st;
}

static enum status read_windows(const json_t *j, const char *where, struct model_config *c) {
    int64_t size, from;
    bool use;
    TM_TRY(mem_alloc(&c->window, (size_t)c->layers, sizeof *c->window));
    TM_TRY(json_get_i64(j, "sliding_window", where, 0, &size));
    TM_TRY(json_get_bool(j, "use_sliding_window", where, false, &use));
    TM_TRY(json_get_i64(j, "max_window_layers", where, c->layers, &from));
    const json_t *types = json_object_get(j, "layer_types");
    if (size < 0) return TM_FAIL(TM_ERR_FORMAT, "%s: sliding_window = %lld", where, (long long)size);
    for (int64_t i = 0; i < c->layers; i++) {
        const char *type = json_is_array(types) ? json_string_value(json_array_get(types, (size_t)i)) : NULL;
        bool slides = families[c->family].window == ALL;
        if (families[c->family].window == LAYERS) slides = type ? !strcmp(type, "sliding_attention") : use && i >= from;
        c->window[i] = slides ? size : 0;
    }
    return TM_OK;
}

static enum status check(const struct model_config *c, const char *where) {
    const struct {
        const char *key;
        int64_t value, most;
    } rows[] = {{"hidden_size", c->hidden, 1 << 20},        {"num_hidden_layers", c->layers, 1 << 14},
                {"num_attention_heads", c->heads, 1 << 14}, {"num_key_value_heads", c->kv_heads, 1 << 14},
                {"head_dim", c->head_dim, 1 << 12},         {"intermediate_size", c->ffn, 1 << 24},
                {"vocab_size", c->vocab, INT32_MAX},        {"max_position_embeddings", c->max_position, INT32_MAX}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].value < 1 || rows[i].value > rows[i].most)
            return TM_FAIL(TM_ERR_FORMAT, "%s: %s = %lld: expected 1 to %lld", where, rows[i].key,
                           (long long)rows[i].value, (long long)rows[i].most);
    if (c->heads % c->kv_heads)
        return TM_FAIL(TM_ERR_FORMAT, "%s: num_attention_heads = %lld is no multiple of num_key_value_heads = %lld",
                       where, (long long)c->heads, (long long)c->kv_heads);
    if (c->head_dim % 2) return TM_FAIL(TM_ERR_FORMAT, "%s: head_dim = %lld is odd", where, (long long)c->head_dim);
    return TM_OK;
}

static enum status read_fields(const json_t *j, const char *where, struct model_config *c) {
    const char *type;
    double eps;
    bool attention_bias;
    if (!json_is_object(j)) return TM_FAIL(TM_ERR_FORMAT, "%s: not a JSON object", where);
    TM_TRY(json_get_str(j, "model_type", where, "", &type));
    TM_TRY(find_family(type, where, &c->family));
    TM_TRY(read_activation(j, where, c));
    TM_TRY(json_need_i64(j, "hidden_size", where, &c->hidden));
    TM_TRY(json_need_i64(j, "num_hidden_layers", where, &c->layers));
    TM_TRY(json_need_i64(j, "num_attention_heads", where, &c->heads));
    TM_TRY(json_need_i64(j, "intermediate_size", where, &c->ffn));
    TM_TRY(json_need_i64(j, "vocab_size", where, &c->vocab));
    TM_TRY(json_get_i64(j, "num_key_value_heads", where, c->heads, &c->kv_heads));
    TM_TRY(json_get_i64(j, "head_dim", where, c->heads > 0 ? c->hidden / c->heads : 0, &c->head_dim));
    TM_TRY(json_get_i64(j, "max_position_embeddings", where, 2048, &c->max_position));
    c->layernorm = families[c->family].norm == LAYER1P;
    c->norm_offset = c->layernorm ? 1 : 0;
    TM_TRY(json_get_f64(j, c->layernorm ? "norm_eps" : "rms_norm_eps", where, c->layernorm ? 1e-5 : 1e-6, &eps));
    c->norm_eps = (float)eps;
    TM_TRY(json_get_bool(j, "tie_word_embeddings", where, false, &c->tied)); /* absent means untied in these families */
    TM_TRY(json_get_bool(j, "attention_bias", where, false, &attention_bias));
    TM_TRY(json_get_bool(j, "mlp_bias", where, false, &c->mlp_bias));
    c->qkv_bias = families[c->family].qkv == YES || (families[c->family].qkv == KEY && attention_bias);
    c->out_bias = families[c->family].out == YES || (families[c->family].out == KEY && attention_bias);
    c->qk_norm = families[c->family].qk_norm;
    c->bos = c->eos = -1;
    if (json_is_integer(json_object_get(j, "bos_token_id")))
        TM_TRY(json_get_i64(j, "bos_token_id", where, -1, &c->bos));
    if (json_is_integer(json_object_get(j, "eos_token_id")))
        TM_TRY(json_get_i64(j, "eos_token_id", where, -1, &c->eos));
    TM_TRY(check(c, where));
    TM_TRY(read_rope(j, where, c));
    TM_TRY(read_rotary_share(j, where, c));
    return read_windows(j, where, c);
}

enum status model_config_parse(const char *text, const char *where, struct model_config *c) {
    json_t *j;
    *c = (struct model_config){0};
    TM_TRY(json_read_buffer(text, strlen(text), where, &j));
    enum status st = read_fields(j, where, c);
    json_decref(j);
    if (st == TM_OK) st = mem_alloc(&c->source, strlen(text) + 1, 1);
    if (st == TM_OK)
        memcpy(c->source, text, strlen(text) + 1);
    else
        model_config_free(c);
    return st;
}

enum status model_config_read(const char *dir, struct model_config *out) {
    char path[4096], *text;
    size_t n;
    TM_TRY(str_path(path, sizeof path, dir, "config.json"));
    TM_TRY(file_read(path, 16 << 20, &text, &n));
    enum status st = model_config_parse(text, path, out);
    mem_free(&text);
    return st;
}

void model_config_free(struct model_config *c) {
    mem_free(&c->source);
    mem_free(&c->window);
}

int64_t model_config_params(const struct model_config *c) {
    int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    int64_t norm = (c->layernorm ? 2 : 1) * c->hidden, mlp = c->gated ? 3 : 2;
    int64_t layer = c->hidden * (2 * q + 2 * kv + mlp * c->ffn) + 2 * norm;
    if (c->qkv_bias) layer += q + 2 * kv;
    if (c->out_bias) layer += c->hidden;
    if (c->mlp_bias) layer += (mlp - 1) * c->ffn + c->hidden;
    if (c->qk_norm) layer += 2 * c->head_dim;
    return c->layers * layer + norm + (c->tied ? 1 : 2) * c->vocab * c->hidden;
}

/* YaRN: which pairs turn so often in the original length that they keep their frequency. */
static double yarn_dim(const struct model_config *c, double turns) {
    const double pi = 3.14159265358979323846;
    return (double)c->rotary * log((double)c->rope.original_max_position / (turns * 2 * pi)) / (2 * log(c->rope.theta));
}

static double rope_frequency(const struct model_config *c, int64_t i) {
    const struct model_rope *r = &c->rope;
    const double pi = 3.14159265358979323846;
    double f = pow(r->theta, -2.0 * (double)i / (double)c->rotary);
    if (r->kind == MODEL_ROPE_LINEAR) return f / r->factor;
    if (r->kind == MODEL_ROPE_LLAMA3) {
        double length = (double)r->original_max_position, wave = 2 * pi / f;
        if (wave < length / r->high_freq_factor) return f;
        if (wave > length / r->low_freq_factor) return f / r->factor;
        double s = (length / wave - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
        return (1 - s) * f / r->factor + s * f;
    }
    if (r->kind == MODEL_ROPE_YARN) {
        double low = yarn_dim(c, r->beta_fast), high = yarn_dim(c, r->beta_slow);
        if (r->truncate) low = floor(low), high = ceil(high);
        low = fmax(low, 0);
        high = fmin(high, (double)c->rotary - 1);
        double ramp = fmin(1, fmax(0, ((double)i - low) / fmax(high - low, 0.001)));
        return f / r->factor * ramp + f * (1 - ramp);
    }
    return f;
}

void model_rope_table(const struct model_config *c, int64_t positions, float *table) {
    int64_t half = c->rotary / 2;
    for (int64_t i = 0; i < half; i++) {
        double f = rope_frequency(c, i);
        for (int64_t p = 0; p < positions; p++) {
            table[p * 2 * half + i] = (float)(cos((double)p * f) * c->rope.attention_factor);
            table[p * 2 * half + half + i] = (float)(sin((double)p * f) * c->rope.attention_factor);
        }
    }
}
