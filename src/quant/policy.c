/* Ordered rules: presets, what they leave alone, the KV cache, then the deck's own. */
#include "quant/policy.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

static const char *const site_names[QUANT_SITES] = {"weight", "input", "output", "q", "k", "v"};

static const struct preset {
    const char *name, *module, *site, *format;
} presets[] = {
#define PRESET(name, module, site, format) {name, module, site, format},
#include "quant/preset.def"
#undef PRESET
};
enum { PRESETS = sizeof presets / sizeof *presets };

/* Modules that presets leave alone (ModelOpt's default-disabled list, in its two spellings of names). A trailing ".*" there stands for
 * the quantizer's own name; here a trailing '.' does. */
static const char *const left_alone[] = {
    "*block_sparse_moe.gate*",
    "*linear_attn.conv1d*",
    "*linear_attn.in_proj_a*",
    "*linear_attn.in_proj_b*",
    "*lm_head*",
    "*mixer.conv1d*",
    "*self_attention.conv1d*",
    "*mlp.gate.*",
    "*mlp.shared_expert_gate.*",
    "*output_layer*",
    "*proj_out.*",
    "*router*",
    "mtp.*",
    "output.*",
    "*embed_vision*",
    "*vision_tower*",
    "*visual*",
    "*vision_model*",
    "*multi_modal_projector*",
};

const char *quant_preset_at(int i) {
    for (int k = 0; k < PRESETS; k++)
        if ((k == 0 || strcmp(presets[k].name, presets[k - 1].name)) && i-- == 0) return presets[k].name;
    return NULL;
}

const char *quant_site_name(enum quant_site s) { return site_names[s]; }

static const char *where(const struct quant_rule *r) { return r->where ? r->where : "quant.rules"; }

/* The name of `names` nearest to an unknown one, for the message. */
struct nearest {
    const char *name;
    int distance;
};
static void consider(struct nearest *n, const char *wrong, const char *name) {
    int d = str_distance(wrong, name);
    if (!n->name || d < n->distance) *n = (struct nearest){name, d};
}

static enum status unknown_format(const char *at, const char *name) {
    struct nearest n = {0};
    for (int i = 0; i < QUANT_FORMATS; i++) consider(&n, name, quant_format((enum quant_format)i)->name);
    return TM_FAIL(TM_ERR_DECK, "%s: unknown format \"%s\"; the nearest is \"%s\"", at, name, n.name);
}

static enum status check_rule(const struct quant_rule *r) {
    enum quant_format f = QUANT_NONE;
    if (r->format && !quant_format_find(r->format, &f)) return unknown_format(where(r), r->format);
    if (!r->site) return TM_OK;
    bool known = false;
    struct nearest n = {0};
    for (int i = 0; i < QUANT_SITES; i++) {
        bool match = str_glob(r->site, site_names[i]);
        known = known || match;
        consider(&n, r->site, site_names[i]);
        if (match && f != QUANT_NONE && r->enable != 0 && (i == QUANT_OUTPUT || i == QUANT_Q))
            return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: site \"%s\" takes no format (\"%s\"); weight, input, k and v do",
                           where(r), site_names[i], r->format);
    }
    if (!known)
        return TM_FAIL(TM_ERR_DECK, "%s: no site matches \"%s\"; the nearest is \"%s\"", where(r), r->site, n.name);
    return TM_OK;
}

static enum status append(struct quant_policy *p, struct quant_rule r) {
    TM_TRY(check_rule(&r));
    TM_TRY(mem_grow(&p->rules, &p->cap, p->n + 1, sizeof *p->rules));
    p->rules[p->n++] = r;
    return TM_OK;
}

static enum status append_preset(struct quant_policy *p, const char *name) {
    struct nearest n = {0};
    bool found = false;
    consider(&n, name, "none");
    for (int i = 0; i < PRESETS; i++) {
        const struct preset *t = &presets[i];
        consider(&n, name, t->name);
        if (strcmp(t->name, name)) continue;
        found = true;
        TM_TRY(append(p, (struct quant_rule){t->module, t->site, t->format, 1, "quant.preset"}));
    }
    if (!found && strcmp(name, "none"))
        return TM_FAIL(TM_ERR_DECK, "quant.preset = \"%s\": unknown; the nearest is \"%s\"", name, n.name);
    return TM_OK;
}

static enum status append_kv_cache(struct quant_policy *p, const char *name) {
    enum quant_format f;
    if (!quant_format_find(name, &f)) return unknown_format("quant.kv_cache", name);
    if (f == QUANT_NONE) return TM_OK;
    if (!quant_format(f)->kv_algo)
        return TM_FAIL(TM_ERR_DECK, "quant.kv_cache = \"%s\": this format has no KV cache form", name);
    return append(p, (struct quant_rule){"*", "[kv]", name, 1, "quant.kv_cache"});
}

enum status quant_policy_build(struct quant_policy *p, const char *preset, const char *kv_cache,
                               const struct quant_rule *rules, size_t n) {
    *p = (struct quant_policy){0};
    TM_TRY(append_preset(p, preset ? preset : "none"));
    for (size_t i = 0; i < sizeof left_alone / sizeof *left_alone; i++)
        TM_TRY(append(p, (struct quant_rule){left_alone[i], NULL, NULL, 0, "quant.preset"}));
    TM_TRY(append_kv_cache(p, kv_cache ? kv_cache : "none"));
    for (size_t i = 0; i < n; i++) TM_TRY(append(p, rules[i]));
    return TM_OK;
}

void quant_policy_free(struct quant_policy *p) {
    mem_free(&p->rules);
    *p = (struct quant_policy){0};
}

/* A pattern may name the module, or the module with a '.' behind it, so that "*mlp.gate.*" spares gate_proj. */
static bool module_matches(const char *pattern, const char *module, const char *dotted) {
    return !pattern || str_glob(pattern, module) || str_glob(pattern, dotted);
}
static bool site_matches(const struct quant_rule *r, enum quant_site site) {
    if (r->site) return str_glob(r->site, site_names[site]);
    return !r->format || site == QUANT_WEIGHT || site == QUANT_INPUT;
}

enum status quant_resolve(const struct quant_policy *p, const char *module, enum quant_site site,
                          enum quant_format *out) {
    char dotted[512];
    enum quant_format format = QUANT_NONE;
    const struct quant_rule *last = NULL;
    bool on = false;
    if (snprintf(dotted, sizeof dotted, "%s.", module) >= (int)sizeof dotted)
        return TM_FAIL(TM_ERR_DATA, "module name of more than %zu characters: %.60s...", sizeof dotted - 2, module);
    for (size_t i = 0; i < p->n; i++) {
        const struct quant_rule *r = &p->rules[i];
        if (!site_matches(r, site) || !module_matches(r->module, module, dotted)) continue;
        if (r->format) quant_format_find(r->format, &format);
        on = r->enable < 0 ? (r->format ? true : on) : r->enable;
        last = r;
    }
    if (on && format == QUANT_NONE && !last->format)
        return TM_FAIL(TM_ERR_DECK, "%s turns on the %s quantizer of %s, but no rule gives it a format", where(last),
                       site_names[site], module);
    if (on && (site == QUANT_K || site == QUANT_V) && format != QUANT_NONE && !quant_format(format)->kv_algo)
        return TM_FAIL(TM_ERR_DECK, "%s: format \"%s\" has no KV cache form (%s of %s)", where(last),
                       quant_format(format)->name, site_names[site], module);
    *out = on ? format : QUANT_NONE;
    return TM_OK;
}
