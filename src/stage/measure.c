/* Measuring this computer with what the program itself does: two small models, calibrated, distilled, evaluated, saved and exported.
 *
 * An operation's seconds are a call's and its work's: two models of different sizes give both. Three steps are run three times, the middle one counts,
 * and what one step takes is taken off: the first step works on new memory, which is a rate of its own. What is beside the loops (drawing, loading, saving, exporting) is timed where stages time it themselves. */
#include "stage/measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"
#include "base/version.h"
#include "deck/machine.h"
#include "stage/device.h"
#include "stage/links.h"

enum { REPEATS = 3, SIZES = 2 };

/* One of the two models. */
static const struct size {
    int hidden, heads, kv, ffn, layers, vocab, length, micro;
} sizes[SIZES] = {{128, 2, 1, 256, 2, 1024, 64, 1}, {576, 9, 3, 1536, 1, 4096, 256, 2}};

static const char config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": %d, "
    "\"num_attention_heads\": %d,\n"
    " \"num_key_value_heads\": %d, \"head_dim\": 64, \"intermediate_size\": %d, \"num_hidden_layers\": %d, "
    "\"vocab_size\": %d,\n"
    " \"max_position_embeddings\": 1024, \"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\"}\n";

/* %1: the folder; the model is drawn and written, and then it is what the stages load. */
static const char draw[] = "version = 1; run = { dir = \"%s/draw\"; }; model = { random_init = \"%s/config.json\"; };\n"
                           "stages = ( { do = \"export\"; flavour = \"hf\"; dir = \"%s/model\"; } );\n";
static const char work[] =
    "version = 1; run = { dir = \"%s/work\"; }; model = { path = \"%s/model\"; }; teacher = { path = \"%s/model\"; };\n"
    "datasets = { d = { sources = ( { path = \"mock\"; } ); seq_length = %d; samples = %d; }; };\n"
    "quant = { preset = \"nvfp4\"; }; batch = { micro = %d; global = %d; }; optim = { lr = 1e-5; };\n"
    "losses = ( { kind = \"kl\"; }, { kind = \"ce\"; } );\n"
    "stages = ( { do = \"calibrate\"; data = \"d\"; },\n"
    "  { do = \"distill\"; name = \"a\"; data = \"d\"; steps = 1; },\n"
    "  { do = \"distill\"; name = \"a0\"; data = \"d\"; steps = 3; from = \"calibrate\"; },\n"
    "  { do = \"distill\"; name = \"a1\"; data = \"d\"; steps = 3; from = \"calibrate\"; },\n"
    "  { do = \"distill\"; name = \"a2\"; data = \"d\"; steps = 3; from = \"calibrate\"; },\n"
    "  { do = \"distill\"; name = \"b\"; data = \"d\"; steps = 1; from = \"calibrate\"; numerics = { compute = "
    "\"bf16\"; }; },\n"
    "  { do = \"distill\"; name = \"b0\"; data = \"d\"; steps = 3; from = \"calibrate\"; numerics = { compute = "
    "\"bf16\"; }; },\n"
    "  { do = \"distill\"; name = \"b1\"; data = \"d\"; steps = 3; from = \"calibrate\"; numerics = { compute = "
    "\"bf16\"; }; },\n"
    "  { do = \"distill\"; name = \"b2\"; data = \"d\"; steps = 3; from = \"calibrate\"; numerics = { compute = "
    "\"bf16\"; }; },\n"
    "  { do = \"evaluate\"; data = \"d\"; compare = \"false\"; },\n"
    "  { do = \"export\"; dir = \"%s/packed\"; } );\n";

/* What one stage took: its operations and what is beside them. */
struct sample {
    struct dev_counter *op;                   /* [dev_op_count()] */
    double spent[STAGE_SPENT_COUNT], seconds; /* of it, and of the whole stage */
    double memory;                            /* the most that the device held */
    double bytes;                             /* exported; rank 0 */
};

/* The stages of both decks, in order. */
enum { DRAW, CALIBRATE, COLD, FP32, COLD_BF16 = FP32 + REPEATS, BF16, EVALUATE = BF16 + REPEATS, EXPORT, STAGES };

