"""Makes tests/tokenizers: a small tokenizer.json for each family of models, with that family's exact components, and a few
with components and options that are rarer.

    python reference/make_tokenizers.py tests/tokenizers

The merges are learned on reference/sample_text.py; normalizer, pre-tokenizer, post-processor, decoder, the model's
options, the spelling of the merges and the order of the vocabulary are those of the files that the families publish.
Running it again writes the same bytes. tests/tokenizers/README.md says what each one is.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

import sample_text
from byte_symbols import OTHERS, PRINTABLE, SYMBOLS

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Llama 3 takes up to three digits together, Qwen one.
CL100K_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


# ---- components, as the published files spell them --------------------------------------------------------------


def byte_level(add_prefix_space, trim_offsets, use_regex=None):
    """use_regex is absent from files that older versions of the library wrote; it is true then."""
    component = {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": trim_offsets}
    return component if use_regex is None else component | {"use_regex": use_regex}


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def replace(pattern, content):
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def template(token, id):
    """Puts one token before the text."""
    special = {"SpecialToken": {"id": token, "type_id": 0}}
    second = {"SpecialToken": {"id": token, "type_id": 1}}
    a, b = ({"Sequence": {"id": name, "type_id": type_id}} for name, type_id in (("A", 0), ("B", 1)))
    return {
        "type": "TemplateProcessing",
        "single": [special, a],
        "pair": [special, a, second, b],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    }


def pre_sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def processor_sequence(*parts):
    return {"type": "Sequence", "processors": list(parts)}


def decoder_sequence(*parts):
    return {"type": "Sequence", "decoders": list(parts)}


METASPACE_DECODERS = (replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"})
STRIP_ONE_SPACE = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def added_token(content, special=True, **flags):
    token = {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return token | {"special": special} | flags


SPACES = ["▁▁", "▁▁▁▁", "▁▁▁▁▁▁▁▁"]


# ---- training ---------------------------------------------------------------------------------------------------


def learn(pre_tokenizer, n_merges, alphabet, normalizer=None):
    """The merges that byte-pair encoding learns on the sample text, in order."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    # The alphabet is given whole: left to itself the trainer breaks ties between rare characters at random.
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + n_merges,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample_text.lines(), trainer)
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]


def frequent_characters(n):
    """The n most frequent characters of the sample text, the metaspace among them, in code-point order."""
    counts = Counter("▁")
    for line in sample_text.lines():
        counts.update(line.replace(" ", "▁"))
    return sorted(sorted(counts, key=lambda c: (-counts[c], c))[:n])


def byte_alphabet():
    """The 256 symbols of ByteLevel in the order of GPT-2's vocabulary: printable bytes first."""
    return [SYMBOLS[byte] for byte in PRINTABLE + OTHERS]


def boundary_merges():
    """Merges of an ASCII character with the first byte of any other behind it, and with the last byte of any other
    before it. With them the ids of a text show where it was split, whatever the characters are; learned merges know
    the frequent ones alone."""
    before = [(c, SYMBOLS[byte]) for c in "a1!Ġ" for byte in range(0xC2, 0xF5)]
    return before + [(SYMBOLS[byte], c) for byte in range(0x80, 0xC0) for c in "b1!sĊ"]


def byte_level_model(pre_tokenizer, n_merges, normalizer=None, first=()):
    """(vocabulary, merges) of a byte-level family; the tokens of `first` come before the alphabet."""
    alphabet = byte_alphabet()
    learned = learn(pre_tokenizer, n_merges, alphabet, normalizer)
    merges = learned + [merge for merge in boundary_merges() if merge not in learned]
    tokens = list(first) + alphabet + [left + right for left, right in merges]
    return {token: id for id, token in enumerate(dict.fromkeys(tokens))}, merges


