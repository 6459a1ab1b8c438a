"""PyTorch's side of every comparison: seconds for 100 greedy tokens from one, on a model directory.

    python reference/bench.py weights/shakespeare --device cuda --batch-sizes 1,64,1024
    python reference/bench.py weights/shakespeare --device cpu --threads 2

Variants, fastest last:
  no-cache   eager, every step recomputes all positions (how such a model is usually prompted)
  cache      eager, KV cache
  compiled   static KV cache, torch.compile, and on a GPU one CUDA graph per step that is replayed;
             tokens stay on the device between steps
  fused      compiled, with attention of one query written out, which the compiler makes its own kernels of:
             scaled_dot_product_attention is made for many queries, and slow for one of each of many sequences

Which of the last two is faster depends on the batch size. Warm-up (compilation included) is not timed; each
figure is the median over --repeats runs.
"""

import argparse
import json
import platform
import statistics
import time

import torch
from torch.nn import functional as F

from model import KVCache, from_directory

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("directory", help="model directory in Hugging Face layout")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--variants", help="comma-separated (default: all; on a CPU: cache)")
    add("--dtypes", help="comma-separated (default: float32,bfloat16; on a CPU: float32)")
    add("--batch-sizes", default="1,64", help="comma-separated (default: %(default)s)")
    add("--tokens", type=int, default=100, help="new tokens per sequence (default: %(default)s)")
    add("--repeats", type=int, default=7, help="timed runs (default: %(default)s)")
    add("--warmup", type=int, default=2, help="runs before them (default: %(default)s)")
    add("--threads", type=int, default=2, help="CPU threads of PyTorch (default: %(default)s)")
    add("--json", metavar="FILE", help="also write one JSON row per result")
    arguments = parser.parse_args()
    on_cpu = arguments.device == "cpu"
    arguments.variants = (arguments.variants or ("cache" if on_cpu else ",".join(VARIANTS))).split(",")
    arguments.dtypes = (arguments.dtypes or ("float32" if on_cpu else "float32,bfloat16")).split(",")
    arguments.batch_sizes = [int(size) for size in arguments.batch_sizes.split(",")]
    return arguments


class NoCache:
    """Every step runs the whole sequence so far through the model."""

    def __init__(self, model, batch_size, n_tokens):
        self.model, self.n_tokens = model, n_tokens
        self.first = torch.ones(batch_size, 1, dtype=torch.long, device=model.wte.weight.device)

    def generate(self):
        """-> [B, 1 + n_tokens]."""
        ids = self.first
        for _ in range(self.n_tokens):
            logits = F.linear(self.model.hidden(ids)[:, -1:], self.model.wte.weight)
            ids = torch.cat([ids, logits.argmax(dim=-1)], dim=1)
        return ids


class Cache(NoCache):
    """Every step runs one token; keys and values of the others come from the cache."""

    def generate(self):
        """-> [B, 1 + n_tokens]."""
        weight = self.model.wte.weight
        batch_size = self.first.size(0)
        cache = KVCache(self.model.config, batch_size, 1 + self.n_tokens, weight.dtype, weight.device)
        ids = [self.first]
        for _ in range(self.n_tokens):
            ids.append(self.model(ids[-1], cache).argmax(dim=-1))
        return torch.cat(ids, dim=1)


