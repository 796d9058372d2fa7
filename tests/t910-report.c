/* TEST ranks=1 tier=1 */
/* stage/: report.html and the printed table against the results they stand for, hostile texts, and unfinished runs. */
#include "base/file.h"
#include "base/mem.h"
#include "stage/report.h"
#include "stage/report_html.h"
#include "stage/report_table.h"
#include "tap.h"

#include <unistd.h>

static char dir[] = "/tmp/temper-test-XXXXXX", path[128];

static const char deck_text[] =
    "version = 1; run = { dir = \"%s\"; title = \"<b>\\\"5 > 4\\\" & more</b>\"; };\n"
    "model = { path = \"%s/model\"; };\n"
    "datasets = { seen = { sources = ( { path = \"mock\"; } ); seq_length = 8; };\n"
    "  unseen = { sources = ( { path = \"mock\"; } ); seq_length = 8; }; };\n"
    "stages = ( { do = \"evaluate\"; name = \"teacher\"; data = \"unseen\"; },\n"
    "  { do = \"calibrate\"; name = \"ptq\"; data = \"seen\"; quant = { preset = \"nvfp4\"; }; },\n"
    "  { do = \"evaluate\"; name = \"after-ptq\"; data = \"unseen\"; },\n"
    "  { do = \"evaluate\"; name = \"elsewhere\"; data = \"seen\"; },\n"
    "  { do = \"distill\"; name = \"qad\"; data = \"seen\"; steps = 3; },\n"
    "  { do = \"evaluate\"; name = \"after-qad\"; data = \"unseen\"; },\n"
    "  { do = \"export\"; name = \"export\"; dir = \"export\"; } );\n";

static struct stage_run run;

static void set_up(void) {
    static const char *const sets[] = {"qad.optim.lr=1e-4", "run.title=it's <i>"};
    static char text[4096];
    snprintf(text, sizeof text, deck_text, dir, dir);
    /* one BF16 tensor of 2 x 3: 12 bytes */
    static const char model[] = "\x40\0\0\0\0\0\0\0"
                                "{\"w\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]}}      "
                                "0123456789ab";
    snprintf(path, sizeof path, "%s/model", dir);
    must(file_make_dirs(path));
    snprintf(path, sizeof path, "%s/model/model.safetensors", dir);
    must(file_write(path, model, sizeof model - 1));
    run.o = (struct stage_options){.deck_path = "a deck's.cfg", .sets = sets, .n_sets = 2, .sweep_point = -1};
    must(deck_parse(text, "deck", "/", NULL, 0, NULL, &run.deck));
    must(deck_echo(run.deck, &run.deck_text));
    must(par_grid_imagine(8, 0, 2, 1, 2, &run.grid));
}

static void results(const char *json) {
    json_decref(run.results);
    must(json_read_buffer(json, strlen(json), "results", &run.results));
}

static const char full[] =
    "{\"schema\": 1, \"version\": \"v\", \"memory\": [{\"class\": \"weights\", \"bytes\": 1024}], \"stages\": {"
    "\"teacher\": {\"do\": \"evaluate\", \"nll\": 2.5, \"perplexity\": 12.1824940, \"kl\": 0, \"agreement\": 1,"
    " \"bits_per_weight\": 16, \"seconds\": 1.5},"
    "\"ptq\": {\"do\": \"calibrate\", \"layers\": [{\"module\": \"<script>\", \"amax\": 0.125, \"ok\": true},"
    " {\"module\": \"b\", \"amax\": 3, \"error\": 0.001953125}]},"
    "\"after-ptq\": {\"do\": \"evaluate\", \"nll\": 2.75, \"perplexity\": 15.6426319, \"kl\": 0.21875,"
    " \"agreement\": 0.8125, \"bits_per_weight\": 4.5},"
    "\"elsewhere\": {\"do\": \"evaluate\", \"nll\": 1.125, \"perplexity\": 3.08021685, \"bits_per_weight\": 4.5},"
    "\"qad\": {\"do\": \"distill\", \"loss\": 0.0625},"
    "\"after-qad\": {\"do\": \"evaluate\", \"nll\": 2.5625, \"perplexity\": 12.9681839, \"kl\": 0.0625,"
    " \"agreement\": 0.90625, \"bits_per_weight\": 4.5},"
    "\"export\": {\"do\": \"export\", \"bytes\": 3}}}";

