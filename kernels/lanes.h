/* Sums in 16 virtual lanes (dev/ops.h) by a warp: lane l takes elements l, l + 16, ... as one chain; then the lanes are added as a tree.
 *
 * Only the additions are a chain; the terms are made in parallel, and loaded while the chain runs. The two halves of a warp share 16
 * chains: of 32 S elements the lower half has the first 16 S and adds its terms, hands the sums up, and gets them back with the upper
 * half's terms added. Every thread executes 2 additions an element (one for nothing), for twice the loads in flight of 16 threads a chain. */
#pragma once

#include "gpu.h"

enum { LANES = OPS_LANES };

/* The tree over lanes: every thread of a half gets the sum of its half. */
template <class T> static __device__ __forceinline__ T lane_tree(T sum) {
#pragma unroll
    for (int distance = LANES / 2; distance; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    return sum;
}

/* The sum over elements [0, n) of term(load(i), i), in all threads of the warp; one warp calls it as a whole. S steps (16 elements) of
 * loads are in flight for each half. A chain starts from +0 and so is never -0: +0 stands for the terms beyond n. */
template <class T, int S, class Load, class Term>
static __device__ __forceinline__ T lane_sum(int n, const Load &load, const Term &term) {
    const int lane = (int)threadIdx.x % WARP, first = lane / LANES * S * LANES + lane % LANES;
    decltype(load(0)) x[S];
    T sum = 0;
#pragma unroll
    for (int u = 0; u < S; u++)
        if (first + u * LANES < n) x[u] = load(first + u * LANES);
    for (int at = first; at - first < n; at += 2 * S * LANES) {
        T terms[S];
#pragma unroll
        for (int u = 0; u < S; u++) terms[u] = at + u * LANES < n ? term(x[u], at + u * LANES) : 0;
#pragma unroll
        for (int u = 0; u < S; u++) {
            int next = at + (2 * S + u) * LANES;
            if (next < n) x[u] = load(next);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int u = 0; u < S; u++) sum += terms[u];
            sum = __shfl_sync(0xffffffffu, sum, lane % LANES + half * LANES);
        }
    }
    return lane_tree(sum);
}
