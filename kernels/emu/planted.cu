/* Three planted bugs that the checks must catch, and the same kernel without them: planted sound|barrier|bounds|sum. No part of the plugin. */
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "emu/cuda_emu.h"

enum { ROWS = 64, COLS = 1000, THREADS = 256 };
enum bug { SOUND, BARRIER, BOUNDS, SUM, BUGS };
static const char *const names[BUGS] = {"sound", "barrier", "bounds", "sum"};

/* Each block sums one row: a strided sum a thread, then a tree in shared memory. */
template <bug B> static __global__ void row_sum_k(const float *x, float *y) {
    __shared__ float part[THREADS];
    int t = (int)threadIdx.x;
    float s = 0;
    for (int i = t; i < COLS; i += THREADS) s += x[blockIdx.x * COLS + i];
    part[t] = s;
    __syncthreads();
    for (int step = THREADS / 2; step > (B == SUM); step /= 2) { /* SUM: the last level is left out */
        if (t < step) part[t] += part[t + step];
        if (B != BARRIER) __syncthreads(); /* BARRIER: the first warp adds what others have not summed */
    }
    if (t == 0) y[blockIdx.x + (B == BOUNDS)] = part[0]; /* BOUNDS: the last block writes behind y */
}

static void host_row_sum(const float *x, float *y) {
    float part[THREADS];
    for (int t = 0; t < THREADS; t++) {
        part[t] = 0;
        for (int i = t; i < COLS; i += THREADS) part[t] += x[i];
    }
    for (int step = THREADS / 2; step; step /= 2)
        for (int t = 0; t < step; t++) part[t] += part[t + step];
    *y = part[0];
}

static void run(bug b, const float *x, float *y) {
    switch (b) {
    case SOUND: LAUNCH(row_sum_k<SOUND>, ROWS, THREADS, 0, nullptr, x, y); break;
    case BARRIER: LAUNCH(row_sum_k<BARRIER>, ROWS, THREADS, 0, nullptr, x, y); break;
    case BOUNDS: LAUNCH(row_sum_k<BOUNDS>, ROWS, THREADS, 0, nullptr, x, y); break;
    default: LAUNCH(row_sum_k<SUM>, ROWS, THREADS, 0, nullptr, x, y);
    }
}

int main(int argc, char **argv) {
    int b = 0, differ = 0;
    while (b < BUGS && (argc != 2 || strcmp(argv[1], names[b]) != 0)) b++;
    void *x_memory, *y_memory;
    if (b == BUGS || cudaMalloc(&x_memory, ROWS * COLS * 4) || cudaMalloc(&y_memory, ROWS * 4)) {
        fprintf(stderr, "usage: planted sound|barrier|bounds|sum\n");
        return 2;
    }
    float *x = (float *)x_memory, *y = (float *)y_memory;
    for (int i = 0; i < ROWS * COLS; i++) x[i] = (float)(i * 2654435761u >> 8) * 0x1p-24f - 0.5f;
    run((bug)b, x, y);
    for (int r = 0; r < ROWS; r++) {
        float want;
        host_row_sum(x + (size_t)r * COLS, &want);
        if (!memcmp(&want, &y[r], 4)) continue;
        if (!differ++) printf("planted: %s: row %d sums to %.9g, the host has %.9g\n", names[b], r, y[r], want);
    }
    printf("planted: %s: %d of %d rows differ from the host's bits\n", names[b], differ, (int)ROWS);
    cudaFree(x_memory);
    cudaFree(y_memory);
    return differ != 0;
}
