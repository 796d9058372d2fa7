/* The part of stage convert that turns a GGUF model into a Hugging Face directory. */
#pragma once

#include "stage/run.h"

/* Is the stage's input a GGUF file? Rank 0 looks; all get its answer. Collective over the world. Errors: DECK (it is one of several
 * inputs, or keys are given that are for text). */
enum status stage_input_is_gguf_all(struct stage_run *r, const struct deck_stage *s, bool *out);
/* Write s->output: weights (model.dtype; auto = fp32 where the embedding is, else bf16) in files of at most s->shard_size, side by side
 * over the ranks, then config.json and the tokenizer's files. Collective over the world. */
enum status stage_convert_gguf_all(struct stage_run *r, const struct deck_stage *s);
