/* MB/s of a tokenizer on text, one thread: make build/gcc/tests/bench-tok && build/gcc/tests/bench-tok TOKENIZER TEXT [rounds]
 * Prints the best round's rate and the number of tokens; scripts/bench-tok.py sets a peer beside it. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "tok/tok.h"

static enum status bench(const char *tokenizer, const char *path, int rounds) {
    struct tok *t;
    struct tok_ids ids = {0};
    char *text;
    size_t n;
    double best = 1e30;
    TM_TRY(tok_open(tokenizer, &t));
    TM_TRY(file_read(path, (size_t)1 << 30, &text, &n));
    enum status st = TM_OK;
    for (int i = 0; i < rounds && st == TM_OK; i++) {
        ids.n = 0;
        const double t0 = clock_seconds();
        st = tok_encode(t, text, n, 0, &ids);
        const double seconds = clock_seconds() - t0;
        if (seconds < best) best = seconds;
    }
    if (st == TM_OK) printf("%.2f MB/s, %zu tokens of %zu bytes\n", (double)n / best / 1e6, ids.n, n);
    tok_ids_free(&ids);
    mem_free(&text);
    tok_close(&t);
    return st;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: bench-tok TOKENIZER TEXT [rounds]\n");
        return 2;
    }
    enum status st = bench(argv[1], argv[2], argc > 3 ? atoi(argv[3]) : 5);
    if (st != TM_OK) fprintf(stderr, "%s\n", status_message());
    return st;
}
