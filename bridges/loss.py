"""Losses: weights, masks and reduction. The error itself is the process's.

Each element's error is divided by the process's loss scale at its time, which keeps the spaces in
balance and lets high noise weigh somewhat more, and averaged over the elements that count.
"""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from bridges._precision import at_least_float32, exact, widened
from bridges._shapes import State, Time, describe, expand_leading, leaves, map_structure
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
        elements: the weighted error of each element, shape `(*B,)`, per part; 0 if not counted.
    """

    total: Tensor
    parts: Any
    sums: Any
    counts: Any
    elements: Any


@exact
def standardloss(
    process: Process,
    t: Time,
    prediction: Any,
    x_0: State,
    *,
    x_t: State | None = None,
    scaler: Any = None,
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
            Joint, a structure), such as the weights of `bridges.weight`; None for
            `process.loss_scale(t)`, Diffusions.jl's default. For a Joint also a structure of such
            functions, each called with its part.
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
    noised = process if mask is None else process.where(mask)
    noised._check_clean(x_0, "x_0")
    if x_t is not None:
        noised._check(x_t, "x_t")
        noised._check_alike(x_0, x_t)
    (expanded,) = noised._times(x_0, t=t)
    counted = noised._counted(x_0, expanded)
    ends = widened(x_0), None if x_t is None else widened(x_t)
    error = process.where(counted)._error(prediction, *ends, expanded)
    scale = _scale(scaler, process, t)
    scale = scale if _alike(scale, error) else map_structure(lambda e: scale, error)
    elements = map_structure(_weighted, error, scale, counted)
    sums = map_structure(lambda e: e.sum(), elements)
    counts = map_structure(lambda c: c.sum(), counted)
    parts = map_structure(lambda total, n: total / n.clamp(min=1), sums, counts)
    first, *rest = leaves(parts)
    return Loss(sum(rest, first), parts, sums, counts, elements)


def _scale(scaler: Any, process: Process, t: Time) -> Any:
    """Return what to divide by: what the scaler says, or those of the parts."""
    if isinstance(scaler, dict | tuple):
        scaler, t = process._spread(scaler, "scaler"), process._spread(t, "the time t")
        return process._each(_own_scale, scaler, t)
    return _own_scale(process, scaler, t)


def _own_scale(process: Process, scaler: Any, t: Time) -> Any:
    if scaler is None:
        return process.loss_scale(t)
    if not callable(scaler):
        raise TypeError(f"Expected scaler to be callable; got {describe(scaler)}.")
    return scaler(process, t)


def _alike(scale: Any, error: Any) -> bool:
    return isinstance(scale, dict | tuple) == isinstance(error, dict | tuple)


def _weighted(error: Tensor, scale: Any, counted: Tensor) -> Tensor:
    """Divide by the scale, at least in float32, and put 0 where an element is not counted."""
    error = error.to(at_least_float32(error.dtype))
    scale = torch.as_tensor(scale, device=error.device)
    scale = expand_leading(scale.to(error.dtype), error.ndim).expand_as(error)
    kept = torch.where(counted, error, 0.0)
    return kept / torch.where(counted, scale, 1.0)
