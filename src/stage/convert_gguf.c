/* Stage convert: a GGUF model into a Hugging Face directory. All ranks read the file; each writes whole files of the plan. */
#include "stage/convert_gguf.h"

#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/stop.h"
#include "base/str.h"
#include "base/version.h"
#include "hub/export.h"
#include "hub/gguf_hf.h"
#include "hub/pretty.h"
#include "model/config.h"

struct conversion {
    const struct deck_stage *s;
    struct hub_gguf *g;
    struct hub_gguf_hf *m;
    struct hub_plan *plan;
};

static enum status check_keys(const struct deck_stage *s) {
    if (s->input.n > 1)
        return TM_FAIL(TM_ERR_DECK, "stage %s: a GGUF model is converted alone, there are %d inputs", s->name,
                       s->input.n);
    if (s->vocab_size > 0)
        return TM_FAIL(TM_ERR_DECK, "stage %s: vocab_size is for text, %s is a GGUF model", s->name, s->input.v[0]);
    return TM_OK;
}

enum status stage_input_is_gguf_all(struct stage_run *r, const struct deck_stage *s, bool *out) {
    unsigned char is = 0;
    for (int i = 0; i < s->input.n && par_rank() == 0; i++) is |= hub_is_gguf(s->input.v[i]);
    TM_TRY(par_bcast(r->grid.world, &is, 1, 0));
    *out = is;
    return is ? par_agree_all(check_keys(s)) : TM_OK;
}

static enum status open_model(struct conversion *c) {
    const char *wish = c->s->model.dtype;
    enum dtype dtype = !strcmp(wish, "fp32") ? DTYPE_f32 : DTYPE_bf16;
    TM_TRY(hub_gguf_open(c->s->input.v[0], &c->g));
    if (!strcmp(wish, "auto")) TM_TRY(hub_gguf_dtype(c->g, &dtype));
    TM_TRY(hub_gguf_hf_create(c->g, dtype, &c->m));
    return hub_plan_create(c->m->tensors, c->m->n, c->s->shard_size, NULL, &c->plan);
}

static enum status produce(void *context, int tensor, int64_t row0, int64_t rows, int root, void *out) {
    struct conversion *c = context;
    (void)root;
    TM_TRY(stop_check("gguf"));
    return hub_gguf_hf_rows(c->m, tensor, row0, rows, out);
}

/* --- the files beside the weights ------------------------------------------------------------------------------------------- */

/* Before the weights: what cannot be converted is refused before gigabytes are written; and what we wrote, we can read. */
static enum status write_tokenizer(const struct conversion *c) {
    struct tok *t;
    if (par_rank() != 0) return TM_OK;
    TM_TRY(file_make_dirs(c->s->output));
    TM_TRY(hub_gguf_write_tokenizer(c->m, c->s->output));
    TM_TRY(tok_open(c->s->output, &t));
    tok_close(&t);
    return TM_OK;
}

static enum status write_json(const char *dir, const char *name, json_t *j) {
    char path[4096];
    enum status st = str_path(path, sizeof path, dir, name);
    if (st == TM_OK) st = hub_write_json(path, j, 2);
    json_decref(j);
    return st;
}

static json_t *provenance(const struct conversion *c) {
    static const char *const keys[] = {"general.name", "general.organization", "general.license", "general.url"};
    const char *path = hub_gguf_path(c->g), *slash = strrchr(path, '/'), *text;
    json_t *source = json_pack("{s:s, s:s}", "format", "gguf", "file", slash ? slash + 1 : path);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (hub_gguf_get_text(c->g, keys[i], NULL, &text) == TM_OK && text)
            json_object_set_new(source, strchr(keys[i], '.') + 1, json_string(text));
    return json_pack("{s:{s:s, s:s}, s:s, s:o}", "producer", "name", "temper", "version", version_string(), "stage",
                     c->s->name, "source", source);
}

/* config.json last: a directory without one is no model. */
static enum status write_configs(const struct conversion *c) {
    json_t *j;
    struct model_config known;
    if (par_rank() != 0) return TM_OK;
    TM_TRY(hub_gguf_generation_config(c->m, &j));
    TM_TRY(write_json(c->s->output, "generation_config.json", j));
    TM_TRY(write_json(c->s->output, "temper.json", provenance(c)));
    TM_TRY(hub_gguf_config(c->m, &j));
    TM_TRY(write_json(c->s->output, "config.json", j));
    TM_TRY(model_config_read(c->s->output, &known));
    model_config_free(&known);
    return TM_OK;
}

/* A config.json that cannot be made is said before gigabytes are written. */
static enum status check_config(const struct conversion *c) {
    json_t *j;
    TM_TRY(hub_gguf_config(c->m, &j));
    json_decref(j);
    return TM_OK;
}

enum status stage_convert_gguf_all(struct stage_run *r, const struct deck_stage *s) {
    struct conversion c = {.s = s};
    enum status st = open_model(&c);
    if (st == TM_OK) st = check_config(&c);
    if (st == TM_OK) st = write_tokenizer(&c);
    st = par_agree_all(st);
    if (st == TM_OK) st = hub_write_apart_all(s->output, c.plan, 0, produce, &c);
    if (st == TM_OK) st = par_agree_all(write_configs(&c));
    if (st == TM_OK) st = stage_result(r, s, "tensors", c.m->n, "tensors");
    if (st == TM_OK) st = stage_result(r, s, "bytes", (double)c.plan->data_bytes, "bytes");
    if (st == TM_OK) st = stage_result_text(r, s, "directory", s->output);
    hub_plan_destroy(&c.plan);
    hub_gguf_hf_destroy(&c.m);
    hub_gguf_close(&c.g);
    return st;
}
