"""Writes the golden data of the tiny models of every family: python reference/golden_models.py tests/golden

The models are transformers' own, those of tiny_models.py. Logits are computed in float64 (transformers forms
norms, attention's softmax and rotary tables in float32 even then; the tables are replaced by float64 ones,
which must agree with its own to float32's precision) and rounded once. Greedy texts are those of float64 and
of transformers as it is in float32, which must agree: only prompts count for which the two best logits stay
at least MIN_GAP apart over the whole text, and on which bfloat16 means something: transformers' own stays
within MAX_BFLOAT16 and MAX_BFLOAT16_LOGPROB of the largest logit. tests/golden/README.md describes the files.

Says how far transformers is away in float32 and in bfloat16, and by how much the logits change without each
of the features that tiny_models.py names: at least MIN_CHANGE, or a test could not notice that it is missing.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from golden import MIN_GAP, save_cases
from tiny_models import TABLE

GREEDY_TOKENS = 64
ALL_LOGITS_UP_TO = 7
MIN_CHANGE = 0.1  # beyond what the tests allow bfloat16, and 1000 times what they allow float32
MAX_BFLOAT16 = 5.5e-2  # logits; the tests allow 8e-2
MAX_BFLOAT16_LOGPROB = 8e-2  # a logit less the logarithm of a sum, both off; the tests allow 1e-1
SEEDS = 300


def linear_frequency(rope, frequency):
    return frequency / rope["factor"]


def llama3_frequency(rope, frequency):
    turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
    share = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
    share = share.clamp(0, 1)
    return (1 - share) * frequency / rope["factor"] + share * frequency


def yarn_frequency(rope, frequency):
    """YaRN, Peng et al. 2023, with beta_fast 32 and beta_slow 1."""
    n_pairs, base = len(frequency), rope["rope_theta"]

    def pair_that_turns(times):
        return n_pairs * math.log(rope["original_max_position_embeddings"] / (times * 2 * math.pi)) / math.log(base)

    low, high = max(math.floor(pair_that_turns(32)), 0), min(math.ceil(pair_that_turns(1)), 2 * n_pairs - 1)
    share = ((torch.arange(n_pairs, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    return share * frequency / rope["factor"] + (1 - share) * frequency


SCALED_FREQUENCY = {
    "default": lambda rope, frequency: frequency,
    "linear": linear_frequency,
    "llama3": llama3_frequency,
    "yarn": yarn_frequency,
}


class ExactRotary(nn.Module):
    """Cosines and sines of rotary positions, in float64."""

    def __init__(self, config):
        super().__init__()
        self.frequency, self.size = {}, {}
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        pairs = torch.arange(0, head_dim, 2, dtype=torch.float64)
        per_layer_type = "rope_type" not in config.rope_parameters
        for layer_type in config.rope_parameters if per_layer_type else [None]:
            rope = config.rope_parameters[layer_type] if per_layer_type else config.rope_parameters
            kind = rope["rope_type"]
            self.frequency[layer_type] = SCALED_FREQUENCY[kind](rope, rope["rope_theta"] ** (-pairs / head_dim))
            self.size[layer_type] = 0.1 * math.log(rope["factor"]) + 1 if kind == "yarn" else 1.0

    def check(self, rotary):
        """transformers' own tables are these."""
        for layer_type, frequency in self.frequency.items():
            prefix = f"{layer_type}_" if layer_type else ""
            theirs = getattr(rotary, f"{prefix}inv_freq").float()
            torch.testing.assert_close(frequency.float(), theirs, rtol=1e-5, atol=0)
            assert math.isclose(self.size[layer_type], getattr(rotary, f"{prefix}attention_scaling"), rel_tol=1e-6)

    def forward(self, x, position_ids, layer_type=None):
        angle = position_ids[..., None].double() * self.frequency[layer_type]
        angle = torch.cat([angle, angle], dim=-1)
        return (angle.cos() * self.size[layer_type]).to(x.dtype), (angle.sin() * self.size[layer_type]).to(x.dtype)


def load(directory, dtype, **others):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager", **others)
    return model.eval()


def load_exact(directory):
    model = load(directory, torch.float64)
    exact = ExactRotary(model.config)
    exact.check(model.model.rotary_emb)
    model.model.rotary_emb = exact
    return model


