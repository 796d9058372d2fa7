/* The run's history. */
#include "stage/history.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/version.h"
#include "ckpt/ckpt.h"
#include "stage/report.h"

/* --- the command ---------------------------------------------------------------------------------------------------------------- */
/* A word as a shell would take it. */
static enum status shell_word(const char *word, struct str *out) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./,:@%";
    if (*word && strspn(word, plain) == strlen(word)) return str_printf(out, " %s", word);
    TM_TRY(str_printf(out, " '"));
    for (; *word; word++) TM_TRY(*word == '\'' ? str_printf(out, "'\\''") : str_append(out, word, 1));
    return str_printf(out, "'");
}

enum status stage_command(const struct stage_options *o, int ranks, struct str *out) {
    if (ranks > 1) TM_TRY(str_printf(out, "mpirun -np %d ", ranks));
    TM_TRY(str_printf(out, "temper"));
    TM_TRY(shell_word(o->deck_path ? o->deck_path : "", out));
    for (int i = 0; i < o->n_sets; i++) {
        TM_TRY(str_printf(out, " --set"));
        TM_TRY(shell_word(o->sets[i], out));
    }
    for (int i = 0; i < o->n_allow; i++) {
        TM_TRY(str_printf(out, " --allow-mismatch"));
        TM_TRY(shell_word(o->allow[i], out));
    }
    if (o->sweep_point >= 0) TM_TRY(str_printf(out, " --sweep-point %lld", (long long)o->sweep_point));
    return o->profile ? str_printf(out, " --profile") : TM_OK;
}

/* --- writing -------------------------------------------------------------------------------------------------------------------- */
/* The batch system's name for this job, or "". */
static const char *job(void) {
    static const char *const names[] = {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i])) return getenv(names[i]);
    return "";
}

static void set_text(json_t *line, const char *key, const char *text) {
    json_t *j = json_string(text); /* NULL when the text is not UTF-8 */
    json_object_set_new(line, key, j ? j : json_string("?"));
}

enum status stage_history_start(struct stage_run *r, const json_t *fingerprint) {
    char host[64] = "?", cwd[4096] = "?";
    struct str command = {0};
    json_t *line = json_object();
    gethostname(host, sizeof host - 1);
    if (!getcwd(cwd, sizeof cwd)) snprintf(cwd, sizeof cwd, "?");
    enum status st = stage_command(&r->o, par_size(), &command);
    set_text(line, "start", version_string());
    json_object_set_new(line, "ranks", json_integer(par_size()));
    json_object_set_new(line, "grid",
                        json_pack("{s:i, s:i, s:i}", "tp", r->grid.tp, "pp", r->grid.pp, "dp", r->grid.dp));
    set_text(line, "host", host);
    set_text(line, "job", job());
    json_object_set_new(line, "pid", json_integer(getpid()));
    set_text(line, "command", command.p ? command.p : "");
    set_text(line, "directory", cwd);
    json_object_set(line, "fingerprint", (json_t *)(uintptr_t)fingerprint);
    if (st == TM_OK) st = ckpt_ledger_append(r->deck->run.dir, line);
    r->begun = st == TM_OK;
    json_decref(line);
    str_free(&command);
    return st;
}

void stage_history_usage(struct stage_run *r) {
    char path[4096];
    json_t *old = NULL;
    if (str_path(path, sizeof path, r->deck->run.dir, "usage.json") != TM_OK || !file_exists(path)) return;
    json_t *memory = json_read_file(path, 64 << 20, &old) == TM_OK ? json_object_get(old, "memory") : NULL;
    if (json_is_object(memory))
        json_object_set(r->usage, "memory", memory);
    else
        log_warn("%s is left out of the report: it holds no memory of stages", path);
    json_decref(old);
}

void stage_history_end(struct stage_run *r, enum status st) {
    char message[2048];
    if (par_rank() != 0 || !r->begun) return;
    snprintf(message, sizeof message, "%s", st == TM_OK ? "" : status_message());
    json_t *line = json_object();
    set_text(line, "end", status_name(st));
    if (*message) set_text(line, "why", message);
    if (r->now) set_text(line, "stage", r->now->name);
    json_object_set_new(line, "seconds", json_real(clock_seconds() - r->start));
    enum status wrote = ckpt_ledger_append(r->deck->run.dir, line);
    json_decref(line);
    /* what failed before its first stage has nothing new to show */
    if (wrote == TM_OK && (st == TM_OK || r->now)) wrote = stage_report_write(r);
    if (wrote != TM_OK) log_warn("the run's history and report lack this end: %s", status_message());
    status_set_message(message);
}