static char *page(void) {
    char *text;
    size_t n;
    must(stage_report_write(&run));
    snprintf(path, sizeof path, "%s/report.html", dir);
    must(file_read(path, 1 << 20, &text, &n));
    return text;
}

static void has(const char *text, const char *piece) { ok(strstr(text, piece) != NULL, "there is %s", piece); }
static void lacks(const char *text, const char *piece) { ok(strstr(text, piece) == NULL, "there is no %s", piece); }

/* --- numbers -------------------------------------------------------------------------------------------------------------------- */
/* Every number of the quality table is the stage's result, to the printed digits. */
static void compare_row(const char *html, const char *stage, int columns) {
    static const char *const keys[] = {"nll", "perplexity", "kl", "agreement", "bits_per_weight"};
    const json_t *x = json_object_get(json_object_get(run.results, "stages"), stage);
    char piece[64];
    snprintf(piece, sizeof piece, "<tr><td>%s<", stage);
    const char *p = strstr(html, piece);
    if (!ok(p != NULL, "row %s", stage)) return;
    for (int c = 0; c < columns; c++) {
        p = strstr(p, "data-value=\"");
        if (!ok(p != NULL, "row %s has %d values", stage, columns)) return;
        p += strlen("data-value=\"");
        is_near(strtod(p, NULL), json_number_value(json_object_get(x, keys[c])), 1e-8, keys[c]);
    }
}

static void quality(void) {
    results(full);
    char *html = page();
    compare_row(html, "teacher", 5);
    compare_row(html, "after-ptq", 5);
    compare_row(html, "after-qad", 5);
    has(html, "<td class=\"n\" data-value=\"12\">12 B</td>"); /* the files of model.path */
    has(html, "<td class=\"n\" data-value=\"3\">3 B<small>\u221275.0 %</small></td>");
    has(html, "<small>+0.2500</small>");
    has(html, "elsewhere<small>on seen</small></td><td class=\"n\" data-value=\"1.125\">1.1250</td>"); /* no change */
    has(html, "qad won back 75.0 % of the NLL that ptq lost (0.1875 of 0.2500 nats/token).");
    has(html, "8 ranks (tp 2 × pp 2 × dp 2)");
    mem_free(&html);
}

/* 0.25 lost, 0.0625 left: (0.25 - 0.0625) / 0.25 = 75 %. */
static void table(void) {
    static const char want[] =
        "stage         NLL   change  perplexity   change  KL to teacher  top-1 agreement  bits per weight  size on "
        "disk   change\n"
        "teacher    2.5000                12.18                  0.0000          100.0 %            16.00          12 "
        "B\n"
        "after-ptq  2.7500  +0.2500       15.64  +28.4 %         0.2188           81.2 %             4.50\n"
        "elsewhere  1.1250                 3.08                                                      4.50\n"
        "after-qad  2.5625  +0.0625       12.97   +6.4 %         0.0625           90.6 %             4.50           3 "
        "B  -75.0 %\n"
        "qad won back 75.0 % of the NLL that ptq lost (0.1875 of 0.2500 nats/token).\n";
    struct report_rows rows;
    struct report_out o = {0};
    must(report_collect(&run, &rows));
    struct report_recovery x = report_recovery(&run, &rows);
    report_table_text(&rows, &x, &o);
    is_status(o.st, TM_OK);
    is_str(o.text.p, want, "the printed table");
    mem_free(&rows.v);
    str_free(&o.text);
}

