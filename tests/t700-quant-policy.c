/* TEST ranks=1 tier=1 */
/* quant/: rules and presets, module patterns of the configuration files, what is refused and how the message names it. */
#include "deck/deck.h"
#include "numfmt/bf16.h"
#include "quant/config.h"
#include "quant/policy.h"
#include "quant/summary.h"
#include "tap.h"

#include "base/mem.h"

static enum quant_format resolve(const struct quant_policy *p, const char *module, enum quant_site site) {
    enum quant_format f = QUANT_FORMATS;
    is_status(quant_resolve(p, module, site, &f), TM_OK);
    return f;
}

static void presets(void) {
    static const char *const q = "model.layers.3.self_attn.q_proj", *const gate = "model.layers.0.mlp.gate_proj";
    struct quant_policy p;
    must(quant_policy_build(&p, "nvfp4", "fp8", NULL, 0));
    is_int(resolve(&p, q, QUANT_WEIGHT), QUANT_nvfp4, "nvfp4: weights");
    is_int(resolve(&p, q, QUANT_INPUT), QUANT_nvfp4, "nvfp4: inputs");
    is_int(resolve(&p, q, QUANT_OUTPUT), QUANT_NONE, "outputs are off");
    is_int(resolve(&p, "lm_head", QUANT_WEIGHT), QUANT_NONE, "the head is left alone");
    is_int(resolve(&p, "lm_head", QUANT_INPUT), QUANT_NONE, "its input too");
    is_int(resolve(&p, gate, QUANT_WEIGHT), QUANT_nvfp4, "*mlp.gate.* spares gate_proj");
    is_int(resolve(&p, "model.layers.0.mlp.gate", QUANT_WEIGHT), QUANT_NONE, "and means the router mlp.gate");
    is_int(resolve(&p, "mtp.0.fc", QUANT_WEIGHT), QUANT_NONE, "mtp.* is left alone");
    is_int(resolve(&p, "model.layers.0.self_attn", QUANT_K), QUANT_fp8, "KV cache: k");
    is_int(resolve(&p, "model.layers.0.self_attn", QUANT_V), QUANT_fp8, "KV cache: v");
    is_int(resolve(&p, "model.layers.0.self_attn", QUANT_Q), QUANT_NONE, "q is off");
    quant_policy_free(&p);
    must(quant_policy_build(&p, "int8_weight_only", NULL, NULL, 0));
    is_int(resolve(&p, gate, QUANT_WEIGHT), QUANT_int8, "int8_weight_only: weights");
    is_int(resolve(&p, gate, QUANT_INPUT), QUANT_NONE, "int8_weight_only: no inputs");
    is_int(resolve(&p, "model.layers.0.self_attn", QUANT_K), QUANT_NONE, "no KV cache unless asked for");
    quant_policy_free(&p);
    must(quant_policy_build(&p, NULL, "none", NULL, 0));
    is_int(resolve(&p, gate, QUANT_WEIGHT), QUANT_NONE, "no preset: nothing");
    quant_policy_free(&p);
}

