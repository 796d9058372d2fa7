/* TEST ranks=1 tier=1 */
/* data/: Megatron's .bin/.idx, read against the peer's own numbers, written back to the same bytes, damaged on purpose. */
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "data/writer.h"
#include "tap.h"

#include <unistd.h>

static char dir[] = "/tmp/temper-test-XXXXXX", prefix[64];

static bool equal_files(const char *a, const char *b) {
    char *x = NULL, *y = NULL;
    size_t n = 0, m = 1;
    bool same =
        file_read(a, 1 << 24, &x, &n) == TM_OK && file_read(b, 1 << 24, &y, &m) == TM_OK && n == m && !memcmp(x, y, n);
    mem_free(&x);
    mem_free(&y);
    return same;
}

/* Write what was read through the writer; multimodal files have modes that the writer does not know. */
static void round_trip(const struct data_index *x, const char *path) {
    struct data_writer *w;
    char ours[96], theirs[600];
    int64_t wide[4096];
    int32_t ids[4096];
    must(data_writer_open(prefix, x->dtype, NULL, &w));
    for (int64_t d = 0; d < x->documents; d++) {
        for (int64_t s = data_index_document(x, d); s < data_index_document(x, d + 1); s++) {
            if (data_index_length(x, s) > 4096 || data_index_read(x, s, 0, data_index_length(x, s), wide) != TM_OK)
                ok(false, "read of %s", path);
            for (int32_t i = 0; i < data_index_length(x, s); i++) ids[i] = (int32_t)wide[i];
            if (data_writer_add(w, ids, (size_t)data_index_length(x, s)) != TM_OK) ok(false, "write of %s", path);
        }
        if (data_writer_end_document(w) != TM_OK) ok(false, "write of %s", path);
    }
    must(data_writer_finish(&w));
    for (int i = 0; i < 2; i++) {
        snprintf(ours, sizeof ours, "%s.%s", prefix, i ? "idx" : "bin");
        snprintf(theirs, sizeof theirs, "%s.%s", path, i ? "idx" : "bin");
        ok(equal_files(ours, theirs), "%s written back: equal bytes", theirs);
    }
}

static bool equal_list(const json_t *list, int64_t n, const int64_t *got) {
    if ((int64_t)json_array_size(list) != n) return false;
    for (int64_t i = 0; i < n; i++)
        if (json_integer_value(json_array_get(list, (size_t)i)) != got[i]) return false;
    return true;
}

static bool equal_array(const json_t *list, int64_t n, const struct data_index *x,
                        int64_t (*at)(const struct data_index *, int64_t)) {
    int64_t got[64];
    for (int64_t i = 0; i < n; i++) got[i] = at(x, i);
    return equal_list(list, n, got);
}

static void one_golden(const char *folder, const char *name, const json_t *want) {
    char path[512];
    struct data_index *x;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    must(data_index_open(path, &x));
    is_int(x->sequences, json_integer_value(json_object_get(want, "sequences")), "sequences");
    is_int(x->documents, json_integer_value(json_object_get(want, "documents")), "documents");
    is_int(x->tokens, json_integer_value(json_object_get(want, "sequence_lengths_sum")), "tokens");
    is_int(x->dtype, strcmp(json_string_value(json_object_get(want, "dtype")), "uint16") ? DATA_I32 : DATA_U16,
           "dtype");
    int64_t part[2], all[64];
    must(data_index_read(x, 0, 1, 2 - (data_index_length(x, 0) < 3), part));
    is_int(part[0], json_integer_value(json_array_get(json_object_get(want, "get_partial"), 0)),
           "tokens from an offset");
    const json_t *tokens = json_object_get(want, "sequences_tokens");
    if (tokens) {
        ok(equal_array(json_object_get(want, "lengths"), x->sequences, x, data_index_length) &&
               equal_array(json_object_get(want, "pointers"), x->sequences, x, data_index_offset) &&
               equal_array(json_object_get(want, "document_indices"), x->documents + 1, x, data_index_document),
           "%s: all three arrays", name);
        bool same = true;
        for (int64_t s = 0; s < x->sequences; s++)
            same = same && data_index_read(x, s, 0, data_index_length(x, s), all) == TM_OK &&
                   equal_list(json_array_get(tokens, (size_t)s), data_index_length(x, s), all);
        ok(same, "%s: every token", name);
    }
    is_int(x->has_modes, json_object_get(want, "modes") != NULL, "mode bytes");
    if (!x->has_modes) round_trip(x, path);
    data_index_close(&x);
}

