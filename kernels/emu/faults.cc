/* The trace and the faults on purpose of faults.h. */
#include "faults.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

static std::atomic<int> sticky; /* the error of a kernel: the context is lost */

/* As Open MPI, Slurm and PMIx tell it. */
static int rank_here() {
    for (const char *name : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"})
        if (const char *s = getenv(name)) return atoi(s);
    return 0;
}

static FILE *trace_file() {
    static FILE *file;
    static bool asked;
    const char *prefix = asked ? nullptr : getenv("CUEMU_TRACE");
    asked = true;
    if (prefix) {
        char path[4096];
        snprintf(path, sizeof path, "%s.%d", prefix, rank_here());
        file = fopen(path, "w");
    }
    return file;
}
void cuemu::trace(const char *what, const char *name, size_t bytes) {
    if (FILE *f = trace_file()) fprintf(f, "%s %s %zu\n", what, name, bytes);
}

/* CUEMU_FAIL, taken apart; the call is empty where none is to fail here. */
struct Plan {
    char call[64] = "";
    int error = 0;
    Plan() {
        int on = -1;
        const char *s = getenv("CUEMU_FAIL");
        if (s && sscanf(s, "%63[^:]:%d:%d", call, &error, &on) >= 2 && (on < 0 || on == rank_here())) return;
        call[0] = 0;
    }
};
static const Plan &plan() {
    static const Plan p;
    return p;
}

cudaError_t cuemu::fault(const char *call) {
    if (sticky) return (cudaError_t)sticky.load();
    return strcmp(call, plan().call) ? cudaSuccess : (cudaError_t)plan().error;
}
bool cuemu::kernel_fails(const char *kernel) {
    if (!sticky && *plan().call && strncmp(plan().call, "cuda", 4) && strstr(kernel, plan().call))
        sticky = plan().error;
    return sticky != 0;
}
