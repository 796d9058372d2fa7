/* Saving: everything into step_N.tmp, synced and agreed on, then one rename. */
#include "ckpt/save.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"
#include "ckpt/dirs.h"
#include "ckpt/open.h"
#include "ckpt/plan.h"
#include "ckpt/shard.h"

/* --- rank 0 ------------------------------------------------------------------------------------------------------------------ */

static enum status check_space(const struct save *s) {
    int64_t free_bytes = fault_here("ckpt", "space") ? 0 : file_free_bytes(s->a->dir);
    /* frames, attributes and manifest: some KiB a piece */
    int64_t want = s->t.bytes + (1 << 20) + 4096 * s->t.n_pieces;
    if (free_bytes >= 0 && free_bytes < want)
        return TM_FAIL(TM_ERR_IO, "%s: a checkpoint of %lld bytes wants space, %lld bytes are free", s->a->dir,
                       (long long)want, (long long)free_bytes);
    return TM_OK;
}

static enum status prepare(const struct save *s) {
    TM_TRY(file_make_dirs(s->a->dir));
    TM_TRY(ckpt_dirs_remove_tmp(s->a->dir));
    TM_TRY(check_space(s));
    return file_make_dirs(s->tmp);
}

static enum status write_manifest(const struct save *s) {
    const struct ckpt_save_args *a = s->a;
    char path[4096];
    struct str text = {0};
    json_t *none = json_object(),
           *grid = json_pack("{s:i, s:i, s:i, s:i, s:i}", "world", par_group_size(a->grid->world), "tp", a->grid->tp,
                             "cp", a->grid->cp, "dp", a->grid->dp, "pp", a->grid->pp);
    struct ckpt_about about = {.step = a->step,
                               .code = a->code ? a->code : "",
                               .deck = a->deck_text ? a->deck_text : "",
                               .when = s->when,
                               .meta = a->meta ? a->meta : none,
                               .grid = grid};
    enum status st = fault_here("ckpt", "manifest") ? TM_FAIL(TM_ERR_IO, "%s: %s", CKPT_MANIFEST, strerror(ENOSPC))
                                                    : ckpt_manifest_print(&s->t, &about, &text);
    if (st == TM_OK) st = str_path(path, sizeof path, s->tmp, CKPT_MANIFEST);
    if (st == TM_OK) st = file_write(path, text.p, text.len);
    str_free(&text);
    json_decref(none);
    json_decref(grid);
    return st;
}

static enum status move(const char *from, const char *to) {
    if (fault_here("ckpt", "rename")) return TM_FAIL(TM_ERR_IO, "cannot rename %s: %s", from, strerror(EIO));
    if (rename(from, to) != 0) return TM_FAIL(TM_ERR_IO, "cannot rename %s: %s", from, strerror(errno));
    return TM_OK;
}

/* step_N.tmp becomes step_N. One that is there already steps aside as step_N.old, which counts until step_N is back. */
static enum status publish(const struct save *s) {
    bool replaces = file_exists(s->path);
    if (replaces) {
        if (ckpt_dirs_check(s->path) == TM_OK) {
            TM_TRY(file_remove_tree(s->old));
            TM_TRY(move(s->path, s->old));
        } else {
            TM_TRY(file_remove_tree(s->path));
        }
    }
    if (fault_here("ckpt", "die-rename")) raise(SIGKILL);
    enum status st = move(s->tmp, s->path);
    if (st != TM_OK && replaces && file_exists(s->old) && rename(s->old, s->path) != 0)
        log_warn("%s stays under that name: %s", s->old, strerror(errno));
    TM_TRY(st);
    return file_sync_dir(s->a->dir);
}

static enum status finish(const struct save *s) {
    TM_TRY(write_manifest(s));
    TM_TRY(file_sync_dir(s->tmp));
    if (fault_here("ckpt", "die-manifest")) raise(SIGKILL);
    return publish(s);
}

