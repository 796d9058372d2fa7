#!/usr/bin/env python3
"""kinds.py > kinds.json: what Hugging Face tokenizers makes of small texts with each kind of normalizer, pre-tokenizer, added token,
post-processor and decoder, over one WordPiece vocabulary of single characters (so that ids show where words begin) or one small BPE."""
import json
import unicodedata

import tokenizers
from tokenizers import Tokenizer

TEXTS = ["", "Hello World 12 345", "  a  b c ", "don't STOP-it. (ok) xAbC", "\u00c9t\u00e9 e\u0301 \u4f60\u597d\t\u200bx\n", "\u2581a \u2581 b\u2581",
         "ab<t>cd <t> <u>x<t>", "\u0130\u01c5 \ufb01\u00bd \ud55c\uae00 a\u0323\u0307", "abcabcab dd", " \U0001f600 e", "a\u0301\u0327\u0903 !?\u00bf_\u2460", "hug hugs  hugging"]
chars = sorted(set("".join(TEXTS)) | set("xyabc#") | {c for t in TEXTS for f in ("NFC", "NFD", "NFKC", "NFKD") for c in unicodedata.normalize(f, t)}
               | {c for t in TEXTS for c in t.lower()})
wordpiece = {"[UNK]": 0, "[SEP]": 1, "[CLS]": 2}
for c in chars:
    wordpiece[c] = len(wordpiece)
for c in chars:
    wordpiece.setdefault("##" + c, len(wordpiece))
FREE = len(wordpiece)

