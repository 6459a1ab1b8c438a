"""Makes the small random models of tests/models that transformers writes itself: one of every family.

    python reference/make_tiny_models.py tests/models            # all of them
    python reference/make_tiny_models.py tests/models tiny_qwen3 # some

None has a tokenizer: prompts are token ids. Together they have heads of 32, 64, 128 and 256, groups of 1, 2,
4 and 8 query heads, every rotary scaling that is supported, windows below and beyond a page and in all, some
or no layers, heads that are tied and that are not, F16, BF16 and F32 weights. The standard deviations are
chosen so that greedy text varies, depends on tokens far back, and the best two logits are seldom close.
"""

import argparse
from pathlib import Path

import torch
import torch.nn as nn
from transformers import AutoModelForCausalLM
from transformers import Gemma2Config, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

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
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 1024}
SMALL = SIZES | {"vocab_size": 256, "bos_token_id": None, "eos_token_id": 0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 256}


def heads(n, n_kv, head_dim):
    return {"num_attention_heads": n, "num_key_value_heads": n_kv, "head_dim": head_dim}


MODELS = {  # name: (config, dtype of the file, standard deviations that differ)
    "tiny_llama": (
        LlamaConfig(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=176,
            num_hidden_layers=2,
            **heads(4, 2, 32),
            max_position_embeddings=1024,
            rms_norm_eps=1e-5,
            rope_parameters=LLAMA3,
            bos_token_id=None,
            eos_token_id=0,
        ),
        torch.bfloat16,
    ),
    # Heads of 64 in groups of 8, biases, positions scaled by a factor, weights in half precision.
    "tiny_llama_linear": (
        LlamaConfig(
            **SMALL,
            **heads(8, 1, 64),
            attention_bias=True,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
        ),
        torch.float16,
    ),
    # A window in every layer that ends within a page; heads of 128 in groups of 4.
    "tiny_mistral": (
        MistralConfig(
            **SMALL,
            **heads(4, 1, 128),
            sliding_window=75,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        torch.bfloat16,
    ),
    # A window beyond a chunk of 256 in the upper layer alone; heads of 64, each with a key/value head of its own.
    "tiny_qwen2": (
        Qwen2Config(
            **SMALL,
            num_attention_heads=1,
            num_key_value_heads=1,
            use_sliding_window=True,
            sliding_window=300,
            max_window_layers=1,
            rope_parameters=YARN,
        ),
        torch.float32,
        {"q_proj": 1.4, "k_proj": 1.4},  # yarn makes the scores larger
    ),
    # Heads of 128 in groups of 8.
    "tiny_qwen3": (
        Qwen3Config(
            **SMALL,
            **heads(8, 1, 128),
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
        torch.bfloat16,
    ),
    # Heads of 256 in groups of 2, as Gemma 2 2B has them; a window within a page.
    "tiny_gemma2": (
        Gemma2Config(
            **SMALL,
            **heads(2, 1, 256),
            query_pre_attn_scalar=200,
            sliding_window=20,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=8.0,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        torch.bfloat16,
    ),
    # Heads of 256 in groups of 4, as Gemma 3 1B has them; two layers in three have the window.
    "tiny_gemma3": (
        Gemma3TextConfig(
            **(SMALL | {"num_hidden_layers": 3}),
            **heads(4, 1, 256),
            sliding_window=64,
            sliding_window_pattern=3,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "rope_theta": 100000.0, "factor": 4.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        ),
        torch.bfloat16,
    ),
    # Heads of 64 in groups of 4, Gemma 3's layers at another width, in float32.
    "tiny_gemma3_64": (
        Gemma3TextConfig(
            **(SMALL | {"num_hidden_layers": 3}),
            **heads(4, 1, 64),
            query_pre_attn_scalar=64,
            sliding_window=33,
            sliding_window_pattern=2,
        ),
        torch.float32,
    ),
}


def is_gemma(config):
    return config.model_type.startswith("gemma")


@torch.no_grad()
def make_model(seed, config, dtype, stds={}):
    torch.manual_seed(seed)
    stds = STDS | stds
    config.dtype = dtype
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        kind = name.split(".")[-2]
        if name.endswith(".bias"):
            nn.init.normal_(parameter, std=0.25)
        elif parameter.dim() == 1 and is_gemma(config):  # stored as w of 1 + w
            post = kind == "post_feedforward_layernorm" or kind == "post_attention_layernorm"
            # What a layer adds outweighs the token's own embedding, which else would predict itself.
            nn.init.normal_(parameter, mean=4.0 if post else 0.0, std=0.1)
        elif parameter.dim() == 1:
            nn.init.normal_(parameter, mean=1.0, std=0.1)
        elif kind == "embed_tokens":
            # Gemma's is multiplied by sqrt(hidden_size); a tied one is the head too.
            nn.init.normal_(parameter, std=0.25 if config.tie_word_embeddings else 0.5)
        else:
            nn.init.normal_(parameter, std=stds[kind] / parameter.size(1) ** 0.5)
    return model.to(dtype)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="where the model directories are written")
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for name in arguments.names or MODELS:
        directory = Path(arguments.directory) / name
        make_model(arguments.seed, *MODELS[name]).save_pretrained(directory)
        for path in directory.iterdir():
            path.chmod(0o644)


if __name__ == "__main__":
    main()
