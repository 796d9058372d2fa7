/* TEST ranks=1 tier=1 */
/* data/: Megatron's orders against megatron-core 0.20's own: random numbers, indices, tokens, blends, splits; and what the peer hangs on. */
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "data/megatron.h"
#include "data/numpy.h"
#include "data/set.h"
#include "md5.h"
#include "tap.h"

#include <unistd.h>

static char folder[400]; /* golden/data */

static int64_t number(const json_t *o, const char *name) { return json_integer_value(json_object_get(o, name)); }
static const char *text(const json_t *o, const char *name) { return json_string_value(json_object_get(o, name)); }
static int64_t item(const json_t *list, size_t i) { return json_integer_value(json_array_get(list, i)); }

static json_t *load(const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return json_load_file(path, 0, NULL);
}

static bool find_goldens(void) {
    const char *env = getenv("TEMPER_SHARED"), *roots[] = {env ? env : "../shared", "../../shared"};
    for (size_t i = 0; i < 2; i++) {
        snprintf(folder, sizeof folder, "%s/golden/data", roots[i]);
        json_t *j = load("rng.json");
        json_decref(j);
        if (j) return true;
    }
    return false;
}

static void is_digest(struct md5 *m, const char *want, const char *what) {
    char hex[33];
    md5_hex(m, hex);
    is_str(hex, want, what);
}

/* --- random numbers -----------------------------------------------------------------------------------------------------*/

static void one_shuffle(const json_t *row) {
    struct data_numpy g;
    struct md5 m;
    uint32_t *x;
    int64_t n = number(row, "n");
    char what[96];
    must(mem_alloc(&x, (size_t)n, sizeof *x));
    for (int64_t i = 0; i < n; i++) x[i] = (uint32_t)i;
    data_numpy_seed(&g, (uint32_t)number(row, "seed"));
    data_numpy_shuffle(&g, x, n);
    md5_start(&m);
    md5_add(&m, x, (size_t)n * 4);
    snprintf(what, sizeof what, "shuffle of %d with seed %u", (int)n, (unsigned)number(row, "seed"));
    is_digest(&m, text(row, "md5_le_i32"), what);
    mem_free(&x);
}

static void random_numbers(void) {
    json_t *all = load("rng.json"), *list, *row;
    const char *seed;
    size_t i;
    struct data_numpy g;
    json_object_foreach(json_object_get(all, "raw_u32"), seed, list) {
        int64_t wrong = 0;
        data_numpy_seed(&g, (uint32_t)strtoul(seed, NULL, 10));
        for (size_t k = 0; k < json_array_size(list); k++) wrong += data_numpy_u32(&g) != item(list, k);
        is_int(wrong, 0, "raw words");
    }
    json_array_foreach(json_object_get(all, "shuffle"), i, row) one_shuffle(row);
    json_array_foreach(json_object_get(all, "two_in_a_row"), i, row) {
        uint32_t x[64];
        int64_t wrong = 0;
        data_numpy_seed(&g, (uint32_t)number(row, "seed"));
        for (size_t k = 0; k < 2; k++) {
            int64_t n = item(json_object_get(row, "n"), k);
            for (int64_t j = 0; j < n; j++) x[j] = (uint32_t)j;
            data_numpy_shuffle(&g, x, n);
            for (int64_t j = 0; j < n; j++)
                wrong += x[j] != item(json_object_get(row, k ? "second" : "first"), (size_t)j);
        }
        ok(wrong == 0 && data_numpy_u32(&g) == number(row, "next_raw"), "two shuffles from one generator");
    }
    json_decref(all);
}

/* --- one source ---------------------------------------------------------------------------------------------------------*/

/* The numbers of a .npy file of i32 or u32, behind its header. */
static uint32_t *npy(const char *tag, const char *what, size_t *n) {
    char path[600], *bytes;
    uint16_t header;
    uint32_t *out;
    snprintf(path, sizeof path, "%s/indexed/%s.%s_index.npy", folder, tag, what);
    must(file_read(path, 1 << 24, &bytes, n));
    memcpy(&header, bytes + 8, 2);
    *n = (*n - 10 - header) / 4;
    must(mem_alloc(&out, *n, 4));
    memcpy(out, bytes + 10 + header, 4 * *n);
    mem_free(&bytes);
    return out;
}

static bool option(const json_t *g, const char *name, bool fallback) {
    const json_t *v = json_object_get(json_object_get(g, "options"), name);
    return v ? json_is_true(v) : fallback;
}

