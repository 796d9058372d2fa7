/* TEST ranks=1 tier=1 */
/* deck/: every rule has a broken deck, and its message is as written here; libconfig 1.5's silent coercions are refused. */
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "deck/deck.h"
#include "tap.h"

/* Lines 1 to 4 of each deck; the broken part begins at line 5. */
#define HEAD                        \
    "version = 1;\n"                \
    "run = { dir = \"run/t\"; };\n" \
    "model = { path = \"m\"; };\n"  \
    "datasets = { d = { sources = ( { path = \"t.txt\"; } ); seq_length = 8; }; };\n"
#define STAGES "stages = ( { do = \"evaluate\"; data = \"d\"; } );\n"
#define TRAIN  "stages = ( { do = \"train\"; data = \"d\"; steps = 5; } );\n"

/* The whole report for a text; "" = the deck is good. A set may be NULL. */
static void check_set(const char *text, const char *set, const char *want, const char *what) {
    struct deck *d;
    struct str report = {0};
    enum status st = deck_parse(text, "x.cfg", "tests/decks", &set, set != NULL, &report, &d);
    bool is_error = strstr(want, ": warning: ") == NULL && *want;
    ok(st == (is_error ? TM_ERR_DECK : TM_OK), "%s: status %s", what, status_name(st));
    is_str(report.len ? report.p : "", want, what);
    if (is_error) {
        const char *end = strchr(want, '\n');
        size_t n = end ? (size_t)(end - want) : strlen(want);
        ok(!d && !strncmp(status_message(), want, n), "%s: the message begins with the first error", what);
    }
    deck_free(&d);
    str_free(&report);
}
static void check(const char *text, const char *want, const char *what) { check_set(text, NULL, want, what); }
/* One broken group before a good stage. */
#define bad(group, want)       check(HEAD group "\n" STAGES, want "\n", group)
#define bad_train(group, want) check(HEAD group "\n" TRAIN, want "\n", group)
/* One broken stage. */
#define bad_stage(stage, want) check(HEAD "stages = ( " stage " );\n", want "\n", stage)

static void syntax(void) {
    check(HEAD STAGES, "", "the good deck");
    check(HEAD TRAIN, "", "the other good deck");
    check("version = 1;\nrun = { dir = \"x\"\n",
          "x.cfg:3: syntax error here or just before; settings end in ';', no comma after the last "
          "member of a list, names have no dots\n",
          "an open brace");
    check(HEAD "a = 1;\na = 2;\n", "x.cfg:6: duplicate setting name\n", "a name twice");
    bad("@include \"none.cfg\"",
        "x.cfg:5: @include \"none.cfg\": cannot open tests/decks/none.cfg: No such file or directory");
    bad("@include \"/etc/passwd\"", "x.cfg:5: \"/etc/passwd\" : an include is relative to the deck's folder");
    bad("@include \"../t101-deck-errors.c\"",
        "x.cfg:5: \"../t101-deck-errors.c\" : an include must lie in the deck's folder");
    bad("@include \"fragments/../../t101-deck-errors.c\"",
        "x.cfg:5: \"fragments/../../t101-deck-errors.c\" : an include must lie in the deck's folder");
    bad("@include \"a\\\"b\"\n@include \"/etc/passwd\"",
        "x.cfg:5: \"a\\\" : only a comment may follow an include on its line");
    bad("@include \"a\\b\"", "x.cfg:5: \"a\\b\" : no backslash may be in the name of an include");
    bad("@include \"fragments", "x.cfg:5: \"fragments : the name of an include ends on its line");
    bad("@include \"fragments/bad.cfg\" optim = { lr = 1.0; };",
        "x.cfg:5: \"fragments/bad.cfg\" : only a comment may follow an include on its line");
    bad("@include \"fragments\"", "x.cfg:5: @include \"fragments\": tests/decks/fragments is not a regular file");
    bad("@include \"\"", "x.cfg:5: \"\" : an include must lie in the deck's folder");
    bad("@include \"fragments/loop.cfg\"",
        "tests/decks/fragments/loop.cfg:2: \"fragments/loop.cfg\" : includes nested deeper than 10");
    check(HEAD "@include \"fragments/syntax.cfg\"\n" STAGES,
          "tests/decks/fragments/syntax.cfg:2: syntax error here or just before; settings end in ';', no comma after "
          "the last member of a list, names have no dots\n",
          "a syntax error in an included file");
    bad("@include \"fragments/bad.cfg\"", "tests/decks/fragments/bad.cfg:3: optim.lr = \"fast\": expected float > 0");
    bad("grid = { pp_layout = [1, 2.5]; };", "x.cfg:5: mismatched element type in array; an array [ ] holds one type "
                                             "(0.0 and 0.5, not 0 and 0.5), a list ( ) any");
}