struct measuring {
    struct stage_run r;
    char folder[4096];
    int n_ops;
    struct sample sample[SIZES][STAGES];
    double elements[SIZES];
    struct deck_machine m;
    struct deck_machine_op *rows;
    size_t rows_cap;
};

/* --- running stages ---------------------------------------------------------------------------------------------------------------- */
static enum status run_stage_all(struct measuring *x, const struct deck_stage *s, struct sample *out) {
    struct stage_run *r = &x->r;
    TM_TRY(par_agree_all(mem_alloc(&out->op, (size_t)x->n_ops, sizeof *out->op)));
    memset(r->spent, 0, sizeof r->spent);
    dev_counters_reset(r->dev);
    dev_memory_reset(r->dev);
    par_note("probe", s->index, s->name);
    r->now = s;
    double begin = clock_seconds();
    TM_TRY(par_agree_all(stage_function(s->kind)(r, s)));
    out->seconds = clock_seconds() - begin;
    r->now = NULL;
    if (par_rank() == 0) out->bytes = json_number_value(json_object_get(stage_results_of(r, s), "bytes"));
    for (int i = 0; i < x->n_ops; i++) out->op[i] = dev_counter(r->dev, i);
    memcpy(out->spent, r->spent, sizeof r->spent);
    out->memory = (double)dev_memory(r->dev, 0).high;
    return TM_OK;
}

/* Run the stages of a deck; their samples follow `first`. */
static enum status run_text_all(struct measuring *x, const char *text, struct sample *first) {
    struct stage_run *r = &x->r;
    str_clear(&r->deck_text);
    enum status st = deck_parse(text, "probe", "/", NULL, 0, NULL, &r->deck);
    if (st == TM_OK) st = deck_echo(r->deck, &r->deck_text);
    if (st == TM_OK) st = stage_check_grid(r);
    if (st == TM_OK && par_rank() == 0) st = file_make_dirs(r->deck->run.dir);
    if (st == TM_OK && !r->dev) st = stage_device_open(r);
    st = par_agree_all(st);
    if (st == TM_OK && !x->n_ops) {
        x->n_ops = dev_op_count();
        st = stage_device_join_all(r);
    }
    for (int i = 0; st == TM_OK && i < r->deck->stages.n; i++) st = run_stage_all(x, &r->deck->stages.v[i], &first[i]);
    deck_free(&r->deck);
    return st;
}

static enum status run_size_all(struct measuring *x, int i) {
    const struct size *z = &sizes[i];
    char dir[4200], path[4300];
    struct str text = {0}, c = {0};
    double attention = 64.0 * (2 * z->heads + 2 * z->kv);
    x->elements[i] = z->layers * ((double)z->hidden * (attention + 3.0 * z->ffn)) + 2.0 * z->vocab * z->hidden;
    snprintf(dir, sizeof dir, "%s/%d", x->folder, i);
    snprintf(path, sizeof path, "%s/config.json", dir);
    enum status st = str_printf(&c, config, z->hidden, z->heads, z->kv, z->ffn, z->layers, z->vocab);
    if (st == TM_OK && par_rank() == 0) st = file_make_dirs(dir);
    if (st == TM_OK && par_rank() == 0) st = file_write(path, c.p, c.len);
    if (st == TM_OK) st = str_printf(&text, draw, dir, dir, dir);
    st = par_agree_all(st);
    if (st == TM_OK) st = run_text_all(x, text.p, &x->sample[i][DRAW]);
    int each = z->micro * par_size();
    str_clear(&text);
    if (st == TM_OK) st = par_agree_all(str_printf(&text, work, dir, dir, dir, z->length, each, z->micro, each, dir));
    if (st == TM_OK) st = run_text_all(x, text.p, &x->sample[i][CALIBRATE]);
    str_free(&text);
    str_free(&c);
    return st;
}

/* --- from samples to rates ------------------------------------------------------------------------------------------------------------- */
static double middle(double a, double b, double c) { return fmax(fmin(a, b), fmin(fmax(a, b), c)); }

