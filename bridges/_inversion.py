"""Tokens by inversion: the first whose running sum of weights exceeds u times their whole sum.

Running sums are in float64, whatever the weights are in: in float32 they lose every token whose
weight is below 2⁻²⁴ of those before it (Zheng et al., "Masked diffusion models are secretly
time-agnostic masked models and exploit inaccurate categorical sampling", 2024). They are made a
chunk of rows at a time, so that the memory does not grow with the rows; on the CPU a chunk stays
in the cache, and a row then costs little more than the exponentials of its logits.
"""

from typing import Final

import torch
from torch import Tensor

from bridges._device import may_look, widest

CHUNK: Final = 2**18
"""Weights that are summed at once on the CPU: 2 MiB of float64, about its second cache."""

LARGE_CHUNK: Final = 2**22
"""The same on other devices, where fewer and larger kernels are faster."""


def draw_from_weights(weights: Tensor, u: Tensor) -> Tensor:
    """Draw tokens with probabilities in proportion to weights.

    Args:
        weights: shape `(*B, K)`, float64, none negative.
        u: shape `(*B, 1)`, float64, in [0, 1).

    Returns:
        int64 tokens of shape (*B,), none of weight 0; −1 where a row has no positive weight.
    """
    return _first_above(weights.cumsum(-1), u)


def draw_from_logits(logits: Tensor, u: Tensor) -> Tensor:
    """Draw tokens with probabilities softmax(logits).

    Args:
        logits: shape `(*B, K)`, any floating dtype; never written to.
        u: shape `(*B, 1)`, float64, in [0, 1).

    Returns:
        int64 tokens of shape (*B,); −1 where a row is NaN, all −∞ or ∞ somewhere.
    """
    k, logits = logits.shape[-1], logits.detach()
    size = (CHUNK if logits.device.type == "cpu" else LARGE_CHUNK) // k
    if logits.numel() <= size * k:
        return _first_above(_running_sum(logits), u)
    rows, u = logits.reshape(-1, k), u.reshape(-1, 1)
    chunks = zip(torch.split(rows, max(1, size)), torch.split(u, max(1, size)), strict=True)
    tokens = [_first_above(_running_sum(chunk), v) for chunk, v in chunks]
    return torch.cat(tokens).reshape(logits.shape[:-1])


def _running_sum(logits: Tensor) -> Tensor:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    probs = logits.softmax(-1, dtype=dtype).to(widest(logits.device))
    return probs.cumsum_(-1)


def _first_above(cdf: Tensor, u: Tensor) -> Tensor:
    total = cdf[..., -1:]
    token = torch.searchsorted(cdf, u * total, right=True).clamp_(max=cdf.shape[-1] - 1)
    drawn = total > 0  # NaN is not
    if not may_look(drawn) or not bool(drawn.all()):
        token = torch.where(drawn, token, -1)
    return token.squeeze(-1)
