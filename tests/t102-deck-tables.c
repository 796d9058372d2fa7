/* TEST ranks=1 tier=1 */
/* deck/: the key tables as a whole (defaults, renamed keys, help) and the comparison of two decks for a run that goes on. */
#include "base/mem.h"
#include "deck/deck.h"
#include "deck/parse.h"
#include "deck/table.h"
#include "tap.h"

/* Every default is a value the key itself takes, and every row says what it is for. */
static void check_defaults(const struct table *t, int *n_keys) {
    void *base, *pool = NULL;
    must(mem_alloc(&base, 1, t->size));
    must(deck_table_defaults(t, base, &pool));
    for (int i = 0; i < t->n; i++) {
        const struct key *k = &t->keys[i];
        bool good = *k->doc && k->use && k->unit, renamed;
        double v = 0;
        ++*n_keys;
        if (k->type == KEY_INT) v = (double)*(int64_t *)deck_field(k, base);
        if (k->type == KEY_FLOAT) v = *(double *)deck_field(k, base);
        if ((k->type == KEY_INT || k->type == KEY_FLOAT) && k->fallback) good &= deck_key_in_range(k, v);
        if (k->type == KEY_WORD && k->fallback) good &= deck_words_have(k->words, k->fallback);
        if (k->type == KEY_BOOL) good &= !strcmp(k->fallback, "true") || !strcmp(k->fallback, "false");
        if (k->type >= KEY_INTS && k->type <= KEY_INPUTS) good &= k->fallback && !*k->fallback;
        good &= deck_key_find(t, k->name, &renamed) == k; /* no name twice */
        /* steps is required by the stages that have it, so its default is never used */
        if (!strcmp(t->name, "stage") && !strcmp(k->name, "steps")) good = true;
        if (!good) ok(false, "row %s of table %s", k->name, t->name);
        if (k->table) check_defaults(k->table, n_keys);
    }
    mem_free(&base);
    deck_pool_free(&pool);
}

/* Every key of every table is in the help, with the line about it. */
static void check_help(const struct table *t, const char *help, int *missing) {
    for (int i = 0; i < t->n; i++) {
        char name[128];
        snprintf(name, sizeof name, "\n  %s", t->keys[i].name);
        if (!strstr(help, name) || !strstr(help, t->keys[i].doc)) {
            if (t == deck_table_stage() && t->keys[i].table) continue; /* shown once, at the top level */
            ++*missing;
            fprintf(stderr, "# not in the help: %s.%s\n", t->name, t->keys[i].name);
        }
        if (t->keys[i].table) check_help(t->keys[i].table, help, missing);
    }
}

static void help(void) {
    struct str h = {0};
    int missing = 0;
    must(deck_help(NULL, &h));
    check_help(deck_table_top(), h.p, &missing);
    is_int(missing, 0, "the help names every key");
    str_clear(&h);
    must(deck_help("optim.lr", &h));
    is_str(h.p, "  optim.lr = 1e-4                 float > 0\n        peak learning rate; resume: same\n",
           "help of a key");
    str_clear(&h);
    must(deck_help("warmup", &h));
    ok(!strncmp(h.p, "  schedule.warmup = 0", 21), "by its bare name");
    str_clear(&h);
    must(deck_help("datasets.sources.path", &h));
    ok(!strncmp(h.p, "  datasets.NAME.sources[i].path ", 32), "in a list of a named group");
    str_clear(&h);
    must(deck_help("quant", &h));
    ok(strstr(h.p, "preset") && strstr(h.p, "quant.rules[i]:") && strstr(h.p, "quant.algorithm:"),
       "of a group with its members");
    ok(!strstr(h.p, "warmup"), "and nothing else");
    str_clear(&h);
    is_status(deck_help("optim.lrr", &h), TM_ERR_DECK);
    is_str(status_message(), "--help-deck optim.lrr: no such key; did you mean optim.lr?", "an unknown key");
    str_free(&h);
}

/* No key has been renamed yet, so the rule is tested on a table of its own. */
static void renamed(void) {
    static const struct key keys[] = {{.name = "lr",
                                       .type = KEY_FLOAT,
                                       .fallback = "1",
                                       .lo = 0,
                                       .hi = 10,
                                       .unit = "",
                                       .was = "rate",
                                       .use = "",
                                       .doc = "x"},
                                      {.name = "seed",
                                       .type = KEY_INT,
                                       .lo = 0,
                                       .hi = 10,
                                       .unit = "",
                                       .was = "rng",
                                       .use = "",
                                       .doc = "x",
                                       .offset = 8}};
    static const struct table table = {.name = "t", .doc = "", .keys = keys, .n = 2, .size = 16};
    struct {
        double lr;
        int64_t seed;
    } v = {0};
    struct report report = {.name = "x.cfg", .dir = ""};
    struct str text = {0};
    void *pool = NULL;
    config_t tree;
    config_init(&tree);
    struct reader r = {.report = &report, .pool = &pool, .base = "/", .here = "/", .run_dir = "/"};
    config_read_string(&tree, "rate = 3;\nrng = 4;\n");
    must(deck_parse_table(&r, &table, config_root_setting(&tree), &v, "optim.", true));
    must(deck_report_finish(&report, &text));
    ok(v.lr == 3.0 && v.seed == 4, "an earlier name still sets the key, a required one too");
    is_str(text.p,
           "x.cfg:1: warning: optim.rate is now called \"lr\"\nx.cfg:2: warning: optim.rng is now called \"seed\"\n",
           "with a warning that says the new name");
    deck_report_free(&report);
    str_clear(&text);
    config_read_string(&tree, "lr = 3;\nrate = 4;\nseed = 1;\n");
    must(deck_parse_table(&r, &table, config_root_setting(&tree), &v, "optim.", true));
    is_status(deck_report_finish(&report, &text), TM_ERR_DECK);
    is_str(text.p, "x.cfg:2: optim.rate is the earlier name of \"lr\", which is set too\n",
           "both names are one too many");
    deck_report_free(&report);
    config_destroy(&tree);
    deck_pool_free(&pool);
    str_free(&text);
}

