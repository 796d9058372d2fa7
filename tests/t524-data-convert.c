/* TEST ranks=1,2,3,4 tier=1 */
/* data/: text and JSONL converted by any number of ranks: the same two files; ranges of a file give each document once. */
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/rng.h"
#include "data/convert.h"
#include "data/index.h"
#include "data/writer.h"
#include "tap_mpi.h"

static char dir[64], txt[96], jsonl[96], prefix[96], json[96];
static struct par_grid grid;

/* --- ranges -------------------------------------------------------------------------------------------------------------*/

/* The documents of one range, each in brackets. */
static void collect(const char *path, const struct data_text_opts *o, int64_t from, int64_t to, struct str *out) {
    struct data_text *t = NULL;
    const char *text = "";
    size_t n;
    if (data_text_open(path, o, from, to, &t) != TM_OK) ok(false, "range opens");
    while (t && text) {
        if (data_text_next(t, &text, &n) != TM_OK) ok(false, "document");
        if (text) str_append(out, "[", 1), str_append(out, text, n), str_append(out, "]", 1);
    }
    data_text_close(&t);
}

/* Cut the file at every place, and at two: the same documents in the same order. */
static void cuts(const char *path, const char *bytes, size_t n, const char *what) {
    struct data_text_opts o = {.split = data_text_split(path, "auto"), .text_key = "text"};
    struct str whole = {0}, parts = {0};
    int64_t wrong = 0, size = (int64_t)n;
    must(file_write(path, bytes, n));
    collect(path, &o, 0, size, &whole);
    for (int64_t a = 0; a <= size; a++)
        for (int64_t b = a; b <= size; b += 1 + b % 3) {
            str_clear(&parts);
            collect(path, &o, 0, a, &parts);
            collect(path, &o, a, b, &parts);
            collect(path, &o, b, size, &parts);
            wrong += strcmp(whole.p, parts.p) != 0;
        }
    ok(wrong == 0 && whole.len > 10, "%s: cut anywhere, the same documents", what);
    str_free(&whole);
    str_free(&parts);
}

static void ranges(void) {
#define CUTS(path, text) cuts(path, text, sizeof text - 1, text)
    if (par_rank() != 0) return; /* the file is one */
    CUTS(txt, "a b\nc\n\n \nd\n\n\ne\nf");
    CUTS(txt, "\n\n\xc3\xa9t\xc3\xa9\r\n\r\nb\n \t\nccc\nddd\n\n");
    CUTS(txt, "one document without a blank line\nand a second line");
    CUTS(jsonl, "{\"text\": \"a\"}\n\n  \n{\"text\": \"bb\"}\r\n{\"text\": \"\"}\n{\"text\": \"c\"}");
    struct data_text_opts file = {.split = DATA_SPLIT_FILE};
    struct str s = {0};
    must(file_write(txt, "a\n\nb\n", 5));
    collect(txt, &file, 0, 2, &s);
    collect(txt, &file, 2, 5, &s);
    is_str(s.p, "[a\n\nb\n]", "a whole file belongs to the range with its first byte");
    str_free(&s);
}

/* --- damage -------------------------------------------------------------------------------------------------------------*/

static void is_mended(const char *path, enum data_utf8 policy, const char *text, size_t n, const char *want,
                      int damaged) {
    struct data_text_opts o = {.split = data_text_split(path, "auto"), .text_key = "text", .utf8 = policy};
    struct data_text *t = NULL;
    struct str s = {0};
    const char *p = "";
    size_t m;
    must(file_write(path, text, n));
    must(data_text_open(path, &o, 0, INT64_MAX, &t));
    while (p) {
        must(data_text_next(t, &p, &m));
        if (p) str_append(&s, "[", 1), str_append(&s, p, m), str_append(&s, "]", 1);
    }
    is_str(s.p ? s.p : "", want, "documents");
    is_int(data_text_damaged(t), damaged, "damaged");
    data_text_close(&t);
    str_free(&s);
}

