/* TEST ranks=1 tier=1 */
/* deck/machine: machine files are read, written and refused; those of inputs/machines are good. */
#include <glob.h>

#include "deck/machine.h"
#include "stage/cost.h"
#include "tap.h"

static const char text[] =
    "version = 1;\nname = \"here\";\nranks_a_node = 4;\nrank = { threads = 2; fp32_gflops = 100; };\n"
    "node = { latency_us = 1.5; gbs = 3; };\n"
    "ops = ( { op = \"gemm\"; call_us = 2; gflops = 50; }, { op = \"gemm_bf16\"; gflops = 200; },\n"
    "        { op = \"rope\"; gbs = 4; } );\n";

static void round_trip(void) {
    struct deck_machine *m, *again;
    struct str a = {0}, b = {0};
    must(deck_machine_parse(text, "test", NULL, &m));
    is_str(m->name, "here", "name");
    is_int(m->ranks_a_node, 4, "ranks a node");
    is_near(m->node.latency_us, 1.5, 0, "a member of a group");
    is_near(m->rank.fp32_gflops, 100, 0, "an integer for a rate");
    is_int(m->program.element_bytes, 4, "what is not set has its default");
    is_int(m->ops.n, 3, "operations");
    must(deck_machine_echo(m, &a));
    must(deck_machine_parse(a.p, "echo", NULL, &again));
    must(deck_machine_echo(again, &b));
    ok(a.len > 0 && !strcmp(a.p, b.p), "what is written reads back the same");
    deck_machine_free(&m);
    deck_machine_free(&again);
    str_free(&a);
    str_free(&b);
}

static double seconds(struct cost *c, const char *name, double flops, double bytes) {
    for (int i = 0; i < dev_op_count(); i++)
        if (!strcmp(dev_op_name(i), name))
            return cost_seconds(c,
                                &(struct trace_event){.kind = TRACE_WORK, .what = i, .flops = flops, .bytes = bytes});
    return -1;
}

static void costs(void) {
    struct deck_machine *m;
    struct par_grid g;
    struct cost c;
    must(par_grid_imagine(1, 0, 1, 1, 1, &g));
    must(deck_machine_parse(text, "test", NULL, &m));
    must(cost_create(m, &g, false, &c));
    is_near(seconds(&c, "gemm", 1e9, 1e6), 2e-6 + 0.02, 1e-12, "a measured operation: a call and its FLOPs");
    is_near(seconds(&c, "rope", 1e9, 1e9), 0.25, 1e-12, "a measured operation: its bytes");
    is_near(seconds(&c, "attn_fwd", 1e9, 0), 0.01, 1e-12, "one that was not measured: at the rank's rate");
    ok(c.lacks_rates, "without a rate of the memory the rest is unknown, and that is noted");
    cost_free(&c);
    must(cost_create(m, &g, true, &c));
    is_near(seconds(&c, "gemm", 1e9, 1e6), 0.005, 1e-12, "with bf16 the row of bf16");
    is_near(seconds(&c, "attn_fwd", 1e9, 0), 0.01, 1e-12, "without one, and without a bf16 rate, that of fp32");
    cost_free(&c);
    deck_machine_free(&m);
    must(
        deck_machine_parse("version = 1; rank = { fp32_gflops = 100; memory_gbs = 10; call_us = 3; };", "x", NULL, &m));
    must(cost_create(m, &g, false, &c));
    is_near(seconds(&c, "gemm", 1e9, 1e6), 3e-6 + 0.01, 1e-12, "a roofline: bound by FLOPs");
    is_near(seconds(&c, "gemm", 1e6, 1e9), 3e-6 + 0.1, 1e-12, "bound by the memory");
    is_near(seconds(&c, "adamw", 1e12, 1e9), 3e-6 + 0.1, 1e-12, "what is no product is bound by the memory");
    ok(!c.lacks_rates && !c.lacks_links, "nothing is lacking");
    cost_free(&c);
    deck_machine_free(&m);
}

static void refused(const char *bad, const char *message) {
    struct deck_machine *m;
    struct str report = {0};
    is_status(deck_machine_parse(bad, "m.cfg", &report, &m), TM_ERR_DECK);
    is_str(report.p ? report.p : "", message, "message");
    ok(m == NULL, "no machine");
    str_free(&report);
}

static void bad_files(void) {
    struct deck_machine *m;
    struct par_grid g;
    struct cost c;
    refused("version = 1;\nrank = { fp32_gflop = 1; };\n",
            "m.cfg:2: rank.fp32_gflop: unknown key; did you mean \"fp32_gflops\"?\n");
    refused("version = 1;\nnode = { gbs = -1; };\n", "m.cfg:2: node.gbs = -1: expected float >= 0\n");
    refused("name = \"x\";\n", "m.cfg: version is missing: expected int 1\n");
    is_status(deck_machine_load("/no/such/machine.cfg", NULL, &m), TM_ERR_DECK);
    must(par_grid_imagine(1, 0, 1, 1, 1, &g));
    must(deck_machine_parse("version = 1; ops = ( { op = \"gem\"; } );", "m.cfg", NULL, &m));
    is_status(cost_create(m, &g, false, &c), TM_ERR_DECK);
    is_str(status_message(), "m.cfg: ops[0].op = \"gem\": expected an operation (--list ops)",
           "an operation that is none");
    deck_machine_free(&m);
}

/* Those that come with the program: they are read, every rate is there, and peaks are above what is reached anywhere in them. */
static void ours(void) {
    glob_t files;
    if (glob("inputs/machines/*.cfg", 0, NULL, &files) != 0) {
        ok(false, "inputs/machines has files");
        return;
    }
    for (size_t i = 0; i < files.gl_pathc; i++) {
        struct deck_machine *m;
        struct str report = {0};
        is_status(deck_machine_load(files.gl_pathv[i], &report, &m), TM_OK);
        if (report.len) fprintf(stderr, "# %s", report.p);
        ok(m && *m->name && *m->source, "%s says what it is and where its figures come from", files.gl_pathv[i]);
        ok(m && m->rank.bf16_gflops > 0 && m->rank.memory_gbs > 0 && m->node.gbs > 0, "%s has rates",
           files.gl_pathv[i]);
        deck_machine_free(&m);
        str_free(&report);
    }
    globfree(&files);
}

static void help(void) {
    struct str h = {0};
    must(deck_help("machine", &h));
    ok(h.p && strstr(h.p, "ranks_a_node") && strstr(h.p, "machine.ops[i]:") && strstr(h.p, "latency_us"),
       "--help-deck machine lists the keys of machine files");
    str_free(&h);
}

int main(void) {
    round_trip();
    costs();
    bad_files();
    ours();
    help();
    return tap_done();
}
