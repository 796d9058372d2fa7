/* TEST ranks=1 tier=1 */
/* deck/: ranges, zipped axes, points left out, what points share, and a message at its line for every axis that is wrong. */
#include "base/mem.h"
#include "deck/deck.h"
#include "tap.h"

/* Lines 1 to 5; the sweep begins at line 6. */
#define DECK                                                                                                       \
    "version = 1; run = { dir = \"run/t\"; }; model = { path = \"m\"; }; teacher = { path = \"m\"; };\n"           \
    "datasets = { d = { sources = ( { path = \"mock\"; } ); seq_length = 8; }; };\n"                               \
    "quant = { preset = \"fp8\"; };\n"                                                                             \
    "stages = ( { do = \"evaluate\"; name = \"t\"; data = \"d\"; }, { do = \"calibrate\"; name = \"ptq\"; data = " \
    "\"d\"; },\n"                                                                                                  \
    "  { do = \"distill\"; name = \"qad\"; data = \"d\"; steps = 5; }, { do = \"evaluate\"; name = \"e\"; data = " \
    "\"d\"; } );\n"

static struct deck *parse(const char *sweep) {
    char text[4096];
    struct deck *d;
    snprintf(text, sizeof text, DECK "%s\n", sweep);
    must(deck_parse(text, "x.cfg", "/", NULL, 0, NULL, &d));
    return d;
}

static void values(const char *sweep, const char *want) {
    struct deck *d = parse(sweep);
    struct str s = {0};
    for (int i = 0; i < d->sweep.v[0].values.n; i++)
        must(str_printf(&s, "%s%s", i ? " " : "", d->sweep.v[0].values.v[i]));
    is_str(s.p, want, sweep);
    str_free(&s);
    deck_free(&d);
}

static void ranges(void) {
    values("sweep = ( { key = \"qad.steps\"; from = 10; to = 50; step = 10; } );", "10 20 30 40 50");
    values("sweep = ( { key = \"qad.steps\"; from = 10; to = 55; step = 20; } );", "10 30 50");
    values("sweep = ( { key = \"qad.steps\"; from = 3; to = 1; step = -1; } );", "3 2 1");
    values("sweep = ( { key = \"qad.steps\"; from = 1; to = 1000; count = 4; scale = \"log\"; } );", "1 10 100 1000");
    values("sweep = ( { key = \"qad.steps\"; from = 10; to = 100; count = 3; scale = \"log\"; } );", "10 32 100");
    values("sweep = ( { key = \"qad.optim.lr\"; from = 0.1; to = 0.7; step = 0.2; } );", "0.1 0.3 0.5 0.7");
    values("sweep = ( { key = \"qad.optim.lr\"; from = 1e-5; to = 1e-3; count = 5; scale = \"log\"; } );",
           "1e-05 3.16227766017e-05 0.0001 0.000316227766017 0.001");
    values("sweep = ( { key = \"qad.optim.lr\"; from = 1; to = 2; count = 3; } );", "1.0 1.5 2.0");
    values("sweep = ( { key = \"qad.optim.lr\"; from = 1; to = 1; count = 1; } );", "1.0");
}

/* Every point as "number:value,value"; the axes' own values. */
static void points(const char *sweep, const char *want) {
    struct deck *d = parse(sweep);
    struct str s = {0};
    int64_t n = 0;
    for (int64_t k = deck_sweep_next(d, -1); k >= 0; k = deck_sweep_next(d, k), n++) {
        must(str_printf(&s, "%s%lld:", n ? " " : "", (long long)k));
        for (int i = 0; i < d->sweep.n; i++)
            must(str_printf(&s, "%s%s", i ? "," : "", d->sweep.v[i].values.v[deck_sweep_value(d, k, i)]));
    }
    is_str(s.p, want, sweep);
    is_int(deck_sweep_count(d), n, "  and as many are counted");
    str_free(&s);
    deck_free(&d);
}

#define STEPS  "{ key = \"qad.steps\"; values = [ 1, 2 ]; }"
#define LR     "{ key = \"qad.optim.lr\"; values = [ 0.1, 0.2, 0.3 ]; }"
#define PRESET "{ key = \"quant.preset\"; values = [ \"fp8\", \"nvfp4\" ]; }"

