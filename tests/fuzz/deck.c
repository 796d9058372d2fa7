/* Fuzz: decks. NUL bytes part a deck, the file "inc.cfg" that it may include, and up to four --set. A good deck's echo is a good deck with
 * the same echo, and differs from it in nothing. */
#include "deck/deck.h"
#include "fuzz.h"

enum { SETS = 4 };

/* libconfig (1.5 to 1.7) forgets the string that it was reading when a syntax error ends the text: less than the text, once a deck. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:strbuf_append\nleak:libconfig_yylex\n"; }

static void check_echo(const struct deck *deck) {
    struct str a = {0}, b = {0};
    struct deck *again;
    struct deck_differences d;
    fuzz_must(deck_echo(deck, &a));
    fuzz_must(deck_parse(a.p, "echo.cfg", "/", NULL, 0, NULL, &again));
    fuzz_must(deck_echo(again, &b));
    fuzz_check(!strcmp(a.p, b.p), "an echo's echo is the same");
    fuzz_must(deck_compare(a.p, b.p, &d));
    fuzz_check(d.n == 0, "a deck is like its echo");
    deck_differences_free(&d);
    deck_free(&again);
    str_free(&a);
    str_free(&b);
}

static void check_sweep(const struct deck *deck, const char *const *sets, int n) {
    struct deck *point;
    int64_t points = deck_sweep_count(deck);
    fuzz_check(points >= 1, "a deck has a point");
    if (deck_load_point(fuzz_path("deck/fuzz.cfg"), sets, n, points - 1, NULL, &point) == TM_OK) deck_free(&point);
}

static void run(struct fuzz_input in) {
    bool knows = in.n && memmem(in.p, in.n, "secret_key", 10); /* libFuzzer sees what is compared, and tries it */
    char *text = fuzz_take_text(&in), *included = fuzz_take_text(&in), *sets[SETS];
    struct str report = {0};
    struct deck *deck;
    int n = 0;
    while (in.n && n < SETS) sets[n++] = fuzz_take_text(&in);
    fuzz_put_text("deck/fuzz.cfg", text);
    fuzz_put_text("deck/inc.cfg", included);
    enum status st = deck_load(fuzz_path("deck/fuzz.cfg"), (const char *const *)sets, n, &report, &deck);
    fuzz_check(st == TM_OK || (st == TM_ERR_DECK && report.len && *status_message()), "an error is reported");
    fuzz_check(knows || !report.len || !strstr(report.p, "secret_key"), "nothing is read outside of the deck's folder");
    if (st == TM_OK) {
        check_echo(deck);
        check_sweep(deck, (const char *const *)sets, n);
    }
    deck_free(&deck);
    str_free(&report);
    mem_free(&text);
    mem_free(&included);
    while (n) mem_free(&sets[--n]);
}

static void set_up(void) {
    fuzz_must(file_make_dirs(fuzz_path("deck/folder")));
    fuzz_put_text("secret.cfg", "secret_key = 1;\n");
    fuzz_check(symlink("../secret.cfg", fuzz_path("deck/link.cfg")) == 0, "a link");
}

static void seeds(void) {
    static const char *const decks[] = {"tests/decks/tiny.cfg",     "tests/decks/design.cfg",
                                        "tests/decks/broken.cfg",   "inputs/qad-austen.cfg",
                                        "inputs/smollm2-nvfp4.cfg", "inputs/smollm2-convert.cfg"};
    static const char head[] = "version = 1; run = { dir = \"r\"; }; model = { path = \"m\"; };\n"
                               "datasets = { d = { sources = ( { path = \"t\"; } ); seq_length = 8; }; };\n";
    static const struct {
        const char *p;
        size_t n;
    } more[] = {
#define PARTS(text) {text, sizeof text - 1}
        PARTS("@include \"inc.cfg\"\nstages = ( { do = \"generate\"; prompt = [\"a\", \"b\"]; } );\0"
              "limits = { wall_s = 60; };\0run.seed=3\0generate.max_new=4"),
        PARTS(
            "stages = ( { do = \"train\"; data = \"d\"; steps = 5; losses = ( { kind = \"ce\"; weight = 0.5; } ); } "
            ");\n"
            "sweep = ( { key = \"train.optim.lr\"; values = [1e-4, 2e-4]; }, { key = \"train.steps\"; values = (0x10, "
            "5L); } );\0\0train.losses[0].weight=2\0stages.train.batch.micro=2"),
        PARTS("stages = ( { do = \"convert\"; input = [\"a.jsonl\"]; output = \"o\"; tokenizer = \"t\"; },\n"
              "/* x */ { do = \"calibrate\"; data = \"d\"; quant = { preset = \"fp8\"; rules = ( { module = \"*\"; "
              "enable = "
              "false; } ); }; } );\0@include \"inc.cfg\"\n\0quant.kv_cache=\"fp8\""),
#undef PARTS
    };
    char name[32], *text;
    size_t length;
    for (int i = 0; i < (int)(sizeof decks / sizeof *decks); i++) {
        fuzz_must(file_read(decks[i], 1 << 16, &text, &length));
        snprintf(name, sizeof name, "file-%d", i);
        fuzz_seed(name, text, length);
        mem_free(&text);
    }
    for (int i = 0; i < (int)(sizeof more / sizeof *more); i++) {
        struct str s = {0};
        fuzz_must(str_append(&s, head, sizeof head - 1));
        fuzz_must(str_append(&s, more[i].p, more[i].n));
        snprintf(name, sizeof name, "parts-%d", i);
        fuzz_seed(name, s.p, s.len);
        str_free(&s);
    }
}

FUZZ_TARGET(set_up, run, seeds)
