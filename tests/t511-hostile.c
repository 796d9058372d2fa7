/* TEST ranks=1 tier=1 */
/* hub/: damaged and hostile safetensors files and indexes: each bound broken on purpose, the message names file and tensor. */
#include <sys/stat.h>

#include "hub/safetensors.h"
#include "hub_files.h"
#include "model/config.h"

static void refused(const char *path, enum status want, const char *what, const char *part) {
    struct hub_model *m;
    enum status st = hub_open(in_scratch(path), &m);
    ok(st == want && m == NULL, "%s: %s (got %s)", what, status_name(want), status_name(st));
    ok(strstr(status_message(), part) != NULL, "%s: \"%s\" says \"%s\"", what, status_message(), part);
}

/* A file x.safetensors with this header and n bytes of data. */
static void header_refused(const char *header, size_t n, enum status want, const char *what, const char *part) {
    put_file("x.safetensors", header, strlen(header), NULL, n);
    refused("x.safetensors", want, what, part);
    ok(strstr(status_message(), scratch) != NULL && strstr(status_message(), "x.safetensors") != NULL,
       "%s: names the file", what);
}

#define T(name, dtype, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" begin "," end "]}"

static void headers(void) {
    const struct {
        const char *header;
        size_t n;
        enum status want;
        const char *what, *part;
    } cases[] = {
        {"{" T("a", "F32", "2", "0", "8") "," T("b", "F32", "2", "4", "12") "}", 12, TM_ERR_FORMAT, "overlap",
         "tensor \"b\" begins at byte 4, expected 8: it overlaps a"},
        {"{" T("a", "F32", "2", "0", "8") "," T("b", "F32", "2", "12", "20") "}", 20, TM_ERR_FORMAT, "hole",
         "tensor \"b\" begins at byte 12, expected 8: a hole behind a"},
        {"{" T("a", "F32", "2", "4", "12") "}", 12, TM_ERR_FORMAT, "hole at the front",
         "tensor \"a\" begins at byte 4, expected 0"},
        {"{" T("a", "F32", "1", "0", "4") "," T("a", "F32", "1", "4", "8") "}", 8, TM_ERR_FORMAT, "duplicate key",
         "duplicate object key near '\"a\"'"},
        {"{" T("a", "F32", "4", "0", "16") "}", 15, TM_ERR_FORMAT, "truncated",
         "is truncated: tensors up to \"a\" need 79 bytes, the file has 78"},
        {"{" T("a", "F32", "4", "0", "16") "}", 17, TM_ERR_FORMAT, "bytes behind",
         "has 80 bytes, its header describes 79"},
        {"{" T("a", "U8", "9223372036854775807", "0", "9223372036854775807") "}", 8, TM_ERR_FORMAT,
         "offset past the end", "is truncated: tensors up to \"a\" need 9223372036854775"},
        {"{" T("a", "F32", "1099511627776,1099511627776", "0", "8") "}", 8, TM_ERR_FORMAT, "product overflow",
         "tensor \"a\": the product of its shape overflows"},
        {"{" T("a", "F32", "4611686018427387904", "0", "8") "}", 8, TM_ERR_FORMAT, "bytes overflow",
         "tensor \"a\": the product of its shape overflows"},
        {"{" T("a", "F7", "2", "0", "8") "}", 8, TM_ERR_FORMAT, "dtype", "tensor \"a\": unknown dtype \"F7\""},
        {"{" T("a", "F16", "2", "0", "8") "}", 8, TM_ERR_FORMAT, "wrong dtype",
         "tensor \"a\": data_offsets span 8 bytes, shape and dtype need 4"},
        {"{" T("a", "F32", "-2", "0", "8") "}", 8, TM_ERR_FORMAT, "negative size", "tensor \"a\": the shape is not"},
        {"{" T("a", "F32", "2.0", "0", "8") "}", 8, TM_ERR_FORMAT, "real size", "tensor \"a\": the shape is not"},
        {"{" T("a", "F32", "99999999999999999999", "0", "8") "}", 8, TM_ERR_FORMAT, "huge size", "too big integer"},
        {"{" T("a", "F32", "2", "-8", "0") "}", 8, TM_ERR_FORMAT, "negative offset",
         "tensor \"a\": data_offsets is not"},
        {"{" T("a", "F32", "2", "8", "0") "}", 8, TM_ERR_FORMAT, "reversed offsets",
         "tensor \"a\": data_offsets is not"},
        {"{" T("a", "F32", "2", "0", "8.0") "}", 8, TM_ERR_FORMAT, "real offset", "tensor \"a\": data_offsets is not"},
        {"{" T("a", "F32", "1,1,1,1,1,1,1,1,1", "0", "4") "}", 4, TM_ERR_UNSUPPORTED, "nine axes",
         "tensor \"a\" has 9 axes, at most 8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, TM_ERR_FORMAT, "no offsets", "tensor \"a\": expected {"},
        {"{\"a\":[1,2]}", 8, TM_ERR_FORMAT, "no object", "tensor \"a\": expected {"},
        {"{\"a\":{\"dtype\":3,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, TM_ERR_FORMAT, "dtype is no text",
         "tensor \"a\": expected {"},
        {"{\"__metadata__\":[]}", 0, TM_ERR_FORMAT, "metadata is no object", "\"__metadata__\" is not an object"},
        {"{\"__metadata__\":{\"k\":1}}", 0, TM_ERR_FORMAT, "metadata is no text", "\"k\" is not a text"},
        {"{\"a\":", 8, TM_ERR_FORMAT, "cut JSON", "not valid JSON"},
        {"{} {}", 0, TM_ERR_FORMAT, "two objects", "not valid JSON"},
        {"{\"\xff\":1}", 0, TM_ERR_FORMAT, "not UTF-8", "not valid JSON"},
        {"{\"a\\u0000b\":1}", 0, TM_ERR_FORMAT, "NUL in a name", "not valid JSON"},
        {"[1]", 0, TM_ERR_FORMAT, "an array", "does not start with '{'"},
        {" {}", 0, TM_ERR_FORMAT, "a blank first", "does not start with '{'"},
        {"", 0, TM_ERR_FORMAT, "empty header", "does not start with '{'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        header_refused(cases[i].header, cases[i].n, cases[i].want, cases[i].what, cases[i].part);
    char deep[4200] = "{\"a\":";
    memset(deep + 5, '[', 4000);
    header_refused(deep, 0, TM_ERR_FORMAT, "deep nesting", "maximum parsing depth");
}

static void lengths(void) {
    put_file("x.safetensors", "{}", 100000001, NULL, 0);
    refused("x.safetensors", TM_ERR_FORMAT, "header too long", "header of 100000001 bytes, at most 100000000");
    put_file("x.safetensors", "{}", UINT64_MAX, NULL, 0);
    refused("x.safetensors", TM_ERR_FORMAT, "header of 2^64 - 1", "header of 18446744073709551615 bytes");
    put_file("x.safetensors", "{}", 3, NULL, 0);
    refused("x.safetensors", TM_ERR_FORMAT, "header cut",
            "x.safetensors is truncated: its header needs 11 bytes, the file has 10");
    must(file_write(in_scratch("x.safetensors"), "\2\0\0", 3));
    refused("x.safetensors", TM_ERR_FORMAT, "three bytes", "x.safetensors has 3 bytes");
    ok(mkfifo(in_scratch("pipe"), 0600) == 0, "a pipe");
    refused("pipe", TM_ERR_IO, "a pipe does not block", "is not a regular file");
    refused("absent.safetensors", TM_ERR_IO, "absent file", "absent.safetensors: No such file");
    must(file_make_dirs(in_scratch("empty")));
    refused("empty", TM_ERR_IO, "empty directory", "holds neither model.safetensors nor model.safetensors.index.json");
    struct hub_model *m;
    static const char odd[] =
        "{" T("b", "U8", "3", "5", "8") "," T("z", "U8", "0", "5", "5") "," T("a", "F32", "", "1",
                                                                              "5") "," T("y", "U8", "1", "0",
                                                                                         "1") "}   ";
    put_file("odd.safetensors", odd, sizeof odd - 1, NULL, 8);
    must(hub_open(in_scratch("odd.safetensors"), &m));
    is_int(hub_count(m), 4, "any order, an empty tensor, a scalar, odd offsets and trailing blanks are fine");
    unsigned char b[3];
    must(hub_read_raw(m, hub_find(m, "b"), NULL, b));
    ok(b[0] == 5 && b[1] == 6 && b[2] == 7, "its bytes");
    hub_close(&m);
    put_file("none.safetensors", "{}", 2, NULL, 0);
    must(hub_open(in_scratch("none.safetensors"), &m));
    is_int(hub_count(m), 0, "a file without tensors");
    ok(hub_find(m, "a") == NULL, "finds none");
    hub_close(&m);
}

static void put_index(const char *text) {
    must(file_write(in_scratch("s/model.safetensors.index.json"), text, strlen(text)));
}

static void indexes(void) {
    must(file_make_dirs(in_scratch("s")));
    put_file("s/one.safetensors", "{" T("a", "U8", "1", "0", "1") "," T("left", "U8", "1", "1", "2") "}",
             strlen("{" T("a", "U8", "1", "0", "1") "," T("left", "U8", "1", "1", "2") "}"), NULL, 2);
    put_file("s/two.safetensors", "{" T("b", "U8", "1", "0", "1") "," T("a", "U8", "1", "1", "2") "}",
             strlen("{" T("b", "U8", "1", "0", "1") "," T("a", "U8", "1", "1", "2") "}"), NULL, 2);
    struct hub_model *m;
    put_index("{\"metadata\":{},\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}");
    must(hub_open(in_scratch("s"), &m));
    is_int(hub_count(m), 2, "the tensors that the index lists");
    ok(hub_find(m, "left") == NULL, "others are left out");
    ok(strstr(hub_path(m, hub_find(m, "a")), "one.safetensors") != NULL, "of two of one name, the listed one");
    hub_close(&m);
    put_index("{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}}");
    refused("s", TM_ERR_FORMAT, "a tensor of another shard", "tensor \"b\" is not in ");
    ok(strstr(status_message(), "s/one.safetensors") && strstr(status_message(), "index.json"), "both files are named");
    put_index("{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"model-00002-of-00002.safetensors\"}}");
    refused("s", TM_ERR_IO, "missing shard", "model-00002-of-00002.safetensors: No such file");
    ok(strstr(status_message(), "shard of tensor \"b\"") != NULL, "the tensor is named");
    put_file("s/cut.safetensors", "{" T("b", "U8", "4", "0", "4") "}", strlen("{" T("b", "U8", "4", "0", "4") "}"),
             NULL, 3);
    put_index("{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"cut.safetensors\"}}");
    refused("s", TM_ERR_FORMAT, "truncated shard", "s/cut.safetensors is truncated");
    put_index("{\"weight_map\":{\"a\":\"../types.safetensors\"}}");
    refused("s", TM_ERR_FORMAT, "a path in the index", "\"a\" does not name a file of the same directory");
    put_index("{\"weight_map\":{\"a\":\"..\"}}");
    refused("s", TM_ERR_FORMAT, "the parent as shard", "\"a\" does not name a file of the same directory");
    put_index("{\"weight_map\":{\"a\":\".\"}}");
    refused("s", TM_ERR_FORMAT, "the folder as shard", "\"a\" does not name a file of the same directory");
    put_index("{\"weight_map\":{\"a\":\"pytorch_model-00001-of-00002.bin\"}}");
    refused("s", TM_ERR_UNSUPPORTED, "a pickle as shard", "run code when they are read");
    put_index("{\"weight_map\":{\"a\":7}}");
    refused("s", TM_ERR_FORMAT, "a number as file", "\"a\" does not name a file");
    put_index("{\"weight_map\":[]}");
    refused("s", TM_ERR_FORMAT, "no map", "\"weight_map\" is not an object");
    put_index("{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}}");
    refused("s", TM_ERR_FORMAT, "a name twice", "duplicate object key");
    put_index("{");
    refused("s", TM_ERR_FORMAT, "index is no JSON", "not valid JSON");
}

/* A pickle is known by its name: its bytes do not matter, they are not looked at. */
static void pickles(void) {
    static const char *const names[] = {"x.bin", "x.pt", "x.pth", "x.ckpt", "x.pkl"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        put_file(names[i], "{}", 2, NULL, 0);
        refused(names[i], TM_ERR_UNSUPPORTED, names[i], "run code when they are read: expected safetensors");
    }
    must(file_make_dirs(in_scratch("torch")));
    put_file("torch/pytorch_model.bin", "{}", 2, NULL, 0);
    refused("torch", TM_ERR_UNSUPPORTED, "a folder of PyTorch",
            "torch/pytorch_model.bin: .bin files of PyTorch are pickles");
}

static void config_refused(const char *more, const char *part) {
    struct model_config c;
    char text[512];
    snprintf(text, sizeof text,
             "{\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
             "\"intermediate_size\":128,\"vocab_size\":96%s}",
             more);
    enum status st = model_config_parse(text, "config.json", &c);
    ok(st == (part ? TM_ERR_FORMAT : TM_OK) && (!part || strstr(status_message(), part)), "config%s: %s", more,
       st == TM_OK ? "read" : status_message());
    model_config_free(&c);
}

static void configs(void) {
    config_refused("", NULL);
    config_refused(",\"rope_theta\":0", "rope_theta = 0: expected a number > 0");
    config_refused(",\"rope_scaling\":{\"rope_theta\":-1.5}", "rope_theta = -1.5");
    config_refused(",\"num_hidden_layers\":3", "duplicate object key");
    config_refused(",\"head_dim\":9223372036854775807", "head_dim = 9223372036854775807: expected 1 to 4096");
    config_refused(",\"num_key_value_heads\":-4", "num_key_value_heads = -4");
    config_refused(",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":-2}", "not positive");
}

/* nemotron: what of config.json is read, and what is refused. */
static void nemotron(const char *more, enum status want, const char *part) {
    struct model_config c;
    char text[512];
    snprintf(text, sizeof text,
             "{\"model_type\":\"nemotron\",\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
             "\"num_key_value_heads\":2,\"head_dim\":24,\"intermediate_size\":128,\"vocab_size\":96%s}",
             more);
    enum status st = model_config_parse(text, "config.json", &c);
    ok(st == want && (!part || strstr(status_message(), part)), "nemotron%s: %s", more,
       st == TM_OK ? "read" : status_message());
    if (want == TM_OK && !*more) {
        const int64_t layer = 64 * 24 * 12 + 2 * 64 * 128 + 4 * 64; /* q, o, k, v; up, down; two norms with biases */
        is_int(model_config_params(&c), 2 * layer + 2 * 64 + 2 * 96 * 64, "  its parameters");
        ok(c.layernorm && !c.gated && c.act == ACT_RELU2 && c.rotary == 12 && c.norm_eps == 1e-5f,
           "  by default relu2, half a head turned, eps 1e-5");
    }
    model_config_free(&c);
}
static void nemotrons(void) {
    nemotron("", TM_OK, NULL);
    nemotron(",\"hidden_act\":\"gelu_pytorch_tanh\",\"partial_rotary_factor\":1,\"rope_scaling\":null", TM_OK, NULL);
    nemotron(",\"hidden_act\":\"silu\"", TM_ERR_UNSUPPORTED, "supported: relu2, gelu, gelu_pytorch_tanh");
    nemotron(",\"partial_rotary_factor\":1.5", TM_ERR_FORMAT, "partial_rotary_factor = 1.5 of head_dim = 24");
    nemotron(",\"partial_rotary_factor\":0.3", TM_ERR_FORMAT, "an even number of channels"); /* 7.2 */
    nemotron(",\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0}", TM_ERR_FORMAT, "= 0 of");
    nemotron(",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2}", TM_ERR_UNSUPPORTED,
             "not supported for nemotron");
}

int main(void) {
    scratch_open();
    pickles();
    configs();
    nemotrons();
    headers();
    lengths();
    indexes();
    scratch_close();
    is_int(mem_bytes(), 0, "all memory is given back");
    return tap_done();
}
