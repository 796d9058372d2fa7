/* Planning a stage as one rank, and comparing a plan with a run. */
#include "stage/plan.h"

#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"
#include "ckpt/table.h"
#include "stage/saved.h"
#include "stage/trace.h"

/* --- planning ----------------------------------------------------------------------------------------------------------------- */
/* With the kernels' work space, which a run takes before the stage begins. */
static void keep_memory(struct stage_plan *p, const struct dev *d) {
    for (p->n = 0; p->n < STAGE_CLASSES && p->n < dev_memory_count(d); p->n++) p->memory[p->n] = dev_memory(d, p->n);
    if (p->work == 0 || p->n == 0 || p->n == STAGE_CLASSES) return;
    p->memory[0].high += p->work;
    p->memory[p->n++] = (struct dev_memory){.what = DEV_WORK, .now = p->work, .high = p->work};
}

static const struct dev_memory *largest(const struct stage_plan *p) {
    const struct dev_memory *most = &p->memory[1 % p->n];
    for (int i = 2; i < p->n; i++)
        if (p->memory[i].high > most->high) most = &p->memory[i];
    return most;
}

static enum status check_limit(const struct stage_run *of, const struct deck_stage *s, const struct stage_plan *p) {
    const double mib = 1 << 20, gib = 1 << 30, most = s->device.memory_gib;
    const double need = p->n ? (double)p->memory[0].high : 0;
    if (most > 0 && need / gib > most)
        return TM_FAIL(TM_ERR_MEMORY, "stage %s needs %.2f GiB on a rank, and device.memory_gib = %g", s->name,
                       need / gib, most);
    if (of->room == 0 || need <= (double)of->room) return TM_OK;
    return TM_FAIL(
        TM_ERR_MEMORY,
        "stage %s needs %.1f MiB on the GPU of rank %d, where it has %.1f MiB; the largest part is %s with %.1f MiB",
        s->name, need / mib, par_rank(), (double)of->room / mib, largest(p)->what, (double)largest(p)->high / mib);
}

/* Is the plan one of a GPU? Without a run, for "auto": of what is here. */
static bool on_gpu(const struct stage_run *of) {
    int n;
    if (of->dev) return dev_backend(of->dev) == DEV_CUDA;
    if (!strcmp(of->deck->device.backend, "auto")) return dev_cuda_devices(&n) == TM_OK;
    return dev_backend_named(of->deck->device.backend) == DEV_CUDA;
}

/* What a GPU's libraries hold throughout. */
static enum status begin_gpu(const struct stage_run *of, struct stage_run *r) {
    const struct par_grid *g = &r->grid;
    const bool comms = of->dev ? par_grid_has_comms(&of->grid) : !of->deck->device.share;
    const int64_t bytes = par_grid_comms_bytes(g->tp, g->dp, g->pp);
    r->plan->gpu = true;
    TM_TRY(dev_account_libraries(r->dev, of->invariant));
    return comms && bytes ? dev_account(r->dev, PAR_COMMS, (size_t)bytes) : TM_OK;
}

/* r becomes the planned run as the rank at `place`. */
static enum status begin(const struct stage_run *of, const struct deck_stage *s, const struct par_grid *place,
                         struct stage_plan *out, struct stage_run *r) {
    *out = (struct stage_plan){.known = s->kind != DECK_KIND_convert};
    *r = (struct stage_run){
        .o = of->o, .deck = of->deck, .invariant = of->invariant, .plan = out, .trace = of->trace, .lock = -1};
    r->grid = *place;
    r->grid.world = r->grid.tp_group = r->grid.dp_group = r->grid.pp_group = r->grid.model_group = NULL;
    mem_high_reset();
    out->host = mem_bytes();
    fault_suspend(true);
    log_hold(true); /* the run will say it */
    TM_TRY(dev_open(&(struct dev_options){.backend = DEV_PLAN, .threads = 1, .invariant = of->invariant}, &r->dev));
    if (on_gpu(of)) TM_TRY(begin_gpu(of, r));
    return r->trace ? trace_begin(r->trace, r->dev, &r->grid) : TM_OK;
}

