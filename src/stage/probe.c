/* Probes: gathering boxes into one safetensors file. */
#include "stage/probe.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/stop.h"
#include "hub/export.h"

enum status probe_add(struct probe *p, struct dev *dev, const struct tensor_desc *desc, dptr data) {
    size_t bytes = (size_t)tensor_box_elems(&desc->box) * 4;
    p->dev = dev;
    TM_TRY(mem_grow(&p->desc, &p->cap_desc, p->n + 1, sizeof *p->desc));
    TM_TRY(mem_grow(&p->data, &p->cap_data, p->n + 1, sizeof *p->data));
    TM_TRY(mem_grow(&p->owned, &p->cap_owned, p->n + 1, sizeof *p->owned));
    p->desc[p->n] = *desc;
    p->data[p->n] = data;
    p->owned[p->n] = !data.a && bytes;
    if (p->owned[p->n]) TM_TRY(dev_alloc(dev, "probe", bytes, &p->data[p->n]));
    p->n++;
    return TM_OK;
}

static enum status produce_all(void *context, int tensor, int64_t row0, int64_t rows, int root, void *out) {
    struct {
        struct par_boxes *boxes;
        const struct probe *p;
    } *c = context;
    const struct tensor_desc *t = &c->p->desc[tensor];
    struct tensor_box want = tensor_box_whole(t->rank, t->shape);
    if (t->rank > 0) {
        want.lo[0] = row0;
        want.hi[0] = row0 + rows;
    }
    TM_TRY(par_agree_all(stop_check("probe")));
    return par_boxes_fetch_all(c->boxes, tensor, &want, root, out);
}

static enum status write_all(struct probe *p, const char *dir, struct hub_plan **plan) {
    struct {
        struct par_boxes *boxes;
        const struct probe *p;
    } c = {NULL, p};
    struct hub_tensor *t;
    enum status st = mem_alloc(&t, p->n, sizeof *t);
    for (size_t i = 0; st == TM_OK && i < p->n; i++) {
        t[i] = (struct hub_tensor){.name = p->desc[i].name, .dtype = DTYPE_f32, .rank = p->desc[i].rank};
        memcpy(t[i].shape, p->desc[i].shape, sizeof p->desc[i].shape);
    }
    if (st == TM_OK) st = hub_plan_create(t, (int)p->n, INT64_MAX, NULL, plan);
    mem_free(&t);
    TM_TRY(par_agree_all(st));
    TM_TRY(par_boxes_create_all(p->dev, p->desc, p->data, (int)p->n, &c.boxes));
    st = hub_write_all(dir, *plan, 0, produce_all, &c);
    par_boxes_destroy(&c.boxes);
    return st;
}

enum status probe_write_all(struct probe *p, const char *path) {
    char dir[4096], file[4200];
    struct hub_plan *plan = NULL;
    enum status st = TM_OK;
    if (p->n && dev_backend(p->dev) == DEV_PLAN) return TM_OK;
    snprintf(dir, sizeof dir, "%s.parts", path); /* a directory of its own: the plan names its files */
    if (par_rank() == 0) st = file_remove_tree(dir);
    TM_TRY(par_agree_all(st));
    st = write_all(p, dir, &plan);
    hub_plan_destroy(&plan);
    if (st == TM_OK && par_rank() == 0) {
        snprintf(file, sizeof file, "%s/model.safetensors", dir);
        if (rename(file, path) != 0) st = TM_FAIL(TM_ERR_IO, "cannot rename %s to %s", file, path);
        if (st == TM_OK) st = file_remove_tree(dir);
    }
    return par_agree_all(st);
}

void probe_free(struct probe *p) {
    for (size_t i = 0; i < p->n; i++)
        if (p->owned[i]) dev_free(p->dev, &p->data[i]);
    mem_free(&p->desc);
    mem_free(&p->data);
    mem_free(&p->owned);
    p->n = 0;
}