static void sentence(double reference, double before, double after, const char *want) {
    struct report_rows rows;
    struct report_out o = {0};
    json_t *s = json_object_get(run.results, "stages");
    json_object_set_new(json_object_get(s, "teacher"), "nll", json_real(reference));
    json_object_set_new(json_object_get(s, "after-ptq"), "nll", json_real(before));
    json_object_set_new(json_object_get(s, "after-qad"), "nll", json_real(after));
    must(report_collect(&run, &rows));
    struct report_recovery x = report_recovery(&run, &rows);
    report_recovery_text(&x, &o);
    is_str(o.text.p ? o.text.p : "", want, "the sentence");
    mem_free(&rows.v);
    str_free(&o.text);
}

static void bytes(double n, const char *want) {
    char cell[REPORT_CELL];
    report_bytes(n, cell);
    is_str(cell, want, "bytes");
}

/* --- texts ---------------------------------------------------------------------------------------------------------------------- */
static void escaping(void) {
    struct report_out o = {0};
    report_escaped(&o, "a<b>&\"c'\x01\n\t\xc3\xa9");
    is_str(o.text.p, "a&lt;b&gt;&amp;&quot;c&#39;&#xfffd;\n\t\xc3\xa9", "escaped text");
    str_free(&o.text);
    char *html = page();
    has(html, "<title>&lt;b&gt;&quot;5 &gt; 4&quot; &amp; more&lt;/b&gt;</title>");
    has(html, "<h1>&lt;b&gt;&quot;5 &gt; 4&quot; &amp; more&lt;/b&gt;</h1>");
    has(html, "<td>&lt;script&gt;</td><td class=\"n\">0.125</td><td>yes</td><td class=\"n\"></td>");
    has(html, "<td>b</td><td class=\"n\">3</td><td></td><td class=\"n\">0.00195312</td>");
    has(html, "<td>weights</td><td class=\"n\">1024</td>");
    has(html, "mpirun -np 8 temper &#39;a deck&#39;\\&#39;&#39;s.cfg&#39; --set qad.optim.lr=1e-4 --set "
              "&#39;run.title=it&#39;\\&#39;&#39;s &lt;i&gt;&#39;");
    has(html, "title = &quot;&lt;b&gt;"); /* the deck */
    lacks(html, "<script");
    lacks(html, "<b>");
    lacks(html, "http"); /* nothing from elsewhere */
    lacks(html, "url(");
    mem_free(&html);
}

/* --- runs that are not finished ---------------------------------------------------------------------------------------------------- */
static void unfinished(void) {
    results("{\"schema\": 1, \"version\": \"v\", \"stages\": {}}");
    char *html = page();
    lacks(html, "<h2>Quality</h2>");
    has(html, "not run yet");
    mem_free(&html);
    results("{\"schema\": 1, \"version\": \"v\", \"stages\": {\"teacher\": {\"do\": \"evaluate\", \"nll\": 2.5}}}");
    html = page();
    has(html, "<h2>Quality</h2>");
    lacks(html, "top-1 agreement"); /* no column without a value */
    lacks(html, "won back");
    mem_free(&html);
}

int main(void) {
    must(mkdtemp(dir) ? TM_OK : TM_ERR_IO);
    set_up();
    quality();
    table();
    escaping();
    sentence(2.5, 2.75, 2.875, "ptq lost 0.2500 nats/token and qad lost 0.1250 more.");
    sentence(2.5, 2.5, 2.25, "ptq lost no NLL, so there was nothing for qad to win back.");
    sentence(2.5, 2.75, 2.25, "qad won back 200.0 % of the NLL that ptq lost (0.5000 of 0.2500 nats/token).");
    bytes(0, "0 B"), bytes(999, "999 B"), bytes(1000, "1.00 kB"), bytes(512936, "513 kB"), bytes(99949, "99.9 kB");
    bytes(999.6e6, "1.00 GB");
    unfinished();
    deck_free(&run.deck);
    str_free(&run.deck_text);
    par_grid_destroy(&run.grid);
    json_decref(run.results);
    file_remove_tree(dir);
    return tap_done();
}
