"""Layers of the network: time features, attention along the chain, and updates of frames."""

import math
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from fragments import features

WAVES = 4


class Chain(NamedTuple):
    """Frames along a chain: `pos` (B, L, 3) in angstrom and `rot` (B, L, 3, 3)."""

    pos: Tensor
    rot: Tensor


def time_features(t: Tensor) -> Tensor:
    """Waves of a time in [0, 1] and whether it is 0, shape (*t.shape, 2 + 2 WAVES)."""
    frequency = math.pi * 2 ** torch.arange(WAVES, dtype=t.dtype, device=t.device)
    phase = t.unsqueeze(-1) * frequency
    plain = torch.stack((t, (t == 0).to(t)), -1)
    return torch.cat((plain, phase.sin(), phase.cos()), -1)


def small_turn(rotvec: Tensor) -> Tensor:
    """Rotations of the quaternions (1, rotvec/2), normalised: near exp(rotvec), and at most π."""
    half = 0.5 * rotvec
    w = torch.rsqrt(1 + half.square().sum(-1, keepdim=True))
    x, y, z = (half * w).unbind(-1)
    w = w.squeeze(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


@final
class Attention(nn.Module):
    """Attention with a bias from pairs, which also collects the features of the pairs."""

    def __init__(self, width: int, heads: int, pair: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width + heads * pair, width)

    def forward(self, h: Tensor, bias: Tensor, pair: Tensor) -> Tensor:
        """Map h (B, L, W) with bias (B, heads, L, L) and pair (B, L, L, P) to (B, L, W)."""
        q, k, v = self.project(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weight = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]) + bias, -1)
        values = (weight @ v).transpose(1, 2).flatten(-2)
        pairs = (weight.transpose(1, 2) @ pair).flatten(-2)
        return self.out(torch.cat((values, pairs), -1))


@final
class Block(nn.Module):
    """Attention and a two-layer perceptron, both scaled and shifted by the times."""

    def __init__(self, width: int, heads: int, pair: int, condition: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in "ab")
        self.modulate = nn.Linear(condition, 4 * width)
        self.attention = Attention(width, heads, pair)
        self.mlp = nn.Sequential(
            nn.Linear(width, 3 * width), nn.SiLU(), nn.Linear(3 * width, width)
        )
        nn.init.zeros_(self.modulate.weight)

    def forward(self, h: Tensor, bias: Tensor, pair: Tensor, times: Tensor) -> Tensor:
        """Map h (B, L, W) to the same shape; `times` (B, L, condition) are time features."""
        scale_a, shift_a, scale_b, shift_b = self.modulate(times).chunk(4, -1)
        h = h + self.attention(self.norms[0](h) * (1 + scale_a) + shift_a, bias, pair)
        return h + self.mlp(self.norms[1](h) * (1 + scale_b) + shift_b)


@final
class FrameUpdate(nn.Module):
    """Moves and turns each frame: freely, in proportion to its noise, and as its bonds pull."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.Linear(features.LOCAL_SIZE, width)
        self.norm = nn.LayerNorm(width)
        self.free = nn.Linear(width, 6)
        self.pull = nn.Linear(width, 16)
        for layer in (self.free, self.pull):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, h: Tensor, chain: Chain, strain: Tensor, spread: Tensor) -> Chain:
        """Move the chain; `spread` (B, L, 2) scales the free move in Å and the turn in rad."""
        h, movable = self.norm(h), (spread > 0).to(h).unsqueeze(-1)
        size = torch.linalg.vector_norm(strain + 1e-6, dim=-1, keepdim=True)
        force = strain / (1 + size)
        torque = torch.linalg.cross(features.levers().to(force).expand_as(force), force)
        weight = self.pull(h).unflatten(-1, (2, 1, 8))
        pulled = (weight @ torch.stack((force, torque), -3)).squeeze(-2)
        free = self.free(h).unflatten(-1, (2, 3)) * spread.unsqueeze(-1)
        move, turn = (free + pulled * movable).unbind(-2)
        pos = chain.pos + (chain.rot @ move.unsqueeze(-1)).squeeze(-1)
        return Chain(pos, chain.rot @ small_turn(turn))