static struct data_source *source_of(const char *name) {
    char path[512];
    struct data_source *s = NULL;
    snprintf(path, sizeof path, "%s/indexed/%s", folder, name);
    must(data_source_index(path, &s));
    return s;
}

static struct data_source *kept(const json_t *g) {
    struct data_source *s = source_of(text(g, "data"));
    const json_t *range = json_object_get(g, "documents");
    double n = (double)data_source_documents(s);
    must(data_source_keep(s, (double)item(range, 0) / n, (double)item(range, 1) / n));
    return s;
}

/* All three indices. Megatron's row k of the sample index is where token k T lies, the first row apart. */
static void indices(const json_t *g) {
    const char *tag = text(g, "tag");
    struct data_source *s = kept(g);
    struct data_megatron m;
    size_t n;
    bool keep = !strcmp(text(g, "split"), "valid") && !option(g, "drop_last_partial_validation_sequence", true);
    struct data_megatron_opts o = {.seq_length = number(g, "seq_length"),
                                   .samples = number(g, "num_samples"),
                                   .seed = (uint32_t)number(g, "seed"),
                                   .overlap = option(g, "add_extra_token_to_sequence", true),
                                   .keep_partial = keep};
    must(data_megatron_create(s, &o, NULL, &m));
    is_int(m.epochs, number(g, "epochs"), tag);
    is_int(m.samples, number(g, "len"), tag);
    is_int(m.stream.tokens, m.epochs * number(g, "tokens_per_epoch"), tag);

    uint32_t *want = npy(tag, "document", &n);
    int64_t wrong = (int64_t)n != m.stream.places;
    for (size_t k = 0; k < n && !wrong; k++) wrong += want[k] != m.stream.order[k] + (uint32_t)data_source_first(s);
    ok(wrong == 0, "%s: document index of %zu", tag, n);
    mem_free(&want);

    want = npy(tag, "shuffle", &n);
    wrong = (int64_t)n != m.samples;
    for (size_t k = 0; k < n && !wrong; k++) wrong += want[k] != m.shuffle[k];
    ok(wrong == 0, "%s: shuffle index of %zu", tag, n);
    mem_free(&want);

    want = npy(tag, "sample", &n);
    wrong = (int64_t)n != 2 * (m.samples + 1) || want[0] || want[1];
    for (int64_t k = 1; k <= m.samples && !wrong; k++) {
        int64_t token = k * o.seq_length - !o.overlap, place, offset;
        data_stream_find(&m.stream, token < m.stream.tokens ? token : m.stream.tokens - 1, &place, &offset);
        wrong += want[2 * k] != place || want[2 * k + 1] != offset + !o.overlap;
    }
    ok(wrong == 0, "%s: sample index of %zu rows", tag, n / 2);
    mem_free(&want);
    data_megatron_free(&m);
    data_source_free(&s);
}

enum { MAX_T = 256 };
static int32_t tokens[MAX_T], labels[MAX_T], positions[MAX_T], first[MAX_T];
static struct data_row row = {.tokens = tokens, .labels = labels, .positions = positions, .first = first};

static struct data_opts options_of(const json_t *g) {
    bool keep = !strcmp(text(g, "split"), "valid") && !option(g, "drop_last_partial_validation_sequence", true);
    return (struct data_opts){.seq_length = number(g, "seq_length"),
                              .seed = (uint64_t)number(g, "seed"),
                              .order = DATA_MEGATRON,
                              .samples = number(g, "num_samples"),
                              .drop_partial = !keep,
                              .no_overlap = !option(g, "add_extra_token_to_sequence", true),
                              .vocab = 200000,
                              .pad = -1};
}

/* Tokens and labels of all samples. Where we do not score, the peer has label 0 and loss mask 0. */
static void all_tokens(const json_t *g) {
    struct data_opts o = options_of(g);
    struct data_member member = {.source = kept(g)};
    struct data_set *s;
    struct md5 m;
    must(data_set_create(&o, &member, 1, &s));
    md5_start(&m);
    for (int64_t i = 0; i < data_set_samples(s); i++) {
        int64_t wide[2][MAX_T], t = o.seq_length;
        if (data_sample(s, i, &row) != TM_OK) ok(false, "%s: sample", text(g, "tag"));
        for (int64_t k = 0; k < t; k++) {
            wide[0][k] = tokens[k];
            wide[1][k] = labels[k] < 0 ? 0 : labels[k];
        }
        md5_add(&m, wide[0], (size_t)t * 8);
        md5_add(&m, wide[1], (size_t)t * 8);
    }
    is_digest(&m, text(g, "all_tokens_md5_i64"), text(g, "tag"));
    is_status(data_sample(s, data_set_samples(s), &row), TM_ERR_DECK);
    data_set_free(&s);
}

