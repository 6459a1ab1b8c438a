"""Runs the worker beside transformers on many spellings of config.json:

    python reference/compare_configs.py build/pressrun
    python reference/compare_configs.py build/pressrun gemma3      # cases whose name holds "gemma3"

Each case is a config.json as some version of transformers, or a hand, may have written it: keys absent, null, in
the old spelling or the new, every rope kind, windows by pattern or by layer. transformers reads it, makes a tiny
random model of it, and computes in float32; the worker gets the same directory. Compared are the log-probability of
each prompt token (prompt attention) and of each token that the worker generates greedily (decode), which must be the
best one or within GAP of it. Lengths pass every window. A case with a `refused` pattern is one that the worker must
refuse with a message that matches. Exit 0 when all agree, 1 otherwise.
"""

import argparse
import gzip
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 256
PROMPT_LENGTHS = [3, 24, 47, 190]
GENERATED = 40
TOLERANCE = 5e-4  # of a log-probability; logits are 10 or so, and float32 sums of some hundred terms differ
GAP = 1e-3  # two logits that close may change places

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "torch_dtype": "float32",
}
LINEAR = {"rope_type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SLIDING, FULL = "sliding_attention", "full_attention"
G2 = {"head_dim": 16, "sliding_window": 33}
G3 = {"head_dim": 32, "sliding_window": 20, "sliding_window_pattern": 2}
STDS = {  # of matrices, times 1 / sqrt(width of the input): attention picks, logits are not flat
    "q_proj": 1.6,
    "k_proj": 1.6,
    "v_proj": 2.0,
    "o_proj": 1.5,
    "gate_proj": 1.5,
    "up_proj": 1.5,
    "down_proj": 1.5,
    "lm_head": 2.5,
}


def case(model_type, refused=None, **keys):
    return {"config": {**SIZES, "model_type": model_type, **keys}, "refused": refused}


CASES = {
    # ---- Llama
    "llama": case("llama"),
    "llama kv heads null": case("llama", num_key_value_heads=None),
    "llama one kv head of 128": case("llama", num_key_value_heads=1, head_dim=128, num_hidden_layers=2),
    "llama attention_bias, tied": case("llama", attention_bias=True, tie_word_embeddings=True, head_dim=8),
    "llama mlp_bias": case("llama", "mlp_bias: true", mlp_bias=True),
    "llama swish": case("llama", hidden_act="swish"),
    "llama partial rotary": case("llama", "partial_rotary_factor", partial_rotary_factor=0.5),
    "llama layer_types full": case("llama", layer_types=[FULL] * 4),
    "llama layer_types sliding": case("llama", "no sliding_window", layer_types=[SLIDING] * 4, sliding_window=12),
    "llama linear, old": case("llama", rope_scaling={"type": "linear", "factor": 4.0}, rope_theta=20000.0),
    "llama linear, new": case("llama", rope_parameters={**LINEAR, "rope_theta": 20000.0}),
    "llama theta twice": case("llama", rope_theta=300.0, rope_scaling={**LINEAR, "rope_theta": 9000.0}),
    "llama default scaling": case("llama", rope_scaling={"rope_type": "default"}),
    "llama empty scaling": case("llama", rope_scaling={}, rope_theta=500.0),
    "llama dynamic": case("llama", "dynamic", rope_scaling={"type": "dynamic", "factor": 2.0}),
    "llama llama3, old": case(
        "llama", rope_theta=5e5, rope_scaling={**LLAMA3, "original_max_position_embeddings": 64}
    ),
    "llama llama3, new, no original": case("llama", rope_parameters={**LLAMA3, "rope_theta": 5e5}),
    "llama yarn, old": case(
        "llama", rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    ),
    "llama yarn, new": case("llama", rope_parameters={**YARN, "rope_theta": 10000.0}),
    "llama yarn, no original": case("llama", rope_parameters={"rope_type": "yarn", "factor": 4.0}),
    "llama yarn, no factor": case("llama", "factor is absent", rope_scaling={**YARN, "factor": None}),
    "llama yarn, factor 1": case("llama", rope_scaling={**YARN, "factor": 1.0}),
    "llama yarn, mscale both": case("llama", rope_scaling={**YARN, "mscale": 1.2, "mscale_all_dim": 0.7}),
    "llama yarn, mscale one": case("llama", rope_scaling={**YARN, "mscale": 1.2}),
    "llama yarn, mscale_all_dim 0": case("llama", rope_scaling={**YARN, "mscale": 1.2, "mscale_all_dim": 0.0}),
    "llama yarn, attention_factor": case(
        "llama", rope_scaling={**YARN, "attention_factor": 1.3, "beta_fast": 16.0, "beta_slow": 2.0}
    ),
    "llama yarn, attention_factor 0": case("llama", "attention_factor", rope_scaling={**YARN, "attention_factor": 0}),
    "llama yarn, beta 0": case("llama", "beta_fast", rope_scaling={**YARN, "beta_fast": 0, "beta_slow": 0}),
    "llama yarn, not truncated": case("llama", rope_scaling={**YARN, "truncate": False, "factor": 2.5}),
    "llama yarn, heads of 64": case("llama", head_dim=64, rope_scaling={**YARN, "factor": 1.5}),
    "llama yarn, heads of 4": case("llama", head_dim=4, rope_scaling=YARN),
    # ---- Mistral
    "mistral": case("mistral", sliding_window=24),
    "mistral no key": case("mistral"),
    "mistral null": case("mistral", sliding_window=None, head_dim=32, rope_theta=1e6),
    "mistral head_dim null": case("mistral", sliding_window=200, head_dim=None),
    "mistral layer_types": case("mistral", sliding_window=24, layer_types=[SLIDING] * 4, head_dim=16),
    # ---- Qwen
    "qwen2, window off": case("qwen2", use_sliding_window=False, sliding_window=8, max_window_layers=2, rope_theta=1e6),
    "qwen2, window": case("qwen2", use_sliding_window=True, sliding_window=24, max_window_layers=2),
    "qwen2, window, max_window_layers absent": case("qwen2", use_sliding_window=True, sliding_window=24),
    "qwen2, window of the class": case("qwen2", use_sliding_window=True, max_window_layers=1),
    "qwen2, layer_types": case(
        "qwen2", use_sliding_window=True, sliding_window=24, max_window_layers=4, layer_types=[SLIDING, FULL] * 2
    ),
    "qwen2, tied, yarn": case("qwen2", tie_word_embeddings=True, rope_scaling=YARN),
    "qwen3": case("qwen3", head_dim=32, rope_theta=1e6),
    "qwen3 head_dim absent": case("qwen3"),
    "qwen3, window, tied": case(
        "qwen3",
        head_dim=32,
        use_sliding_window=True,
        sliding_window=24,
        max_window_layers=1,
        tie_word_embeddings=True,
    ),
    "qwen3, attention_bias, yarn": case("qwen3", head_dim=32, attention_bias=True, rope_scaling=YARN),
    # ---- Gemma 2
    "gemma2": case("gemma2"),
    "gemma2 as published": case(
        "gemma2",
        head_dim=16,
        hidden_act="gelu_pytorch_tanh",
        hidden_activation="gelu_pytorch_tanh",
        attn_logit_softcapping=4.0,
        final_logit_softcapping=6.0,
        query_pre_attn_scalar=48,
        rope_theta=20000.0,
        sliding_window=24,
        sliding_window_size=4096,
        cache_implementation="hybrid",
    ),
    "gemma2 no caps": case("gemma2", **G2, attn_logit_softcapping=None, final_logit_softcapping=None),
    "gemma2 layer_types": case("gemma2", head_dim=16, sliding_window=9, layer_types=[FULL, SLIDING, SLIDING, FULL]),
    "gemma2 sliding_window_pattern": case("gemma2", **G2, sliding_window_pattern=4),
    "gemma2 attention_bias, untied": case("gemma2", **G2, attention_bias=True, tie_word_embeddings=False),
    "gemma2 linear, old": case("gemma2", **G2, rope_scaling={"type": "linear", "factor": 4.0}, rope_theta=30000.0),
    "gemma2 linear, new": case("gemma2", **G2, rope_parameters=LINEAR),
    "gemma2 theta beside rope_parameters": case(
        "gemma2", **G2, rope_theta=700.0, rope_parameters={"rope_type": "default"}
    ),
    "gemma2 window of 1": case("gemma2", head_dim=16, sliding_window=1),
    "gemma2 one kv head of 256": case(
        "gemma2", head_dim=256, sliding_window=40, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=1
    ),
    "gemma2 another hidden_act": case("gemma2", head_dim=16, hidden_act="gelu"),
    "gemma2 gelu_new": case("gemma2", head_dim=16, hidden_activation="gelu_new"),
    "gemma2 silu": case("gemma2", "hidden_activation: 'silu'", head_dim=16, hidden_activation="silu"),
    "gemma2 both directions": case("gemma2", "use_bidirectional", head_dim=16, use_bidirectional_attention=True),
    # ---- Gemma 3
    "gemma3": case("gemma3_text"),
    "gemma3, old": case(
        "gemma3_text",
        **G3,
        rope_theta=50000.0,
        rope_local_base_freq=5000.0,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        query_pre_attn_scalar=20,
    ),
    "gemma3, pattern absent": case("gemma3_text", head_dim=32, sliding_window=20, num_hidden_layers=7),
    "gemma3, pattern of 1": case("gemma3_text", **{**G3, "sliding_window_pattern": 1}, rope_theta=900.0),
    "gemma3, new": case(
        "gemma3_text",
        head_dim=32,
        sliding_window=20,
        layer_types=[SLIDING, FULL] * 2,
        rope_parameters={FULL: {**LINEAR, "rope_theta": 1e5}, SLIDING: {"rope_type": "default", "rope_theta": 300.0}},
    ),
    "gemma3, new, one layer type": case("gemma3_text", **G3, rope_parameters={FULL: LINEAR}),
    "gemma3, new, null": case("gemma3_text", **G3, rope_theta=777.0, rope_parameters={FULL: None}),
    "gemma3, thetas beside rope_parameters": case(
        "gemma3_text",
        **G3,
        rope_theta=777.0,
        rope_local_base_freq=99.0,
        rope_parameters={FULL: {"rope_type": "default"}, SLIDING: {"rope_type": "default"}},
    ),
    "gemma3, linear in the window": case(
        "gemma3_text", **{**G3, "sliding_window": 60}, rope_parameters={SLIDING: {**LINEAR, "rope_theta": 300.0}}
    ),
    "gemma3, yarn": case("gemma3_text", **G3, rope_scaling=YARN),
    "gemma3, rope_parameters for all": case("gemma3_text", "one for sliding_attention", **G3, rope_parameters=LINEAR),
    "gemma3, scaling by layer type": case("gemma3_text", "rope_scaling.full", **G3, rope_scaling={FULL: LINEAR}),
    "gemma3, final cap": case("gemma3_text", **G3, final_logit_softcapping=5.0),
    "gemma3, attention cap": case("gemma3_text", "attn_logit_softcapping", **G3, attn_logit_softcapping=3.0),
    "gemma3, attention_bias, untied": case("gemma3_text", **G3, attention_bias=True, tie_word_embeddings=False),
    "gemma3, one kv head of 256": case(
        "gemma3_text", **{**G3, "head_dim": 256, "sliding_window": 40}, num_hidden_layers=3, num_key_value_heads=1
    ),
}


@torch.no_grad()
def make_model(folder, config, seed):
    """Writes config.json as it stands, and random weights of the model that transformers makes of it."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    read = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(read, attn_implementation="eager").float().eval()
    is_gemma = config["model_type"].startswith("gemma")  # weights of norms are w of 1 + w, embeddings are scaled by 8
    for name, parameter in model.named_parameters():
        kind = name.split(".")[-2]
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.4)
        elif name == "model.norm.weight" and read.tie_word_embeddings:
            nn.init.normal_(parameter, mean=5.0, std=0.1)
        elif parameter.dim() == 1:
            nn.init.normal_(parameter, mean=0.2 if is_gemma else 1.0, std=0.1)
        elif kind == "embed_tokens":
            nn.init.normal_(parameter, std=0.5 / 8 if is_gemma else 0.5)
        else:
            nn.init.normal_(parameter, std=STDS[kind] / parameter.size(1) ** 0.5)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink(missing_ok=True)
    return model


def run(pressrun, folder, prompts, job):
    """The records of a job, or the message of its failure."""
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt_token_ids": p}) + "\n" for p in prompts))
    (folder / "config.yaml").write_text("device: cpu\n")
    (folder / "job.yaml").write_text(
        "model: .\nprompts: prompts.jsonl\noutput: out.jsonl.gz\nconfig: config.yaml\ndtype: float32\n" + job
    )
    done = subprocess.run([pressrun, "run", "--restart", folder / "job.yaml"], capture_output=True, text=True)
    if done.returncode != 0:
        return done.stderr.strip()
    with gzip.open(folder / "out.jsonl.gz", "rt") as records:
        return [json.loads(line) for line in records]


@torch.no_grad()
def logprobs_of(model, ids):
    """[len(ids), VOCABULARY], without a cache: its sliding layers keep everything where the window is 1."""
    return torch.log_softmax(model(torch.tensor([ids]), use_cache=False).logits[0].double(), dim=-1)


def compare(pressrun, folder, model, prompts):
    """What differs first, or None."""
    scored = run(pressrun, folder, prompts, "mode: score\n")
    if isinstance(scored, str):
        return scored
    sampling = f"sampling: {{max_tokens: {GENERATED}, temperature: 0, logprobs: 0, ignore_eos: true}}\n"
    generated = run(pressrun, folder, prompts, sampling)
    if isinstance(generated, str):
        return generated
    for prompt, score, answer in zip(prompts, scored, generated):
        expected = logprobs_of(model, prompt)
        for i, actual in enumerate(score["prompt_logprobs"][1:]):
            if not abs(actual - expected[i, prompt[i + 1]]) <= TOLERANCE:
                return f"token {i + 1} of {len(prompt)}: {actual}, transformers {expected[i, prompt[i + 1]]:.6f}"
        tokens = answer["token_ids"]
        expected = logprobs_of(model, prompt + tokens)
        for i, (token, actual) in enumerate(zip(tokens, answer["logprobs"]["token_logprobs"])):
            row = expected[len(prompt) + i - 1]
            if not (row.max() - row[token] <= GAP and abs(actual - row[token]) <= TOLERANCE):
                return f"generated {i} behind {len(prompt)}: {token} at {actual}, transformers {row[token]:.6f}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pressrun", type=Path, help="the program")
    parser.add_argument("name", nargs="?", default="", help="only cases whose name holds this")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(4, VOCABULARY, (n,), generator=generator).tolist() for n in PROMPT_LENGTHS]
    n_bad = n_run = 0
    for seed, (name, entry) in enumerate(CASES.items()):
        if arguments.name not in name:
            continue
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root) / "model"
            model = None if entry["refused"] else make_model(folder, entry["config"], seed)
            if entry["refused"]:
                folder.mkdir()
                (folder / "config.json").write_text(json.dumps(entry["config"]))
                message = run(arguments.pressrun, folder, prompts, "")
                is_refused = isinstance(message, str) and re.search(entry["refused"], message)
                problem = None if is_refused else f"expected to be refused for {entry['refused']}: {message}"
            else:
                problem = compare(arguments.pressrun, folder, model, prompts)
        n_run += 1
        n_bad += problem is not None
        if problem:
            print(f"{name}: {problem}", flush=True)
    print(f"{n_run} configurations, {n_bad} differ")
    sys.exit(n_bad > 0 or n_run == 0)


if __name__ == "__main__":
    main()
