/* TEST ranks=1 tier=1 */
/* data/: packing, shuffling, blends, token files and batches: closed forms, and properties that hold for any seed. */
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "data/order.h"
#include "data/set.h"
#include "data/writer.h"
#include "tap.h"

#include <unistd.h>

enum { MAX_T = 64 };
static int32_t tokens[MAX_T], labels[MAX_T], positions[MAX_T], first[MAX_T];
static struct data_row row = {.tokens = tokens, .labels = labels, .positions = positions, .first = first};
static char dir[] = "/tmp/temper-test-XXXXXX", prefix[64];

/* "1 2 3" of n numbers; compared as text, so that a failure shows both. */
static void is_list(const int32_t *got, int64_t n, const char *want, const char *what) {
    char text[1024] = "";
    for (int64_t i = 0; i < n; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%d", i ? " " : "", (int)got[i]);
    is_str(text, want, what);
}

/* An indexed dataset of documents whose tokens are all different: document d holds base + 100 d + i, i < lengths[d]. */
static struct data_source *documents(const int *lengths, int n, int32_t base) {
    struct data_writer *w;
    struct data_source *s = NULL;
    must(data_writer_open(prefix, DATA_I32, NULL, &w));
    for (int d = 0; d < n; d++) {
        int32_t ids[100];
        for (int i = 0; i < lengths[d]; i++) ids[i] = base + 100 * d + i;
        must(data_writer_add(w, ids, (size_t)lengths[d]));
        must(data_writer_end_document(w));
    }
    must(data_writer_finish(&w));
    must(data_source_index(prefix, &s));
    return s;
}

static const struct data_opts usual = {.seq_length = 4, .seed = 7, .vocab = 100000, .pad = -1};

static struct data_set *make(struct data_opts o, const struct data_member *m, size_t n) {
    struct data_set *s = NULL;
    must(data_set_create(&o, m, n, &s));
    return s;
}

static void permutations(void) {
    static const int64_t sizes[] = {1, 2, 3, 5, 16, 17, 64, 65, 1000, 70001};
    char seen[70001];
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        int64_t n = sizes[k], hit = 0, fixed = 0;
        memset(seen, 0, sizeof seen);
        for (int64_t i = 0; i < n; i++) {
            int64_t p = data_permute(1, 2, n, i);
            if (p < 0 || p >= n || seen[p]) continue;
            seen[p] = 1;
            hit++;
            fixed += p == i;
        }
        is_int(hit, n, "every place once");
        if (n >= 1000) ok(fixed < 12, "few fixed points: %d of %d (1 expected)", (int)fixed, (int)n);
    }
    int differ = 0, seeds[6] = {0};
    for (int64_t i = 0; i < 1000; i++) differ += data_permute(1, 2, 1000, i) != data_permute(1, 3, 1000, i);
    ok(differ > 950, "another stream, another order (%d of 1000 differ)", differ);
    for (uint64_t seed = 0; seed < 6000;
         seed++) /* three things have six orders; each should come up about 1000 times */
        seeds[data_permute(seed, 0, 3, 0) * 2 + (data_permute(seed, 0, 3, 1) > data_permute(seed, 0, 3, 2))]++;
    int worst = 0;
    for (int i = 0; i < 6; i++) worst = abs(seeds[i] - 1000) > worst ? abs(seeds[i] - 1000) : worst;
    ok(worst < 150, "the six orders of three things are about equally frequent (off by %d of 1000)", worst);
}

