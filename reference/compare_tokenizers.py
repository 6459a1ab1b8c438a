"""Runs the worker's tokenizer beside the `tokenizers` library on random text, and shows the first difference shrunk.

    scons tests
    python reference/compare_tokenizers.py build/tests/tokenizer_ids tests/tokenizers/*/ --count 100000
    python reference/compare_tokenizers.py build/tests/tokenizer_ids DIR/llama3.1 --decode --count 100000 --seed 7
    python reference/compare_tokenizers.py build/tests/tokenizer_ids tests/tokenizers/qwen2 --code-points 0-1ff

--decode compares the text of random lists of ids instead, --code-points the ids of every code point, alone and in the
surroundings that the golden digests have. Texts on which the library itself fails are counted and left out; a text is to
be refused exactly where a byte of it is lacking in the vocabulary. Exit 0
when nothing differs, 1 otherwise.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RUST_BACKTRACE", "0")

from tokenizers import Tokenizer  # noqa: E402

from byte_symbols import Refusals  # noqa: E402
from random_text import RandomText  # noqa: E402

CHUNK = 50_000  # inputs for one run of the program
REFUSED = 0xFFFFFFFF


def frame(elements):
    """What tests/tokenizer_ids.c reads and writes: a count, then bytes or int32."""
    return array("I", [len(elements)]).tobytes() + (elements if isinstance(elements, bytes) else elements.tobytes())


def read_frames(data, width):
    """Splits the program's output; a refusal becomes the message, a str."""
    frames, at = [], 0
    while at < len(data):
        n = int.from_bytes(data[at : at + 4], sys.byteorder)
        at += 4
        if n == REFUSED:
            n = int.from_bytes(data[at : at + 4], sys.byteorder)
            frames.append("refused: " + data[at + 4 : at + 4 + n].decode())
            at += 4 + n
        else:
            frames.append(data[at : at + n * width])
            at += n * width
    return frames


class Encoding:
    """Texts to ids on both sides. An input is a str, an output the bytes of int32."""

    mode, width = "encode", 4

    def __init__(self, folder, seed):
        path = Path(folder) / "tokenizer.json"
        self.tokenizer = Tokenizer.from_file(str(path))
        self.refusals = Refusals(path, self.tokenizer)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        added = [token.content for token in self.tokenizer.get_added_tokens_decoder().values()]
        self.random_text = RandomText(seed, added)

    def inputs(self, n):
        return self.random_text.texts(n)

    def pack(self, text):
        return text.encode()

    def reference(self, texts):
        """The library's ids of each text; None where it fails."""
        try:
            return [array("i", encoding.ids).tobytes() for encoding in self.tokenizer.encode_batch_fast(texts)]
        except BaseException as error:  # a panic of the library is no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            if len(texts) == 1:
                return [None]
            half = len(texts) // 2
            return self.reference(texts[:half]) + self.reference(texts[half:])

    def agrees(self, text, expected, actual):
        if isinstance(actual, str):
            return self.refusals.refuses(text)
        return expected == actual and not self.refusals.refuses(text)

    def simpler(self, text):
        """Shorter and plainer texts, the boldest first."""
        size = len(text) // 2
        while size:
            yield from (text[:at] + text[at + size :] for at in range(0, len(text), size))
            size //= 2
        for at, c in enumerate(text):
            yield from (text[:at] + plain + text[at + 1 :] for plain in "a 1" if c not in "a 1")

    def show(self, text, output):
        if output is None or isinstance(output, str):
            return str(output)
        ids = list(array("i", output))
        return f"{ids} {[self.tokenizer.id_to_token(id) for id in ids]}"


