/* Greedy generation on a tensor- and pipeline-parallel grid: the prompts in one pass, then a token at a time from the cache.
 *
 * Prompts of a batch are padded on the left to one length, so that all go on at the same position; a sequence's own positions count from its
 * first token. The next token is the one with the largest logit, the lowest id on ties. The padding is part of the numerics (key tiles lie
 * at fixed places of the padded row): the same batch of prompts gives the same bits on every grid. */
#pragma once

#include "gen/cache.h"
#include "train/pass.h"

struct gen_options {
    struct model *model;           /* max_positions >= longest + max_new - 1 */
    const struct model_hook *hook; /* NULL: none */
    int64_t batch;                 /* prompts at once */
    int64_t longest;               /* tokens of the longest prompt: what prompts are padded to */
    int64_t max_new;               /* tokens to append at most */
    int32_t eos[2];                /* a sequence ends behind either of them; -1: none */
    bool invariant;
};

struct gen {
    struct gen_options o;
    struct gen_cache cache;
    struct train_pass *prompt, *token; /* the recorded passes: [batch, longest] and [batch, 1] */
    struct data_batch prompt_in, token_in;
    int32_t *best; /* [batch * longest] */
    float *max;    /* [batch * longest] */
    int32_t *next; /* [batch] */
};

/* Record both passes and allocate them and the cache. Local; the caller destroys. Errors: SHAPE, MEMORY. */
enum status gen_create(const struct gen_options *o, struct gen **out);
void gen_destroy(struct gen **g);

struct gen_prompt {
    const int32_t *ids; /* below the model's vocabulary */
    int64_t n;          /* 1 .. longest */
};
/* Continue n <= batch prompts: sequence i gets length[i] <= max_new tokens in tokens[i * max_new ..], its end token included. Collective over the
 * ranks of one model replica (tensor and pipeline groups), equal arguments on all of them; all get the tokens. Errors: NUMERIC (logits that are
 * not finite), STOPPED (base/stop.h), both alike on all these ranks. */
enum status gen_greedy(struct gen *g, const struct gen_prompt *prompts, int64_t n, int32_t *tokens, int64_t *length);
