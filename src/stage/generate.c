/* Stage generate: continue prompts greedily; what comes out goes to stdout and into a JSONL file. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"
#include "hub/pretty.h"
#include "stage/inputs.h"
#include "stage/plan.h"
#include "stage/prompts.h"
#include "stage/quantized.h"

enum { SHOWN = 8 }; /* continuations on stdout when they also go into a file */

struct generation {
    struct stage_run *r;
    const struct deck_stage *s;
    struct stage_prompts prompts;
    struct stage_model model;
    struct stage_quant quant;
    struct gen *gen;
    struct gen_prompt *batch; /* [micro] */
    int64_t micro, tokens, record;
    int32_t *mine;    /* [micro, max_new]: of this replica's batch */
    int64_t *length;  /* [micro] */
    int64_t *round;   /* [dp * micro, record]: length, then tokens, of a round's batches */
    struct str lines; /* of the output file, on rank 0 */
};

static enum status open_all(struct generation *g) {
    const struct deck_stage *s = g->s;
    struct model_config c;
    enum status st = stage_model_config(s, &c);
    if (st == TM_OK) st = stage_prompts_open(s, c.vocab, &g->prompts);
    int64_t positions = g->prompts.longest + s->max_new_tokens;
    if (st == TM_OK && par_rank() == 0 && positions > c.max_position)
        log_warn("prompts of up to %lld tokens and %lld new ones pass the %lld positions that the model was made for",
                 (long long)g->prompts.longest, (long long)s->max_new_tokens, (long long)c.max_position);
    model_config_free(&c);
    TM_TRY(par_agree_all(st));
    TM_TRY(stage_open_model_all(g->r, s, false, positions, &g->model));
    TM_TRY(stage_open_quant_all(g->r, s, g->model.m, true, &g->quant));
    return stage_pack_model_all(g->r, s, g->model.m);
}

static enum status prepare(struct generation *g) {
    const struct deck_stage *s = g->s;
    g->micro = size_min(s->batch.micro, (int64_t)g->prompts.n);
    g->record = 1 + s->max_new_tokens;
    struct gen_options o = {.model = g->model.m,
                            .hook = stage_quant_hook(&g->quant),
                            .batch = g->micro,
                            .longest = g->prompts.longest,
                            .max_new = s->max_new_tokens,
                            .eos = {-1, -1},
                            .invariant = g->r->invariant};
    if (s->stop_at_eos) {
        o.eos[0] = (int32_t)g->model.m->config.eos;
        o.eos[1] = g->prompts.tok ? tok_eos(g->prompts.tok) : -1;
    }
    TM_TRY(gen_create(&o, &g->gen));
    TM_TRY(mem_alloc(&g->batch, (size_t)g->micro, sizeof *g->batch));
    TM_TRY(mem_alloc(&g->length, (size_t)g->micro, sizeof *g->length));
    TM_TRY(mem_alloc(&g->mine, (size_t)(g->micro * s->max_new_tokens), sizeof *g->mine));
    return mem_alloc(&g->round, (size_t)(g->r->grid.dp * g->micro * g->record), sizeof *g->round);
}

/* --- what comes out ---------------------------------------------------------------------------------------------------------- */
/* Text of the tokens; a model's vocabulary may be larger than its tokenizer's, such ids have no text. */
static enum status decode(const struct tok *t, const int32_t *ids, int64_t n, struct str *out) {
    const char *bytes;
    size_t length;
    TM_TRY(str_append(out, "", 0));
    for (int64_t from = 0, i = 0; i <= n; i++) {
        if (i < n && tok_bytes(t, ids[i], &bytes, &length)) continue;
        TM_TRY(tok_decode(t, ids + from, (size_t)(i - from), TOK_SKIP_SPECIAL, out));
        from = i + 1;
    }
    return TM_OK;
}

static json_t *ids_json(const int32_t *ids, int64_t n) {
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) json_array_append_new(list, json_integer(ids[i]));
    return list;
}

static enum status write_line(struct generation *g, const struct stage_prompt *p, const struct str *text,
                              const int32_t *ids, int64_t n) {
    json_t *line = json_object();
    if (p->text)
        json_object_set_new(line, "prompt", json_string(p->text));
    else
        json_object_set_new(line, "prompt_tokens", ids_json(p->ids, p->n));
    if (g->prompts.tok) json_object_set_new(line, "text", json_stringn(text->p, text->len));
    json_object_set_new(line, "tokens", ids_json(ids, n));
    char *dump = json_dumps(line, 0);
    json_decref(line);
    if (!dump) return TM_FAIL(TM_ERR_MEMORY, "out of memory");
    enum status st = str_printf(&g->lines, "%s\n", dump);
    free(dump);
    return st;
}

