/* Unicode's normal forms (Unicode Standard 3.11, UAX #15), lower case and categories, over the tables of unicode.def. */
#include <string.h>

#include "base/mem.h"
#include "tok/tok_impl.h"

struct range {
    uint32_t first, last;
    int32_t value, step;
};

static const struct range classes[] = {
#define UNI_CLASS(first, last, class) {first, last, class, 1},
#include "tok/unicode.def"
};

static const struct {
    uint32_t c, first, second;
} decompositions[] = {
#define UNI_DECOMPOSE(c, first, second) {c, first, second},
#include "tok/unicode.def"
};

static const struct {
    uint32_t first, second, c;
} compositions[] = {
#define UNI_COMPOSE(first, second, c) {first, second, c},
#include "tok/unicode.def"
};

static const struct {
    uint32_t c;
    const char *text;
} compatible_texts[] = {
#define UNI_COMPATIBLE(c, text) {c, text},
#include "tok/unicode.def"
};

static const struct range compatible_runs[] = {
#define UNI_COMPATIBLE_RUN(first, last, step, difference) {first, last, difference, step},
#include "tok/unicode.def"
};

static const struct range lower_runs[] = {
#define UNI_LOWER(first, last, step, difference) {first, last, difference, step},
#include "tok/unicode.def"
};

static const struct range categories[] = {
#define UNI_CATEGORY(first, last, category) {first, last, category, 1},
#include "tok/unicode.def"
};