static enum status note(const struct save *s, double seconds) {
    if (!s->a->run_dir) return TM_OK;
    if (fault_here("ckpt", "ledger")) return TM_FAIL(TM_ERR_IO, "ledger: %s", strerror(ENOSPC));
    json_t *line = json_pack("{s:s, s:s, s:s, s:I, s:I, s:f, s:i}", "event", "checkpoint", "when", s->when, "path",
                             s->path, "step", (json_int_t)s->a->step, "bytes", (json_int_t)s->t.bytes, "seconds",
                             seconds, "world", par_group_size(s->a->grid->world));
    enum status st = ckpt_ledger_append(s->a->run_dir, line);
    json_decref(line);
    return st;
}

/* Take the .tmp away without losing the message of what went wrong. */
static void clean_up(const struct save *s) {
    char keep[2048];
    snprintf(keep, sizeof keep, "%s", status_message());
    if (file_exists(s->tmp) && file_remove_tree(s->tmp) != TM_OK)
        log_warn("%s stays behind: %s", s->tmp, status_message());
    status_set_message(keep);
}

void ckpt_save_prune(const struct save *s) {
    if (ckpt_dirs_prune(s->a->dir, s->a->keep, s->a->step) != TM_OK)
        log_warn("old checkpoints in %s stay: %s", s->a->dir, status_message());
}

/* --- all ranks --------------------------------------------------------------------------------------------------------------- */

