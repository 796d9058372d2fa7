/* What train and distill share: an optimizer loop over a data set with checkpoints, metrics and resume. */
#pragma once

#include "stage/run.h"

/* Run the stage; with_teacher: losses of kind kl take the teacher's final hidden states. Collective over the world. */
enum status stage_learn_all(struct stage_run *r, const struct deck_stage *s, bool with_teacher);