static enum status finish(struct stage_run *r, const struct deck_stage *s, enum status st) {
    log_hold(false);
    fault_suspend(false);
    r->plan->host = mem_high_water() - r->plan->host;
    if (r->dev && r->plan->gpu) r->plan->work = dev_work(r->dev);
    if (r->dev) keep_memory(r->plan, r->dev);
    if (r->trace) trace_span_end(r->trace, 1, false);
    if (r->trace && st == TM_OK) st = r->trace->status;
    par_grid_destroy(&r->grid);
    dev_close(&r->dev);
    return st == TM_OK ? st : status_context(st, "plan of stage %s: ", s->name);
}

enum status stage_plan(const struct stage_run *of, const struct deck_stage *s, const struct par_grid *place,
                       struct stage_plan *out) {
    struct stage_run r;
    enum status st = begin(of, s, place, out, &r);
    if (st == TM_OK && out->known) st = stage_function(s->kind)(&r, s);
    return finish(&r, s, st);
}

enum status stage_plan_all(const struct stage_run *of, const struct deck_stage *s, struct stage_plan *out) {
    struct stage_run r;
    enum status st = par_agree_all(begin(of, s, &of->grid, out, &r));
    if (st == TM_OK && out->known) st = par_agree_all(stage_function(s->kind)(&r, s));
    st = finish(&r, s, st);
    return st == TM_OK ? par_agree_all(check_limit(of, s, out)) : st;
}

enum status stage_plan_check_all(struct stage_run *r) {
    for (int i = 0; r->room && i < r->deck->stages.n; i++) {
        struct stage_plan p;
        if (stage_is_finished(r, &r->deck->stages.v[i])) continue;
        const enum status st = stage_plan_all(r, &r->deck->stages.v[i], &p);
        if (st == TM_ERR_MEMORY) return st; /* others: an earlier stage may make what it lacks */
    }
    return TM_OK;
}

void stage_plan_begin(struct stage_run *r) {
    if (r->plan) dev_counters_reset(r->dev);
    if (r->trace) trace_span_end(r->trace, 1, false);
}

void stage_plan_rounds(struct stage_run *r, const char *round, double rounds, int64_t fill) {
    struct stage_plan *p = r->plan;
    double flops = 0;
    if (!p) return;
    for (int i = 0; i < dev_op_count(); i++) flops += dev_counter(r->dev, i).flops;
    p->flops += flops * rounds;
    p->flops_busiest += flops * ceil(rounds);
    dev_counters_reset(r->dev);
    if (r->trace) trace_span_end(r->trace, ceil(rounds), true);
    if (p->round) return; /* a second loop */
    p->round = round;
    p->rounds = rounds;
    p->fill = fill > 1 ? fill : 1;
    p->flops_round = flops;
}

void stage_plan_model(struct stage_run *r, const struct model *m) {
    const struct tensor_axis *const axis[] = {&m->axis_attention_q, &m->axis_attention_kv, &m->axis_ffn,
                                              &m->axis_vocab};
    int tp = r->grid.tp;
    for (int i = 0; r->plan && i < 4; i++)
        for (int k = 0; k < tp; k++) {
            int64_t lo, hi, lo0, hi0;
            tensor_axis_range(axis[i], 0, tp, &lo0, &hi0);
            tensor_axis_range(axis[i], k, tp, &lo, &hi);
            r->plan->uneven |= hi - lo != hi0 - lo0;
        }
}

static double elements(const struct model *m, bool whole) {
    double n = 0;
    for (int i = 0; i < m->n_params; i++) {
        struct tensor_box all = tensor_box_whole(m->param[i].desc.rank, m->param[i].desc.shape);
        n += (double)tensor_box_elems(whole ? &all : &m->param[i].desc.box);
    }
    return n;
}

void stage_plan_loaded(struct stage_run *r, const struct model *m, enum stage_source from) {
    r->plan->loaded[from] += elements(m, false);
    r->plan->loads++;
}

