/* TEST ranks=1 tier=1 */
/* deck/: values, inheritance, paths, --set, sweeps, the echo and its round trip. */
#include "base/mem.h"
#include "deck/deck.h"
#include "tap.h"

#include <unistd.h>

static char here[1024];

/* Paths of a deck are absolute: `rest` below the working directory. */
#define is_path(got, rest, what)                            \
    do {                                                    \
        char want_[2048];                                   \
        snprintf(want_, sizeof want_, "%s/%s", here, rest); \
        is_str(got, want_, what);                           \
    } while (0)

static struct deck *load(const char *path, const char *const *sets, int n_sets) {
    struct deck *d;
    struct str report = {0};
    ok(deck_load(path, sets, n_sets, &report, &d) == TM_OK, "%s loads", path);
    ok(!report.len, "%s has no warnings: %s", path, report.len ? report.p : "none");
    if (!d) exit(tap_done());
    str_free(&report);
    return d;
}

/* The deck of the design, every value in it. */
static void design(void) {
    struct deck *d = load("tests/decks/design.cfg", NULL, 0);
    is_int(d->version, 1, "version");
    is_path(d->run.dir, "run/demo", "run.dir is relative to the working directory");
    is_int(d->run.seed, 1, "run.seed");
    is_int(d->grid.tp, 2, "grid.tp");
    is_int(d->grid.pp, 2, "grid.pp");
    is_int(d->grid.dp, 0, "grid.dp: what is left");
    is_str(d->device.backend, "auto", "device.backend");
    is_str(d->numerics.compute, "fp32", "numerics.compute");
    is_path(d->model.path, "tests/decks/models/austen-3m", "model.path is relative to the deck's folder");
    is_path(d->teacher.path, "tests/decks/models/austen-3m", "teacher.path");
    is_int(d->datasets.n, 3, "three data sets");
    is_str(d->datasets.v[1].name, "calib", "data sets in their order");
    is_int(d->datasets.v[1].samples, 128, "calib.samples");
    is_int(d->datasets.v[1].seq_length, 256, "calib.seq_length");
    is_int(d->datasets.v[0].sources.n, 1, "train has one source");
    is_path(d->datasets.v[0].sources.v[0].path, "tests/decks/austen", "its path");
    ok(d->datasets.v[0].sources.v[0].weight == 1.0, "its weight");
    is_str(d->quant.preset, "nvfp4", "quant.preset");
    is_str(d->quant.kv_cache, "fp8", "quant.kv_cache");
    is_int(d->quant.rules.n, 1, "one rule");
    is_str(d->quant.rules.v[0].module, "*lm_head*", "its module");
    ok(!d->quant.rules.v[0].enable, "it disables");
    is_str(d->quant.rules.v[0].site, "*", "every site");
    is_str(d->quant.algorithm.name, "max", "quant.algorithm.name");
    is_int(d->batch.micro, 4, "batch.micro");
    is_int(d->batch.global, 16, "batch.global");
    is_str(d->optim.name, "adamw", "optim.name");
    ok(d->optim.lr == 1e-4 && d->optim.beta1 == 0.9 && d->optim.eps == 1e-8,
       "optim: the deck's lr, default beta1 and eps");
    is_str(d->schedule.name, "cosine", "schedule.name");
    is_int(d->schedule.warmup, 10, "schedule.warmup");
    is_int(d->losses.n, 1, "one loss");
    is_str(d->losses.v[0].kind, "kl", "of kind kl");
    ok(d->losses.v[0].temperature == 1.0 && d->losses.v[0].weight == 1.0, "its temperature and weight");
    is_int(d->stages.n, 6, "six stages");
    const struct deck_stage *s = d->stages.v;
    static const enum deck_kind kinds[] = {DECK_KIND_evaluate, DECK_KIND_calibrate, DECK_KIND_evaluate,
                                           DECK_KIND_distill,  DECK_KIND_evaluate,  DECK_KIND_export};
    static const char *const names[] = {"teacher", "ptq", "after-ptq", "qad", "after-qad", "export"};
    static const int from[] = {-1, -1, 1, 1, 3, 3}, lines[] = {17, 18, 19, 20, 21, 22};
    for (int i = 0; i < 6; i++) {
        ok(s[i].kind == kinds[i] && s[i].index == i, "stage %d is %s", i, deck_kind_name(kinds[i]));
        is_str(s[i].name, names[i], "its name");
        is_int(s[i].from_index, from[i], "it takes the last model that was made");
        is_int(s[i].line, lines[i], "its line");
    }
    is_str(s[2].from, "ptq", "`from` is resolved to a name");
    is_str(s[0].from, "model", "or to the model");
    ok(s[3].dataset == &s[3].datasets.v[0] && s[1].dataset && !strcmp(s[1].dataset->name, "calib") && !s[5].dataset,
       "`data` is resolved");
    is_int(s[3].steps, 60, "qad.steps");
    is_str(s[0].compare, "true", "a teacher is given, so evaluate compares with it");
    is_path(s[5].dir, "run/demo/export", "outputs go below run.dir");
    is_str(s[5].flavour, "modelopt", "flavour");
    ok(s[5].shard_size == INT64_C(5000000000), "a default above 32 bits");
    ok(s[3].optim.lr == 1e-4 && s[3].quant.rules.n == 1 && s[3].batch.global == 16,
       "a stage has the top level's groups");
    deck_free(&d);
    ok(!d, "deck_free clears the pointer");
}