class Compiled:
    """A step with fixed shapes on buffers that stay: compiled, and captured as a CUDA graph on a GPU."""

    def __init__(self, model, batch_size, n_tokens):
        config, weight = model.config, model.wte.weight
        self.model, self.n_tokens = model, n_tokens
        max_tokens = (1 + n_tokens + 63) // 64 * 64
        cache = KVCache(config, batch_size, max_tokens, weight.dtype, weight.device)
        # A tensor per layer: of one for all layers the compiled step would copy the whole for every layer.
        self.keys = [layer.clone() for layer in cache.keys]
        self.values = [layer.clone() for layer in cache.values]
        self.ids = torch.ones(batch_size, max_tokens, dtype=torch.long, device=weight.device)
        self.position = torch.zeros(1, dtype=torch.long, device=weight.device)
        self.key_positions = torch.arange(max_tokens, device=weight.device)
        self.step = torch.compile(self.step_eager, fullgraph=True)
        self.graph = None
        if weight.is_cuda:
            self.capture()

    def step_eager(self):
        """ids[:, position] -> ids[:, position + 1]; position moves on by one."""
        model, position = self.model, self.position
        x = model.wte(self.ids.index_select(1, position)) + model.wpe(position)
        visible = (self.key_positions <= position)[None, None, None, :]
        for layer_idx, block in enumerate(model.h):
            q, k, v = block.attn.split_qkv(block.ln_1(x))
            keys, values = self.keys[layer_idx], self.values[layer_idx]
            keys.index_copy_(2, position, k)
            values.index_copy_(2, position, v)
            out = self.attention(q, keys, values, visible)
            x = x + block.attn.merge(out)
            x = x + block.mlp(block.ln_2(x))
        logits = F.linear(model.ln_f(x), model.wte.weight)
        self.ids.index_copy_(1, position + 1, logits.argmax(dim=-1))
        self.position += 1

    def attention(self, q, k, v, visible):
        """q [B, H, 1, D]; k, v [B, H, T, D]; visible [1, 1, 1, T] -> [B, H, 1, D]."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)

    def capture(self):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()

    def generate(self):
        """-> [B, 1 + n_tokens]."""
        self.position.zero_()
        step = self.graph.replay if self.graph else self.step
        for _ in range(self.n_tokens):
            step()
        return self.ids[:, : 1 + self.n_tokens]


class Fused(Compiled):
    """The same, with attention as sums of products, in float32."""

    def attention(self, q, k, v, visible):
        """As in Compiled."""
        scores = (q.float() * k.float()).sum(dim=-1, keepdim=True) * q.size(-1) ** -0.5
        weights = scores.masked_fill(~visible.transpose(-2, -1), float("-inf")).softmax(dim=-2)
        return (weights * v.float()).sum(dim=-2, keepdim=True).to(q.dtype)


VARIANTS = {"no-cache": NoCache, "cache": Cache, "compiled": Compiled, "fused": Fused}


def measure(generator, arguments):
    """Seconds of each timed run, the tokens fetched to the host included."""
    seconds = []
    for run in range(arguments.warmup + arguments.repeats):
        if arguments.device.startswith("cuda"):
            torch.cuda.synchronize()
        started = time.perf_counter()
        ids = generator.generate().cpu()
        if run >= arguments.warmup:
            seconds.append(time.perf_counter() - started)
    return seconds, ids


@torch.inference_mode()
def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else platform.machine()
    print(f"{arguments.directory}, {arguments.tokens} new tokens from one; {device}, PyTorch {torch.__version__}")
    print(f"{'variant':10} {'dtype':9} {'batch':>6} {'median ms':>10} {'min ms':>9} {'tokens/s':>11}")
    rows = []
    for dtype in arguments.dtypes:
        model = from_directory(arguments.directory, DTYPES[dtype], arguments.device)
        for batch_size in arguments.batch_sizes:
            expected = None
            for variant in arguments.variants:
                torch.compiler.reset()
                seconds, ids = measure(VARIANTS[variant](model, batch_size, arguments.tokens), arguments)
                if dtype == "float32" and expected is not None and not torch.equal(ids, expected):
                    print(f"note: {variant} wrote other tokens than {arguments.variants[0]}")
                expected = ids if expected is None else expected
                median = statistics.median(seconds)
                row = {
                    "variant": variant,
                    "dtype": dtype,
                    "batch_size": batch_size,
                    "new_tokens": arguments.tokens,
                    "median_s": median,
                    "min_s": min(seconds),
                    "tokens_per_s": batch_size * arguments.tokens / median,
                    "repeats": arguments.repeats,
                    "threads": arguments.threads,
                    "device": device,
                    "torch": torch.__version__,
                }
                rows.append(row)
                print(
                    f"{variant:10} {dtype:9} {batch_size:6d} {1e3 * median:10.2f} {1e3 * min(seconds):9.2f}"
                    f" {row['tokens_per_s']:11,.0f}",
                    flush=True,
                )
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
