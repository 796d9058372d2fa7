/* TEST ranks=1 tier=1 */
/* hub/: plans, headers and files against hand-made layouts and, byte for byte, against files of the reference implementation. */
#include <ftw.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "hub/export.h"
#include "hub/pretty.h"
#include "hub_files.h"

/* A mixed list, given out of order: the file is written down by hand. */
static void by_hand(void) {
    const struct hub_tensor t[] = {{"z", DTYPE_f32, 2, {1, 2}},   {"b\"\\\n\x01\xc3\xa9", DTYPE_u8, 1, {3}},
                                   {"m", DTYPE_bf16, 1, {2}},     {"a", DTYPE_u8, 1, {1}},
                                   {"scalar", DTYPE_f32, 0, {0}}, {"empty", DTYPE_i64, 2, {0, 4}}};
    const float z[] = {1, 2}, scalar = 0.5f;
    const uint16_t m[] = {0x3f80, 0x4000};
    const void *data[] = {z, "xyz", m, "q", &scalar, NULL};
    static const char want[] =
        "\x80\1\0\0\0\0\0\0" /* 384 */
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"empty\":{\"dtype\":\"I64\",\"shape\":[0,4],\"data_offsets\":[0,0]},"
        "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
        "\"z\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[4,12]},"
        "\"m\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[12,16]},"
        "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[16,17]},"
        "\"b\\\"\\\\\\n\\u0001\xc3\xa9\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[17,20]}}"
        "  "
        "\0\0\0\x3f\0\0\x80\x3f\0\0\0\x40\x80\x3f\0\x40qxyz";
    char *got;
    size_t n;
    must(hub_save(in_scratch("hand.safetensors"), t, data, 6, NULL));
    must(file_read(in_scratch("hand.safetensors"), 10000, &got, &n));
    is_int(n, sizeof want - 1, "bytes of the file");
    ok(n == sizeof want - 1 && !memcmp(got, want, n), "the file is the one written by hand");
    mem_free(&got);
    ok(!file_exists(in_scratch("hand.safetensors.tmp")), "no .tmp stays");
    struct hub_model *model;
    must(hub_open(in_scratch("hand.safetensors"), &model));
    is_int(hub_count(model), 6, "it is read back");
    float x[2];
    must(hub_read_box(model, hub_find(model, "m"), NULL, x));
    ok(x[0] == 1 && x[1] == 2, "with its values");
    hub_close(&model);
}

/* Sizes 8 8 4 40 4 8 with shard_size 16, by name: [a b] closed at c; d is larger and gets its file at once; [c e f] stays open. */
static void dealing(void) {
    const struct hub_tensor t[] = {{"f", DTYPE_f32, 1, {2}}, {"e", DTYPE_f32, 1, {1}}, {"d", DTYPE_f32, 1, {10}},
                                   {"c", DTYPE_f32, 1, {1}}, {"b", DTYPE_f32, 1, {2}}, {"a", DTYPE_f32, 1, {2}}};
    struct hub_plan *p;
    must(hub_plan_create(t, 6, 16, NULL, &p));
    is_int(p->files_n, 3, "files");
    is_int(p->data_bytes, 72, "bytes of all tensors");
    is_str(p->files[1].name, "model-00002-of-00003.safetensors", "file name");
    char order[64] = "";
    for (int i = 0; i < p->n; i++)
        snprintf(order + strlen(order), sizeof order - strlen(order), "%s%d%d ", p->items[i].name, p->items[i].file,
                 p->items[i].source);
    is_str(order, "a05 b04 d12 c23 e21 f20 ", "name, file and source of each tensor");
    struct str text = {0};
    json_t *index;
    must(hub_plan_index(p, &index));
    must(hub_json_text(index, 2, &text));
    ok(!strcmp(
           text.p,
           "{\n  \"metadata\": {\n    \"total_size\": 72\n  },\n  \"weight_map\": {\n"
           "    \"a\": \"model-00001-of-00003.safetensors\",\n    \"b\": \"model-00001-of-00003.safetensors\",\n"
           "    \"c\": \"model-00003-of-00003.safetensors\",\n    \"d\": \"model-00002-of-00003.safetensors\",\n"
           "    \"e\": \"model-00003-of-00003.safetensors\",\n    \"f\": \"model-00003-of-00003.safetensors\"\n  }\n}"),
       "the index");
    str_free(&text);
    json_decref(index);
    hub_plan_destroy(&p);
    must(hub_plan_create(t, 6, 72, NULL, &p));
    is_int(p->files_n, 1, "all fit");
    is_str(p->files[0].name, "model.safetensors", "name of the only file");
    hub_plan_destroy(&p);
    must(hub_plan_create(t, 6, 1, NULL, &p));
    is_int(p->files_n, 6, "one file each");
    hub_plan_destroy(&p);
    must(hub_plan_create(NULL, 0, 1, NULL, &p));
    is_int(p->files_n, 1, "no tensors: one file all the same");
    hub_plan_destroy(&p);
}

