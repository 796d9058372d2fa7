/* TEST ranks=1 tier=1 */
/* ckpt/: boxes to pieces, runs, the manifest's text against damage and malice, narrowing, hash sums. No files. */
#include "base/hash.h"
#include "base/mem.h"
#include "base/rng.h"
#include "ckpt/ckpt.h"
#include "ckpt/h5.h"
#include "ckpt/plan.h"
#include "ckpt/runs.h"
#include "ckpt/shard.h"
#include "ckpt/table.h"
#include "tap.h"

/* --- runs: against tensor_copy_box, an independent walk ---------------------------------------------------------------------------- */

static void runs(void) {
    int64_t shape[] = {4, 5, 6};
    float src[120], got[120], want[120];
    for (int i = 0; i < 120; i++) src[i] = (float)i;
    struct tensor_box whole = tensor_box_whole(3, shape);
    int bad = 0, most = 0, fewest = 1000;
    for (uint64_t trial = 0; trial < 300; trial++) {
        struct tensor_box part = {.rank = 3}, dst = {.rank = 3};
        for (int k = 0; k < 3; k++) {
            uint64_t n = (uint64_t)shape[k];
            part.lo[k] = (int64_t)rng_below(1, trial, (uint64_t)k, n);
            part.hi[k] = part.lo[k] + 1 + (int64_t)rng_below(2, trial, (uint64_t)k, n - (uint64_t)part.lo[k]);
            dst.lo[k] = (int64_t)rng_below(3, trial, (uint64_t)k, (uint64_t)part.lo[k] + 1);
            dst.hi[k] = part.hi[k] + (int64_t)rng_below(4, trial, (uint64_t)k, n - (uint64_t)part.hi[k] + 1);
        }
        memset(got, 0, sizeof got);
        memset(want, 0, sizeof want);
        tensor_copy_box(want, &dst, src, &whole, &part, 4);
        struct runs r;
        int64_t a, b;
        int n = 0;
        for (ckpt_runs_start(&r, &part, &whole, &dst); ckpt_runs_next(&r, &a, &b); n++)
            memcpy(got + b, src + a, 4 * (size_t)r.len);
        bad += memcmp(got, want, sizeof got) != 0;
        if (n > most) most = n;
        if (n < fewest) fewest = n;
    }
    is_int(bad, 0, "300 random boxes: runs copy what tensor_copy_box copies");
    ok(most > 8 && fewest == 1, "with many runs and with one (%d..%d)", fewest, most);
    struct tensor_box scalar = {.rank = 0};
    struct runs r;
    int64_t a, b, n = 0;
    for (ckpt_runs_start(&r, &scalar, &scalar, &scalar); ckpt_runs_next(&r, &a, &b);) n += r.len;
    is_int(n, 1, "a scalar is one run of one element");
    ckpt_runs_start(&r, &whole, &whole, &whole);
    is_int(r.len, 120, "a whole array is one run");
}

/* --- pieces -------------------------------------------------------------------------------------------------------------------------- */

static struct held_box held(int tensor, int rank, int64_t lo0, int64_t hi0, int64_t lo1, int64_t hi1) {
    return (struct held_box){.tensor = tensor, .rank = rank, .lo = {lo0, lo1}, .hi = {hi0, hi1}};
}

static struct ckpt_tensor tensor2(const char *name, int64_t rows, int64_t cols) {
    struct ckpt_tensor t = {.desc = {.dtype = DTYPE_f32, .rank = 2, .shape = {rows, cols}}};
    snprintf(t.desc.name, sizeof t.desc.name, "%s", name);
    return t;
}

static int disjoint(const struct ckpt_table *t) {
    int bad = 0;
    struct tensor_box both;
    for (int64_t i = 0; i < t->n_pieces; i++)
        for (int64_t k = i + 1; k < t->n_pieces; k++)
            bad += t->pieces[i].tensor == t->pieces[k].tensor &&
                   tensor_box_intersect(&t->pieces[i].box, &t->pieces[k].box, &both);
    return bad == 0;
}

