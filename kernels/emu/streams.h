/* Streams of the emulation: work is done when it is queued, but a transfer between ranks may still be under way.
 *
 * A stream holds the transfers that it waits for, an event those that its stream waited for when it was recorded. Whatever is queued on a
 * stream finishes its transfers first: nothing is waited for before something needs it, as on a device. */
#pragma once
#include <atomic>
#include <functional>
#include <memory>

#include <cuda_runtime_api.h>

namespace cuemu {
struct Transfer {
    const void *comm;              /* of which communicator */
    bool send;                     /* and in which direction */
    std::atomic<bool> done{false}; /* read by other threads */
    virtual void finish() = 0;     /* waits for it; by the thread that started it, once */
    virtual ~Transfer() {}
};

/* The stream waits for `t` from now on. */
void stream_defer(cudaStream_t s, const std::shared_ptr<Transfer> &t);
/* cudart.cc: the host has waited for the stream. */
void copies_done(cudaStream_t s);
/* Finish what the stream waits for, but transfers like `next` (may be null): MPI keeps the order of those by itself. */
void stream_ready(cudaStream_t s, const Transfer *next = nullptr);
/* Where the stream is being recorded: keeps `work` for its graph and says true. A call that may not be recorded ends the recording in an error, as it
 * does on a device. */
bool stream_records(cudaStream_t s, const std::function<void()> &work);
cudaError_t stream_refuses();
} // namespace cuemu
