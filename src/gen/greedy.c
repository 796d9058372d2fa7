/* The loop of greedy generation. */
#include "gen/greedy.h"

#include <math.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/stop.h"

enum { STOP_EVERY = 8 }; /* tokens between two questions whether to stop */

static enum status make_pass(const struct gen *g, const char *name, int64_t t, int tag, struct train_pass **out) {
    struct model_shape shape = {.b = g->o.batch, .t = t, .cache = g->cache.layer};
    struct train_pass_options o = {.name = name,
                                   .model = g->o.model,
                                   .shape = &shape,
                                   .hook = g->o.hook,
                                   .head =
                                       TRAIN_HEAD_LOSS, /* its argmax is the next token; chunked, unlike all logits */
                                   .slots = 1,
                                   .invariant = g->o.invariant,
                                   .temperature = 1,
                                   .tag = tag};
    return train_pass_create(&o, NULL, out);
}

static enum status prepare(struct gen *g) {
    const struct gen_options *o = &g->o;
    size_t n = (size_t)(o->batch * o->longest);
    TM_TRY(gen_cache_create(o->model, o->batch, o->longest + o->max_new - 1, &g->cache));
    TM_TRY(make_pass(g, "prompt", o->longest, 0, &g->prompt));
    TM_TRY(make_pass(g, "token", 1, 2, &g->token));
    TM_TRY(train_pass_bind((struct train_pass *[]){g->prompt, g->token}, 2));
    TM_TRY(data_batch_create(o->batch, o->longest, &g->prompt_in));
    TM_TRY(data_batch_create(o->batch, 1, &g->token_in));
    for (size_t i = 0; i < n; i++) g->prompt_in.labels[i] = -1;
    for (int64_t i = 0; i < o->batch; i++) g->token_in.labels[i] = -1;
    TM_TRY(mem_alloc(&g->best, n, sizeof *g->best));
    TM_TRY(mem_alloc(&g->max, n, sizeof *g->max));
    return mem_alloc(&g->next, (size_t)o->batch, sizeof *g->next);
}

enum status gen_create(const struct gen_options *o, struct gen **out) {
    if (o->batch < 1 || o->longest < 1 || o->max_new < 1 || o->max_new > INT32_MAX - o->longest)
        return TM_FAIL(TM_ERR_SHAPE, "generation of %lld tokens after %lld for %lld prompts at once",
                       (long long)o->max_new, (long long)o->longest, (long long)o->batch);
    TM_TRY(mem_alloc(out, 1, sizeof **out));
    (*out)->o = *o;
    enum status st = prepare(*out);
    if (st != TM_OK) gen_destroy(out);
    return st;
}

void gen_destroy(struct gen **gen) {
    struct gen *g = *gen;
    if (!g) return;
    train_pass_destroy(&g->token);
    train_pass_destroy(&g->prompt);
    gen_cache_free(&g->cache);
    data_batch_free(&g->prompt_in);
    data_batch_free(&g->token_in);
    mem_free(&g->best);
    mem_free(&g->max);
    mem_free(&g->next);
    mem_free(gen);
}

/* Left padding; rows without a prompt see nothing. */
static void fill_prompts(struct gen *g, const struct gen_prompt *prompts, int64_t n) {
    struct data_batch *b = &g->prompt_in;
    for (int64_t i = 0; i < b->b; i++) {
        int64_t pad = b->t - (i < n ? prompts[i].n : 0);
        for (int64_t j = 0; j < b->t; j++) {
            int64_t at = i * b->t + j;
            bool real = j >= pad;
            b->tokens[at] = real ? prompts[i].ids[j - pad] : 0;
            b->positions[at] = (int32_t)(real ? j - pad : 0);
            b->first[at] = (int32_t)(real ? pad : j + 1);
        }
    }
}

static void fill_tokens(struct gen *g, const struct gen_prompt *prompts, int64_t n, int64_t step) {
    struct data_batch *b = &g->token_in;
    for (int64_t i = 0; i < b->b; i++) {
        bool real = i < n;
        b->tokens[i] = real ? g->next[i] : 0;
        b->positions[i] = (int32_t)(real ? prompts[i].n + step - 1 : 0);
        b->first[i] = (int32_t)(real ? g->o.longest - prompts[i].n : g->cache.at + 1);
    }
}

