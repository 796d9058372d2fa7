/* Faults on purpose, for tests: TEMPER_FAULT=room:site:rank:nth makes the nth call of fault_here(room, site) on that rank
 * answer true (rank "*" = any). TEMPER_FAULT unset costs one branch. */
#pragma once

#include <stdbool.h>

bool fault_here(const char *room, const char *site);
void fault_set_rank(int rank);