@torch.no_grad()
def greedy(model, prompt, n_tokens):
    """prompt [P] -> (tokens [n], their log-probabilities [n], smallest gap between the two best logits); ends early
    where the gap is too small."""
    ids, cache, tokens, logprobs, gaps = prompt[None], None, [], [], []
    for _ in range(n_tokens):
        result = model(ids, past_key_values=cache, use_cache=True)
        logits, cache = result.logits[0, -1], result.past_key_values
        best = logits.topk(2)
        tokens.append(best.indices[0])
        logprobs.append(torch.log_softmax(logits, dim=-1)[best.indices[0]])
        gaps.append((best.values[0] - best.values[1]).item())
        if gaps[-1] < MIN_GAP:
            break
        ids = tokens[-1].view(1, 1)
    return torch.stack(tokens), torch.stack(logprobs), min(gaps)


def difference(logits, exact):
    return ((logits.double() - exact).abs().max() / exact.abs().max()).item()


@torch.no_grad()
def make_cases(directory, lengths):
    """For each length the first seed's random prompt whose greedy text keeps its distance and holds no eos."""
    exact, model, rounded = load_exact(directory), load(directory, torch.float32), load(directory, torch.bfloat16)
    cases = []
    for length in lengths:
        for seed in range(SEEDS):
            generator = torch.Generator().manual_seed(1000 * length + seed)
            prompt = torch.randint(1, model.config.vocab_size, (length,), generator=generator)
            tokens, logprobs, gap = greedy(exact, prompt, GREEDY_TOKENS)
            if gap < MIN_GAP or model.config.eos_token_id in tokens.tolist():
                continue
            tokens32, _, gap32 = greedy(model, prompt, GREEDY_TOKENS)
            if gap32 < MIN_GAP or not torch.equal(tokens, tokens32):
                continue
            logits = exact(prompt[None]).logits[0, 0 if length <= ALL_LOGITS_UP_TO else -1 :]
            off = difference(rounded(prompt[None]).logits[0, -len(logits) :], logits)
            ids = torch.cat([prompt, tokens])[None]
            along = torch.log_softmax(rounded(ids).logits[0, length - 1 : -1].double(), dim=-1)
            off_along = (along.gather(1, tokens[:, None])[:, 0] - logprobs).abs().max() / logits.abs().max()
            if off <= MAX_BFLOAT16 and off_along <= MAX_BFLOAT16_LOGPROB:
                break
        else:
            raise RuntimeError(f"{directory}: no prompt of {length} tokens found")
        case = {"prompt": prompt, "logits": logits, "greedy": tokens, "greedy_logprobs": logprobs}
        cases.append(case if length <= ALL_LOGITS_UP_TO else case | {"logits": logits[0]})
        print(
            f"{length} prompt tokens, seed {seed}, smallest gap {min(gap, gap32):.4f}, {len(set(tokens.tolist()))} "
            f"different tokens, largest logit {logits.abs().max():.1f}; transformers is away by, of the largest "
            f"logit, {difference(model(prompt[None]).logits[0, -len(logits) :], logits):.1e} in float32, {off:.1e} "
            f"in bfloat16, {off_along:.1e} in its log-probabilities",
            flush=True,
        )
    return cases


@torch.no_grad()
def check_features(directory, without, prompt):
    """Each feature moves the logits behind the prompt."""
    logits = load(directory, torch.float32)(prompt[None]).logits[0, -1]
    for label, change in without.items():
        config = type(load(directory, torch.float32).config).from_pretrained(directory)
        if isinstance(change, dict):
            config = type(config)(**{**config.to_dict(), **change})
        model = load(directory, torch.float32, config=config)
        if not isinstance(change, dict):
            change(model)
        changed = difference(model(prompt[None]).logits[0, -1], logits.double())
        print(f"without {label}: {changed:.1e}", flush=True)
        if not changed >= MIN_CHANGE:
            raise RuntimeError(f"{directory}: without {label} the logits hardly change")


def main():
    root = Path(__file__).parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="directory to write")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of tiny_models.py; default: all")
    parser.add_argument("--models", type=Path, default=root / "tests/models", help="default: %(default)s")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name in arguments.names or TABLE:
        print(name, flush=True)
        directory = arguments.models / name
        cases = make_cases(directory, TABLE[name].lengths)
        check_features(directory, TABLE[name].without, cases[-1]["prompt"])
        save_cases(arguments.out / f"network_{name}.safetensors", cases)


if __name__ == "__main__":
    main()
