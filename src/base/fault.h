/* Faults on purpose, for tests: TEMPER_FAULT=room:site:rank:nth makes the nth call of fault_here(room, site) on that rank
 * answer true (rank "*" = any; nth 0 = every call). TEMPER_FAULT unset costs one branch. */
#pragma once

#include <stdbool.h>

bool fault_here(const char *room, const char *site);
void fault_set_rank(int rank);
void fault_suspend(bool on); /* while on, no site answers true or counts: a plan is no run */
