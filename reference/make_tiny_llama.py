"""Makes tests/models/tiny_llama: a small random Llama, written by transformers itself.

    python reference/make_tiny_llama.py tests/models/tiny_llama

Heads are wider than hidden_size / heads, two query heads share a key/value head, the head is not tied,
and the rotary scaling is Llama 3's with pairs on both sides of it and between. It has no tokenizer:
prompts are token ids. The standard deviations are chosen so that greedy text varies, depends on tokens
far back, and the best two logits are seldom close.
"""

import argparse
from pathlib import Path

import torch
import torch.nn as nn
from transformers import LlamaConfig, LlamaForCausalLM

STDS = {  # of matrices, times 1 / sqrt(width of the input)
    "q_proj": 2.0,  # q.k / sqrt(D) of about 4: attention picks
    "k_proj": 2.0,
    "v_proj": 2.0,  # what is read weighs more than the token itself
    "o_proj": 1.5,
    "gate_proj": 1.5,
    "up_proj": 1.5,
    "down_proj": 1.5,
    "lm_head": 2.5,
}


def make_config():
    return LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
        bos_token_id=None,
        eos_token_id=0,
        dtype=torch.bfloat16,
    )


@torch.no_grad()
def make_model(config, seed):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        kind = name.split(".")[-2]
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=1.0, std=0.1)
        elif kind == "embed_tokens":
            nn.init.normal_(parameter, std=0.5)
        else:
            nn.init.normal_(parameter, std=STDS[kind] / parameter.size(1) ** 0.5)
    return model.to(torch.bfloat16)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="model directory to write")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    make_model(make_config(), arguments.seed).save_pretrained(arguments.directory)
    for path in Path(arguments.directory).iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    main()