/* Loss masks and positions of the samples that the golden has whole. */
static void masks(const json_t *g) {
    struct data_opts o = options_of(g);
    struct data_member member = {.source = kept(g)};
    struct data_set *s;
    const json_t *x;
    size_t i;
    o.mask_documents = option(g, "eod_mask_loss", false);
    o.reset_documents = option(g, "reset_position_ids", false);
    must(data_set_create(&o, &member, 1, &s));
    json_array_foreach(json_object_get(g, "samples"), i, x) {
        const json_t *mask = json_object_get(x, "loss_mask"), *place = json_object_get(x, "position_ids");
        int64_t wrong = 0;
        must(data_sample(s, number(x, "i"), &row));
        for (size_t k = 0; k < (size_t)o.seq_length; k++) {
            bool scored = !mask || json_number_value(json_array_get(mask, k)) != 0;
            bool real = tokens[k] != 0 || first[k] == 0;
            wrong += tokens[k] != item(json_object_get(x, "tokens"), k);
            /* the peer takes the step from the last input on as scored unless that input ends its document */
            wrong += (labels[k] >= 0) != scored;
            wrong += scored && labels[k] != item(json_object_get(x, "labels"), k);
            wrong += real && positions[k] != (place ? item(place, k) : (int64_t)k) && first[k] <= (int32_t)k;
        }
        ok(wrong == 0, "%s: sample %d: masks and positions", text(g, "tag"), (int)number(x, "i"));
    }
    data_set_free(&s);
}

static void one_source(const json_t *all) {
    const json_t *g;
    size_t i;
    json_array_foreach(json_object_get(all, "gpt"), i, g) {
        indices(g);
        all_tokens(g);
        masks(g);
    }
    is_int(i, 10, "cases");
}

/* --- splits and blends --------------------------------------------------------------------------------------------------*/

static void splits(const json_t *all) {
    const json_t *x, *ranges, *v;
    const char *count;
    size_t i;
    json_array_foreach(json_object_get(all, "splits"), i, x) {
        double bound[4];
        int64_t wrong = 0;
        must(data_megatron_parts(text(x, "split"), bound));
        json_object_foreach((json_t *)(uintptr_t)json_object_get(x, "ranges"), count, v) {
            double n = strtod(count, NULL);
            for (size_t p = 0; p < 3; p++) {
                ranges = json_array_get(v, p);
                if (!json_is_array(ranges)) continue; /* the peer has no such part */
                wrong += (int64_t)rint(bound[p] * n) != item(ranges, 0);
                wrong += (int64_t)rint(bound[p + 1] * n) != item(ranges, 1);
            }
        }
        ok(wrong == 0, "split %s", text(x, "split"));
    }
    double bound[4];
    is_status(data_megatron_parts("train", bound), TM_ERR_DECK);
    is_status(data_megatron_parts("1,2,3,4", bound), TM_ERR_DECK);
    is_status(data_megatron_parts("0,0,0", bound), TM_ERR_DECK);
    is_status(data_megatron_parts("1.2.3", bound), TM_ERR_DECK);
    ok(strstr(status_message(), "\"1.2.3\" is no number") != NULL, "%s", status_message());
}

