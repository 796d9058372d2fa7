/* Fuzz: tokenizer.json, tokenizer_config.json and a text, parted by NUL bytes. */
#include "toks.h"

static void run(struct fuzz_input in) {
    char *json = fuzz_take_text(&in), *config = fuzz_take_text(&in);
    fuzz_put_text("tokenizer.json", json);
    fuzz_put_text("tokenizer_config.json", config);
    if (!*config) unlink(fuzz_path("tokenizer_config.json"));
    toks_run(fuzz_dir, (const char *)in.p, in.n);
    mem_free(&json);
    mem_free(&config);
}

static void set_up(void) {}

#define UNIGRAM                                                                                                        \
    "\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"byte_fallback\":false,\"vocab\":[[\"<unk>\",0],[\"\xe2\x96\x81\"," \
    "-2.5],[\"a\",-1],[\"\xe2\x96\x81"                                                                                 \
    "ab\",-3],[\"b\",-2]]}"
#define BPE                                                                                                           \
    "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":\"<unk>\",\"byte_fallback\":true,\"fuse_unk\":true,"  \
    "\"ignore_merges\":false,\"vocab\":{\"<unk>\":0,\"a\":1,\"b\":2,\"ab\":3,\"aab\":4,\"\xc4\xa0\":5,\"<0x41>\":6}," \
    "\"merges\":[\"a b\",[\"a\",\"ab\"]]}"
#define PIECE                                                                                                     \
    "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\",\"max_input_" \
    "chars_per_word\":20,\"vocab\":{\"[UNK]\":0,\"hello\":1,\"##b\":2,\"a\":3,\"[CLS]\":4,\"[SEP]\":5,\",\":6}}"
#define ADDED                                                                                                    \
    "\"added_tokens\":[{\"id\":7,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":true,\"rstrip\":true,"     \
    "\"normalized\":false,\"special\":true},{\"id\":8,\"content\":\"aa\",\"single_word\":true,\"lstrip\":false," \
    "\"rstrip\":false,\"normalized\":true,\"special\":false}]"

static void seeds(void) {
    static const struct {
        const char *name, *text;
        size_t n;
    } rows[] = {
#define ROW(name, text) {name, text, sizeof text - 1}
        ROW("bpe",
            "{" ADDED ",\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{"
            "\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|"
            "\\\\p{N}{1,3}|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},{\"type\":"
            "\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":false}]}," BPE
            ",\"post_processor\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":false,\"use_"
            "regex\":true},\"decoder\":{\"type\":\"ByteLevel\"}}\0{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":"
            "\"aa\"}}\0aab ab"),
        ROW("unigram",
            "{" ADDED ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Nmt\"},{\"type\":\"NFKC\"},{"
            "\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},\"content\":\" "
            "\"},{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":false},{\"type\":\"Prepend\","
            "\"prepend\":\"\xe2\x96\x81\"}]},\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":"
            "\"\xe2\x96\x81\",\"prepend_scheme\":\"always\",\"split\":true}," UNIGRAM
            ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_"
            "id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}"
            "},{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[7],"
            "\"tokens\":[\"<s>\"]}}},\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_"
            "scheme\":\"always\",\"split\":true}}\0\0 ab a"),
        ROW("wordpiece",
            "{\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":true,\"strip_"
            "accents\":null,\"lowercase\":true},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}," PIECE
            ",\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"[SEP]\",5],\"cls\":[\"[CLS]\",4]},\"decoder\":"
            "{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true}}\0\0hello, ab"),
        ROW("llama", "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"
                     "\"\xe2\x96\x81\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" "
                     "\"},\"content\":\"\xe2\x96\x81\"}]},\"pre_tokenizer\":null," BPE
                     ",\"post_processor\":{\"type\":\"RobertaProcessing\",\"sep\":[\"ab\",3],\"cls\":[\"a\",1],\"trim_"
                     "offsets\":true,\"add_prefix_space\":false},\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{"
                     "\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" "
                     "\"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" "
                     "\",\"start\":1,\"stop\":0}]}}\0\0a b"),
        ROW("splits",
            "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFD\"},{\"type\":\"Lowercase\"},{"
            "\"type\":\"StripAccents\"},{\"type\":\"NFKD\"}]},\"pre_tokenizer\":{\"type\":\"Sequence\","
            "\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},{\"type\":\"Digits\",\"individual_digits\":true},{"
            "\"type\":\"Punctuation\",\"behavior\":\"MergedWithPrevious\"},{\"type\":\"Whitespace\"}]}," BPE
            ",\"decoder\":{\"type\":\"BPEDecoder\",\"suffix\":\"</w>\"}}\0\0A\xc3\x89 b1"),
        ROW("precompiled",
            "{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"BAAAAAAEAAAAYQA=\"}," UNIGRAM
            "}\0\0ab"),
#undef ROW
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) fuzz_seed(rows[i].name, rows[i].text, rows[i].n);
}

FUZZ_TARGET(set_up, run, seeds)
