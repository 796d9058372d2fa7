/* Tables per layer. */
#include "stage/layers.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"

/* "model.layers.0.mlp.up_proj.weight.amax" -> module and site; the format comes from the quantizers' own table. */
static json_t *row(const char *stat, const json_t *formats, double amax) {
    char module[TENSOR_NAME_MAX];
    snprintf(module, sizeof module, "%.*s", (int)(strlen(stat) - 5), stat); /* without ".amax" */
    const json_t *format = json_object_get(formats, module);
    char *dot = strrchr(module, '.');
    *dot = 0;
    json_t *o = json_object();
    json_object_set_new(o, "module", json_string(module));
    json_object_set_new(o, "site", json_string(dot + 1));
    json_object_set_new(o, "format", json_string(format ? json_string_value(format) : ""));
    json_object_set_new(o, "amax", json_real(amax));
    return o;
}

enum status stage_layers_from_quant(struct stage_run *r, const struct deck_stage *s, const struct quant_model *q) {
    char name[TENSOR_NAME_MAX];
    float *values;
    int64_t n;
    json_t *formats, *list;
    if (par_rank() != 0) return TM_OK;
    TM_TRY(quant_model_formats(q, &formats));
    list = json_array();
    for (int i = 0; quant_model_stat(q, i, name, &values, &n); i++) {
        double most = 0;
        for (int64_t k = 0; k < n; k++) most = (double)values[k] > most ? (double)values[k] : most;
        json_array_append_new(list, row(name, formats, most));
    }
    json_decref(formats);
    json_object_set_new(stage_results_of(r, s), "layers", list);
    return TM_OK;
}

enum status stage_write_text(struct stage_run *r, const struct deck_stage *s, const char *what, const char *text) {
    char name[256], path[4096];
    if (par_rank() != 0) return TM_OK;
    snprintf(name, sizeof name, "%.128s.%s.txt", s->name, what);
    TM_TRY(str_path(path, sizeof path, r->deck->run.dir, name));
    return file_write(path, text, strlen(text));
}
