/* Fuzz: the HDF5 files of a checkpoint. An input damages them: a byte says which file and how long it stays (in 256ths, 0: all), then come
 * offset (two bytes) and change (one). Any change of any byte is found; nothing of HDF5 is asked. */
#include "ckpt_make.h"

static const char *const names[] = {"step/rank_00000.h5", "step/" CKPT_INDEX};
static char *bytes[2], *damaged;
static size_t length[2];

static void run(struct fuzz_input in) {
    struct ckpt *c;
    uint64_t hash;
    unsigned which = fuzz_take_byte(&in) % 2, stays = fuzz_take_byte(&in);
    size_t n = length[which], left = stays ? n * stays / 256 : n;
    memcpy(damaged, bytes[which], n);
    for (; in.n >= 3; in.p += 3, in.n -= 3) {
        size_t at = ((size_t)in.p[0] << 8 | in.p[1]) * 4099 % n; /* prime: all of the file is reached */
        damaged[at] = (char)(damaged[at] ^ in.p[2]);
    }
    bool same = left == n && !memcmp(damaged, bytes[which], n);
    fuzz_put(names[which], damaged, left);
    fuzz_must(ckpt_open(fuzz_path("step"), &c));
    enum status st = ckpt_verify(c);
    fuzz_check(same ? st == TM_OK : st == TM_ERR_FORMAT, "damage is found, and only damage");
    fuzz_check(same || strstr(status_message(), names[which]), "the file is named");
    (void)ckpt_hash(c, &hash);
    ckpt_close(&c);
    fuzz_put(names[which], bytes[which], n);
}

static void set_up(void) {
    struct str manifest = {0};
    ckpt_make(&manifest);
    str_free(&manifest);
    for (int i = 0; i < 2; i++) fuzz_must(file_read(fuzz_path(names[i]), 1 << 20, &bytes[i], &length[i]));
    fuzz_must(mem_alloc(&damaged, length[0] > length[1] ? length[0] : length[1], 1));
}

static void seeds(void) {
    fuzz_seed("bit", "\0\0\0\0\1", 5);
    fuzz_seed("index", "\1\0\0\1\1\0\2\xff", 8);
    fuzz_seed("cut", "\0\200", 2);
}

FUZZ_TARGET(set_up, run, seeds)
