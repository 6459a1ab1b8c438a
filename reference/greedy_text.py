"""Golden greedy texts of the PyTorch twin as JSON lines: greedy_text.py MODEL GOLDEN.safetensors [MAX_CASES]

Each line: {"prompt_token_ids": [...], "prompt": text, "token_ids": [...], "text": text}. Texts are those of a
character tokenizer (each token is its text); a model without a tokenizer has none. Standard library only.
"""

import json
import struct
import sys
from pathlib import Path


def read_int32_tensors(path):
    """{name: list} of the int32 tensors of a safetensors file."""
    data = Path(path).read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + header_bytes])
    tensors = {}
    for name, entry in header.items():
        if entry.get("dtype") == "I32":
            begin, end = entry["data_offsets"]
            tensors[name] = list(struct.unpack_from(f"<{(end - begin) // 4}i", data, 8 + header_bytes + begin))
    return tensors


def main(model, golden, max_cases=1000):
    tokenizer, characters = Path(model) / "tokenizer.json", None
    if tokenizer.exists():
        vocab = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
        characters = {token_id: token for token, token_id in vocab.items()}
    tensors = read_int32_tensors(golden)
    for i in range(int(max_cases)):
        if f"case{i}.prompt" not in tensors:
            break
        prompt, greedy = tensors[f"case{i}.prompt"], tensors[f"case{i}.greedy"]
        case = {"prompt_token_ids": prompt, "token_ids": greedy}
        if characters:
            case["prompt"] = "".join(characters[j] for j in prompt)
            case["text"] = "".join(characters[j] for j in greedy)
        print(json.dumps(case, ensure_ascii=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
