/* Loading and writing machine files. */
#include "deck/machine.h"

#include <libconfig.h>
#include <string.h>

#include "base/mem.h"
#include "deck/parse.h"
#include "deck/source.h"

static enum status load(const char *text, struct report *report, struct deck_machine *m) {
    config_t tree;
    bool good;
    config_init(&tree);
    enum status st = deck_source_parse(text, &tree, report, &good);
    report->n_source = report->n;
    struct reader r = {.report = report, .pool = &m->pool, .base = "/", .here = "/", .run_dir = "/"};
    if (st == TM_OK) st = deck_table_defaults(deck_table_machine(), m, &m->pool);
    if (st == TM_OK && good) st = deck_parse_table(&r, deck_table_machine(), config_root_setting(&tree), m, "", true);
    config_destroy(&tree);
    return st;
}

enum status deck_machine_parse(const char *text, const char *name, struct str *report, struct deck_machine **out) {
    struct report lines = {.name = name, .dir = ""};
    struct deck_machine *m;
    *out = NULL;
    TM_TRY(mem_alloc(&m, 1, sizeof *m));
    enum status st = deck_pool_text(&m->pool, name, strlen(name), &m->file);
    if (st == TM_OK) st = load(text, &lines, m);
    if (st == TM_OK) st = deck_report_finish(&lines, report);
    deck_report_free(&lines);
    if (st != TM_OK) deck_machine_free(&m);
    *out = m;
    return st;
}

enum status deck_machine_load(const char *path, struct str *report, struct deck_machine **out) {
    char *text;
    size_t n;
    *out = NULL;
    enum status st = deck_source_text(path, &text, &n);
    if (st != TM_OK)
        return st == TM_ERR_MEMORY ? st : TM_ERR_DECK; /* whatever the reason, it is the file that is wrong */
    st = deck_machine_parse(text, path, report, out);
    mem_free(&text);
    return st;
}

void deck_machine_free(struct deck_machine **m) {
    if (!*m) return;
    void *pool = (*m)->pool;
    mem_free(m);
    deck_pool_free(&pool);
}
