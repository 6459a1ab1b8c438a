"""A GPT-2 style decoder-only transformer in plain PyTorch: the twin that pressrun is compared with.

Every building block is one nn.Module with the shapes in its docstring. Attribute names are those of
the Hugging Face GPT-2 checkpoint, so a tensor of the file and a parameter of the model have the same
name; the four Conv1D weights of a layer are stored as [in, out] there and as [out, in] here.

Shape letters: B sequences, T tokens, C width (n_embd), H heads (n_head), D = C / H, V vocabulary.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

# Parameters that Hugging Face's Conv1D stores transposed.
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
PREFIX = "transformer."


@dataclass
class GPTConfig:
    vocab_size: int = 65
    n_positions: int = 256
    n_layer: int = 6
    n_head: int = 6
    n_embd: int = 384
    layer_norm_epsilon: float = 1e-5
    dropout: float = 0.0  # while training only


def gelu_new(x):
    """The tanh approximation of GELU (https://arxiv.org/abs/1606.08415, section 2). Any shape."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def causal_mask(n_queries, n_keys, device=None):
    """[n_queries, n_keys] bool, True where a query sees a key. The last query is the last position."""
    query = torch.arange(n_keys - n_queries, n_keys, device=device)[:, None]
    return torch.arange(n_keys, device=device)[None, :] <= query


def attention_probabilities(q, k):
    """softmax(q k^T / sqrt(D)) under the causal mask: q [..., Tq, D], k [..., Tk, D] -> [..., Tq, Tk]."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
    visible = causal_mask(q.size(-2), k.size(-2), q.device)
    return torch.softmax(scores.masked_fill(~visible, -math.inf), dim=-1)


class KVCache:
    """Keys and values of the positions computed so far, so that each is computed once.

    keys, values: [n_layer, B, H, max_tokens, D], filled up to n_tokens.
    """

    def __init__(self, config, batch_size, max_tokens, dtype=torch.float32, device="cpu"):
        shape = (config.n_layer, batch_size, config.n_head, max_tokens, config.n_embd // config.n_head)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.n_tokens = 0

    def append(self, layer_idx, k, v):
        """Stores k, v [B, H, T, D] behind n_tokens; returns all keys and values of the layer so far.

        n_tokens itself moves once per step, when every layer has appended: GPT.forward does it."""
        end = self.n_tokens + k.size(2)
        self.keys[layer_idx, :, :, self.n_tokens : end] = k
        self.values[layer_idx, :, :, self.n_tokens : end] = v
        return self.keys[layer_idx, :, :, :end], self.values[layer_idx, :, :, :end]


class MultiHeadSelfAttention(nn.Module):
    """Causal self-attention: x [B, T, C] -> [B, T, C]."""

    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # q, k, v side by side
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)

    def split_qkv(self, x):
        """x [B, T, C] -> q, k, v, each [B, H, T, D]."""
        B, T, C = x.shape
        heads = (t.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for t in self.c_attn(x).split(C, dim=2))
        return tuple(heads)

    def merge(self, out):
        """Attention output of all heads [B, H, T, D] -> [B, T, C]."""
        B, H, T, D = out.shape
        return self.resid_dropout(self.c_proj(out.transpose(1, 2).reshape(B, T, H * D)))

    def forward(self, x, cache=None, layer_idx=0):
        q, k, v = self.split_qkv(x)
        n_queries = q.size(2)
        if cache is not None:
            k, v = cache.append(layer_idx, k, v)
        dropout_p = self.dropout if self.training else 0.0
        # The same as attention_probabilities(q, k) @ v, without writing the probabilities.
        if n_queries == k.size(2):
            out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, is_causal=True)
        elif n_queries == 1:
            out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p)
        else:
            mask = causal_mask(n_queries, k.size(2), x.device)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)
        return self.merge(out)


class MLP(nn.Module):
    """Two linear layers with gelu_new between: x [B, T, C] -> [B, T, C], 4C inside."""

    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


class Block(nn.Module):
    """Pre-norm residual block: x [B, T, C] -> [B, T, C]."""

    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = MultiHeadSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x, cache=None, layer_idx=0):
        x = x + self.attn(self.ln_1(x), cache, layer_idx)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Token and position embedding, n_layer blocks, final norm, head tied to the token embedding."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.apply(self._init)
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):  # so that the residual stream's variance does not grow with depth
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer))

    @staticmethod
    def _init(module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def hidden(self, ids, cache=None):
        """ids [B, T] -> the final norm's output [B, T, C]. With a cache, ids follow what it holds."""
        start = cache.n_tokens if cache is not None else 0
        end = start + ids.size(1)
        if end > self.config.n_positions:
            raise ValueError(f"{end} positions, but the model has {self.config.n_positions}")
        positions = torch.arange(start, end, device=ids.device)
        x = self.drop(self.wte(ids) + self.wpe(positions))
        for layer_idx, block in enumerate(self.h):
            x = block(x, cache, layer_idx)
        if cache is not None:
            cache.n_tokens = end
        return self.ln_f(x)

    def forward(self, ids, cache=None):
        """ids [B, T] -> logits [B, T, V]."""
        return F.linear(self.hidden(ids, cache), self.wte.weight)

    def n_parameters(self):
        return sum(parameter.numel() for parameter in self.parameters())

    @torch.no_grad()
    def generate(self, ids, max_tokens, temperature=1.0, top_k=0, generator=None, eos_id=None):
        """Yields the next token of each sequence, [B], up to max_tokens times or the end of the context.

        ids [B, T]; temperature 0 is greedy; top_k 0 keeps all. Stops when every sequence produced eos_id.
        """
        max_tokens = min(max_tokens, self.config.n_positions - ids.size(1))
        parameter = self.wte.weight
        cache = KVCache(self.config, ids.size(0), ids.size(1) + max_tokens, parameter.dtype, parameter.device)
        ended = torch.zeros(ids.size(0), dtype=torch.bool, device=ids.device)
        for _ in range(max_tokens):
            logits = F.linear(self.hidden(ids, cache)[:, -1], parameter).float()
            next_ids = sample(logits, temperature, top_k, generator)
            yield next_ids
            ended |= next_ids == (-1 if eos_id is None else eos_id)
            if ended.all():
                return
            ids = next_ids[:, None]


def sample(logits, temperature=1.0, top_k=0, generator=None):
    """logits [B, V] -> one token id each, [B]."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits / temperature
    if 0 < top_k < logits.size(-1):
        kth = torch.topk(logits, top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -math.inf)
    return torch.multinomial(torch.softmax(logits, dim=-1), 1, generator=generator)[:, 0]


# ---------------------------------------------------------------------------------------------------
# The Hugging Face directory: config.json and safetensors, with or without an index.


def from_directory(directory, dtype=torch.float32, device="cpu"):
    """The model of a directory, in eval mode, its weights converted to dtype."""
    directory = Path(directory)
    with open(directory / "config.json", encoding="utf-8") as file:
        raw = json.load(file)
    if raw.get("model_type") != "gpt2" or raw.get("activation_function", "gelu_new") != "gelu_new":
        raise ValueError(f"{directory}: only GPT-2 with gelu_new is supported")
    config = GPTConfig(
        vocab_size=raw["vocab_size"],
        n_positions=raw["n_positions"],
        n_layer=raw["n_layer"],
        n_head=raw["n_head"],
        n_embd=raw["n_embd"],
        layer_norm_epsilon=raw.get("layer_norm_epsilon", 1e-5),
    )
    state = {}
    for path in sorted(directory.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            name = name.removeprefix(PREFIX)
            state[name] = tensor.t() if name.endswith(TRANSPOSED) else tensor
    model = GPT(config)
    model.load_state_dict(state)
    return model.to(device=device, dtype=dtype).eval()


def save_directory(model, directory, dtype=torch.bfloat16, max_shard_bytes=12_000_000, prefix=PREFIX, eos_id=None):
    """Writes config.json, generation_config.json and the weights, in shards when they exceed max_shard_bytes."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    config = model.config
    write_json(
        directory / "config.json",
        {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "attn_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "resid_pdrop": config.dropout,
            "bos_token_id": eos_id,
            "eos_token_id": eos_id,
            "initializer_range": 0.02,
            "layer_norm_epsilon": config.layer_norm_epsilon,
            "n_ctx": config.n_positions,
            "n_embd": config.n_embd,
            "n_head": config.n_head,
            "n_inner": None,
            "n_layer": config.n_layer,
            "n_positions": config.n_positions,
            "scale_attn_weights": True,
            "tie_word_embeddings": True,
            "torch_dtype": str(dtype).removeprefix("torch."),
            "use_cache": True,
            "vocab_size": config.vocab_size,
        },
    )
    write_json(directory / "generation_config.json", {"bos_token_id": eos_id, "eos_token_id": eos_id})

    shards, shard_bytes = [{}], 0
    for name, tensor in model.state_dict().items():
        tensor = (tensor.t() if name.endswith(TRANSPOSED) else tensor).to("cpu", dtype).contiguous()
        if shards[-1] and shard_bytes + tensor.nbytes > max_shard_bytes:
            shards.append({})
            shard_bytes = 0
        shards[-1][prefix + name] = tensor
        shard_bytes += tensor.nbytes
    for stale in [*directory.glob("*.safetensors"), *directory.glob("*.safetensors.index.json")]:
        stale.unlink()
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for file_name, shard in zip(names, shards):
        save_file(shard, directory / file_name, metadata={"format": "pt"})
        (directory / file_name).chmod(0o644)  # safetensors makes it readable by its owner alone
    if len(shards) == 1:
        return
    total_size = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    weight_map = {name: file_name for file_name, shard in zip(names, shards) for name in sorted(shard)}
    write_json(
        directory / "model.safetensors.index.json",
        {"metadata": {"total_size": total_size}, "weight_map": weight_map},
    )


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
