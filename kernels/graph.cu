/* CUDA graphs: a stretch of launches recorded once and queued as one. A launch costs the host 2 to 4 us, a node of a graph on the device about 1. */
#include "base/status.h"
#include "gpu.h"

struct cuda_graph {
    cudaGraphExec_t exec;
    int work_moved; /* of the device, when it was recorded: kernels hold addresses in work space */
};

int graph_begin(struct cuda_gpu *g) {
    return gpu_check(cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeThreadLocal), "recording a graph");
}

int graph_end(struct cuda_gpu *g, struct cuda_graph **out) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    int st = gpu_check(cudaStreamEndCapture(g->stream, &graph), "recording a graph");
    if (!st && out) st = gpu_check(cudaGraphInstantiate(&exec, graph, 0), "making a graph");
    if (graph) (void)cudaGraphDestroy(graph);
    if (!out) return 0; /* what was recorded is dropped, and so is an error of it */
    *out = st ? nullptr : new cuda_graph{exec, g->work_moved};
    return st;
}

int graph_run(struct cuda_gpu *g, struct cuda_graph *x, int *ran) {
    *ran = x->work_moved == g->work_moved;
    return *ran ? gpu_check(cudaGraphLaunch(x->exec, g->stream), "running a graph") : 0;
}

void graph_close(struct cuda_graph *x) {
    if (!x) return;
    (void)cudaGraphExecDestroy(x->exec);
    delete x;
}
