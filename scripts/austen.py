#!/usr/bin/env python3
"""austen.py PACKAGE.deb OUTDIR: the six novels of Jane Austen (public domain) as text files, one per novel.

PACKAGE.deb is Debian's r-cran-janeaustenr (`apt-get download r-cran-janeaustenr`); neither R nor dpkg is needed. Used only to
reproduce the embedded token shards. Lines end in "\\n", blank lines are kept, nothing else is changed.
"""
import io
import lzma
import os
import struct
import sys
import tarfile
import zlib

MEMBER = "./usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
# First line of a novel as the package spells it -> file name.
NAMES = {"EMMA": "emma", "MANSFIELD PARK": "mansfield_park", "NORTHANGER ABBEY": "northanger_abbey", "PERSUASION": "persuasion",
         "PRIDE AND PREJUDICE": "pride_and_prejudice", "SENSE AND SENSIBILITY": "sense_and_sensibility"}


def ar_members(data):
    """The members of an ar archive, which a .deb is: 60-byte headers, even offsets."""
    if data[:8] != b"!<arch>\n":
        sys.exit("not a .deb file")
    at = 8
    while at + 60 <= len(data):
        size = int(data[at + 48:at + 58])
        yield data[at:at + 16].decode().strip().rstrip("/"), data[at + 60:at + 60 + size]
        at += 60 + size + size % 2


def rdata(deb):
    for name, body in ar_members(open(deb, "rb").read()):
        if name.startswith("data.tar"):
            raw = lzma.decompress(body) if name.endswith(".xz") else body
            return tarfile.open(fileobj=io.BytesIO(raw)).extractfile(MEMBER).read()
    sys.exit(f"{deb} has no data.tar")


def objects(rdb):
    """Each object of R's lazy-load database: 4 bytes of length (big-endian), then a zlib stream."""
    at = 0
    while at < len(rdb):
        d = zlib.decompressobj()
        raw = d.decompress(rdb[at + 4:])
        if len(raw) != struct.unpack(">I", rdb[at:at + 4])[0]:
            sys.exit("damaged data base")
        at = len(rdb) - len(d.unused_data)
        yield raw


def strings(raw):
    """A character vector in R's XDR serialization, or None for another type."""
    at = raw.index(b"X\n") + 2
    version = struct.unpack_from(">i", raw, at)[0]
    at += 12
    if version == 3:
        at += 4 + struct.unpack_from(">i", raw, at)[0]
    flags, n = struct.unpack_from(">Ii", raw, at)
    at += 8
    if flags & 255 != 16:
        return None
    lines = []
    for _ in range(n):
        size = struct.unpack_from(">i", raw, at + 4)[0]
        at += 8
        lines.append(raw[at:at + size].decode("utf-8") if size > 0 else "")
        at += max(size, 0)
    return lines


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    os.makedirs(sys.argv[2], exist_ok=True)
    for raw in objects(rdata(sys.argv[1])):
        lines = strings(raw)
        if not lines:
            continue
        name = NAMES.pop(lines[0].strip().upper(), None)
        if not name:
            sys.exit(f"unknown novel: {lines[0]!r}")
        path = os.path.join(sys.argv[2], name + ".txt")
        text = "\n".join(lines) + "\n"
        with open(path, "w", encoding="utf-8", newline="\n") as f:
            f.write(text)
        print(f"{path}: {len(lines)} lines, {len(text)} characters")
    if NAMES:
        sys.exit(f"not found: {', '.join(NAMES)}")


if __name__ == "__main__":
    main()