static void rules_override(void) {
    static const struct quant_rule rules[] = {
        {"*lm_head*", NULL, NULL, 1, NULL},                   /* back on, with the preset's format */
        {"*.layers.1.*", NULL, NULL, 0, NULL},                /* a layer off, all its sites */
        {"*.layers.1.mlp.down_proj", NULL, "fp8", -1, NULL},  /* and one linear of it on again */
        {"*.layers.2.*", "weight", "int8", -1, NULL},         /* weights only; inputs keep the preset's */
        {"*.layers.2.mlp.up_proj", "[wi]*", "fp8", -1, NULL}, /* site pattern */
        {"model.layers.3.self_attn", "k", NULL, 0, NULL},     /* exact module */
        {"*.layers.4.*", NULL, "none", -1, NULL},             /* the format none */
    };
    struct quant_policy p;
    must(quant_policy_build(&p, "nvfp4", "fp8", rules, sizeof rules / sizeof *rules));
    is_int(resolve(&p, "lm_head", QUANT_WEIGHT), QUANT_nvfp4, "later rules win: the head is on again");
    is_int(resolve(&p, "model.layers.1.mlp.up_proj", QUANT_WEIGHT), QUANT_NONE, "a layer off");
    is_int(resolve(&p, "model.layers.1.self_attn", QUANT_V), QUANT_NONE, "its cache too");
    is_int(resolve(&p, "model.layers.1.mlp.down_proj", QUANT_WEIGHT), QUANT_fp8, "one linear of it on again");
    is_int(resolve(&p, "model.layers.1.mlp.down_proj", QUANT_INPUT), QUANT_fp8, "a rule without site: input too");
    is_int(resolve(&p, "model.layers.1.mlp.down_proj", QUANT_OUTPUT), QUANT_NONE, "but not the output");
    is_int(resolve(&p, "model.layers.2.mlp.down_proj", QUANT_WEIGHT), QUANT_int8, "weights only");
    is_int(resolve(&p, "model.layers.2.mlp.down_proj", QUANT_INPUT), QUANT_nvfp4, "inputs keep theirs");
    is_int(resolve(&p, "model.layers.2.mlp.up_proj", QUANT_INPUT), QUANT_fp8, "site pattern");
    is_int(resolve(&p, "model.layers.3.self_attn", QUANT_K), QUANT_NONE, "exact module");
    is_int(resolve(&p, "model.layers.3.self_attn", QUANT_V), QUANT_fp8, "only that site");
    is_int(resolve(&p, "model.layers.4.mlp.up_proj", QUANT_WEIGHT), QUANT_NONE, "the format none turns off");
    quant_policy_free(&p);
}

/* The deck's words are the presets; every one gives pairs of formats that have an export form. */
static void every_preset(void) {
    char *text;
    struct str help = {0};
    must(deck_help("quant.preset", &help));
    for (int i = 0; quant_preset_at(i); i++) {
        struct quant_linear l[2] = {
            {.name = "model.layers.0.mlp.down_proj", .group = -1, .in = 256, .out = 128},
            {.name = "model.layers.0.mlp.experts.1.up_proj", .group = -1, .in = 256, .out = 128}};
        struct quant_policy p;
        char quoted[64];
        must(quant_policy_build(&p, quant_preset_at(i), NULL, NULL, 0));
        for (int k = 0; k < 2; k++) {
            must(quant_resolve(&p, l[k].name, QUANT_WEIGHT, &l[k].weight));
            must(quant_resolve(&p, l[k].name, QUANT_INPUT, &l[k].input));
        }
        snprintf(quoted, sizeof quoted, "\"%s\"", quant_preset_at(i));
        is_status(quant_check(l, 2, NULL, 0), TM_OK);
        ok(l[1].weight != QUANT_NONE && strstr(help.p, quoted), "preset %s quantizes, and the deck knows it", quoted);
        quant_policy_free(&p);
    }
    text = strstr(help.p, "one of");
    int words = 0, presets = 0;
    for (; text && *text && *text != '\n'; text++) words += *text == '"';
    while (quant_preset_at(presets)) presets++;
    is_int(words / 2, presets + 1, "the deck has no other preset but none");
    str_free(&help);
}