static void plan_refusals(void) {
    const struct hub_tensor twice[] = {{"a", DTYPE_f32, 1, {2}}, {"a", DTYPE_f32, 1, {2}}},
                            huge[] = {{"a", DTYPE_f32, 2, {INT64_MAX / 4, 2}}},
                            sum[] = {{"a", DTYPE_u8, 1, {INT64_MAX}}, {"b", DTYPE_u8, 1, {1}}},
                            negative[] = {{"a", DTYPE_f32, 1, {-1}}},
                            reserved[] = {{"__metadata__", DTYPE_f32, 1, {1}}},
                            broken[] = {{"\xff", DTYPE_f32, 1, {1}}};
    struct hub_plan *p;
    is_status(hub_plan_create(twice, 2, 100, NULL, &p), TM_ERR_DATA);
    ok(p == NULL && strstr(status_message(), "two tensors are called \"a\""), "named");
    is_status(hub_plan_create(huge, 1, 100, NULL, &p), TM_ERR_SHAPE);
    is_status(hub_plan_create(sum, 2, 100, NULL, &p), TM_ERR_SHAPE);
    is_status(hub_plan_create(negative, 1, 100, NULL, &p), TM_ERR_SHAPE);
    is_status(hub_plan_create(reserved, 1, 100, NULL, &p), TM_ERR_DATA);
    is_status(hub_plan_create(broken, 1, 100, NULL, &p), TM_ERR_FORMAT);
    is_status(hub_plan_create(twice, 1, 0, NULL, &p), TM_ERR_DECK);
}

/* Pieces in any order; a missing byte, a piece outside; directories with another layout. */
static void files_of_a_plan(void) {
    const struct hub_tensor t[] = {{"a", DTYPE_u8, 1, {4}}, {"b", DTYPE_u8, 1, {4}}};
    struct hub_plan *p, *one;
    struct hub_writer *w;
    must(hub_plan_create(t, 2, 4, NULL, &p));
    must(hub_plan_create(t, 2, 8, NULL, &one));
    must(hub_prepare_dir(in_scratch("out/deep"), p));
    for (int f = 0; f < 2; f++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", in_scratch("out/deep"), p->files[f].name);
        must(hub_write_begin(p, f, path, &w));
        must(hub_write_tensor(w, f, 2, "cd", 2));
        must(hub_write_tensor(w, f, 0, "ab", 2));
        is_status(hub_write_tensor(w, f, 3, "xy", 2), TM_ERR_INTERNAL);
        is_status(hub_write_tensor(w, !f, 0, "xy", 2), TM_ERR_INTERNAL);
        must(hub_write_end(&w));
        ok(!file_exists(path), "no file before the commit");
    }
    struct hub_model *m;
    is_status(hub_open(in_scratch("out/deep"), &m), TM_ERR_IO);
    must(hub_commit_dir(in_scratch("out/deep"), p));
    must(hub_open(in_scratch("out/deep"), &m));
    char bytes[5] = "";
    must(hub_read_raw(m, hub_find(m, "b"), NULL, bytes));
    is_str(bytes, "abcd", "bytes of b in the second shard");
    hub_close(&m);
    must(hub_prepare_dir(in_scratch("out/deep"), p));
    is_status(hub_prepare_dir(in_scratch("out/deep"), one), TM_ERR_IO);
    ok(strstr(status_message(), "which is not part of this export") != NULL, "another layout: %s", status_message());
    must(hub_write_begin(one, 0, in_scratch("short.safetensors"), &w));
    must(hub_write_tensor(w, 0, 0, "abcd", 4));
    is_status(hub_write_end(&w), TM_ERR_INTERNAL);
    ok(!file_exists(in_scratch("short.safetensors.tmp")), "an incomplete file is removed");
    is_status(hub_write_begin(one, 0, in_scratch("absent/x.safetensors"), &w), TM_ERR_IO);
    is_status(hub_save(in_scratch("out"), t, (const void *[]){"abcd", "abcd"}, 2, NULL), TM_ERR_IO); /* a directory */
    ok(!file_exists(in_scratch("out.tmp")), "a file that cannot get its name is removed");
    hub_plan_destroy(&p);
    hub_plan_destroy(&one);
}