static void products(void) {
    points("sweep = ( " STEPS ", " LR " );", "0:1,0.1 1:1,0.2 2:1,0.3 3:2,0.1 4:2,0.2 5:2,0.3");
    points("sweep = ( { key = \"qad.steps\"; values = [ 1, 2, 3 ]; zip = \"z\"; }, " PRESET
           ", { key = \"qad.optim.lr\"; from = 1; to = 3; count = 3; zip = \"z\"; } );",
           "0:1,\"fp8\",1.0 1:1,\"nvfp4\",1.0 2:2,\"fp8\",2.0 3:2,\"nvfp4\",2.0 4:3,\"fp8\",3.0 5:3,\"nvfp4\",3.0");
    points("sweep = ( " STEPS ", " LR
           " ); sweep_without = ( { where = [ \"qad.steps=1\", \"qad.optim.lr=2e-1\" ]; } );",
           "0:1,0.1 2:1,0.3 3:2,0.1 4:2,0.2 5:2,0.3");
    points("sweep = ( " PRESET ", " LR " ); sweep_without = ( { where = \"quant.preset=nv*\"; }, "
           "{ where = \"stages.qad.optim.lr=0.3\"; } );",
           "0:\"fp8\",0.1 1:\"fp8\",0.2");
}

/* The levels of a point as "directory/stages". */
static void shares(const char *sweep, int64_t number, const char *want) {
    struct deck *d = parse(sweep);
    struct str s = {0};
    char dir[160];
    must(str_printf(&s, "%s", ""));
    for (int level = 0, n; (n = deck_sweep_shared(d, number, level, dir, sizeof dir)); level++)
        must(str_printf(&s, "%s%s/%d", level ? " " : "", dir, n));
    is_str(s.p, want, sweep);
    str_free(&s);
    deck_free(&d);
}

static void sharing(void) {
    shares("sweep = ( " LR " );", 2, "shared-ptq-0000/2");
    shares("sweep = ( " PRESET ", " LR " );", 0, "shared-t-0000/1 shared-ptq-0000/2");
    shares("sweep = ( " PRESET ", " LR " );", 4, "shared-t-0000/1 shared-ptq-0001/2");
    shares("sweep = ( " LR ", " PRESET " );", 1, "shared-t-0000/1 shared-ptq-0001/2");
    shares("sweep = ( " LR ", " PRESET " );", 4, "shared-t-0000/1 shared-ptq-0000/2");
    shares("sweep = ( { key = \"run.seed\"; values = [ 1, 2 ]; }, " LR " );", 4, "shared-ptq-0001/2");
    shares("sweep = ( { key = \"run.seed\"; values = [ 1, 2 ]; } );", 1, "");
    shares("sweep = ( { key = \"optim.lr\"; values = [ 1.0, 2.0 ]; } );", 1, "shared-ptq-0000/2");
    shares("sweep = ( { key = \"datasets.d.samples\"; values = [ 1, 2 ]; } );", 1, "");
    /* zipped axes with one value in what is shared share it */
    shares("sweep = ( { key = \"quant.preset\"; values = [ \"fp8\", \"nvfp4\", \"fp8\" ]; zip = \"z\"; }, { key = "
           "\"qad.steps\"; values = [ 1, 2, 3 ]; zip = \"z\"; } );",
           2, "shared-t-0000/1 shared-ptq-0000/2");
}

/* A point's deck, and those of its levels, from a file. */
static void decks(void) {
    static const char *const s[] = {
        "sweep=({key=\"quant.preset\"; values=[\"fp8\", \"nvfp4\"];}, {key=\"qad.optim.lr\"; "
        "values=[1e-5, 3e-5];})",
        "sweep_without=({where=[\"quant.preset=fp8\", \"qad.optim.lr=1e-5\"];})"};
    struct deck *d;
    must(deck_load_point("tests/decks/design.cfg", s, 2, 2, NULL, &d));
    ok(strstr(d->run.dir, "/run/demo/point-0003") != NULL, "point 2 is number 3: %s", d->run.dir);
    ok(d->sweep.n == 0 && d->sweep_without.n == 0 && d->stages.v[3].optim.lr == 3e-5, "its deck is no sweep");
    int stages = d->stages.n;
    deck_free(&d);
    must(deck_load_shared("tests/decks/design.cfg", s, 2, 2, 1, NULL, &d));
    ok(strstr(d->run.dir, "/run/demo/shared-") && strstr(d->run.dir, "-0001"), "what it shares: %s", d->run.dir);
    is_str(d->quant.preset, "nvfp4", "  with the value of the axis that matters there");
    ok(d->stages.n == 3 && stages > 3, "  and only the stages up to the next axis: %d of %d", d->stages.n, stages);
    struct str echo = {0};
    struct deck *again;
    must(deck_echo(d, &echo));
    must(deck_parse(echo.p, "echo", "/", NULL, 0, NULL, &again));
    is_int(again->stages.n, 3, "  which is a deck");
    deck_free(&again);
    deck_free(&d);
    str_free(&echo);
    must(deck_load_shared("tests/decks/design.cfg", s, 2, 2, 2, NULL, &d));
    ok(!d, "there is no further level");
}

