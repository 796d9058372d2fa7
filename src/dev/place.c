/* NUMA node, cores and network adapter near a PCI device. */
#include "dev/place.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first line of a small file; "" when there is none. */
static void read_line(const char *path, char *out, int size) {
    FILE *f = fopen(path, "r");
    if (!f || !fgets(out, size, f)) out[0] = '\0';
    if (f) fclose(f);
    out[strcspn(out, "\n")] = '\0';
}

/* Steps of the way down the PCI tree that two devices share; the real paths go through the same bridges. */
static int common_steps(const char *a, const char *b) {
    int steps = 0;
    for (; *a && *a == *b; a++, b++) steps += *a == '/';
    return steps + (!*a || !*b);
}

/* Of adapters equally near, the first by name. */
static void find_nic(const char *sys, const char *device, char *out, size_t size) {
    char path[PATH_MAX], real[PATH_MAX];
    int best = -1;
    out[0] = '\0';
    snprintf(path, sizeof path, "%s/class/infiniband", sys);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.' || strlen(e->d_name) >= size) continue;
        snprintf(path, sizeof path, "%s/class/infiniband/%s/device", sys, e->d_name);
        if (!realpath(path, real)) continue;
        int steps = common_steps(device, real);
        if (steps < best || (steps == best && strcmp(e->d_name, out) > 0)) continue;
        best = steps;
        snprintf(out, size, "%s", e->d_name);
    }
    if (d) closedir(d);
}

void dev_place(const char *sys, const char *address, struct dev_place *out) {
    char path[PATH_MAX], real[PATH_MAX], line[32];
    *out = (struct dev_place){.numa = -1};
    snprintf(path, sizeof path, "%s/bus/pci/devices/%s", sys, address);
    if (!*address || !realpath(path, real)) return;
    snprintf(path, sizeof path, "%s/bus/pci/devices/%s/numa_node", sys, address);
    read_line(path, line, sizeof line);
    if (*line) out->numa = atoi(line);
    snprintf(path, sizeof path, "%s/bus/pci/devices/%s/local_cpulist", sys, address);
    read_line(path, out->cores, sizeof out->cores);
    find_nic(sys, real, out->nic, sizeof out->nic);
}