static enum status set_names(struct save *s) {
    struct step_dir d = {.step = s->a->step};
    time_t now = time(NULL);
    struct tm utc;
    strftime(s->when, sizeof s->when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    if (d.step < 0) return TM_FAIL(TM_ERR_INTERNAL, "checkpoint of step %lld", (long long)d.step);
    if (s->a->meta && !json_is_object(s->a->meta)) return TM_FAIL(TM_ERR_INTERNAL, "metadata is no JSON object");
    TM_TRY(ckpt_dirs_path(s->a->dir, &d, s->path, sizeof s->path));
    d.tmp = true;
    TM_TRY(ckpt_dirs_path(s->a->dir, &d, s->tmp, sizeof s->tmp));
    d.tmp = false;
    d.old = true;
    return ckpt_dirs_path(s->a->dir, &d, s->old, sizeof s->old);
}

/* Every writer knows offsets and hashes of its own pieces only, zeros elsewhere: one OR brings them together. */
static enum status share_all(struct save *s) {
    struct ckpt_table *t = &s->t;
    int64_t *x, *p, n = t->n_pieces + t->n_hashes + 2 * (int64_t)t->n_files;
    enum status st = par_agree_all(mem_alloc(&x, (size_t)n, sizeof *x));
    p = x;
    if (st == TM_OK) {
        for (int64_t i = 0; i < t->n_pieces; i++) *p++ = t->pieces[i].offset;
        for (int64_t i = 0; i < t->n_hashes; i++) *p++ = (int64_t)t->hashes[i];
        for (int i = 0; i < t->n_files; i++) *p++ = t->files[i].bytes;
        for (int i = 0; i < t->n_files; i++) *p++ = (int64_t)t->files[i].rest;
        st = par_reduce_i64(s->a->grid->world, x, n, PAR_BOR);
    }
    p = x;
    if (st == TM_OK) {
        for (int64_t i = 0; i < t->n_pieces; i++) t->pieces[i].offset = *p++;
        for (int64_t i = 0; i < t->n_hashes; i++) t->hashes[i] = (uint64_t)*p++;
        for (int i = 0; i < t->n_files; i++) t->files[i].bytes = *p++;
        for (int i = 0; i < t->n_files; i++) t->files[i].rest = (uint64_t)*p++;
    }
    mem_free(&x);
    return st;
}

/* Files are dealt to the waves in turn, so that the writers of a wave are spread over the hosts. */
static void set_waves(struct save *s) {
    int shards = s->t.n_files - 1, most = s->a->writers;
    s->waves = most > 0 && shards > most ? (shards + most - 1) / most : 1;
    s->wave = s->mine >= 0 ? s->mine % s->waves : 0;
}

enum status ckpt_save_plan_all(struct save *s, const struct ckpt_save_args *a) {
    int size = par_group_size(a->grid->world), rank = par_group_rank(a->grid->world);
    *s = (struct save){.a = a, .mine = -1, .first = rank == 0, .began = clock_seconds()};
    par_note(log_stage(), a->step, "checkpoint save");
    TM_TRY(par_agree_all(set_names(s)));
    TM_TRY(ckpt_plan_gather_all(a->tensors, a->n, a->dev != NULL, a->grid->world, &s->t));
    enum status st = ckpt_plan_name_files(&s->t, size, rank, &s->mine);
    if (st == TM_OK) set_waves(s);
    if (st == TM_OK && s->first) st = prepare(s);
    st = par_agree_all(st);
    if (st != TM_OK) ckpt_save_drop(s);
    return st;
}

/* What lies on the disk now, against the hashes of what was meant. */
static enum status verify_file(const struct save *s, int file) {
    struct ckpt c = {.t = s->t, .fd = -1, .file = -1, .cached_piece = -1};
    TM_TRY(str_copy(c.dir, sizeof c.dir, s->tmp));
    TM_TRY(mem_alloc(&c.block, 1, CKPT_BLOCK));
    enum status st = ckpt_use_file(&c, file);
    if (st == TM_OK) (void)posix_fadvise(c.fd, 0, 0, POSIX_FADV_DONTNEED); /* not what the system kept of it */
    if (st == TM_OK) st = ckpt_verify_file(&c, file);
    ckpt_use_none(&c);
    mem_free(&c.block);
    return st == TM_OK ? TM_OK : status_context(TM_ERR_IO, "read back after writing: ");
}

enum status ckpt_save_write(struct save *s, struct dev *dev, const struct ckpt_tensor *tensors) {
    int index = s->t.n_files - 1;
    if (s->mine >= 0) TM_TRY(ckpt_shard_write(s->tmp, dev, tensors, &s->t, s->mine));
    if (s->first) TM_TRY(ckpt_shard_write_index(s->tmp, &s->t));
    if (s->mine >= 0 && s->a->verify) TM_TRY(verify_file(s, s->mine));
    return s->first && s->a->verify ? verify_file(s, index) : TM_OK;
}

enum status ckpt_save_publish_all(struct save *s, struct ckpt_saved *info, bool *there) {
    enum status st = share_all(s);
    if (st == TM_OK) st = par_agree_all(s->first ? finish(s) : TM_OK);
    if (st != TM_OK) {
        ckpt_save_drop(s);
        return st;
    }
    *there = true;
    double seconds = clock_seconds() - s->began;
    st = par_agree_all(s->first ? note(s, seconds) : TM_OK);
    if (info) {
        *info = (struct ckpt_saved){.step = s->a->step, .bytes = s->t.bytes, .seconds = seconds, .stalled = seconds};
        memcpy(info->path, s->path, sizeof s->path);
    }
    ckpt_table_free(&s->t);
    return st;
}

void ckpt_save_drop(struct save *s) {
    if (s->first) clean_up(s);
    ckpt_table_free(&s->t);
}

enum status ckpt_save_all(const struct ckpt_save_args *a, struct ckpt_saved *info) {
    struct save s;
    TM_TRY(ckpt_save_plan_all(&s, a));
    enum status st = TM_OK;
    for (int k = 0; k < s.waves && st == TM_OK; k++)
        st = par_agree_all(k == s.wave ? ckpt_save_write(&s, a->dev, a->tensors) : TM_OK);
    if (st != TM_OK) {
        ckpt_save_drop(&s);
        return st;
    }
    bool there = false;
    st = ckpt_save_publish_all(&s, info, &there);
    if (there && s.first) ckpt_save_prune(&s);
    return st;
}