static void damage(void) {
#define MENDED(path, policy, text, want, n) is_mended(path, policy, text, sizeof text - 1, want, n)
    if (par_rank() != 0) return;
    MENDED(txt, DATA_UTF8_REPLACE, "a\xff\n\nb\xe2\x82z\n\nc\n", "[a\xef\xbf\xbd\n][b\xef\xbf\xbdz\n][c\n]", 2);
    MENDED(txt, DATA_UTF8_DROP, "a\xff\n\nb\xe2\x82z\n\nc\n", "[c\n]", 2);
    MENDED(jsonl, DATA_UTF8_REPLACE, "{\"text\": \"a\xff\"}\n{\"text\": \"b\"}\n", "[a\xef\xbf\xbd][b]", 1);
    MENDED(jsonl, DATA_UTF8_DROP, "{\"text\": \"a\xff\"}\n{\"text\": \"b\"}\n", "[b]", 1);

    /* a line of more than 64 MiB: an error of the range that it begins in, nothing to the range behind it */
    struct data_text_opts o = {.split = DATA_SPLIT_JSONL, .text_key = "text"};
    struct data_text *t;
    const char *p;
    size_t n;
    FILE *f = fopen(jsonl, "wb");
    ok(f && fputs("{\"text\": \"a\"}\n{\"text\": \"", f) >= 0 && fseek(f, 70 << 20, SEEK_SET) == 0 &&
           fputs("\"}\n{\"text\": \"b\"}\n", f) >= 0 && fclose(f) == 0,
       "a file with a line of 70 MiB");
    must(data_text_open(jsonl, &o, 0, INT64_MAX, &t));
    must(data_text_next(t, &p, &n));
    is_status(data_text_next(t, &p, &n), TM_ERR_DATA);
    ok(strstr(status_message(), "the line at byte 14 is longer than 67108864 bytes") != NULL, "%s", status_message());
    data_text_close(&t);
    must(data_text_open(jsonl, &o, 1000, INT64_MAX, &t));
    must(data_text_next(t, &p, &n));
    ok(n == 1 && *p == 'b', "the next range reads past it");
    data_text_close(&t);
}

/* --- all ranks ----------------------------------------------------------------------------------------------------------*/

/* 3 MB of lines and 1 MB of text from random words, lengths very unequal; the same on any number of ranks. */
static enum status make_corpus(void) {
    struct str a = {0}, b = {0};
    enum status st = TM_OK;
    for (uint64_t d = 0, k = 0; d < 600 && st == TM_OK; d++) {
        uint64_t words = d % 97 == 0 ? 40000 : rng_below(1, 1, d, 300);
        st = str_printf(&a, "{\"id\": %d, \"text\": \"", (int)d);
        for (uint64_t w = 0; w < words && st == TM_OK; w++, k++) {
            char word[16] = " ";
            size_t n = 1 + (size_t)rng_below(1, 2, k, 9);
            for (size_t i = 0; i < n; i++) word[i + 1] = (char)('a' + rng_below(1, 3 + i, k, 26));
            st = str_append(&a, word, n + 1);
            if (st == TM_OK && d % 2) st = str_append(&b, word, n + 1);
            if (st == TM_OK && d % 2 && k % 50 == 0) st = str_append(&b, "\n", 1);
        }
        if (st == TM_OK) st = str_append(&a, "\"}\n", 3);
        if (st == TM_OK && d % 2) st = str_append(&b, "\n\n", 2);
    }
    if (st == TM_OK) st = file_write(jsonl, a.p, a.len);
    if (st == TM_OK) st = file_write(txt, b.p, b.len);
    str_free(&a);
    str_free(&b);
    return st;
}

static enum status digest_of(const char *path, uint64_t *out) {
    char *bytes;
    size_t n;
    TM_TRY(file_read(path, 1 << 26, &bytes, &n));
    *out = hash_bytes(bytes, n, 0);
    mem_free(&bytes);
    return TM_OK;
}

static int64_t rounds_seen;
static enum status seen(void *ctx, int64_t done, int64_t all) {
    rounds_seen += ctx == &rounds_seen && done <= all;
    return TM_OK;
}

static enum status convert(struct par_group *g, const char *to, struct tok *t, struct data_converted *out) {
    const char *const paths[] = {jsonl, txt};
    struct data_convert c = {.paths = paths,
                             .n = 2,
                             .text_key = "text",
                             .tok = t,
                             .eod = 0,
                             .prefix = to,
                             .round = seen,
                             .ctx = &rounds_seen};
    return data_convert_text(&c, g, out);
}

/* The group's files against those of one rank alone. */
static void same_files(struct tok *t) {
    struct data_converted all, one = {0};
    uint64_t digest[2][2] = {{0}};
    char alone[96], path[128];
    snprintf(alone, sizeof alone, "%s/alone", dir);
    must(convert(grid.world, prefix, t, &all));
    if (par_rank() != 0) return;
    must(convert(NULL, alone, t, &one));
    ok(one.documents == all.documents && one.tokens == all.tokens && one.bytes == all.bytes, "the same counts");
    ok(all.documents > 850 && all.tokens > 300000, "%d documents of %d tokens", (int)all.documents, (int)all.tokens);
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 2; k++) {
            snprintf(path, sizeof path, "%s.%s", k ? alone : prefix, i ? "idx" : "bin");
            must(digest_of(path, &digest[i][k]));
        }
    ok(digest[0][0] == digest[0][1], ".bin of %d ranks = of one", par_size());
    ok(digest[1][0] == digest[1][1], ".idx of %d ranks = of one", par_size());
    ok(rounds_seen >= 2, "it says where it is (%d times)", (int)rounds_seen);
    struct data_index *x;
    must(data_index_open(prefix, &x));
    ok(x->documents == all.documents && x->sequences == all.documents && x->tokens == all.tokens, "the index says so");
    data_index_close(&x);
    snprintf(path, sizeof path, "%s.bin.1.tmp", prefix);
    ok(!file_exists(path), "nothing is left beside them");
}

