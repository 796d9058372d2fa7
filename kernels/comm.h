/* The entries of the plugin's table that comm.cu defines, where there is NCCL (TEMPER_NCCL). */
#pragma once

#include "gpu.h"

#if TEMPER_NCCL
#ifdef __CUDACC__
#include <nccl.h>
#else
#include "emu/nccl.h"
#endif
#define COMM_TEXT_(x) #x
#define COMM_TEXT(x)  COMM_TEXT_(x)
#define COMM_BUILD    ", NCCL " COMM_TEXT(NCCL_MAJOR) "." COMM_TEXT(NCCL_MINOR) "." COMM_TEXT(NCCL_PATCH)

int comm_id(void *id);
int comm_open(struct cuda_gpu *g, const struct cuda_comm_options *o, struct cuda_comm **out);
void comm_close(struct cuda_comm *c);
int comm_abort(struct cuda_comm *c);
int comm_poll(struct cuda_comm *c, double *seconds);
int comm_scratch(struct cuda_comm *c, uint64_t *at, size_t *bytes);
int comm_group_begin(struct cuda_comm *c);
int comm_group_end(struct cuda_comm *c);
int comm_send(struct cuda_comm *c, uint64_t x, size_t bytes, int to);
int comm_recv(struct cuda_comm *c, uint64_t x, size_t bytes, int from);
int comm_gather(struct cuda_comm *c, uint64_t mine, uint64_t out, size_t bytes);
int comm_bcast(struct cuda_comm *c, uint64_t x, size_t bytes, int root);
int comm_sum_one_nonzero(struct cuda_comm *c, uint64_t x, int64_t n);
int comm_max(struct cuda_comm *c, uint64_t x, int64_t n);
int comm_argmax(struct cuda_comm *c, uint64_t value, uint64_t index, int64_t n);
int comm_start(struct cuda_comm *c, int send, uint64_t x, size_t bytes, int peer, void **ticket);
int comm_wait(struct cuda_comm *c, void *ticket);
int comm_beside(struct cuda_comm *c, int on);
int comm_join(struct cuda_comm *c);
int comm_times(struct cuda_comm *c, double (*times)[2], int most, int *n);
#else
#define COMM_BUILD ", no NCCL"
#endif
