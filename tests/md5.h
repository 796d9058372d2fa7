/* MD5 (RFC 1321), to compare with goldens that keep digests only. */
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct md5 {
    uint32_t a[4];
    uint64_t n; /* bytes so far */
    unsigned char block[64];
};

static inline void md5_block(struct md5 *m) {
    static const int turns[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};
    uint32_t a = m->a[0], b = m->a[1], c = m->a[2], d = m->a[3], w[16];
    memcpy(w, m->block, 64);
    for (unsigned i = 0; i < 64; i++) {
        unsigned round = i / 16, k = round == 0 ? i : round == 1 ? 5 * i + 1 : round == 2 ? 3 * i + 5 : 7 * i;
        uint32_t f = round == 0   ? (b & c) | (~b & d)
                     : round == 1 ? (b & d) | (c & ~d)
                     : round == 2 ? b ^ c ^ d
                                  : c ^ (b | ~d);
        uint32_t x = a + f + w[k % 16] + (uint32_t)(fabs(sin(i + 1.0)) * 4294967296.0);
        int turn = turns[round][i % 4];
        a = d;
        d = c;
        c = b;
        b += x << turn | x >> (32 - turn);
    }
    m->a[0] += a;
    m->a[1] += b;
    m->a[2] += c;
    m->a[3] += d;
}

static inline void md5_start(struct md5 *m) {
    *m = (struct md5){.a = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}};
}

static inline void md5_add(struct md5 *m, const void *bytes, size_t n) {
    for (const unsigned char *p = bytes; n > 0; p++, n--) {
        m->block[m->n++ % 64] = *p;
        if (m->n % 64 == 0) md5_block(m);
    }
}

static inline void md5_hex(struct md5 *m, char out[33]) {
    uint64_t bits = 8 * m->n;
    md5_add(m, "\x80", 1);
    while (m->n % 64 != 56) md5_add(m, "", 1);
    md5_add(m, &bits, 8);
    for (int i = 0; i < 16; i++) snprintf(out + 2 * i, 3, "%02x", (unsigned)(m->a[i / 4] >> 8 * (i % 4) & 255));
}
