/* SentencePiece models: the fields of a .model file (sentencepiece_model.proto) that encoding and decoding need. */
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "tok/tok_impl.h"

enum { MAX_FILE = 1 << 28 };
enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 }; /* wire types of protobuf */

/* A message: bytes that hold fields one after the other. */
struct message {
    const unsigned char *p;
    size_t n, at;
};

struct field {
    uint64_t number, value; /* value: of a varint or a fixed field */
    int wire;
    struct message bytes;
};

static bool read_varint(struct message *m, uint64_t *out) {
    *out = 0;
    for (unsigned shift = 0; shift < 64 && m->at < m->n; shift += 7) {
        unsigned char b = m->p[m->at++];
        *out |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) return true;
    }
    return false;
}

static bool read_fixed(struct message *m, size_t n, uint64_t *out) {
    if (n > m->n - m->at) return false;
    *out = 0;
    for (size_t i = 0; i < n; i++) *out |= (uint64_t)m->p[m->at++] << 8 * i;
    return true;
}

/* The next field; false at the end of the message, and *damaged when it ends inside a field. */
static bool next_field(struct message *m, struct field *f, bool *damaged) {
    uint64_t tag;
    if (m->at == m->n || *damaged) return false;
    *damaged = !read_varint(m, &tag);
    f->number = tag >> 3;
    f->wire = (int)(tag & 7);
    if (*damaged) return false;
    if (f->wire == VARINT) {
        *damaged = !read_varint(m, &f->value);
    } else if (f->wire == BYTES) {
        *damaged = !read_varint(m, &f->value) || f->value > m->n - m->at;
        if (*damaged) return false;
        f->bytes = (struct message){.p = m->p + m->at, .n = (size_t)f->value};
        m->at += (size_t)f->value;
    } else if (f->wire == FIXED32 || f->wire == FIXED64) {
        *damaged = !read_fixed(m, f->wire == FIXED32 ? 4 : 8, &f->value);
    } else {
        *damaged = true;
    }
    return !*damaged;
}

/* What is read before the tables can be made. */
struct model {
    struct message normalizer, denormalizer, trainer;
    struct str unk_surface, bos, eos;
    uint64_t type; /* 1: unigram, 2: bpe, 3: word, 4: char */
    size_t cap_score, cap_type;
};

/* SentencePiece { piece = 1, score = 2, type = 3 } */
static enum status read_piece(struct tok_tables *t, struct model *model, struct message m, const char *where,
                              bool *damaged) {
    struct tok_pieces *p = &t->pieces;
    struct message text = {0};
    uint64_t type = TOK_NORMAL;
    float score = 0;
    for (struct field f; next_field(&m, &f, damaged);) {
        if (f.number == 1 && f.wire == BYTES) text = f.bytes;
        if (f.number == 2 && f.wire == FIXED32) memcpy(&score, &(uint32_t){(uint32_t)f.value}, sizeof score);
        if (f.number == 3 && f.wire == VARINT) type = f.value;
    }
    const char *piece = (const char *)text.p;
    if (p->n == TOK_MAX_ID || type < TOK_NORMAL || type > TOK_BYTE || score != score || text.n == 0 ||
        tok_utf8_check(piece, text.n) < text.n)
        return TM_FAIL(
            TM_ERR_FORMAT,
            "%s: piece %d of %zu bytes has type %llu, score %g: expected a text in UTF-8, a type from 1 to 6, a number",
            where, (int)p->n, text.n, (unsigned long long)type, (double)score);
    TM_TRY(tok_vocab_add(t, where, piece, text.n, p->n));
    TM_TRY(mem_grow(&p->score, &model->cap_score, (size_t)p->n + 1, sizeof *p->score));
    TM_TRY(mem_grow(&p->type, &model->cap_type, (size_t)p->n + 1, sizeof *p->type));
    p->score[p->n] = score;
    p->type[p->n] = (uint8_t)type;
    if (type == TOK_UNKNOWN) p->unk = p->n;
    if (type == TOK_USER_DEFINED) TM_TRY(tok_trie_add(&p->user, piece, text.n, p->n));
    p->n++;
    return TM_OK;
}

static enum status keep(struct str *s, struct message text) {
    str_clear(s);
    return str_append(s, text.p, text.n);
}

