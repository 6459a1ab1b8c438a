"""Validation loss of a model directory: python reference/evaluate.py weights/shakespeare corpus.txt

The text's last 10 % is cut into windows of one context length that do not overlap; each token of a
window but the text's first is predicted once, from the tokens before it in the window. The weights are
used as they are stored (the committed ones: bfloat16), the arithmetic is float32.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

from model import from_directory

TRAIN_FRACTION = 0.9


def split_text(text):
    """text -> (training part, validation part): the first 90 % of the characters and the rest."""
    n_train = int(TRAIN_FRACTION * len(text))
    return text[:n_train], text[n_train:]


@torch.no_grad()
def window_loss(model, ids, batch_size=64):
    """Mean cross-entropy in nats of ids [N] over its complete windows of n_positions, which do not overlap."""
    was_training = model.training
    model.eval()
    length = model.config.n_positions
    n_windows = (ids.numel() - 1) // length
    if n_windows == 0:
        raise ValueError(f"the text has {ids.numel()} tokens, fewer than one window of {length} and its successor")
    inputs = ids[: n_windows * length].view(n_windows, length)
    targets = ids[1 : n_windows * length + 1].view(n_windows, length)
    total = 0.0
    for x, y in zip(inputs.split(batch_size), targets.split(batch_size)):
        total += F.cross_entropy(model(x).flatten(0, 1).float(), y.flatten(), reduction="sum").item()
    model.train(was_training)
    return total / (n_windows * length)


def evaluate_directory(directory, text_path, device="cpu"):
    """Returns (loss, number of validation tokens)."""
    text = Path(text_path).read_text(encoding="utf-8")
    _, validation = split_text(text)
    tokenizer = Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))
    ids = tokenizer.encode(validation, add_special_tokens=False).ids
    if tokenizer.decode(ids, skip_special_tokens=False) != validation:
        sys.exit(f"{text_path}: has characters that {directory} does not know; give the model's own text")
    return window_loss(from_directory(directory, device=device), torch.tensor(ids, device=device)), len(ids)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="model directory in Hugging Face layout")
    parser.add_argument("text", help="the whole text file that the model was trained on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    loss, n_tokens = evaluate_directory(arguments.directory, arguments.text, arguments.device)
    print(f"validation loss {loss:.4f} nats per token ({math.exp(loss):.3f} perplexity, {n_tokens} tokens)")


if __name__ == "__main__":
    main()
