"""Writes what the `tokenizers` library makes of a great many texts: the golden data of the worker's tokenizer.

    python reference/golden_tokenizers.py tests/tokenizers tests/golden/tokenizers
    python reference/golden_tokenizers.py --published DIR    # DIR/<name>/tokenizer_golden.jsonl beside each file there

tests/golden/README.md has the format. Texts are encoded with the special tokens that the post-processor adds and
decoded without special tokens, as transformers does it for a prompt and its answer.
"""

import argparse
import json
import random
import zlib
from array import array
from pathlib import Path

from tokenizers import Tokenizer

import golden_texts
import sample_text
from byte_symbols import Refusals
from random_text import RandomText

CASES = [
    # empty, white space alone, mixed line ends
    "", " ", "  ", "   ", "    ", "     ", "\n", "\n\n", "\n\n\n", "\t", "\r", "\r\n", "\r\n\r\n", "\n\r", " \n", "\n ",
    " \n ", "  \n  \n", "\n \n \n", "a\n\n b", "a \n b", "a\r\n  b", "a  \n\n\n  b  ", "\t \t\n", "\u00a0\n", "\u2028\n\u2029",
    "\u3000\u3000", " \u3000 ", "a\x85b\x85 c", "\x0b\x0c\x1c\x1d\x1e\x1f", "x\x1cy", " \x1c ", "\u180e\u200b\ufeff",
    # NUL and its neighbours
    "\x00", "a\x00b", "\x00\x00 \x00",
    # contractions in both cases; the long s and the Kelvin sign fold to ASCII letters
    "I'M we'Re THEY'LL he'D it'S can'T you'Ve", "'ſ 'ſa x'ſ", "'K 'k", "'s's's", "'S", "a's1's 's\n's", "''s", "'\u0307s",
    "l'été d'hier qu'ils", "'lla 'rea 'vea 'ma 'da 'ta 'sa", "o'clock o'Neill",
    # numbers
    "1", "12", "123", "1234", "12345", "123456", "1234567", "1 2 3", "a1b22c333d4444", "٠١٢٣٤", "१२३४", "０１２３", "½¼¾", "²³¹",
    "ⅠⅡⅢ", "①②③", "一二三", "〇", "𝟘𝟙𝟚𝟛", "1٢३๔５", "1st 2nd", "1,234.56", "-1e-9", " 1", "  12", "\n123",
    # letters that are none everywhere: marks, modifiers, letterlike numbers, unassigned, private
    "ªº", "ʰʲ", "\u02bcn", "\u0345", "\u0903\u0940", "\u0e33\u0eb3", "\ue000\uf8ff", "\u0378\u0379", "\U000e0001\U000e007f",
    "\U0001fae0\U0001fae8", "\U00013430\U00016fe4", "\U0002ebf0\U0002ee5d", "\U00031350", "\u1c89\u1c8a", "\ua7cb\ua7cd",
    "\U00010d50", "\U00010d40", "\ufdd0\ufffe\uffff", "\U0001d7ff\U0001d800",
    # normal forms
    "é e\u0301 \u0065\u0301\u0323 \u1e69 s\u0323\u0307 s\u0307\u0323", "\u212b \u2126 \u212a", "\u1112\u1161\u11ab 한 \u1100\u1161",
    "가\u11a8 각\u11a8 \uac00\u1161", "\u0958 \u0915\u093c", "\ufb2a \u05e9\u05c1", "\u30ab\u3099 ガ", "\u0344 \u0308\u0301",
    "\uf900 \U0002f800", "a\u0301" * 20, "a" + "\u0301\u0323" * 40, "\u0301", "\u0301a", " \u0301", "\n\u0301", "a \u0301b",
    "é\u0323", "\u1e69\u0323x", "a\u0308\u0304\u0323 ǟ\u0323", "\u1ed7\u0323", "\u0439\u0328 \u1fb4\u0301", "\u0958\u094d\u093c", "\u05d0\u05bc\u05b7",
    "\ud55c\u11a8 \u1100\u1161\u0323\u11a8", "\u0928\u094d\u093c", "\u304b\u0323\u3099", "e\u200d\u0301", "\u0061\u05b0\u0301\u0316",
    "\u0340\u0341\u0343\u0374\u037e\u0387", "\u2000\u2001", "\U0001d15e \U0001d1bc", "\u0f73 \u0f75 \u0f81", "q\u0307\u0323", "ﬁ ﬀ ¼ ㍿ ｶﾞ",
    # joiners, directions, variation selectors
    "क्‍ष क्‌ष", "می‌خواهم", "\u202eabc\u202c", "a\u200db", "❤\ufe0f❤\ufe0e", "👩‍👩‍👧‍👦👩‍🚀", "👍🏻👍🏿", "🇩🇪🇫🇷🇯", "1️⃣#️⃣",
    # what stands for a space or a byte in vocabularies
    "▁", "▁▁", "a▁b", " ▁ ", "▁ ▁", "▁a b▁", "Ġ", "Ġa", "ĠĊĉ", "<0x41>", "<0x0A><0xE4>", "<unk>", "<s>", "</s> <s>", "<pad><eos><bos>",
    "[INST] x [/INST]", "<|im_start|>user\nhi<|im_end|>\n", "<start_of_turn>user\nhi<end_of_turn>", "<|eot_id|>", "<|endoftext|>",
    # long runs: words of one letter, white space, digits, brackets
    "a" * 400, "ab" * 150, "A" * 257, "z" * 129, " " * 129, " " * 64 + "a", "\n" * 70, "\t" * 40, "\r\n" * 30, " \n" * 40,
    "1" * 200, "1234567890" * 12, "(" * 200, "=" * 257, "-" * 80 + "\n", "😀" * 80, "é" * 200, "你" * 100, "が" * 100, "\u0301" * 100,
    "\U0010ffff" * 30, "a " * 150, " a" * 150, "the " * 100, "'s" * 60, "\u3000" * 40, "▁" * 60, "\x00" * 40,
]  # fmt: skip