def sentencepiece_model(n_merges, n_characters, first, runs):
    """(vocabulary, merges) of a family that was SentencePiece's: special tokens, the 256 bytes, what was merged, and
    the single characters last. A merge is listed for every way to make a token of two others, by the token's rank.
    `runs` are tokens of white space that come before what is learned."""
    # While learning, words are kept apart, and digits; the finished tokenizer has no such pre-tokenizer.
    words = [pre_tokenizers.Split(Regex(r"[\d\n]"), "isolated"), pre_tokenizers.Split("▁", "merged_with_next")]
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    characters = frequent_characters(n_characters)
    learned = learn(pre_tokenizers.Sequence(words), n_merges, characters, normalizer)
    merged = list(dict.fromkeys(runs + [left + right for left, right in learned]))
    characters += sorted(set("".join(runs)) - set(characters))
    tokens = list(first) + [f"<0x{byte:02X}>" for byte in range(256)] + merged + characters
    vocab = {token: id for id, token in enumerate(dict.fromkeys(tokens))}
    merges = []
    for token in merged:
        ways = [(token[:at], token[at:]) for at in range(1, len(token))]
        ways = [(left, right) for left, right in ways if left in vocab and right in vocab]
        merges += sorted(ways, key=lambda way: (vocab[way[0]], vocab[way[1]]))
    return vocab, merges


# ---- families ---------------------------------------------------------------------------------------------------


def with_ids(added, vocab):
    """Ids of added tokens: those of the vocabulary where it has them, else what follows it."""
    rows, next_id = [], len(vocab)
    for token in added:
        id = vocab.get(token["content"])
        if id is None:
            id, next_id = next_id, next_id + 1
        rows.append({"id": id} | token)
    return rows


def pairs(merges):
    return [list(merge) for merge in merges]


def spaced(merges):
    return [f"{left} {right}" for left, right in merges]


def tokenizer_json(vocab, added, model, **components):
    parts = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": with_ids(added, vocab)}
    for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        parts[name] = components.pop(name, None)
    assert not components
    return parts | {"model": {"type": "BPE", "dropout": None} | model}


