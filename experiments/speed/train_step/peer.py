"""The decoder of effllm's defaults (RMS norm, rotary positions, causal attention, SwiGLU) written in plain PyTorch, and its training step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """Of a batch and of the model that it trains."""

    batch: int
    length: int
    vocab: int
    width: int
    depth: int
    heads: int
    hidden: int


def batch(shape: Shape) -> dict[str, Any]:
    """One batch of random tokens, as both frameworks take it: numpy arrays by name."""
    import numpy as np

    tokens = np.random.default_rng(0).integers(1, shape.vocab, (shape.batch, shape.length + 1)).astype(np.int32)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segment_ids": np.ones((shape.batch, shape.length), np.int32),
        "positions": np.broadcast_to(np.arange(shape.length, dtype=np.int32), (shape.batch, shape.length)),
        "weights": np.ones((shape.batch, shape.length), np.float32),
    }


def decoder(shape: Shape):
    """A torch Module: tokens (B, T) -> logits (B, T, V)."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    def rotate(x, cos, sin):
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            width, hidden = shape.width, shape.hidden
            self.mixer_norm, self.ffn_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
            self.qkv, self.output = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
            self.gate, self.up, self.down = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)

        def forward(self, x, cos, sin):
            rows, length, width = x.shape
            q, k, v = self.qkv(self.mixer_norm(x)).view(rows, length, 3, shape.heads, width // shape.heads).permute(2, 0, 3, 1, 4)
            q, k = (rotate(a, cos.to(a.dtype), sin.to(a.dtype)) for a in (q, k))
            x = x + self.output(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(rows, length, width))
            h = self.ffn_norm(x)
            return x + self.down(F.silu(self.gate(h)) * self.up(h))

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.layers = nn.Embedding(shape.vocab, shape.width), nn.ModuleList(Layer() for _ in range(shape.depth))
            self.norm, self.head = nn.RMSNorm(shape.width, eps=1e-6), nn.Linear(shape.width, shape.vocab, bias=False)
            half = shape.width // shape.heads // 2
            angle = torch.arange(shape.length)[:, None] * 10000.0 ** (-torch.arange(half) / half)
            self.register_buffer("cos", angle.cos())
            self.register_buffer("sin", angle.sin())

        def forward(self, tokens):
            x = self.embed(tokens)
            for layer in self.layers:
                x = layer(x, self.cos, self.sin)
            return self.head(self.norm(x))

    torch.manual_seed(0)
    return Decoder()


def optimizer(model, **options):
    """AdamW as effllm's default has it."""
    import torch

    return torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, **options)


def update(model, loss, optimizer) -> Callable[[], Any]:
    """A training step of loss() with clipping, which returns the loss where it lies."""
    from torch import nn

    def step():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return value.detach()

    return step