/* What libconfig 1.5 would take, drop or wrap without a word. */
/* A link in the deck's folder leads nowhere else; a value does not include. */
static void ways_out(void) {
    char dir[] = "/tmp/temper-deck-XXXXXX", link[64];
    struct deck *d;
    struct str report = {0};
    ok(mkdtemp(dir) != NULL, "a folder");
    snprintf(link, sizeof link, "%s/link.cfg", dir);
    ok(symlink("/etc/passwd", link) == 0, "a link out of it");
    is_status(deck_parse(HEAD "@include \"link.cfg\"\n" STAGES, "x.cfg", dir, NULL, 0, &report, &d), TM_ERR_DECK);
    is_str(report.p, "x.cfg:5: \"link.cfg\" : an include must lie in the deck's folder\n", "a link that leads out");
    str_clear(&report);
    must(file_write(link, "a = \"", 5)); /* libconfig would go on with this string behind the include */
    is_status(deck_parse(HEAD "@include \"link.cfg\"\n" STAGES, "x.cfg", dir, NULL, 0, &report, &d), TM_ERR_DECK);
    ok(strstr(report.p, "link.cfg:1: \" ...: the included file ends inside this string\n") != NULL,
       "an open string: %s", report.p);
    str_clear(&report);
    must(file_write(link, "/* a", 4));
    is_status(deck_parse(HEAD "@include \"link.cfg\"\n" STAGES, "x.cfg", dir, NULL, 0, &report, &d), TM_ERR_DECK);
    ok(strstr(report.p, "link.cfg:1: /* a ...: the included file ends inside this comment\n") != NULL,
       "an open comment: %s", report.p);
    str_clear(&report);
    struct str many = {0};
    must(file_write(link, "", 0));
    must(str_printf(&many, "%s", HEAD));
    for (int i = 0; i < 257; i++) must(str_printf(&many, "@include \"link.cfg\"\n"));
    is_status(deck_parse(many.p, "x.cfg", dir, NULL, 0, &report, &d), TM_ERR_DECK);
    is_str(report.p, "x.cfg:261: \"link.cfg\" : more than 256 includes\n", "includes without end");
    str_free(&many);
    str_free(&report);
    is_status(file_remove_tree(dir), TM_OK);
    check_set(HEAD "stages = ( { do = \"generate\"; prompt = \"a\"; } );\n",
              "generate.prompt=\n@include \"/etc/passwd\"", "", "a value that would include is a text");
}

