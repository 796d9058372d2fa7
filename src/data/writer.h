/* Writing Megatron's indexed datasets, alone or the ranks of a group together. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "data/index.h"
#include "par/par.h"

/* Open, add sequences, end documents, finish. The files hold the sequences of the group's first rank, then those of the second, and so on:
 * each rank writes a file of its own beside PREFIX.bin (the first rank's becomes it) and finish copies it to its place. Nothing of that
 * name is touched before finish, which makes both files durable (.idx last). Memory: 4 bytes a sequence, 8 a document, two 1 MiB buffers. */
struct data_writer;

/* Local; g NULL: alone. Errors: IO. */
enum status data_writer_open(const char *prefix, enum data_dtype dtype, struct par_group *g, struct data_writer **out);
/* Append one sequence. Local. Errors: DATA (an id that the dtype cannot hold: sequence, position, id), IO. */
enum status data_writer_add(struct data_writer *w, const int32_t *ids, size_t n);
enum status data_writer_end_document(struct data_writer *w); /* Local */
/* Write out and close; *w becomes NULL, also on failure. Collective over the group; the agreed status. */
enum status data_writer_finish(struct data_writer **w);
void data_writer_cancel(struct data_writer **w); /* drop what was written; NULL is fine. Local */