static void packing(void) {
    /* the stream: 0 1 2 | 100 | 200 201 202 203 204 | (empty) | 400 401; 11 tokens, 10 transitions, 3 samples of 4 */
    static const int lengths[] = {3, 1, 5, 0, 2};
    struct data_opts o = usual;
    o.pad = 9;
    struct data_set *s = make(o, &(struct data_member){.source = documents(lengths, 5, 0)}, 1);
    is_int(data_set_samples(s), 3, "samples of a pass");
    must(data_sample(s, 0, &row));
    is_list(tokens, 4, "0 1 2 100", "documents are packed end to end");
    is_list(labels, 4, "1 2 100 200", "labels are one further");
    is_list(positions, 4, "0 1 2 3", "positions run through");
    is_list(first, 4, "0 0 0 0", "everything before is seen");
    is_int(row.valid, 4, "all are scored");
    must(data_sample(s, 2, &row));
    is_list(tokens, 4, "204 400 401 9", "the last sample is padded");
    is_list(labels, 4, "400 401 -1 -1", "the last token has no label");
    is_list(first, 4, "0 0 0 4", "padding sees nothing");
    is_int(row.valid, 2, "two are scored");
    must(data_sample(s, 3, &row));
    is_list(tokens, 4, "0 1 2 100", "the next epoch follows");
    is_status(data_sample(s, -1, &row), TM_ERR_DECK);
    data_set_free(&s);

    o.reset_documents = true;
    s = make(o, &(struct data_member){.source = documents(lengths, 5, 0)}, 1);
    must(data_sample(s, 0, &row));
    is_list(positions, 4, "0 1 2 0", "positions begin anew at a document");
    is_list(first, 4, "0 0 0 3", "and so does attention");
    is_list(labels, 4, "1 2 100 200", "scored all the same");
    data_set_free(&s);

    o.mask_documents = o.drop_partial = true;
    s = make(o, &(struct data_member){.source = documents(lengths, 5, 0)}, 1);
    is_int(data_set_samples(s), 2, "the partial sample is dropped");
    must(data_sample(s, 0, &row));
    is_list(labels, 4, "1 2 -1 -1", "the step to another document is not scored");
    must(data_sample(s, 1, &row));
    is_list(tokens, 4, "200 201 202 203", "second sample");
    is_list(labels, 4, "201 202 203 204", "inside one document all are scored");
    data_set_free(&s);
}

/* Shuffled or not, in any order of access: each transition of an epoch exactly once, and the tokens of a row belong together. */
static void epochs(bool shuffle) {
    enum { D = 23 };
    int lengths[D], total = 0;
    for (int d = 0; d < D; d++) total += lengths[d] = d * 7 % 12;
    struct data_opts o = usual;
    o.order = shuffle ? DATA_SHUFFLED : DATA_IN_PLACE;
    struct data_set *s = make(o, &(struct data_member){.source = documents(lengths, D, 0)}, 1);
    int64_t n = data_set_samples(s);
    is_int(n, (total - 1 + 3) / 4, "samples of a pass");
    int32_t forward[2][64][4];
    for (int64_t e = 0; e < 2; e++) {
        static char as_input[100 * D], as_label[100 * D];
        int twice = 0, torn = 0, inputs = 0, scored = 0;
        memset(as_input, 0, sizeof as_input);
        memset(as_label, 0, sizeof as_label);
        for (int64_t i = 0; i < n; i++) {
            if (data_sample(s, e * n + i, &row) != TM_OK) ok(false, "sample");
            memcpy(forward[e][i], tokens, sizeof forward[e][i]);
            for (int k = 0; k < 4 && first[k] <= k; k++) {
                inputs++;
                twice += as_input[tokens[k]]++;
                if (labels[k] < 0) continue;
                scored++;
                twice += as_label[labels[k]]++;
                bool same = tokens[k] / 100 == labels[k] / 100; /* inside a document the label is the next token */
                torn += same ? labels[k] != tokens[k] + 1
                             : labels[k] % 100 != 0 || tokens[k] % 100 != lengths[tokens[k] / 100] - 1;
            }
        }
        is_int(scored, total - 1, "each transition is scored");
        ok(inputs == total || inputs == total - 1, "each token is an input (%d of %d)", inputs, total);
        is_int(twice + torn, 0, "once, and in its document's order");
    }
    ok(!memcmp(forward[0], forward[1], (size_t)n * sizeof *forward[0]) == !shuffle, "epochs differ when shuffled");
    bool same = true;
    for (int64_t i = 2 * n - 1; i >= 0; i--) /* backwards, across the epochs' border */
        same = same && data_sample(s, i * 17 % (2 * n), &row) == TM_OK &&
               !memcmp(tokens, forward[i * 17 % (2 * n) / n][i * 17 % (2 * n) % n], sizeof *forward[0]);
    ok(same, "a sample does not depend on what was asked before");
    data_set_free(&s);
}

