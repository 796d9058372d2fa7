/* The manuals' text: chapters read into pieces, and the tables that the program knows. */
#include "stage/handbook.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "deck/deck.h"
#include "dev/dev.h"
#include "model/config.h"
#include "quant/policy.h"
#include "stage/cli.h"

static const char *const lines[] = {
/* made of src/stage/handbook/ by the Makefile */
#include "stage/handbook_text.inc"
};
enum { LINES = sizeof lines / sizeof *lines };

struct reader {
    book_fn fn;
    void *context;
    struct str block; /* the paragraph, item or code that is being read */
    enum book_kind kind;
    char mark[32]; /* of the open fence */
    bool in_code, in_table, web;
};

/* --- pieces --------------------------------------------------------------------------------------------------------------------- */
static void give(const struct reader *r, const struct book_piece *p) { r->fn(r->context, p); }

static void give_text(const struct reader *r, enum book_kind kind, const char *text) {
    give(r, &(struct book_piece){.kind = kind, .text = text});
}

/* A row of up to BOOK_CELLS cells; NULL ends them. */
static void give_row(const struct reader *r, enum book_kind kind, const char *const *cell) {
    struct book_piece p = {.kind = kind};
    while (p.n < BOOK_CELLS && cell[p.n]) {
        p.cell[p.n] = cell[p.n];
        p.n++;
    }
    give(r, &p);
}
#define ROW(r, kind, ...) give_row((r), (kind), (const char *const[]){__VA_ARGS__, NULL})

/* --- the program's tables --------------------------------------------------------------------------------------------------------- */
/* A group begins a section with a table of its keys, which the first key opens. */
struct deck_rows {
    const struct reader *r;
    bool open;
};

static enum status deck_row(void *context, const struct deck_doc *d) {
    struct deck_rows *x = context;
    struct str takes = {0}, about = {0}, fallback = {0};
    enum status st = TM_OK;
    if (!*d->name) {
        x->open = false;
        give_text(x->r, BOOK_SECTION, *d->group ? d->group : "The deck itself");
        st = str_printf(&about, "%c%s.", toupper((unsigned char)*d->doc), *d->doc ? d->doc + 1 : "");
        if (st == TM_OK) give_text(x->r, BOOK_TEXT, about.p);
        str_free(&about);
        return st;
    }
    if (!x->open) ROW(x->r, BOOK_HEAD, "key", "takes", "default", "resume", "meaning");
    x->open = true;
    st = str_printf(&takes, "%s%s%s%s", d->takes, *d->unit ? " [" : "", d->unit, *d->unit ? "]" : "");
    if (st == TM_OK) st = str_printf(&fallback, *d->fallback ? "`%s`" : "required%s", d->fallback);
    if (st == TM_OK) st = str_printf(&about, "%s%s%s", d->doc, *d->use ? "; for: " : "", d->use);
    if (st == TM_OK) {
        struct str key = {0};
        st = str_printf(&key, "`%s`", d->name);
        if (st == TM_OK) ROW(x->r, BOOK_ROW, key.p, takes.p, fallback.p, d->resume, about.p);
        str_free(&key);
    }
    str_free(&takes);
    str_free(&about);
    str_free(&fallback);
    return st;
}

static enum status put_deck(const struct reader *r) { return deck_document(deck_row, &(struct deck_rows){.r = r}); }

static enum status put_kinds(const struct reader *r) {
    ROW(r, BOOK_HEAD, "do", "what it does");
    for (int i = 0; i < DECK_KINDS; i++)
        ROW(r, BOOK_ROW, deck_kind_name((enum deck_kind)i), deck_kind_doc((enum deck_kind)i));
    return TM_OK;
}

static enum status put_status(const struct reader *r) {
    ROW(r, BOOK_HEAD, "exit code", "meaning", "name in the log");
#define ST(name, code, text) ROW(r, BOOK_ROW, #code, text, #name);
#include "base/status.def"
#undef ST
    return TM_OK;
}

static enum status put_formats(const struct reader *r) {
    char bits[64];
    ROW(r, BOOK_HEAD, "format", "bits", "what it is", "KV cache");
    for (int i = 1; i < QUANT_FORMATS; i++) {
        const struct quant_format_info *f = quant_format((enum quant_format)i);
        snprintf(bits, sizeof bits, "%d", f->bits);
        ROW(r, BOOK_ROW, f->name, bits, f->doc, !f->kv_algo ? "" : f->weight_kind ? "also" : "only");
    }
    return TM_OK;
}