class Decoding(Encoding):
    """Lists of ids to text. An input is a tuple of ids, an output UTF-8."""

    mode, width = "decode", 1

    def __init__(self, folder, seed):
        super().__init__(folder, seed)
        self.rng = random.Random(seed)
        self.n_ids = max(self.tokenizer.get_vocab().values()) + 1
        fallback = [self.tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        self.bytes = [id for id in fallback if id is not None] or list(range(min(300, self.n_ids)))

    def inputs(self, n):
        """Ids of texts with some left out or put elsewhere, single bytes, and any ids."""
        rng, lists = self.rng, []
        for encoding in self.tokenizer.encode_batch_fast(self.random_text.texts(n)):
            ids = list(encoding.ids[:40])
            kind = rng.random()
            if kind < 0.3:
                ids = [id for id in ids if rng.random() < 0.8]
            elif kind < 0.6:
                rng.shuffle(ids)
            elif kind < 0.8:
                ids = [rng.choice(self.bytes) if rng.random() < 0.7 else id for id in ids]
            elif kind < 0.9:
                ids = [rng.randrange(self.n_ids) for _ in ids]
            lists.append(tuple(ids))
        return lists

    def pack(self, ids):
        return array("i", ids)

    def reference(self, lists):
        return [text.encode() for text in self.tokenizer.decode_batch([list(ids) for ids in lists])]

    def agrees(self, ids, expected, actual):
        return expected == actual

    def simpler(self, ids):
        size = len(ids) // 2
        while size:
            yield from (ids[:at] + ids[at + size :] for at in range(0, len(ids), size))
            size //= 2

    def show(self, ids, output):
        return repr(output if isinstance(output, str) else output.decode("utf-8", "backslashreplace"))


class CodePoints(Encoding):
    """Every code point of some ranges, in the surroundings of the golden digests."""

    def __init__(self, folder, ranges):
        super().__init__(folder, 0)
        forms = ("{0}", "a{0}b", "1{0}1!{0}!'{0}s")
        points = [chr(c) for first, last in ranges for c in range(first, last + 1) if not 0xD800 <= c <= 0xDFFF]
        self.waiting = [form.format(point) for point in points for form in forms]

    def inputs(self, n):
        taken, self.waiting = self.waiting[:n], self.waiting[n:]
        return taken


def compare(program, folder, pairing, inputs):
    """-> [(input, expected, actual)] of those that differ, and how many the library failed on."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as taken:
        for value in inputs:
            given.write(frame(pairing.pack(value)))
        given.seek(0)
        process = subprocess.Popen([program, pairing.mode, str(folder)], stdin=given, stdout=taken)
        expected = pairing.reference(inputs)  # meanwhile
        if process.wait() != 0:
            sys.exit(f"{program} {pairing.mode} {folder}: exit status {process.returncode}")
        taken.seek(0)
        actual = read_frames(taken.read(), pairing.width)
    if len(actual) != len(inputs):
        sys.exit(f"{program} {pairing.mode} {folder}: {len(actual)} answers to {len(inputs)} inputs")
    rows = [row for row in zip(inputs, expected, actual) if row[1] is not None and not pairing.agrees(*row)]
    return rows, expected.count(None)


def shrink(program, folder, pairing, row):
    """The simplest input found that still differs."""
    for _ in range(60):
        candidates = list(dict.fromkeys(pairing.simpler(row[0])))[:3000]
        rows, _ = compare(program, folder, pairing, candidates) if candidates else ([], 0)
        if not rows:
            return row
        row = rows[0]
    return row


def run(program, folder, pairing, count, n_shown):
    """Compares up to count inputs; prints what differs and a line of totals. -> how many differ"""
    began, n_done, n_different, n_failed, shown = time.monotonic(), 0, 0, 0, set()
    while n_done < count and (inputs := pairing.inputs(min(CHUNK, count - n_done))):
        rows, failed = compare(program, folder, pairing, inputs)
        n_done, n_different, n_failed = n_done + len(inputs), n_different + len(rows), n_failed + failed
        for row in rows:
            if len(shown) == n_shown:
                break
            value, expected, actual = shrink(program, folder, pairing, row)
            if value in shown:
                continue
            shown.add(value)
            print(f"{folder}: {value!r}")
            if isinstance(value, str):
                print(f"    code points {' '.join(f'{ord(c):04X}' for c in value)}")
            print(f"    expected {pairing.show(value, expected)}\n    actual   {pairing.show(value, actual)}", flush=True)
    failed = f" (the library failed on {n_failed:,})" if n_failed else ""
    seconds = time.monotonic() - began
    print(f"{folder}: {pairing.mode}, {n_done:,} inputs{failed}, {n_different:,} differ, {seconds:.0f} s", flush=True)
    return n_different


def parse_range(text):
    first, _, last = text.partition("-")
    return int(first, 16), int(last or first, 16)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="build/tests/tokenizer_ids")
    parser.add_argument("folders", nargs="+", help="folders that hold a tokenizer.json")
    parser.add_argument("--count", type=int, default=100_000, help="inputs for each folder (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--decode", action="store_true", help="compare decoding instead of encoding")
    parser.add_argument("--code-points", type=parse_range, nargs="+", metavar="FIRST-LAST", help="in hexadecimal")
    parser.add_argument("--show", type=int, default=1, help="differences to shrink and show for each folder")
    arguments = parser.parse_args()
    n_different = 0
    for folder in arguments.folders:
        if arguments.code_points:
            pairing, count = CodePoints(folder, arguments.code_points), sys.maxsize
        else:
            pairing = (Decoding if arguments.decode else Encoding)(folder, arguments.seed)
            count = arguments.count
        n_different += run(arguments.program, folder, pairing, count, arguments.show)
    sys.exit(1 if n_different else 0)


if __name__ == "__main__":
    main()
