/* Fuzz: model.safetensors.index.json. No file outside of the index's own folder is opened. */
#include "fuzz.h"
#include "hub/safetensors.h"

static void run(struct fuzz_input in) {
    struct hub_model *m;
    fuzz_put("s/model.safetensors.index.json", in.p, in.n);
    if (hub_open(fuzz_path("s"), &m) != TM_OK) return;
    for (int64_t i = 0; i < hub_count(m); i++) {
        const struct hub_entry *e = hub_entry(m, i);
        const char *path = hub_path(m, e), *dir = fuzz_path("s/");
        fuzz_check(!strncmp(path, dir, strlen(dir)) && !strchr(path + strlen(dir), '/'), "files of the same folder");
        fuzz_check(hub_find(m, e->name) == e, "a tensor is found by its name");
    }
    hub_close(&m);
}

static void put_shard(const char *name, const char *header, size_t data) {
    char bytes[512];
    uint64_t n = strlen(header);
    memset(bytes, 0, sizeof bytes);
    memcpy(bytes, &n, sizeof n);
    memcpy(bytes + 8, header, (size_t)n);
    fuzz_put(name, bytes, 8 + (size_t)n + data);
}

#define T(name, begin, end) "\"" name "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[" begin "," end "]}"

static void set_up(void) {
    fuzz_must(file_make_dirs(fuzz_path("s")));
    put_shard("s/1.safetensors", "{" T("a", "0", "1") "," T("b", "1", "2") "}", 2);
    put_shard("s/2.safetensors", "{" T("c", "0", "1") "," T("a", "1", "2") "}", 2);
    put_shard("s/cut.safetensors", "{" T("d", "0", "1") "}", 0);
    put_shard("other.safetensors", "{" T("x", "0", "1") "}", 1);
    fuzz_check(symlink("../other.safetensors", fuzz_path("s/link.safetensors")) == 0, "a link");
}

static void seeds(void) {
    fuzz_seed_text(
        "both", "{\"metadata\":{\"total_size\":4},\"weight_map\":{\"a\":\"1.safetensors\",\"c\":\"2.safetensors\"}}");
    fuzz_seed_text("again",
                   "{\"weight_map\":{\"a\":\"2.safetensors\",\"b\":\"1.safetensors\",\"d\":\"cut.safetensors\"}}");
    fuzz_seed_text("out", "{\"weight_map\":{\"x\":\"../other.safetensors\",\"y\":\"/etc/passwd\",\"z\":\"..\"}}");
    fuzz_seed_text("link", "{\"weight_map\":{\"x\":\"link.safetensors\"}}");
}

FUZZ_TARGET(set_up, run, seeds)
