"""Recomputes in float32 the log-probability of every token of a pressrun output file.

    python reference/rescore.py weights/shakespeare out/shakespeare.jsonl.gz --prompts jobs/openings.txt

The job must have asked for `logprobs` (0 or more), so that records carry `token_ids` and `logprobs`:

    "token_ids": [id, ...],
    "logprobs": {"token_logprobs": [logprob, ...], "top": [[[id, logprob], ...], ...]}

A record's prompt is its own `prompt_token_ids` where it has them, else line `line` of --prompts (one
prompt per line, or JSON Lines with `prompt_token_ids` or `prompt`; .gz of either). Log-probabilities are
natural, of the whole vocabulary, before penalties and temperature.

Records of a job with `mode: score` carry `prompt_logprobs` and `perplexity` instead, and are compared likewise.

For float32 output the default tolerance of 1e-3 holds for every token. For bfloat16:

    --tolerance 0.2 --quantile 0.99 --quantile-tolerance 3e-2

Prints one summary line; exits with 1 when a limit is exceeded or nothing was compared.
"""

import argparse
import gzip
import json
import math
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer

from model import from_directory

BATCH_TOKENS = 16384


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("directory", help="model directory in Hugging Face layout")
    add("output", help="output file of pressrun (.jsonl or .jsonl.gz)")
    add("--prompts", help="the job's prompt file")
    add("--prompt-field", default="prompt", help="field of a .jsonl prompt (default: %(default)s)")
    add("--tolerance", type=float, default=1e-3, help="largest difference allowed (default: %(default)s)")
    add("--quantile", type=float, default=0.99, help="share within --quantile-tolerance (default: %(default)s)")
    add("--quantile-tolerance", type=float, help="default: the same as --tolerance")
    add("--greedy", action="store_true", help="each token must also be within these limits of the most likely one")
    add("--limit", type=int, help="compare the first LIMIT records only")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if arguments.quantile_tolerance is None:
        arguments.quantile_tolerance = arguments.tolerance
    return arguments


def open_text(path):
    opener = gzip.open if str(path).endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8", newline="\n")


def read_prompts(path, prompt_field, wanted):
    """-> {line: list of token ids, or text} for the wanted 1-based lines."""
    is_jsonl = str(path).removesuffix(".gz").endswith(".jsonl")
    prompts = {}
    with open_text(path) as file:
        for line, text in enumerate(file, start=1):
            if line not in wanted:
                continue
            text = text.removesuffix("\n").removesuffix("\r")
            if is_jsonl:
                row = json.loads(text)
                prompts[line] = row["prompt_token_ids"] if "prompt_token_ids" in row else row[prompt_field]
            else:
                prompts[line] = text
    return prompts


def prompt_ids_of(record, prompts, tokenizer):
    """The token ids that the model saw as the record's prompt: the last ones where it was truncated."""
    prompt = record.get("prompt_token_ids", prompts.get(record["line"]))
    if prompt is None:
        raise ValueError("no prompt for it; is --prompts missing?")
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids if isinstance(prompt, str) else prompt
    used = record["usage"]["prompt_tokens"]
    if not 0 < used <= len(ids):
        raise ValueError(f"usage.prompt_tokens is {used}, the prompt has {len(ids)} tokens")
    return ids[len(ids) - used :]


def check_shape(record, vocab_size):
    """The record's fields must fit together before they are compared."""
    ids, logprobs = record.get("token_ids"), record.get("logprobs")
    if ids is None or logprobs is None:
        raise ValueError("no token_ids and logprobs; the job must ask for `logprobs`")
    if not len(ids) == len(logprobs["token_logprobs"]) == record["usage"]["completion_tokens"]:
        raise ValueError("token_ids, token_logprobs and usage.completion_tokens have different lengths")
    if not all(0 <= token < vocab_size for token in ids):
        raise ValueError("a token id is outside the vocabulary")
    top = logprobs.get("top")
    if top is not None and len(top) != len(ids):
        raise ValueError("logprobs.top and token_ids have different lengths")


