"""Trains a character-level GPT on one text file and writes it as a Hugging Face directory.

    python reference/train.py corpus.txt --out runs/mine

First 90 % of the text is trained on, the last 10 % validates. An exponential moving average (EMA) of
the weights is kept; what is evaluated and saved is that average, rounded to bfloat16, whenever its
validation loss is the best so far. OUT then holds the model directory, a loss curve and a model card;
OUT/checkpoint.pt holds the state that --resume goes on from.
"""

import argparse
import copy
import hashlib
import math
import shlex
import sys
import time
from pathlib import Path

import matplotlib
import torch
from torch.nn import functional as F

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from char_tokenizer import build_vocabulary, save_tokenizer
from evaluate import split_text, window_loss
from model import GPT, GPTConfig, from_directory, save_directory


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("text", help="text file (UTF-8) to train on")
    add("--out", required=True, help="directory to write")
    add("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--compile", action="store_true", help="torch.compile the training step")
    add("--seed", type=int, default=1337)
    add("--n-layer", type=int, default=6)
    add("--n-head", type=int, default=6)
    add("--n-embd", type=int, default=384)
    add("--context", type=int, default=256, help="positions of the model (default: %(default)s)")
    add("--dropout", type=float, default=0.2)
    add("--batch-size", type=int, default=64, help="windows per iteration (default: %(default)s)")
    add("--iterations", type=int, default=5000)
    add("--warmup", type=int, default=100, help="iterations of linear warm-up (default: %(default)s)")
    add("--learning-rate", type=float, default=1e-3)
    add("--final-learning-rate", type=float, default=1e-4)
    add("--weight-decay", type=float, default=0.1)
    add("--beta2", type=float, default=0.99)
    add("--gradient-clip", type=float, default=1.0)
    add("--ema", type=float, default=0.998, help="decay of the averaged weights; 0 disables (default: %(default)s)")
    add("--evaluate-every", type=int, default=100, help="iterations between evaluations (default: %(default)s)")
    add("--checkpoint-every", type=int, default=1000, help="iterations between checkpoints (default: %(default)s)")
    return parser.parse_args()


def learning_rate(iteration, arguments):
    """Linear warm-up, then a cosine down to the final rate."""
    if iteration < arguments.warmup:
        return arguments.learning_rate * (iteration + 1) / arguments.warmup
    progress = (iteration - arguments.warmup) / max(1, arguments.iterations - arguments.warmup)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return arguments.final_learning_rate + cosine * (arguments.learning_rate - arguments.final_learning_rate)


def batch_of(ids, iteration, arguments):
    """Random windows of ids [N]: inputs and their successors, both [B, T].

    Drawn from (seed, iteration) alone, so a resumed run sees the batches of an uninterrupted one."""
    generator = torch.Generator().manual_seed(arguments.seed * 1_000_003 + iteration)
    starts = torch.randint(ids.numel() - arguments.context, (arguments.batch_size, 1), generator=generator)
    offsets = torch.arange(arguments.context + 1)
    windows = ids[(starts + offsets).to(ids.device)]
    return windows[:, :-1], windows[:, 1:]


def make_optimizer(model, arguments):
    """AdamW; matrices and embeddings decay, biases and norms do not."""
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": decayed, "weight_decay": arguments.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = arguments.device.startswith("cuda")
    return torch.optim.AdamW(groups, lr=arguments.learning_rate, betas=(0.9, arguments.beta2), fused=fused)


@torch.no_grad()
def update_average(average, model, decay):
    """average <- decay * average + (1 - decay) * model, parameter by parameter."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - decay)


def rounded_to_bfloat16(model):
    """A float32 copy with the values that the saved weights will have."""
    return copy.deepcopy(model).to(torch.bfloat16).to(torch.float32)


def plot_losses(history, path):
    """history: rows (iteration, training loss, validation loss)."""
    iterations, training, validation = zip(*history)
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.plot(iterations, training, label="training (mean since the last evaluation, with dropout)")
    axes.plot(iterations, validation, label="validation (averaged weights in bfloat16)")
    best = min(history, key=lambda row: row[2])
    axes.plot(best[0], best[2], "ko", markersize=4, label=f"saved: {best[2]:.4f} at {best[0]}")
    axes.set(xlabel="iteration", ylabel="loss (nats per character)", ylim=(1.0, 2.6))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_model_card(directory, arguments, vocabulary, best, command):
    """README.md of the directory: how it was made, what it reaches, what it writes."""
    text_bytes = Path(arguments.text).read_bytes()
    model = from_directory(directory, device=arguments.device)
    characters = {idx: character for character, idx in vocabulary.items()}
    samples = []
    for seed, prompt in enumerate(["ROMEO:\n", "First Citizen:\n", "\n"]):
        if not all(character in vocabulary for character in prompt):
            continue
        torch.manual_seed(seed)
        ids = torch.tensor([[vocabulary[character] for character in prompt]], device=arguments.device)
        length = arguments.context - ids.size(1)
        tokens = [int(token) for token in model.generate(ids, length, temperature=0.8)]
        samples.append(prompt + "".join(characters[token] for token in tokens))
    blocks = "\n\n".join("```\n" + sample.strip("\n") + "\n```" for sample in samples)
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else arguments.device
    shape = (
        f"{arguments.n_layer} layers, {arguments.n_head} heads, {arguments.n_embd} wide, context {arguments.context}"
    )
    card = f"""# {Path(directory).name}

