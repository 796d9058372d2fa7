/* Checkpoints: a set of global tensors, written by boxes and read back by boxes on any grid; the run's lock and ledger.
 *
 * On disk, under <run>/ckpt/<nn>-<stage name>/: step_%08d/ holds
 *   rank_%05d.h5   one HDF5 file per writer: contiguous datasets "<tensor>#<piece>" with the attributes name, shape, lo, hi, dtype, units
 *   index.h5       virtual datasets that show every tensor whole (h5py, h5dump); it finds the others beside itself
 *   MANIFEST.json  written last: which bytes of which file are which box, with an XXH3 for every 16 MiB, and one for all other bytes
 *                  of each file; step, grid, code version, deck, the caller's metadata; its first key is the hash of all that follows
 * A directory without a valid manifest does not exist. Reading goes by the manifest alone: pread, verify, copy; HDF5 is not asked.
 * Nothing is updated in place. 16-bit formats are real HDF5 floats; e4m3 (which has no infinities) shows as its 8-bit codes.
 *
 * "Boxes" are those of tensor.h, row-major. Functions that end in _all are collective over the world; the others are Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "base/status.h"
#include "base/str.h"
#include "dev/dev.h"
#include "par/par.h"
#include "tensor/tensor.h"

/* One global tensor and this rank's box of it. All memory is borrowed.
 * desc.dtype is the element type in memory. Data lies in device memory (data) or in host memory (host; wins when set): a row-major array
 * of the box. This rank holds nothing when the box is empty, or (tensors of rank 0) when there is neither data nor host. */
struct ckpt_tensor {
    struct tensor_desc desc; /* name: printable, no empty or "." part between '/'; '/' makes HDF5 groups */
    dptr data;
    void *host;
    bool as_bf16;      /* saving: desc.dtype is f32, the file gets bf16 (nearest, ties to even) */
    const char *units; /* saving: for the attribute; NULL = "1" */
};

struct ckpt_save_args {
    const char *run_dir; /* gets a line in its ledger.jsonl; NULL: no ledger */
    const char *dir;     /* the stage's folder; made when absent */
    int64_t step;        /* >= 0 */
    struct dev *dev;     /* may be NULL when all tensors are in host memory */
    const struct ckpt_tensor *tensors;
    int n;
    const json_t
        *meta; /* free-form JSON object: schedules, RNG keys, cursors, progress; NULL = {}. Rank 0's is written */
    const char *deck_text; /* the effective deck, UTF-8; NULL = "". Rank 0's is written */
    const char *code;      /* code version; NULL = "" */
    const struct par_grid *grid;
    int keep;    /* how many checkpoints stay in `dir`, newest by step first; 0 = all. The new one always stays */
    int writers; /* at most so many files are written at the same time, in waves; 0 = all */
    bool
        verify; /* before the rename every file is read back from the disk and compared with the hashes of what was meant */
};

struct ckpt_saved {
    int64_t step, bytes; /* bytes: of tensor data, each element once */
    double seconds;      /* from the call until it was there, on this rank */
    double
        stalled; /* what the calling thread spent, waiting for other ranks included; the same unless it was saved in the background */
    char path[4096];
};

/* Save. Collective over the world: the same list of global tensors (names, shapes, dtypes, order) on every rank, each with its own box;
 * boxes may repeat (replicas: one holder writes, chosen to balance bytes), overlap, be uneven or empty, but must cover each tensor.
 * Everything is written to step_*.tmp, synced, agreed on, then renamed; a step that exists already is replaced without a moment in which
 * neither is there. On an error all ranks return the same status, the .tmp is gone, older checkpoints are untouched (only if the error is
 * the ledger's is the new one there). `info` may be NULL.
 * Rank 0 prunes after the agreement, so other ranks may return before old folders are gone.
 * Errors: IO (no space: says both numbers; what is read back differs), SHAPE (a tensor is not covered, a box is outside its tensor), INTERNAL (lists differ, a bad
 * name, data missing), FORMAT (two tensors of one name), UNSUPPORTED (as_bf16 of another dtype), DECK (deck or metadata not UTF-8, a
 * number in it not finite), DEVICE, MEMORY, COMM.
 * Faults for tests: ckpt:space, write, index, manifest, rename, ledger (an error there); ckpt:flip (a bit, on the way to the disk);
 * ckpt:die-write, die-manifest, die-rename (SIGKILL). */