/* One linear of every pair of formats in one model: both configurations as ModelOpt's functions write them (the file says which). */
static void every_pair(void) {
    static const struct {
        const char *name;
        enum quant_format weight, input;
    } list[] = {{"fp8", QUANT_fp8, QUANT_fp8},
                {"row", QUANT_fp8_row, QUANT_fp8_row},
                {"tile", QUANT_fp8_tile, QUANT_NONE},
                {"sq", QUANT_int8, QUANT_int8},
                {"wo", QUANT_int8, QUANT_NONE},
                {"int4", QUANT_int4, QUANT_NONE},
                {"int4_b32", QUANT_int4_b32, QUANT_NONE},
                {"nvfp4", QUANT_nvfp4, QUANT_nvfp4},
                {"w4a16", QUANT_nvfp4, QUANT_NONE},
                {"b32", QUANT_nvfp4_b32, QUANT_NONE},
                {"a8", QUANT_nvfp4_a8, QUANT_fp8},
                {"mxfp4", QUANT_mxfp4, QUANT_mxfp4},
                {"mx_a8", QUANT_mxfp4, QUANT_fp8_row},
                {"mxfp8", QUANT_mxfp8, QUANT_mxfp8}};
    enum { N = sizeof list / sizeof *list };
    struct quant_linear l[N] = {{0}};
    json_t *want, *got, *hf;
    for (int i = 0; i < N; i++)
        l[i] = (struct quant_linear){
            .name = list[i].name, .group = -1, .in = 128, .out = 2, .weight = list[i].weight, .input = list[i].input};
    must(json_read_file("tests/golden/quant/mixed.json", 1 << 20, &want));
    must(quant_config(l, N, NULL, 0, "modelopt", "0.47.0", &got));
    must(quant_config_hf(got, &hf));
    const json_t *pair[2][2] = {{json_object_get(got, "quantization"), json_object_get(want, "quantization")},
                                {hf, json_object_get(want, "quantization_config")}};
    for (int i = 0; i < 2; i++) {
        char *a = json_dumps(pair[i][0], JSON_COMPACT), *b = json_dumps(pair[i][1], JSON_COMPACT);
        is_str(a, b, "every pair of formats in one model: the peer's text, key order too");
        free(a);
        free(b);
    }
    json_decref(want);
    json_decref(got);
    json_decref(hf);
}

/* The call fails with `st`, and the message holds `text`. */
static void refuses(enum status got, enum status want, const char *text) {
    ok(got == want && strstr(status_message(), text), "refused as %s: \"%s\" (%s)", status_name(want), text,
       status_message());
}

static void refusals(void) {
    static const struct quant_rule bad_format = {"*", NULL, "fp9", -1, "x.cfg:7: quant.rules[0]"},
                                   bad_site = {"*", "wieght", "fp8", -1, NULL}, output = {"*", "*", "fp8", -1, NULL},
                                   on = {"*k_proj", "weight", NULL, 1, NULL}, cache = {"*", "k", "int8", -1, NULL};
    struct quant_policy p;
    enum quant_format f;
    refuses(quant_policy_build(&p, "nvpf4", NULL, NULL, 0), TM_ERR_DECK, "the nearest is \"nvfp4\"");
    quant_policy_free(&p);
    refuses(quant_policy_build(&p, "fp8", "fp7", NULL, 0), TM_ERR_DECK, "quant.kv_cache: unknown format \"fp7\"");
    quant_policy_free(&p);
    refuses(quant_policy_build(&p, "fp8", "int8", NULL, 0), TM_ERR_DECK, "no KV cache form");
    quant_policy_free(&p);
    refuses(quant_policy_build(&p, "fp8", NULL, &bad_format, 1), TM_ERR_DECK,
            "x.cfg:7: quant.rules[0]: unknown format \"fp9\"; the nearest is \"fp8\"");
    quant_policy_free(&p);
    refuses(quant_policy_build(&p, "fp8", NULL, &bad_site, 1), TM_ERR_DECK, "the nearest is \"weight\"");
    quant_policy_free(&p);
    refuses(quant_policy_build(&p, "fp8", NULL, &output, 1), TM_ERR_UNSUPPORTED, "site \"output\" takes no format");
    quant_policy_free(&p);
    must(quant_policy_build(&p, NULL, NULL, &on, 1));
    refuses(quant_resolve(&p, "a.k_proj", QUANT_WEIGHT, &f), TM_ERR_DECK, "no rule gives it a format");
    quant_policy_free(&p);
    must(quant_policy_build(&p, NULL, NULL, &cache, 1));
    refuses(quant_resolve(&p, "a.self_attn", QUANT_K, &f), TM_ERR_DECK, "no KV cache form");
    quant_policy_free(&p);
}

