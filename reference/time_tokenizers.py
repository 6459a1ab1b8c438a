"""Times the worker's tokenizer beside the `tokenizers` library, each on one core.

    scons tests
    python reference/time_tokenizers.py build/tests/tokenizer_ids DIR/gpt2 DIR/llama3.1
    python reference/time_tokenizers.py build/tests/tokenizer_ids DIR/gpt2 --text corpus.txt

Prints a row for each folder and kind of text: MB of UTF-8 per second of processor time on both sides and the ratio.
Both encode the same documents in the same order, alternately, best of some passes; the library without offsets and
without threads, which is its fastest way on one core. English is put together from the sentences of sample_text.py word by word, so that few lines repeat;
--text FILE adds a row for a text of yours, cut into documents of about the same length.
"""

import argparse
import os
import random
import subprocess
import time
from array import array
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import Tokenizer  # noqa: E402

import sample_text  # noqa: E402
from compare_tokenizers import frame  # noqa: E402


def documents(lines, n_bytes, document_bytes, seed):
    """Documents of whole sentences whose words come from all lines, until n_bytes are there."""
    rng = random.Random(seed)
    parts, total = [], 0
    while total < n_bytes:
        document, size = [], 0
        while size < document_bytes:
            words = rng.choice(lines).split(" ")
            other = rng.choice(lines).split(" ")
            line = " ".join(words[: rng.randrange(len(words) + 1)] + other[rng.randrange(len(other)) :])
            line += rng.choice(["\n", " ", " "])
            document.append(line)
            size += len(line.encode())
        parts.append("".join(document))
        total += size
    return parts


def kinds_of_text(n_bytes, document_bytes):
    english = sample_text.ENGLISH.strip().split("\n")
    others = sample_text.OTHERS.strip().split("\n")
    code = [line for line in sample_text.CODE.split("\n") if line.strip()]

    def script(first, last):
        chosen = [line for line in others if sum(first <= ord(c) <= last for c in line) > len(line) / 3]
        assert chosen, f"no line of the script that U+{first:04X} begins"
        return chosen

    latin = [line for line in others if sum(ord(c) < 0x250 for c in line) > 0.9 * len(line)]
    texts = {"English": english, "Latin": latin, "code": code, "Cyrillic": script(0x400, 0x4FF)}
    texts |= {"Greek": script(0x370, 0x3FF), "Arabic": script(0x600, 0x6FF), "Hebrew": script(0x590, 0x5FF)}
    texts |= {"Devanagari": script(0x900, 0x97F), "Tamil": script(0xB80, 0xBFF), "Thai": script(0xE00, 0xE7F)}
    texts |= {"Chinese": script(0x4E00, 0x9FFF), "Japanese": script(0x3040, 0x30FF), "Korean": script(0xAC00, 0xD7A3)}
    texts |= {"emoji": script(0x1F1E6, 0x1FAFF), "all scripts": english + others + code}
    return {name: documents(lines, n_bytes, document_bytes, 1) for name, lines in texts.items()}


def time_program(program, folder, texts, n_times):
    frames = b"".join(frame(text.encode()) for text in texts)
    output = subprocess.run([program, "time", str(n_times), folder], input=frames, capture_output=True, check=True)
    rows = [line.split() for line in output.stdout.decode().splitlines()]
    return min(float(seconds) for seconds, _ in rows), int(rows[0][1])


def time_library(tokenizer, texts, n_times):
    seconds = []
    for _ in range(n_times):
        began = time.process_time()
        encodings = tokenizer.encode_batch_fast(texts)
        seconds.append(time.process_time() - began)
    return min(seconds), sum(len(array("i", encoding.ids)) for encoding in encodings)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="build/tests/tokenizer_ids")
    parser.add_argument("folders", nargs="+", help="folders that hold a tokenizer.json")
    parser.add_argument("--text", help="a file of text to time too")
    parser.add_argument("--megabytes", type=float, default=4.0, help="of each kind of text (default %(default)s)")
    parser.add_argument("--document-bytes", type=int, default=2000, help="length of a document (default %(default)s)")
    parser.add_argument("--times", type=int, default=3, help="passes, of which the best counts")
    arguments = parser.parse_args()
    kinds = kinds_of_text(int(arguments.megabytes * 1e6), arguments.document_bytes)
    if arguments.text:
        text, n = Path(arguments.text).read_text(encoding="utf-8", errors="replace"), arguments.document_bytes
        kinds[Path(arguments.text).name] = [text[at : at + n] for at in range(0, len(text), n)]
    print(f"{'tokenizer':<18} {'text':<16} {'MB':>6} {'ids':>9} {'worker MB/s':>12} {'library MB/s':>13} {'ratio':>6}")
    for folder in arguments.folders:
        tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        for name, texts in kinds.items():
            megabytes = sum(len(text.encode()) for text in texts) / 1e6
            ours, theirs = [], []
            for _ in range(2):  # alternately, so that a busy moment hits both
                ours.append(time_program(arguments.program, folder, texts, arguments.times))
                theirs.append(time_library(tokenizer, texts, arguments.times))
            (our_seconds, n_ids), (their_seconds, n_their_ids) = min(ours), min(theirs)
            assert n_ids == n_their_ids, f"{folder}, {name}: {n_ids} ids, the library has {n_their_ids}"
            row = f"{Path(folder).name:<18} {name:<16} {megabytes:6.1f} {n_ids:9} {megabytes / our_seconds:12.1f}"
            print(f"{row} {megabytes / their_seconds:13.1f} {their_seconds / our_seconds:6.2f}", flush=True)


if __name__ == "__main__":
    main()
