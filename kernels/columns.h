/* Column sums over rows in rising order, one chain a column: bias and gain gradients.
 *
 * A block has 32 columns of one leaf and 256 threads: 8 warps load 8 rows each, coalesced, for the next 64 rows while one warp adds the last
 * 64 from shared memory. So the loads in flight do not hang on the number of columns: 16 KB a block for two arrays. */
#pragma once

#include "gpu.h"

enum { COLUMNS = WARP, COLUMN_WARPS = GPU_THREADS / WARP, COLUMN_AHEAD = 8, COLUMN_ROWS = COLUMN_WARPS * COLUMN_AHEAD };

/* Row boundary s of the OPS_ROW_SEGMENTS segments of n rows. */
static __host__ __device__ inline int64_t row_segment(int64_t n, int s) {
    return (n * s + OPS_ROW_SEGMENTS - 1) / OPS_ROW_SEGMENTS;
}

/* out[column] += value(load(k, column)) for k = 0 .. count - 1. Called by a whole block; its columns are blockIdx.x * 32 and on, of c. */
template <class Load, class Value>
static __device__ __forceinline__ void column_sum(float *out, int c, int count, const Load &load, const Value &value) {
    __shared__ float tile[2][COLUMN_ROWS][COLUMNS];
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, column = (int)blockIdx.x * COLUMNS + lane;
    const bool in = column < c;
    decltype(load(0, 0)) x[COLUMN_AHEAD];
    float sum = in && warp == 0 && count > 0 ? out[column] : 0;
#pragma unroll
    for (int u = 0; u < COLUMN_AHEAD; u++)
        if (in && warp + u * COLUMN_WARPS < count) x[u] = load(warp + u * COLUMN_WARPS, column);
    for (int at = 0, side = 0; at < count; at += COLUMN_ROWS, side ^= 1) {
#pragma unroll
        for (int u = 0; u < COLUMN_AHEAD; u++)
            if (in && at + warp + u * COLUMN_WARPS < count) tile[side][warp + u * COLUMN_WARPS][lane] = value(x[u]);
        __syncthreads(); /* one is enough: the adding warp passes the next only when it is done with this side */
#pragma unroll
        for (int u = 0; u < COLUMN_AHEAD; u++) {
            int k = at + COLUMN_ROWS + warp + u * COLUMN_WARPS;
            if (in && k < count) x[u] = load(k, column);
        }
        if (warp || !in) continue;
        int rows = count - at < COLUMN_ROWS ? count - at : COLUMN_ROWS;
#pragma unroll 16
        for (int k = 0; k < rows; k++) sum += tile[side][k][lane];
    }
    if (warp == 0 && in && count > 0) out[column] = sum;
}
