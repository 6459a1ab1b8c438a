"""The characters by which byte-level vocabularies write bytes (GPT-2's table), and which bytes a vocabulary lacks."""

import json
from pathlib import Path

# Printable bytes stand for themselves; the others, in ascending order, for the characters from U+0100 on.
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
SYMBOLS = {byte: chr(byte) for byte in PRINTABLE} | {byte: chr(0x100 + n) for n, byte in enumerate(OTHERS)}


class Refusals:
    """Which texts the worker refuses as a record, where the library drops what the vocabulary lacks without a word:
    those with a byte that a byte-level vocabulary has no symbol for, and no unk_token stands in."""

    def __init__(self, path, tokenizer):
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        model, vocab = data["model"], data["model"]["vocab"]
        self.lacking = set()
        if '"ByteLevel"' in json.dumps(data["pre_tokenizer"]) and model.get("unk_token") is None:
            self.lacking = {byte for byte, symbol in SYMBOLS.items() if symbol not in vocab}
        self.normalizer = tokenizer.normalizer

    def refuses(self, text):
        if not self.lacking:
            return False
        normal = self.normalizer.normalize_str(text) if self.normalizer else text
        return not self.lacking.isdisjoint(normal.encode())