static void blends(void) {
    struct data_blend b;
    size_t who;
    int64_t sample, used[3] = {0}, wrong = 0;
    must(data_blend_create((double[]){5, 3, 2}, 3, &b));
    for (int64_t i = 0; i < 200000; i++) {
        data_blend_locate(&b, i, &who, &sample);
        wrong += sample != used[who]++;
        for (int k = 0; k < 3; k++) wrong += fabs((double)used[k] - (double)(i + 1) * (5 - k - (k > 0)) / 10) > 2;
    }
    is_int(wrong, 0, "each source's samples in turn, never two away from its share");
    data_blend_free(&b);
    /* megatron-core 0.20.0, build_blending_indices for these weights: its first 24 picks */
    static const int peer[] = {0, 1, 2, 0, 1, 0, 2, 0, 1, 0, 0, 1, 2, 0, 1, 0, 2, 0, 1, 0, 0, 1, 2, 0};
    must(data_blend_create((double[]){0.5, 0.3, 0.2}, 3, &b));
    int same = 0;
    for (int64_t i = 0; i < 24; i++) {
        data_blend_locate(&b, i, &who, &sample);
        same += (int)who == peer[i];
    }
    is_int(same, 24, "the pattern is the peer's");
    data_blend_free(&b);
    is_status(data_blend_create((double[]){1, -1}, 2, &b), TM_ERR_DECK);
    is_status(data_blend_create((double[]){1, NAN}, 2, &b), TM_ERR_DECK);
    is_status(data_blend_create((double[]){1, 1e-9}, 2, &b), TM_ERR_DECK);

    struct data_member m[2] = {{.source = documents((int[]){9}, 1, 0)}, {.source = documents((int[]){5, 4}, 2, 50000)}};
    struct data_set *s = make(usual, m, 2);
    is_int(data_set_samples(s), 4, "without weights: one source after the other");
    must(data_sample(s, 1, &row));
    is_list(tokens, 4, "4 5 6 7", "the first source ends");
    must(data_sample(s, 2, &row));
    is_list(tokens, 4, "50000 50001 50002 50003", "the second begins");
    data_set_free(&s);

    struct data_opts o = usual;
    o.order = DATA_SHUFFLED;
    struct data_member w[2] = {{documents((int[]){9}, 1, 0), 3}, {documents((int[]){5, 4}, 2, 50000), 1}};
    s = make(o, w, 2);
    int of_second = 0;
    for (int64_t i = 0; i < 400; i++) {
        must(data_sample(s, i, &row));
        of_second += tokens[0] >= 50000;
    }
    is_int(of_second, 100, "a quarter of the samples from the source with a quarter of the weight");
    data_set_free(&s);
}

