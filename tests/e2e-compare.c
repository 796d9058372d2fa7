/* What the end-to-end shell tests need beyond a shell: token files out of goldens, tensors compared, exports compared byte by byte.
 *
 *   root                               print the folder of the goldens; exit 1 when there is none
 *   tokens GOLDEN NAME OUT [MASK]      write a token file: integer tensor NAME as input_ids [rows, last axis], MASK as attention_mask
 *   nmse A B BOUND [NAME...]           NMSE of A's tensors against B's (of those names; all of B). A may have more rows than B.
 *   same A B NAME                      A's tensor has the bytes of B's
 *   last A B BOUND NAME REFERENCE      NMSE of the last position of A's NAME [B,T,V] against B's REFERENCE [B,V]
 *   close A B BOUND NAME REFERENCE     largest difference of A's NAME [1,T,V] against B's REFERENCE: [V], of the last position, or [R,V/k], of
 *                                      the last R positions, every k-th column
 *   greedy LINES B NAME                the "tokens" of the first line of a generate stage's file against B's NAME
 *   grads A B BOUND                    as nmse; the same set of names; where B is zero, A is at most 1e-6 of B's largest value
 *   export DIR EXPORTS RECIPE          a modelopt export against the stored one (left_out.json followed), tensors and JSON files
 *   offset FILE TENSOR                 print the first byte of a tensor in a safetensors file
 * Exit code 0: equal, in bounds; 1: not, with a line for each finding on standard output; 2: usage. */
#include "base/str.h"
#include "golden.h"
#include "sha256.h"

static int findings_;
#define finding(...) (findings_++, printf(__VA_ARGS__), putchar('\n'))

static void need(struct golden *g, const char *path) {
    if (golden_open(g, path)) return;
    printf("cannot read %s: %s\n", path, status_message());
    exit(2);
}

static struct golden_tensor need_tensor(const struct golden *g, const char *name) {
    struct golden_tensor t;
    if (golden_find(g, name, &t)) return t;
    printf("%s holds no %s\n", g->path, name);
    exit(1);
}

/* --- token files ------------------------------------------------------------------------------------------------------------ */
static bool is_i64(const struct golden_tensor *t) { return !strcmp(t->dtype, "I64"); }

static void put_ids(FILE *f, const struct golden_tensor *t) {
    for (int64_t i = 0; i < t->elems; i++) {
        int32_t v = is_i64(t) ? (int32_t)((const int64_t *)t->data)[i] : ((const int32_t *)t->data)[i];
        fwrite(&v, sizeof v, 1, f);
    }
}

static int tokens(const char *from, const char *name, const char *out, const char *mask) {
    struct golden g;
    char header[512], masks[200] = "";
    need(&g, from);
    struct golden_tensor ids = need_tensor(&g, name), m = {0};
    long long cols = ids.shape[ids.rank - 1], rows = ids.elems / cols, bytes = 4 * ids.elems;
    if (mask) {
        m = need_tensor(&g, mask);
        snprintf(masks, sizeof masks,
                 ",\"attention_mask\":{\"dtype\":\"I32\",\"shape\":[%lld,%lld],\"data_offsets\":[%lld,%lld]}", rows,
                 cols, bytes, 2 * bytes);
    }
    snprintf(header, sizeof header,
             "{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[%lld,%lld],\"data_offsets\":[0,%lld]}%s}", rows, cols, bytes,
             masks);
    uint64_t n = strlen(header);
    FILE *f = fopen(out, "wb");
    if (!f) return 2;
    fwrite(&n, sizeof n, 1, f);
    fwrite(header, 1, n, f);
    put_ids(f, &ids);
    if (mask) put_ids(f, &m);
    golden_close(&g);
    return fclose(f) ? 2 : 0;
}

/* --- values within bounds --------------------------------------------------------------------------------------------------- */
static double largest(const struct golden_tensor *t) {
    double big = 0;
    for (int64_t i = 0; i < t->elems; i++) big = fmax(big, fabs((double)((const float *)t->data)[i]));
    return big;
}

static void compare_values(const char *name, const struct golden_tensor *a, const struct golden_tensor *b, double bound,
                           double floor, double *worst) {
    if (strcmp(a->dtype, "F32") || strcmp(b->dtype, "F32") || a->elems < b->elems) {
        finding("%s: %s of %lld elements against %s of %lld", name, a->dtype, (long long)a->elems, b->dtype,
                (long long)b->elems);
        return;
    }
    double x = tap_nmse(a->data, b->data, (size_t)b->elems), zero = largest(b) > 0 ? 1 : 0;
    if (!zero) {
        struct golden_tensor part = *a;
        part.elems = b->elems;
        if (!(largest(&part) <= 1e-6 * floor)) finding("%s: %g where the reference is 0", name, largest(&part));
        return;
    }
    *worst = fmax(*worst, x);
    if (!(x <= bound)) finding("%s: NMSE %g, at most %g", name, x, bound);
}

