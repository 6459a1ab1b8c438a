"""Makes tests/models/tiny_*: small random models of every family, written by transformers itself.

    python reference/tiny_models.py tests/models [NAME...]

TABLE says what each one is. tiny_<family> has all that sets its family apart, with a sliding window shorter
than the test prompts; tiny_<family>_<head_dim>x<group> has the head dim and the query heads per key/value
head of published models. They have no tokenizer: prompts are token ids. Standard deviations are chosen so
that greedy text varies, depends on tokens far back, that the best two logits are seldom close, and that
windows and soft caps bite: golden_models.py holds each feature of `without` against the logits.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn as nn
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

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
# Means of norm weights, where not 1. Scores of normed queries and keys are of the size of the product.
QWEN3_NORMS = {"q_norm": 2.0, "k_norm": 2.0}
# Gemma scales its embeddings, which are the head too; what a layer adds is normed once more.
GEMMA_NORMS = {"post_attention_layernorm": 3.0, "post_feedforward_layernorm": 2.0, "norm": 6.0} | QWEN3_NORMS
SHAPE = {"vocab_size": 256, "max_position_embeddings": 512, "num_hidden_layers": 2, "eos_token_id": 0}


@dataclass
class Tiny:
    config: PretrainedConfig
    stds: dict = field(default_factory=dict)  # beside STDS
    norms: dict = field(default_factory=dict)
    embedding_std: float = 0.5
    bias_std: float = 0.5
    dtype: torch.dtype = torch.bfloat16
    seed: int = 1
    # Keys of config.json that are written in place of those of transformers 5, for what older versions write.
    replaced: dict = field(default_factory=dict)
    left_out: tuple = ()
    shard_bytes: int | None = None  # several files and an index, beside one that the index does not name
    lengths: tuple = (1, 7, 45, 257, 400)  # of the golden prompts
    # label -> overrides of the config, or a function that takes the feature out of the model
    without: dict = field(default_factory=dict)


def no_bias(model):
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()


def no_head_norms(model):
    for layer in model.model.layers:
        layer.self_attn.q_norm = layer.self_attn.k_norm = nn.Identity()


def no_embedding_scale(model):
    model.model.embed_tokens.embed_scale.fill_(1.0)


def no_post_norms(model):
    for layer in model.model.layers:
        layer.post_attention_layernorm = layer.post_feedforward_layernorm = nn.Identity()


def rope(kind="default", theta=10000.0, **others):
    return {"rope_type": kind, "rope_theta": theta} | others


def llama(heads=4, kv_heads=2, head_dim=32, **others):
    shape = {"hidden_size": 64, "intermediate_size": 112, "rms_norm_eps": 1e-5, "bos_token_id": None}
    heads = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim}
    return SHAPE | shape | heads | others


def gemma(**others):
    return llama(tie_word_embeddings=True, rms_norm_eps=1e-6, pad_token_id=None, **others)


def gemma_scale(config):
    """The standard deviation of embeddings that are of size 0.7 once scaled."""
    return 0.7 * config.hidden_size**-0.5


LLAMA3_ROPE = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128}
YARN_ROPE = {"factor": 4.0, "original_max_position_embeddings": 128}
PLAIN_ROPE = {"rope_parameters": rope()}
GEMMA3_ROPE = {"sliding_attention": rope(theta=10000.0), "full_attention": rope("linear", 1000000.0, factor=8.0)}
SLIDING, FULL = "sliding_attention", "full_attention"
FAR = {"sliding_window": 1 << 20}


def make_table():
    table = {}
    table["tiny_llama"] = Tiny(
        LlamaConfig(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=176,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=1024,
            rms_norm_eps=1e-5,
            rope_parameters=rope("llama3", **LLAMA3_ROPE),
            bos_token_id=None,
            eos_token_id=0,
        ),
        lengths=(1, 7, 60, 257, 300, 700, 960),
        without={"llama3 rope": PLAIN_ROPE},
    )
    table["tiny_llama_linear"] = Tiny(
        LlamaConfig(**llama(rope_parameters=rope("linear", factor=4.0), attention_bias=True)),
        dtype=torch.float16,
        replaced={"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}, "torch_dtype": "float16"},
        left_out=("rope_parameters", "dtype"),
        without={"linear rope": PLAIN_ROPE, "biases": no_bias},
    )
    table["tiny_llama_yarn"] = Tiny(
        LlamaConfig(
            **llama(
                # hidden_size / heads is the head dim where a configuration does not name one.
                *(2, 2, 64),
                hidden_size=128,
                intermediate_size=64,
                rope_parameters=rope("yarn", **YARN_ROPE),
                tie_word_embeddings=True,
            )
        ),
        embedding_std=0.3,
        replaced={"rope_theta": 10000.0, "rope_scaling": {"rope_type": "yarn"} | YARN_ROPE},
        left_out=("rope_parameters", "head_dim"),
        without={"yarn rope": PLAIN_ROPE},
    )
    table["tiny_mistral"] = Tiny(
        MistralConfig(**llama(sliding_window=40, rope_parameters=rope())),
        shard_bytes=60_000,
        without={"window": FAR, "window of 40 in place of 41": {"sliding_window": 41}},
    )
    table["tiny_qwen2"] = Tiny(
        Qwen2Config(**llama(rope_parameters=rope(theta=1000000.0), tie_word_embeddings=True)),
        embedding_std=0.3,
        replaced={"rope_theta": 1000000.0, "sliding_window": 40, "max_window_layers": 1},
        left_out=("rope_parameters", "layer_types"),
        without={"biases": no_bias, "rope base": PLAIN_ROPE},
    )
    table["tiny_qwen2_window"] = Tiny(
        Qwen2Config(
            **llama(4, 4, 16, intermediate_size=48, num_hidden_layers=3, rope_parameters=rope(theta=1000000.0)),
            use_sliding_window=True,
            sliding_window=40,
            max_window_layers=1,
        ),
        # Rounding these weights to bfloat16 moves scores too: smaller ones, so that it does not choose the key.
        stds={"q_proj": 1.4, "k_proj": 1.4},
        dtype=torch.float32,
        left_out=("layer_types",),
        without={
            "window": FAR,
            "layers without a window": {"max_window_layers": 0, "layer_types": None},
        },
    )
    table["tiny_qwen3"] = Tiny(
        Qwen3Config(**llama(rope_parameters=rope(theta=1000000.0))),
        norms=QWEN3_NORMS,
        without={"norms of queries and keys": no_head_norms, "rope base": PLAIN_ROPE},
    )
    gemma2 = Gemma2Config(
        **gemma(hidden_size=72, num_hidden_layers=3, rope_parameters=rope()),
        sliding_window=40,
        query_pre_attn_scalar=24,
        attn_logit_softcapping=6.0,
        final_logit_softcapping=10.0,
    )
    table["tiny_gemma2"] = Tiny(
        gemma2,
        norms=GEMMA_NORMS,
        embedding_std=gemma_scale(gemma2),
        replaced={"rope_theta": 10000.0},
        left_out=("rope_parameters", "layer_types"),
        without={
            "window": FAR,
            "layers without a window": {"layer_types": [SLIDING] * 3},
            "soft cap of scores": {"attn_logit_softcapping": None},
            "soft cap of logits": {"final_logit_softcapping": None},
            "query_pre_attn_scalar": {"query_pre_attn_scalar": 32},
            "embedding scale": no_embedding_scale,
            "norms behind attention and MLP": no_post_norms,
        },
    )
    gemma3 = Gemma3TextConfig(
        **gemma(hidden_size=72, num_hidden_layers=4, rope_parameters=GEMMA3_ROPE),
        layer_types=[SLIDING, SLIDING, FULL, SLIDING],
        sliding_window=40,
        query_pre_attn_scalar=24,
    )
    table["tiny_gemma3"] = Tiny(
        gemma3,
        norms=GEMMA_NORMS | {"q_norm": 1.6, "k_norm": 1.6},
        embedding_std=gemma_scale(gemma3),
        without={
            "window": FAR,
            "layers without a window": {"layer_types": [SLIDING] * 4},
            "rope base of windows": {"rope_parameters": GEMMA3_ROPE | {SLIDING: GEMMA3_ROPE[FULL]}},
            "rope base of full attention": {"rope_parameters": GEMMA3_ROPE | {FULL: GEMMA3_ROPE[SLIDING]}},
            "linear rope": {"rope_parameters": GEMMA3_ROPE | {FULL: rope(theta=1000000.0)}},
            "query_pre_attn_scalar": {"query_pre_attn_scalar": 32},
            "norms of queries and keys": no_head_norms,
            "embedding scale": no_embedding_scale,
            "norms behind attention and MLP": no_post_norms,
        },
    )

    # Head dims and groups of published models: Llama 3.2 1B, Mistral 7B, Qwen2.5 0.5B, Qwen3 32B, Gemma 2 2B and
    # Gemma 3 1B; and a group of one.
    narrow = {"hidden_size": 32, "intermediate_size": 48}
    table["tiny_llama_64x4"] = Tiny(LlamaConfig(**llama(8, 2, 64, **narrow, rope_parameters=rope(theta=500000.0))))
    table["tiny_mistral_128x4"] = Tiny(
        MistralConfig(**llama(4, 1, 128, **narrow, sliding_window=300, rope_parameters=rope())),
        without={"window": FAR},
    )
    table["tiny_qwen2_64x7"] = Tiny(Qwen2Config(**llama(7, 1, 64, **narrow, rope_parameters=rope(theta=1000000.0))))
    table["tiny_qwen3_128x8"] = Tiny(
        Qwen3Config(**llama(8, 1, 128, **narrow, rope_parameters=rope(theta=1000000.0))), norms=QWEN3_NORMS
    )
    gemma2 = Gemma2Config(
        **gemma(heads=2, kv_heads=2, head_dim=256, **narrow, rope_parameters=rope()), sliding_window=128
    )
    table["tiny_gemma2_256x1"] = Tiny(
        gemma2,
        norms=GEMMA_NORMS,
        embedding_std=gemma_scale(gemma2),
        without={"window": FAR},
    )
    gemma3 = Gemma3TextConfig(
        **gemma(heads=4, kv_heads=1, head_dim=256, **narrow), layer_types=[SLIDING, FULL], sliding_window=300
    )
    table["tiny_gemma3_256x4"] = Tiny(
        gemma3,
        norms=GEMMA_NORMS,
        embedding_std=gemma_scale(gemma3),
        # As Gemma 3's first configurations have it.
        replaced={"rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "sliding_window_pattern": 2},
        left_out=("rope_parameters", "layer_types"),
        without={"window": FAR},
    )
    return table


TABLE = make_table()


@torch.no_grad()
def make_model(tiny):
    torch.manual_seed(tiny.seed)
    tiny.config.dtype = tiny.dtype
    model = AutoModelForCausalLM.from_config(tiny.config, dtype=torch.float32)
    # Gemma multiplies by 1 + weight.
    stored_mean = 1.0 if tiny.config.model_type.startswith("gemma") else 0.0
    for name, parameter in model.named_parameters():
        kind = name.split(".")[-2]
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=tiny.bias_std)
        elif parameter.dim() == 1:
            nn.init.normal_(parameter, mean=tiny.norms.get(kind, 1.0) - stored_mean, std=0.1)
        elif kind == "embed_tokens":
            nn.init.normal_(parameter, std=tiny.embedding_std)
        else:
            nn.init.normal_(parameter, std=(STDS | tiny.stds)[kind] / parameter.size(1) ** 0.5)
    return model.to(tiny.dtype)


def write_config(tiny, path):
    config = json.loads(path.read_text())
    for key in tiny.left_out:
        del config[key]
    path.write_text(json.dumps(config | tiny.replaced, indent=2, sort_keys=True) + "\n")


def write_model(tiny, directory):
    model = make_model(tiny)
    model.save_pretrained(directory, max_shard_size=tiny.shard_bytes or "1GB")
    if tiny.shard_bytes:
        # As beside Mistral's files; nothing names it, and what it holds must not be read.
        save_file({"tok_embeddings.weight": torch.zeros(8, 8)}, directory / "consolidated.safetensors")
    if tiny.left_out or tiny.replaced:
        write_config(tiny, directory / "config.json")
    for path in directory.iterdir():
        path.chmod(0o644)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="the model directories are written into this one")
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all of the table")
    arguments = parser.parse_args()
    for name in arguments.names or TABLE:
        write_model(TABLE[name], arguments.directory / name)


if __name__ == "__main__":
    main()
