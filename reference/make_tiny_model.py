"""Makes tests/models/tiny: a small random GPT-2 with a long context and a byte-level BPE tokenizer.

    python reference/make_tiny_model.py corpus.txt tests/models/tiny

The shipped model ends at 256 positions and has no end-of-sequence token; this one has 2,048 positions,
an eos, and text in which every byte is representable. Nothing in it is trained but the tokenizer's
merges. The standard deviations are chosen so that greedy text varies, depends on tokens far back, and
the best two logits are seldom close.
"""

import argparse
from pathlib import Path

import torch
import torch.nn as nn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from model import GPT, GPTConfig, save_directory, write_json

EOS = "<|endoftext|>"
VOCAB_SIZE = 1000


def make_tokenizer(text_path, directory, context):
    """Byte-level BPE, vocabulary = eos (id 0) + 256 bytes + merges learned on the text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train([str(text_path)], trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE and tokenizer.token_to_id(EOS) == 0
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": context,
            "bos_token": EOS,
            "eos_token": EOS,
        },
    )


@torch.no_grad()
def make_model(config, seed):
    """A GPT with normal weights; biases and norm parameters are random too, so that none goes untested."""
    torch.manual_seed(seed)
    model = GPT(config)
    width = config.n_embd
    for name, parameter in model.named_parameters():
        if name == "wte.weight":
            nn.init.normal_(parameter, std=0.3)
        elif name == "wpe.weight":
            nn.init.normal_(parameter, std=1.0)  # above the token's, or the tied head repeats the last token
        elif name.endswith("c_attn.weight"):
            nn.init.normal_(parameter, std=2.0 / width**0.5)  # q.k / sqrt(D) of about 4: attention picks
            parameter[2 * width :] *= 1.5  # the values; what is read weighs more than the token itself
        elif name.endswith("weight") and parameter.dim() == 2:
            nn.init.normal_(parameter, std=1.5 / parameter.size(1) ** 0.5)
        elif "ln_" in name and name.endswith("weight"):
            nn.init.normal_(parameter, mean=1.0, std=0.1)
        else:
            nn.init.normal_(parameter, std=0.05)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="text whose merges the tokenizer learns (tinyshakespeare)")
    parser.add_argument("directory", help="model directory to write")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    directory = Path(arguments.directory)
    config = GPTConfig(vocab_size=VOCAB_SIZE, n_positions=2048, n_layer=2, n_head=4, n_embd=64)
    # Without the "transformer." prefix: both spellings are found in the wild, and weights/ has the other.
    save_directory(make_model(config, arguments.seed), directory, torch.bfloat16, prefix="", eos_id=0)
    make_tokenizer(arguments.text, directory, config.n_positions)


if __name__ == "__main__":
    main()