static enum status show(struct generation *g, int64_t i, const struct str *text, const int32_t *ids, int64_t n) {
    struct str shown = {0};
    char name[32];
    enum status st = TM_OK;
    snprintf(name, sizeof name, "%lld", (long long)i);
    if (g->prompts.tok) {
        st = hub_json_string(text->p, false, &shown);
    } else {
        for (int64_t k = 0; k < n && st == TM_OK; k++) st = str_printf(&shown, "%s%d", k ? " " : "", (int)ids[k]);
    }
    if (st == TM_OK) st = stage_result_text(g->r, g->s, name, shown.p);
    str_free(&shown);
    return st;
}

static enum status tell(struct generation *g, int64_t i, const int64_t *record) {
    const struct stage_prompt *p = &g->prompts.v[i];
    struct str text = {0};
    int64_t n = record[0];
    int32_t *ids;
    TM_TRY(mem_alloc(&ids, (size_t)n, sizeof *ids));
    for (int64_t k = 0; k < n; k++) ids[k] = (int32_t)record[1 + k];
    enum status st = g->prompts.tok ? decode(g->prompts.tok, ids, n, &text) : TM_OK;
    if (st == TM_OK && *g->s->output) st = write_line(g, p, &text, ids, n);
    if (st == TM_OK && (i < SHOWN || !*g->s->output)) st = show(g, i, &text, ids, n);
    g->tokens += n;
    mem_free(&ids);
    str_free(&text);
    return st;
}

/* --- rounds: every replica continues a batch, in turn, so that a round's prompts lie side by side ------------------------------ */
static enum status continue_batch(struct generation *g, int64_t first, int64_t *record) {
    int64_t n = size_min(g->micro, (int64_t)g->prompts.n - first), max_new = g->s->max_new_tokens;
    if (n <= 0) return TM_OK;
    for (int64_t i = 0; i < n; i++)
        g->batch[i] = (struct gen_prompt){g->prompts.v[first + i].ids, g->prompts.v[first + i].n};
    TM_TRY(gen_greedy(g->gen, g->batch, n, g->mine, g->length));
    for (int64_t i = 0; i < n; i++) {
        record[i * g->record] = g->length[i];
        for (int64_t k = 0; k < g->length[i]; k++) record[i * g->record + 1 + k] = g->mine[i * max_new + k];
    }
    return TM_OK;
}

static enum status round_all(struct generation *g, int64_t first) {
    const struct par_grid *grid = &g->r->grid;
    int64_t n = size_min(g->micro * grid->dp, (int64_t)g->prompts.n - first), words = n * g->record;
    bool save = false;
    TM_TRY(stage_poll_all(g->r, &save));
    for (int64_t i = 0; i < grid->dp * g->micro * g->record; i++) g->round[i] = -1;
    int64_t mine = g->micro * grid->dp_rank;
    TM_TRY(par_agree_all(continue_batch(g, first + mine, g->round + mine * g->record)));
    TM_TRY(par_reduce_i64(grid->world, g->round, words, PAR_MAX));
    enum status st = TM_OK;
    if (g->r->plan) return st; /* what the other replicas would have said is not known */
    for (int64_t i = 0; i < n && st == TM_OK && par_rank() == 0; i++) st = tell(g, first + i, g->round + i * g->record);
    return par_agree_all(st);
}

static enum status report(struct generation *g, double seconds) {
    char dir[4096];
    if (par_rank() != 0) return TM_OK;
    if (*g->s->output) {
        TM_TRY(str_copy(dir, sizeof dir, g->s->output));
        char *slash = strrchr(dir, '/');
        if (slash && slash != dir) {
            *slash = 0;
            TM_TRY(file_make_dirs(dir));
        }
        TM_TRY(file_write(g->s->output, g->lines.p, g->lines.len));
    }
    log_info("tokens=%lld rate=%.1f tokens/s", (long long)g->tokens, (double)g->tokens / seconds);
    TM_TRY(stage_result(g->r, g->s, "prompts", (double)g->prompts.n, "prompts"));
    return stage_result(g->r, g->s, "tokens", (double)g->tokens, "tokens");
}

enum status stage_generate_all(struct stage_run *r, const struct deck_stage *s) {
    struct generation g = {.r = r, .s = s};
    enum status st = open_all(&g);
    if (st == TM_OK) st = par_agree_all(prepare(&g));
    double begin = clock_seconds();
    int64_t per_round = g.micro * r->grid.dp, n = r->plan ? size_min(1, (int64_t)g.prompts.n) : (int64_t)g.prompts.n;
    stage_plan_begin(r);
    for (int64_t i = 0; st == TM_OK && i < n; i += per_round) st = round_all(&g, i);
    if (st == TM_OK)
        stage_plan_rounds(r, "round of prompts", (double)size_ceil_div((int64_t)g.prompts.n, per_round), 1);
    if (st == TM_OK && !r->plan) st = par_agree_all(report(&g, clock_seconds() - begin));
    gen_destroy(&g.gen);
    stage_close_quant(&g.quant);
    stage_close_model(&g.model);
    stage_prompts_free(&g.prompts);
    mem_free(&g.batch);
    mem_free(&g.length);
    mem_free(&g.mine);
    mem_free(&g.round);
    str_free(&g.lines);
    return st;
}
