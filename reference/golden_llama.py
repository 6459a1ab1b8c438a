"""Writes the golden data of the tiny Llama: python reference/golden_llama.py tests/golden

The model is transformers' own. Logits are computed in float64 (transformers forms norms and rotary
tables in float32 even then; the tables are replaced by float64 ones, which must agree with its own to
float32's precision) and rounded once. Greedy texts are those of float64 and of transformers as it is in
float32, which must agree: only prompts count for which the two best logits stay at least MIN_GAP apart
over the whole text. tests/golden/README.md describes the file.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import nn
from transformers import LlamaForCausalLM

from golden import MIN_GAP, save_cases

GREEDY_TOKENS = 64
PROMPT_LENGTHS = [1, 7, 60, 257, 300, 700, 960]
ALL_LOGITS_UP_TO = 7


class ExactRotary(nn.Module):
    """Cosines and sines of Llama 3's rotary positions, in float64."""

    def __init__(self, config):
        super().__init__()
        rope = config.rope_parameters
        pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float64)
        frequency = rope["rope_theta"] ** (-pairs / config.head_dim)
        turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
        share = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
        share = share.clamp(0, 1)
        self.frequency = (1 - share) * frequency / rope["factor"] + share * frequency

    def forward(self, x, position_ids):
        angle = position_ids[..., None].double() * self.frequency
        angle = torch.cat([angle, angle], dim=-1)
        return angle.cos().to(x.dtype), angle.sin().to(x.dtype)


def load(directory, dtype):
    return LlamaForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()


def load_exact(directory):
    model = load(directory, torch.float64)
    exact = ExactRotary(model.config)
    torch.testing.assert_close(exact.frequency.float(), model.model.rotary_emb.inv_freq.float(), rtol=1e-6, atol=0)
    model.model.rotary_emb = exact
    return model


@torch.no_grad()
def greedy(model, prompt, n_tokens):
    """prompt [P] -> (tokens [n], their log-probabilities [n], smallest gap between the two best logits)."""
    ids, cache, tokens, logprobs, gaps = prompt[None], None, [], [], []
    for _ in range(n_tokens):
        result = model(ids, past_key_values=cache, use_cache=True)
        logits, cache = result.logits[0, -1], result.past_key_values
        best = logits.topk(2)
        tokens.append(best.indices[0])
        logprobs.append(torch.log_softmax(logits, dim=-1)[best.indices[0]])
        gaps.append((best.values[0] - best.values[1]).item())
        ids = tokens[-1].view(1, 1)
    return torch.stack(tokens), torch.stack(logprobs), min(gaps)


@torch.no_grad()
def make_cases(directory):
    """For each length the first seed's random prompt whose greedy text keeps its distance and holds no eos."""
    exact, model = load_exact(directory), load(directory, torch.float32)
    cases = []
    for length in PROMPT_LENGTHS:
        for seed in range(300):
            generator = torch.Generator().manual_seed(1000 * length + seed)
            prompt = torch.randint(1, model.config.vocab_size, (length,), generator=generator)
            tokens, logprobs, gap = greedy(exact, prompt, GREEDY_TOKENS)
            if gap < MIN_GAP or model.config.eos_token_id in tokens.tolist():
                continue
            tokens32, _, gap32 = greedy(model, prompt, GREEDY_TOKENS)
            if gap32 >= MIN_GAP and torch.equal(tokens, tokens32):
                break
        else:
            raise RuntimeError(f"{directory}: no prompt of {length} tokens found")
        logits = exact(prompt[None]).logits[0]
        difference = (model(prompt[None]).logits[0].double() - logits).abs().max() / logits.abs().max()
        cases.append(
            {
                "prompt": prompt,
                "logits": logits if length <= ALL_LOGITS_UP_TO else logits[-1],
                "greedy": tokens,
                "greedy_logprobs": logprobs,
            }
        )
        print(
            f"{length} prompt tokens, seed {seed}, smallest gap {min(gap, gap32):.4f}, {len(set(tokens.tolist()))} "
            f"different tokens, transformers in float32 {difference:.1e} of the largest logit away",
            flush=True,
        )
    return cases


def main():
    root = Path(__file__).parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="directory to write")
    parser.add_argument("--model", default=root / "tests/models/tiny_llama", help="default: %(default)s")
    arguments = parser.parse_args()
    save_cases(Path(arguments.out) / "network_tiny_llama.safetensors", make_cases(arguments.model))


if __name__ == "__main__":
    main()