#define HEAD                                                                       \
    "version = 1;\n"                                                               \
    "run = { dir = \"run/t\"; };\n"                                                \
    "model = { path = \"/m/a\"; };\n"                                              \
    "datasets = { d = { sources = ( { path = \"t.txt\"; } ); seq_length = 8; };\n" \
    "             e = { sources = ( { path = \"mock\"; } ); seq_length = 4; }; };\n"

static struct deck *parse(const char *text, const char *const *sets, int n_sets) {
    struct deck *d;
    struct str report = {0};
    ok(deck_parse(text, "t.cfg", "", sets, n_sets, &report, &d) == TM_OK, "the text parses");
    ok(!report.len, "without warnings: %s", report.len ? report.p : "none");
    if (!d) exit(tap_done());
    str_free(&report);
    return d;
}

static void inheritance(void) {
    struct deck *d = parse(
        HEAD
        "optim = { lr = 1e-3; beta1 = 0.8; };\n"
        "quant = { preset = \"fp8\"; rules = ( { module = \"a\"; }, { module = \"b\"; } ); };\n"
        "stages = ( { do = \"train\"; data = \"d\"; steps = 5; optim = { lr = 2; };\n"
        "             quant = { rules = ( ); };\n"
        "             datasets = { d = { seq_length = 16; }; own = { sources = ( { path = \"@run/o\"; } ); }; }; },\n"
        "           { do = \"evaluate\"; data = \"d\"; from = \"model\"; },\n"
        "           { do = \"distill\"; data = \"e\"; steps = 1; }, { do = \"export\"; } );\n",
        NULL, 0);
    const struct deck_stage *s = d->stages.v;
    ok(s[0].optim.lr == 2.0 && s[0].optim.beta1 == 0.8,
       "a stage overrides one key (an int serves as a float), keeps the rest");
    ok(s[1].optim.lr == 1e-3 && d->optim.lr == 1e-3, "other stages and the top level do not see it");
    ok(s[0].quant.rules.n == 0 && s[1].quant.rules.n == 2 && !strcmp(s[0].quant.preset, "fp8"),
       "a list is replaced whole");
    ok(s[0].dataset->seq_length == 16 && s[1].dataset->seq_length == 8 && s[0].dataset->sources.n == 1,
       "a data set is overridden by name");
    is_int(s[0].datasets.n, 3, "and a stage may have one of its own");
    is_path(s[0].datasets.v[2].sources.v[0].path, "run/t/o", "@run/ is the run directory");
    is_str(s[2].datasets.v[1].sources.v[0].path, "mock", "\"mock\" is no path");
    is_str(s[0].name, "train", "without a name it is the word of `do`");
    ok(s[0].losses.n == 1 && !strcmp(s[0].losses.v[0].kind, "ce"), "train's loss is ce by default");
    ok(s[2].losses.n == 1 && !strcmp(s[2].losses.v[0].kind, "kl"), "distill's is kl");
    is_str(s[2].teacher.path, "/m/a", "distill's teacher is by default the model as it came");
    is_str(s[1].compare, "false", "evaluate without a teacher compares with none");
    is_int(s[1].from_index, -1, "from = \"model\"");
    is_int(s[2].from_index, -1, "and what follows takes what evaluate took");
    is_path(s[3].dir, "run/t/export", "a default output is below run.dir too");
    deck_free(&d);
}