/* exclude_modules of these modules; quantized ones are marked with a leading '+'. */
static void excludes(const char *what, const char *const *modules, size_t n, const char *const *want, size_t nwant) {
    struct quant_linear l[12] = {{0}};
    json_t *config, *list;
    for (size_t i = 0; i < n; i++) {
        bool on = modules[i][0] == '+';
        l[i] = (struct quant_linear){.name = modules[i] + on, .group = -1};
        l[i].weight = l[i].input = on ? QUANT_fp8 : QUANT_NONE;
    }
    must(quant_config(l, n, NULL, 0, "temper", "1", &config));
    list = json_object_get(json_object_get(config, "quantization"), "exclude_modules");
    bool same = json_array_size(list) == nwant;
    for (size_t i = 0; i < nwant && same; i++) same = !strcmp(json_string_value(json_array_get(list, i)), want[i]);
    char *text = json_dumps(list, 0);
    ok(same, "exclude_modules, %s: %s", what, text);
    free(text);
    json_decref(config);
}
#define EXCLUDES(what, modules, ...)                                                              \
    excludes(what, modules, sizeof modules / sizeof *modules, (const char *const[]){__VA_ARGS__}, \
             sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *))

/* By hand from the rule: of each unquantized name the shortest "prefix*" cut at a dot that no quantized name starts with; where only the
 * bare prefix clashes with a longer word, the pair {prefix, prefix.*}; else the name itself. */
static void configuration(void) {
    static const char *const whole[] = {"model.embed", "model.a.0.x", "model.a.1.x", "lm_head"};
    static const char *const router[] = {"+m.0.mlp.gate_proj", "m.0.mlp.gate", "m.0.mlp.gate.inner",
                                         "m.1.mlp.gate.inner"};
    static const char *const numbers[] = {"m.1.q", "m.1.k", "+m.10.q", "+m.2.k", "m.2.q"};
    EXCLUDES("nothing quantized", whole, "lm_head", "model*");
    EXCLUDES("a router beside gate_proj", router, "m.0.mlp.gate", "m.0.mlp.gate.*", "m.1*");
    EXCLUDES("layer 1 beside layer 10", numbers, "m.1", "m.1.*", "m.2.q");
    struct quant_linear l = {.name = "a", .group = -1, .weight = QUANT_nvfp4, .input = QUANT_nvfp4, .in = 16, .out = 1};
    struct quant_kv kv = {"attn", QUANT_fp8, QUANT_fp8, 1, 1};
    json_t *config, *hf;
    must(quant_config(&l, 1, &kv, 1, "temper", "9.9", &config));
    char *text = json_dumps(config, JSON_COMPACT);
    is_str(text,
           "{\"producer\":{\"name\":\"temper\",\"version\":\"9.9\"},\"quantization\":{\"quant_algo\":\"NVFP4\",\"kv_"
           "cache_quant_algo\":\"FP8\","
           "\"group_size\":16,\"exclude_modules\":[]}}",
           "hf_quant_config.json as text");
    free(text);
    must(quant_config_hf(config, &hf));
    ok(json_object_get(hf, "config_groups") && !json_array_size(json_object_get(hf, "ignore")), "quantization_config");
    json_decref(config);
    json_decref(hf);
}