static void pieces(void) {
    struct ckpt_table t;
    struct ckpt_tensor list[4] = {tensor2("a", 4, 4), tensor2("b", 4, 4), tensor2("c", 4, 4), tensor2("d", 4, 4)};
    /* four tensors replicated on four ranks: one each */
    struct held_box h[16];
    for (int i = 0; i < 16; i++) h[i] = held(i / 4, 3 - i % 4, 0, 4, 0, 4);
    must(ckpt_plan_make(list, 4, h, 16, 4, &t));
    is_int(t.n_pieces, 4, "a replicated box is one piece");
    ok(t.pieces[0].file == 0 && t.pieces[1].file == 1 && t.pieces[2].file == 2 && t.pieces[3].file == 3,
       "replicas are dealt to the least loaded rank, lowest first");
    is_int(t.bytes, 4 * 64, "bytes count each element once");
    int mine;
    must(ckpt_plan_name_files(&t, 4, 2, &mine));
    is_int(mine, 2, "rank 2 writes file 2");
    is_str(t.files[4].name, "index.h5", "the index comes last");
    ckpt_table_free(&t);
    /* a cross of overlapping boxes on [4,4]: rows 0-3 of all columns, then columns 1-4 of all rows, then the corner */
    struct held_box cross[] = {held(0, 0, 0, 3, 0, 4), held(0, 1, 0, 4, 1, 4), held(0, 2, 2, 4, 0, 2)};
    must(ckpt_plan_make(list, 1, cross, 3, 3, &t));
    ok(disjoint(&t), "overlapping boxes become disjoint pieces (%d)", (int)t.n_pieces);
    is_int(t.bytes, 64, "that cover the tensor once");
    ckpt_table_free(&t);
    struct held_box hole[] = {held(0, 0, 0, 2, 0, 4), held(0, 1, 3, 4, 0, 4)};
    is_status(ckpt_plan_make(list, 1, hole, 2, 2, &t), TM_ERR_SHAPE);
    ok(strstr(status_message(), "a:") && strstr(status_message(), "48 of its 64"), "a hole is named with sizes: %s",
       status_message());
    is_status(ckpt_plan_make(list, 2, hole, 0, 2, &t), TM_ERR_SHAPE);
    /* random overlapping boxes, with the whole somewhere, so that they cover */
    int bad = 0;
    for (uint64_t trial = 0; trial < 100; trial++) {
        struct ckpt_tensor one = tensor2("r", 9, 7);
        struct held_box many[12];
        for (int i = 0; i < 12; i++) {
            uint64_t c = (uint64_t)i * 4;
            int64_t r0 = (int64_t)rng_below(5, trial, c, 9), c0 = (int64_t)rng_below(5, trial, c + 1, 7);
            many[i] = held(0, i, r0, r0 + 1 + (int64_t)rng_below(5, trial, c + 2, 9 - (uint64_t)r0), c0,
                           c0 + 1 + (int64_t)rng_below(5, trial, c + 3, 7 - (uint64_t)c0));
        }
        many[11] = held(0, 11, 0, 9, 0, 7);
        if (ckpt_plan_make(&one, 1, many, 12, 12, &t) != TM_OK || !disjoint(&t) || t.bytes != 9 * 7 * 4) bad++;
        ckpt_table_free(&t);
    }
    is_int(bad, 0, "100 random heaps of boxes: disjoint, complete");
    /* 20,000 disjoint row boxes: must not be quadratic */
    struct ckpt_tensor rows = tensor2("rows", 20000, 2);
    struct held_box *lot;
    must(mem_alloc(&lot, 20000, sizeof *lot));
    for (int i = 0; i < 20000; i++) lot[i] = held(0, i, 19999 - i, 20000 - i, 0, 2);
    must(ckpt_plan_make(&rows, 1, lot, 20000, 20000, &t));
    is_int(t.n_pieces, 20000, "20,000 disjoint boxes stay");
    ckpt_table_free(&t);
    mem_free(&lot);
}

/* --- the manifest -------------------------------------------------------------------------------------------------------------------- */

static enum status parse(const char *text, size_t n) {
    struct ckpt_table t;
    struct ckpt_about about;
    json_t *root;
    enum status st = ckpt_manifest_parse(text, n, "M", &t, &root, &about);
    ckpt_table_free(&t);
    json_decref(root);
    return st;
}

/* Replace the first `from` by `to` and sign the text again: what a forger would do. */
static enum status forge(const char *text, const char *from, const char *to) {
    struct str s = {0};
    const char *at = strstr(text, from);
    if (!at) return TM_FAIL(TM_ERR_INTERNAL, "the manifest has no %s", from);
    str_append(&s, text, (size_t)(at - text));
    str_append(&s, to, strlen(to));
    str_append(&s, at + strlen(from), strlen(at + strlen(from)));
    char hex[17];
    snprintf(hex, sizeof hex, "%016" PRIx64, hash_bytes(s.p + 28, s.len - 28, 0));
    memcpy(s.p + 9, hex, 16);
    enum status st = parse(s.p, s.len);
    str_free(&s);
    return st;
}