static void goldens(void) {
    const char *env = getenv("TEMPER_SHARED"), *roots[] = {env ? env : "../shared", "../../shared"};
    char folder[400], path[450];
    json_t *all = NULL, *node;
    for (size_t i = 0; i < 2 && !all; i++) {
        snprintf(folder, sizeof folder, "%s/golden/data/indexed", roots[i]);
        snprintf(path, sizeof path, "%s/indexed.json", folder);
        all = json_load_file(path, 0, NULL);
    }
    if (!all) {
        ok(true, "goldens # SKIP no golden/data/indexed under TEMPER_SHARED");
        return;
    }
    const char *name; /* written by megatron-core 0.20.0's IndexedDatasetBuilder */
    json_object_foreach(json_object_get(all, "files"), name, node) one_golden(folder, name, node);
    is_int(json_object_size(json_object_get(all, "files")), 6, "files compared");
    json_decref(all);
}

/* --- by hand --------------------------------------------------------------------------------------------------------------*/

static void write_small(enum data_dtype dtype) {
    struct data_writer *w;
    must(data_writer_open(prefix, dtype, NULL, &w));
    must(data_writer_add(w, (int32_t[]){1, 2, 3}, 3));
    must(data_writer_add(w, (int32_t[]){100, 0}, 2));
    must(data_writer_end_document(w));
    must(data_writer_add(w, (int32_t[]){7}, 1));
    must(data_writer_end_document(w));
    must(data_writer_finish(&w));
}

static void widths(void) {
    static const enum data_dtype types[] = {DATA_U8, DATA_I8, DATA_I16, DATA_I32, DATA_I64, DATA_U16};
    static const int64_t bytes[] = {6, 6, 12, 24, 48, 12};
    char path[96];
    for (size_t i = 0; i < 6; i++) {
        struct data_index *x;
        int64_t got[2];
        write_small(types[i]);
        snprintf(path, sizeof path, "%s.bin", prefix);
        is_int(file_size(path), bytes[i], "bytes of 6 tokens");
        snprintf(path, sizeof path, "%s.idx", prefix);
        is_int(file_size(path), 34 + 12 * 3 + 8 * 3, "bytes of the index");
        must(data_index_open(path, &x)); /* by the name of a file too */
        must(data_index_read(x, 1, 0, 2, got));
        ok(got[0] == 100 && got[1] == 0 && data_index_offset(x, 2) == bytes[i] / 6 * 5, "tokens come back");
        is_status(data_index_read(x, 1, 1, 2, got), TM_ERR_INTERNAL);
        data_index_close(&x);
    }
    struct data_writer *w;
    must(data_writer_open(prefix, DATA_U16, NULL, &w));
    is_status(data_writer_add(w, (int32_t[]){1, 65536}, 2), TM_ERR_DATA);
    ok(strstr(status_message(), "token 1 of sequence 0 has id 65536") != NULL, "%s", status_message());
    data_writer_cancel(&w);
    is_status(data_writer_open("/nonexistent/x", DATA_U16, NULL, &w), TM_ERR_IO);
}

/* Set bytes of the good index and expect a message. */
static void damaged(size_t at, const void *bytes, size_t n, const char *part) {
    char path[96], *good;
    size_t size;
    struct data_index *x;
    snprintf(path, sizeof path, "%s.idx", prefix);
    must(file_read(path, 4096, &good, &size));
    char bad[4096];
    memcpy(bad, good, size);
    memcpy(bad + at, bytes, n);
    must(file_write(path, bad, size));
    enum status st = data_index_open(prefix, &x);
    ok(st == TM_ERR_FORMAT && !x && strstr(status_message(), part), "refused: %s", status_message());
    must(file_write(path, good, size));
    mem_free(&good);
}