BLOCK = 512  # code points under one digest; a block of the planes that are mostly empty is larger
SPARSE_FROM, SPARSE_BLOCK = 0x20000, 16384
N_RANDOM, N_RANDOM_IDS = 60, 80
SMALL = 850  # vocabularies below this test single components, not a family; they get fewer texts and code points
EMPTY_PLANES = range(0x40000, 0xE0000)  # no characters there but noncharacters


def blocks(is_small):
    first = 0
    while first <= 0x10FFFF:
        size = BLOCK if first < SPARSE_FROM else SPARSE_BLOCK
        surrogates = 0xD800 <= first <= 0xDFFF  # no characters
        if not surrogates and not (is_small and first in EMPTY_PLANES):
            yield first, first + size - 1
        first += size


def special_texts(tokenizer, rng):
    """Added tokens in all surroundings: a few of each kind, and mixtures of all."""
    added = list(tokenizer.get_added_tokens_decoder().values())
    kinds = {}
    for token in added:
        kinds.setdefault((token.special, token.lstrip, token.rstrip, token.single_word, token.normalized), []).append(token)
    contents = []
    for tokens in kinds.values():
        contents += [token.content for token in (tokens if len(tokens) < 4 else [tokens[0], tokens[1], tokens[-1]])]
    for text in contents:
        yield from (text, f"a{text}b", f" {text} ", f"a {text} b", f"  {text}\n\t{text}  x", text + text, f"{text}1{text}")
        yield from (f"_{text}", f"é{text}é", f"{text}\u0301", f"\u00a0{text}\u00a0", f"!{text}!", text.upper(), text.lower())
        yield from (text[:-1], text[1:], f"{text[:-1]} {text}", f"\n{text}\n\n")
    glue = ["", "", " ", "  ", "\n", "a", "A", "_", "é", "1", ",", "word", " the", "\u3000", "e\u0301", "▁"]
    pool = contents + [token.content for token in rng.sample(added, min(len(added), 10))]
    for _ in range(80):
        yield "".join(rng.choice(pool) + rng.choice(glue) for _ in range(rng.randrange(1, 7)))


def texts(tokenizer, seed):
    """(name of the group, text), each text once."""
    rng = random.Random(seed)
    groups = {
        "case": CASES,
        "english": golden_texts.ENGLISH + sample_text.ENGLISH.strip().split("\n"),
        "script": golden_texts.CORNERS + sample_text.OTHERS.strip().split("\n") + [sample_text.CODE],
        "added": special_texts(tokenizer, rng),
    }
    if tokenizer.get_vocab_size() < SMALL:
        groups = {"case": CASES, "added": groups["added"], "script": golden_texts.CORNERS[::3]}
    contents = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    groups["random"] = RandomText(seed, contents).texts(N_RANDOM)
    seen = set()
    for group, members in groups.items():
        for text in members:
            if text not in seen:
                seen.add(text)
                yield group, text


