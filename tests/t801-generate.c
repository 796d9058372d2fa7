/* TEST ranks=1,2,4 tier=1 limit=120 */
/* Stages generate and evaluate on decks: a trained model (stories260K) against transformers' greedy tokens and NLL, left-padded rows of token
 * files against its logits, text in and out, and input that is refused. */
#include <unistd.h>

#include "golden.h"
#include "hub/write.h"
#include "stage/run.h"
#include "tap_mpi.h"

static const char *root;
static char dir[64];

static const char *in_dir(const char *name) {
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}
static bool main_rank(void) { return par_rank() == 0; }

/* Run the deck's text (a "version" line and run.dir are put before it) on this grid. */
static enum status run(const char *grid, const char *body) {
    struct str text = {0};
    enum status st = TM_OK;
    if (main_rank()) {
        st = str_printf(&text, "version = 1;\nrun = { dir = \"%s/run\"; };\ngrid = { %s };\n%s\n", dir, grid, body);
        if (st == TM_OK) st = file_remove_tree(in_dir("run"));
        if (st == TM_OK) st = file_write(in_dir("deck.cfg"), text.p, text.len);
    }
    str_free(&text);
    TM_TRY(par_agree_all(st));
    struct stage_options o = {.deck_path = in_dir("deck.cfg"), .sweep_point = -1, .resume = "auto"};
    return stage_run_deck_all(&o);
}

/* A number of results.json; on rank 0. */
static double result(const char *stage, const char *name) {
    json_t *j;
    if (json_read_file(in_dir("run/results.json"), 1 << 20, &j) != TM_OK) return NAN;
    double x = json_number_value(json_object_get(json_object_get(json_object_get(j, "stages"), stage), name));
    json_decref(j);
    return x;
}

static void put_tokens(const char *name, int64_t b, int64_t t, const int32_t *ids, const int32_t *mask) {
    struct hub_tensor tensors[] = {{"input_ids", DTYPE_i32, 2, {b, t}}, {"attention_mask", DTYPE_i32, 2, {b, t}}};
    if (main_rank()) must(hub_save(in_dir(name), tensors, (const void *const[]){ids, mask}, mask ? 2 : 1, NULL));
}

/* Rows of different lengths in one array, padded on one side. */
static void put_ragged(const char *name, const int32_t *const rows[], const int64_t *length, int64_t b, bool left) {
    int64_t t = 0;
    int32_t *ids, *mask;
    for (int64_t i = 0; i < b; i++) t = length[i] > t ? length[i] : t;
    must(mem_alloc(&ids, (size_t)(b * t), sizeof *ids));
    must(mem_alloc(&mask, (size_t)(b * t), sizeof *mask));
    for (int64_t i = 0; i < b; i++)
        for (int64_t j = 0; j < length[i]; j++) {
            int64_t at = i * t + (left ? t - length[i] : 0) + j;
            ids[at] = rows[i][j];
            mask[at] = 1;
        }
    put_tokens(name, b, t, ids, mask);
    mem_free(&ids);
    mem_free(&mask);
}

/* --- a trained model --------------------------------------------------------------------------------------------------------- */
enum { PROMPTS = 4, NEW = 64 };

static void is_line(const json_t *line, const struct golden_tensor *want, int row) {
    const json_t *tokens = json_object_get(line, "tokens");
    int same = 0;
    for (int i = 0; i < NEW; i++)
        same += json_integer_value(json_array_get(tokens, (size_t)i)) == ((const int32_t *)want->data)[i];
    ok(json_array_size(tokens) == NEW && same == NEW, "prompt %d: %d of %d greedy tokens", row, same, NEW);
}

static void story_lines(const struct golden *g) {
    char *text, name[32];
    size_t n;
    must(file_read(in_dir("run/out.jsonl"), 1 << 24, &text, &n));
    char *at = text;
    for (int i = 0; i < PROMPTS; i++) {
        char *end = strchr(at, '\n');
        json_t *line = NULL;
        if (!ok(end && json_read_buffer(at, (size_t)(end - at), "out.jsonl", &line) == TM_OK, "line %d", i)) break;
        snprintf(name, sizeof name, "%d.greedy", i);
        struct golden_tensor want = golden_need(g, name);
        is_line(line, &want, i);
        json_decref(line);
        at = end + 1;
    }
    ok(!*at, "and no more lines");
    mem_free(&text);
}

