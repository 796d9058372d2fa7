/* What a stage works on, opened from its deck section: data sets, the model it takes, the teacher. */
#pragma once

#include "ckpt/ckpt.h"
#include "stage/run.h"

/* The tokenizer of the stage's model (model.tokenizer, else beside model.path). Local. */
enum status stage_open_tokenizer(const struct deck_stage *s, struct tok **out);

/* A data set of the deck for the stage's model (its ids must be below the vocabulary). *rows: samples to use (dataset.samples, else one pass);
 * may be NULL. In train and distill the stage's own data is shuffled unless the deck says otherwise. Collective over the world (an agreement). */
enum status stage_open_set_all(struct stage_run *r, const struct deck_stage *s, const struct deck_dataset *d,
                               struct data_set **out, int64_t *rows);

/* A token file (safetensors: integer input_ids [B, T]; attention_mask and labels where wanted) as a source of rows. Local. */
enum status stage_open_token_file(const char *path, struct data_source **out);

/* config.json of the stage's model (model.path, else model.random_init). The caller frees with model_config_free, also after an error. Local. */
enum status stage_model_config(const struct deck_stage *s, struct model_config *out);

/* Where a model's weights come from. */
struct stage_model {
    struct model *m;
    char weights[4096]; /* HF directory or checkpoint */
};
/* The model that the stage takes: model.path, random_init, or what the stage `from` left. Collective over the world. */
enum status stage_open_model_all(struct stage_run *r, const struct deck_stage *s, bool training, int64_t max_positions,
                                 struct stage_model *out);
/* The teacher: teacher.path, or model.path as it came. Collective over the world. */
enum status stage_open_teacher_all(struct stage_run *r, const struct deck_stage *s, int64_t max_positions,
                                   struct stage_model *out);
/* Pack the weights of a model that stay as they are for the rest of the stage (model_pack), if the deck wants it. Collective over the world (an
 * agreement). */
enum status stage_pack_model_all(const struct stage_run *r, const struct deck_stage *s, struct model *m);
void stage_close_model(struct stage_model *m);

/* The model's parameters as checkpoint tensors (fp32 masters under their hub names); the caller frees the array with mem_free. Local. */
enum status stage_model_tensors(const struct model *m, struct ckpt_tensor **out, int *n);
