/* What a model is: the facts of a Hugging Face config.json that the forward pass needs. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "dev/ops.h"

enum model_rope_kind { MODEL_ROPE_DEFAULT, MODEL_ROPE_LINEAR, MODEL_ROPE_LLAMA3, MODEL_ROPE_YARN };

struct model_rope {
    enum model_rope_kind kind;
    double theta, factor;
    double low_freq_factor, high_freq_factor;      /* llama3 */
    double beta_fast, beta_slow, attention_factor; /* yarn; attention_factor multiplies cos and sin */
    bool truncate;                                 /* yarn: round the correction range */
    int64_t original_max_position;
};

struct model_config {
    int family;   /* row of family.def */
    char *source; /* config.json as it was read (NUL-terminated); owned; exports copy its fields */
    int64_t hidden, layers, heads, kv_heads, head_dim, ffn, vocab, max_position;
    int64_t rotary; /* channels of a head that the rotary embedding turns: the first */
    float norm_eps;
    bool layernorm;    /* norms of hidden states: layer norms with a bias, else RMS norms */
    float norm_offset; /* added to the layer norms' gain */
    bool gated;        /* the MLP: silu(gate) * up; else */
    enum act_kind act; /* this of up */
    struct model_rope rope;
    bool tied, qkv_bias, out_bias, mlp_bias, qk_norm;
    int64_t *window;  /* per layer, 0 = none; owned */
    int64_t bos, eos; /* -1 absent */
};

/* Read dir/config.json. Local. Errors: IO, FORMAT (names the key), UNSUPPORTED (a family or rope kind that is not known: lists those that are). */
enum status model_config_read(const char *dir, struct model_config *out);
enum status model_config_parse(const char *json, const char *where, struct model_config *out);
void model_config_free(struct model_config *c);
const char *model_family_name(int family);
int model_family_count(void);
int64_t model_config_params(const struct model_config *c); /* parameters, tied ones once */
/* cos and sin [positions, rotary]: cos of the first half, then sin; computed in fp64, rounded once. */
void model_rope_table(const struct model_config *c, int64_t positions, float *table);
