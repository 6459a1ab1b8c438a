"""transformers' side of the comparison for other shapes: new tokens per second of generate().

    python reference/bench_generate.py configs/models/llama-3.2-1b --batch-sizes 1,64,256

Random weights of a config.json in bfloat16, random prompts of equal length, greedy, no stop token; a static KV
cache, with which transformers compiles its decode step on a GPU. Prefill is part of the time. Warm-up (compilation
included) is not timed; each figure is the median over --repeats runs. Beside it:

    build/pressrun bench --model-config configs/models/llama-3.2-1b --prompt-tokens 128 --new-tokens 128
"""

import argparse
import json
import statistics
import time

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("directory", help="folder of a config.json")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--batch-sizes", default="1,64,256", help="comma-separated (default: %(default)s)")
    add("--prompt-tokens", type=int, default=128, help="per sequence (default: %(default)s)")
    add("--new-tokens", type=int, default=128, help="per sequence (default: %(default)s)")
    add("--repeats", type=int, default=3, help="timed runs (default: %(default)s)")
    add("--warmup", type=int, default=2, help="runs before them (default: %(default)s)")
    add("--json", metavar="FILE", help="also write one JSON row per result")
    arguments = parser.parse_args()
    arguments.batch_sizes = [int(size) for size in arguments.batch_sizes.split(",")]
    return arguments


def random_model(arguments):
    """-> a causal language model of the config, in bfloat16, on the device."""
    config = AutoConfig.from_pretrained(arguments.directory)
    torch.manual_seed(0)
    with torch.device(arguments.device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.eval()


def measure(model, batch_size, arguments):
    """Seconds of each timed run of generate(), until all tokens are on the host."""
    torch.compiler.reset()  # what other batch sizes have compiled serves any
    ids = torch.randint(model.config.vocab_size, (batch_size, arguments.prompt_tokens), device=arguments.device)
    seconds = []
    for run in range(arguments.warmup + arguments.repeats):
        began = time.perf_counter()
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=arguments.new_tokens,
            eos_token_id=None,
            pad_token_id=0,
            cache_implementation="static",
        ).cpu()
        if run >= arguments.warmup:
            seconds.append(time.perf_counter() - began)
        assert out.size(1) == arguments.prompt_tokens + arguments.new_tokens
    return seconds


def main():
    arguments = parse_arguments()
    on_gpu = arguments.device.startswith("cuda")
    device = torch.cuda.get_device_name(arguments.device) if on_gpu else arguments.device
    model = random_model(arguments)
    rows = []
    print(f"{device}, transformers {transformers.__version__}, torch {torch.__version__}, {arguments.directory}")
    print(f"{'batch':>6} {'median s':>9} {'min s':>9} {'tokens/s':>11}")
    for batch_size in arguments.batch_sizes:
        seconds = measure(model, batch_size, arguments)
        median = statistics.median(seconds)
        row = {
            "bench": "transformers",
            "device": device,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "model": arguments.directory,
            "dtype": "bfloat16",
            "batch_size": batch_size,
            "prompt_tokens": arguments.prompt_tokens,
            "new_tokens": arguments.new_tokens,
            "median_s": median,
            "min_s": min(seconds),
            "tokens_per_s": batch_size * arguments.new_tokens / median,
        }
        rows.append(row)
        print(f"{batch_size:6d} {median:9.3f} {min(seconds):9.3f} {row['tokens_per_s']:11,.0f}", flush=True)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
