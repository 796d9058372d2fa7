/* TEST ranks=1,2,4 backends=host,guard tier=1 limit=120 */
/* gen/: greedy tokens of five families against transformers' own, alone and left-padded in a batch, on every grid of the ranks; a pass over
 * cached keys and values gives the same bits as one over the whole sequence, wherever it begins. */
#include "gen/greedy.h"
#include "golden.h"
#include "model/load.h"
#include "tap_mpi.h"

static struct dev *dev;
static const char *root;

static bool open_model(const char *family, const struct par_grid *grid, int64_t positions, struct model **m) {
    char path[512];
    struct model_config c;
    struct hub_model *h;
    snprintf(path, sizeof path, "%s/golden/models/tiny/%s", root, family);
    if (!ok(model_config_read(path, &c) == TM_OK, "%s: config.json", family)) return false;
    struct model_options o = {.dev = dev, .grid = grid, .max_positions = positions};
    must(model_create(&c, &o, m));
    must(hub_open(path, &h));
    must(model_load_hub(*m, h));
    hub_close(&h);
    return true;
}

/* --- golden tokens --------------------------------------------------------------------------------------------------------- */
enum { GREEDY = 24, LONGEST = 20 };

static void greedy(const char *family, const struct par_grid *grid) {
    char path[512];
    struct golden g;
    struct model *m;
    struct gen *gen;
    int32_t tokens[4 * GREEDY];
    int64_t length[4];
    snprintf(path, sizeof path, "%s/golden/models/tiny/%s/golden.safetensors", root, family);
    if (!ok(golden_open(&g, path), "%s: golden", family)) return;
    struct golden_tensor prompt = golden_need(&g, "greedy.prompt"), want = golden_need(&g, "greedy.tokens"),
                         ids = golden_need(&g, "in.input_ids");
    if (!open_model(family, grid, LONGEST + GREEDY, &m)) return;
    struct gen_options o = {
        .model = m, .batch = 4, .longest = LONGEST, .max_new = GREEDY, .eos = {-1, -1}, .invariant = grid->invariant};
    must(gen_create(&o, &gen));
    /* a longer row pads the golden prompt by 12; three prompts leave a row of the batch empty */
    struct gen_prompt p[] = {{prompt.data, prompt.elems}, {ids.data, LONGEST}, {prompt.data, prompt.elems}};
    must(gen_greedy(gen, p, 3, tokens, length));
    ok(length[0] == GREEDY && length[1] == GREEDY && length[2] == GREEDY, "%s tp=%d pp=%d: %d tokens each", family,
       grid->tp, grid->pp, GREEDY);
    ok(!memcmp(tokens, want.data, sizeof(int32_t) * GREEDY), "%s: the golden tokens, padded", family);
    ok(!memcmp(tokens + 2 * GREEDY, want.data, sizeof(int32_t) * GREEDY), "%s: and again in the third row", family);
    must(gen_greedy(gen, p + 2, 1, tokens, length)); /* nothing of the batch before is seen */
    ok(!memcmp(tokens, want.data, sizeof(int32_t) * GREEDY), "%s: another batch in the same cache", family);
    gen_destroy(&gen);

    o.batch = 2;
    o.longest = prompt.elems;
    o.eos[1] = ((const int32_t *)want.data)[4]; /* end where this token first comes */
    must(gen_create(&o, &gen));
    must(gen_greedy(gen, p, 1, tokens, length));
    int64_t end = 0;
    while (((const int32_t *)want.data)[end] != o.eos[1]) end++;
    is_int(length[0], end + 1, "the end token ends the sequence");
    ok(!memcmp(tokens, want.data, sizeof(int32_t) * (size_t)(end + 1)), "%s: the tokens before it", family);
    gen_destroy(&gen);
    model_destroy(&m);
    golden_close(&g);
}

/* --- the cache against the whole sequence ------------------------------------------------------------------------------------ */
enum { T = 150, PAD = 7, B = 2 }; /* past two tiles of 64 keys; sequence 1 is padded */

static void fill(struct data_batch *b, int64_t at) {
    for (int64_t i = 0; i < b->b; i++)
        for (int64_t j = 0; j < b->t; j++) {
            int64_t k = i * b->t + j, pos = at + j, pad = i == 1 ? PAD : 0;
            b->tokens[k] = (int32_t)((pos * pos + 3 * i + 5) % 90);
            b->positions[k] = (int32_t)(pos < pad ? 0 : pos - pad);
            b->first[k] = (int32_t)(pos < pad ? pos + 1 : pad);
            b->labels[k] = -1;
        }
}