enum status stage_plan_saved(struct stage_run *r, const struct ckpt_tensor *list, size_t n, bool background) {
    for (size_t i = 0; i < n; i++) {
        struct tensor_box whole = tensor_box_whole(list[i].desc.rank, list[i].desc.shape);
        r->plan->saved_bytes += tensor_box_elems(&whole) * (int64_t)dtype_bytes(list[i].desc.dtype);
        if (tensor_box_elems(&list[i].desc.box) > 0 && r->plan->saved_files < r->grid.dp) r->plan->saved_files++;
    }
    r->plan->saved_file = ckpt_share_bytes(list, (int)n, r->grid.dp);
    char *block, *copy = NULL; /* through which the data goes; what is written while training goes on */
    TM_TRY(mem_alloc(&block, 1, CKPT_BLOCK));
    enum status st = TM_OK;
    if (background) st = mem_alloc(&copy, (size_t)r->plan->saved_file, 1);
    mem_free(&copy);
    mem_free(&block);
    return st;
}

enum status stage_plan_exported(struct stage_run *r, const struct model *m, const struct hub_plan *plan) {
    r->plan->elements = elements(m, true);
    for (int i = 0; i < plan->files_n; i++) r->plan->export_bytes += plan->files[i].bytes;
    r->plan->export_files = plan->files_n;
    return TM_OK;
}

bool stage_plan_knows_rows(const struct deck_dataset *d, bool count) {
    return d->seq_length > 0 && (d->samples > 0 || !count);
}

/* --- against the run ------------------------------------------------------------------------------------------------------------ */
/* What a rank tells rank 0. */
struct told {
    struct row {
        char what[32];
        int64_t planned, used;
    } row[2 * STAGE_CLASSES];
    int64_t n, process, process_planned; /* process_planned: 0 unknown */
};

static struct row *told_row(struct told *t, const char *what) {
    for (int i = 0; i < t->n; i++)
        if (!strcmp(t->row[i].what, what)) return &t->row[i];
    if (t->n == 2 * STAGE_CLASSES) return &t->row[t->n - 1];
    memcpy(t->row[t->n].what, what, sizeof t->row->what);
    return &t->row[t->n++];
}

/* A line of /proc/self/status in bytes: "VmHWM: " is the most memory this process ever held, "VmRSS: " what it holds; 0 where the system
 * does not say. */
static int64_t process_bytes(const char *what) {
    char line[256];
    long long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, what, strlen(what))) kib = strtoll(line + strlen(what), NULL, 10);
    if (f) fclose(f);
    return kib * 1024;
}

/* What libraries (HDF5, JSON, the allocator's own gaps) take when they are first used, after the base was measured: 8 to 20 MiB were seen. */
enum { FIRST_USE = 12 << 20 };

void stage_memory_begin(struct stage_run *r) {
    const int large = 4 << 20;
    (void)mallopt(M_MMAP_THRESHOLD, large); /* what is freed above this is given back at once, not kept for later */
    (void)mallopt(M_TRIM_THRESHOLD, large);
    int64_t held = process_bytes("VmRSS:");
    r->base = held - (int64_t)mem_bytes() + FIRST_USE;
    r->planned_most = held > 0 ? 0 : -1;
}

/* The process holds the most of all its stages. */
static void plan_process(struct stage_run *r, const struct stage_plan *p) {
    int64_t need = r->base + (int64_t)(mem_bytes() + p->host + (p->n ? p->memory[0].high : 0));
    if (!p->known) r->planned_most = -1; /* from here on nobody knows */
    if (r->planned_most >= 0) r->planned_most = size_max(r->planned_most, need);
}

static void tell(const struct stage_run *r, const struct stage_plan *p, struct told *t) {
    const struct dev *d = r->dev;
    *t = (struct told){.process = process_bytes("VmHWM:"), .process_planned = size_max(0, r->planned_most)};
    for (int i = 0; i < p->n; i++) told_row(t, p->memory[i].what)->planned = (int64_t)p->memory[i].high;
    for (int i = 0; i < dev_memory_count(d); i++) {
        struct dev_memory m = dev_memory(d, i);
        told_row(t, m.what)->used = (int64_t)m.high;
    }
}