/* An operation: calls, work, seconds. */
struct point {
    double calls, work, seconds;
};
static struct point point_of(const struct measuring *x, int size, int stage, int op, bool flops) {
    const struct dev_counter *c = &x->sample[size][stage].op[op];
    return (struct point){(double)c->calls, flops ? c->flops : c->bytes, c->seconds};
}
/* In two steps on memory that was in use before: what three steps (the middle of the stages from `first`) have over one. Where noise is larger than
 * that: two thirds of the three, so that nothing that was called is without a rate. */
static struct point warm_point(const struct measuring *x, int size, int first, int op, bool flops) {
    const struct sample *s = &x->sample[size][first];
    const struct point all = point_of(x, size, first, op, flops), cold = point_of(x, size, first - 1, op, flops);
    const double t = middle(s[0].op[op].seconds, s[1].op[op].seconds, s[2].op[op].seconds) - cold.seconds;
    if (t > 0) return (struct point){all.calls - cold.calls, all.work - cold.work, t};
    return (struct point){all.calls * 2 / 3, all.work * 2 / 3, all.seconds * 2 / 3};
}

static bool by_flops(const char *name) { return !strcmp(name, "gemm") || !strncmp(name, "attn_", 5); }

/* seconds = calls * a + work * b through both points; a and b are not negative. */
static enum status fit_row(struct measuring *x, const char *name, const char *suffix, struct point p, struct point q,
                           bool flops) {
    double det = p.calls * q.work - q.calls * p.work, a = 0, b = q.work > 0 ? q.seconds / q.work : 0;
    char *text;
    if (!(q.calls > 0) || !(q.seconds > 0)) return TM_OK;
    if (fabs(det) > 1e-9 * q.calls * q.work) {
        a = (p.seconds * q.work - q.seconds * p.work) / det;
        b = (p.calls * q.seconds - q.calls * p.seconds) / det;
    }
    if (!(a > 0)) a = 0;
    if (a == 0 && q.work > 0) b = q.seconds / q.work;
    if (!(b > 0)) {
        a = q.seconds / q.calls;
        b = 0;
    }
    TM_TRY(mem_grow(&x->rows, &x->rows_cap, (size_t)x->m.ops.n + 1, sizeof *x->rows));
    TM_TRY(mem_alloc(&text, strlen(name) + strlen(suffix) + 1, 1));
    memcpy(text, name, strlen(name)); /* zeroed memory ends it */
    memcpy(text + strlen(name), suffix, strlen(suffix));
    struct deck_machine_op *row = &x->rows[x->m.ops.n++];
    *row = (struct deck_machine_op){.op = text, .call_us = a * 1e6};
    if (b > 0) *(flops ? &row->gflops : &row->gbs) = 1e-9 / b;
    return TM_OK;
}

static enum status fit_ops(struct measuring *x) {
    for (int i = 0; i < x->n_ops; i++) {
        const char *name = dev_op_name(i);
        bool flops = by_flops(name);
        struct point p = warm_point(x, 0, FP32, i, flops), q = warm_point(x, 1, FP32, i, flops);
        if (!(p.calls > 0) || !(q.calls > 0) || !(q.seconds > 0)) { /* of calibrations alone */
            p = point_of(x, 0, CALIBRATE, i, flops);
            q = point_of(x, 1, CALIBRATE, i, flops);
        }
        TM_TRY(fit_row(x, name, "", p, q, flops));
        if (flops)
            TM_TRY(fit_row(x, name, "_bf16", warm_point(x, 0, BF16, i, true), warm_point(x, 1, BF16, i, true), true));
    }
    for (int i = 0; i < x->m.ops.n; i++) {
        if (!strcmp(x->rows[i].op, "gemm")) x->m.rank.fp32_gflops = x->rows[i].gflops;
        if (!strcmp(x->rows[i].op, "gemm_bf16")) x->m.rank.bf16_gflops = x->rows[i].gflops;
    }
    x->m.ops.v = x->rows;
    return TM_OK;
}

static double rate(double amount, double seconds) { return seconds > 0 ? amount * 1e-9 / seconds : 0; }