/* A full disk in the middle: the message says so and nothing stays. In a process of its own: a fault is armed once. */
static void disk_full(void) {
    pid_t child = fork();
    if (child == 0) {
        setenv("TEMPER_FAULT", "file:write:*:2", 1);
        float x = 1;
        const struct hub_tensor t = {"a", DTYPE_f32, 1, {1}};
        bool right = hub_save(in_scratch("full.safetensors"), &t, (const void *[]){&x}, 1, NULL) == TM_ERR_IO &&
                     strstr(status_message(), "full.safetensors.tmp: No space left on device");
        _exit(right ? 0 : 1);
    }
    int code = 1;
    waitpid(child, &code, 0);
    is_int(code, 0, "no space: status and message");
    ok(!file_exists(in_scratch("full.safetensors")) && !file_exists(in_scratch("full.safetensors.tmp")),
       "nothing stays");
}

/* --- files by others ---------------------------------------------------------------------------------------------------- */

static struct { int headers, same_header, documents, same_text; } walked;

/* Plan the tensors of a file by the reference implementation and compare the header we would write with the one it wrote. */
static void compare_header(const char *path) {
    struct hub_model *m;
    struct hub_plan *p;
    struct hub_tensor *t;
    char *bytes;
    size_t n;
    json_t *header;
    uint64_t length;
    must(hub_open(path, &m));
    must(file_read(path, 1 << 30, &bytes, &n));
    memcpy(&length, bytes, 8);
    must(json_read_buffer(bytes + 8, length, path, &header));
    json_t *metadata = json_object_get(header, "__metadata__"), *none = json_object();
    must(mem_alloc(&t, (size_t)hub_count(m), sizeof *t));
    for (int64_t i = 0; i < hub_count(m); i++) {
        const struct hub_entry *e = hub_entry(m, i);
        t[i] = (struct hub_tensor){.name = e->name, .dtype = e->dtype, .rank = e->rank};
        memcpy(t[i].shape, e->shape, sizeof e->shape);
    }
    must(hub_plan_create(t, (int)hub_count(m), INT64_MAX, metadata ? metadata : none, &p));
    walked.headers++;
    walked.same_header += p->files_n == 1 && p->files[0].bytes == (int64_t)n &&
                          p->files[0].header_bytes == (int64_t)length + 8 &&
                          !memcmp(bytes, p->files[0].header, length + 8);
    hub_plan_destroy(&p);
    mem_free(&t);
    json_decref(none);
    json_decref(header);
    mem_free(&bytes);
    hub_close(&m);
}

/* Read a JSON file and print it with its own indent. */
static void compare_text(const char *path) {
    char *bytes;
    size_t n;
    json_t *j;
    struct str text = {0};
    must(file_read(path, 1 << 24, &bytes, &n));
    int indent = (int)strspn(n > 2 ? bytes + 2 : "", " ");
    if (n > 2 && bytes[1] == '\n' && json_read_buffer(bytes, n, path, &j) == TM_OK) {
        must(hub_json_text(j, indent, &text));
        walked.documents++;
        bool same = (text.len == n || (text.len + 1 == n && bytes[n - 1] == '\n')) && !memcmp(text.p, bytes, text.len);
        walked.same_text += same;
        if (!same) fprintf(stderr, "#   differs: %s\n", path);
        json_decref(j);
        str_free(&text);
    }
    mem_free(&bytes);
}

static int visit(const char *path, const struct stat *s, int kind, struct FTW *at) {
    (void)s;
    if (kind != FTW_F) return 0;
    if (str_glob("*.safetensors", path)) compare_header(path);
    if (!strcmp(path + at->base, "config.json") || !strcmp(path + at->base, "hf_quant_config.json") ||
        !strcmp(path + at->base, "generation_config.json"))
        compare_text(path);
    return 0;
}

/* Every header of the goldens, which safetensors 0.8.0 wrote; every configuration, which transformers and ModelOpt wrote. */
static void others(void) {
    char golden[600];
    snprintf(golden, sizeof golden, "%s", in_shared("."));
    is_int(nftw(golden, visit, 16, 0), 0, "walk over the goldens");
    ok(walked.headers >= 200, "%d safetensors files", walked.headers);
    is_int(walked.same_header, walked.headers, "headers equal to the byte");
    ok(walked.documents >= 50, "%d JSON files", walked.documents);
    is_int(walked.same_text, walked.documents, "JSON files equal to the byte");
    struct hub_model *m;
    must(hub_open(in_shared("modelopt/export/llama/nvfp4"), &m)); /* four types in one file */
    int n = (int)hub_count(m);
    struct hub_tensor *t;
    void **data;
    must(mem_alloc(&t, (size_t)n, sizeof *t));
    must(mem_alloc(&data, (size_t)n, sizeof *data));
    for (int i = 0; i < n; i++) {
        const struct hub_entry *e = hub_entry(m, n - 1 - i);
        t[i] = (struct hub_tensor){.name = e->name, .dtype = e->dtype, .rank = e->rank};
        memcpy(t[i].shape, e->shape, sizeof e->shape);
        must(mem_alloc(&data[i], (size_t)e->bytes, 1));
        must(hub_read_raw(m, e, NULL, data[i]));
    }
    must(hub_save(in_scratch("nvfp4.safetensors"), t, (const void *const *)data, n, NULL));
    char *a, *b;
    size_t an, bn;
    must(file_read(in_shared("modelopt/export/llama/nvfp4/model.safetensors"), 1 << 24, &a, &an));
    must(file_read(in_scratch("nvfp4.safetensors"), 1 << 24, &b, &bn));
    ok(an == bn && !memcmp(a, b, an), "ModelOpt's file, read and written again, has the same %zu bytes", an);
    for (int i = 0; i < n; i++) mem_free(&data[i]);
    mem_free(&a);
    mem_free(&b);
    mem_free(&t);
    mem_free(&data);
    hub_close(&m);
}