/* TrainerSpec { model_type = 3, treat_whitespace_as_suffix = 24, byte_fallback = 35, unk_surface = 44, bos_piece = 46, eos_piece = 47 } */
static enum status read_trainer(struct tok_tables *t, struct model *model, const char *where, bool *damaged) {
    model->type = 1;
    TM_TRY(str_append(&model->unk_surface, " \xe2\x81\x87 ", 5)); /* U+2047 between blanks */
    TM_TRY(str_append(&model->bos, "<s>", 3));
    TM_TRY(str_append(&model->eos, "</s>", 4));
    for (struct field f; next_field(&model->trainer, &f, damaged);) {
        if (f.number == 3 && f.wire == VARINT) model->type = f.value;
        if (f.number == 24 && f.wire == VARINT && f.value)
            return TM_FAIL(TM_ERR_UNSUPPORTED,
                           "%s: treat_whitespace_as_suffix is set: expected blanks in front of words", where);
        if (f.number == 35 && f.wire == VARINT) t->pieces.byte_fallback = f.value != 0;
        if (f.number == 44 && f.wire == BYTES) TM_TRY(keep(&model->unk_surface, f.bytes));
        if (f.number == 46 && f.wire == BYTES) TM_TRY(keep(&model->bos, f.bytes));
        if (f.number == 47 && f.wire == BYTES) TM_TRY(keep(&model->eos, f.bytes));
    }
    if (model->type != 1 && model->type != 2)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: model_type %llu: expected 1 (unigram) or 2 (bpe)", where,
                       (unsigned long long)model->type);
    return TM_OK;
}

/* NormalizerSpec { precompiled_charsmap = 2, add_dummy_prefix = 3, remove_extra_whitespaces = 4, escape_whitespaces = 5 } */
static enum status read_normalizer(struct tok_tables *t, struct model *model, const char *where, bool *damaged) {
    struct tok_norm *step;
    struct message map = {0}; /* of several the last counts */
    TM_TRY(tok_norm_add(t, where, &step));
    step->run = tok_norm_sentencepiece;
    step->keep = &t->pieces.user;
    step->a = step->b = step->c = true;
    for (struct field f; next_field(&model->normalizer, &f, damaged);) {
        if (f.number == 2 && f.wire == BYTES) map = f.bytes;
        if (f.number == 3 && f.wire == VARINT) step->a = f.value != 0;
        if (f.number == 4 && f.wire == VARINT) step->b = f.value != 0;
        if (f.number == 5 && f.wire == VARINT) step->c = f.value != 0;
    }
    if (map.n) TM_TRY(tok_charsmap_read((const char *)map.p, map.n, where, &step->map));
    t->pieces.dummy_prefix = step->a;
    t->pieces.strip_blanks = step->b;
    for (struct field f; next_field(&model->denormalizer, &f, damaged);)
        if (f.number == 2 && f.wire == BYTES && f.bytes.n)
            return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: a denormalizer of %zu bytes: expected none", where, f.bytes.n);
    return TM_OK;
}

/* ModelProto { pieces = 1, trainer_spec = 2, normalizer_spec = 3, denormalizer_spec = 5 } */
static enum status read_model(struct tok_tables *t, struct model *model, struct message m, const char *where) {
    bool damaged = false;
    t->pieces.unk = -1;
    for (struct field f; next_field(&m, &f, &damaged);) {
        if (f.wire != BYTES) continue;
        if (f.number == 1) TM_TRY(read_piece(t, model, f.bytes, where, &damaged));
        if (f.number == 2) model->trainer = f.bytes;
        if (f.number == 3) model->normalizer = f.bytes;
        if (f.number == 5) model->denormalizer = f.bytes;
    }
    if (!damaged) TM_TRY(read_trainer(t, model, where, &damaged));
    if (!damaged) TM_TRY(read_normalizer(t, model, where, &damaged));
    if (damaged)
        return TM_FAIL(TM_ERR_FORMAT, "%s: not a SentencePiece model, or damaged behind piece %d", where,
                       (int)t->pieces.n);
    TM_TRY(model->type == 2 ? tok_bpe_from_pieces(t, where) : tok_unigram_from_pieces(t, where));
    TM_TRY(tok_tables_fill(t, where));
    for (int32_t i = 0; i < t->pieces.n; i++)
        t->tokens[i].special = t->pieces.type[i] == TOK_CONTROL || t->pieces.type[i] == TOK_UNKNOWN;
    t->bos = tok_map_get(&t->vocab, model->bos.p, model->bos.len);
    t->eos = tok_map_get(&t->vocab, model->eos.p, model->eos.len);
    TM_TRY(mem_alloc(&t->pieces.unk_surface, model->unk_surface.len + 1, 1));
    memcpy(t->pieces.unk_surface, model->unk_surface.p, model->unk_surface.len);
    return TM_OK;
}