static int64_t bytes(const struct row *r, bool used) { return used ? r->used : r->planned; }

/* One line: "all=123 weights=45 rotary_table=6". */
static enum status print_rows(const struct told *t, bool used, struct str *out) {
    for (int i = 0; i < t->n; i++) {
        if (!bytes(&t->row[i], used)) continue;
        size_t at = out->len;
        TM_TRY(str_printf(out, " %s=%lld", t->row[i].what, (long long)bytes(&t->row[i], used)));
        for (char *c = out->p + at + 1; *c; c++)
            if (*c == ' ') *c = '_';
    }
    return TM_OK;
}

/* The largest rank of each class, and every difference between a plan and its run. */
static void merge(const struct told *all, int ranks, bool known, struct told *most) {
    for (int r = 0; r < ranks; r++)
        for (int i = 0; i < all[r].n; i++) {
            const struct row *x = &all[r].row[i];
            struct row *m = told_row(most, x->what);
            m->planned = size_max(m->planned, x->planned);
            m->used = size_max(m->used, x->used);
            if (known && x->planned != x->used)
                log_warn("memory of rank %d: %s was planned with %lld bytes and took %lld", r, x->what,
                         (long long)x->planned, (long long)x->used);
        }
}

/* The largest process against its plan. */
static void report_process(const struct told *all, int ranks) {
    const double mib = 1 << 20;
    int64_t low = INT64_MAX;
    const struct told *most = all;
    for (int r = 0; r < ranks; r++) {
        low = size_min(low, all[r].process);
        if (all[r].process > most->process) most = &all[r];
    }
    double used = (double)most->process, planned = (double)most->process_planned;
    if (planned > 0 && used > 0)
        log_info("memory process planned=%.1f used=%.1f MiB (%+.1f %%), the most so far on the largest rank",
                 planned / mib, used / mib, 100 * (used / planned - 1));
    else if (used > 0)
        log_info("memory process used=%.1f MiB, the most so far on the largest rank", used / mib);
    if (ranks > 1) log_info("memory process used=%.1f MiB on the smallest rank", (double)low / mib);
}

/* The same for the report. */
static void keep_rows(struct stage_run *r, const struct told *t, bool known) {
    json_t *list = json_array();
    for (int i = 0; i < t->n; i++) {
        const struct row *x = &t->row[i];
        if (!x->planned && !x->used) continue;
        json_t *row = json_pack("{s:s, s:I}", "class", x->what, "used", (json_int_t)x->used);
        if (known) json_object_set_new(row, "planned", json_integer(x->planned));
        json_array_append_new(list, row);
    }
    json_object_set_new(json_object_get(r->usage, "memory"), r->now->name, list);
}

static enum status report(struct stage_run *r, const struct told *all, int ranks, bool known) {
    struct told most = {0};
    struct str planned = {0}, used = {0};
    merge(all, ranks, known, &most);
    keep_rows(r, &most, known);
    enum status st = print_rows(&most, false, &planned);
    if (st == TM_OK) st = print_rows(&most, true, &used);
    if (st == TM_OK && known) log_info("memory planned:%s bytes on the largest rank", planned.p ? planned.p : "");
    if (st == TM_OK) log_info("memory used:%s bytes on the largest rank", used.p ? used.p : "");
    report_process(all, ranks);
    str_free(&planned);
    str_free(&used);
    return st;
}

enum status stage_memory_all(struct stage_run *r, const struct stage_plan *planned) {
    struct told mine, *all = NULL;
    plan_process(r, planned);
    tell(r, planned, &mine);
    enum status st = par_rank() == 0 ? mem_alloc(&all, (size_t)par_size(), sizeof *all) : TM_OK;
    TM_TRY(par_agree_all(st));
    st = par_gather_bytes(r->grid.world, &mine, sizeof mine, all, 0);
    if (st == TM_OK && par_rank() == 0) st = report(r, all, par_size(), planned->known);
    mem_free(&all);
    return st;
}
