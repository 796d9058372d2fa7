/* TEST ranks=1 tier=1 */
/* stage/: the run's history read back from a ledger, and the page's sections about the run: starts, memory, profile, the command. */
#include "base/file.h"
#include "base/mem.h"
#include "ckpt/ckpt.h"
#include "stage/history.h"
#include "stage/report_run.h"
#include "tap.h"

#include <unistd.h>

static char dir[] = "/tmp/temper-test-XXXXXX", path[128];

/* A start of an earlier version (no host, no times), one that was killed, one that stopped, one that failed, one that runs. */
static const char ledger[] =
    "{\"start\": \"v1\", \"ranks\": 2, \"grid\": {\"tp\": 2, \"pp\": 1, \"dp\": 1}}\n"
    "{\"finished\": \"ptq\", \"results\": {}}\n"
    "{\"when\": \"2026-11-21T10:00:00Z\", \"start\": \"v2\", \"ranks\": 4, \"grid\": {\"tp\": 2, \"pp\": 2, \"dp\": 1},"
    " \"host\": \"n<1>\", \"job\": \"77\", \"pid\": 1}\n"
    "{\"event\": \"checkpoint\", \"when\": \"2026-11-21T10:01:00Z\", \"path\": \"/x/ckpt/03-q-a-d/step_00000020\", "
    "\"step\": 20}\n"
    "{\"event\": \"checkpoint\", \"when\": \"2026-11-21T10:02:00Z\", \"path\": \"/x/ckpt/03-q-a-d/step_00000040\", "
    "\"step\": 40}\n"
    "{\"when\": \"2026-11-21T11:00:00Z\", \"start\": \"v2\", \"ranks\": 4, \"host\": \"n2\"}\n"
    "{\"event\": \"checkpoint\", \"when\": \"2026-11-21T11:00:30Z\", \"path\": \"03-q-a-d/step_00000050\", \"step\": "
    "50}\n"
    "{\"when\": \"2026-11-21T11:00:31Z\", \"end\": \"STOPPED\", \"why\": \"stopped by the STOP file\", \"seconds\": "
    "31.25}\n"
    "{\"when\": \"2026-11-21T12:00:00Z\", \"start\": \"v2\", \"ranks\": 4}\n"
    "{\"when\": \"2026-11-21T13:30:00Z\", \"end\": \"ERR_NUMERIC\", \"why\": \"<NaN>\", \"seconds\": 5400}\n"
    "{\"when\": \"2026-11-21T14:00:00Z\", \"start\": \"v2\", \"ranks\": 8}\n";

static void has(const char *text, const char *piece) { ok(strstr(text, piece) != NULL, "there is %s", piece); }
static void lacks(const char *text, const char *piece) { ok(strstr(text, piece) == NULL, "there is no %s", piece); }

static void history(void) {
    struct starts s;
    struct report_out o = {0};
    snprintf(path, sizeof path, "%s/ledger.jsonl", dir);
    must(file_write(path, ledger, sizeof ledger - 1));
    must(stage_history_read(dir, &s));
    is_int(s.n, 5, "five starts");
    is_str(s.v[0].to, "all of ptq", "the first finished a stage");
    is_str(s.v[0].host, "", "and said no host");
    is_str(s.v[1].from, "all of ptq", "the second went on from there");
    is_str(s.v[1].to, "q-a-d step 40", "to its last checkpoint");
    is_int(s.v[1].checkpoints, 2, "of two");
    is_str(s.v[1].end, "", "it wrote no end");
    is_str(s.v[1].until, "2026-11-21 10:02:00", "its last sign");
    is_str(s.v[1].grid, "tp 2 \u00d7 pp 2 \u00d7 dp 1", "its grid");
    is_str(s.v[2].from, "q-a-d step 40", "the third");
    is_str(s.v[2].end, "STOPPED", "stopped");
    is_near(s.v[2].seconds, 31.25, 0, "after so long");
    is_str(s.v[3].to, "q-a-d step 50", "the fourth came no further");
    report_starts(&s, &o);
    must(o.st);
    has(o.text.p, "<td>n&lt;1&gt;<small>job 77</small></td>");
    has(o.text.p, "killed or lost: it wrote no end; last heard of at 2026-11-21 10:02:00");
    has(o.text.p, "stopped by the STOP file");
    has(o.text.p, "<td class=\"n\">31.2 s</td>");
    has(o.text.p, "<td class=\"n\">1 h 30 min</td>");
    has(o.text.p, "&lt;NaN&gt;");
    has(o.text.p, "running</td></tr>");
    lacks(o.text.p, "<NaN>");
    str_free(&o.text);
    mem_free(&s.v);
}

/* Written, a line gets its time; a torn one is left out. */
static void written(void) {
    struct starts s;
    char *text;
    size_t n;
    json_t *line = json_pack("{s:s, s:i}", "start", "v3", "ranks", 1);
    snprintf(path, sizeof path, "%s/ledger.jsonl", dir);
    must(file_write(path, "{\"start\": \"v", 12));
    must(ckpt_ledger_append(dir, line));
    must(file_read(path, 1 << 16, &text, &n));
    ok(strstr(text, "\n{\"when\":\"20") != NULL, "a line begins with its time");
    must(stage_history_read(dir, &s));
    is_int(s.n, 1, "one start");
    ok(strlen(s.v[0].when) == 19 && s.v[0].when[10] == ' ', "which began at %s", s.v[0].when);
    mem_free(&s.v);
    mem_free(&text);
    json_decref(line);
}

static struct stage_run run;