enum status tok_spm_read(struct tok_tables *t, const char *path) {
    char *bytes;
    size_t n;
    struct model model = {0};
    TM_TRY(file_read(path, MAX_FILE, &bytes, &n));
    enum status st = read_model(t, &model, (struct message){.p = (const unsigned char *)bytes, .n = n}, path);
    str_free(&model.unk_surface);
    str_free(&model.bos);
    str_free(&model.eos);
    mem_free(&bytes);
    return st;
}

/* --- decoding -----------------------------------------------------------------------------------------------------------------*/

/* A run of byte pieces: characters where they are, U+FFFD for each byte that belongs to none. */
static enum status flush_bytes(struct str *run, struct str *out) {
    for (size_t i = 0; i < run->len;) {
        size_t good = tok_utf8_check(run->p + i, run->len - i);
        TM_TRY(str_append(out, run->p + i, good));
        i += good;
        if (i < run->len) TM_TRY(str_append(out, "\xef\xbf\xbd", 3));
        i += i < run->len;
    }
    str_clear(run);
    return TM_OK;
}

/* U+2581 back to blanks. At the beginning of the text the dummy prefix goes: one, or all where blanks are stripped. */
static enum status append_piece(const struct tok_tables *t, int32_t id, bool at_begin, bool *seen, struct str *out) {
    const char *p = t->spelling.p + t->tokens[id].offset;
    size_t n = t->tokens[id].n, i = 0;
    *seen = false;
    if (t->pieces.type[id] == TOK_CONTROL) return TM_OK;
    if (t->pieces.type[id] == TOK_UNKNOWN) return str_append(out, t->pieces.unk_surface, strlen(t->pieces.unk_surface));
    if (at_begin && (t->pieces.dummy_prefix || t->pieces.strip_blanks) && n >= TOK_BLANK_BYTES &&
        !memcmp(p, TOK_BLANK, TOK_BLANK_BYTES)) {
        i = TOK_BLANK_BYTES;
        *seen = !t->pieces.strip_blanks;
    }
    while (i < n) {
        bool blank = n - i >= TOK_BLANK_BYTES && !memcmp(p + i, TOK_BLANK, TOK_BLANK_BYTES);
        TM_TRY(str_append(out, blank ? " " : p + i, 1));
        i += blank ? TOK_BLANK_BYTES : 1;
    }
    return TM_OK;
}

static enum status decode_all(const struct tok_tables *t, const int32_t *ids, size_t n, unsigned flags, struct str *run,
                              struct str *out) {
    const size_t start = out->len;
    bool at_begin = true, seen = false;
    for (size_t i = 0; i < n; i++) {
        const struct tok_token *token = &t->tokens[ids[i]];
        if ((flags & TOK_SKIP_SPECIAL) && token->special) continue;
        if (ids[i] < t->pieces.n && t->pieces.type[ids[i]] == TOK_BYTE) {
            int byte = tok_hex_byte(t->spelling.p + token->offset, token->n);
            TM_TRY(str_append(run, &(char){(char)byte}, 1));
            continue;
        }
        TM_TRY(flush_bytes(run, out));
        at_begin = at_begin && !seen && out->len == start;
        TM_TRY(append_piece(t, ids[i], at_begin, &seen, out));
    }
    return flush_bytes(run, out);
}

enum status tok_decode_pieces(const struct tok_tables *t, const int32_t *ids, size_t n, unsigned flags,
                              struct str *out) {
    struct str run = {0};
    enum status st = decode_all(t, ids, n, flags, &run, out);
    str_free(&run);
    return st;
}