A character-level GPT-2 trained on {Path(arguments.text).stem}: {shape}, {model.n_parameters():,}
parameters in bfloat16, {len(vocabulary)} characters, no special tokens.
Made to run and test pressrun on something real; it writes lines that look like its training text, and knows
nothing else.

| | |
|---|---|
| validation loss | {best[2]:.4f} nats per character (iteration {best[0]}, chosen by this loss) |
| measured | last 10 % of the text, windows of {arguments.context} that do not overlap, these weights in float32 |
| training text | {len(text_bytes):,} bytes, SHA-256 `{hashlib.sha256(text_bytes).hexdigest()}` |
| seed | {arguments.seed} |
| device | {device}, PyTorch {torch.__version__} |

Training command, from the repository's root:

    {command}

The same command with the same text gives a model as good, not the same bits: GPU reductions are not ordered.
To measure the loss again: `python reference/evaluate.py {directory} {Path(arguments.text).name}`.

![loss curve](loss_curve.png)

## Samples (temperature 0.8)

{blocks}
"""
    (Path(directory) / "README.md").write_text(card, encoding="utf-8")


def main():
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    out = Path(arguments.out)
    checkpoint_path = out / "checkpoint.pt"

    text = Path(arguments.text).read_text(encoding="utf-8")
    vocabulary = build_vocabulary(text)
    training_text, validation_text = split_text(text)
    training_ids, validation_ids = (
        torch.tensor([vocabulary[character] for character in part], device=arguments.device)
        for part in (training_text, validation_text)
    )
    config = GPTConfig(
        vocab_size=len(vocabulary),
        n_positions=arguments.context,
        n_layer=arguments.n_layer,
        n_head=arguments.n_head,
        n_embd=arguments.n_embd,
        dropout=arguments.dropout,
    )
    model = GPT(config).to(arguments.device)
    average = copy.deepcopy(model).eval()
    optimizer = make_optimizer(model, arguments)
    history = []
    start = 0
    if arguments.resume:
        state = torch.load(checkpoint_path, map_location=arguments.device, weights_only=True)
        wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
        if {name: tensor.shape for name, tensor in state["model"].items()} != wanted:
            sys.exit(f"{checkpoint_path}: a model of another shape; give the text and options of its beginning")
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start, history = state["iteration"], [tuple(row) for row in state["history"]]
        torch.manual_seed(arguments.seed + start)  # other dropout masks than the first iterations had
    print(f"{model.n_parameters():,} parameters, {len(vocabulary)} characters, {training_ids.numel():,} to train on")
    save_tokenizer(vocabulary, out, arguments.context)

    step = torch.compile(model) if arguments.compile else model
    device_type = arguments.device.split(":")[0]
    use_bfloat16 = device_type == "cuda"
    best = min(history, key=lambda row: row[2], default=None)
    loss_sum = torch.zeros((), device=arguments.device)
    n_losses = 0
    started = time.perf_counter()
    for iteration in range(start, arguments.iterations):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(iteration, arguments)
        x, y = batch_of(training_ids, iteration, arguments)
        with torch.autocast(device_type, dtype=torch.bfloat16, enabled=use_bfloat16):
            loss = F.cross_entropy(step(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), arguments.gradient_clip)
        optimizer.step()
        # Early on the average must follow quickly: its window grows with the iterations done.
        update_average(average, model, min(arguments.ema, iteration / (iteration + 10)))
        loss_sum += loss.detach()
        n_losses += 1

        done = iteration + 1
        if done % arguments.evaluate_every == 0 or done == arguments.iterations:
            rounded = rounded_to_bfloat16(average)
            row = (done, loss_sum.item() / n_losses, window_loss(rounded, validation_ids))
            loss_sum.zero_()
            n_losses = 0
            history.append(row)
            is_best = best is None or row[2] < best[2]
            if is_best:
                best = row
                save_directory(average, out)
            seconds = time.perf_counter() - started
            remaining = seconds / (done - start) * (arguments.iterations - done)
            print(
                f"iteration {done:6d}/{arguments.iterations}  training {row[1]:.4f}  validation {row[2]:.4f}"
                f"{' *' if is_best else '  '}  {seconds:6.0f} s, {remaining:.0f} s to go",
                flush=True,
            )
        if done % arguments.checkpoint_every == 0 or done == arguments.iterations:
            state = {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "iteration": done,
                "history": history,
            }
            temporary = checkpoint_path.with_suffix(".tmp")
            torch.save(state, temporary)
            temporary.replace(checkpoint_path)
            plot_losses(history, out / "loss_curve.png")

    command = "python " + shlex.join(sys.argv)
    plot_losses(history, out / "loss_curve.png")
    write_model_card(out, arguments, vocabulary, best, command)
    print(f"best validation loss {best[2]:.4f} at iteration {best[0]}; written to {out}")


if __name__ == "__main__":
    main()