static void echoes(void) {
    struct deck *d = parse(
                    "sweep = ( { key = \"qad.optim.lr\"; from = 1e-5; to = 1e-3; count = 3; scale = \"log\"; zip = "
                    "\"z\"; }, { key = \"qad.steps\"; values = [ 1, 2, 3 ]; zip = \"z\"; } );\n"
                    "sweep_without = ( { where = [ \"qad.steps=2\" ]; } );"),
                *again;
    struct str first = {0}, second = {0};
    must(deck_echo(d, &first));
    must(deck_parse(first.p, "echo", "/", NULL, 0, NULL, &again));
    must(deck_echo(again, &second));
    is_str(second.p, first.p, "the echo of a sweep gives the same echo");
    is_int(deck_sweep_count(again), 2, "  with as many points");
    deck_free(&d);
    deck_free(&again);
    str_free(&first);
    str_free(&second);
}

static void bad(const char *sweep, const char *want) {
    char text[4096], line[1024];
    struct deck *d;
    struct str report = {0};
    snprintf(text, sizeof text, DECK "%s\n", sweep);
    snprintf(line, sizeof line, "%s\n", want);
    is_status(deck_parse(text, "x.cfg", "/", NULL, 0, &report, &d), TM_ERR_DECK);
    is_str(report.p, line, sweep);
    str_free(&report);
}

#define AXIS(rest) "sweep = ( { key = \"qad.optim.lr\"; " rest " } );"
#define INTS(rest) "sweep = ( { key = \"qad.steps\"; " rest " } );"