def make_gpt2():
    vocab, merges = byte_level_model(pre_tokenizers.ByteLevel(add_prefix_space=False), 700)
    model = {"unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False}
    return tokenizer_json(
        vocab,
        [added_token("<|endoftext|>", normalized=True)],
        model | {"vocab": vocab, "merges": spaced(merges)},
        pre_tokenizer=byte_level(False, True),
        post_processor=byte_level(True, False),
        decoder=byte_level(True, True),
    )


def make_llama3():
    pattern = CL100K_PATTERN % "{1,3}"
    trained_with = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    vocab, merges = byte_level_model(trained_with, 700)
    # Whole words that no merges lead to: only ignore_merges finds them.
    for word in ("Ġinternationalization", "ĠÐ¿ÑĢÐ¸Ð²ÐµÑĤ", "çªģçĦ¶", "zzz", "ĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠ"):
        vocab.setdefault(word, len(vocab))
    names = ["begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1"]
    names += ["finetune_right_pad_id", "reserved_special_token_2", "start_header_id", "end_header_id", "eom_id"]
    names += ["eot_id", "python_tag"] + [f"reserved_special_token_{i}" for i in range(3, 120)]
    added = [added_token(f"<|{name}|>") for name in names]
    model = {"unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False}
    model |= {"byte_fallback": False, "ignore_merges": True}
    bos = template("<|begin_of_text|>", len(vocab))
    return tokenizer_json(
        vocab,
        added,
        model | {"vocab": vocab, "merges": spaced(merges)},
        pre_tokenizer=pre_sequence(split({"Regex": pattern}), byte_level(False, True, False)),
        post_processor=processor_sequence(byte_level(True, False, True), bos),
        decoder=byte_level(True, True, True),
    )


def make_qwen2():
    pattern = CL100K_PATTERN % ""
    trained_with = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    vocab, merges = byte_level_model(trained_with, 700, normalizers.NFC())
    special = ["endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "vision_start", "image_pad"]
    added = [added_token(f"<|{name}|>") for name in special]
    added += [added_token(text, special=False) for text in ("<tool_call>", "</tool_call>", "<|fim_prefix|>")]
    added += [added_token("<think>", special=False), added_token("</think>", special=False)]
    model = {"unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False}
    model |= {"byte_fallback": False}
    return tokenizer_json(
        vocab,
        added,
        model | {"vocab": vocab, "merges": spaced(merges)},
        normalizer={"type": "NFC"},
        pre_tokenizer=pre_sequence(split({"Regex": pattern}), byte_level(False, False, False)),
        post_processor=byte_level(False, False, False),
        decoder=byte_level(False, False, False),
    )


def make_smollm2():
    trained_with = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<gh_stars>"]
    vocab, merges = byte_level_model(trained_with, 700, first=names)
    model = {"unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False}
    model |= {"byte_fallback": False, "ignore_merges": False}
    return tokenizer_json(
        vocab,
        [added_token(name) for name in names],
        model | {"vocab": vocab, "merges": spaced(merges)},
        pre_tokenizer=pre_sequence({"type": "Digits", "individual_digits": True}, byte_level(False, True, True)),
        decoder=byte_level(True, True, True),
    )


def byte_fallback_options(**more):
    options = {"unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None}
    return options | {"fuse_unk": True, "byte_fallback": True} | more


def make_llama2():
    first = ["<unk>", "<s>", "</s>"]
    vocab, merges = sentencepiece_model(400, 200, first, SPACES)
    return tokenizer_json(
        vocab,
        [added_token(token) for token in first],
        byte_fallback_options(vocab=vocab, merges=spaced(merges)),
        normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")]},
        post_processor=template("<s>", 1),
        decoder=decoder_sequence(*METASPACE_DECODERS, STRIP_ONE_SPACE),
    )


def make_mistral():
    first = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"]
    first += [f"[control_{i}]" for i in range(8, 24)]
    vocab, merges = sentencepiece_model(450, 240, first, SPACES)
    return tokenizer_json(
        vocab,
        [added_token(token) for token in first],
        byte_fallback_options(ignore_merges=False, vocab=vocab, merges=spaced(merges)),
        pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
        post_processor=template("<s>", 1),
        decoder=decoder_sequence(*METASPACE_DECODERS, STRIP_ONE_SPACE),
    )


def make_gemma3():
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    plain = ["<mask>", "[multimodal]"] + [f"<unused{i}>" for i in range(12)]
    turns = ["<start_of_turn>", "<end_of_turn>"]
    runs = [c * n for c in "\n▁\t" for n in range(2 if c == "▁" else 1, 10)]
    markup = ["<table>", "</table>", "<h1>", "</h1>", "<s>", "</s>", "<code>", "</code>", "<a>", "</a>"]
    vocab, merges = sentencepiece_model(400, 300, special + plain + turns, [run for run in runs if len(run) > 1])
    for token in markup:
        vocab.setdefault(token, len(vocab))
    added = [added_token(token) for token in special] + [added_token(token, special=False) for token in plain]
    added += [added_token(token) for token in turns]
    added += [added_token(token, special=False) for token in runs + markup]
    added.append(added_token("<image_soft_token>"))  # behind the vocabulary, as published
    return tokenizer_json(
        vocab,
        added,
        byte_fallback_options(ignore_merges=False, vocab=vocab, merges=pairs(merges)),
        normalizer=replace(" ", "▁"),
        pre_tokenizer=split({"String": " "}, "MergedWithPrevious"),
        post_processor=template("<bos>", 2),
        decoder=decoder_sequence(*METASPACE_DECODERS),
    )


def make_added():
    """No family's: GPT-2's model with added tokens of every kind, some of which are parts of others."""
    tokenizer = make_gpt2()
    normal = {"normalized": True}
    tokenizer["normalizer"] = {"type": "Lowercase"}
    added = [
        added_token("<|endoftext|>"),
        added_token("<l>", lstrip=True),
        added_token("<r>", rstrip=True),
        added_token("<lr>", lstrip=True, rstrip=True),
        added_token("<w>", single_word=True),
        added_token("word", special=False, single_word=True),
        added_token("<wlr>", single_word=True, lstrip=True, rstrip=True),
        added_token("<n>", special=False, **normal),
        added_token("MiXed", special=False, **normal),
        added_token("CaSe", special=False),
        added_token("élan", special=False, single_word=True, **normal),
        added_token("ab", special=False),
        added_token("abc", special=False),
        added_token("abcd", special=False, **normal),
        added_token("bcde", special=False),
        added_token("1", special=False, single_word=True, **normal),
        added_token("<nl>", special=False, lstrip=True, **normal),
        added_token("<nr>", special=False, rstrip=True, **normal),
        added_token("😀", special=True, rstrip=True),
    ]
    tokenizer["added_tokens"] = with_ids(added, tokenizer["model"]["vocab"])
    return tokenizer


# ---- components and options that no family above has ---------------------------------------------------------------


def small_byte_level(**components):
    """Byte-level with few merges."""
    vocab, merges = byte_level_model(pre_tokenizers.ByteLevel(add_prefix_space=False), 60, first=["<s>", "</s>"])
    model = {"unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False}
    model |= {"byte_fallback": False, "vocab": vocab, "merges": pairs(merges)}
    components = {"decoder": byte_level(True, True, True)} | components
    return tokenizer_json(vocab, [added_token("<s>"), added_token("</s>")], model, **components)


def small_characters(n_bytes=0, fuse_unk=True, byte_fallback=False, **components):
    """Characters and merges of them; what is not there is <unk>, or its bytes where those n_bytes have all of them."""
    vocab, merges = sentencepiece_model(80, 120, ["<unk>", "<s>"], SPACES)
    kept = [t for t, id in vocab.items() if not 2 <= id < 258 or 258 - n_bytes <= id]
    vocab = {token: id for id, token in enumerate(kept)}
    model = byte_fallback_options(fuse_unk=fuse_unk, byte_fallback=byte_fallback, vocab=vocab, merges=pairs(merges))
    return tokenizer_json(vocab, [added_token("<unk>"), added_token("<s>")], model, **components)


def normalizer_sequence(*parts):
    return {"type": "Sequence", "normalizers": list(parts)}


def metaspace(prepend_scheme, split):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": prepend_scheme, "split": split}


def make_splits():
    """Every behaviour of Split, with strings and patterns; what is removed stays removed."""
    return small_byte_level(
        pre_tokenizer=pre_sequence(
            split({"String": ", "}, "Removed"),
            split({"String": "-"}, "MergedWithPrevious"),
            split({"Regex": r"[(\[{]"}, "MergedWithNext"),
            split({"Regex": r"\p{N}"}, "Contiguous"),
            split({"Regex": r"\s*\p{L}+"}, "Isolated"),
            byte_level(False, True, False),
        ),
    )


def make_splits_inverted():
    return small_byte_level(
        pre_tokenizer=pre_sequence(
            split({"Regex": r"[^\u3000]+"}, "Removed", invert=True),
            split({"Regex": r"\w+"}, "MergedWithPrevious", invert=True),
            split({"Regex": r"[\s\p{P}]+"}, "Contiguous", invert=True),
            split({"String": "e"}, "MergedWithNext", invert=True),
            byte_level(True, True, False),
        ),
    )


def make_template():
    """A space before the text, tokens before and behind it, and a decoder of several parts."""
    processor = template("<s>", 0)
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    processor["single"].append(end)
    processor["pair"].append(end)
    processor["special_tokens"]["</s>"] = {"id": "</s>", "ids": [1], "tokens": ["</s>"]}
    return small_byte_level(
        pre_tokenizer=byte_level(True, True, True),
        post_processor=processor,
        decoder=decoder_sequence(byte_level(True, True, True), {"type": "Fuse"}),
    )


def make_nfkc():
    return small_byte_level(
        normalizer=normalizer_sequence({"type": "NFKC"}, {"type": "Lowercase"}, replace("ss", "ß")),
        pre_tokenizer=byte_level(False, True, True),
    )


def make_nfd():
    return small_byte_level(
        normalizer=normalizer_sequence(
            {"type": "NFD"},
            {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\u0300\u0301]+"}, "content": " "},
            {"type": "Strip", "strip_left": True, "strip_right": True},
        ),
        pre_tokenizer=byte_level(False, True, True),
    )


def make_nfkd():
    return small_byte_level(
        normalizer={"type": "NFKD"},
        pre_tokenizer=byte_level(False, True, True),
    )


def make_metaspace():
    """Metaspace that splits, before each stretch between added tokens; characters that the vocabulary lacks, fused."""
    return small_characters(pre_tokenizer=metaspace("always", True), decoder=metaspace("always", True))


def make_metaspace_never():
    """Each character that the vocabulary lacks is an <unk> of its own."""
    return small_characters(
        fuse_unk=False, pre_tokenizer=metaspace("never", True), decoder=metaspace("never", True)
    )


def make_byte_gaps():
    """Byte fallback where the vocabulary has only the upper 128 bytes: what needs another is <unk>."""
    return small_characters(
        n_bytes=128,
        byte_fallback=True,
        normalizer=replace(" ", "▁"),
        post_processor=template("<s>", 1),
        decoder=decoder_sequence(*METASPACE_DECODERS),
    )


def make_digits():
    """Runs of digits, then punctuation, then white space, which is dropped."""
    return small_byte_level(
        pre_tokenizer=pre_sequence(
            {"type": "Digits", "individual_digits": False},
            {"type": "Punctuation", "behavior": "Isolated"},
            {"type": "WhitespaceSplit"},
            byte_level(False, True, False),
        ),
    )


def make_accents():
    """StripAccents, once on what is still composed and once behind NFD; a Sequence within each Sequence."""
    return small_byte_level(
        normalizer=normalizer_sequence(
            {"type": "StripAccents"},
            normalizer_sequence({"type": "Lowercase"}, replace("ø", "\u0323o\u0301")),
            normalizer_sequence(normalizer_sequence({"type": "NFD"}), {"type": "StripAccents"}),
        ),
        pre_tokenizer=pre_sequence(
            pre_sequence({"type": "Digits", "individual_digits": True}),
            pre_sequence(),
            pre_sequence(pre_sequence(byte_level(False, True, True))),
        ),
        post_processor=processor_sequence(
            processor_sequence(byte_level(True, False, True)), processor_sequence(template("<s>", 0))
        ),
        decoder=decoder_sequence(decoder_sequence(byte_level(True, True, True)), decoder_sequence({"type": "Fuse"})),
    )


# name: function, bos, eos
TOKENIZERS = {
    "gpt2": (make_gpt2, "<|endoftext|>", "<|endoftext|>"),
    "llama3": (make_llama3, "<|begin_of_text|>", "<|end_of_text|>"),
    "qwen2": (make_qwen2, None, "<|im_end|>"),
    "smollm2": (make_smollm2, "<|im_start|>", "<|im_end|>"),
    "llama2": (make_llama2, "<s>", "</s>"),
    "mistral": (make_mistral, "<s>", "</s>"),
    "gemma3": (make_gemma3, "<bos>", "<eos>"),
    "added": (make_added, "<|endoftext|>", "<|endoftext|>"),
    "splits": (make_splits, "<s>", "</s>"),
    "splits_inverted": (make_splits_inverted, "<s>", "</s>"),
    "template": (make_template, "<s>", "</s>"),
    "nfkc": (make_nfkc, "<s>", "</s>"),
    "nfd": (make_nfd, "<s>", "</s>"),
    "nfkd": (make_nfkd, "<s>", "</s>"),
    "metaspace": (make_metaspace, "<s>", None),
    "metaspace_never": (make_metaspace_never, "<s>", None),
    "byte_gaps": (make_byte_gaps, "<s>", None),
    "digits": (make_digits, "<s>", "</s>"),
    "accents": (make_accents, "<s>", "</s>"),
}


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write_tokenizer(path, tokenizer):
    """One line per part and per added token: short, and a change shows where it is."""
    parts = []
    for name, value in tokenizer.items():
        if name == "added_tokens":
            rows = ",\n".join(compact(row) for row in value)
            parts.append(f'"added_tokens":[\n{rows}\n]')
        elif name == "model":
            options = ",\n".join(f"{compact(key)}:{compact(option)}" for key, option in value.items())
            parts.append(f'"model":{{\n{options}\n}}')
        else:
            parts.append(f"{compact(name)}:{compact(value)}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    Tokenizer.from_file(str(path))  # the library takes it


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="where to write <name>/tokenizer.json")
    arguments = parser.parse_args()
    for name, (make, bos, eos) in TOKENIZERS.items():
        directory = Path(arguments.directory) / name
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "tokenizer.json"
        tokenizer = make()
        write_tokenizer(path, tokenizer)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        config |= {"bos_token": bos, "eos_token": eos}
        (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        n_merges = len(tokenizer["model"]["merges"])
        print(f"{name}: {len(tokenizer['model']['vocab'])} tokens, {n_merges} merges, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
