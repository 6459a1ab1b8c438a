"""Writes the golden test data of every building block: python reference/golden.py tests/golden

Each block's inputs are random float32 (fixed seeds); its outputs are computed in float64 by the modules
of model.py and rounded to float32 once, so the data's own error is far below any tolerance. The two
networks' greedy texts are computed in float32 and in float64, which must agree: only prompts count for
which the two best logits stay at least MIN_GAP apart over the whole text. tests/golden/README.md
describes the files.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.nn import functional as F

from model import MLP, Block, GPTConfig, KVCache, attention_probabilities, from_directory, gelu_new
from golden_texts import shakespeare_texts, tiny_texts

MIN_GAP = 1e-3
GREEDY_TOKENS = 200
EPSILON = 1e-5


def save_cases(path, cases):
    """cases: dicts of name -> tensor; case i's tensors are written as "case<i>.<name>"."""
    tensors = {}
    for idx, case in enumerate(cases):
        for name, tensor in case.items():
            dtype = torch.float32 if tensor.is_floating_point() else torch.int32
            tensors[f"case{idx}.{name}"] = tensor.detach().to(dtype).contiguous()
    save_file(tensors, path)
    path.chmod(0o644)


def random_normal(*shape, scale=1.0, offset=0.0):
    """float64 values that are exact in float32."""
    return (torch.randn(*shape) * scale + offset).double()


# ---------------------------------------------------------------------------------------------------
# One function per block, each returning its cases.


def layer_norm_cases():
    cases = []
    for rows, width, scale, offset in [
        (3, 384, 1, 0),
        (2, 100, 1, 0),
        (2, 768, 1, 0),
        (5, 64, 30, 5),
        (3, 65, 0.01, 0),
        (2, 384, 1, 100),  # the mean is far larger than the deviation
        (4, 1, 1, 0),
    ]:
        x = random_normal(rows, width, scale=scale, offset=offset)
        weight, bias = random_normal(width, scale=0.3, offset=1.0), random_normal(width)
        y = F.layer_norm(x, (width,), weight, bias, EPSILON)
        cases.append({"x": x, "weight": weight, "bias": bias, "y": y})
    zeros = torch.zeros(1, 384, dtype=torch.float64)  # variance 0: epsilon alone is below the root
    cases.append({"x": zeros, "weight": weight.expand(384), "bias": bias.expand(384), "y": zeros + bias})
    return cases


def linear_cases():
    cases = []
    shapes = [(1, 64, 192), (5, 384, 100), (7, 100, 65), (33, 64, 130)]
    shapes += [(2, 1536, 24), (16, 96, 7), (1, 1, 1), (65, 31, 3)]
    for T, K, N in shapes:
        x, weight, bias = random_normal(T, K), random_normal(N, K, scale=K**-0.5), random_normal(N)
        cases.append({"x": x, "weight": weight, "bias": bias, "y": F.linear(x, weight, bias)})
    return cases


def gelu_new_cases():
    x = torch.cat([torch.linspace(-8, 8, 1001), torch.tensor([-1e4, -100.0, -1e-6, 0.0, 1e-30, 100.0, 1e4])]).double()
    return [{"x": x, "y": gelu_new(x)}]


def softmax_cases():
    cases = []
    for rows, width, scale in [(2, 1, 1), (3, 7, 1), (4, 65, 3), (2, 257, 10), (2, 1000, 30), (1, 300, 0)]:
        x = random_normal(rows, width, scale=scale)
        cases.append({"x": x, "y": torch.softmax(x, dim=-1)})
    x = random_normal(2, 33, scale=1, offset=1000.0)  # exp of it would overflow
    cases.append({"x": x, "y": torch.softmax(x, dim=-1)})
    return cases


def heads_first(t):
    """[T, H, D] -> [H, T, D] and back."""
    return t.transpose(0, 1)


def attention_scores_cases():
    cases = []
    for T, H, D in [(1, 2, 16), (9, 2, 16), (40, 1, 64), (33, 3, 16)]:
        q, k = random_normal(T, H, D, scale=1.5), random_normal(T, H, D, scale=1.5)
        scores = heads_first(q) @ heads_first(k).transpose(-2, -1) / D**0.5
        probabilities = attention_probabilities(heads_first(q), heads_first(k))
        cases.append({"q": q, "k": k, "scores": scores, "probabilities": probabilities})
    return cases


def attention_cases():
    cases = []
    for T, H, D in [(1, 4, 16), (5, 6, 64), (70, 4, 16), (300, 2, 16), (260, 1, 64), (33, 2, 64)]:
        q, k, v = (random_normal(T, H, D, scale=1.5) for _ in range(3))
        out = heads_first(attention_probabilities(heads_first(q), heads_first(k)) @ heads_first(v))
        fused = F.scaled_dot_product_attention(*(heads_first(t) for t in (q, k, v)), is_causal=True)
        torch.testing.assert_close(out, heads_first(fused))
        cases.append({"q": q, "k": k, "v": v, "out": out})
    return cases


