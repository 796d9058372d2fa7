/* What an open model is made of; for the files of this room. */
#pragma once

#include "hub/safetensors.h"

struct hub_file {
    char *path, *names; /* names: the texts of this file's entries, one after another */
    int fd;
    int64_t bytes;
};

struct hub_model {
    struct hub_file *files;
    struct hub_entry *entries;
    size_t files_n, files_cap, entries_n, entries_cap;
};