static void manifest(void) {
    struct ckpt_table t, back;
    struct ckpt_tensor list[2] = {tensor2("layer.q", 4, 6), tensor2("layer.k", 4, 3)};
    list[1].units = "1/s";
    struct held_box h[] = {held(0, 0, 0, 4, 0, 2), held(0, 1, 0, 4, 2, 6), held(1, 0, 0, 4, 0, 3)};
    int mine;
    must(ckpt_plan_make(list, 2, h, 3, 2, &t));
    must(ckpt_plan_name_files(&t, 2, 0, &mine));
    for (int64_t i = 0; i < t.n_pieces; i++) t.pieces[i].offset = 4096 * (i + 1);
    for (int i = 0; i < t.n_files; i++) t.files[i].bytes = 1 << 16, t.files[i].rest = 0xfedcba9876543210u;
    for (int64_t i = 0; i < t.n_hashes; i++) t.hashes[i] = 0x8000000000000001u + (uint64_t)i;
    json_t *meta = json_pack("{s:f, s:s}", "lr", 0.1, "note", "caf\xc3\xa9"), *grid = json_pack("{s:i}", "tp", 2),
           *root;
    struct ckpt_about about =
                          {.step = 12, .code = "v1", .deck = "a = \"b\";\n", .when = "now", .meta = meta, .grid = grid},
                      got;
    struct str s = {0};
    must(ckpt_manifest_print(&t, &about, &s));
    must(ckpt_manifest_parse(s.p, s.len, "M", &back, &root, &got));
    ok(got.step == 12 && !strcmp(got.deck, about.deck) && json_equal((json_t *)got.meta, meta),
       "step, deck and metadata come back");
    ok(back.n == 2 && back.n_pieces == 3 && !memcmp(back.pieces, t.pieces, 3 * sizeof *t.pieces) &&
           !memcmp(back.hashes, t.hashes, 3 * sizeof *t.hashes) && !memcmp(back.files, t.files, 3 * sizeof *t.files),
       "the table comes back bit for bit");
    is_int(ckpt_table_find(&back, "layer.k"), 1, "look-up by name");
    is_int(ckpt_table_find(&back, "layer"), -1, "no prefix match");
    is_str(back.tensors[1].units, "1/s", "units");
    ckpt_table_free(&back);
    json_decref(root);

    size_t seen = 0;
    for (size_t i = 0; i < s.len; i++) {
        s.p[i] ^= 1;
        seen += parse(s.p, s.len) == TM_ERR_FORMAT;
        s.p[i] ^= 1;
    }
    is_int(seen, s.len, "a flipped bit in any byte is seen");
    seen = 0;
    for (size_t n = 0; n < s.len; n++) seen += parse(s.p, n) == TM_ERR_FORMAT;
    is_int(seen, s.len, "a cut at any byte is seen");

    /* signed again, so only the checks of content stand in the way */
    is_status(forge(s.p, "\"step\":12", "\"step\":13"), TM_OK);
    static const char *const forged[][2] = {
        {"temper checkpoint", "other checkpoint"},
        {"\"version\":1", "\"version\":2"},
        {"\"block\":16777216", "\"block\":1"},
        {"\"step\":12", "\"step\":-1"},
        {"\"step\":12", "\"step\":\"12\""},
        {"rank_00000.h5", "../../etc/x"},
        {"rank_00000.h5", "/etc/passwd"},
        {"rank_00000.h5", ""},
        {"rank_00000.h5", ".."},
        {"\"bytes\":65536", "\"bytes\":-65536"},
        {"\"bytes\":65536", "\"bytes\":5000"},
        {"\"offset\":4096", "\"offset\":-1"},
        {"\"offset\":4096", "\"offset\":9223372036854775807"},
        {"\"file\":1", "\"file\":7"},
        {"\"file\":1", "\"file\":-1"},
        {"\"shape\":[4,6]", "\"shape\":[4,7]"},
        {"\"shape\":[4,6]", "\"shape\":[4,6,1]"},
        {"\"shape\":[4,6]", "\"shape\":[4611686018427387904,6]"},
        {"\"shape\":[4,6]", "\"shape\":[1,1,1,4,6]"},
        {"\"shape\":[4,6]", "\"shape\":[4,-6]"},
        {"\"hi\":[4,2]", "\"hi\":[4,9]"},
        {"\"hi\":[4,2]", "\"hi\":[0,2]"},
        {"\"lo\":[0,0]", "\"lo\":[0]"},
        {"\"dtype\":\"f32\"", "\"dtype\":\"f31\""},
        {"layer.q", "layer.k"},
        {"layer.q", ""},
        {"layer.q", "a//b"},
        {"layer.q", "a\\u001b[2J"},
        {"8000000000000001", "8000000000000001a"},
        {"[\"8000000000000001\"]", "[]"},
        {"\"pieces\":[{", "\"pieces\":[3,{"},
        {"\"tensors\":[", "\"tensors\":[null,"},
        {"\"meta\":{", "\"beta\":{"},
        {"\"code\":", "\"step\":5,\"code\":"},
    };
    for (size_t i = 0; i < sizeof forged / sizeof *forged; i++) {
        enum status st = forge(s.p, forged[i][0], forged[i][1]);
        ok(st == TM_ERR_FORMAT, "%s -> %s is refused (%s: %s)", forged[i][0], forged[i][1], status_name(st),
           status_message());
    }
    struct str again = {0};
    about.deck = "\xff\xfe";
    is_status(ckpt_manifest_print(&t, &about, &again), TM_ERR_DECK);
    str_free(&again);
    str_free(&s);
    ckpt_table_free(&t);
    json_decref(meta);
    json_decref(grid);
}