static void set_up(void) {
    static const char deck[] =
        "version = 1; run = { dir = \"/tmp/none\"; };\nmodel = { path = \"/m\"; };\n"
        "datasets = { d = { sources = ( { path = \"mock\"; } ); seq_length = 8; }; };\n"
        "stages = ( { do = \"evaluate\"; name = \"a\"; data = \"d\"; }, "
        "{ do = \"train\"; name = \"b\"; data = \"d\"; steps = 1; },"
        "{ do = \"calibrate\"; name = \"c\"; data = \"d\"; quant = { preset = \"fp8\"; }; } );\n";
    static const char usage[] =
        "{\"memory\": {\"a\": [{\"class\": \"all\", \"used\": 3000, \"planned\": 3000}, {\"class\": \"weights\", "
        "\"used\": "
        "2000, \"planned\": 2000}], \"b\": [{\"class\": \"all\", \"used\": 9000, \"planned\": 8000}, {\"class\": "
        "\"gradients\", \"used\": 5000}]},\n"
        "\"profile\": [{\"stage\": \"b\", \"phase\": \"forward\", \"op\": \"\", \"calls\": 4, \"min_s\": 1, "
        "\"mean_s\": 1.5, "
        "\"max_s\": 2, \"imbalance\": 1.3333},\n"
        "{\"stage\": \"b\", \"phase\": \"forward\", \"op\": \"gemm\", \"calls\": 40, \"min_s\": 0.5, \"mean_s\": 0.75, "
        "\"max_s\": 1, \"gflops\": 12.34},\n"
        "{\"stage\": \"b\", \"phase\": \"<x>\", \"op\": \"\", \"calls\": 1, \"min_s\": 0.5, \"mean_s\": 0.5, "
        "\"max_s\": "
        "0.5}]}";
    static const char *const sets[] = {"a=it's"};
    run.o = (struct stage_options){.deck_path = "x.cfg", .sets = sets, .n_sets = 1, .sweep_point = 3, .profile = true};
    must(deck_parse(deck, "deck", "/", NULL, 0, NULL, &run.deck));
    must(json_read_buffer(usage, strlen(usage), "usage", &run.usage));
    must(par_grid_imagine(8, 0, 2, 1, 2, &run.grid));
}

static void quantizers(void) {
    static const char results[] = "{\"stages\": {\"c\": {\"layers\": [{\"module\": \"x\", \"site\": \"weight\", "
                                  "\"format\": \"fp8\", \"amax\": 0.5},"
                                  "{\"module\": \"x\", \"site\": \"input\", \"format\": \"fp8\", \"amax\": 7},"
                                  "{\"module\": \"y\", \"site\": \"weight\", \"format\": \"fp8\", \"amax\": 0.25},"
                                  "{\"module\": \"z\", \"site\": \"weight\", \"format\": \"<4>\", \"amax\": 2}]}}}";
    struct report_out o = {0};
    must(json_read_buffer(results, strlen(results), "results", &run.results));
    report_quant(&run, &o);
    must(o.st);
    has(o.text.p, "<td>weight</td><td>fp8</td><td class=\"n\">2</td><td class=\"n\">0.25</td><td class=\"n\">0.5</td>");
    has(o.text.p, "<td>input</td><td>fp8</td><td class=\"n\">1</td><td class=\"n\">7</td><td class=\"n\">7</td>");
    has(o.text.p, "<td>&lt;4&gt;</td><td class=\"n\">1</td>");
    int rows = 0;
    for (const char *p = o.text.p; (p = strstr(p, "<td>c</td>")) != NULL; p++) rows++;
    is_int(rows, 3, "one row for each site and format");
    str_free(&o.text);
    json_decref(run.results);
    run.results = NULL;
}

static void sections(void) {
    struct report_out o = {0};
    report_memory(&run, &o);
    must(o.st);
    has(o.text.p, "<th class=\"n\">a</th><th class=\"n\">b</th>");
    has(o.text.p, "<td>all</td><td class=\"n\">3.00 kB</td><td class=\"n\">9.00 kB<small>planned 8.00 kB</small></td>");
    has(o.text.p, "<td>weights</td><td class=\"n\">2.00 kB</td><td class=\"n\"></td>");
    has(o.text.p, "<td>gradients</td><td class=\"n\"></td><td class=\"n\">5.00 kB</td>");
    str_clear(&o.text);
    report_profile(&run, &o);
    must(o.st);
    /* 1.5 s of 2 s in all phases: 75 %; its operation 0.75 s: 37.5 % */
    has(o.text.p, "<td>forward</td><td class=\"n\">4</td><td class=\"n\">1.000</td><td class=\"n\">1.500</td><td "
                  "class=\"n\">2.000</td><td class=\"n\">1.33</td>");
    has(o.text.p, "width:75.0%");
    has(o.text.p, "<td>gemm</td><td class=\"n\">40</td>");
    has(o.text.p, "width:37.5%");
    has(o.text.p, "&lt;x&gt;");
    str_clear(&o.text);
    report_again(&run, &o);
    must(o.st);
    has(o.text.p, "mpirun -np 8 temper x.cfg --set &#39;a=it&#39;\\&#39;&#39;s&#39; --sweep-point 3 --profile");
    str_clear(&o.text);
    json_decref(run.usage);
    run.usage = NULL;
    report_memory(&run, &o);
    report_profile(&run, &o);
    is_int(o.text.len, 0, "nothing is said where nothing is known");
    str_free(&o.text);
}

int main(void) {
    must(mkdtemp(dir) ? TM_OK : TM_ERR_IO);
    history();
    written();
    set_up();
    quantizers();
    sections();
    deck_free(&run.deck);
    par_grid_destroy(&run.grid);
    file_remove_tree(dir);
    return tap_done();
}