static void sets(void) {
    static const char *const s[] = {
        "optim.lr=3",                       /* int for a float */
        "qad.optim.beta1=0.5",              /* a stage's group that is not in the file */
        "ptq.data=unseen",                  /* a bare word is text */
        "run.title=a \"b\" = c; d",         /* so is what is no deck syntax */
        "export.dir=\"/out/x\"",            /* quotes are fine too */
        "qad.losses[0].temperature=2.0",    /* a member of a list that the stage inherits */
        "teacher.dtype=bf16",               /* group and stage are both called teacher: only the group has dtype */
        "teacher.data=calib",               /* only the stage has data */
        "stages.teacher.grid.tp=1",         /* both have grid */
        "qad.datasets.train.seq_length=64", /* a named member */
        "quant.rules=({module=\"x\";}, {module=\"y\";})",
        "numerics.grid_invariant=true",
        "grid.pp_layout=[3, 1]",
        "qad.steps=2000000000000L",
    };
    struct deck *d = load("tests/decks/design.cfg", s, (int)(sizeof s / sizeof *s));
    const struct deck_stage *v = d->stages.v, *qad = &v[3];
    ok(d->optim.lr == 3.0 && qad->optim.lr == 3.0, "a group's key reaches the stages");
    ok(qad->optim.beta1 == 0.5 && d->optim.beta1 == 0.9, "a stage's key is the stage's alone");
    is_str(v[1].data, "unseen", "bare word");
    is_str(d->run.title, "a \"b\" = c; d", "text that is no deck syntax");
    is_str(v[5].dir, "/out/x", "absolute outputs stay");
    ok(qad->losses.v[0].temperature == 2.0 && d->losses.v[0].temperature == 1.0, "list member of a stage");
    is_str(d->teacher.dtype, "bf16", "the group teacher");
    is_str(v[0].data, "calib", "the stage teacher");
    ok(v[0].grid.tp == 1 && v[1].grid.tp == 2 && d->teacher.grid.tp == 0, "stages.NAME says stage");
    ok(qad->dataset->seq_length == 64 && v[2].dataset->seq_length == 256, "data set of a stage");
    is_int(d->quant.rules.n, 2, "a whole list");
    is_str(d->numerics.grid_invariant, "true", "a bool where auto is a word");
    ok(d->grid.pp_layout.n == 2 && d->grid.pp_layout.v[0] == 3 && d->grid.pp_layout.v[1] == 1, "an array");
    ok(qad->steps == INT64_C(2000000000000), "64 bits");
    deck_free(&d);
}

/* The echo parses to the same echo, from another folder, and says only what a stage has of its own. */
static void echo(const char *path, const char *const *set, int n_sets) {
    struct deck *d = load(path, set, n_sets), *again;
    struct str first = {0}, second = {0};
    must(deck_echo(d, &first));
    deck_free(&d);
    must(deck_parse(first.p, "echo", "/tmp", NULL, 0, NULL, &again));
    must(deck_echo(again, &second));
    ok(first.len == second.len && !memcmp(first.p, second.p, first.len), "the echo of %s gives the same echo", path);
    deck_free(&again);
    str_free(&first);
    str_free(&second);
}

