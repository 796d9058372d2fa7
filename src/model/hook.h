/* Where an upper room may put operations of its own into the forward pass: the activation sites of the quantizers. */
#pragma once

#include "tape/tape.h"

/* The sites of a layer, in the order of the forward pass, then those outside of layers. */
enum model_site_kind {
    MODEL_SITE_QKV_INPUT, /* input of q_proj, k_proj, v_proj */
    MODEL_SITE_K,         /* keys after the rotary embedding, as they enter the cache */
    MODEL_SITE_V,
    MODEL_SITE_O_INPUT,
    MODEL_SITE_GATE_UP_INPUT, /* input of gate_proj (where there is one), up_proj */
    MODEL_SITE_DOWN_INPUT,
    MODEL_SITES_PER_LAYER,
};

struct model_site {
    int index; /* layer * MODEL_SITES_PER_LAYER + kind; layers * MODEL_SITES_PER_LAYER is the input of lm_head */
    int n_modules;
    const char *module[TAPE_MAX_LINEAR]; /* names of the linears (or of the attention) that read the value */
    const char *site;                    /* "input", "k" or "v" */
};

/* Called while the forward pass is recorded: may record operations on `in` and give another value in *out (or `in` itself). */
struct model_hook {
    void *context;
    enum status (*activation)(void *context, struct tape *t, const struct model_site *site, tape_val in, tape_val *out);
};