static void token_files(void) {
    static const int64_t ids[] = {0, 0, 11, 12, 13, 21, 22, 23, 24, 25, 31, 32, 33, 0, 0};
    static const int64_t mask[] = {0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0};
    static const int64_t wanted[] = {-100, -100, 11, -100, 13, 21, 22, 7, 24, 25, 31, -100, -100, -100, -100};
    struct data_source *source = NULL;
    struct data_opts o = usual;
    o.seq_length = 0; /* taken from the file */
    must(data_source_rows("rows", ids, mask, NULL, 3, 5, &source));
    struct data_set *s = make(o, &(struct data_member){.source = source}, 1);
    is_int(data_set_seq_length(s), 5, "the rows' length");
    is_int(data_set_samples(s), 3, "a sample is a row");
    must(data_sample(s, 0, &row));
    is_list(tokens, 5, "0 0 11 12 13", "a row is taken as it is");
    is_list(labels, 5, "-1 -1 12 13 -1", "padding is not scored, nor is the step out of it");
    is_list(positions, 5, "0 0 0 1 2", "positions count from the first real token");
    is_list(first, 5, "1 2 2 2 2", "padding sees nothing and is not seen");
    is_int(row.valid, 2, "scored");
    must(data_sample(s, 2, &row));
    is_list(labels, 5, "32 33 -1 -1 -1", "padding on the right");
    is_list(first, 5, "0 0 0 4 5", "sees nothing");
    data_set_free(&s);

    must(data_source_rows("rows", ids, mask, wanted, 3, 5, &source));
    s = make(o, &(struct data_member){.source = source}, 1);
    must(data_sample(s, 0, &row));
    is_list(labels, 5, "-1 -1 -1 13 -1", "given labels are shifted by one");
    must(data_sample(s, 1, &row));
    is_list(labels, 5, "22 7 24 25 -1", "and need not be the next token");
    data_set_free(&s);

    must(data_source_rows("rows", ids, NULL, NULL, 3, 5, &source));
    o.vocab = 33;
    s = make(o, &(struct data_member){.source = source}, 1);
    must(data_sample(s, 1, &row));
    is_status(data_sample(s, 2, &row), TM_ERR_DATA);
    is_str(status_message(), "rows: token 2 of row 2 has id 33: the vocabulary has 33", "the message names the place");
    data_set_free(&s);
    static const int64_t hole[] = {1, 0, 1, 1, 1};
    is_status(data_source_rows("rows", ids, hole, NULL, 1, 5, &source), TM_ERR_DATA);
    ok(strstr(status_message(), "row 0 has a hole before position 2") != NULL, "%s", status_message());
    is_status(data_source_rows("rows", ids, NULL, NULL, 0, 5, &source), TM_ERR_DATA);
    is_status(data_source_rows("rows", ids, NULL, NULL, INT64_MAX, 5, &source), TM_ERR_DATA);
}

static void batches(void) {
    struct data_batch b;
    struct data_source *source = NULL;
    struct data_opts o = usual;
    o.order = DATA_SHUFFLED;
    o.vocab = 50;
    must(data_source_mock(3, 40, 9, 50, 49, &source));
    struct data_set *s = make(o, &(struct data_member){.source = source}, 1);
    must(data_batch_create(3, 4, &b));
    must(data_batch_fill(s, 5, 2, &b));
    int64_t valid = 0, same = 0;
    for (int64_t r = 0; r < 2; r++) {
        must(data_sample(s, 5 + r, &row));
        valid += row.valid;
        same += !memcmp(b.tokens + r * 4, tokens, 16) && !memcmp(b.labels + r * 4, labels, 16) &&
                !memcmp(b.positions + r * 4, positions, 16) && !memcmp(b.first + r * 4, first, 16);
    }
    is_int(same, 2, "rows are the samples");
    is_int(b.valid, valid, "scored labels are counted");
    is_list(b.labels + 8, 4, "-1 -1 -1 -1", "rows behind the count are padding");
    is_list(b.first + 8, 4, "1 2 3 4", "that sees nothing");
    is_status(data_batch_fill(s, 0, 4, &b), TM_ERR_SHAPE);
    data_batch_free(&b);
    is_status(data_batch_create(0, 4, &b), TM_ERR_SHAPE);
    must(data_batch_create(1, 5, &b));
    is_status(data_batch_fill(s, 0, 1, &b), TM_ERR_SHAPE);
    data_batch_free(&b);

    struct str text = {0}; /* the record of documents accounts for each token of the rows */
    json_t *root;
    must(data_describe(s, 2, 3, &text));
    must(json_read_buffer(text.p, text.len, "description", &root));
    const json_t *rows = json_object_get(root, "rows");
    is_int(json_array_size(rows), 3, "rows described");
    for (size_t r = 0; r < 3; r++) {
        int64_t at = 0, read[5], wrong = 0;
        const json_t *pieces = json_object_get(json_array_get(rows, r), "pieces");
        must(data_sample(s, 2 + (int64_t)r, &row));
        must(data_source_mock(3, 40, 9, 50, 49, &source));
        for (size_t k = 0; k < json_array_size(pieces); k++) {
            int64_t v[4];
            for (size_t j = 0; j < 4; j++) v[j] = json_integer_value(json_array_get(json_array_get(pieces, k), j));
            must(data_source_read(source, v[1], v[2], v[3], read));
            for (int64_t i = 0; i < v[3]; i++, at++) wrong += read[i] != (at < 4 ? tokens[at] : labels[3]);
        }
        ok(at == 5 && wrong == 0, "row %zu: its pieces are its tokens", r);
        data_source_free(&source);
    }
    json_decref(root);
    str_free(&text);
    data_set_free(&s);
}

