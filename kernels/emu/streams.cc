/* The streams and events of the CUDA runtime, over streams.h. */
#include "streams.h"
#include "faults.h"

#include <ctime>
#include <mutex>
#include <vector>

using cuemu::Transfer;
typedef std::vector<std::shared_ptr<Transfer>> Transfers;

struct CUgraph_st {
    std::vector<std::function<void()>> work;
};
struct CUgraphExec_st {
    std::vector<std::function<void()>> work;
};
struct CUstream_st {
    Transfers waits;
    CUgraph_st *graph = nullptr; /* being recorded */
    bool spoilt = false;
    size_t number = 0; /* the first that was made is 1 */
};
struct CUevent_st {
    Transfers waits;
    struct timespec at;
};

static std::mutex lock; /* another thread may ask for an event */
static CUstream_st null_stream;
static CUstream_st *of(cudaStream_t s) { return s ? s : &null_stream; }

static CUstream_st *recorded; /* one at a time */

bool cuemu::stream_records(cudaStream_t s, const std::function<void()> &work) {
    if (!of(s)->graph) return false;
    of(s)->graph->work.push_back(work);
    return true;
}
cudaError_t cuemu::stream_refuses() {
    if (!recorded) return cudaSuccess;
    recorded->spoilt = true;
    return cudaErrorStreamCaptureUnsupported;
}

static void finish(const Transfers &list) {
    for (auto &t : list)
        if (!t->done) {
            t->finish();
            t->done = true;
        }
}

/* What is under way of both. */
static void merge(Transfers &to, const Transfers &from) {
    for (auto &t : from)
        if (!t->done) to.push_back(t);
}

void cuemu::stream_defer(cudaStream_t s, const std::shared_ptr<Transfer> &t) {
    std::lock_guard<std::mutex> hold(lock);
    of(s)->waits.push_back(t);
}

void cuemu::stream_ready(cudaStream_t s, const Transfer *next) {
    Transfers now, later;
    if (of(s)->waits.empty()) return;
    for (auto &t : of(s)->waits) (next && t->comm == next->comm && t->send == next->send ? later : now).push_back(t);
    finish(now);
    std::lock_guard<std::mutex> hold(lock);
    of(s)->waits = later;
}

extern "C" {
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
    static std::atomic<size_t> made;
    *s = new CUstream_st();
    (*s)->number = ++made;
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int) {
    return cudaStreamCreateWithFlags(s, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    delete s;
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
    if (recorded) return cudaErrorStreamCaptureUnsupported;
    recorded = of(s);
    recorded->graph = new CUgraph_st();
    recorded->spoilt = false;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out) {
    const bool spoilt = of(s)->spoilt;
    *out = of(s)->graph;
    of(s)->graph = nullptr;
    recorded = nullptr;
    if (!spoilt) return cudaSuccess;
    delete *out;
    *out = nullptr;
    return cudaErrorStreamCaptureInvalidated;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long) {
    *out = new CUgraphExec_st{g->work};
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s) {
    cuemu::stream_ready(s);
    for (auto &work : g->work) work();
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    delete g;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) {
    delete g;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    if (cuemu::stream_refuses()) return cudaErrorStreamCaptureUnsupported;
    cuemu::trace("sync", "stream");
    cuemu::stream_ready(s);
    const cudaError_t e = cuemu::fault("cudaStreamSynchronize");
    if (e == cudaSuccess) cuemu::copies_done(s);
    return e;
}
cudaError_t cudaStreamQuery(cudaStream_t s) {
    for (auto &t : of(s)->waits)
        if (!t->done) return cudaErrorNotReady;
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
    cuemu::trace("wait", "stream", of(s)->number);
    std::lock_guard<std::mutex> hold(lock);
    merge(of(s)->waits, e->waits);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) {
    *e = new CUevent_st();
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    delete e;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    std::lock_guard<std::mutex> hold(lock);
    e->waits.clear();
    merge(e->waits, of(s)->waits);
    clock_gettime(CLOCK_MONOTONIC, &e->at);
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    cuemu::trace("sync", "event");
    finish(e->waits);
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
    std::lock_guard<std::mutex> hold(lock);
    for (auto &t : e->waits)
        if (!t->done) return cudaErrorNotReady;
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    *ms = (float)((double)(to->at.tv_sec - from->at.tv_sec) * 1e3 + (double)(to->at.tv_nsec - from->at.tv_nsec) * 1e-6);
    return cudaSuccess;
}
}