/* The difference between the design's deck and itself with --set, as one line a key. */
static void differ(const char *const *sets, int n, const char *want, const char *what) {
    static const char *const words[] = {"same", "warn", "free"};
    struct deck *a, *b;
    struct str ta = {0}, tb = {0}, got = {0};
    struct deck_differences d;
    must(deck_load("tests/decks/design.cfg", NULL, 0, NULL, &a));
    must(deck_load("tests/decks/design.cfg", sets, n, NULL, &b));
    must(deck_echo(a, &ta));
    must(deck_echo(b, &tb));
    must(deck_compare(ta.p, tb.p, &d));
    must(str_printf(&got, "%s", ""));
    for (int i = 0; i < d.n; i++)
        must(str_printf(&got, "%s %s %s -> %s %s\n", d.v[i].stage, d.v[i].key, d.v[i].was, d.v[i].now,
                        words[d.v[i].resume]));
    is_str(got.p, want, what);
    deck_differences_free(&d);
    deck_free(&a);
    deck_free(&b);
    str_free(&ta);
    str_free(&tb);
    str_free(&got);
}
#define differ_by(want, what, ...)                                                                                 \
    differ((const char *const[]){__VA_ARGS__}, (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)), \
           want, what)

static void compare(void) {
    differ(NULL, 0, "", "a deck does not differ from itself");
    differ_by("qad optim.lr 0.0001 -> 0.1 same\n", "only the stages that use a key", "optim.lr=0.1");
    differ_by("qad steps 60 -> 90 free\n", "more steps", "qad.steps=90");
    differ_by("ptq device.backend \"auto\" -> \"host\" warn\n", "another backend in one stage",
              "ptq.device.backend=host");
    differ_by("qad datasets.train.seq_length 256 -> 128 same\n", "data sets: where they are used",
              "datasets.train.seq_length=128");
    differ_by("ptq datasets.calib.sources 1 members -> 2 members same\n", "a list that grows",
              "datasets.calib.sources=({path=\"a\";},{path=\"b\";})");
    differ_by("qad losses[0].weight 1.0 -> 2.0 same\n", "a member of a list", "qad.losses[0].weight=2");
    differ_by("ptq data \"calib\" -> \"unseen\" same\n", "other data", "ptq.data=unseen");
    differ_by("qad from \"ptq\" -> \"model\" same\n", "another origin", "qad.from=model");
    differ_by("p2   -> \"calibrate\" free\nafter-ptq from \"ptq\" -> \"p2\" same\nqad from \"ptq\" -> \"p2\" same\n"
              "ptq  \"calibrate\" ->  warn\n",
              "a stage that is gone, one that is new, and those that took its model", "ptq.name=p2");
    static const char design[] = "version = 1;\nrun = { dir = \"r\"; };\nmodel = { path = \"m\"; };\n";
    struct str old = {0}, new = {0};
    struct deck_differences d;
    must(str_printf(&old, "%sstages = ( { do = \"export\"; name = \"x\"; } );\n", design));
    must(str_printf(&new, "%sstages = ( { do = \"generate\"; prompt = \"p\"; name = \"x\"; } );\n", design));
    must(deck_compare(old.p, new.p, &d));
    ok(d.n == 1 && !strcmp(d.v[0].key, "do") && !strcmp(d.v[0].was, "\"export\"") && d.v[0].resume == DECK_SAME,
       "another kind of stage is one difference");
    deck_differences_free(&d);
    is_status(deck_compare(old.p, "version = ;", &d), TM_ERR_DECK);
    ok(strstr(status_message(), "this deck:1: syntax error") != NULL, "a text that is no deck is named");
    str_free(&old);
    str_free(&new);
}

int main(void) {
    int n_keys = 0;
    check_defaults(deck_table_top(), &n_keys);
    ok(n_keys > 150, "%d rows in all tables are sound", n_keys);
    help();
    renamed();
    compare();
    is_int(mem_bytes(), 0, "nothing is left allocated");
    return tap_done();
}