static void coercions(void) {
    check(HEAD "optim = { lr = 1; };\n" STAGES, "", "an int serves as a float");
    check(HEAD "run_seed = 1;\n" STAGES,
          "x.cfg:5: run_seed: unknown key; known: version, run, grid, device, numerics, model, teacher, datasets, "
          "quant, batch, optim, schedule, losses, checkpoint, limits, stages, sweep, sweep_without\n",
          "unknown top-level key");
    bad("grid = { tp = 2.0; };", "x.cfg:5: grid.tp = 2.0: expected int in [1, 65536]");
    bad("batch = { micro = 1.0e-4; };", "x.cfg:5: batch.micro = 0.0001: expected int in [1, 1048576]");
    bad("batch = { micro = \"4\"; };", "x.cfg:5: batch.micro = \"4\": expected int in [1, 1048576]");
    bad("optim = { lr = \"1e-4\"; };", "x.cfg:5: optim.lr = \"1e-4\": expected float > 0");
    bad("optim = { lr = true; };", "x.cfg:5: optim.lr = true: expected float > 0");
    bad("optim = { lr = 1e999; };", "x.cfg:5: optim.lr = inf: expected float > 0");
    bad("grid = { sp = 1; };", "x.cfg:5: grid.sp = 1: expected true or false");
    bad("grid = { sp = \"true\"; };", "x.cfg:5: grid.sp = \"true\": expected true or false");
    bad("device = { backend = 0; };",
        "x.cfg:5: device.backend = 0: expected one of \"auto\", \"host\", \"cuda\", \"guard\"");
    bad("teacher = { path = 3; };", "x.cfg:5: teacher.path = 3: expected a path");
    bad("batch = { micro = 3000000000; };", "x.cfg:5: 3000000000 does not fit 32 bits: write an L behind it");
    bad("batch = { micro = 4294967297; };", "x.cfg:5: 4294967297 does not fit 32 bits: write an L behind it");
    bad("batch = { micro = -2147483649; };", "x.cfg:5: -2147483649 does not fit 32 bits: write an L behind it");
    bad("batch = { micro = 0x100000001; };", "x.cfg:5: 0x100000001 does not fit 32 bits: write an L behind it");
    bad("batch = { micro = 3000000000L; };", "x.cfg:5: batch.micro = 3000000000L: expected int in [1, 1048576]");
    bad("batch = { micro = 99999999999999999999L; };", "x.cfg:5: 99999999999999999999 does not fit 64 bits");
    check("version = 1; # 3000000000\nrun = { dir = \"3000000000 \\\" // 3000000000\"; seed = 3000000000L; };\n"
          "/* 3000000000\n */ model = { path = \"m\"; }; // 3000000000 \"\ndatasets = { d3000000000 = { sources = ( { "
          "path = \"t\"; "
          "weight = 3000000000.5; }, { path = \"u\"; weight = 3e+9; }, { path = \"v\"; weight = 1.0E-9; } ); }; "
          "};\n" STAGES,
          "x.cfg:6: evaluate.data = \"d\": expected one of the data sets: d3000000000\n",
          "large numbers elsewhere are no ints");
    check("version = 1;\nrun = { dir = \"a\\x00b\"; };\n",
          "x.cfg: stages: expected a list of at least one stage ( { do = \"...\"; } )\n"
          "x.cfg:2: \\x00 in a string: NUL cannot be part of one\n",
          "a NUL in a string");
}

static void values(void) {
    bad("optim = { lr = 0.0; };", "x.cfg:5: optim.lr = 0.0: expected float > 0");
    bad("optim = { beta1 = 1.0; };", "x.cfg:5: optim.beta1 = 1.0: expected float in [0, 1)");
    bad("optim = { clip_norm = -1; };", "x.cfg:5: optim.clip_norm = -1: expected float >= 0");
    bad("schedule = { min_lr_ratio = 1.5; };", "x.cfg:5: schedule.min_lr_ratio = 1.5: expected float in [0, 1]");
    bad("run_ = { };", "x.cfg:5: run_: unknown key; did you mean \"run\"?");
    bad("optim = { lrr = 1.0; };", "x.cfg:5: optim.lrr: unknown key; did you mean \"lr\"?");
    bad("optim = { warmup = 3; };", "x.cfg:5: optim.warmup: unknown key; did you mean schedule.warmup?");
    bad("batch = { frobnicate = 3; };", "x.cfg:5: batch.frobnicate: unknown key; known: micro, global");
    bad("schedule = { name = \"cosin\"; };",
        "x.cfg:5: schedule.name = \"cosin\": expected one of \"constant\", \"linear\", \"cosine\"");
    bad("numerics = { grid_invariant = 1; };",
        "x.cfg:5: numerics.grid_invariant = 1: expected one of \"auto\", true, false");
    bad("optim = ( );", "x.cfg:5: optim = ( ): expected a group { ... }");
    bad("losses = { kind = \"ce\"; };", "x.cfg:5: losses = { ... }: expected a list ( { ... }, ... )");
    bad("losses = ( 1 );", "x.cfg:5: losses[0]: expected a group { ... }");
    bad("losses = ( { weight = 1.0; } );", "x.cfg:5: losses[0].kind is missing: expected one of \"ce\", \"kl\"");
    bad("quant = { rules = ( { sitte = \"input\"; } ); };",
        "x.cfg:5: quant.rules[0].sitte: unknown key; did you mean \"site\"?");
    bad("quant = { algorithm = { name = \"magic\"; }; };",
        "x.cfg:5: quant.algorithm.name = \"magic\": expected one of \"max\"");
    bad("grid = { pp_layout = [1, -1]; };",
        "x.cfg:5: grid.pp_layout[1] = -1: expected an array of int in [0, 1048576]");
    bad("grid = { pp_layout = 3; };", "x.cfg:5: grid.pp_layout = 3: expected an array of int in [0, 1048576]");
    bad("teacher = { grid = { tp = -2; }; };", "x.cfg:5: teacher.grid.tp = -2: expected int in [0, 65536]");
    check("run = { dir = \"\"; };\nmodel = { path = \"m\"; };\n" STAGES,
          "x.cfg: version is missing: expected int 1\nx.cfg:1: run.dir = \"\": expected a path\n"
          "x.cfg:3: evaluate.data = \"d\": expected a data set (there is none)\n",
          "required keys");
    check("version = 2;\n" STAGES,
          "x.cfg: run.dir is missing: expected a path\nx.cfg:1: version = 2: expected int 1\n"
          "x.cfg:2: evaluate.model: a stage that does \"evaluate\" needs model.path or model.random_init\n"
          "x.cfg:2: evaluate.data = \"d\": expected a data set (there is none)\n",
          "an empty deck of another version");
    check(HEAD "optim = { lr = 0; beta1 = 2; };\ngrid = { tp = 0; };\nstages = ( { do = \"fly\"; } );\n",
          "x.cfg:5: optim.lr = 0: expected float > 0\nx.cfg:5: optim.beta1 = 2: expected float in [0, 1)\n"
          "x.cfg:6: grid.tp = 0: expected int in [1, 65536]\n"
          "x.cfg:7: fly.do = \"fly\": expected one of \"convert\", \"train\", \"calibrate\", \"distill\", "
          "\"evaluate\", "
          "\"generate\", \"export\"\n",
          "all errors at once, by line");
}

