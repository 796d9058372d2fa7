/* TEST ranks=1 tier=1 */
/* ckpt/: every byte of a checkpoint counts: flips, cuts, missing files; what find_latest passes over; the lock and the ledger. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "ckpt/ckpt.h"
#include "tap_mpi.h"

static struct par_grid grid;
static char run[64] = "/tmp/temper-damage-XXXXXX", dir[128];
static float weight[6] = {1, 2, 3, 4, 5, 6};
static double scalar = 7;

static enum status save(const char *where, int64_t step, const char *name) {
    struct ckpt_tensor list[2] = {{.desc = {.dtype = DTYPE_f32, .rank = 2, .shape = {2, 3}}, .host = weight},
                                  {.desc = {.name = "lr", .dtype = DTYPE_f64}, .host = &scalar, .units = "1/step"}};
    snprintf(list[0].desc.name, sizeof list[0].desc.name, "%s", name);
    list[0].desc.box = tensor_box_whole(2, list[0].desc.shape);
    struct ckpt_save_args a = {.dir = where, .step = step, .tensors = list, .n = 2, .grid = &grid};
    return ckpt_save_all(&a, NULL);
}

static int64_t latest(char *path) {
    int64_t step;
    if (ckpt_find_latest(dir, path, 4096, &step) != TM_OK) return -2;
    return step;
}

static void overwrite(const char *path, const char *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    if (f) {
        fwrite(bytes, 1, n, f);
        fclose(f);
    }
}

/* Flip one bit in each byte of a file; count the flips that verify reports with the file's name. */
static void flip_all(struct ckpt *c, const char *path, const char *name) {
    char *bytes;
    size_t n, seen = 0;
    must(file_read(path, 1 << 20, &bytes, &n));
    FILE *f = fopen(path, "r+b");
    if (!ok(f != NULL, "%s opens", name)) return;
    for (size_t i = 0; i < n; i++) {
        fseek(f, (long)i, SEEK_SET);
        fputc(bytes[i] ^ 4, f);
        fflush(f);
        seen += ckpt_verify(c) == TM_ERR_FORMAT && strstr(status_message(), name);
        fseek(f, (long)i, SEEK_SET);
        fputc(bytes[i], f);
        fflush(f);
    }
    fclose(f);
    ok(seen == n, "%s: a flipped bit in any of its %zu bytes is found and the file named (%zu)", name, n, seen);
    must(ckpt_verify(c));
    mem_free(&bytes);
}

static void flips(void) {
    char step[4096], path[4200];
    struct ckpt *c;
    is_int(latest(step), 1, "step 1 is there");
    must(ckpt_open(step, &c));
    snprintf(path, sizeof path, "%s/rank_00000.h5", step);
    flip_all(c, path, "rank_00000.h5");
    snprintf(path, sizeof path, "%s/index.h5", step);
    flip_all(c, path, "index.h5");
    ckpt_close(&c);

    /* in the data: a load says which tensor and block */
    char *bytes;
    size_t n, at = 0;
    float got[6];
    struct tensor_box box = {2, {0, 1}, {2, 2}};
    snprintf(path, sizeof path, "%s/rank_00000.h5", step);
    must(file_read(path, 1 << 20, &bytes, &n));
    while (at < n && memcmp(bytes + at, weight, sizeof weight) != 0) at++;
    bytes[at] ^= 1; /* the first element: the box wanted below does not even contain it */
    overwrite(path, bytes, n);
    must(ckpt_open(step, &c));
    is_status(ckpt_read_box(c, "w", &box, DTYPE_f32, got), TM_ERR_FORMAT);
    ok(strstr(status_message(), "rank_00000.h5") && strstr(status_message(), " w,") &&
           strstr(status_message(), "block 0"),
       "file, tensor and block are named: %s", status_message());
    ckpt_close(&c);
    bytes[at] ^= 1;
    overwrite(path, bytes, n - 1);
    must(ckpt_open(step, &c));
    is_status(ckpt_read_box(c, "w", &box, DTYPE_f32, got), TM_ERR_FORMAT);
    ok(strstr(status_message(), "bytes, the manifest says") != NULL, "a shorter file: %s", status_message());
    ckpt_close(&c);
    unlink(path);
    must(ckpt_open(step, &c));
    is_status(ckpt_read_box(c, "w", &box, DTYPE_f32, got), TM_ERR_IO);
    ok(strstr(status_message(), "rank_00000.h5") != NULL, "a missing file is named: %s", status_message());
    ckpt_close(&c);
    overwrite(path, bytes, n);
    must(ckpt_open(step, &c));
    must(ckpt_read_box(c, "w", &box, DTYPE_f32, got));
    ok(got[0] == 2 && got[1] == 5, "whole again: column 1 is 2, 5");
    must(ckpt_verify(c));
    ckpt_close(&c);
    mem_free(&bytes);
}

