/* Faults on purpose: one site, armed by the environment. */
#include "base/fault.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int rank_, nth_;
static atomic_int seen_; /* threads that write count too */
static bool read_, armed_, any_rank_, suspended_;
static char room_[32], site_[64], who_[16];

void fault_set_rank(int rank) { rank_ = rank; }
void fault_suspend(bool on) { suspended_ = on; }

static void read_environment(void) {
    const char *text = getenv("TEMPER_FAULT");
    read_ = true;
    armed_ = text && sscanf(text, "%31[^:]:%63[^:]:%15[^:]:%d", room_, site_, who_, &nth_) == 4;
    any_rank_ = armed_ && !strcmp(who_, "*");
}

bool fault_here(const char *room, const char *site) {
    if (!read_) read_environment();
    if (!armed_ || suspended_ || strcmp(room, room_) || strcmp(site, site_)) return false;
    if (!any_rank_ && atoi(who_) != rank_) return false;
    int seen = ++seen_;
    return seen == nth_ || nth_ == 0;
}