SPLIT = lambda pattern, behavior, invert=False: {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
BEHAVIORS = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
ADDED = lambda i, text, **kw: dict({"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}, **kw)

cases = []
add = lambda name, model="chars", **kw: cases.append(dict({"name": name, "model": model}, **kw))
for n in ["NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents"]:
    add(n, normalizer={"type": n})
seq = lambda key, *parts: {"type": "Sequence", key: list(parts)}
add("NFD StripAccents", normalizer=seq("normalizers", {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}))
for left in (True, False):
    add("Strip", normalizer={"type": "Strip", "strip_left": left, "strip_right": not left})
add("Prepend", normalizer={"type": "Prepend", "prepend": "ab"})
add("Replace String", normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "bc"})
add("Replace Regex", normalizer={"type": "Replace", "pattern": {"Regex": "[a-c]+|\\s"}, "content": "x"})
add("Replace by nothing", normalizer={"type": "Replace", "pattern": {"Regex": "\\s+|b"}, "content": ""})
for lower, accents in ((True, None), (False, True), (False, None)):
    add("Bert", normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": accents, "lowercase": lower})
for b in BEHAVIORS:
    for inv in (False, True):
        add("Split String", pre_tokenizer=SPLIT({"String": " "}, b, inv))
        add("Split Regex", pre_tokenizer=SPLIT({"Regex": "[a-z]{2}|\\d"}, b, inv))
        add("Split empty", pre_tokenizer=SPLIT({"Regex": "(?=[A-Z])|b"}, b, inv))
    add("Punctuation", pre_tokenizer={"type": "Punctuation", "behavior": b})
for one in (True, False):
    add("Digits", pre_tokenizer={"type": "Digits", "individual_digits": one})
for p in ["Whitespace", "WhitespaceSplit", "BertPreTokenizer"]:
    add(p, pre_tokenizer={"type": p})
for scheme in ("always", "first", "never"):
    for split in (True, False):
        add("Metaspace", pre_tokenizer={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": split},
            added_tokens=[ADDED(FREE, "<t>")])
add("Metaspace first behind Strip", normalizer={"type": "Strip", "strip_left": True, "strip_right": True},
    pre_tokenizer={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True})
add("Sequence", pre_tokenizer=seq("pretokenizers", {"type": "WhitespaceSplit"}, {"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "Isolated"}))
for kw in ({}, {"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"lstrip": True, "rstrip": True, "special": True}, {"normalized": True}):
    add("added %s" % kw, added_tokens=[ADDED(FREE, "<t>", **kw), ADDED(FREE + 1, "<t> <u>", **kw), ADDED(FREE + 2, "ab", **kw)],
        normalizer={"type": "Lowercase"})
add("added, normalized", added_tokens=[ADDED(FREE, "HELLO", normalized=True), ADDED(FREE + 1, "World")], normalizer={"type": "Lowercase"})
ends = {"sep": ["[SEP]", 1], "cls": ["[CLS]", 2]}
add("BertProcessing", post_processor=dict({"type": "BertProcessing"}, **ends))
add("RobertaProcessing", model="bytes", post_processor=dict({"type": "RobertaProcessing", "trim_offsets": True, "add_prefix_space": True}, **ends))
add("RobertaProcessing", model="bytes", post_processor=dict({"type": "RobertaProcessing", "trim_offsets": True, "add_prefix_space": False}, **ends))
add("ByteLevel trim", model="bytes", post_processor={"type": "ByteLevel", "trim_offsets": True, "add_prefix_space": True, "use_regex": True})
part = lambda k, name, t: {k: {"id": name, "type_id": t}}
add("Template", post_processor={"type": "TemplateProcessing", "single": [part("SpecialToken", "x", 3), part("Sequence", "A", 2)],
    "pair": [part("Sequence", "B", 1), part("SpecialToken", "x", 4), part("Sequence", "A", 0), part("SpecialToken", "x", 0)],
    "special_tokens": {"x": {"id": "x", "ids": [1, 2], "tokens": ["[SEP]", "[CLS]"]}}})
for d in [{"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
          {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "never", "split": True}, {"type": "Fuse"}, {"type": "ByteFallback"},
          {"type": "Strip", "content": "a", "start": 1, "stop": 0}, {"type": "Strip", "content": "b", "start": 0, "stop": 1},
          {"type": "Replace", "pattern": {"String": "a"}, "content": "xy"}, {"type": "Replace", "pattern": {"Regex": "[ab#]"}, "content": ""},
          {"type": "WordPiece", "prefix": "##", "cleanup": True}, {"type": "WordPiece", "prefix": "##", "cleanup": False}, {"type": "BPEDecoder", "suffix": "b"},
          seq("decoders", {"type": "WordPiece", "prefix": "##", "cleanup": True}, {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "ab"}, "content": " "},
              {"type": "Strip", "content": " ", "start": 1, "stop": 0})]:
    add("decoder %s" % d["type"], decoder=d, pre_tokenizer={"type": "BertPreTokenizer"})
ws = {"type": "WhitespaceSplit"}
for m in ("bpe", "bpe-unk", "bpe-fuse", "bpe-ends", "bpe-fallback", "bpe-ignore", "unigram", "unigram-fallback"):
    add(m, model=m, pre_tokenizer=ws)
add("bpe, whole text", model="bpe-fallback")

plain = sorted("abcdehginosu")
vocab = lambda *tokens: {t: i for i, t in enumerate(["<unk>"] + plain + list(tokens))}
bpe = lambda v, merges, **kw: dict({"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
                                    "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": v, "merges": merges}, **kw)
merges = [["a", "b"], ["h", "u"], ["hu", "g"], ["ab", "c"], ["c", "ab"], ["i", "n"], ["in", "g"], ["abc", "abc"]]
joined = ["".join(m) for m in merges]
hexes = ["<0x%02X>" % b for b in range(256)]
stand_ins = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
models = {
    "chars": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 30, "vocab": wordpiece},
    "bytes": bpe({t: i for i, t in enumerate(["<unk>", "[SEP]", "[CLS]"] + stand_ins + ["\u0120\u0120", "ug", "\u0120a"])}, [["\u0120", "\u0120"], ["u", "g"], ["\u0120", "a"]]),
    "bpe": bpe(vocab(*joined), merges),
    "bpe-unk": bpe(vocab(*joined), merges[:3]),
    "bpe-fuse": bpe(vocab(*joined), merges, fuse_unk=True),
    "bpe-ends": bpe(vocab(*["##" + c for c in plain], *[c + "</w>" for c in plain], *["##" + c + "</w>" for c in plain], "hu", "hug</w>", "ab", "abc"),
                    [["h", "##u"], ["hu", "##g</w>"], ["a", "##b"], ["ab", "##c"]], continuing_subword_prefix="##", end_of_word_suffix="</w>"),
    "bpe-fallback": bpe(vocab(*joined, *hexes), merges, fuse_unk=True, byte_fallback=True),
    "bpe-ignore": bpe(vocab(*joined, "hugs", "dd"), merges[:2], ignore_merges=True),
    "unigram": {"type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": [["<unk>", 0.0]] + [[c, -3.0 - i / 8] for i, c in enumerate(plain)] + [[j, -4.0 - i / 4] for i, j in enumerate(joined)]},
    "unigram-fallback": {"type": "Unigram", "unk_id": 0, "byte_fallback": True, "vocab": [["<unk>", 0.0]] + [[h, -9.0] for h in hexes] + [[c, -3.0] for c in plain] + [[j, -5.5] for j in joined]},
}
for case in cases:
    root = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": case.get("added_tokens", []), "normalizer": case.get("normalizer"),
            "pre_tokenizer": case.get("pre_tokenizer"), "post_processor": case.get("post_processor"), "decoder": case.get("decoder"), "model": models[case["model"]]}
    if case["model"] == "bytes":
        case["pre_tokenizer"] = root["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    t = Tokenizer.from_str(json.dumps(root))
    e = [t.encode(x) for x in TEXTS]
    case["ids"] = [x.ids for x in e]
    case["off"] = [sum(map(list, x.offsets), []) for x in e]
    case["dec"] = [t.decode(x.ids, skip_special_tokens=False) for x in e]
    pair = t.encode(TEXTS[1], TEXTS[11])
    case["pair"], case["types"] = pair.ids, pair.type_ids
print(json.dumps({"origin": "tests/golden/tok/kinds.py with Hugging Face tokenizers " + tokenizers.__version__, "texts": TEXTS, "models": models, "cases": cases},
                 separators=(",", ":")).replace('{"name"', '\n{"name"'))