/* --- reading -------------------------------------------------------------------------------------------------------------------- */
static const char *text_of(const json_t *line, const char *key) {
    const char *s = json_string_value(json_object_get(line, key));
    return s ? s : "";
}

/* "2026-11-21T12:05:09Z" -> "2026-11-21 12:05:09" */
static void set_time(char out[32], const char *when) {
    if (!*when) return;
    snprintf(out, 32, "%.10s %.8s", when, strlen(when) > 11 ? when + 11 : "");
}

/* The stage of a checkpoint: ".../ckpt/03-qad/step_00000040" -> "qad". */
static void stage_of_path(const char *path, char out[64]) {
    const char *end = strrchr(path, '/'), *p = end;
    while (p && p > path && p[-1] != '/') p--;
    int n = p ? (int)(end - p) : 0;
    const char *dash = p ? memchr(p, '-', (size_t)n) : NULL;
    if (dash) n -= (int)(dash + 1 - p), p = dash + 1;
    snprintf(out, 64, "%.*s", n, p ? p : "");
}

static void read_start(const json_t *line, const char *from, struct start *s) {
    const json_t *g = json_object_get(line, "grid");
    *s = (struct start){.seconds = NAN};
    set_time(s->when, text_of(line, "when"));
    snprintf(s->version, sizeof s->version, "%s", text_of(line, "start"));
    snprintf(s->host, sizeof s->host, "%s", text_of(line, "host"));
    snprintf(s->job, sizeof s->job, "%s", text_of(line, "job"));
    snprintf(s->from, sizeof s->from, "%s", from);
    snprintf(s->to, sizeof s->to, "%s", from);
    s->ranks = json_integer_value(json_object_get(line, "ranks"));
    snprintf(s->grid, sizeof s->grid, "tp %lld \u00d7 pp %lld \u00d7 dp %lld",
             (long long)json_integer_value(json_object_get(g, "tp")),
             (long long)json_integer_value(json_object_get(g, "pp")),
             (long long)json_integer_value(json_object_get(g, "dp")));
}

/* What a later line says about the start it belongs to. */
static void read_line(const json_t *line, struct start *s) {
    char stage[64];
    set_time(s->until, text_of(line, "when"));
    if (!strcmp(text_of(line, "event"), "checkpoint")) {
        stage_of_path(text_of(line, "path"), stage);
        s->checkpoints++;
        snprintf(s->to, sizeof s->to, "%s step %lld", stage,
                 (long long)json_integer_value(json_object_get(line, "step")));
    }
    if (*text_of(line, "finished")) snprintf(s->to, sizeof s->to, "all of %.80s", text_of(line, "finished"));
    if (!*text_of(line, "end")) return;
    snprintf(s->end, sizeof s->end, "%s", text_of(line, "end"));
    snprintf(s->why, sizeof s->why, "%.255s", text_of(line, "why"));
    if (json_is_number(json_object_get(line, "seconds")))
        s->seconds = json_number_value(json_object_get(line, "seconds"));
}

enum status stage_history_read(const char *run_dir, struct starts *out) {
    json_t *lines;
    *out = (struct starts){0};
    TM_TRY(ckpt_ledger_read(run_dir, &lines));
    enum status st = TM_OK;
    for (size_t i = 0; i < json_array_size(lines) && st == TM_OK; i++) {
        const json_t *line = json_array_get(lines, i);
        if (*text_of(line, "start")) {
            char from[96] = "the beginning";
            if (out->n) memcpy(from, out->v[out->n - 1].to, sizeof from);
            st = mem_grow(&out->v, &out->cap, out->n + 1, sizeof *out->v);
            if (st == TM_OK) read_start(line, from, &out->v[out->n++]);
        } else if (out->n) {
            read_line(line, &out->v[out->n - 1]);
        }
    }
    json_decref(lines);
    return st;
}
