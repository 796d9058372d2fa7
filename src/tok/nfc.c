/* NFC, Unicode's canonical composition (Unicode Standard 3.11, UAX #15), over the tables of nfc.def. */
#include <string.h>

#include "base/mem.h"
#include "tok/tok_impl.h"

static const struct {
    uint32_t first, last;
    uint8_t class;
} classes[] = {
#define NFC_CLASS(first, last, class) {first, last, class},
#define NFC_DECOMPOSE(c, first, second)
#define NFC_COMPOSE(first, second, c)
#include "tok/nfc.def"
};

static const struct {
    uint32_t c, first, second;
} decompositions[] = {
#define NFC_CLASS(first, last, class)
#define NFC_DECOMPOSE(c, first, second) {c, first, second},
#define NFC_COMPOSE(first, second, c)
#include "tok/nfc.def"
};

static const struct {
    uint32_t first, second, c;
} compositions[] = {
#define NFC_CLASS(first, last, class)
#define NFC_DECOMPOSE(c, first, second)
#define NFC_COMPOSE(first, second, c) {first, second, c},
#include "tok/nfc.def"
};

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
        uint8_t class;
    } * p;
    size_t n, cap;
};

static uint8_t combining_class(uint32_t c) {
    size_t lo = 0, hi = sizeof classes / sizeof *classes;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (c > classes[mid].last)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < sizeof classes / sizeof *classes && c >= classes[lo].first ? classes[lo].class : 0;
}

static enum status decompose(struct points *out, uint32_t c) {
    if (c - S_BASE < S_COUNT) {
        uint32_t s = c - S_BASE, t = s % T_COUNT;
        TM_TRY(decompose(out, L_BASE + s / (V_COUNT * T_COUNT)));
        TM_TRY(decompose(out, V_BASE + s % (V_COUNT * T_COUNT) / T_COUNT));
        return t ? decompose(out, T_BASE + t) : TM_OK;
    }
    size_t lo = 0, hi = sizeof decompositions / sizeof *decompositions;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (c > decompositions[mid].c)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo < sizeof decompositions / sizeof *decompositions && decompositions[lo].c == c) {
        TM_TRY(decompose(out, decompositions[lo].first));
        return decompositions[lo].second ? decompose(out, decompositions[lo].second) : TM_OK;
    }
    TM_TRY(mem_grow(&out->p, &out->cap, out->n + 1, sizeof *out->p));
    out->p[out->n++] = (struct point){.c = c, .class = combining_class(c)};
    return TM_OK;
}

/* The composite of two characters, or 0. */
static uint32_t compose(uint32_t a, uint32_t b) {
    if (a - L_BASE < L_COUNT && b - V_BASE < V_COUNT) return S_BASE + ((a - L_BASE) * V_COUNT + (b - V_BASE)) * T_COUNT;
    if (a - S_BASE < S_COUNT && (a - S_BASE) % T_COUNT == 0 && b - T_BASE - 1 < T_COUNT - 1) return a + (b - T_BASE);
    size_t lo = 0, hi = sizeof compositions / sizeof *compositions;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (a > compositions[mid].first || (a == compositions[mid].first && b > compositions[mid].second))
            lo = mid + 1;
        else
            hi = mid;
    }
    bool found =
        lo < sizeof compositions / sizeof *compositions && compositions[lo].first == a && compositions[lo].second == b;
    return found ? compositions[lo].c : 0;
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
            continue;
        }
        if (!x.class) starter = n;
        s->p[n++] = x;
    }
    s->n = n;
}

enum status tok_nfc(const char *text, size_t n, struct str *out) {
    struct points s = {0};
    enum status st = TM_OK;
    size_t i = 0;
    while (i < n && (unsigned char)text[i] < 0xcc) i++; /* 0xcc begins U+0300, the first character that NFC can touch */
    if (i == n) return str_append(out, text, n);
    for (i = 0; i < n && st == TM_OK;) st = decompose(&s, tok_utf8_next(text, &i));
    if (st == TM_OK) st = order_marks(&s);
    if (st == TM_OK) compose_marks(&s);
    for (i = 0; i < s.n && st == TM_OK; i++) st = tok_utf8_append(out, s.p[i].c);
    mem_free(&s.p);
    return st;
}