static void refused(struct data_opts o, struct data_member *m, size_t n, enum status want, const char *part) {
    struct data_set *s;
    enum status st = data_set_create(&o, m, n, &s);
    ok(st == want && !s && strstr(status_message(), part), "refused: %s", status_message());
}

static void refusals(void) {
    struct data_opts o = usual;
    struct data_source *source = NULL;
    struct data_member m[2];
    refused(o, NULL, 0, TM_ERR_DECK, "without sources");
    m[0] = (struct data_member){documents((int[]){1}, 1, 0), 0};
    refused(o, m, 1, TM_ERR_DATA, "holds 1 tokens: expected at least 2");
    m[0] = (struct data_member){documents((int[]){4}, 1, 0), 0};
    o.drop_partial = true;
    refused(o, m, 1, TM_ERR_DATA, "holds 4 tokens: expected at least 5");
    m[0] = (struct data_member){documents((int[]){4}, 1, 0), 0};
    m[1] = (struct data_member){documents((int[]){4}, 1, 0), 1};
    refused(usual, m, 2, TM_ERR_DECK, "1 of 2 sources have a weight");
    must(data_source_rows("rows", (int64_t[]){1, 2, 3}, NULL, NULL, 1, 3, &source));
    m[0] = (struct data_member){source, 0};
    refused(usual, m, 1, TM_ERR_SHAPE, "rows of 3 tokens: expected seq_length = 4");
    o = usual;
    o.vocab = 0;
    m[0] = (struct data_member){documents((int[]){4}, 1, 0), 0};
    refused(o, m, 1, TM_ERR_DECK, "vocabulary of 0");
}

/* A negative id, and one that needs 64 bits: from a shard of 64-bit tokens. */
static void wild_ids(void) {
    static const int64_t wild[] = {3, 4, 1LL << 40, -1, 5};
    char path[96];
    struct data_writer *w;
    struct data_source *source;
    must(data_writer_open(prefix, DATA_I64, NULL, &w));
    must(data_writer_add(w, (int32_t[]){0, 0, 0, 0, 0}, 5));
    must(data_writer_end_document(w));
    must(data_writer_finish(&w));
    snprintf(path, sizeof path, "%s.bin", prefix);
    must(file_write(path, wild, sizeof wild));
    must(data_source_index(prefix, &source));
    struct data_set *s = make(usual, &(struct data_member){.source = source}, 1);
    is_status(data_sample(s, 0, &row), TM_ERR_DATA);
    ok(strstr(status_message(), "token 2 of document 0 has id 1099511627776: the vocabulary has 100000"), "%s",
       status_message());
    data_set_free(&s);
}