static void packing_refusals(void) {
    enum { OUT = 4, IN = 32 };
    float w[OUT * IN], amax[OUT] = {1, 1, 1, 1};
    char bytes[OUT * IN * 4];
    struct quant_param q = {"a.weight", 2, {OUT, IN}};
    struct quant_linear l = {.name = "a",
                             .out = OUT,
                             .in = IN,
                             .group = -1,
                             .weight = QUANT_nvfp4,
                             .input = QUANT_nvfp4,
                             .weight_amax = 1,
                             .input_amax = 1},
                        bad;
    struct quant_kv kv[2] = {{"x", QUANT_fp8, QUANT_fp8, 1, 1}, {"y", QUANT_fp8, QUANT_NONE, 1, 1}};
    struct quant_pack *p;
    for (int i = 0; i < OUT * IN; i++) w[i] = (float)(i % 7) / 7.0f;
#define REFUSE(change, st, text)                                                       \
    do {                                                                               \
        bad = l;                                                                       \
        bad.change;                                                                    \
        refuses(quant_pack_create(&q, 1, &bad, 1, NULL, 0, DTYPE_bf16, &p), st, text); \
    } while (0)
    REFUSE(in = 24, TM_ERR_SHAPE, "a: rows of 24 weights, but nvfp4 needs a multiple of its block of 16");
    REFUSE(in = 48, TM_ERR_SHAPE, "a.weight: rank 2, [4, 32]; expected the linear's [4, 48]");
    REFUSE(input = QUANT_fp8, TM_ERR_UNSUPPORTED, "inputs in fp8 with weights in nvfp4");
    REFUSE(weight = QUANT_NONE, TM_ERR_UNSUPPORTED, "inputs in nvfp4 with weights in none");
    REFUSE(name = "b", TM_ERR_SHAPE, "1 quantized linears, but 0 of their weights");
    REFUSE(weight_amax = NAN, TM_ERR_NUMERIC, "a.weight: amax = nan");
    REFUSE(input_amax = INFINITY, TM_ERR_NUMERIC, "a.input: amax = inf");
    REFUSE(input_amax = -1, TM_ERR_NUMERIC, "a.input: amax = -1");
#undef REFUSE
    bad = l;
    bad.weight = bad.input = QUANT_mxfp8;
    bad.in = 48;
    refuses(quant_check(&bad, 1, NULL, 0), TM_ERR_SHAPE,
            "a: rows of 48 weights, but mxfp8 needs a multiple of its block of 32");
    bad.weight = QUANT_int4_b32;
    bad.input = QUANT_NONE;
    bad.in = 32;
    bad.out = 5;
    refuses(quant_check(&bad, 1, NULL, 0), TM_ERR_SHAPE, "a: 5 rows, but a byte of int4_b32 holds codes of two rows");
    bad.weight = QUANT_fp8_cast;
    refuses(quant_check(&bad, 1, NULL, 0), TM_ERR_UNSUPPORTED, "a: weights in fp8_cast without");
    bad.weight = QUANT_mxfp4;
    bad.input = QUANT_fp8;
    refuses(quant_check(&bad, 1, NULL, 0), TM_ERR_UNSUPPORTED, "expected mxfp4 or none or fp8_row");
    bad = l;
    bad.weight = QUANT_fp8;
    bad.input = QUANT_NONE;
    refuses(quant_check(&bad, 1, NULL, 0), TM_ERR_UNSUPPORTED, "without quantized inputs");
    refuses(quant_check(&l, 1, kv, 2), TM_ERR_UNSUPPORTED, "y: KV cache in fp8 (k) and none (v)");
    refuses(quant_pack_create(&q, 1, &l, 1, NULL, 0, DTYPE_f16, &p), TM_ERR_UNSUPPORTED, "f16");
    must(quant_pack_create(&q, 1, &l, 1, kv, 1, DTYPE_bf16, &p));
    is_int(p->n, 6, "weight, two scales, input scale, k and v");
    refuses(quant_pack_rows(p, 0, 3, 2, w, bytes), TM_ERR_SHAPE, "a.weight: rows 3 to 5 of 4");
    refuses(quant_pack_rows(p, 0, -1, 1, w, bytes), TM_ERR_SHAPE, "a.weight");
    w[2 * IN + 1] = NAN;
    refuses(quant_pack_rows(p, 0, 0, OUT, w, bytes), TM_ERR_NUMERIC, "a.weight: row 2");
    refuses(quant_pack_rows(p, 1, 1, 2, w + IN, bytes), TM_ERR_NUMERIC, "a.weight_scale: row 2");
    w[2 * IN + 1] = 3.4e38f; /* finite in fp32, infinite in bf16 */
    refuses(quant_pack_rows(p, 0, 0, OUT, w, bytes), TM_ERR_NUMERIC, "a.weight: row 2");
    w[2 * IN + 1] = bf16_decode(0x7f7f); /* the largest bf16 saturates its block */
    is_status(quant_pack_rows(p, 0, 0, OUT, w, bytes), TM_OK);
    quant_pack_destroy(&p);
    l.weight = l.input = QUANT_int8;
    amax[3] = INFINITY;
    l.maxima = amax;
    must(quant_pack_create(&q, 1, &l, 1, NULL, 0, DTYPE_bf16, &p));
    is_status(quant_pack_rows(p, 1, 0, 3, w, bytes), TM_OK);
    refuses(quant_pack_rows(p, 1, 0, 4, w, bytes), TM_ERR_NUMERIC, "a.weight_scale: row 3");
    struct str s = {0};
    must(quant_summary(p->linears, 1, NULL, 0, &s));
    ok(strstr(s.p, "largest row") && strstr(s.p, "9.000 bits per weight"),
       "summary of rows: 8 bits and 32 for 32 weights");
    str_free(&s);
    quant_pack_destroy(&p);
}

