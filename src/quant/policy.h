/* Which quantizers are on, and in which format: sites of modules, and an ordered list of rules where later ones win.
 *
 * A linear has the sites weight, input and output; an attention has q, k and v. All functions are Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "quant/format.h"

enum quant_site { QUANT_WEIGHT, QUANT_INPUT, QUANT_OUTPUT, QUANT_Q, QUANT_K, QUANT_V, QUANT_SITES };

const char *quant_site_name(enum quant_site s); /* "weight" */

/* One rule, as in the deck's quant.rules. Strings are borrowed. */
struct quant_rule {
    const char *
        module; /* glob on the module's hub name; one that ends in '.' after a name means that very module. NULL = "*" */
    const char
        *site; /* glob on the site's name. NULL: weight and input when the rule has a format, every site when not */
    const char *
        format; /* a name of format.def, NULL = leave as it is. A rule with a format turns the site on, unless enable = 0 */
    int enable;        /* 1, 0, or -1 = not said */
    const char *where; /* for messages: "inputs/x.cfg:12: quant.rules[0]"; NULL = "quant.rules" */
};

struct quant_policy {
    struct quant_rule *rules;
    size_t n, cap;
};

/* preset: a name of preset.def or "none"; then the modules that presets leave alone (output heads, routers, ...: ModelOpt's list); then
 * kv_cache: "none" or a format with a KV form; then the caller's rules. NULL names mean "none". The caller frees with
 * quant_policy_free, also after an error. Errors: DECK (an unknown preset, format or site, with the nearest name), UNSUPPORTED (a
 * format on the output or q site), MEMORY. */
enum status quant_policy_build(struct quant_policy *p, const char *preset, const char *kv_cache,
                               const struct quant_rule *rules, size_t n);
void quant_policy_free(struct quant_policy *p);

/* The names of the presets, each once; NULL behind the last. */
const char *quant_preset_at(int i);

/* The format of a site of a module; QUANT_NONE = not quantized. Errors: DECK (turned on, but no rule gives it a format; k or v in a
 * format without a KV form). */
enum status quant_resolve(const struct quant_policy *p, const char *module, enum quant_site site,
                          enum quant_format *out);
