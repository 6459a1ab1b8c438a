"""Writes the golden data of scoring: python reference/golden_score.py tests/golden

Scores with transformers in float32, as anybody would: the log-probability of each token after the first, of
the prompts and greedy texts of the networks' golden data. tests/golden/README.md describes the files.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from golden import save_cases

TINY = ["tiny", "tiny_llama", "tiny_mistral", "tiny_qwen2", "tiny_qwen3", "tiny_gemma2", "tiny_gemma3"]
MODELS = {name: f"tests/models/{name}" for name in TINY} | {"shakespeare": "weights/shakespeare"}


@torch.no_grad()
def score(model, ids):
    """ids [T] -> log-probabilities [T - 1] of all but the first."""
    logits = model(ids[None]).logits[0, :-1]
    return torch.log_softmax(logits.double(), dim=-1).gather(1, ids[1:, None])[:, 0]


def make_cases(directory, network):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    cases = []
    while f"case{len(cases)}.prompt" in network:
        name = f"case{len(cases)}"
        ids = torch.cat([network[f"{name}.prompt"], network[f"{name}.greedy"]]).long()
        cases.append({"ids": ids, "logprobs": score(model, ids)})
    return cases


def main():
    root = Path(__file__).parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="directory that holds network_*.safetensors, and is written to")
    out = Path(parser.parse_args().out)
    for name, directory in MODELS.items():
        cases = make_cases(root / directory, load_file(out / f"network_{name}.safetensors"))
        save_cases(out / f"score_{name}.safetensors", cases)
        print(name, [(len(case["ids"]), round(-case["logprobs"].mean().item(), 3)) for case in cases])


if __name__ == "__main__":
    main()
