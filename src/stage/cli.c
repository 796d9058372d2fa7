/* The command line: options of a run, and the commands that never start MPI. */
#include "stage/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/version.h"
#include "ckpt/ckpt.h"
#include "quant/format.h"
#include "stage/handbook.h"
#include "stage/plan.h"
#include "stage/sweep.h"
#include "stage/tools.h"
#include "stage/verify.h"

static const char usage[] =
    "usage: temper DECK [--set stage.key=value]... [--sweep-point I] [--resume auto|never] [--allow-mismatch "
    "KEY]... [--profile]\n"
    "       temper DECK --check | --sweep-count | --sweep-list | --sweep-run [-j N] | --sweep-collect\n"
    "       temper DECK --plan [--as-ranks N] [--machine FILE [--simulate] [--suggest] | --rate GFLOPS]\n"
    "       temper --probe [--out FILE]\n"
    "       temper --help-deck [KEY] | --list formats|families|stages|ops|status | --version | --help | --man | "
    "--handbook\n"
    "       temper --inspect PATH | --hash PATH | --verify-export DIR\n";

const char *stage_usage(void) { return usage; }

struct command {
    const char *check, *plan, *as_ranks, *rate, *machine, *simulate, *suggest, *sweep_count, *sweep_list, *sweep_run,
        *sweep_collect, *jobs, *help_deck, *list, *inspect, *hash, *verify, *man, *handbook;
    bool version, help;
};

/* Options: with a value (the next argument, or a default when it is optional), or repeated. */
enum kind { FLAG, VALUE, OPTIONAL, REPEATED };
static enum status parse(int argc, char **argv, struct stage_options *o, struct command *c) {
    const struct {
        const char *name;
        enum kind kind;
        const char **value;
        const char **list;
        int *n;
    } rows[] = {
        {"--set", REPEATED, NULL, (const char **)o->sets, &o->n_sets},
        {"--allow-mismatch", REPEATED, NULL, (const char **)o->allow, &o->n_allow},
        {"--resume", VALUE, &o->resume, NULL, NULL},
        {"--check", FLAG, &c->check, NULL, NULL},
        {"--plan", FLAG, &c->plan, NULL, NULL},
        {"--as-ranks", VALUE, &c->as_ranks, NULL, NULL},
        {"--rate", VALUE, &c->rate, NULL, NULL},
        {"--machine", VALUE, &c->machine, NULL, NULL},
        {"--simulate", FLAG, &c->simulate, NULL, NULL},
        {"--suggest", FLAG, &c->suggest, NULL, NULL},
        {"--sweep-count", FLAG, &c->sweep_count, NULL, NULL},
        {"--sweep-list", FLAG, &c->sweep_list, NULL, NULL},
        {"--sweep-run", FLAG, &c->sweep_run, NULL, NULL},
        {"--sweep-collect", FLAG, &c->sweep_collect, NULL, NULL},
        {"-j", VALUE, &c->jobs, NULL, NULL},
        {"--help-deck", OPTIONAL, &c->help_deck, NULL, NULL},
        {"--out", VALUE, &o->out, NULL, NULL},
        {"--list", VALUE, &c->list, NULL, NULL},
        {"--inspect", VALUE, &c->inspect, NULL, NULL},
        {"--hash", VALUE, &c->hash, NULL, NULL},
        {"--verify-export", VALUE, &c->verify, NULL, NULL},
        {"--man", FLAG, &c->man, NULL, NULL},
        {"--handbook", FLAG, &c->handbook, NULL, NULL},
    };
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        bool known = false;
        for (size_t k = 0; k < sizeof rows / sizeof *rows && !known; k++) {
            if (strcmp(a, rows[k].name)) continue;
            known = true;
            bool next = i + 1 < argc && strncmp(argv[i + 1], "--", 2);
            if (rows[k].kind == FLAG)
                *rows[k].value = a;
            else if (rows[k].kind == OPTIONAL)
                *rows[k].value = next ? argv[++i] : "";
            else if (!next)
                return TM_FAIL(TM_ERR_DECK, "%s needs a value\n%s", a, usage);
            else if (rows[k].kind == VALUE)
                *rows[k].value = argv[++i];
            else
                rows[k].list[(*rows[k].n)++] = argv[++i];
        }
        if (known) continue;
        if (!strcmp(a, "--profile"))
            o->profile = true;
        else if (!strcmp(a, "--probe"))
            o->probe = true;
        else if (!strcmp(a, "--version"))
            c->version = true;
        else if (!strcmp(a, "--help"))
            c->help = true;
        else if (!strcmp(a, "--sweep-point")) {
            char *end = NULL;
            o->sweep_point = i + 1 < argc ? strtoll(argv[++i], &end, 10) : -1;
            if (!end || *end || o->sweep_point < 0)
                return TM_FAIL(TM_ERR_DECK, "--sweep-point needs a number from 0\n%s", usage);
        } else if (!strncmp(a, "--", 2))
            return TM_FAIL(TM_ERR_DECK, "unknown option %s\n%s", a, usage);
        else if (o->deck_path)
            return TM_FAIL(TM_ERR_DECK, "two decks: %s and %s\n%s", o->deck_path, a, usage);
        else
            o->deck_path = a;
    }
    return TM_OK;
}