def byte_ids(tokenizer):
    """The ids that are one byte each: <0xXX> where the vocabulary has them, else ByteLevel's symbols."""
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
    if ids[0] is None:
        shown = tokenizer.get_vocab(with_added_tokens=False)
        ids = sorted(id for token, id in shown.items() if len(token) == 1)
    return [id for id in ids if id is not None]


def id_lists(tokenizer, seed):
    """Lists of ids to decode that no text needs to have led to."""
    rng = random.Random(seed)
    n_ids = max(tokenizer.get_vocab().values()) + 1
    bytes_ = byte_ids(tokenizer)
    split = "né 你好 😀 क्ष"
    ids = tokenizer.encode(split, add_special_tokens=False).ids
    for at in range(len(ids) + 1):  # a text cut within its characters
        yield ids[:at]
        yield ids[at:]
    space = tokenizer.encode(" a", add_special_tokens=False).ids
    yield from (space, space + space, ids + space, [n_ids + 5] + space + [n_ids])
    fallback = tokenizer.token_to_id("<0x00>") is not None
    for hex_ in ("e4bda0", "e4bd", "e4bda0ff", "ffe4bda0", "f09f9880", "f09f98", "80", "c3a9", "c3", "c0af", "eda080", "41c3a942"):
        characters = bytes.fromhex(hex_)
        if fallback:
            run = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in characters]
            yield from (run, run + space, space + run, run + space + run, run + run)
    specials = [id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    for n in range(N_RANDOM_IDS):
        pools = [range(n_ids), bytes_, ids, space, specials or ids]
        weights = rng.choice([(1, 0, 0, 0, 0), (1, 3, 1, 0, 0), (0, 5, 1, 1, 1), (2, 2, 2, 1, 1), (0, 1, 0, 0, 0)])
        yield [rng.choice(rng.choices(pools, weights)[0]) for _ in range(rng.randrange(1, 20))]


def digest(tokenizer, refusals, texts):
    """CRC-32 of the ids of all texts: little-endian int32, -1 behind each text. A text that is refused has none."""
    ids = array("i")
    for text, encoding in zip(texts, tokenizer.encode_batch_fast(texts)):
        if not refusals.refuses(text):
            ids.extend(encoding.ids)
        ids.append(-1)
    return f"{zlib.crc32(ids.tobytes()):08x}"


def rows(tokenizer, refusals, seed):
    for group, text in texts(tokenizer, seed):
        row = {"case": group, "text": text}
        if refusals.refuses(text):
            yield row | {"refused": True}
            continue
        ids = tokenizer.encode(text).ids
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        yield row | {"ids": ids} | ({} if decoded == text else {"decoded": decoded})
    for ids in id_lists(tokenizer, seed):
        yield {"case": "ids", "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)}
    for first, last in blocks(tokenizer.get_vocab_size() < SMALL):
        points = [chr(code) for code in range(first, last + 1)]
        yield {
            "first": first,
            "last": last,
            "alone": digest(tokenizer, refusals, points),
            "letters": digest(tokenizer, refusals, [f"a{c}b" for c in points]),
            "others": digest(tokenizer, refusals, [f"1{c}1!{c}!'{c}s" for c in points]),
        }


def write(tokenizer_path, golden_path, seed):
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    refusals = Refusals(tokenizer_path, tokenizer)
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows(tokenizer, refusals, seed)]
    golden_path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    print(f"{golden_path}: {len(lines)} lines, {golden_path.stat().st_size} bytes", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizers", nargs="?", help="folder with <name>/tokenizer.json")
    parser.add_argument("golden", nargs="?", help="folder to write <name>.jsonl in")
    parser.add_argument("--published", metavar="DIR", help="write the data beside each DIR/<name>/tokenizer.json")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="names of folders, as a shell pattern")
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()
    if bool(arguments.published) == bool(arguments.golden):
        parser.error("give two folders, or --published DIR")
    folder = Path(arguments.published or arguments.tokenizers)
    for path in sorted(folder.glob(f"{arguments.only}/tokenizer.json")):
        if arguments.published:
            write(path, path.parent / "tokenizer_golden.jsonl", arguments.seed)
        else:
            Path(arguments.golden).mkdir(parents=True, exist_ok=True)
            write(path, Path(arguments.golden) / f"{path.parent.name}.jsonl", arguments.seed)


if __name__ == "__main__":
    main()
