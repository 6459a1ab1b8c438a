"""Prompts a model from the shell, the plain PyTorch way; the text is printed as it is generated.

    python reference/prompt.py weights/shakespeare "ROMEO:" --max-tokens 100 --temperature 0.8
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer

from model import from_directory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="model directory in Hugging Face layout")
    parser.add_argument("prompt")
    parser.add_argument("--max-tokens", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=0, help="0 keeps all tokens (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="default: a new one each time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()

    directory = Path(arguments.directory)
    model = from_directory(directory, device=arguments.device)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    eos_id = json.loads((directory / "config.json").read_text(encoding="utf-8")).get("eos_token_id")
    generator = torch.Generator(arguments.device)
    generator.manual_seed(arguments.seed) if arguments.seed is not None else generator.seed()

    prompt_ids = tokenizer.encode(arguments.prompt, add_special_tokens=False).ids
    if not prompt_ids:
        parser.error("the prompt has no token")
    if len(prompt_ids) >= model.config.n_positions:
        parser.error(f"the prompt has {len(prompt_ids)} tokens; the model's context is {model.config.n_positions}")
    ids, written = list(prompt_ids), 0
    prompt = torch.tensor([prompt_ids], device=arguments.device)
    steps = model.generate(
        prompt, arguments.max_tokens, arguments.temperature, arguments.top_k, generator, eos_id
    )
    for next_ids in steps:
        ids.append(int(next_ids))
        # Decoded as a whole: a character may need several tokens, and shows as U+FFFD until the last has come.
        text = tokenizer.decode(ids)
        if not text.endswith("\ufffd"):
            print(text[written:], end="", flush=True)
            written = len(text)
    print(tokenizer.decode(ids)[written:])


if __name__ == "__main__":
    main()