static void sharing(void) {
    struct quant_linear l[] = {
        {.name = "q", .group = 0, .weight = QUANT_nvfp4, .input = QUANT_nvfp4, .weight_amax = 1, .input_amax = 5},
        {.name = "k", .group = 0, .weight = QUANT_nvfp4, .input = QUANT_nvfp4, .weight_amax = 3, .input_amax = 5},
        {.name = "v", .group = 0, .weight = QUANT_fp8, .input = QUANT_fp8, .weight_amax = 7, .input_amax = 6},
        {.name = "g", .group = 2, .weight = QUANT_fp8, .input = QUANT_fp8, .weight_amax = 1, .input_amax = 1},
        {.name = "u", .group = 2, .weight = QUANT_fp8, .input = QUANT_fp8, .weight_amax = 2, .input_amax = 2},
        {.name = "i", .group = 3, .weight = QUANT_int8, .input = QUANT_int8, .input_amax = 1},
        {.name = "j", .group = 3, .weight = QUANT_int8, .input = QUANT_int8, .input_amax = 4},
        {.name = "o", .group = -1, .weight = QUANT_nvfp4, .input = QUANT_nvfp4, .weight_amax = 0, .input_amax = 2},
    };
    for (int twice = 0; twice < 2; twice++) {
        must(quant_share(l, 8));
        ok(l[0].weight_amax == 3 && l[1].weight_amax == 3 && l[2].weight_amax == 7,
           "nvfp4 shares weights, not with fp8");
        ok(l[3].weight_amax == 1 && l[4].weight_amax == 2 && l[3].input_amax == 1, "fp8 shares nothing");
        ok(l[5].input_amax == 4 && l[6].input_amax == 4, "int8 shares inputs");
        if (!twice) ok(l[0].weight_from == QUANT_SHARED && l[1].weight_from == QUANT_MEASURED, "and says so");
    }
    ok(l[7].weight_from == QUANT_DEFAULT && l[7].input_from == QUANT_MEASURED, "nothing but zeros: a default");
    is_near(quant_bits_per_weight(QUANT_nvfp4, 256, 128), 4.5 + 32.0 / (256 * 128), 1e-12, "nvfp4: 4.5 bits");
    is_near(quant_bits_per_weight(QUANT_int8, 256, 128), 8.25, 1e-12, "int8: a scale for each row");
    is_near(quant_bits_per_weight(QUANT_NONE, 3, 5), 16, 0, "none: bf16");
}

int main(void) {
    every_preset();
    every_pair();
    presets();
    rules_override();
    refusals();
    configuration();
    packing_refusals();
    sharing();
    is_int(mem_bytes(), 0, "all memory is given back");
    return tap_done();
}
