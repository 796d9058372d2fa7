/* What a run of the emulation tells of itself, and what goes wrong in it on purpose.
 *
 * CUEMU_TRACE=PREFIX: PREFIX.<rank> has a line for each launch (with the kernel's name), transfer of NCCL (with its bytes), stream that is to
 * wait for an event (with its number), wait of the host, allocation and release.
 * CUEMU_FAIL=CALL:ERROR[:RANK]: the runtime's CALL gives this CUDA error on this rank (any); a CALL that is part of a kernel's name makes the kernel
 * fail, as a device does: the error comes with the next wait and stays. */
#pragma once
#include <cuda_runtime_api.h>

namespace cuemu {
void trace(const char *what, const char *name = "", size_t bytes = 0);
/* The error that this call of the runtime has: one that stays, or one on purpose. */
cudaError_t fault(const char *call);
/* Before a kernel runs: whether it is to fail; then it does not run. */
bool kernel_fails(const char *kernel);
} // namespace cuemu