static void datasets(void) {
    bad("stages_ = ( );", "x.cfg:5: stages_: unknown key; did you mean \"stages\"?");
    check_set(HEAD STAGES, "datasets.x=3", "--set datasets.x=3: datasets.x: expected a group { ... }\n",
              "a data set that is no group");
    check_set(HEAD STAGES, "datasets.x={}",
              "--set datasets.x={}: datasets.x: sources is missing: expected a list ( { path = \"...\"; }, ... )\n",
              "no sources");
    check_set(HEAD STAGES, "datasets.x={sources=();}",
              "--set datasets.x={sources=();}: datasets.x.sources: expected at least one source\n", "empty sources");
    check_set(HEAD STAGES, "datasets.x={sources=({weight=1.0;});}",
              "--set datasets.x={sources=({weight=1.0;});}: datasets.x.sources[0].path is missing: expected a path or "
              "\"mock\"\n",
              "a source without a path");
    check_set(
        HEAD STAGES, "datasets.x={sources=({path=\"a\"; weight=0;},{path=\"a\";});}",
        "--set datasets.x={sources=({path=\"a\"; weight=0;},{path=\"a\";});}: datasets.x.sources: weight is 0 in some: "
        "expected all or none\n",
        "a weight in some");
    check_set(HEAD STAGES, "datasets.x={sources=({path=\"a\";}); split=[0.0,0.5]; parts=\"99,1,0\";}",
              "--set datasets.x={sources=({path=\"a\";}); split=[0.0,0.5]; parts=\"99,1,0\";}: datasets.x.split: parts "
              "is set "
              "too: which one?\n",
              "two splits");
    check_set(
        HEAD STAGES, "datasets.x={sources=({path=\"a\";}); pack=\"pad\"; shuffle=\"megatron\";}",
        "--set datasets.x={sources=({path=\"a\";}); pack=\"pad\"; shuffle=\"megatron\";}: datasets.x.pack: shuffle = "
        "\"megatron\" needs \"concat\"\n",
        "Megatron's order of padded rows");
    check_set(HEAD STAGES, "datasets.x={sources=({path=\"a\"; weight=-1;});}",
              "--set datasets.x={sources=({path=\"a\"; weight=-1;});}: datasets.x.sources[0].weight = -1: expected "
              "float >= 0\n",
              "negative weight");
    check_set(HEAD STAGES, "datasets.d.split=[0.5, 0.5]",
              "--set datasets.d.split=[0.5, 0.5]: datasets.d.split: expected [from, to] with from < to\n",
              "empty split");
    check_set(
        HEAD STAGES, "datasets.d.sources[0].split=[0.5]",
        "--set datasets.d.sources[0].split=[0.5]: datasets.d.sources[0].split: expected [from, to] with from < to\n",
        "half a split");
    check_set(HEAD STAGES, "datasets.d.split=[0.5, 1.5]",
              "--set datasets.d.split=[0.5, 1.5]: datasets.d.split[1] = 1.5: expected an array of float in [0, 1]\n",
              "a share above 1");
    check_set(HEAD STAGES, "datasets.x={sources=({path=\"mock\";});}",
              "--set datasets.x={sources=({path=\"mock\";});}: datasets.x: a mock source needs seq_length\n",
              "mock rows of no length");
    check_set(HEAD STAGES, "datasets.d.seq_length=-8",
              "--set datasets.d.seq_length=-8: datasets.d.seq_length = -8: expected int in [0, 16777216]\n",
              "a negative size");
}