enum status ckpt_save_all(const struct ckpt_save_args *a, struct ckpt_saved *info);

/* The same in the background: a thread copies this rank's share of the state to host memory, hashes it and writes it while the caller goes
 * on; it makes no MPI call, so what ranks must agree on is done by the caller when all threads are idle. The files are those of
 * ckpt_save_all, byte for byte. Between begin and end: ask ckpt_background_state, agree that no rank is busy, advance. */
struct ckpt_background;
enum ckpt_state {
    CKPT_BUSY,  /* copying, writing, removing old ones */
    CKPT_IDLE,  /* this rank has done its part, or its turn has not come */
    CKPT_FAILED /* advance tells why, on all ranks */
};
/* Collective over the world. What is in host memory is copied at once, and so is what is not the host backend's device memory; the tensors in
 * that must stay as they are until ckpt_background_hold returns. Of `a`, run_dir, deck_text, code, grid and dev stay
 * borrowed until the end. Errors as
 * ckpt_save_all; MEMORY for the copy. */
enum status ckpt_background_begin_all(const struct ckpt_save_args *a, struct ckpt_background **out);
/* Wait until the state may change. NULL: nothing to wait for. Local. */
void ckpt_background_hold(struct ckpt_background *b);
enum ckpt_state ckpt_background_state(struct ckpt_background *b);
/* Waits for this rank's thread, agrees, and begins what comes next: another wave; after the last one the checkpoint gets its name, which fills
 * *info (else info->path is ""), and rank 0's thread removes what is not kept; then *b becomes NULL, as it does on an error. Collective over the
 * world. Errors as ckpt_save_all. */
enum status ckpt_background_advance_all(struct ckpt_background **b, struct ckpt_saved *info);
/* Advance until all is done. *info is as it was when the checkpoint had its name before. Collective over the world. */
enum status ckpt_background_end_all(struct ckpt_background **b, struct ckpt_saved *info);
/* What a rank writes that holds these boxes in a grid with dp replicas, and what the copy takes: at most so many bytes. Local. */
int64_t ckpt_share_bytes(const struct ckpt_tensor *tensors, int n, int dp);

/* Seconds of work between two saves that lose least time, when a save costs `cost` seconds and failures come every `mtbf` seconds on average:
 * Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps" (2006), eq. 37, whose first term is Young's (1974)
 * sqrt(2 cost mtbf). Both > 0. Local. */
double ckpt_interval(double cost, double mtbf);

/* The newest checkpoint in `dir` (largest step) that has a valid manifest and all its files in their sizes; others are passed over with a
 * warning. No such: *step = -1, out = "", TM_OK. Local. Errors: IO (dir exists but cannot be listed). The _all form asks rank 0 and tells everyone. */
enum status ckpt_find_latest(const char *dir, char *out, size_t cap, int64_t *step);
enum status ckpt_find_latest_all(const char *dir, struct par_group *world, char *out, size_t cap, int64_t *step);

struct ckpt; /* an open checkpoint; one thread at a time */

/* Read and verify the manifest of step_dir. Errors: IO (no manifest), FORMAT (damaged, hash, version). The _all form reads it once, on rank 0,
 * and broadcasts the text. Close with ckpt_close. */
enum status ckpt_open(const char *step_dir, struct ckpt **out);
enum status ckpt_open_all(const char *step_dir, struct par_group *world, struct ckpt **out);
void ckpt_close(struct ckpt **c);

