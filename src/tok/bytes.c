/* Bytes and characters: UTF-8, Unicode white space, and the printable stand-ins that byte-level tokenizers spell bytes with. */
#include <string.h>

#include "tok/tok_impl.h"

/* The bytes that stand for themselves in GPT-2's alphabet (openai/gpt-2, encoder.py, bytes_to_unicode). */
static bool stands_for_itself(unsigned b) { return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae; }

uint32_t tok_byte_to_char(unsigned char byte) {
    uint32_t others = 0;
    if (stands_for_itself(byte)) return byte;
    for (unsigned b = 0; b < byte; b++) others += !stands_for_itself(b);
    return 0x100 + others;
}

int tok_char_to_byte(uint32_t c) {
    if (c < 0x100) return stands_for_itself(c) ? (int)c : -1;
    if (c < 0x121) return (int)(c - 0x100);        /* 0x00-0x20 */
    if (c < 0x143) return (int)(0x7f + c - 0x121); /* 0x7f-0xa0 */
    return c == 0x143 ? 0xad : -1;
}

/* Length of the well-formed character at p (at most n bytes), or 0; then *bad = length of the maximal ill-formed part
 * (Unicode 15, table 3-7 and section 3.9, "substitution of maximal subparts"). */
static size_t utf8_length(const unsigned char *p, size_t n, size_t *bad) {
    unsigned lo = 0x80, hi = 0xbf;
    size_t len;
    *bad = 1;
    if (p[0] < 0x80) return 1;
    if (p[0] >= 0xc2 && p[0] <= 0xdf) {
        len = 2;
    } else if (p[0] >= 0xe0 && p[0] <= 0xef) {
        len = 3;
        if (p[0] == 0xe0) lo = 0xa0;
        if (p[0] == 0xed) hi = 0x9f;
    } else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        len = 4;
        if (p[0] == 0xf0) lo = 0x90;
        if (p[0] == 0xf4) hi = 0x8f;
    } else {
        return 0;
    }
    for (size_t i = 1; i < len; i++) {
        if (i >= n || p[i] < lo || p[i] > hi) {
            *bad = i;
            return 0;
        }
        lo = 0x80;
        hi = 0xbf;
    }
    return len;
}

size_t tok_utf8_check(const char *text, size_t n) {
    size_t i = 0, bad;
    while (i < n) {
        uint64_t eight;
        for (; n - i >= sizeof eight; i += sizeof eight) { /* ASCII, eight bytes at a time */
            memcpy(&eight, text + i, sizeof eight);
            if (eight & 0x8080808080808080u) break;
        }
        if (i == n) break;
        size_t len = utf8_length((const unsigned char *)text + i, n - i, &bad);
        if (!len) break;
        i += len;
    }
    return i;
}

uint32_t tok_utf8_next(const char *text, size_t *i) {
    const unsigned char *p = (const unsigned char *)text + *i;
    if (p[0] < 0x80) {
        *i += 1;
        return p[0];
    }
    if (p[0] < 0xe0) {
        *i += 2;
        return (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
    }
    if (p[0] < 0xf0) {
        *i += 3;
        return (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    }
    *i += 4;
    return (p[0] & 0x07u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
}

enum status tok_utf8_append(struct str *s, uint32_t c) {
    unsigned char b[4];
    size_t n;
    if (c < 0x80) {
        b[0] = (unsigned char)c;
        n = 1;
    } else if (c < 0x800) {
        b[0] = (unsigned char)(0xc0 | c >> 6);
        n = 2;
    } else if (c < 0x10000) {
        b[0] = (unsigned char)(0xe0 | c >> 12);
        n = 3;
    } else {
        b[0] = (unsigned char)(0xf0 | c >> 18);
        n = 4;
    }
    for (size_t i = 1; i < n; i++) b[i] = (unsigned char)(0x80 | (c >> 6 * (n - 1 - i) & 0x3f));
    return str_append(s, b, n);
}

size_t tok_utf8_count(const char *text, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

int tok_hex_byte(const char *token, size_t n) {
    int value = 0;
    if (n != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>') return -1;
    for (size_t i = 3; i < 5; i++) {
        char c = token[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = 16 * value + digit;
    }
    return value;
}

bool tok_is_white_space(uint32_t c) {
    return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

enum status tok_spell(const char *bytes, size_t n, struct str *out) {
    for (size_t i = 0; i < n; i++) TM_TRY(tok_utf8_append(out, tok_byte_to_char((unsigned char)bytes[i])));
    return TM_OK;
}

enum status tok_unspell(const char *content, size_t n, struct str *out, bool *all_bytes) {
    size_t start = out->len;
    for (size_t i = 0; i < n;) {
        int byte = tok_char_to_byte(tok_utf8_next(content, &i));
        if (byte < 0) {
            out->len = start;
            *all_bytes = false;
            return str_append(out, content, n);
        }
        TM_TRY(str_append(out, &(char){(char)byte}, 1));
    }
    *all_bytes = true;
    return TM_OK;
}

enum status tok_utf8_repair(const char *bytes, size_t n, struct str *out) {
    for (size_t i = 0, bad; i < n;) {
        size_t good = tok_utf8_check(bytes + i, n - i);
        TM_TRY(str_append(out, bytes + i, good));
        i += good;
        if (i == n) break;
        utf8_length((const unsigned char *)bytes + i, n - i, &bad);
        TM_TRY(tok_utf8_append(out, 0xfffd));
        i += bad;
    }
    return TM_OK;
}