/* Copying, once the memory is in use. */
static enum status measure_memory(struct measuring *x) {
    const size_t bytes = (size_t)128 << 20;
    dptr a, b;
    struct dev *d = x->r.dev;
    TM_TRY(dev_alloc(d, "probe", bytes, &a));
    TM_TRY(dev_alloc(d, "probe", bytes, &b));
    TM_TRY(dev_copy(d, &(struct copy_args){.x = a, .y = b, .bytes = bytes}));
    TM_TRY(dev_sync(d));
    double t[REPEATS];
    for (int i = 0; i < REPEATS; i++) {
        double begin = clock_seconds();
        TM_TRY(dev_copy(d, &(struct copy_args){.x = a, .y = b, .bytes = bytes}));
        TM_TRY(dev_sync(d));
        t[i] = clock_seconds() - begin;
    }
    x->m.rank.memory_gbs = rate(2 * (double)bytes, middle(t[0], t[1], t[2]));
    dev_free(d, &a);
    dev_free(d, &b);
    return TM_OK;
}

/* Seconds = fixed + amount / rate, through two amounts. */
static void fit_line(double a0, double t0, double a1, double t1, double *fixed, double *giga) {
    double slope = (t1 - t0) / (a1 - a0), at = t0 - slope * a0;
    if (!(slope > 0) || !(at > 0)) { /* noise: the larger one says more */
        slope = t1 / a1;
        at = 0;
    }
    if (fixed) *fixed = at;
    *giga = 1e-9 / slope;
}

static double spent(const struct measuring *x, int size, int first, enum stage_spent what) {
    const struct sample *s = &x->sample[size][first];
    return first == FP32 ? middle(s[0].spent[what], s[1].spent[what], s[2].spent[what]) : s->spent[what];
}

/* Every rank loads all of a model, all ranks together write it once. A distillation loads two: student and teacher. */
static void fit_files(struct measuring *x) {
    struct deck_machine_files *f = &x->m.files;
    const double *n = x->elements, nodes = (double)par_size() / par_local_size();
    double packed[SIZES];
    fit_line(n[0], spent(x, 0, FP32, STAGE_SPENT_LOAD) / 2, n[1], spent(x, 1, FP32, STAGE_SPENT_LOAD) / 2, &f->load_s,
             &f->load_gels);
    fit_line(0, f->load_s, n[1], spent(x, 1, DRAW, STAGE_SPENT_LOAD), NULL, &f->draw_gels);
    fit_line(0, f->load_s, n[1], spent(x, 1, EVALUATE, STAGE_SPENT_LOAD), NULL, &f->restore_gels);
    fit_line(12 * n[0] / nodes, spent(x, 0, FP32, STAGE_SPENT_SAVE), 12 * n[1] / nodes,
             spent(x, 1, FP32, STAGE_SPENT_SAVE), &f->save_s, &f->save_gbs);
    for (int i = 0; i < SIZES; i++) {
        double write = x->sample[i][EXPORT].bytes * 1e-9 / f->write_gbs / nodes;
        packed[i] = fmax(1e-4, spent(x, i, EXPORT, STAGE_SPENT_EXPORT) - write);
    }
    fit_line(n[0] / nodes, packed[0], n[1] / nodes, packed[1], &f->export_s, &f->export_gels);
}

/* The first step takes longer than those after it: its memory is new. */
static void fit_memory(struct measuring *x) {
    const struct sample *cold = &x->sample[1][COLD];
    double more = 0;
    for (int i = 0; i < x->n_ops; i++) more += cold->op[i].seconds - warm_point(x, 1, FP32, i, false).seconds / 2;
    if (more > 0) x->m.rank.fill_gbs = rate(cold->memory, more);
}

/* What the small model's stages took beside their operations, loading and writing. */
static void fit_stage(struct measuring *x) {
    double rest[REPEATS];
    for (int k = 0; k < REPEATS; k++) {
        const struct sample *s = &x->sample[0][FP32 + k];
        rest[k] = s->seconds;
        for (int i = 0; i < x->n_ops; i++) rest[k] -= s->op[i].seconds;
        for (int i = 0; i < STAGE_SPENT_COUNT; i++) rest[k] -= s->spent[i];
    }
    x->m.stage_s = fmax(0, middle(rest[0], rest[1], rest[2]));
}

