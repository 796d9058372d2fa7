/* TEST ranks=1 tier=1 */
/* stage/: the table of a sweep against ledgers written by hand: numbers, states, exit codes, the best point and the front, hostile texts. */
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "stage/sweep.h"
#include "tap.h"

static char dir[] = "/tmp/temper-test-XXXXXX", path[256];

static const char deck_text[] =
    "version = 1; run = { dir = \"%s\"; title = \"it's <i>\"; }; model = { path = \"m\"; }; teacher = { path = \"m\"; "
    "};\n"
    "datasets = { d = { sources = ( { path = \"mock\"; } ); seq_length = 8; }; };\n"
    "stages = ( { do = \"evaluate\"; name = \"before\"; data = \"d\"; },\n"
    "  { do = \"distill\"; name = \"qad\"; data = \"d\"; steps = 5; },\n"
    "  { do = \"evaluate\"; name = \"after\"; data = \"d\"; } );\n"
    "sweep = ( { key = \"qad.from\"; values = [ \"model\", \"before\" ]; },\n"
    "          { key = \"qad.gradients_out\"; values = [ \"a,b\", \"c\\\"<i>\", \"d\" ]; } );\n";

static void ledger(int point, const char *lines) {
    char sub[200];
    snprintf(sub, sizeof sub, "%s/point-%04d", dir, point);
    must(file_make_dirs(sub));
    snprintf(path, sizeof path, "%s/ledger.jsonl", sub);
    must(file_write(path, lines, strlen(lines)));
}

/* All stages of a point: NLL and KL after, bits. */
static void done(int point, const char *more, double nll, double kl, double bits) {
    char text[1024];
    snprintf(
        text, sizeof text,
        "{\"start\":\"v\"}\n"
        "{\"finished\":\"before\",\"results\":{\"nll\":2.5,\"kl\":0.0,\"bits_per_weight\":16.0,\"seconds\":9.0}%s}\n"
        "{\"finished\":\"qad\",\"results\":{\"steps\":5.0,\"seconds\":1.5}}\n"
        "{\"finished\":\"after\",\"results\":{\"nll\":%.9g,\"kl\":%.9g,\"bits_per_weight\":%.9g,\"seconds\":0.25}}\n"
        "{\"end\":\"OK\"}\n",
        more, nll, kl, bits);
    ledger(point, text);
}

static char *read_text(const char *name) {
    char *text;
    size_t n;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    must(file_read(path, 1 << 20, &text, &n));
    return text;
}

static void has(const char *text, const char *piece) { ok(strstr(text, piece) != NULL, "there is %s", piece); }
static void lacks(const char *text, const char *piece) { ok(strstr(text, piece) == NULL, "there is no %s", piece); }

static void collect(const char *want_said) {
    struct deck *d;
    struct str said = {0};
    snprintf(path, sizeof path, "%s/deck.cfg", dir);
    char *deck_path = path;
    char copy[256];
    snprintf(copy, sizeof copy, "%s", deck_path);
    struct stage_options o = {.deck_path = copy, .sweep_point = -1, .resume = "auto"};
    must(deck_load(copy, NULL, 0, NULL, &d));
    must(stage_sweep_collect(&o, d, &said));
    ok(said.p && strstr(said.p, want_said), "it says %s", want_said);
    str_free(&said);
    deck_free(&d);
}

static const char csv[] = "point,qad.from,qad.gradients_out,state,steps,nll_before,nll_after,kl,bits_per_weight,"
                          "seconds,exit_code,mark,directory\n"
                          "0,model,\"a,b\",done,5,2.5,2.625,0.25,4.5,1.75,0,front,point-0000\n"
                          "1,model,\"c\"\"<i>\",done,5,2.5,2.5625,0.125,8,10.75,0,best,point-0001\n"
                          "2,model,d,done,5,2.5,2.75,0.5,8,10.75,0,,point-0002\n"
                          "3,before,\"a,b\",failed,0,,,,,0.00,15,,point-0003\n"
                          "4,before,\"c\"\"<i>\",broken off,5,2.5,,,,10.50,,,point-0004\n"
                          "5,before,d,missing,0,,,,,0.00,,,point-0005\n";

static void some(void) {
    done(0, ",\"shared\":\"/x\"", 2.625, 0.25, 4.5);
    done(1, "", 2.5625, 0.125, 8);
    done(2, "", 2.75, 0.5, 8);
    ledger(3, "{\"start\":\"v\"}\n{\"end\":\"ERR_NUMERIC\",\"why\":\"loss <script> & NaN\"}\n");
    ledger(4,
           "{\"end\":\"STOPPED\",\"why\":\"by a signal\"}\n{\"start\":\"v\"}\n"
           "{\"finished\":\"before\",\"results\":{\"nll\":2.5,\"kl\":0.0,\"bits_per_weight\":16.0,\"seconds\":9.0}}\n"
           "{\"finished\":\"qad\",\"results\":{\"steps\":5.0,\"seconds\":1.5}}\n{\"torn");
    collect("6 points: 3 done, 1 failed, 1 broken off, 1 missing\nbest: point 1 (");
    char *text = read_text("sweep.csv");
    is_str(text, csv, "the CSV");
    mem_free(&text);
    text = read_text("sweep.html");
    has(text, "<title>it&#39;s &lt;i&gt;</title>");
    has(text, "loss &lt;script&gt; &amp; NaN");
    has(text, "<tr class=\"best\"><td class=\"n\"><a href=\"point-0001/report.html\">1</a></td>");
    has(text, "3 of 6 points are not in the plots");
    has(text, "<td class=\"bad\">broken off</td>");
    has(text, "class=\"ring\"");
    has(text, "prefers-color-scheme:dark");
    lacks(text, "<script");
    lacks(text, "http");
    lacks(text, "<i>");
    lacks(text, "nan");
    mem_free(&text);
}

/* One that was stopped, then all others done: no KL, so NLL decides. */
static void without_kl(void) {
    for (int i = 0; i < 6; i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "{\"finished\":\"before\",\"results\":{\"nll\":%d.5}}\n{\"finished\":\"qad\",\"results\":{}}\n"
                 "{\"finished\":\"after\",\"results\":{\"nll\":%d.25}}\n",
                 i, 9 - i);
        ledger(i, text);
    }
    ledger(5, "{\"start\":\"v\"}\n{\"end\":\"STOPPED\",\"why\":\"by a signal\"}\n");
    collect("6 points: 5 done, 1 stopped\nbest: point 4 (");
    char *text = read_text("sweep.csv");
    has(text, "\n4,before,\"c\"\"<i>\",done,0,4.5,5.25,,,0.00,,best,point-0004\n");
    has(text, "\n5,before,d,stopped,0,,,,,0.00,75,,point-0005\n");
    mem_free(&text);
}

int main(void) {
    char text[2048];
    if (!mkdtemp(dir)) return tap_skip_all("no scratch folder");
    snprintf(text, sizeof text, deck_text, dir);
    snprintf(path, sizeof path, "%s/deck.cfg", dir);
    must(file_write(path, text, strlen(text)));
    some();
    without_kl();
    must(file_remove_tree(dir));
    is_int(mem_bytes(), 0, "nothing is left allocated");
    return tap_done();
}
