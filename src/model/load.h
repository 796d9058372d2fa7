/* Weights from disk into a model on a grid: each rank reads its own boxes. */
#pragma once

#include "hub/safetensors.h"
#include "model/model.h"

/* Load every parameter that this rank holds from a Hugging Face directory. Local: the caller agrees. Errors: FORMAT (absent), SHAPE (another shape
 * than config.json says), NUMERIC (NaN or Inf), IO; the message names file and tensor. */
enum status model_load_hub(struct model *m, const struct hub_model *h);
