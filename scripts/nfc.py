#!/usr/bin/env python3
"""nfc.py > src/tok/nfc.def: the tables of Unicode's canonical composition (NFC), out of Python's own Unicode database."""
import sys
import unicodedata as u

HANGUL = range(0xAC00, 0xD7A4)


def rows(items):
    line = ""
    for item in items:
        if len(line) + len(item) > 118:
            print(line.rstrip())
            line = ""
        line += item + " "
    print(line.rstrip())


points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and c not in HANGUL]
pairs = []  # (c, first, second or 0)
for c in points:
    d = u.decomposition(chr(c))
    if d and not d.startswith("<"):
        parts = [int(x, 16) for x in d.split()]
        pairs.append((c, parts[0], parts[1] if len(parts) > 1 else 0))
compose = sorted((a, b, c) for c, a, b in pairs if b and u.normalize("NFC", chr(a) + chr(b)) == chr(c))
classes = []  # [first, last, class]
for c in points:
    k = u.combining(chr(c))
    if k and classes and classes[-1][1] == c - 1 and classes[-1][2] == k:
        classes[-1][1] = c
    elif k:
        classes.append([c, c, k])

print(f"/* Unicode {u.unidata_version}, written by scripts/nfc.py. Hangul syllables are computed, not listed.")
print(" * NFC_CLASS(first, last, canonical combining class), ascending. */")
rows("NFC_CLASS(0x%x,0x%x,%d)" % tuple(r) for r in classes)
print("/* NFC_DECOMPOSE(character, first, second or 0): one step of the canonical decomposition, ascending. */")
rows("NFC_DECOMPOSE(0x%x,0x%x,0x%x)" % r for r in pairs)
print("/* NFC_COMPOSE(first, second, character): the pairs that compose, ascending. */")
rows("NFC_COMPOSE(0x%x,0x%x,0x%x)" % r for r in compose)
print("#undef NFC_CLASS\n#undef NFC_DECOMPOSE\n#undef NFC_COMPOSE")
sys.stdout.flush()