static enum status print(enum status st, struct str *s) {
    if (st == TM_OK) printf("%s", s->p ? s->p : "");
    str_free(s);
    return st;
}

static enum status plan_deck(const struct stage_options *o, const struct command *c, struct deck *d) {
    struct str text = {0};
    char *ranks_end = "", *rate_end = "";
    int64_t ranks = c->as_ranks ? strtoll(c->as_ranks, &ranks_end, 10) : 0;
    double rate = c->rate ? strtod(c->rate, &rate_end) : 0;
    if (*ranks_end || (c->as_ranks && ranks < 1))
        return TM_FAIL(TM_ERR_DECK, "--as-ranks %s: expected a number of ranks", c->as_ranks);
    if (*rate_end || (c->rate && !(rate > 0 && rate < 1e12)))
        return TM_FAIL(TM_ERR_DECK, "--rate %s: expected GFLOP/s of one rank, above 0", c->rate);
    if (!c->machine && (c->simulate || c->suggest))
        return TM_FAIL(TM_ERR_DECK, "%s needs --machine FILE (inputs/machines/, or what temper --probe writes)",
                       c->simulate ? c->simulate : c->suggest);
    struct stage_plan_ask ask = {ranks, rate, c->machine, c->simulate != NULL, c->suggest != NULL};
    enum status st = stage_plan_print(o, d, &ask, &text);
    if (text.len) printf("%s", text.p);
    str_free(&text);
    return st;
}

/* The commands on a sweep as a whole. */
static enum status sweep_command(const struct stage_options *o, const struct command *c, const struct deck *d) {
    struct str text = {0};
    char *end = "";
    long jobs = c->jobs ? strtol(c->jobs, &end, 10) : 1;
    if (*end || jobs < 1 || jobs > 4096)
        return TM_FAIL(TM_ERR_DECK, "-j %s: expected how many points run at once, 1 to 4096", c->jobs);
    if (o->sweep_point >= 0) return TM_FAIL(TM_ERR_DECK, "--sweep-point chooses one point: leave it out\n%s", usage);
    if (c->sweep_run) return stage_sweep_run(o, d, (int)jobs);
    return print(c->sweep_list ? stage_sweep_list(d, &text) : stage_sweep_collect(o, d, &text), &text);
}

static void print_good(const struct stage_options *o, const struct deck *d) {
    printf("%s: good: %d stages", o->deck_path, d->stages.n);
    if (d->sweep.n) printf(", %lld points", (long long)deck_sweep_count(d));
    printf(", run directory %s\n", d->run.dir);
}