static enum status put_pairs(const struct reader *r) {
#define ALGO(weights, inputs, algo, groups, size, awq) \
    ROW(r, BOOK_ROW, #weights, strcmp(#inputs, "NONE") ? #inputs : "-", algo);
    ROW(r, BOOK_HEAD, "weights", "inputs", "quant_algo of the export");
#include "quant/algo.def"
#undef ALGO
    return TM_OK;
}

static enum status put_presets(const struct reader *r) {
    ROW(r, BOOK_HEAD, "preset", "modules", "site", "format");
#define PRESET(name, module, site, format) ROW(r, BOOK_ROW, name, module, site ? site : "weight, input", format);
#include "quant/preset.def"
#undef PRESET
    return TM_OK;
}

static enum status put_families(const struct reader *r) {
    struct str s = {0};
    enum status st = str_printf(&s, "Families of models:");
    for (int i = 0; i < model_family_count() && st == TM_OK; i++)
        st = str_printf(&s, "%s %s", i ? "," : "", model_family_name(i));
    if (st == TM_OK) st = str_printf(&s, ".");
    if (st == TM_OK) give_text(r, BOOK_TEXT, s.p);
    str_free(&s);
    return st;
}

static enum status put_usage(const struct reader *r) {
    give(r, &(struct book_piece){.kind = BOOK_CODE, .text = stage_usage(), .mark = "usage"});
    return TM_OK;
}

static enum status put_options(const struct reader *r) {
    ROW(r, BOOK_HEAD, "option", "what it does");
#define OPTION(name, value, doc) ROW(r, BOOK_ROW, "`" name value "`", doc);
#include "stage/options.def"
#undef OPTION
    return TM_OK;
}

static const struct {
    const char *name;
    enum status (*put)(const struct reader *r);
} generated[] = {{"deck", put_deck},         {"kinds", put_kinds},     {"status", put_status},
                 {"formats", put_formats},   {"pairs", put_pairs},     {"usage", put_usage},
                 {"families", put_families}, {"options", put_options}, {"presets", put_presets}};

/* --- chapters --------------------------------------------------------------------------------------------------------------------- */
static void flush(struct reader *r) {
    if (r->block.len) give(r, &(struct book_piece){.kind = r->kind, .text = r->block.p, .mark = r->mark});
    str_clear(&r->block);
    r->in_table = false;
}

/* "| a | b |": cells between the bars, a row of dashes is passed over. */
static enum status read_row(struct reader *r, const char *line) {
    char copy[1024], *cell[BOOK_CELLS + 1] = {NULL};
    int n = 0;
    TM_TRY(str_copy(copy, sizeof copy, line + 1));
    for (char *p = copy, *end; (end = strchr(p, '|')) != NULL; p = end + 1) {
        if (n == BOOK_CELLS) return TM_FAIL(TM_ERR_INTERNAL, "handbook: more than %d cells: %s", BOOK_CELLS, line);
        *end = 0;
        while (*p == ' ') p++;
        for (char *q = end; q > p && q[-1] == ' ';) *--q = 0;
        cell[n++] = p;
    }
    if (n && strspn(cell[0], "-") == strlen(cell[0]) && *cell[0]) return TM_OK;
    give_row(r, r->in_table ? BOOK_ROW : BOOK_HEAD, (const char *const *)cell);
    r->in_table = true;
    return TM_OK;
}

static enum status add(struct reader *r, enum book_kind kind, const char *text) {
    if (r->block.len && r->kind != kind) flush(r);
    r->kind = kind;
    return str_printf(&r->block, "%s%s", r->block.len ? (r->in_code ? "\n" : " ") : "", text);
}

static enum status read_directive(struct reader *r, const char *name) {
    if (!strcmp(name, "web")) {
        r->web = true;
        return TM_OK;
    }
    for (size_t i = 0; i < sizeof generated / sizeof *generated; i++)
        if (!strcmp(name, generated[i].name)) return generated[i].put(r);
    return TM_FAIL(TM_ERR_INTERNAL, "handbook: @%s is no table", name);
}

static enum status read_line(struct reader *r, const char *line) {
    if (!strncmp(line, "```", 3)) {
        flush(r);
        r->in_code = !r->in_code;
        return str_copy(r->mark, sizeof r->mark, r->in_code ? line + 3 : "");
    }
    if (r->in_code) return add(r, BOOK_CODE, line);
    if (*line == '|') {
        if (r->block.len) flush(r);
        return read_row(r, line);
    }
    if (!strncmp(line, "  ", 2) && r->block.len) return add(r, r->kind, line + 2);
    if (!strncmp(line, "- ", 2)) {
        flush(r);
        return add(r, BOOK_ITEM, line + 2);
    }
    if (*line && !strchr("#@", *line)) return add(r, BOOK_TEXT, line);
    flush(r);
    if (*line == '@') return read_directive(r, line + 1);
    if (!strncmp(line, "# ", 2)) {
        give(r, &(struct book_piece){.kind = BOOK_CHAPTER, .text = line + 2, .web = r->web});
        r->web = false;
    } else if (!strncmp(line, "## ", 3)) {
        give_text(r, BOOK_SECTION, line + 3);
    }
    return TM_OK;
}

enum status stage_book_read(book_fn fn, void *context) {
    struct reader r = {.fn = fn, .context = context};
    enum status st = TM_OK;
    for (int i = 0; i < LINES && st == TM_OK; i++) st = read_line(&r, lines[i]);
    if (st == TM_OK && r.in_code) st = TM_FAIL(TM_ERR_INTERNAL, "handbook: a fence is left open");
    if (st == TM_OK) flush(&r);
    if (st == TM_OK) give_text(&r, BOOK_END, "");
    str_free(&r.block);
    return st;
}