def module_case(module, T, C):
    """x, y and the module's parameters under their own names, matrices as [out, in]."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() == 2:
                parameter.copy_(random_normal(*parameter.shape, scale=parameter.size(1) ** -0.5))
            else:
                parameter.copy_(random_normal(*parameter.shape, scale=0.2, offset=1.0 if "ln_" in name else 0.0))
    x = random_normal(T, C)
    module = module.double().eval()
    return {"x": x, "y": module(x[None])[0], **dict(module.named_parameters())}


def mlp_cases():
    return [module_case(MLP(GPTConfig(n_embd=C)), T, C) for T, C in [(1, 60), (11, 32), (40, 20)]]


def block_cases():
    cases = []
    for T, C, H in [(1, 64, 4), (20, 48, 3), (270, 32, 2)]:
        case = module_case(Block(GPTConfig(n_embd=C, n_head=H)), T, C)
        cases.append({**case, "n_head": torch.tensor([H])})
    return cases


# ---------------------------------------------------------------------------------------------------
# The networks.


@torch.no_grad()
def greedy(model, prompt, n_tokens):
    """prompt [P] -> (tokens [n], their log-probabilities [n], smallest gap between the two best logits)."""
    cache = KVCache(model.config, 1, prompt.numel() + n_tokens, model.wte.weight.dtype)
    ids, tokens, logprobs, gaps = prompt[None], [], [], []
    for _ in range(n_tokens):
        logits = F.linear(model.hidden(ids, cache)[0, -1], model.wte.weight)
        best = logits.topk(2)
        tokens.append(best.indices[0])
        logprobs.append(torch.log_softmax(logits, dim=-1)[best.indices[0]])
        gaps.append((best.values[0] - best.values[1]).item())
        ids = tokens[-1].view(1, 1)
    return torch.stack(tokens), torch.stack(logprobs), min(gaps)


@torch.no_grad()
def network_cases(directory, prompt_lengths, draw_prompt, all_logits_up_to):
    """For each length the first seed's prompt whose greedy text keeps its distance and holds no eos."""
    exact, model = from_directory(directory, torch.float64), from_directory(directory)
    eos_id = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8")).get("eos_token_id")
    cases = []
    for length in prompt_lengths:
        n_tokens = min(GREEDY_TOKENS, model.config.n_positions - length)
        for seed in range(100):
            prompt = draw_prompt(model, length, torch.Generator().manual_seed(1000 * length + seed))
            tokens, logprobs, gap = greedy(exact, prompt, n_tokens)
            tokens32, _, gap32 = greedy(model, prompt, n_tokens)
            if min(gap, gap32) >= MIN_GAP and torch.equal(tokens, tokens32) and eos_id not in tokens.tolist():
                break
        else:
            raise RuntimeError(f"{directory}: no prompt of {length} tokens found")
        logits = exact(prompt[None])[0]
        cases.append(
            {
                "prompt": prompt,
                "logits": logits if length <= all_logits_up_to else logits[-1],
                "greedy": tokens,
                "greedy_logprobs": logprobs,
            }
        )
        print(f"{directory}: {length} prompt tokens, seed {seed}, smallest gap {min(gap, gap32):.4f}", flush=True)
    return cases


def sampled_prompt(model, length, generator):
    """A text of the model itself, begun at a random token."""
    first = torch.randint(model.config.vocab_size, (1, 1), generator=generator)
    tokens = list(model.generate(first, length - 1, temperature=1.0, generator=generator))
    return torch.cat([first[0], *tokens])


def random_prompt(model, length, generator):
    """Random tokens, without id 0, the tiny model's eos."""
    return torch.randint(1, model.config.vocab_size, (length,), generator=generator)


# ---------------------------------------------------------------------------------------------------
# The tokenizers.


def write_tokenizer_lines(directory, texts, path):
    """One {"text", "ids"} object per line; each text must come back from its ids."""
    tokenizer = Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))
    with open(path, "w", encoding="utf-8") as file:
        for text in texts:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            if tokenizer.decode(ids, skip_special_tokens=False) != text:
                raise RuntimeError(f"{directory}: {text!r} does not survive the tokenizer")
            file.write(json.dumps({"text": text, "ids": ids}, ensure_ascii=False) + "\n")


def main():
    root = Path(__file__).parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="directory to write")
    parser.add_argument("--shakespeare", default=root / "weights/shakespeare", help="default: %(default)s")
    parser.add_argument("--tiny", default=root / "tests/models/tiny", help="default: %(default)s")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)

    blocks = {
        "layer_norm": layer_norm_cases,
        "linear": linear_cases,
        "gelu_new": gelu_new_cases,
        "softmax": softmax_cases,
        "attention_scores": attention_scores_cases,
        "attention": attention_cases,
        "mlp": mlp_cases,
        "block": block_cases,
    }
    for seed, (name, make_cases) in enumerate(blocks.items()):
        torch.manual_seed(seed)
        save_cases(out / f"{name}.safetensors", make_cases())

    texts = shakespeare_texts(random.Random(1))
    write_tokenizer_lines(arguments.shakespeare, texts, out / "tokenizer_shakespeare.jsonl")
    write_tokenizer_lines(arguments.tiny, tiny_texts(random.Random(2)), out / "tokenizer_tiny.jsonl")

    shakespeare = network_cases(arguments.shakespeare, [1, 6, 17, 40, 56, 200, 255], sampled_prompt, 17)
    save_cases(out / "network_shakespeare.safetensors", shakespeare)
    tiny = network_cases(arguments.tiny, [1, 7, 60, 257, 300, 777, 1500], random_prompt, 7)
    save_cases(out / "network_tiny.safetensors", tiny)


if __name__ == "__main__":
    main()
