/* The quantizers that a stage works with: restored from the checkpoint that the stage `from` left, or loaded with an FP8 checkpoint. */
#pragma once

#include "quant/quantizer.h"
#include "stage/inputs.h"

struct stage_quant {
    struct quant_model *q; /* NULL: the model is not quantized */
    struct model_hook hook;
};

/* Restore the quantizers that go with the stage's model, if any (those of an FP8 checkpoint in evaluate and generate; other stages take its decoded
 * weights); apply: fake-quantize the weights (a second copy of them, which a stage
 * without a forward pass does not need). Collective over the world. */
enum status stage_open_quant_all(struct stage_run *r, const struct deck_stage *s, struct model *m, bool apply,
                                 struct stage_quant *out);
/* Those of the teacher: an FP8 checkpoint's own; for teacher.compute = "fp8" else weights by channel and inputs by token. Applied. Collective over the
 * world. */
enum status stage_open_teacher_quant_all(const struct stage_run *r, const struct deck_stage *s, struct model *m,
                                         struct stage_quant *out);
/* Quantize weights for the stage's forward passes: fake-quantized copies, or codes where numerics.compute = "fp8". Collective over the tensor group.
 * Errors: DECK (codes of a model that is not quantized), those of quant_model_apply_fp8. */
enum status stage_apply_quant(const struct deck_stage *s, struct stage_quant *q);
/* Make them from the deck's quant group, not yet measured. Local. */
enum status stage_make_quant(const struct deck_stage *s, struct model *m, struct stage_quant *out);
void stage_close_quant(struct stage_quant *q);
/* The hook for passes; NULL when nothing is quantized. */
const struct model_hook *stage_quant_hook(const struct stage_quant *q);
/* bits_per_weight of the linears as a result. Local. */
enum status stage_quant_results(struct stage_run *r, const struct deck_stage *s, const struct stage_quant *q);
/* The quantizers' maxima as host tensors of a checkpoint ("quant/<module>.<site>.amax"), appended to a list. Local. */
enum status stage_quant_tensors(const struct quant_model *q, struct ckpt_tensor **list, size_t *cap, size_t *n);
/* Read the maxima back and put them onto the device. Local. */
enum status stage_load_maxima(struct quant_model *q, struct ckpt *c);
