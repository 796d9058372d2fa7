/* Fuzz: a checkpoint's MANIFEST.json, its own hash put right, over a shard and an index that are there: read, verified, hashed, printed. */
#include "base/hash.h"
#include "ckpt_make.h"

enum { HASH_AT = 9, REST_AT = 28, ELEMS_MAX = 1 << 12 }; /* {"xxh3":"0123456789abcdef",\n */

static struct str good;

/* The manifest of the bytes that its hash is over. */
static void put_manifest(const void *rest, size_t n) {
    struct str s = {0};
    char hex[17];
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)hash_bytes(rest, n, 0));
    fuzz_must(str_append(&s, good.p, REST_AT));
    memcpy(s.p + HASH_AT, hex, 16);
    fuzz_must(str_append(&s, rest, n));
    fuzz_put("step/" CKPT_MANIFEST, s.p, s.len);
    str_free(&s);
}

static void read_tensor(struct ckpt *c, const struct tensor_desc *d) {
    static double out[ELEMS_MAX];
    fuzz_check(ckpt_find(c, d->name) == d, "a tensor is found by its name");
    if (tensor_elems(d) > ELEMS_MAX) return;
    (void)ckpt_read_box(c, d->name, &d->box, d->dtype, out);
    (void)ckpt_read_box(c, d->name, &d->box, DTYPE_f32, out);
}

static void run(struct fuzz_input in) {
    struct ckpt *c;
    struct str text = {0};
    uint64_t hash;
    int64_t step;
    char latest[512];
    put_manifest(in.p, in.n);
    enum status st = ckpt_open(fuzz_path("step"), &c);
    fuzz_check((st == TM_OK) == (c != NULL), "a handle, or an error");
    if (st != TM_OK) return;
    for (int i = 0; i < ckpt_count(c); i++) read_tensor(c, ckpt_tensor_at(c, i));
    (void)ckpt_verify(c);
    (void)ckpt_hash(c, &hash);
    ckpt_close(&c);
    fuzz_must(ckpt_inspect(fuzz_path("step"), &text));
    fuzz_must(ckpt_find_latest(fuzz_dir, latest, sizeof latest, &step));
    str_free(&text);
}

static void set_up(void) {
    struct ckpt *c;
    ckpt_make(&good);
    fuzz_must(ckpt_open(fuzz_path("step"), &c));
    fuzz_must(ckpt_verify(c));
    ckpt_close(&c);
    fuzz_check(good.len > REST_AT && good.p[REST_AT - 1] == '\n', "where the hash is");
}

static void seeds(void) { fuzz_seed("good", good.p + REST_AT, good.len - REST_AT); }

FUZZ_TARGET(set_up, run, seeds)