static int nmse(const char *pa, const char *pb, double bound, char **names, int n, bool same_names) {
    struct golden a, b;
    struct golden_tensor x, y;
    double worst = 0, floor = 0;
    int count = 0;
    const char *name;
    json_t *unused;
    need(&a, pa);
    need(&b, pb);
    json_object_foreach(b.header, name, unused) if (strcmp(name, "__metadata__")) {
        y = need_tensor(&b, name);
        if (!strcmp(y.dtype, "F32")) floor = fmax(floor, largest(&y));
    }
    json_object_foreach(b.header, name, unused) {
        bool wanted = strcmp(name, "__metadata__") && n == 0;
        for (int i = 0; i < n; i++) wanted |= str_glob(names[i], name);
        if (!wanted) continue;
        y = need_tensor(&b, name);
        count++;
        if (golden_find(&a, name, &x))
            compare_values(name, &x, &y, bound, floor, &worst);
        else
            finding("%s is missing", name);
    }
    if (same_names) {
        json_object_foreach(a.header, name, unused) {
            if (strcmp(name, "__metadata__") && !json_object_get(b.header, name)) finding("%s is too many", name);
        }
    }
    if (count < (n ? n : 1)) finding("only %d tensors were compared", count);
    printf("%d tensors, worst NMSE %.3g\n", count, worst);
    golden_close(&a);
    golden_close(&b);
    return findings_ != 0;
}

static int same(const char *pa, const char *pb, const char *name) {
    struct golden a, b;
    need(&a, pa);
    need(&b, pb);
    const struct golden_tensor x = need_tensor(&a, name), y = need_tensor(&b, name);
    if (strcmp(x.dtype, y.dtype) || x.bytes != y.bytes || memcmp(x.data, y.data, x.bytes)) finding("%s differs", name);
    golden_close(&a);
    golden_close(&b);
    return findings_ != 0;
}

static int last(const char *pa, const char *pb, double bound, const char *name, const char *reference) {
    struct golden a, b;
    double num = 0, den = 0;
    need(&a, pa);
    need(&b, pb);
    struct golden_tensor x = need_tensor(&a, name), y = need_tensor(&b, reference);
    int64_t v = y.shape[1], t = x.shape[1];
    if (x.rank != 3 || x.shape[0] != y.shape[0] || x.shape[2] != v) return finding("%s: other shape", name), 1;
    for (int64_t r = 0; r < y.shape[0]; r++)
        for (int64_t j = 0; j < v; j++) {
            double q = (double)((const float *)y.data)[r * v + j];
            double d = (double)((const float *)x.data)[(r * t + t - 1) * v + j] - q;
            num += d * d;
            den += q * q;
        }
    if (!(num <= bound * den)) finding("%s: NMSE %g, at most %g", reference, num / den, bound);
    printf("%s: NMSE %.3g\n", reference, num / den);
    golden_close(&a);
    golden_close(&b);
    return findings_ != 0;
}

static int close_to(const char *pa, const char *pb, double bound, const char *name, const char *reference) {
    struct golden a, b;
    double worst = 0;
    need(&a, pa);
    need(&b, pb);
    struct golden_tensor x = need_tensor(&a, name), y = need_tensor(&b, reference);
    int64_t cols = y.shape[y.rank - 1], rows = y.elems / cols, t = x.shape[1], v = x.shape[2], k = v / cols;
    if (x.rank != 3 || x.shape[0] != 1 || rows > t || k * cols != v) return finding("%s: other shape", name), 1;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < cols; j++) {
            double d = fabs((double)((const float *)x.data)[(t - rows + r) * v + k * j] -
                            (double)((const float *)y.data)[r * cols + j]);
            worst = d <= worst ? worst : d; /* NaN counts */
        }
    if (!(worst <= bound)) finding("%s: off by %g, at most %g", reference, worst, bound);
    printf("%s: largest difference %.3g\n", reference, worst);
    golden_close(&a);
    golden_close(&b);
    return findings_ != 0;
}