/* One rank's error ends it on all, and what was there stays. */
static void failure(struct tok *t) {
    struct data_converted made;
    uint64_t before = 0, after = 0;
    char path[128];
    snprintf(path, sizeof path, "%s.bin", prefix);
    enum status st = TM_OK;
    if (par_rank() == 0) {
        st = digest_of(path, &before);
        FILE *f = fopen(jsonl, "ab"); /* the last line */
        if (!f || fputs("{\"txt\": 1}\n", f) < 0 || fclose(f) != 0) st = TM_ERR_IO;
    }
    must(par_agree_all(st));
    is_status(convert(grid.world, prefix, t, &made), TM_ERR_DATA);
    ok(strstr(status_message(), "b.jsonl:601: expected an object with a string under \"text\"") != NULL, "%s",
       status_message());
    if (par_rank() == 0) must(digest_of(path, &after));
    ok(before == after, "the old file is there");
    struct data_writer *w = NULL;
    is_status(data_writer_open("/nonexistent/x", DATA_U16, NULL, &w), TM_ERR_IO);
}

/* More ranks than documents, and several sequences a document through the group's writer. */
static void small(struct tok *t) {
    struct data_converted made;
    struct data_writer *w = NULL;
    struct data_index *x;
    enum status st = TM_OK;
    if (par_rank() == 0) {
        st = file_write(jsonl, "", 0);
        if (st == TM_OK) st = file_write(txt, "ab\n", 3);
    }
    must(par_agree_all(st));
    must(convert(grid.world, prefix, t, &made));
    is_int(made.documents, 1, "one document, however many ranks");
    if (par_rank() == 0) st = file_write(txt, " \n", 2);
    must(par_agree_all(st));
    is_status(convert(grid.world, prefix, t, &made), TM_ERR_DATA);
    must(data_writer_open(prefix, DATA_I32, grid.world, &w));
    int32_t ids[] = {par_rank(), 7, 8};
    must(data_writer_add(w, ids, 3));
    must(data_writer_add(w, ids, (size_t)par_rank() % 2));
    must(data_writer_end_document(w));
    must(data_writer_finish(&w));
    must(data_index_open(prefix, &x));
    int64_t got, wrong = x->documents != par_size() || x->sequences != 2 * par_size();
    for (int r = 0; r < par_size() && !wrong; r++) {
        wrong += data_index_document(x, r) != 2 * r || data_index_length(x, 2 * r) != 3 ||
                 data_index_length(x, 2 * r + 1) != r % 2;
        wrong += data_index_read(x, 2 * r, 0, 1, &got) != TM_OK || got != r;
    }
    is_int(wrong, 0, "ranks' sequences in the order of the ranks");
    data_index_close(&x);
}

int main(int argc, char **argv) {
    struct tok *t = NULL;
    if (tap_mpi_start(&argc, &argv)) return 1;
    enum status st = TM_OK;
    memcpy(dir, "/tmp/temper-test-XXXXXX", 24);
    if (par_rank() == 0 && !mkdtemp(dir)) st = TM_FAIL(TM_ERR_IO, "no temporary directory");
    must(par_agree_all(st));
    must(par_grid_create_all(1, 1, 1, &grid));
    must(par_bcast(grid.world, dir, sizeof dir, 0));
    snprintf(txt, sizeof txt, "%s/a.txt", dir);
    snprintf(jsonl, sizeof jsonl, "%s/b.jsonl", dir);
    snprintf(prefix, sizeof prefix, "%s/out", dir);
    snprintf(json, sizeof json, "%s/tokenizer.json", dir);
    ranges();
    damage();
    if (par_rank() == 0)
        st = tok_train_bpe(&(struct tok_text){"the cat and the hat", 19}, 1, 264, (const char *const[]){"<eod>"}, 1,
                           json);
    if (par_rank() == 0 && st == TM_OK) st = make_corpus();
    must(par_agree_all(st));
    must(tok_open(json, &t));
    same_files(t);
    failure(t);
    small(t);
    tok_close(&t);
    must(par_barrier(grid.world));
    if (par_rank() == 0) file_remove_tree(dir);
    par_grid_destroy(&grid);
    return tap_mpi_done();
}