static void blends(const json_t *all) {
    struct data_megatron_blend b;
    const json_t *x;
    size_t i;
    json_array_foreach(json_object_get(all, "blend"), i, x) {
        const json_t *hex = json_object_get(x, "weights_hex"), *want = json_object_get(x, "dataset_index");
        double weights[64];
        size_t n = json_array_size(hex), source;
        int64_t sample, size = number(x, "size"), wrong = 0;
        struct md5 m;
        for (size_t k = 0; k < n; k++) weights[k] = strtod(json_string_value(json_array_get(hex, k)), NULL);
        must(data_megatron_blend_create(weights, n, size, NULL, &b));
        md5_start(&m);
        for (int64_t k = 0; k < size; k++) {
            data_megatron_blend_locate(&b, k, &source, &sample);
            wrong += (int64_t)source != item(want, (size_t)k);
            md5_add(&m, &sample, 8);
        }
        for (size_t k = 0; k < n; k++)
            wrong += data_megatron_blend_count(&b, k) != item(json_object_get(x, "counts"), k);
        is_int(wrong, 0, "blend of sources");
        is_digest(&m, text(x, "sample_index_md5_i64"), "and their samples");
        data_megatron_blend_free(&b);
    }
    json_array_foreach(json_object_get(all, "blend_exhaustive"), i, x) {
        int64_t sizes[8], sample, wrong = 0;
        size_t n = json_array_size(json_object_get(x, "sizes")), source;
        for (size_t k = 0; k < n; k++) sizes[k] = item(json_object_get(x, "sizes"), k);
        must(data_megatron_blend_exhaustive(sizes, n, NULL, &b));
        for (int64_t k = 0; k < b.size; k++) {
            data_megatron_blend_locate(&b, k, &source, &sample);
            wrong += (int64_t)source != item(json_object_get(x, "dataset_index"), (size_t)k) ||
                     sample != item(json_object_get(x, "sample_index"), (size_t)k);
        }
        ok(wrong == 0 && b.size == (int64_t)json_array_size(json_object_get(x, "dataset_index")), "exhaustive blend");
        data_megatron_blend_free(&b);
    }
    static const int64_t shares[][2] = {{30, 31}, {500, 503}, {12, 13}, {3, 4}, {0, 0}}; /* size_per_dataset */
    for (size_t k = 0; k < 5; k++) is_int(data_megatron_request(shares[k][0]), shares[k][1], "a request");
    is_status(data_megatron_blend_exhaustive((int64_t[]){3, 0}, 2, NULL, &b),
              TM_ERR_DATA); /* the peer: segmentation fault */
    is_str(status_message(), "source 1 of a blend has no samples", "it names the source");
}

/* Several sources, split and blended as the peer's builder does it. */
static void build(const json_t *x, size_t part) {
    const json_t *want = json_array_get(json_object_get(x, "splits"), part), *names = json_object_get(x, "data"),
                 *weights = json_object_get(x, "weights");
    struct data_member member[4];
    struct data_set *s = NULL;
    struct md5 m;
    double bound[4];
    size_t n = json_array_size(names);
    int64_t sum = 0;
    if (!json_is_object(want)) return;
    must(data_megatron_parts(text(x, "split"), bound));
    for (size_t k = 0; k < n; k++) {
        member[k].source = source_of(json_string_value(json_array_get(names, k)));
        member[k].weight = json_number_value(json_array_get(weights, k));
        must(data_source_keep(member[k].source, bound[part], bound[part + 1]));
        const json_t *documents = json_object_get(json_array_get(json_object_get(want, "members"), k), "documents");
        sum += data_source_first(member[k].source) != item(documents, 0) ||
               data_source_first(member[k].source) + data_source_documents(member[k].source) != item(documents, 1);
    }
    is_int(sum, 0, "documents of the members");
    struct data_opts o = {.seq_length = number(x, "seq_length"),
                          .seed = (uint64_t)number(x, "seed"),
                          .order = DATA_MEGATRON,
                          .samples = item(json_object_get(x, "sizes"), part),
                          .drop_partial = true,
                          .vocab = 200000,
                          .pad = -1};
    must(data_set_create(&o, member, n, &s));
    is_int(data_set_samples(s), number(want, "len"), text(x, "tag"));
    md5_start(&m);
    for (int64_t i = 0; i < data_set_samples(s); i++) {
        must(data_sample(s, i, &row));
        for (int64_t k = 0; k < o.seq_length; k++) md5_add(&m, &(int64_t){tokens[k]}, 8);
    }
    is_digest(&m, text(want, "all_tokens_md5_i64"), "all tokens");
    data_set_free(&s);
}

/* --- what the peer cannot do --------------------------------------------------------------------------------------------*/

static void refused(struct data_opts o, struct data_member *m, size_t n, enum status want, const char *part) {
    struct data_set *s;
    enum status st = data_set_create(&o, m, n, &s);
    ok(st == want && !s && strstr(status_message(), part), "refused: %s", status_message());
}