static int greedy(const char *lines, const char *pb, const char *name) {
    struct golden b;
    char *text;
    size_t n;
    json_t *line;
    need(&b, pb);
    struct golden_tensor want = need_tensor(&b, name);
    if (file_read(lines, 1 << 24, &text, &n) != TM_OK) return finding("%s", status_message()), 1;
    if (json_read_buffer(text, strcspn(text, "\n"), lines, &line) != TM_OK) return finding("%s", status_message()), 1;
    const json_t *got = json_object_get(line, "tokens");
    int64_t i = 0;
    while (i < want.elems && json_integer_value(json_array_get(got, (size_t)i)) == ((const int32_t *)want.data)[i]) i++;
    if (i < want.elems || (int64_t)json_array_size(got) != want.elems)
        finding("%s: %zu tokens, the first %lld of %lld are equal", name, json_array_size(got), (long long)i,
                (long long)want.elems);
    printf("%s: %lld tokens equal\n", name, (long long)i);
    json_decref(line);
    mem_free(&text);
    golden_close(&b);
    return findings_ != 0;
}

/* --- exports ---------------------------------------------------------------------------------------------------------------- */
struct exports {
    const char *root;
    struct golden mine;
    json_t *seen; /* names of the stored export */
    int equal, hashed, scales;
    double worst_scale;
};

static bool is_measured(const char *name) {
    return str_glob("*.input_scale", name) || str_glob("*.k_scale", name) || str_glob("*.v_scale", name);
}

/* Their measured scales come from a bf16 run: 2 %. All else to the byte. */
static void compare_stored(struct exports *e, const char *name, const struct golden_tensor *theirs) {
    struct golden_tensor mine;
    json_object_set_new(e->seen, name, json_true());
    if (!golden_find(&e->mine, name, &mine)) {
        finding("%s is missing", name);
        return;
    }
    bool shape = mine.rank == theirs->rank && !memcmp(mine.shape, theirs->shape, sizeof(int64_t) * (size_t)mine.rank);
    if (strcmp(mine.dtype, theirs->dtype) || !shape || mine.bytes != theirs->bytes) {
        finding("%s: %s, %d axes, %zu bytes against %s, %d axes, %zu bytes", name, mine.dtype, mine.rank, mine.bytes,
                theirs->dtype, theirs->rank, theirs->bytes);
    } else if (!is_measured(name)) {
        if (memcmp(mine.data, theirs->data, mine.bytes)) finding("%s: other bytes", name);
        e->equal++;
    } else {
        float x, y;
        memcpy(&x, mine.data, sizeof x);
        memcpy(&y, theirs->data, sizeof y);
        double off = fabs((double)x / (double)y - 1);
        if (!(off <= 0.02)) finding("%s: %g against %g", name, (double)x, (double)y);
        e->worst_scale = fmax(e->worst_scale, off);
        e->scales++;
    }
}

/* `kept`: {"dtype": "float32", "shape": [..], "sha256": hex} */
static void compare_hash(struct exports *e, const char *name, const json_t *kept) {
    static const char *const types[][2] = {
        {"float32", "F32"}, {"bfloat16", "BF16"}, {"float8_e4m3fn", "F8_E4M3"}, {"int8", "I8"}, {"uint8", "U8"}};
    struct golden_tensor mine;
    char hex[65];
    bool type = false, shape = true;
    json_object_set_new(e->seen, name, json_true());
    if (!golden_find(&e->mine, name, &mine)) {
        finding("%s is missing", name);
        return;
    }
    const char *want = json_string_value(json_object_get(kept, "dtype"));
    const json_t *sizes = json_object_get(kept, "shape");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        type |= !strcmp(want, types[i][0]) && !strcmp(mine.dtype, types[i][1]);
    for (int i = 0; i < mine.rank; i++) shape &= json_integer_value(json_array_get(sizes, (size_t)i)) == mine.shape[i];
    if (!type || !shape || (int)json_array_size(sizes) != mine.rank) finding("%s: other type or shape", name);
    if (is_measured(name)) return; /* its bytes are known by their hash only */
    sha256_hex(mine.data, mine.bytes, hex);
    if (strcmp(hex, json_string_value(json_object_get(kept, "sha256")))) finding("%s: other bytes by SHA-256", name);
    e->hashed++;
}

/* All tensors of a stored export, or (only != NULL) that one of them. */
static bool walk(struct exports *e, const char *recipe, const char *only);

static bool walk_left_out(struct exports *e, const char *path, const char *only) {
    json_t *j, *value;
    const char *name;
    bool found = false;
    if (!file_exists(path)) return false;
    if (json_read_file(path, 1 << 24, &j) != TM_OK) return finding("%s", status_message()), false;
    json_object_foreach(json_object_get(j, "same_as"), name, value) {
        const char *sibling = json_string_value(value);
        if (only && strcmp(only, name)) continue;
        found = true;
        if (!strncmp(sibling, "source", 6)) {
            struct golden g;
            char source[1024];
            snprintf(source, sizeof source, "%s/source/model.safetensors", e->root);
            need(&g, source);
            struct golden_tensor t = need_tensor(&g, name);
            compare_stored(e, name, &t);
            golden_close(&g);
        } else if (!walk(e, sibling, name)) {
            finding("%s: its sibling %s does not have it", name, sibling);
        }
    }
    json_object_foreach(json_object_get(j, "sha256_only"), name, value) {
        if (only ? strcmp(only, name) : !strcmp(name, "quantizers_before_export")) continue;
        found = true;
        compare_hash(e, name, value);
    }
    json_decref(j);
    return found;
}