/* Logits of positions [at, at + t) with what the cache holds, of both sequences, into out [B, T, vocabulary here]. */
static void logits(struct model *m, const struct model_hook *hook, struct gen_cache *cache, int64_t at, int64_t t,
                   float *out) {
    struct model_shape shape = {.b = B, .t = t, .cache = cache ? cache->layer : NULL};
    struct train_pass_options o = {.name = "logits",
                                   .model = m,
                                   .shape = &shape,
                                   .hook = hook,
                                   .head = TRAIN_HEAD_LOGITS,
                                   .slots = 1,
                                   .invariant = true,
                                   .temperature = 1};
    struct train_pass *p;
    struct data_batch b = {0};
    int64_t v = model_head(m)->rows;
    must(train_pass_create(&o, NULL, &p));
    must(train_pass_bind(&p, 1));
    must(data_batch_create(B, t, &b));
    fill(&b, at);
    if (cache) cache->at = at;
    must(train_pass_forward(p, 0, &b, 0, 0));
    for (int i = 0; i < B && m->last; i++)
        must(dev_download(dev, out + (i * T + at) * v, dptr_f32(tape_address(p->t, 0, p->logits), i * t * v),
                          (size_t)(t * v) * 4));
    must(train_pass_drain(p));
    data_batch_free(&b);
    train_pass_destroy(&p);
}

/* Keys and values in fp8, as a quantizer puts them on the tape; the maximum is one number for all. */
static enum status fp8_cache(void *context, struct tape *t, const struct model_site *s, tape_val in, tape_val *out) {
    bool kv = !strcmp(s->site, "k") || !strcmp(s->site, "v");
    *out = in;
    const struct tape_quantizer fp8 = {.kind = FQ_FP8, .amax = *(const dptr *)context};
    return kv ? tape_fake_quant(t, in, &fp8, out) : TM_OK;
}

static void same_bits(const char *family, const struct par_grid *grid, bool fp8) {
    /* where the pieces begin; each piece is one pass over the cache */
    static const int64_t cuts[] = {0, 61, 62, 63, 64, 65, 72, 127, 128, 129, 149, T};
    struct model *m;
    struct gen_cache cache;
    float *whole, *pieces, three = 3;
    dptr amax;
    must(dev_alloc(dev, "amax", sizeof three, &amax));
    must(dev_upload(dev, amax, &three, sizeof three));
    struct model_hook hook = {&amax, fp8_cache};
    if (!open_model(family, grid, T, &m)) return;
    size_t n = (size_t)(B * T * model_head(m)->rows);
    must(mem_alloc(&whole, n, sizeof *whole));
    must(mem_alloc(&pieces, n, sizeof *pieces));
    must(gen_cache_create(m, B, T + 3, &cache));
    is_int(dev_bytes(dev, "key-value cache"), gen_cache_bytes(m, B, T + 3), "the cache takes what it says");
    logits(m, fp8 ? &hook : NULL, NULL, 0, T, whole);
    for (size_t i = 0; i + 1 < sizeof cuts / sizeof *cuts; i++)
        logits(m, fp8 ? &hook : NULL, &cache, cuts[i], cuts[i + 1] - cuts[i], pieces);
    ok(n == 0 || !memcmp(whole, pieces, n * sizeof *whole), "%s tp=%d pp=%d%s: bits of the pieces = bits of the whole",
       family, grid->tp, grid->pp, fp8 ? " fp8" : "");
    logits(m, fp8 ? NULL : &hook, NULL, 0, T, pieces);
    ok(!m->last || n == 0 || memcmp(whole, pieces, n * sizeof *whole), "and fp8 would change them");
    gen_cache_free(&cache);
    dev_free(dev, &amax);
    mem_free(&whole);
    mem_free(&pieces);
    model_destroy(&m);
}

static void on_grid(int tp, int pp) {
    bool slow = dev_backend(dev) == DEV_GUARD && par_size() > 1; /* changing the pages' protection takes its time */
    static const char *const families[] = {"llama", "llama3_rope", "mistral", "qwen2", "qwen3"};
    struct par_grid grid;
    must(par_grid_create_all(tp, 1, pp, &grid));
    for (size_t i = 0; i < (slow ? 1 : sizeof families / sizeof *families); i++) greedy(families[i], &grid);
    if (!slow) same_bits("llama", &grid, false);
    if (!slow) same_bits("qwen3", &grid, true);
    same_bits("mistral", &grid, false); /* a window of 16 */
    par_grid_destroy(&grid);
}

int main(int argc, char **argv) {
    if (tap_mpi_start(&argc, &argv)) return 1;
    root = golden_root();
    if (!root) {
        tap_skip_all("no goldens beside the checkout");
        par_finish();
        return 0;
    }
    must(tap_device(&dev));
    int n = par_size();
    on_grid(n, 1);
    if (n > 1) on_grid(n / 2, 2);
    dev_close(&dev);
    return tap_mpi_done();
}