static void stories(const char *grid, bool nll) {
    char path[512], deck[2048], name[32];
    struct golden g;
    const int32_t *rows[64];
    int64_t length[64];
    snprintf(path, sizeof path, "%s/golden/models/text/stories260K.safetensors", root);
    if (!ok(golden_open(&g, path), "stories golden")) return;
    for (int i = 0; i < PROMPTS; i++) {
        snprintf(name, sizeof name, "%d.ids", i);
        struct golden_tensor t = golden_need(&g, name);
        rows[i] = t.data;
        length[i] = t.elems;
    }
    put_ragged("prompts.safetensors", rows, length, PROMPTS, false);
    struct golden_tensor offsets = golden_need(&g, "stories.offsets"), ids = golden_need(&g, "stories.ids");
    const int32_t *begin = offsets.data;
    int64_t n = offsets.elems - 1;
    for (int64_t i = 0; i < n; i++) {
        rows[i] = (const int32_t *)ids.data + begin[i];
        length[i] = begin[i + 1] - begin[i];
    }
    put_ragged("stories.safetensors", rows, length, n, false);
    snprintf(deck, sizeof deck,
             "model = { path = \"%s/models/stories260K-hf\"; };\n"
             "datasets = { stories = { sources = ( { path = \"stories.safetensors\"; } ); }; };\n"
             "batch = { micro = 2; };\n"
             "stages = ( { do = \"generate\"; prompts = \"prompts.safetensors\"; max_new_tokens = %d; output = "
             "\"out.jsonl\"; }%s );",
             root, NEW, nll ? ", { do = \"evaluate\"; data = \"stories\"; batch = { micro = 10; }; }" : "");
    is_status(run(grid, deck), TM_OK);
    if (main_rank()) {
        story_lines(&g);
        is_int(result("generate", "prompts"), PROMPTS, "prompts");
        is_int(result("generate", "tokens"), PROMPTS * NEW, "tokens");
    }
    if (main_rank() && nll) {
        double x = result("evaluate", "nll");
        ok(fabs(x - 1.334904) < 1e-4, "mean NLL of 60 stories is 1.334904 (got %.6f)", x);
        is_int(result("evaluate", "tokens"), 14992, "scored tokens");
    }
    golden_close(&g);
}

/* --- left-padded rows -------------------------------------------------------------------------------------------------------- */
static void is_last_row(const struct golden *g, const char *family, const char *grid) {
    struct golden got;
    if (!ok(golden_open(&got, in_dir("run/logits.safetensors")), "%s: logits_out", family)) return;
    struct golden_tensor want = golden_need(g, "leftpad.logits_last"), x = golden_need(&got, "logits");
    int64_t b = x.shape[0], t = x.shape[1], v = x.shape[2];
    float *last;
    must(mem_alloc(&last, (size_t)(b * v), sizeof *last));
    for (int64_t i = 0; i < b; i++)
        memcpy(last + i * v, (const float *)x.data + ((i + 1) * t - 1) * v, (size_t)v * sizeof *last);
    is_int(want.elems, b * v, "logits of the last position");
    double nmse = tap_nmse(last, want.data, (size_t)(b * v));
    ok(nmse <= 1e-11, "%s on %s: left-padded logits, NMSE %.2g <= 1e-11", family, grid, nmse);
    mem_free(&last);
    golden_close(&got);
}

static void left_padded(const char *family, const char *grid) {
    char path[512], deck[1024];
    struct golden g;
    snprintf(path, sizeof path, "%s/golden/models/tiny/%s/golden.safetensors", root, family);
    if (!ok(golden_open(&g, path), "%s: golden", family)) return;
    struct golden_tensor ids = golden_need(&g, "in.input_ids"), mask = golden_need(&g, "leftpad.attention_mask");
    put_tokens("padded.safetensors", ids.shape[0], ids.shape[1], ids.data, mask.data);
    snprintf(deck, sizeof deck,
             "model = { path = \"%s/golden/models/tiny/%s\"; };\n"
             "datasets = { rows = { sources = ( { path = \"padded.safetensors\"; } ); }; };\n"
             "stages = ( { do = \"evaluate\"; data = \"rows\"; logits_out = \"logits.safetensors\"; } );",
             root, family);
    is_status(run(grid, deck), TM_OK);
    if (main_rank()) is_last_row(&g, family, grid);
    golden_close(&g);
}

/* --- text in and out, refusals -------------------------------------------------------------------------------------------------- */
static const char config[] =
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 64, "
    "\"intermediate_size\": 96,"
    " \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"vocab_size\": 320, "
    "\"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 64, \"rope_theta\": 10000.0, \"hidden_act\": \"silu\"}";

static void put_text(const char *name, const char *text) { must(file_write(in_dir(name), text, strlen(text))); }

static char *lines_of(const char *name) {
    char *text;
    size_t n;
    must(file_read(in_dir(name), 1 << 20, &text, &n));
    return text;
}

static char first_lines[8192]; /* of the first grid */