static bool walk(struct exports *e, const char *recipe, const char *only) {
    struct golden g;
    struct golden_tensor t;
    const char *name;
    json_t *unused;
    char path[1024];
    bool found = false;
    snprintf(path, sizeof path, "%s/%s/model.safetensors", e->root, recipe);
    need(&g, path);
    json_object_foreach(g.header, name, unused) {
        if (!strcmp(name, "__metadata__") || (only && strcmp(only, name))) continue;
        found = true;
        golden_find(&g, name, &t);
        compare_stored(e, name, &t);
    }
    golden_close(&g);
    snprintf(path, sizeof path, "%s/%s/left_out.json", e->root, recipe);
    return walk_left_out(e, path, only) || found;
}

static void without_producer(json_t *j) {
    json_object_del(j, "producer");
    json_object_del(json_object_get(j, "quantization_config"), "producer");
}

static void compare_json(const char *dir, const char *root, const char *recipe, const char *file) {
    char a[1024], b[1024];
    json_t *x, *y, *value;
    const char *key;
    snprintf(a, sizeof a, "%s/%s", dir, file);
    snprintf(b, sizeof b, "%s/%s/%s", root, recipe, file);
    if (json_read_file(a, 1 << 24, &x) != TM_OK || json_read_file(b, 1 << 24, &y) != TM_OK) {
        finding("%s", status_message());
        return;
    }
    without_producer(x);
    without_producer(y);
    if (!json_equal(x, y)) {
        finding("%s differs", file);
        json_object_foreach(y, key, value) if (!json_equal(value, json_object_get(x, key))) finding("  in %s", key);
        json_object_foreach(x, key, value) if (!json_object_get(y, key)) finding("  %s is too many", key);
    }
    json_decref(x);
    json_decref(y);
}

static int compare_export(const char *dir, const char *root, const char *recipe) {
    struct exports e = {.root = root, .seen = json_object()};
    char path[1024];
    const char *name;
    json_t *unused;
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    need(&e.mine, path);
    walk(&e, recipe, NULL);
    json_object_foreach(e.mine.header, name, unused) if (strcmp(name, "__metadata__") && !json_object_get(e.seen, name))
        finding("%s is too many", name);
    compare_json(dir, root, recipe, "hf_quant_config.json");
    compare_json(dir, root, recipe, "config.json");
    if (e.equal == 0) finding("nothing was compared");
    printf("%s: %d tensors equal to the byte, %d by SHA-256, %d measured scales within %.3g\n", recipe, e.equal,
           e.hashed, e.scales, e.worst_scale);
    golden_close(&e.mine);
    json_decref(e.seen);
    return findings_ != 0;
}

static int offset(const char *path, const char *name) {
    struct golden g;
    need(&g, path);
    struct golden_tensor t = need_tensor(&g, name);
    printf("%lld\n", (long long)((const char *)t.data - g.bytes));
    golden_close(&g);
    return 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    double bound = argc > 4 ? strtod(argv[4], NULL) : 0;
    if (!strcmp(what, "root")) return golden_root() ? !puts(golden_root()) : 1;
    if (!strcmp(what, "tokens") && (argc == 5 || argc == 6)) return tokens(argv[2], argv[3], argv[4], argv[5]);
    if (!strcmp(what, "nmse") && argc >= 5) return nmse(argv[2], argv[3], bound, argv + 5, argc - 5, false);
    if (!strcmp(what, "same") && argc == 5) return same(argv[2], argv[3], argv[4]);
    if (!strcmp(what, "grads") && argc == 5) return nmse(argv[2], argv[3], bound, NULL, 0, true);
    if (!strcmp(what, "last") && argc == 7) return last(argv[2], argv[3], bound, argv[5], argv[6]);
    if (!strcmp(what, "close") && argc == 7) return close_to(argv[2], argv[3], bound, argv[5], argv[6]);
    if (!strcmp(what, "greedy") && argc == 5) return greedy(argv[2], argv[3], argv[4]);
    if (!strcmp(what, "export") && argc == 5) return compare_export(argv[2], argv[3], argv[4]);
    if (!strcmp(what, "offset") && argc == 4) return offset(argv[2], argv[3]);
    puts("usage: see the head of tests/e2e-compare.c");
    return 2;
}
