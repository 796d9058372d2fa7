/* The manuals, --handbook and --man: the chapters of src/stage/handbook/, with tables that the program itself fills in.
 *
 * A chapter is plain text of few forms: "# chapter", "## section", paragraphs, "- items" (continued by two blanks), "| table | rows |" (the first
 * row is the head), ```fences```, and `code`. A fence marked `deck` holds a whole deck, which the tests give to --check; one marked `refused`
 * (by --check) or `unsupported` (by --plan) holds lines "key=value, key=value | message", which the tests --set. A line "@name" is a table of the program (generated[] in handbook.c); "@web" before
 * a chapter keeps it out of the man page. */
#pragma once

#include "stage/report_out.h"

enum book_kind { BOOK_CHAPTER, BOOK_SECTION, BOOK_TEXT, BOOK_ITEM, BOOK_CODE, BOOK_HEAD, BOOK_ROW, BOOK_END };
enum { BOOK_CELLS = 6 };

/* One piece of a manual, in order. Strings live during the call. */
struct book_piece {
    enum book_kind kind;
    const char *text; /* of a code block: its lines */
    const char *mark; /* of a code block: the word after the fence, or "" */
    const char *cell[BOOK_CELLS];
    int n;    /* cells of a HEAD or ROW */
    bool web; /* of a CHAPTER: not for the man page */
};
typedef void (*book_fn)(void *context, const struct book_piece *p);

/* Give every piece to `fn`, with a BOOK_END last. Local. Errors: INTERNAL (a chapter that is written wrongly), MEMORY. */
enum status stage_book_read(book_fn fn, void *context);

/* Append the handbook (one HTML file), or the man page (roff, section 1). Local. Errors: as stage_book_read. */
enum status stage_handbook(struct str *out);
enum status stage_man(struct str *out);