/* A row a document, cut or padded; and rows that share no token. */
static void one_document(void) {
    static const int lengths[] = {3, 0, 7, 1};
    struct data_opts o = usual;
    o.pad = 9;
    o.one_document = true;
    struct data_set *s = make(o, &(struct data_member){.source = documents(lengths, 4, 0)}, 1);
    is_int(data_set_samples(s), 4, "a row a document");
    must(data_sample(s, 0, &row));
    is_list(tokens, 4, "0 1 2 9", "padded");
    is_list(labels, 4, "1 2 -1 -1", "scored to its end");
    is_list(first, 4, "0 0 0 4", "padding sees nothing");
    must(data_sample(s, 1, &row));
    is_int(row.valid, 0, "an empty document");
    must(data_sample(s, 2, &row));
    is_list(tokens, 4, "200 201 202 203", "cut");
    is_list(labels, 4, "201 202 203 204", "the last label is behind the cut");
    must(data_sample(s, 7, &row));
    is_list(labels, 4, "-1 -1 -1 -1", "one token has nothing to predict; the next pass follows");
    data_set_free(&s);

    o.one_document = false;
    o.no_overlap = true; /* 0 1 2 | 200 .. 206 | 300: 11 tokens */
    s = make(o, &(struct data_member){.source = documents(lengths, 4, 0)}, 1);
    is_int(data_set_samples(s), 3, "rows of 4 without overlap");
    must(data_sample(s, 1, &row));
    is_list(tokens, 4, "201 202 203 204", "the second begins behind the first");
    is_list(labels, 4, "202 203 204 -1", "and its last label is not scored");
    must(data_sample(s, 2, &row));
    is_list(tokens, 4, "205 206 300 9", "the last is padded");
    data_set_free(&s);
}

/* Three documents of 2^30 tokens each, 6 GiB that no machine's memory need hold: a few samples of it, in little memory. */
static void larger_than_memory(void) {
    char path[96], idx[34 + 3 * 12 + 4 * 8] = "MMIDIDX\0\0\1", *p = idx + 34;
    const int64_t n = 1 << 30;
    struct data_source *source;
    idx[17] = DATA_U16;
    idx[18] = 3;
    idx[26] = 4;
    for (int64_t i = 0; i < 3; i++, p += 4) memcpy(p, &n, 4);
    for (int64_t i = 0; i < 3; i++, p += 8) memcpy(p, &(int64_t){2 * n * i}, 8);
    for (int64_t i = 0; i < 4; i++, p += 8) memcpy(p, &i, 8);
    snprintf(path, sizeof path, "%s.idx", prefix);
    must(file_write(path, idx, sizeof idx));
    snprintf(path, sizeof path, "%s.bin", prefix);
    must(file_write(path, "", 0));
    if (truncate(path, 6 * n) != 0) { /* all zeros, no blocks */
        ok(true, "6 GiB # SKIP this file system has no sparse files");
        return;
    }
    for (int k = 0; k < 2; k++) {
        struct data_opts o = usual;
        o.order = k ? DATA_SHUFFLED : DATA_IN_PLACE;
        o.seq_length = 64;
        o.drop_partial = true;
        must(data_source_index(prefix, &source));
        size_t before = mem_bytes();
        mem_high_reset();
        struct data_set *s = make(o, &(struct data_member){.source = source}, 1);
        is_int(data_set_samples(s), (3 * n - 1) / 64, "samples of 3 x 2^30 tokens");
        for (int64_t i = 0; i < 5; i++) must(data_sample(s, i * (data_set_samples(s) / 5), &row));
        is_int(row.valid, 64, "a whole row");
        ok(mem_high_water() - before < 8192, "%d bytes of memory", (int)(mem_high_water() - before));
        data_set_free(&s);
    }
    unlink(path);
}

int main(void) {
    ok(mkdtemp(dir) != NULL, "temporary directory");
    snprintf(prefix, sizeof prefix, "%s/x", dir);
    permutations();
    packing();
    epochs(false);
    epochs(true);
    blends();
    token_files();
    batches();
    refusals();
    wild_ids();
    larger_than_memory();
    one_document();
    file_remove_tree(dir);
    is_int(mem_bytes(), 0, "all memory given back");
    return tap_done();
}