static void which_is_latest(void) {
    char path[4096], file[4200], *text;
    size_t n;
    int64_t step;
    must(save(dir, 2, "w"));
    must(save(dir, 10, "w"));
    is_int(latest(path), 10, "10 comes after 2");
    snprintf(file, sizeof file, "%s/MANIFEST.json", path);
    must(file_read(file, 1 << 20, &text, &n));
    overwrite(file, text, n / 2);
    is_int(latest(path), 2, "half a manifest: the directory does not exist");
    unlink(file);
    is_int(latest(path), 2, "no manifest: the directory does not exist");
    struct ckpt *c;
    snprintf(path, sizeof path, "%s/step_00000010", dir);
    is_status(ckpt_open(path, &c), TM_ERR_IO);
    ok(c == NULL && strstr(status_message(), "MANIFEST.json"), "opening it says so: %s", status_message());
    overwrite(file, "{}", 2);
    is_status(ckpt_open(path, &c), TM_ERR_FORMAT);
    overwrite(file, text, n);
    is_int(latest(path), 10, "whole again");
    mem_free(&text);
    snprintf(file, sizeof file, "%s/rank_00000.h5", path);
    must(file_read(file, 1 << 20, &text, &n));
    overwrite(file, text, n - 1);
    is_int(latest(path), 2, "a file that ends early: the one before");
    unlink(file);
    is_int(latest(path), 2, "a file that is not there: the one before");
    overwrite(file, text, n);
    is_int(latest(path), 10, "whole again");
    mem_free(&text);
    snprintf(path, sizeof path, "%s/step_00000002/MANIFEST.json", dir);
    overwrite(path, "", 0);
    must(save(dir, 2, "w"));
    snprintf(path, sizeof path, "%s/step_00000002", dir);
    must(ckpt_open(path, &c)); /* a damaged step is replaced */
    ckpt_close(&c);
    snprintf(path, sizeof path, "%s/step_00000010", dir);
    /* what a crash may leave */
    char old[4200], tmp[4200];
    snprintf(old, sizeof old, "%s/step_00000010.old", dir);
    ok(rename(path, old) == 0, "step 10 has stepped aside");
    is_int(latest(path), 10, "and counts while the new step 10 is not there");
    snprintf(tmp, sizeof tmp, "%s/step_00000011.tmp", dir);
    ok(rename(old, tmp) == 0, "as a .tmp");
    is_int(latest(path), 2, "it does not count");
    must(save(dir, 3, "w"));
    ok(!file_exists(tmp), "the next save clears a .tmp away");
    snprintf(tmp, sizeof tmp, "%s/step_9", dir);
    must(file_make_dirs(tmp));
    is_int(latest(path), 3, "step_9 is not a name of ours");
    must(ckpt_find_latest("/tmp/temper-there-is-no-such-folder", path, sizeof path, &step));
    ok(step == -1 && !path[0], "no folder: no checkpoint, no error");
    struct str s = {0};
    is_status(ckpt_inspect("/usr", &s), TM_ERR_DECK);
    must(ckpt_inspect(run, &s));
    ok(strstr(s.p, "good ") && strstr(s.p, "/step_00000003\n"), "inspect lists the checkpoints of a run");
    str_clear(&s);
    must(ckpt_inspect(dir, &s));
    ok(strstr(s.p, "step       3") && strstr(s.p, "f64"), "inspect takes the newest of a stage");
    str_free(&s);
}