static void errors(void) {
    bad(AXIS(""), "x.cfg:6: sweep[0]: expected values, or from, to and step or count");
    bad(AXIS("values = [ ];"), "x.cfg:6: sweep[0]: expected values, or from, to and step or count");
    bad(AXIS("from = 1; to = 2;"), "x.cfg:6: sweep[0]: expected values, or from, to and step or count");
    bad(AXIS("\nvalues = [ 1.0 ]; from = 1; to = 2; count = 2;"),
        "x.cfg:7: sweep[0].values: a range is given too: which one?");
    bad(AXIS("from = 1; to = 2;\nstep = 1; count = 2;"), "x.cfg:7: sweep[0].step: count is given too: which one?");
    bad(AXIS("from = 1; to = 2; step = 1;\nscale = \"log\";"),
        "x.cfg:7: sweep[0].scale = \"log\": it goes with count, not step");
    bad(AXIS("from = 0; to = 2; count = 3; scale = \"log\";"),
        "x.cfg:6: sweep[0].scale = \"log\": from = 0 and to = 2 must be above 0");
    bad(AXIS("from = 1; to = 2; count = 3; scale = \"lg\";"),
        "x.cfg:6: sweep[0].scale = \"lg\": expected one of \"linear\", \"log\"");
    bad(AXIS("from = 1; to = 2; step = -1;"), "x.cfg:6: sweep[0].step = -1: it does not lead from 1 to 2");
    bad(AXIS("from = 1; to = 2; step = 1e-9;"), "x.cfg:6: sweep[0].step = 1e-09: more than 1000000 numbers");
    bad(AXIS("from = 1; to = 2; count = 1;"), "x.cfg:6: sweep[0].count = 1: from and to are two numbers");
    bad(AXIS("from = 2; to = 2; count = 3;"), "x.cfg:6: sweep[0].count = 3: from and to are one number");
    bad(AXIS("from = 0; to = 2; count = 3;"), "x.cfg:6: sweep[0]: its range has 0.0: qad.optim.lr takes float > 0");
    bad(INTS("from = 1; to = 3; count = 5;"), "x.cfg:6: sweep[0]: 2 comes twice (values 1 and 2)");
    bad(INTS("values = [ 3, 4, 3 ];"), "x.cfg:6: sweep[0]: 3 comes twice (values 0 and 2)");
    bad(INTS("values = ( 3, \"x\" );"), "x.cfg:6: sweep[0].values[1] = \"x\": expected int >= 1");
    bad(INTS("\nvalues = [ 1.5 ];"), "x.cfg:7: sweep[0].values[0] = 1.5: expected int >= 1");
    bad("sweep = ( { key = \"quant.preset\"; values = [ \"fp9\" ]; } );",
        "x.cfg:6: sweep[0].values[0] = \"fp9\": expected one of \"none\", \"fp8\", \"fp8_per_channel_per_token\", "
        "\"fp8_2d_blockwise_weight_only\", \"int8\", \"int8_weight_only\", \"int4_blockwise_weight_only\", \"nvfp4\", "
        "\"nvfp4_mlp_only\", \"nvfp4_omlp_only\", \"nvfp4_experts_only\", \"nvfp4_mlp_weight_only\", \"w4a16_nvfp4\", "
        "\"w4a8_nvfp4_fp8\", \"mxfp4\", \"mxfp4_mlp_weight_only\", \"mxfp8\", \"w4a8_mxfp4_fp8\"");
    bad("sweep = ( { key = \"quant.preset\"; from = 1; to = 2; count = 2; } );",
        "x.cfg:6: sweep[0].from: quant.preset takes no numbers: give values");
    bad("sweep = ( { key = \"quant\"; values = [ 1 ]; } );",
        "x.cfg:6: sweep[0].key = \"quant\": expected a key that has a value of its own");
    bad("sweep = ( { key = \"run.dir\"; values = [ \"a\" ]; } );",
        "x.cfg:6: sweep[0].key = \"run.dir\": every point has a directory of its own in it");
    bad("sweep = ( " STEPS ", { key = \"stages.qad.steps\"; values = [ 3 ]; } );",
        "x.cfg:6: sweep[1].key = \"stages.qad.steps\": axis 0 is the same");
    bad("sweep = ( { key = \"qad.steps\"; values = [ 1, 2 ]; zip = \"z\"; } );",
        "x.cfg:6: sweep[0].zip = \"z\": no other axis has this word");
    bad("sweep = ( { key = \"qad.steps\"; values = [ 1, 2 ]; zip = \"z\"; },\n"
        "{ key = \"qad.optim.lr\"; values = [ 1.0, 2.0, 3.0 ]; zip = \"z\"; } );",
        "x.cfg:7: sweep[1].zip = \"z\": 3 values, but axis 0 has 2");
    bad("sweep = ( " STEPS " );\nsweep_without = ( { where = [ \"qad.step=1\" ]; } );",
        "x.cfg:7: sweep_without[0].where[0] = \"qad.step=1\": expected key=value with the key of an axis");
    bad("sweep = ( " STEPS " );\nsweep_without = ( { } );",
        "x.cfg:7: sweep_without[0]: expected where = [ \"axis key=value\", ... ]");
    bad("sweep = ( " STEPS " );\nsweep_without = ( { where = [ \"qad.steps=3\" ]; } );",
        "x.cfg:7: sweep_without[0].where[0] = \"qad.steps=3\": no value of this axis");
    bad("sweep = ( " STEPS " );\nsweep_without = ( { where = [ \"qad.steps=*\" ]; } );",
        "x.cfg:7: sweep_without: no point is left");
    bad("sweep = ( { key = \"qad.steps\"; from = 1; to = 2000; step = 1; }, "
        "{ key = \"qad.optim.lr\"; from = 1; to = 2; count = 501; } );",
        "x.cfg:6: sweep: more than 1000000 points");
}

int main(void) {
    ranges();
    products();
    sharing();
    decks();
    echoes();
    errors();
    is_int(mem_bytes(), 0, "nothing is left allocated");
    return tap_done();
}