/* --- JSON and companions ------------------------------------------------------------------------------------------------ */

/* What Python 3.11 prints for json.dumps(x, indent=2). */
static void json_style(void) {
    static const char text[] =
        "{\n  \"reals\": [\n    1e-05,\n    0.0001,\n    10000.0,\n    0.02,\n    1e+16,\n    1000000000000000.0,\n"
        "    123456789012345.6,\n    1.7976931348623157e+308,\n    5e-324,\n    -0.0,\n    0.1,\n    "
        "0.30000000000000004,\n"
        "    1.5e-07,\n    1e+22,\n    3.0\n  ],\n  \"none\": null,\n  \"empty\": {},\n  \"list\": [],\n  \"big\": "
        "9223372036854775807,\n"
        "  \"yes\": true,\n  \"no\": false,\n  \"text\": "
        "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u007f\\u00e9\\u20ac\\ud83d\\ude00\",\n"
        "  \"nested\": {\n    \"z\": [\n      [\n        1\n      ]\n    ],\n    \"a\": {}\n  }\n}";
    json_t *j;
    struct str out = {0};
    must(json_read_buffer(text, sizeof text - 1, "text", &j));
    must(hub_json_text(j, 2, &out));
    ok(!strcmp(out.p, text), "JSON as Python prints it");
    str_clear(&out);
    static const char *const damaged[] = {
        "\x80", "\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\xf8\x88\x80\x80\x80"};
    for (size_t i = 0; i < sizeof damaged / sizeof *damaged; i++)
        is_status(hub_json_string(damaged[i], true, &out), TM_ERR_FORMAT);
    str_free(&out);
    must(hub_write_json(in_scratch("j.json"), j, 4));
    json_decref(j);
    char *bytes;
    size_t n;
    must(file_read(in_scratch("j.json"), 10000, &bytes, &n));
    ok(strstr(bytes, "{\n    \"reals\": [\n        1e-05,\n") == bytes, "indent of 4");
    ok(bytes[n - 1] == '\n' && bytes[n - 2] == '}', "a newline at the end");
    mem_free(&bytes);
}

static void companions(void) {
    static const char *const names[] = {
        "tokenizer.json",        "tokenizer_config.json", "tokenizer.model", "merges.txt",        "LICENSE",
        "LICENSE.txt",           "chat_template.jinja",   "config.json",     "model.safetensors", "vocab.txt",
        "generation_config.json"};
    int copied;
    must(file_make_dirs(in_scratch("from/LICENSES")));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        snprintf(path, sizeof path, "from/%s", names[i]);
        must(file_write(in_scratch(path), "\0\xff\r\n", 4));
    }
    must(hub_copy_files(in_scratch("from"), in_scratch("to"), &copied));
    is_int(copied, 8, "files copied");
    char *bytes;
    size_t n;
    must(file_read(in_scratch("to/tokenizer.model"), 100, &bytes, &n));
    ok(n == 4 && !memcmp(bytes, "\0\xff\r\n", 4), "byte for byte");
    mem_free(&bytes);
    ok(!file_exists(in_scratch("to/config.json")) && !file_exists(in_scratch("to/model.safetensors")) &&
           !file_exists(in_scratch("to/vocab.txt")),
       "others stay behind");
    must(hub_copy_files(in_scratch("from"), in_scratch("from"), &copied));
    is_int(copied, 0, "onto itself: nothing to do");
    is_status(hub_copy_files(in_scratch("absent"), in_scratch("to"), &copied), TM_ERR_IO);
}

int main(void) {
    scratch_open();
    disk_full();
    by_hand();
    dealing();
    plan_refusals();
    files_of_a_plan();
    json_style();
    companions();
    if (find_shared())
        others();
    else
        ok(true, "files by others # SKIP no shared goldens");
    scratch_close();
    is_int(mem_bytes(), 0, "all memory is given back");
    return tap_done();
}
