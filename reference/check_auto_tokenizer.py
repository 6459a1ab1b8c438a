"""Holds the golden data of the tokenizers against transformers' AutoTokenizer, which is what most people run.

    python reference/check_auto_tokenizer.py tests/tokenizers tests/golden/tokenizers

For each <name> there: ids of the texts and texts of the ids, as AutoTokenizer.from_pretrained(<name>) has them. Exit 0
when all agree. Some classes of transformers build their own components instead of reading those of tokenizer.json; the
small tokenizers name the class that reads them.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from transformers import AutoTokenizer  # noqa: E402


def differences(tokenizer, golden_path):
    """-> (lines compared, [(what, expected, actual)])"""
    n, found = 0, []
    with open(golden_path, encoding="utf-8", newline="\n") as lines:
        for line in lines:
            row = json.loads(line)
            if "ids" not in row:
                continue
            n += 1
            if "text" in row:
                ids = tokenizer(row["text"])["input_ids"]
                if ids != row["ids"]:
                    found.append((row["text"], row["ids"], ids))
            text = tokenizer.decode(row["ids"], skip_special_tokens=True)
            expected = row.get("decoded", row.get("text"))
            if text != expected:
                found.append((row["ids"], expected, text))
    return n, found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizers", help="folder with <name>/tokenizer.json and tokenizer_config.json")
    parser.add_argument("golden", help="folder with <name>.jsonl")
    arguments = parser.parse_args()
    n_different = 0
    for golden_path in sorted(Path(arguments.golden).glob("*.jsonl")):
        tokenizer = AutoTokenizer.from_pretrained(str(Path(arguments.tokenizers) / golden_path.stem))
        n, found = differences(tokenizer, golden_path)
        n_different += len(found)
        print(f"{golden_path.stem}: {type(tokenizer).__name__}, {n} lines, {len(found)} differ", flush=True)
        for what, expected, actual in found[:3]:
            print(f"    {what!r}\n    expected {expected!r}\n    actual   {actual!r}")
    sys.exit(1 if n_different else 0)


if __name__ == "__main__":
    main()