static void stages(void) {
    check(HEAD "stages = ( );\n", "x.cfg:5: stages: expected a list of at least one stage ( { do = \"...\"; } )\n",
          "no stages");
    check(HEAD "stages = { };\n", "x.cfg:5: stages: expected a list of at least one stage ( { do = \"...\"; } )\n",
          "stages is no list");
    bad_stage("1", "x.cfg:5: stages[0]: expected a group { ... }");
    bad_stage("{ name = \"x\"; }",
              "x.cfg:5: x.do is missing: expected one of \"convert\", \"train\", \"calibrate\", \"distill\", "
              "\"evaluate\", \"generate\", \"export\"");
    bad_stage("{ do = \"evaluate\"; }", "x.cfg:5: evaluate.data is missing: a stage that does \"evaluate\" needs text");
    bad_stage("{ do = \"train\"; data = \"d\"; }",
              "x.cfg:5: train.steps is missing: a stage that does \"train\" needs int >= 1");
    bad_stage("{ do = \"train\"; data = \"d\"; steps = 0; }", "x.cfg:5: train.steps = 0: expected int >= 1");
    bad_stage("{ do = \"evaluate\"; data = \"d\"; steps = 3; }",
              "x.cfg:5: evaluate.steps: a stage that does \"evaluate\" has no such key (it is for: train! distill!)");
    bad_stage("{ do = \"evaluate\"; data = \"dd\"; }",
              "x.cfg:5: evaluate.data = \"dd\": expected one of the data sets: d");
    bad_stage("{ do = \"evaluate\"; data = \"d\"; dat = 1; }",
              "x.cfg:5: evaluate.dat: unknown key; did you mean \"data\"?");
    bad_stage("{ do = \"evaluate\"; data = \"d\"; frobnicate = 1; }",
              "x.cfg:5: evaluate.frobnicate: unknown key; see --help-deck stages");
    bad_stage("{ do = \"evaluate\"; data = \"d\"; },\n{ do = \"evaluate\"; data = \"d\"; }",
              "x.cfg:6: two stages are called \"evaluate\" (the other is at line 5): give each a name of its own");
    bad_stage("{ do = \"evaluate\"; data = \"d\"; name = \"a.b\"; }",
              "x.cfg:5: stage name \"a.b\": expected 1 to 64 letters, digits, - and _");
    bad_stage("{ do = \"evaluate\"; data = \"d\"; name = \"model\"; }",
              "x.cfg:5: model.name: \"model\" means model.path in `from`");
    bad_stage("{ do = \"evaluate\"; data = \"d\"; from = \"later\"; },\n{ do = \"export\"; name = \"later\"; }",
              "x.cfg:5: evaluate.from = \"later\": expected an earlier stage or \"model\"");
    bad_stage("{ do = \"convert\"; input = \"i\"; output = \"o\"; },\n{ do = \"export\"; from = \"convert\"; }",
              "x.cfg:6: export.from = \"convert\": expected a stage that has a model");
    bad_stage("{ do = \"evaluate\"; data = \"d\"; run = { dir = \"y\"; }; }",
              "x.cfg:5: evaluate.run.dir: one run has one directory: set it at the top level");
    bad_stage("{ do = \"evaluate\"; data = \"d\"; limits = { wall_s = 5; }; }",
              "x.cfg:5: evaluate.limits.wall_s: it is for the whole run: set it at the top level");
    bad_stage("{ do = \"evaluate\"; data = \"d\"; compare = true; }",
              "x.cfg:5: evaluate.compare: true needs teacher.path");
    bad_stage("{ do = \"evaluate\"; data = \"d\"; layer_error = true; }",
              "x.cfg:5: evaluate.layer_error: it needs a teacher to compare with: teacher.path");
    bad_stage(
        "{ do = \"calibrate\"; data = \"d\"; }",
        "x.cfg:5: calibrate.quant: nothing to calibrate: set quant.preset, quant.kv_cache or a rule with a format");
    bad_stage("{ do = \"generate\"; }", "x.cfg:5: generate.prompt: generate needs prompt or prompts");
    bad_stage("{ do = \"convert\"; input = \"i\"; }",
              "x.cfg:5: convert.output is missing: a stage that does \"convert\" needs a path");
    bad_stage("{ do = \"convert\"; input = [1]; output = \"o\"; }",
              "x.cfg:5: convert.input[0] = 1: expected a path or an array of paths");
    bad_stage("{ do = \"train\"; data = \"d\"; steps = 1; eval_every = 2; }",
              "x.cfg:5: train.eval_every: it needs eval_data, the name of a data set");
    bad_stage("{ do = \"export\"; shard_size = 0; }", "x.cfg:5: export.shard_size = 0: expected int >= 1");
    bad_stage("{ do = \"export\"; optim = { lr = 1.0; }; }",
              "x.cfg:5: warning: export.optim: a stage that does \"export\" does not use it");
}

