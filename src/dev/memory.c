/* The table of a device's memory by class: what is allocated now, and the most there was. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "dev/device.h"

enum status dev_memory_row(struct dev *d, const char *what, int *out) {
    for (*out = 1; *out < d->memories; (*out)++)
        if (!strcmp(d->memory[*out].what, what)) return TM_OK;
    TM_TRY(mem_grow(&d->memory, &d->memory_cap, (size_t)*out + 1, sizeof *d->memory));
    snprintf(d->memory[0].what, sizeof d->memory[0].what, "all");
    d->memory[*out] = (struct dev_memory){0};
    snprintf(d->memory[*out].what, sizeof d->memory[*out].what, "%s", what);
    d->memories = *out + 1;
    return TM_OK;
}

void dev_memory_add(struct dev *d, int row, size_t bytes) {
    const int rows[] = {0, row};
    for (int i = 0; i < 2; i++) {
        struct dev_memory *m = &d->memory[rows[i]];
        m->now += bytes;
        if (m->now > m->high) m->high = m->now;
    }
}

void dev_memory_take(struct dev *d, int row, size_t bytes) {
    d->memory[0].now -= bytes;
    d->memory[row].now -= bytes;
}

int dev_memory_count(const struct dev *d) { return d->memories; }

struct dev_memory dev_memory(const struct dev *d, int row) {
    return row >= 0 && row < d->memories ? d->memory[row] : (struct dev_memory){0};
}

size_t dev_bytes(const struct dev *d, const char *what) {
    for (int i = 0; i < d->memories; i++)
        if (!strcmp(d->memory[i].what, what ? what : "all")) return d->memory[i].now;
    return 0;
}

void dev_memory_reset(struct dev *d) {
    int n = d->memories > 0;
    for (int i = 1; i < d->memories; i++)
        if (d->memory[i].now) d->memory[n++] = d->memory[i];
    d->memories = n;
    for (int i = 0; i < n; i++) d->memory[i].high = d->memory[i].now;
}
