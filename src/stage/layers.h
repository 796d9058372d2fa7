/* Tables per layer: into results.json (the report shows them) and as text files in the run directory. All Local; rank 0 works. */
#pragma once

#include "quant/quantizer.h"
#include "stage/run.h"

/* results.stages.<name>.layers = [{"module", "site", "format", "amax"}, ...] */
enum status stage_layers_from_quant(struct stage_run *r, const struct deck_stage *s, const struct quant_model *q);
/* <run>/<stage name>.<what>.txt */
enum status stage_write_text(struct stage_run *r, const struct deck_stage *s, const char *what, const char *text);