/* What was saved with it. All results are borrowed from c. */
int64_t ckpt_step(const struct ckpt *c);
const json_t *ckpt_meta(const struct ckpt *c);
const json_t *ckpt_grid(const struct ckpt *c); /* {"world", "tp", "cp", "dp", "pp"} of the run that wrote it */
const char *ckpt_deck_text(const struct ckpt *c);
const char *ckpt_code(const struct ckpt *c);
const char *ckpt_path(const struct ckpt *c);
int ckpt_count(const struct ckpt *c);
/* Tensor i, or the one of that name (NULL when there is none). dtype as stored, box = whole. */
const struct tensor_desc *ckpt_tensor_at(const struct ckpt *c, int i);
const struct tensor_desc *ckpt_find(const struct ckpt *c, const char *name);

/* Read a box of a tensor into `out`, a row-major array of the box in dtype `as`: the stored dtype, or f32 for a stored bf16. Every 16 MiB
 * block that is touched is read whole and verified. Local. Errors: IO (a file is missing: named), FORMAT (no such tensor; a block's hash
 * differs: names file, tensor, block; a file is shorter), SHAPE (box outside the tensor, or not covered), UNSUPPORTED (dtypes). */
enum status ckpt_read_box(struct ckpt *c, const char *name, const struct tensor_box *box, enum dtype as, void *out);
/* Read this rank's box of each tensor of the list into its memory (device or host; empty boxes are skipped) and agree. The global shapes must
 * equal the stored ones; desc.dtype as `as` above. `dev` may be NULL when all are in host memory. Collective over the world. */
enum status ckpt_load_all(struct ckpt *c, struct dev *dev, const struct ckpt_tensor *tensors, int n);
/* Verify every byte of every file against the manifest. Local. Errors as ckpt_read_box. */
enum status ckpt_verify(struct ckpt *c);

/* Content hashes: sum modulo 2^64 over all elements of hash_element(name, row-major global index, bits as stored), and a term per tensor for
 * dtype and shape: any partition gives the same sum. About 1e8 elements a second and thread. */
/* The elements of one box of a tensor, `bytes` a row-major array of it in desc->dtype (desc->box is not read). Local. */
uint64_t ckpt_hash_box(const struct tensor_desc *desc, const struct tensor_box *box, const void *bytes);
/* The term of a tensor's dtype and shape. Local. */
uint64_t ckpt_hash_head(const struct tensor_desc *desc);
/* Of a checkpoint on disk (all blocks are verified on the way). Local. */
enum status ckpt_hash(struct ckpt *c, uint64_t *out);
/* Of tensors in memory: equals ckpt_hash of what ckpt_save_all would write of them. Every holder hashes its copy: replicas that differ raise
 * NUMERIC with the tensor's name. Collective over the world. */
enum status ckpt_hash_all(struct dev *dev, struct par_group *world, const struct ckpt_tensor *tensors, int n,
                          uint64_t *out);

/* A table for people. `path` is a step folder or a stage's folder (its newest): step, grid, when, files, tensors with shape, dtype, pieces and
 * bytes. Or a file of a step folder: it is verified, its pieces with their boxes. Or a run's directory: a line for each checkpoint of each
 * stage, with its state: "good" (a valid manifest, all files there with their sizes), "damaged" (why) or "unfinished".
 * Appends to out. Local. Errors as ckpt_open; FORMAT for a damaged file; DECK when there is no checkpoint. */
enum status ckpt_inspect(const char *path, struct str *out);

/* The run directory's lock, held by the kernel until the process ends or ckpt_unlock_run. Made when absent; its text names process, host, job
 * and time. For one process of the job (rank 0); a second fcntl lock of the same process does not conflict. On a file system without
 * locks the text decides: a process of this host that is gone, and an earlier start of this very job, hold nothing; one of another host
 * cannot be asked and is believed. Errors: DECK when another process holds it (who), IO. Fault: ckpt:nolock. */
enum status ckpt_lock_run(const char *run_dir, int *fd);
void ckpt_unlock_run(int *fd);

/* The run's ledger, <run_dir>/ledger.jsonl: one JSON object a line, synced; each begins with "when", in UTC. A line torn by a crash is closed by the next append and left out
 * (with a warning) by the read, which gives a new JSON array (empty when there is no ledger). Local. Errors: IO, FORMAT. */
enum status ckpt_ledger_append(const char *run_dir, const json_t *line);
enum status ckpt_ledger_read(const char *run_dir, json_t **out);