static void refusals(void) {
    double bound[4];
    struct data_opts o = {.seq_length = 4, .seed = 1, .order = DATA_MEGATRON, .drop_partial = true, .vocab = 70000};
    struct data_source *s = source_of("tiny_u16");
    must(data_megatron_parts("99,1,0", bound)); /* the peer loops for ever */
    is_status(data_source_keep(s, bound[1], bound[2]), TM_ERR_DATA);
    ok(strstr(status_message(), "the split from 0.99 to 1 of 40 documents, [40, 40), holds none of them") != NULL, "%s",
       status_message());
    data_source_free(&s);
    s = source_of("multiseq_u16");
    is_status(data_source_keep(s, 4.0 / 7, 5.0 / 7), TM_ERR_DATA); /* one document, without a token */
    ok(strstr(status_message(), "[4, 5), holds no token") != NULL, "%s", status_message());
    data_source_free(&s);

    struct data_member m[2] = {{source_of("tiny_u16"), 1}, {source_of("multiseq_u16"), 1}};
    refused(o, m, 2, TM_ERR_DECK, "expected a number of samples");
    m[0] = (struct data_member){source_of("tiny_u16"), 0};
    m[1] = (struct data_member){source_of("multiseq_u16"), 0};
    o.seq_length = 14; /* 14 tokens make no sample of 14 + 1 */
    refused(o, m, 2, TM_ERR_DATA, "14 tokens make 0 samples of 14");
    m[0] = (struct data_member){source_of("tiny_u16"), 0};
    m[1] = (struct data_member){source_of("multiseq_u16"), 0};
    o.seq_length = 4;
    o.samples = 1000;
    refused(o, m, 2, TM_ERR_DATA, "a blend of 1000 samples takes");
    m[0] = (struct data_member){source_of("tiny_u16"), 0};
    o.samples = INT64_MAX / 8;
    refused(o, m, 1, TM_ERR_DECK, "too many");
    m[0] = (struct data_member){source_of("tiny_u16"), 0};
    o.samples = (int64_t)1 << 40;
    refused(o, m, 1, TM_ERR_UNSUPPORTED, "expected less than 2^32");
    m[0] = (struct data_member){source_of("tiny_u16"), 0};
    o.seed = (uint64_t)1 << 32;
    refused(o, m, 1, TM_ERR_DECK, "expected one below 2^32");
}

/* --- arrays in files ----------------------------------------------------------------------------------------------------*/

static int fills;
static enum status count_up(void *ctx, void *bytes) {
    uint32_t *x = bytes;
    fills++;
    for (uint32_t i = 0; i < DATA_MAP_PRIVATE / 2; i++) x[i] = i;
    return *(int *)ctx ? TM_FAIL(TM_ERR_DATA, "no") : TM_OK;
}

static void maps(void) {
    char dir[] = "/tmp/temper-test-XXXXXX", path[128];
    size_t n = 2 * (size_t)DATA_MAP_PRIVATE;
    struct data_map a, b;
    int bad = 1;
    ok(mkdtemp(dir) != NULL, "temporary directory");
    snprintf(path, sizeof path, "%s/%016llx.order", dir, 7ull);
    is_status(data_map_open(dir, 7, n, count_up, &bad, &a), TM_ERR_DATA);
    bad = 0;
    must(data_map_open(dir, 7, n, count_up, &bad, &a));
    must(data_map_open(dir, 7, n, count_up, &bad, &b));
    ok(fills == 2 && a.mapped && b.mapped && !memcmp(a.bytes, b.bytes, n),
       "computed once more after a failure, then found");
    data_map_close(&a);
    data_map_close(&b);
    FILE *f = fopen(path, "r+b");
    ok(f && fseek(f, 1000, SEEK_SET) == 0 && fputc(99, f) == 99 && fclose(f) == 0, "a byte is damaged");
    must(data_map_open(dir, 7, n, count_up, &bad, &a));
    ok(fills == 3 && ((uint32_t *)a.bytes)[250] == 250, "then computed again");
    data_map_close(&a);
    must(data_map_open(NULL, 7, n, count_up, &bad, &a));
    ok(fills == 4 && !a.mapped, "without a directory: private memory");
    data_map_close(&a);
    is_status(data_map_open("/proc/nowhere", 7, n, count_up, &bad, &a), TM_ERR_IO);
    file_remove_tree(dir);
}

int main(void) {
    maps();
    if (find_goldens()) {
        json_t *all = load("indexed/indexed.json"), *x;
        size_t i;
        random_numbers();
        one_source(all);
        splits(all);
        blends(all);
        json_array_foreach(json_object_get(all, "builder"), i, x) for (size_t part = 0; part < 3; part++)
            build(x, part);
        is_int(i, 6, "builders");
        refusals();
        json_decref(all);
    } else {
        ok(true, "goldens # SKIP no golden/data under TEMPER_SHARED");
    }
    is_int(mem_bytes(), 0, "all memory given back");
    return tap_done();
}
