"""Losses: weights, masks and reduction. The error itself is the process's.

Each element's error is divided by the process's loss scale at its time, which keeps the spaces in
balance and lets high noise weigh somewhat more, and averaged over the elements that count.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from bridges._shapes import State, Time, expand_leading, leaves, map_structure
from bridges.process import Process


@final
@dataclass(frozen=True)
class Loss:
    """A loss and what it was made from.

    Attributes:
        total: the scalar to minimise, the sum of the parts.
        parts: a scalar per part, sum over count; for a Joint, a structure like the state's.
        sums: the weighted errors summed, per part.
        counts: how many elements were summed, per part. Add sums and counts up over devices.
    """

    total: Tensor
    parts: Any
    sums: Any
    counts: Any


def standardloss(
    process: Process,
    t: Time,
    prediction: Any,
    x_0: State,
    *,
    x_t: State | None = None,
    scaler: Callable[[Process, Time], Any] | None = None,
    mask: Any = None,
) -> Loss:
    """Return the loss of a prediction of x_0 made at time t.

    Args:
        process: the process that noised x_0.
        t: the time of the noise; elements at t = 0 are not counted.
        prediction: what the model said, in the structure of the state.
        x_0: the clean state.
        x_t: the noised state, for predictions that need it.
        scaler: `scaler(process, t)` gives what to divide the error by, in the shape of t (for a
            Joint, a structure); None for `process.loss_scale(t)`, Diffusions.jl's default.
        mask: bool over a leading part of the batch (for a Joint, one for all or a structure).
            Elements that it leaves out are not counted, whatever stands in them. It multiplies
            with the process's own mask.

    Returns:
        A `Loss`. A part without a counted element is 0.

    Raises:
        TypeError, ValueError: if a state, a time or a prediction is not what the process expects.

    >>> from bridges import Joint, OrnsteinUhlenbeckDiffusion, UniformDiscreteDiffusion
    >>> process = Joint(OrnsteinUhlenbeckDiffusion(0.0), UniformDiscreteDiffusion(1.0, 5))
    >>> x_0 = torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)
    >>> standardloss(process, torch.rand(4), (torch.zeros(4, 3), torch.zeros(4, 5)), x_0).counts
    (tensor(12), tensor(4))
    """
    if mask is not None:
        process = process.where(mask)
    process._check_clean(x_0, "x_0")
    (expanded,) = process._times(x_0, t=t)
    counted = process._counted(x_0, expanded)
    error = process.where(counted)._error(prediction, x_0, x_t, expanded)
    scale = process.loss_scale(t) if scaler is None else scaler(process, t)
    scale = scale if _alike(scale, error) else map_structure(lambda e: scale, error)
    sums = map_structure(_weighted_sum, error, scale, counted)
    counts = map_structure(lambda c: c.sum(), counted)
    parts = map_structure(lambda total, n: total / n.clamp(min=1), sums, counts)
    return Loss(sum(leaves(parts), torch.zeros(())), parts, sums, counts)


def _alike(scale: Any, error: Any) -> bool:
    return isinstance(scale, dict | tuple) == isinstance(error, dict | tuple)


def _weighted_sum(error: Tensor, scale: Any, counted: Tensor) -> Tensor:
    scale = torch.as_tensor(scale, device=error.device)
    scale = expand_leading(scale.to(error.dtype), error.ndim).expand_as(error)
    kept = torch.where(counted, error, torch.zeros_like(error))
    scaled = kept / torch.where(counted, scale, torch.ones_like(scale))
    return scaled.sum(dtype=torch.promote_types(error.dtype, torch.float32))