/* --- bf16 and hashes ----------------------------------------------------------------------------------------------------------------- */

static void bf16(void) {
    /* by hand: 1 + 2^-8 is halfway between 1 and 1 + 2^-7, 1 + 3*2^-8 between 1 + 2^-7 and 1 + 2^-6; 3.4e38 is past the largest bf16 */
    float x[] = {1.00390625f, 1.01171875f, 1.00390637f, 3.4e38f, -0.0f};
    uint16_t want[] = {0x3f80, 0x3f82, 0x3f81, 0x7f80, 0x8000}, got[5];
    struct ckpt_tensor t = {.desc = {.dtype = DTYPE_f32, .rank = 1, .shape = {5}}, .host = x, .as_bf16 = true};
    t.desc.box = tensor_box_whole(1, t.desc.shape);
    struct shard_source s;
    must(ckpt_shard_source_open(&s, NULL, &t, &t.desc.box));
    must(ckpt_shard_source_read(&s, 0, 10, got));
    ok(!memcmp(got, want, sizeof got), "stored as bf16: nearest, ties to even, overflow to infinity, -0 stays");
    ckpt_shard_source_close(&s);
    struct tensor_box part = {1, {1}, {4}};
    must(ckpt_shard_source_open(&s, NULL, &t, &part));
    must(ckpt_shard_source_read(&s, 2, 4, got));
    ok(got[0] == want[2] && got[1] == want[3], "a part of a box, from its second element on");
    ckpt_shard_source_close(&s);
}

static void hdf5_errors(void) {
    struct ckpt_table none = {0};
    is_status(ckpt_h5_create_index("/tmp/temper-no-such-folder/index.h5", &none), TM_ERR_IO);
    ok(strstr(status_message(), "No such file or directory") != NULL, "HDF5's own reason is in the message: %s",
       status_message());
}

static void hashes(void) {
    struct tensor_desc d = {.name = "w", .dtype = DTYPE_f32, .rank = 2, .shape = {6, 5}};
    float x[30], part[30];
    uint64_t want = 0, sum = 0;
    for (int i = 0; i < 30; i++) {
        uint32_t u;
        x[i] = (float)i - 7.5f;
        memcpy(&u, &x[i], 4);
        want += hash_element(hash_bytes("w", 1, 0), (uint64_t)i, u);
    }
    struct tensor_box whole = tensor_box_whole(2, d.shape);
    ok(ckpt_hash_box(&d, &whole, x) == want, "the sum over elements as it is defined");
    struct tensor_box boxes[] = {{2, {0, 0}, {4, 2}}, {2, {0, 2}, {4, 5}}, {2, {4, 0}, {6, 5}}};
    for (int i = 2; i >= 0; i--) {
        tensor_copy_box(part, &boxes[i], x, &whole, &boxes[i], 4);
        sum += ckpt_hash_box(&d, &boxes[i], part);
    }
    ok(sum == want, "three boxes in another order give the same sum");
    tensor_copy_box(part, &boxes[0], x, &whole, &boxes[0], 4);
    struct tensor_box moved = {2, {1, 0}, {5, 2}};
    ok(ckpt_hash_box(&d, &moved, part) != ckpt_hash_box(&d, &boxes[0], part), "the place counts");
    struct tensor_desc other = d;
    other.shape[0] = 5, other.shape[1] = 6;
    ok(ckpt_hash_head(&other) != ckpt_hash_head(&d), "the shape counts");
}

int main(void) {
    runs();
    pieces();
    manifest();
    bf16();
    hdf5_errors();
    hashes();
    is_int(mem_bytes(), 0, "nothing leaks");
    return tap_done();
}