static enum status read_deck(const struct stage_options *o, const struct command *c) {
    struct str report = {0};
    struct deck *d = NULL;
    enum status st = o->sweep_point >= 0
                         ? deck_load_point(o->deck_path, o->sets, o->n_sets, o->sweep_point, &report, &d)
                         : deck_load(o->deck_path, o->sets, o->n_sets, &report, &d);
    if (st == TM_OK && c->check) st = stage_sweep_check(o, d, &report);
    if (report.len) fprintf(stderr, "%s", report.p);
    if (st == TM_OK && c->plan)
        st = plan_deck(o, c, d);
    else if (st == TM_OK && c->sweep_count)
        printf("%lld\n", (long long)deck_sweep_count(d));
    else if (st == TM_OK && (c->sweep_list || c->sweep_run || c->sweep_collect))
        st = sweep_command(o, c, d);
    else if (st == TM_OK)
        print_good(o, d);
    deck_free(&d);
    str_free(&report);
    return st;
}

static enum status run_command(const struct stage_options *o, const struct command *c, bool *finished) {
    struct str s = {0};
    *finished = true;
    if (c->help) return print(str_printf(&s, "%s", usage), &s);
    if (c->version) return print(str_printf(&s, "temper %s\n", version_string()), &s);
    if (c->help_deck) return print(deck_help(*c->help_deck ? c->help_deck : NULL, &s), &s);
    if (c->list) return print(stage_list(c->list, &s), &s);
    if (c->inspect) return print(ckpt_inspect(c->inspect, &s), &s);
    if (c->verify) return print(stage_verify_export(c->verify, &s), &s);
    if (c->hash) return print(stage_hash(c->hash, &s), &s);
    if (c->man) return print(stage_man(&s), &s);
    if (c->handbook) return print(stage_handbook(&s), &s);
    if (o->out && !o->probe) return TM_FAIL(TM_ERR_DECK, "--out goes with --probe\n%s", usage);
    if (o->probe && o->deck_path) return TM_FAIL(TM_ERR_DECK, "--probe takes no deck\n%s", usage);
    *finished = false;
    if (o->probe) return TM_OK;
    *finished = true;
    if (!o->deck_path) return TM_FAIL(TM_ERR_DECK, "no deck\n%s", usage);
    const char *of_plan[] = {c->as_ranks ? "--as-ranks" : NULL, c->machine ? "--machine" : NULL, c->simulate,
                             c->suggest};
    for (size_t i = 0; i < sizeof of_plan / sizeof *of_plan; i++)
        if (of_plan[i] && !c->plan) return TM_FAIL(TM_ERR_DECK, "%s goes with --plan\n%s", of_plan[i], usage);
    bool sweep = c->sweep_count || c->sweep_list || c->sweep_run || c->sweep_collect;
    if (c->jobs && !c->sweep_run) return TM_FAIL(TM_ERR_DECK, "-j goes with --sweep-run\n%s", usage);
    if (c->check || c->plan || sweep) return read_deck(o, c);
    *finished = false;
    return TM_OK;
}

enum status stage_cli(int argc, char **argv, struct stage_options *o, bool *finished) {
    struct command c = {0};
    const char **sets, **allow;
    *o = (struct stage_options){.sweep_point = -1, .resume = "auto"};
    *finished = false;
    TM_TRY(mem_alloc(&sets, (size_t)argc, sizeof *sets));
    o->sets = sets;
    TM_TRY(mem_alloc(&allow, (size_t)argc, sizeof *allow));
    o->allow = allow;
    TM_TRY(parse(argc, argv, o, &c));
    if (strcmp(o->resume, "auto") && strcmp(o->resume, "never"))
        return TM_FAIL(TM_ERR_DECK, "--resume %s: expected auto or never", o->resume);
    return run_command(o, &c, finished);
}

void stage_cli_free(struct stage_options *o) {
    mem_free(&o->sets);
    mem_free(&o->allow);
}