static enum status measure_all(struct measuring *x) {
    for (int i = 0; i < SIZES; i++) TM_TRY(run_size_all(x, i));
    TM_TRY(par_agree_all(measure_memory(x)));
    TM_TRY(links_measure_all(&x->r.grid, x->r.dev, &x->m));
    TM_TRY(links_measure_files_all(x->folder, &x->m));
    TM_TRY(par_agree_all(fit_ops(x)));
    if (par_rank() == 0) fit_files(x);
    if (par_rank() == 0) fit_stage(x);
    if (par_rank() == 0) fit_memory(x);
    return TM_OK;
}

/* --- the file ------------------------------------------------------------------------------------------------------------------------ */
static enum status write_machine(struct measuring *x) {
    struct str text = {0};
    char host[65] = "?", source[512];
    struct deck_machine *m = &x->m;
    (void)gethostname(host, sizeof host - 1);
    snprintf(source, sizeof source, "temper %s --probe on %d rank%s, device %s", version_string(), par_size(),
             par_size() == 1 ? "" : "s", dev_describe(x->r.dev));
    m->version = 1;
    m->name = host;
    m->source = source;
    m->ranks_a_node = par_local_size();
    m->program.element_bytes = 4;
    m->rank.threads = dev_backend(x->r.dev) == DEV_CUDA ? 0 : dev_threads(x->r.dev);
    double pages = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGE_SIZE);
    if (dev_backend(x->r.dev) != DEV_CUDA) m->rank.memory_gib = 0.9 * pages / par_local_size() / (1 << 30);
    TM_TRY(deck_machine_echo(m, &text));
    enum status st = TM_OK;
    if (x->r.o.out)
        st = file_write(x->r.o.out, text.p, text.len);
    else
        printf("%s", text.p);
    str_free(&text);
    return st;
}

static enum status make_folder(char *out, size_t cap) {
    char here[3900];
    if (!getcwd(here, sizeof here)) return TM_FAIL(TM_ERR_IO, "the working directory has no path");
    snprintf(out, cap, "%s/temper-probe.%ld", here, (long)getpid());
    return file_make_dirs(out);
}

static enum status begin_all(struct measuring *x) {
    TM_TRY(par_grid_create_all(1, 1, 1, &x->r.grid)); /* all ranks are replicas */
    TM_TRY(par_agree_all(par_rank() == 0 ? make_folder(x->folder, sizeof x->folder) : TM_OK));
    TM_TRY(par_bcast(x->r.grid.world, x->folder, sizeof x->folder, 0));
    if (par_rank() == 0) {
        x->r.results = json_object();
        json_object_set_new(x->r.results, "stages", json_object());
    }
    return TM_OK;
}

static void finish(struct measuring *x) {
    for (int i = 0; i < SIZES; i++)
        for (int k = 0; k < STAGES; k++) mem_free(&x->sample[i][k].op);
    for (int i = 0; i < x->m.ops.n; i++) {
        void *text = (void *)(uintptr_t)x->rows[i].op;
        mem_free(&text);
    }
    mem_free(&x->rows);
    par_grid_destroy(&x->r.grid);
    dev_close(&x->r.dev);
    json_decref(x->r.results);
    str_free(&x->r.deck_text);
}

enum status stage_measure_all(const struct stage_options *o) {
    struct measuring *x;
    TM_TRY(par_agree_all(mem_alloc(&x, 1, sizeof *x)));
    x->r = (struct stage_run){.o = *o, .lock = -1, .start = clock_seconds(), .quiet = true};
    x->r.o.profile = true; /* counters have the device's seconds */
    log_hold(true);
    enum status st = begin_all(x);
    if (st == TM_OK) st = measure_all(x);
    if (*x->folder && par_rank() == 0) (void)file_remove_tree(x->folder);
    if (st == TM_OK) st = par_agree_all(par_rank() == 0 ? write_machine(x) : TM_OK);
    log_hold(false);
    finish(x);
    mem_free(&x);
    return st;
}