static void echoes(void) {
    static const char *const s[] = {
        "qad.optim.lr=0.1",
        "run.title=\"q\\\"\\\\ \\x01\xc3\xa9\n\"",
        "qad.datasets.train.sources=({path=\"mock\";}, {path=\"b\"; split=(0, 0.3);})",
        "qad.datasets.mine={sources=({path=\"x\";});}",
        ("sweep=({key=\"qad.optim.lr\"; values=(1, 2.5, 5000000000L);}, {key=\"run.title\"; "
         "values=(\"x\", \"y\");}, {key=\"device.share\"; values=(true, false);})"),
        "qad.optim.eps=0.30000000000000004",
        "export.shard_size=3000000000L"};
    echo("tests/decks/design.cfg", NULL, 0);
    echo("tests/decks/design.cfg", s, (int)(sizeof s / sizeof *s));
    echo("tests/decks/include.cfg", NULL, 0);
    struct deck *d = load("tests/decks/design.cfg", s, (int)(sizeof s / sizeof *s));
    struct str text = {0};
    must(deck_echo(d, &text));
    ok(strstr(text.p, "    optim = {\n      lr = 0.1;\n      eps = 0.30000000000000004;\n    };\n") != NULL,
       "a stage's group has only the keys that differ, with all their digits");
    ok(strstr(text.p, "title = \"q\\\"\\\\ \\x01\xc3\xa9\\n\";") != NULL, "text is escaped, UTF-8 stays");
    ok(strstr(text.p, "values = ( 1, 2.5, 5000000000L );") && strstr(text.p, "values = ( \"x\", \"y\" );") &&
           strstr(text.p, "values = ( true, false );"),
       "sweep values keep their types");
    ok(strstr(text.p, "max_new_tokens") == NULL, "keys of other kinds of stages are left out");
    str_free(&text);
    deck_free(&d);
}

static void includes(void) {
    struct deck *d = load("tests/decks/include.cfg", NULL, 0);
    ok(d->limits.wall_s == 3600.0, "an include in an include");
    is_path(d->model.path, "tests/models/m", "paths in it are relative to the deck's folder; leading .. is taken out");
    deck_free(&d);
}

static void sweep(void) {
    static const char *const s[] = {"sweep=({key=\"qad.optim.lr\"; values=[1e-5, 3e-5];}, {key=\"qad.schedule.name\"; "
                                    "values=[\"cosine\", \"linear\", \"constant\"];})"};
    struct deck *d = load("tests/decks/design.cfg", s, 1);
    is_int(deck_sweep_count(d), 6, "2 x 3 points");
    deck_free(&d);
    must(deck_load_point("tests/decks/design.cfg", s, 1, 4, NULL, &d));
    ok(d->stages.v[3].optim.lr == 3e-5, "point 4 = (1, 1): lr");
    is_str(d->stages.v[3].schedule.name, "linear", "the last axis is the fastest");
    is_path(d->run.dir, "run/demo/point-0004", "a point has a run directory of its own");
    is_path(d->stages.v[5].dir, "run/demo/point-0004/export", "and its outputs are there");
    is_int(deck_sweep_count(d), 1, "a point is no sweep");
    deck_free(&d);
    is_status(deck_load_point("tests/decks/design.cfg", s, 1, 6, NULL, &d), TM_ERR_DECK);
    is_str(status_message(), "--sweep-point 6: expected 0 to 5, the points of tests/decks/design.cfg",
           "a point too many");
    must(deck_load_point("tests/decks/design.cfg", NULL, 0, 0, NULL, &d));
    deck_free(&d);
}

int main(void) {
    if (!getcwd(here, sizeof here)) return tap_skip_all("no working directory");
    design();
    inheritance();
    sets();
    echoes();
    includes();
    sweep();
    is_int(mem_bytes(), 0, "nothing is left allocated");
    return tap_done();
}
