#!/usr/bin/env python3
"""unicode.py > src/tok/unicode.def: the character tables that tokenizers need, out of Python's own Unicode database."""
import sys
import unicodedata as u

HANGUL = range(0xAC00, 0xD7A4)


def rows(name, items):
    line = ""
    for item in items:
        text = "%s(%s) " % (name, ",".join(x if isinstance(x, str) else "%d" % x if -10 < x < 10 else hex(x) for x in item))
        if len(line) + len(text) > 118:
            print(line.rstrip())
            line = ""
        line += text
    print(line.rstrip())


def ranges(value):
    """[first, last, value] of the runs of equal, true values."""
    out = []
    for c in points:
        v = value(chr(c))
        if v and out and out[-1][1] == c - 1 and out[-1][2] == v:
            out[-1][1] = c
        elif v:
            out.append([c, c, v])
    return out


def runs(table):
    """[first, last, step, difference] of the runs of characters that are `step` apart and move by the same difference."""
    out = []
    for c, to in table:
        last = out[-1] if out else None
        if last and last[3] == to - c and (c - last[1] == last[2] or (last[0] == last[1] and c - last[1] <= 2)):
            last[2] = c - last[1]
            last[1] = c
        else:
            out.append([c, c, 1, to - c])
    return out


points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and c not in HANGUL]
pairs, compatible = [], []  # (character, first, second or 0), (character, the characters that it stands for)
for c in points:
    d = u.decomposition(chr(c)).split()
    parts = [int(x, 16) for x in d if x[0] != "<"]
    if d and d[0][0] == "<":
        compatible.append((c, parts))
    elif d:
        pairs.append((c, parts[0], parts[1] if len(parts) > 1 else 0))
compose = sorted((a, b, c) for c, a, b in pairs if b and u.normalize("NFC", chr(a) + chr(b)) == chr(c))
lower = [(c, ord(chr(c).lower())) for c in points if len(chr(c).lower()) == 1 and chr(c).lower() != chr(c)]
single = runs((c, d[0]) for c, d in compatible if len(d) == 1)
several = [(c, d) for c, d in compatible if len(d) > 1]

NAMES = ("CLASS", "DECOMPOSE", "COMPOSE", "COMPATIBLE", "COMPATIBLE_RUN", "LOWER", "CATEGORY")
print("/* Unicode %s, written by scripts/unicode.py. Hangul syllables are computed, not listed; ranges ascend." % u.unidata_version)
print(" * Define the macros of the rows that are wanted; the others are empty. */")
for name in NAMES:
    print("#ifndef UNI_%s\n#define UNI_%s(...)\n#endif" % (name, name))
print("/* UNI_CLASS(first, last, canonical combining class) */")
rows("UNI_CLASS", ranges(lambda s: u.combining(s)))
print("/* UNI_DECOMPOSE(character, first, second or 0): one step of the canonical decomposition. */")
rows("UNI_DECOMPOSE", pairs)
print("/* UNI_COMPOSE(first, second, character): the pairs that compose. */")
rows("UNI_COMPOSE", compose)
print("/* UNI_COMPATIBLE(character, text): one step of the compatibility decomposition, to several characters. */")
rows("UNI_COMPATIBLE", [(c, '"%s"' % "".join(("\\x%02x" % b) for b in "".join(map(chr, d)).encode())) for c, d in several])
print("/* UNI_COMPATIBLE_RUN(first, last, step, difference): the same, to one character. */")
rows("UNI_COMPATIBLE_RUN", single)
print("/* UNI_LOWER(first, last, step, difference): lower case of one character (U+0130, which has two, is left out). */")
rows("UNI_LOWER", runs(lower))
print("/* UNI_CATEGORY(first, last, category): marks (Mn; Mc and Me), and control, format and private use (Cc, Cf, Co). */")
kinds = {"Mn": "UNI_MN", "Mc": "UNI_MC_ME", "Me": "UNI_MC_ME", "Cc": "UNI_OTHER", "Cf": "UNI_OTHER", "Co": "UNI_OTHER"}
rows("UNI_CATEGORY", ranges(lambda s: kinds.get(u.category(s))))
for name in NAMES:
    print("#undef UNI_" + name)
sys.stdout.flush()
