/* Probes: tensors that a stage writes for whoever wants to check it (logits, hidden states, gradients, statistics), as one
 * safetensors file with fp32 data, on any grid. */
#pragma once

#include "stage/run.h"

struct probe {
    struct dev *dev;
    struct tensor_desc *desc;
    dptr *data;
    bool *owned;
    size_t n, cap_desc, cap_data, cap_owned;
};

/* Add a tensor: the same on all ranks but for the box. data.a = 0 with a box that is not empty: memory is allocated (zero) and owned. Local. */
enum status probe_add(struct probe *p, struct dev *dev, const struct tensor_desc *desc, dptr data);
/* Write all tensors to `path`. Collective over the world. */
enum status probe_write_all(struct probe *p, const char *path);
void probe_free(struct probe *p);