static void refused(void) {
    char path[256];
    snprintf(path, sizeof path, "%s/file", run);
    overwrite(path, "x", 1);
    is_status(save(path, 1, "w"), TM_ERR_IO);
    snprintf(path, sizeof path, "%s/file/below", run);
    is_status(save(path, 1, "w"), TM_ERR_IO);
    ok(strstr(status_message(), "/file") != NULL, "the path is named: %s", status_message());
    static const char *const names[] = {"", "/w", "w/", "a//b", "a/./b", ".", "a\nb", "lr"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        enum status st = save(dir, 20, names[i]);
        ok(st == TM_ERR_INTERNAL || st == TM_ERR_FORMAT, "a tensor named \"%s\" is refused (%s)",
           i == 6 ? "a<newline>b" : names[i], status_name(st));
    }
    is_status(save(dir, -1, "w"), TM_ERR_INTERNAL);
    must(save(dir, 123456789, "w"));
    is_int(latest(path), 123456789, "nine digits of step");
}

static void lock(void) {
    int fd, ready[2];
    char byte;
    must(ckpt_lock_run(run, &fd));
    ckpt_unlock_run(&fd);
    if (!ok(pipe(ready) == 0, "pipe")) return;
    pid_t child = fork();
    if (child == 0) {
        bool held = ckpt_lock_run(run, &fd) == TM_OK;
        if (write(ready[1], held ? "y" : "n", 1) == 1) pause();
        _exit(0);
    }
    ok(read(ready[0], &byte, 1) == 1 && byte == 'y', "another process takes the lock");
    is_status(ckpt_lock_run(run, &fd), TM_ERR_DECK);
    char want[64];
    snprintf(want, sizeof want, "process %ld", (long)child);
    ok(strstr(status_message(), "run directory in use") && strstr(status_message(), want), "its pid is named: %s",
       status_message());
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    must(ckpt_lock_run(run, &fd));
    ok(fd >= 0, "a killed process leaves no lock");
    ckpt_unlock_run(&fd);
}

static void ledger(void) {
    char path[128];
    json_t *lines, *one = json_pack("{s:s}", "event", "start"), *none = json_array();
    must(ckpt_ledger_read(run, &lines));
    is_int(json_array_size(lines), 0, "no ledger: no lines");
    json_decref(lines);
    must(ckpt_ledger_append(run, one));
    snprintf(path, sizeof path, "%s/ledger.jsonl", run);
    must(file_append(path, "{\"event\":\"sto", 13)); /* torn by a crash */
    must(ckpt_ledger_append(run, one));
    must(ckpt_ledger_read(run, &lines));
    is_int(json_array_size(lines), 2, "a torn line costs only itself");
    json_decref(lines);
    is_status(ckpt_ledger_append(run, none), TM_ERR_INTERNAL);
    json_decref(one);
    json_decref(none);
}

int main(int argc, char **argv) {
    if (tap_mpi_start(&argc, &argv)) return 1;
    must(par_grid_create_all(1, 1, 1, &grid));
    ok(mkdtemp(run) != NULL, "temporary directory");
    snprintf(dir, sizeof dir, "%s/ckpt/01-qad", run);
    size_t before = mem_bytes();
    must(save(dir, 1, "w"));
    flips();
    which_is_latest();
    refused();
    lock();
    ledger();
    is_int(mem_bytes(), before, "nothing leaks");
    must(file_remove_tree(run));
    par_grid_destroy(&grid);
    return tap_mpi_done();
}