/* Run a pass over t tokens behind what the cache holds. */
static enum status run(struct gen *g, struct train_pass *p, const struct data_batch *b) {
    TM_TRY(train_pass_forward(p, 0, b, 0, 0));
    g->cache.at += b->t;
    return TM_OK;
}

/* The best token behind the last of each sequence, from the last pipeline stage to all; -1 where no logit is the largest. */
static enum status choose(struct gen *g, struct train_pass *p, int64_t t, int64_t n) {
    const struct par_grid *grid = p->grid;
    size_t bytes = (size_t)(g->o.batch * t) * 4;
    if (g->o.model->last) {
        TM_TRY(dev_download(p->dev, g->best, tape_address(p->t, 0, p->result.best), bytes));
        TM_TRY(dev_download(p->dev, g->max, tape_address(p->t, 0, p->result.max), bytes));
        for (int64_t i = 0; i < n; i++) g->next[i] = isfinite(g->max[(i + 1) * t - 1]) ? g->best[(i + 1) * t - 1] : -1;
    }
    if (grid->pp > 1) TM_TRY(par_bcast(grid->pp_group, g->next, n * 4, grid->pp - 1));
    for (int64_t i = 0; i < n; i++)
        if (g->next[i] < 0)
            return TM_FAIL(TM_ERR_NUMERIC, "the logits behind token %lld of prompt %lld of the batch are not finite",
                           (long long)g->cache.at - 1, (long long)i);
    return TM_OK;
}

static bool ends(const struct gen *g, int32_t id) { return id == g->o.eos[0] || id == g->o.eos[1]; }

/* Append what was chosen to the sequences that have not ended. True when all have. */
static bool append(const struct gen *g, int64_t n, int64_t step, int32_t *tokens, int64_t *length) {
    bool all = true;
    for (int64_t i = 0; i < n; i++) {
        int32_t *out = tokens + i * g->o.max_new;
        if (length[i] < step || (step > 0 && ends(g, out[step - 1]))) continue;
        out[length[i]++] = g->next[i];
        all = all && ends(g, g->next[i]);
    }
    return all;
}

static enum status generate(struct gen *g, const struct gen_prompt *prompts, int64_t n, int32_t *tokens,
                            int64_t *length) {
    fill_prompts(g, prompts, n);
    par_note(log_stage(), 0, "prompt");
    TM_TRY(run(g, g->prompt, &g->prompt_in));
    TM_TRY(choose(g, g->prompt, g->o.longest, n));
    for (int64_t step = 0; !append(g, n, step, tokens, length) && step + 1 < g->o.max_new; step++) {
        if (step % STOP_EVERY == 0) TM_TRY(par_agree(g->o.model->o.grid->model_group, stop_check("token")));
        par_note(log_stage(), step + 1, "token");
        fill_tokens(g, prompts, n, step + 1);
        TM_TRY(run(g, g->token, &g->token_in));
        TM_TRY(choose(g, g->token, 1, n));
    }
    return TM_OK;
}

enum status gen_greedy(struct gen *g, const struct gen_prompt *prompts, int64_t n, int32_t *tokens, int64_t *length) {
    if (n < 1 || n > g->o.batch)
        return TM_FAIL(TM_ERR_INTERNAL, "%lld prompts in a batch of %lld", (long long)n, (long long)g->o.batch);
    for (int64_t i = 0; i < n; i++) length[i] = 0;
    g->cache.at = 0;
    enum status st = generate(g, prompts, n, tokens, length);
    /* NUMERIC and STOPPED are everyone's: what was sent has been received */
    if (st != TM_OK && st != TM_ERR_NUMERIC && st != TM_STOPPED) return st;
    enum status drained = train_pass_drain(g->prompt);
    if (drained == TM_OK) drained = train_pass_drain(g->token);
    return st == TM_OK ? drained : st;
}