static void rules(void) {
    check("version = 1;\nrun = { dir = \"r\"; };\nmodel = { path = \"m\"; random_init = \"c.json\"; };\nstages = ( { "
          "do = \"export\"; } );\n",
          "x.cfg:3: model.random_init: model.path is set too: which one?\n", "two models");
    bad("grid = { vpp = 2; };", "x.cfg:5: grid.vpp: 2 chunks a rank need pp > 1");
    bad("grid = { pp = 2; pp_layout = [4]; };", "x.cfg:5: grid.pp_layout: 1 entries, expected pp * vpp = 2");
    bad("numerics = { tp_segments = 6; };", "x.cfg:5: numerics.tp_segments: 6 is no power of two");
    bad("numerics = { dp_segments = 3; };", "x.cfg:5: numerics.dp_segments: 3 is no power of two");
    bad("grid = { tp = 3; };\nnumerics = { grid_invariant = true; };",
        "x.cfg:6: numerics.grid_invariant: true needs a tp that is a power of two, not 3");
    bad("grid = { tp = 16; };\nnumerics = { grid_invariant = true; };",
        "x.cfg:6: numerics.grid_invariant: true needs tp <= numerics.tp_segments (8), not 16");
    bad_train("batch = { micro = 4; global = 6; };", "x.cfg:5: batch.global: 6 is no multiple of batch.micro (4)");
    bad_train("schedule = { warmup = 9; steps = 8; };",
              "x.cfg:5: schedule.warmup: 9 steps are more than schedule.steps (8)");
    bad_train("losses = ( { kind = \"kl\"; } );",
              "x.cfg:5: losses: \"kl\" needs a teacher: do = \"distill\", or give the stage losses of its own");
    bad_train("losses = ( { kind = \"ce\"; weight = 0; } );", "x.cfg:5: losses: the weights add up to 0");
    check(HEAD "stages = ( { do = \"distill\"; data = \"d\"; steps = 5; losses = ( { kind = \"ce\"; } ); } );\n",
          "x.cfg:5: distill.losses: distill needs a loss of kind \"kl\"\n", "distill without a teacher's loss");
    check("version = 1;\nrun = { dir = \"r\"; };\nmodel = { random_init = \"c.json\"; };\ndatasets = { d = { sources = "
          "( { path = \"t\"; } ); }; };\n"
          "stages = ( { do = \"distill\"; data = \"d\"; steps = 5; } );\n",
          "x.cfg:5: distill.teacher: distill from random weights needs teacher.path\n", "random teacher");
    bad("sweep = ( { key = \"optim.lrr\"; values = [1.0]; } );",
        "x.cfg:5: sweep[0].key = \"optim.lrr\": expected stage.key or group.key of this deck");
    bad("sweep = ( { key = \"evaluate.optim.lr\"; values = [ ]; } );",
        "x.cfg:5: sweep[0]: expected values, or from, to and step or count");
    bad("sweep = ( { key = \"evaluate.optim.lr\"; } );",
        "x.cfg:5: sweep[0]: expected values, or from, to and step or count");
}

