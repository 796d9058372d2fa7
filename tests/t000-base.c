/* TEST ranks=1 tier=1 */
/* base/: status, strings, globs, checked sizes, memory, random numbers, JSON and files. */
#include "base/arena.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/str.h"
#include "tap.h"

#include <sys/stat.h>
#include <unistd.h>

static void strings(void) {
    (void)TM_FAIL(TM_ERR_DATA, "name \"%s\"", "a\x1b[2J\x7f\r");
    is_str(status_message(), "name \"a?[2J??\"", "a message holds nothing that a terminal obeys");
    struct str s = {0};
    must(str_printf(&s, "%d-%s", 12, "ab"));
    must(str_append(&s, "c\0d", 3));
    is_int(s.len, 8, "append keeps NUL bytes");
    is_str(s.p, "12-abc", "printf then append");
    str_free(&s);
    ok(str_glob("*lm_head*", "lm_head") && str_glob("*.q_proj", "model.layers.0.self_attn.q_proj"), "glob: stars");
    ok(str_glob("model.layers.[012].?", "model.layers.1.x") && !str_glob("a*b", "abc") && str_glob("a*b*", "aXbbY"),
       "glob: sets");
    is_int(str_distance("warmup", "warmpu"), 2, "edit distance of a transposition");
    is_int(str_distance("kitten", "sitting"), 3, "edit distance, the textbook pair");
    char path[64];
    must(str_path(path, sizeof path, "a/b", "c"));
    is_str(path, "a/b/c", "path join");
    must(str_path(path, sizeof path, "a/b", "/c"));
    is_str(path, "/c", "absolute names stay");
}

static void random_numbers(void) {
    uint32_t r[4]; /* known answers of the Random123 distribution, kat_vectors: philox4x32 10 */
    rng_philox(0, 0, 0, r);
    ok(r[0] == 0x6627e8d5 && r[1] == 0xe169c58d && r[2] == 0xbc57ac4c && r[3] == 0x9b00dbd8,
       "philox known answer, zeros");
    rng_philox(UINT64_MAX, UINT64_MAX, UINT64_MAX, r);
    ok(r[0] == 0x408f276d && r[1] == 0x41c83b0e && r[2] == 0xa20bc7c6 && r[3] == 0x6d5451fd,
       "philox known answer, ones");
    double sum = 0, square = 0;
    for (int i = 0; i < 100000; i++) {
        double x = (double)rng_normal(1, 2, (uint64_t)i);
        sum += x;
        square += x * x;
    }
    ok(fabs(sum / 1e5) < 0.015 && fabs(square / 1e5 - 1) < 0.02, "normal: mean 0, variance 1");
    ok(rng_below(1, 1, 1, 7) < 7, "below stays below");
}

static void files(void) {
    char dir[] = "/tmp/temper-test-XXXXXX", path[64], *text;
    size_t n;
    ok(mkdtemp(dir) != NULL, "temporary directory");
    snprintf(path, sizeof path, "%s/a/b", dir);
    must(file_make_dirs(path));
    snprintf(path, sizeof path, "%s/a/b/x.json", dir);
    must(file_write(path, "{\"k\": 3, \"k\": 4}", 16));
    json_t *j;
    is_status(json_read_file(path, 1000, &j), TM_ERR_FORMAT);
    ok(strstr(status_message(), "duplicate") != NULL, "a duplicate key is named");
    is_status(file_read(path, 5, &text, &n), TM_ERR_FORMAT);
    must(file_write(path, "{\"k\": 3, \"s\": \"t\"}", 18));
    must(json_read_file(path, 1000, &j));
    int64_t k;
    must(json_need_i64(j, "k", path, &k));
    is_int(k, 3, "integer field");
    is_status(json_need_i64(j, "s", path, &k), TM_ERR_FORMAT);
    is_status(json_need_i64(j, "absent", path, &k), TM_ERR_FORMAT);
    json_decref(j);
    must(file_remove_tree(dir));
    ok(!file_exists(dir), "the tree is gone");
    is_status(file_read(path, 10, &text, &n), TM_ERR_IO);
}

/* XXH3-64 of nothing is 2d06800538d394c2 (xxHash's own test vector); pieces of any length give the hash of the whole. */
/* A pipe does not block; nothing is written through a link; modes are the umask's. */
static void odd_files(void) {
    char dir[] = "/tmp/temper-test-XXXXXX", path[64], other[64], tmp[70], *text;
    struct stat s;
    size_t n;
    int fd;
    ok(mkdtemp(dir) != NULL, "a folder");
    snprintf(path, sizeof path, "%s/a", dir);
    snprintf(other, sizeof other, "%s/b", dir);
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    ok(mkfifo(path, 0600) == 0, "a pipe");
    is_status(file_open(path, &fd, NULL), TM_ERR_IO);
    ok(fd == -1 && strstr(status_message(), "is not a regular file"), "is not opened: %s", status_message());
    is_status(file_read(path, 100, &text, &n), TM_ERR_IO);
    is_status(file_open(dir, &fd, NULL), TM_ERR_IO);
    unlink(path);
    mode_t was = umask(027);
    must(file_write(other, "keep", 4));
    ok(stat(other, &s) == 0 && (s.st_mode & 0777) == 0640, "the mode is what the umask leaves");
    umask(was);
    ok(symlink(other, tmp) == 0, "a link in the place of the unfinished file");
    is_status(file_write(path, "lost", 4), TM_ERR_IO);
    unlink(tmp);
    ok(symlink(other, path) == 0, "a link in the place of the file");
    must(file_write(path, "new", 3));
    ok(lstat(path, &s) == 0 && S_ISREG(s.st_mode) && s.st_size == 3, "is replaced");
    is_int(file_size(other), 4, "and what it pointed to stays");
    is_status(file_remove_tree(dir), TM_OK);
}

static void hashes(void) {
    static char text[4099];
    struct hash_stream h;
    is_int(hash_bytes("", 0, 0), 0x2d06800538d394c2, "hash of no bytes");
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)(i * i >> 3);
    hash_begin(&h, 7);
    for (size_t at = 0, n = 1; at < sizeof text; at += n, n *= 2)
        hash_add(&h, text + at, n < sizeof text - at ? n : sizeof text - at);
    is_int(hash_end(&h), hash_bytes(text, sizeof text, 7), "hash of 1 + 2 + 4 + ... bytes");
    ok(hash_element(1, 2, 3) != hash_element(2, 1, 3), "element hash depends on its parts");
}

int main(void) {
    strings();
    random_numbers();
    files();
    odd_files();
    hashes();
    size_t big;
    ok(!size_mul(SIZE_MAX / 2, 3, &big) && !size_add(SIZE_MAX, 1, &big), "overflow is seen");
    void *p;
    is_status(mem_alloc(&p, SIZE_MAX / 2, 3), TM_ERR_MEMORY);
    must(mem_alloc(&p, 10, 10));
    is_int(mem_bytes(), 100, "memory is counted");
    mem_free(&p);
    is_int(mem_bytes(), 0, "and uncounted");
    struct arena a;
    uint64_t at;
    arena_init(&a, "test", 4096, 256);
    must(arena_take(&a, 100, &at));
    must(arena_take(&a, 100, &at));
    is_int(at, 4096 + 128, "arena blocks are 64-byte aligned");
    is_status(arena_take(&a, 1, &at), TM_ERR_MEMORY);
    is_status(TM_FAIL(TM_ERR_SHAPE, "%s", "x"), TM_ERR_SHAPE);
    status_context(TM_ERR_SHAPE, "ctx: ");
    is_str(status_message(), "ctx: x", "context is prepended");
    return tap_done();
}
