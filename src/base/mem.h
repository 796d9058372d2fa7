/* Set-up memory of the host: allocation with a status, counted per use, so that the plan can be compared with the run. */
#pragma once

#include <stddef.h>

#include "base/status.h"

/* Allocate n*size bytes, 64-byte aligned and zeroed; n*size is checked. *out is set on TM_OK and is NULL for 0 bytes.
 * The caller frees with mem_free. Local. Errors: MEMORY. */
enum status mem_alloc(void *out, size_t n, size_t size);
/* Free what mem_alloc gave and set the caller's pointer to NULL: mem_free(&p). */
void mem_free(void *pointer);
/* Grow an array to hold at least `need` elements (doubling); *cap is the present capacity. New bytes are zero. */
enum status mem_grow(void *array, size_t *cap, size_t need, size_t size);
/* Bytes now allocated here, and the most there ever was. */
size_t mem_bytes(void);
size_t mem_high_water(void);
void mem_high_reset(void); /* the most counts from here on */