def as_answer(record, ids):
    """A scored record as (prompt ids, record) of which the prompt is the first token and the answer the rest."""
    logprobs = record["prompt_logprobs"]
    if len(logprobs) != len(ids) or logprobs[0] is not None:
        raise ValueError("prompt_logprobs are not null and one for each further prompt token")
    if len(ids) > 1 and abs(math.log(record["perplexity"]) + sum(logprobs[1:]) / (len(ids) - 1)) > 1e-5:
        raise ValueError("the perplexity is not that of the prompt_logprobs")
    return ids[:1], record | {"token_ids": ids[1:], "logprobs": {"token_logprobs": logprobs[1:]}}


def batches(items):
    """Items (prompt ids, record) in groups of similar length, at most BATCH_TOKENS with their padding."""
    batch = []
    for item in sorted(items, key=lambda item: len(item[0]) + len(item[1]["token_ids"])):
        length = len(item[0]) + len(item[1]["token_ids"])
        if batch and (len(batch) + 1) * length > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


@torch.inference_mode()
def compare(model, items, device):
    """-> four 1-D tensors: differences of the tokens, of the top lists, how far each token is below the best
    one, and the line of each token."""
    token_errors, top_errors, below_best, lines = [], [], [], []
    for batch in batches(items):
        # Padding on the right changes nothing before it: attention is causal.
        sequences = [torch.tensor(prompt + record["token_ids"]) for prompt, record in batch]
        ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True).to(device)
        logprobs = torch.log_softmax(model(ids[:, :-1]), dim=-1).cpu()
        for (prompt, record), row in zip(batch, logprobs):
            tokens = torch.tensor(record["token_ids"])
            row = row[len(prompt) - 1 : len(prompt) - 1 + len(tokens)]  # [n_tokens, V]
            expected = row.gather(1, tokens[:, None])[:, 0]
            token_errors.append((torch.tensor(record["logprobs"]["token_logprobs"]) - expected).abs())
            below_best.append(row.max(dim=1).values - expected)
            lines.append(torch.full_like(tokens, record["line"]))
            for i, candidates in enumerate(record["logprobs"].get("top") or []):
                for token, logprob in candidates:
                    top_errors.append(abs(logprob - row[i, token].item()))
    return torch.cat(token_errors), torch.tensor(top_errors), torch.cat(below_best), torch.cat(lines)


def main():
    arguments = parse_arguments()
    directory = Path(arguments.directory)
    model = from_directory(directory, device=arguments.device)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))

    with open_text(arguments.output) as file:
        records = [json.loads(line) for line in file]
    failed_records = sum("error" in record for record in records)
    records = [record for record in records if "error" not in record][: arguments.limit]
    prompts = {}
    if arguments.prompts:
        wanted = {record["line"] for record in records}
        prompts = read_prompts(arguments.prompts, arguments.prompt_field, wanted)
    items = []
    for record in records:
        try:
            if "prompt_logprobs" in record:
                prompt, record = as_answer(record, prompt_ids_of(record, prompts, tokenizer))
            else:
                check_shape(record, model.config.vocab_size)
                prompt = prompt_ids_of(record, prompts, tokenizer)
            if len(prompt) + len(record["token_ids"]) > model.config.n_positions + 1:
                raise ValueError("prompt and completion are longer than the model's context")
        except (KeyError, ValueError) as error:
            sys.exit(f"rescore: line {record.get('line')}, sample {record.get('sample')}: {error}")
        if record["token_ids"]:
            items.append((prompt, record))
    if not items:
        sys.exit("rescore: no record to compare")

    token_errors, top_errors, below_best, lines = compare(model, items, arguments.device)
    checks = [("token", token_errors, True)]
    if len(top_errors):
        checks.append(("top", top_errors, False))
    if arguments.greedy:
        checks.append(("below the best", below_best, True))
    good, parts = True, []
    for name, errors, check_quantile in checks:
        errors = errors.nan_to_num(nan=float("inf")).sort().values
        quantile = errors[min(len(errors) - 1, int(arguments.quantile * len(errors)))].item()
        good &= errors[-1].item() <= arguments.tolerance
        good &= not check_quantile or quantile <= arguments.quantile_tolerance
        parts.append(f"{name} max {errors[-1].item():.2e}, {100 * arguments.quantile:g} % within {quantile:.2e}")
    worst = lines[token_errors.nan_to_num(nan=float("inf")).argmax()].item()
    print(
        f"{'ok' if good else 'FAILED'}: {len(token_errors)} tokens of {len(items)} records"
        f" ({failed_records} with an error skipped): {'; '.join(parts)}; worst at line {worst}"
    )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
