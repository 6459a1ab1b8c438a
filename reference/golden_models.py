"""Writes the golden data of the models that make_tiny_models.py makes: python reference/golden_models.py tests/golden

The models are transformers' own. Logits are computed in float64 (transformers forms norms and rotary
tables in float32 even then; the tables are replaced by float64 ones, which must agree with its own to
float32's precision) and rounded once. Greedy texts are those of float64 and of transformers as it is in
float32, which must agree: only prompts count for which the two best logits stay at least MIN_GAP apart
over the whole text. tests/golden/README.md describes the files.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from golden import MIN_GAP, save_cases
from make_tiny_models import MODELS

GREEDY_TOKENS = 64
PROMPT_LENGTHS = [1, 7, 60, 257, 300, 700, 960]
ALL_LOGITS_UP_TO = 7


def head_dim(config):
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def exact_frequencies(rope, dim):
    """Angle per position of each pair, in float64, and the factor of cosines and sines."""
    pair = torch.arange(dim // 2, dtype=torch.float64)
    base, kind = rope["rope_theta"], rope["rope_type"]
    frequency = base ** (-2 * pair / dim)
    if kind == "default":
        return frequency, 1.0
    slow = frequency / rope["factor"]
    if kind == "linear":
        return slow, 1.0
    context = rope["original_max_position_embeddings"]
    if kind == "llama3":
        turns = context * frequency / (2 * math.pi)
        share = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
        amplitude = 1.0
    elif kind == "yarn":
        per_turn = dim / (2 * math.log(base))
        low = math.floor(per_turn * math.log(context / (32 * 2 * math.pi)))
        high = math.ceil(per_turn * math.log(context / (2 * math.pi)))
        low, high = max(low, 0), min(high, dim - 1)
        share = 1 - (pair - low) / (high - low)
        amplitude = 0.1 * math.log(rope["factor"]) + 1
    else:
        raise ValueError(kind)
    share = share.clamp(0, 1)
    return (1 - share) * slow + share * frequency, amplitude


class ExactRotary(nn.Module):
    """Cosines and sines of rotary positions in float64; by layer type where the model has them so."""

    def __init__(self, config, replaced):
        super().__init__()
        rope = config.rope_parameters
        self.by_type = "full_attention" in rope
        kinds = rope if self.by_type else {"": rope}
        self.angles = {kind: exact_frequencies(rope, head_dim(config)) for kind, rope in kinds.items()}
        for kind, (frequency, amplitude) in self.angles.items():
            theirs = getattr(replaced, f"{kind}_inv_freq" if kind else "inv_freq")
            torch.testing.assert_close(frequency.float(), theirs.float(), rtol=2e-6, atol=0)
            scale = getattr(replaced, f"{kind}_attention_scaling" if kind else "attention_scaling")
            assert abs(scale - amplitude) < 1e-12

    def forward(self, x, position_ids, layer_type=""):
        frequency, amplitude = self.angles[layer_type]
        angle = position_ids[..., None].double() * frequency
        angle = torch.cat([angle, angle], dim=-1)
        return (amplitude * angle.cos()).to(x.dtype), (amplitude * angle.sin()).to(x.dtype)


def load(directory, dtype):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()


def load_exact(directory):
    model = load(directory, torch.float64)
    model.model.rotary_emb = ExactRotary(model.config, model.model.rotary_emb)
    embed = model.model.embed_tokens
    if hasattr(embed, "embed_scale"):  # kept in float32 by transformers; sqrt(64) is exact in both
        assert embed.embed_scale.item() == model.config.hidden_size**0.5
    return model


@torch.no_grad()
def greedy(model, prompt, n_tokens):
    """prompt [P] -> (tokens [n], their log-probabilities [n], smallest gap between the two best logits).

    Gives up, with a gap of 0, where the two best logits come too close."""
    ids, cache, tokens, logprobs, smallest = prompt[None], None, [], [], math.inf
    for _ in range(n_tokens):
        result = model(ids, past_key_values=cache, use_cache=True)
        logits, cache = result.logits[0, -1], result.past_key_values
        best = logits.topk(2)
        smallest = min(smallest, (best.values[0] - best.values[1]).item())
        if smallest < MIN_GAP:
            return None, None, 0
        tokens.append(best.indices[0])
        logprobs.append(torch.log_softmax(logits, dim=-1)[best.indices[0]])
        ids = tokens[-1].view(1, 1)
    return torch.stack(tokens), torch.stack(logprobs), smallest


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
        largest = logits.abs().max()
        difference = (model(prompt[None]).logits[0].double() - logits).abs().max() / largest
        cases.append(
            {
                "prompt": prompt,
                "logits": logits if length <= ALL_LOGITS_UP_TO else logits[-1],
                "greedy": tokens,
                "greedy_logprobs": logprobs,
            }
        )
        print(
            f"{directory.name}: {length} prompt tokens, seed {seed}, smallest gap {min(gap, gap32):.4f}, "
            f"{len(set(tokens.tolist()))} different tokens, transformers in float32 {difference:.1e} of the largest "
            f"logit away",
            flush=True,
        )
    narrow = load(directory, torch.bfloat16)
    worst = 0.0
    for case in cases:
        logits = case["logits"]
        last = narrow(case["prompt"][None]).logits[0].double()
        last = last if logits.dim() == 2 else last[-1]
        worst = max(worst, ((last - logits).abs().max() / logits.abs().max()).item())
    print(f"{directory.name}: transformers in bfloat16 at most {worst:.1e} of the largest logit away", flush=True)
    return cases


def main():
    root = Path(__file__).parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="directory to write")
    parser.add_argument("names", nargs="*", help="models; default: all")
    parser.add_argument("--models", type=Path, default=root / "tests/models", help="default: %(default)s")
    arguments = parser.parse_args()
    for name in arguments.names or MODELS:
        save_cases(Path(arguments.out) / f"network_{name}.safetensors", make_cases(arguments.models / name))


if __name__ == "__main__":
    main()
