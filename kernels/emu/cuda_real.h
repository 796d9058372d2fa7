/* The nvcc side of "one source, two builds": see cuda_emu.h. Keep libcu++ and cooperative_groups out: three times the compile time. */
#pragma once
#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define CUEMU                                     0
#define LAUNCH(k, grid, block, smem, stream, ...) (k)<<<(grid), (block), (smem), (stream)>>>(__VA_ARGS__)
#define DYN_SHARED(T, name)                                      \
    extern __shared__ __align__(128) unsigned char cuemu_dyn_[]; \
    T *name = reinterpret_cast<T *>(cuemu_dyn_)