static void hostile(void) {
    char path[96];
    struct data_index *x;
    write_small(DATA_U16);
    damaged(0, "X", 1, "is not an index");
    damaged(9, "\2", 1, "version 2: expected 1");
    damaged(17, "\6", 1, "dtype code 6");
    damaged(17, "\0", 1, "dtype code 0");
    damaged(18, "\4", 1, "expected 34 + 12 x 4 sequences");
    damaged(18, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, "expected 34 + 12 x");
    damaged(26, "\0\0\0\0\0\0\0\x10", 8, "document bounds");
    damaged(34, "\xff\xff\xff\xff", 4, "sequence 0 has -1 tokens");
    damaged(38, "\x7f", 1, "sequence 1 has 127 tokens of 2 bytes at byte 6");
    damaged(46 + 16, "\x0c", 1, "sequence 2 has 1 tokens of 2 bytes at byte 12");
    damaged(46, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, "at byte -1");
    damaged(46, "\xff\xff\xff\xff\xff\xff\xff\x7f", 8, "at byte 9223372036854775807");
    damaged(54, "\4", 1, "sequence 1 begins at byte 4, before the end of the one before it at byte 6");
    damaged(46, "\2", 1, "sequence 1 begins at byte 6, before the end of the one before it at byte 8");
    damaged(70, "\1", 1, "document bound 0 of 2 is sequence 1: expected 0 to 0");
    damaged(78, "\4", 1, "document bound 1 of 2 is sequence 4: expected 0 to 3");
    damaged(86, "\2", 1, "document bound 2 of 2 is sequence 2: expected 3 to 3");

    snprintf(path, sizeof path, "%s.bin", prefix);
    ok(truncate(path, 11) == 0, "one byte off");
    is_status(data_index_open(prefix, &x), TM_ERR_FORMAT);
    ok(strstr(status_message(), "has 11 bytes") && strstr(status_message(), "sequence 2"), "%s", status_message());
    write_small(DATA_U16);
    must(data_index_open(prefix, &x));
    int64_t got[3];
    ok(truncate(path, 3) == 0, "the file shrinks under the reader");
    is_status(data_index_read(x, 0, 0, 3, got), TM_ERR_FORMAT);
    data_index_close(&x);
    unlink(path);
    is_status(data_index_open(prefix, &x), TM_ERR_IO);
    is_status(data_index_open("/nonexistent/x", &x), TM_ERR_IO);
}

/* Any damage: refused, or every token of every sequence can still be read. */
static void fuzz(void) {
    char path[96], *good;
    size_t n;
    write_small(DATA_I32);
    snprintf(path, sizeof path, "%s.idx", prefix);
    must(file_read(path, 4096, &good, &n));
    int opened = 0, bad_reads = 0;
    for (uint64_t i = 0; i < 3000; i++) {
        char bytes[256];
        struct data_index *x;
        int64_t got[64];
        memcpy(bytes, good, n);
        for (uint64_t k = 0; k <= i % 3; k++)
            bytes[rng_below(9, k, i, n)] = (char)rng_below(9, 8 + k, i, i % 2 ? 8 : 256);
        FILE *f = fopen(path, "wb");
        size_t keep = i % 5 ? n : rng_below(9, 99, i, n);
        if (!f || fwrite(bytes, 1, keep, f) != keep) ok(false, "write");
        if (f) fclose(f);
        if (data_index_open(prefix, &x) != TM_OK) continue;
        opened++;
        for (int64_t s = 0; s < x->sequences; s++)
            bad_reads +=
                data_index_length(x, s) > 64 || data_index_read(x, s, 0, data_index_length(x, s), got) != TM_OK;
        data_index_close(&x);
    }
    ok(bad_reads == 0 && opened > 0, "3000 damaged indices: %d opened, each of them whole", opened);
    mem_free(&good);
}

int main(void) {
    ok(mkdtemp(dir) != NULL, "temporary directory");
    snprintf(prefix, sizeof prefix, "%s/x", dir);
    goldens();
    widths();
    hostile();
    fuzz();
    file_remove_tree(dir);
    is_int(mem_bytes(), 0, "all memory given back");
    return tap_done();
}