/* The first of the n rows, ascending by their first member (of 32 bits), that is not below c; n when all are. */
static size_t lower_bound(const void *rows, size_t n, size_t size, size_t offset, uint32_t c) {
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        uint32_t key;
        memcpy(&key, (const char *)rows + mid * size + offset, sizeof key);
        if (key < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}
#define COUNT(table) (sizeof(table) / sizeof *(table))

static const struct range *range_of(const struct range *table, size_t n, uint32_t c) {
    size_t i = lower_bound(table, n, sizeof *table, offsetof(struct range, last), c);
    return i < n && c >= table[i].first && (c - table[i].first) % (uint32_t)table[i].step == 0 ? &table[i] : NULL;
}
#define RANGE(table, c) range_of(table, COUNT(table), c)

enum tok_category tok_category_of(uint32_t c) {
    if (c >= 0x20 && c < 0x7f) return UNI_NONE;
    const struct range *r = RANGE(categories, c);
    return r ? (enum tok_category)r->value : UNI_NONE;
}

uint32_t tok_lower(uint32_t c) {
    if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 0x20 : c;
    const struct range *r = RANGE(lower_runs, c);
    return r ? (uint32_t)((int32_t)c + r->value) : c;
}

/* Hangul: leading consonant L, vowel V, trailing consonant T (Unicode Standard 3.12). */
enum {
    S_BASE = 0xac00,
    L_BASE = 0x1100,
    V_BASE = 0x1161,
    T_BASE = 0x11a7,
    L_COUNT = 19,
    V_COUNT = 21,
    T_COUNT = 28,
    S_COUNT = L_COUNT * V_COUNT * T_COUNT,
};

struct points {
    struct point {
        uint32_t c;
        int32_t change; /* as tok_edit_put takes it */
        uint8_t class;
    } * p;
    size_t n, cap;
    bool first; /* the next one takes the place of an old character */
};

static enum status decompose(struct points *out, uint32_t c, bool compatible) {
    if (c - S_BASE < S_COUNT) {
        uint32_t s = c - S_BASE, t = s % T_COUNT;
        TM_TRY(decompose(out, L_BASE + s / (V_COUNT * T_COUNT), false));
        TM_TRY(decompose(out, V_BASE + s % (V_COUNT * T_COUNT) / T_COUNT, false));
        return t ? decompose(out, T_BASE + t, false) : TM_OK;
    }
    size_t i = c < 0xa0 ? COUNT(decompositions)
                        : lower_bound(decompositions, COUNT(decompositions), sizeof *decompositions, 0, c);
    if (i < COUNT(decompositions) && decompositions[i].c == c) {
        TM_TRY(decompose(out, decompositions[i].first, compatible));
        return decompositions[i].second ? decompose(out, decompositions[i].second, compatible) : TM_OK;
    }
    if (compatible && c >= 0xa0) {
        const struct range *r = RANGE(compatible_runs, c);
        if (r) return decompose(out, (uint32_t)((int32_t)c + r->value), true);
        i = lower_bound(compatible_texts, COUNT(compatible_texts), sizeof *compatible_texts, 0, c);
        if (i < COUNT(compatible_texts) && compatible_texts[i].c == c) {
            const char *text = compatible_texts[i].text;
            for (size_t k = 0; text[k];) TM_TRY(decompose(out, tok_utf8_next(text, &k), true));
            return TM_OK;
        }
    }
    const struct range *class = c < 0x300 ? NULL : RANGE(classes, c);
    TM_TRY(mem_grow(&out->p, &out->cap, out->n + 1, sizeof *out->p));
    out->p[out->n++] = (struct point){.c = c, .change = !out->first, .class = class ? (uint8_t) class->value : 0};
    out->first = false;
    return TM_OK;
}

/* The composite of two characters, or 0. */
static uint32_t compose(uint32_t a, uint32_t b) {
    if (a - L_BASE < L_COUNT && b - V_BASE < V_COUNT) return S_BASE + ((a - L_BASE) * V_COUNT + (b - V_BASE)) * T_COUNT;
    if (a - S_BASE < S_COUNT && (a - S_BASE) % T_COUNT == 0 && b - T_BASE - 1 < T_COUNT - 1) return a + (b - T_BASE);
    size_t i = lower_bound(compositions, COUNT(compositions), sizeof *compositions, 0, a);
    while (i < COUNT(compositions) && compositions[i].first == a && compositions[i].second < b) i++;
    return i < COUNT(compositions) && compositions[i].first == a && compositions[i].second == b ? compositions[i].c : 0;
}

/* Canonical order: marks between two starters by class, equal classes in place. A counting sort, so that a text made of
 * marks alone takes linear time. */
static enum status order_marks(struct points *s) {
    struct points sorted = {0};
    enum status st = TM_OK;
    for (size_t i = 0, end; i < s->n && st == TM_OK; i = end) {
        for (end = i + 1; end < s->n && s->p[end].class; end++) {}
        size_t first = i + !s->p[i].class;
        if (end - first < 2) continue;
        size_t n = 0, count[256] = {0};
        for (size_t k = first; k < end; k++) count[s->p[k].class]++;
        st = mem_grow(&sorted.p, &sorted.cap, end - first, sizeof *sorted.p);
        for (size_t c = 0, before; c < 256; c++, n += before) { /* counts become places: a stable counting sort */
            before = count[c];
            count[c] = n;
        }
        for (size_t k = first; st == TM_OK && k < end; k++) sorted.p[count[s->p[k].class]++] = s->p[k];
        if (st == TM_OK) memcpy(s->p + first, sorted.p, (end - first) * sizeof *sorted.p);
    }
    mem_free(&sorted.p);
    return st;
}

static void compose_marks(struct points *s) {
    size_t n = 0, starter = SIZE_MAX; /* the last starter kept; everything behind it is a mark */
    for (size_t i = 0; i < s->n; i++) {
        struct point x = s->p[i];
        bool open = starter != SIZE_MAX && (n == starter + 1 || s->p[n - 1].class < x.class);
        uint32_t c = open ? compose(s->p[starter].c, x.c) : 0;
        if (c) {
            s->p[starter].c = c;
            s->p[starter].change += x.change - 1;
            continue;
        }
        if (!x.class) starter = n;
        s->p[n++] = x;
    }
    s->n = n;
}

/* One piece that no neighbour can change. */
static enum status form_piece(struct tok_edit *e, struct points *s, size_t end, bool compatible, bool composed) {
    s->n = 0;
    for (size_t i = e->i; i < end;) {
        s->first = true;
        TM_TRY(decompose(s, tok_utf8_next(e->in.p, &i), compatible));
    }
    TM_TRY(order_marks(s));
    if (composed) compose_marks(s);
    for (size_t i = 0; i < s->n; i++) TM_TRY(tok_edit_put(e, s->p[i].c, s->p[i].change));
    e->i = end;
    return TM_OK;
}

enum status tok_normal_form(struct tok_edit *e, bool compatible, bool composed) {
    struct points s = {0};
    const char *p = e->in.p;
    const size_t n = e->in.n;
    const unsigned char touched =
        compatible || !composed ? 0x80 : 0xcc; /* 0xcc begins U+0300, the first that NFC can touch */
    enum status st = TM_OK;
    while (e->i < n && st == TM_OK) {
        size_t i = e->i;
        while (i < n && (unsigned char)p[i] < touched) i++;
        size_t plain = i; /* all before it stays; but a mark at i may join the character before it */
        if (i < n)
            while (plain > e->i && ((unsigned char)p[--plain] & 0xc0) == 0x80) {}
        st = tok_edit_copy(e, plain - e->i);
        for (i = plain < n ? plain + 1 : n; i < n && (unsigned char)p[i] >= 0x80; i++) {
        } /* ASCII never joins what is before it */
        if (st == TM_OK && plain < n) st = form_piece(e, &s, i, compatible, composed);
    }
    mem_free(&s.p);
    return st;
}