static void set_errors(void) {
    static const char *const s[][2] = {
        {"optim.lr", "expected key=value"},
        {"optim..lr=1", "expected key=value"},
        {"optm.lr=1", "neither a group nor the name of a stage"},
        {"stages.none.data=d", "no stage has this name"},
        {"losses[0].weight=2", "no such list in the deck"},
        {"run.dir.x=1", "a part before the last is no group"},
        {"datasets.d.sources[3].path=a", "the list is shorter than this index"},
        {"optim.lr=fast", "optim.lr = \"fast\": expected float > 0"},
        {"evaluate.batch.micro=-1", "evaluate.batch.micro = -1: expected int in [1, 1048576]"},
        {"evaluate.lrr=1", "evaluate.lrr: unknown key; see --help-deck stages"},
        {"run.seed=3000000000", "3000000000 does not fit 32 bits: write an L behind it"},
        {"grid.pp_layout=[1,", "syntax error here or just before; settings end in ';', no comma after the last member "
                               "of a list, names have no dots"},
    };
    for (size_t i = 0; i < sizeof s / sizeof *s; i++) {
        char want[512];
        snprintf(want, sizeof want, "--set %s: %s\n", s[i][0], s[i][1]);
        check_set(HEAD STAGES, s[i][0], want, s[i][0]);
    }
    struct deck *d;
    struct str report = {0};
    static const char *const two[] = {"grid.tp=0", "optim.lr=0.0"};
    is_status(deck_parse(HEAD "batch = { micro = 0; };\n" STAGES, "x.cfg", "", two, 2, &report, &d), TM_ERR_DECK);
    is_str(report.p,
           "x.cfg:5: batch.micro = 0: expected int in [1, 1048576]\n--set grid.tp=0: grid.tp = 0: expected int in [1, "
           "65536]\n"
           "--set optim.lr=0.0: optim.lr = 0.0: expected float > 0\n",
           "the file's errors come first");
    is_str(status_message(), "x.cfg:5: batch.micro = 0: expected int in [1, 1048576] (and 2 more)",
           "the message counts the others");
    str_free(&report);
}

static void files(void) {
    struct deck *d;
    struct str report = {0};
    is_status(deck_load("tests/decks/absent.cfg", NULL, 0, &report, &d), TM_ERR_DECK);
    is_str(report.p, "cannot open tests/decks/absent.cfg: No such file or directory\n", "a missing deck");
    str_clear(&report);
    is_status(deck_load("tests/decks", NULL, 0, &report, &d), TM_ERR_DECK);
    str_clear(&report);
    is_status(deck_load("tests/decks/broken.cfg", NULL, 0, &report, &d), TM_ERR_DECK);
    is_str(report.p,
           "tests/decks/broken.cfg:3: grid.tpp: unknown key; did you mean \"tp\"?\n"
           "tests/decks/broken.cfg:7: optim.lr = \"fast\": expected float > 0\n"
           "tests/decks/broken.cfg:10: qad.data = \"trian\": expected one of the data sets: train\n"
           "tests/decks/fragments/bad-model.cfg:3: model.pth: unknown key; did you mean \"path\"?\n",
           "a deck with errors in several places");
    str_free(&report);
}

int main(void) {
    syntax();
    ways_out();
    coercions();
    values();
    datasets();
    stages();
    rules();
    set_errors();
    files();
    is_int(mem_bytes(), 0, "nothing is left allocated");
    return tap_done();
}