static void text_in_and_out(const char *grid) {
    char deck[2048];
    if (main_rank()) {
        must(file_make_dirs(in_dir("m")));
        put_text("m/config.json", config);
        put_text("a.txt", "the cat sat on the mat and the dog sat on the cat\n");
        put_text("lines.txt", "the cat\r\n\nthe dog sat\non\n");
    }
    snprintf(deck, sizeof deck,
             "model = { random_init = \"m/config.json\"; init_std = 0.2; tokenizer = \"@run/tok\"; };\n"
             "batch = { micro = 3; };\n"
             "stages = ( { do = \"convert\"; input = \"a.txt\"; output = \"tok\"; vocab_size = 280; },\n"
             "  { do = \"generate\"; prompt = [\"on the mat\", \"\"]; prompts = \"lines.txt\"; max_new_tokens = 9;\n"
             "    output = \"deep/out.jsonl\"; }, { do = \"generate\"; name = \"silent\"; prompt = \"the\"; "
             "max_new_tokens = 3; } );");
    is_status(run(grid, deck), TM_OK);
    if (!main_rank()) return;
    char *text = lines_of("run/deep/out.jsonl");
    int lines = 0;
    for (const char *p = text; *p; p++) lines += *p == '\n';
    is_int(lines, 5, "a line per prompt");
    ok(!strncmp(text, "{\"prompt\": \"on the mat\", \"text\": ", 32), "prompt and text: %.60s", text);
    ok(strstr(text, "{\"prompt\": \"\", ") && strstr(text, "{\"prompt\": \"the cat\", "),
       "empty text, a line without its CR");
    if (*first_lines) ok(!strcmp(first_lines, text), "%s: the same bytes as on the first grid", grid);
    snprintf(first_lines, sizeof first_lines, "%s", text);
    mem_free(&text);
}

#define LLAMA(keys) \
    "model = { path = \"%s/golden/models/tiny/llama\"; };\nstages = ( { do = \"generate\"; " keys " } );"

static void refused(void) {
    char deck[1024];
    int32_t big[2] = {3, 96};
    put_tokens("big.safetensors", 1, 2, big, NULL);
    snprintf(deck, sizeof deck, LLAMA("prompts = \"big.safetensors\";"), root);
    is_status(run("", deck), TM_ERR_DATA);
    ok(strstr(status_message(), "big.safetensors: prompt 0: token 96 at 1: the model's vocabulary has 96"), "said: %s",
       status_message());
    snprintf(deck, sizeof deck, LLAMA("prompt = \"x\";"), root);
    is_status(run("", deck), TM_ERR_IO);
    ok(strstr(status_message(), "tokenizer"), "no tokenizer for text: %s", status_message());
    if (main_rank()) put_text("none.txt", "\n\n");
    snprintf(deck, sizeof deck,
             "model = { random_init = \"m/config.json\"; tokenizer = \"m/tok\"; };\n"
             "stages = ( { do = \"convert\"; input = \"a.txt\"; output = \"%s/m/tok\"; vocab_size = 270; },\n"
             "           { do = \"generate\"; prompts = \"none.txt\"; } );",
             dir);
    is_status(run("", deck), TM_ERR_DATA);
    ok(strstr(status_message(), "none.txt holds no prompt"), "said: %s", status_message());
}

int main(int argc, char **argv) {
    static const char *const families[] = {"llama", "llama3_rope", "mistral", "qwen2", "qwen3"};
    if (tap_mpi_start(&argc, &argv)) return 1;
    root = golden_root();
    static char absolute[4096];
    if (!root || !realpath(root, absolute)) {
        tap_skip_all("no goldens beside the checkout");
        par_finish();
        return 0;
    }
    root = absolute;
    snprintf(dir, sizeof dir, "/tmp/temper-t801-XXXXXX");
    if (main_rank() && !mkdtemp(dir)) return 1;
    struct par_grid all;
    must(par_grid_create_all(1, 1, 1, &all));
    must(par_bcast(all.world, dir, sizeof dir, 0));
    par_grid_destroy(&all);
    int n = par_size();
    const char *grids[] = {n == 4   ? "tp = 2; pp = 2;"
                           : n == 2 ? "tp = 2;"
                                    : "",
                           n == 4 ? "tp = 4;" : "pp = 2;", "dp = 2;"};
    int n_grids = n == 1 ? 1 : n == 2 ? 3 : 2;
    for (int k = 0; k < n_grids; k++) {
        stories(grids[k], k == 0);
        for (size_t i = 0; i < sizeof families / sizeof *families; i++) left_padded(families[i], grids[k]);
        text_in_and_out(grids[k]);
    }
    refused();
    if (main_rank()) must(file_remove_tree(dir));
    return tap_mpi_done();
}
