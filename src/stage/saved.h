/* A stage's checkpoints: saving, resuming, and knowing what an earlier start finished. */
#pragma once

#include "ckpt/ckpt.h"
#include "quant/quantizer.h"
#include "stage/metrics.h"
#include "stage/progress.h"
#include "stage/run.h"

/* The metadata every checkpoint has: {"done": steps or batches, "finished", "quantizers": formats}; the caller adds and frees. Local. */
enum status stage_meta(const struct quant_model *q, int64_t done, bool finished, json_t **out);
/* Save the stage's state as of `done`. `later`: where checkpoint.background asks for it, writing may go on after the return, and device memory
 * must stay as it is until stage_save_hold. Collective over the world. */
enum status stage_save_all(struct stage_run *r, const struct deck_stage *s, int64_t done,
                           const struct ckpt_tensor *list, size_t n, const json_t *meta, bool later);
/* Wait until a checkpoint on its way no longer reads the state: before it changes or is freed. Local. */
void stage_save_hold(const struct stage_run *r);
/* When no rank is busy with the checkpoint on its way: its next wave, or its end. Collective over the world. */
enum status stage_save_advance_all(struct stage_run *r);
/* Wait for the checkpoint on its way, if there is one. Collective over the world. */
enum status stage_save_end_all(struct stage_run *r);
/* Is a save due by the time since the last one? Local. */
bool stage_save_due(const struct stage_run *r, const struct deck_stage *s);
/* The stage's newest checkpoint, or NULL when there is none (or --resume never). Collective over the world. */
enum status stage_resume_all(struct stage_run *r, const struct deck_stage *s, struct ckpt **out);

/* Stages that an earlier start of this run finished: their results are taken over and they are not run again. */
/* Read the run's ledger and compare the deck with the earlier start's (deck_compare): a change of a SAME key is refused by name unless allowed.
 * Rank 0 only reads; everyone gets the verdict. Collective over the world. */
enum status stage_history_all(struct stage_run *r);
bool stage_is_finished(const struct stage_run *r, const struct deck_stage *s);
/* Note in the ledger that the stage is done, with its results. Local (rank 0 writes). */
enum status stage_note_finished(struct stage_run *r, const struct deck_stage *s);
