"""Self-conditioning: a model that sees its own last prediction.

The model is `model(x_t, t, previous)`, where `previous` is its last *prediction* (logits for
tokens) and a null prediction at the start. Nothing is kept in the model: the memory belongs to one
run.

References:
    Chen, Zhang & Hinton, Analog bits: generating discrete data using diffusion models with
    self-conditioning, 2022.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from numbers import Real
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from bridges._draw import Generator, as_draws
from bridges._shapes import (
    Bundle,
    State,
    describe,
    expand_leading,
    lasting,
    leaves,
    map_structure,
)
from bridges.prediction import Gaussian, Prediction

Model: TypeAlias = Callable[[State, Any, Any], Any]


class RunGuess(ABC):
    """A guess that remembers within a run; a sampler calls `start` once and uses the answer."""

    @abstractmethod
    def start(self) -> Callable[[State, Any], Any]:
        """Return a guess with a fresh memory, for one run."""


@final
class SelfConditioned(RunGuess):
    """See `selfconditioned`."""

    def __init__(self, model: Model, null: Any) -> None:
        self.model = model
        self.null = null
        self.previous = null

    def __call__(self, x_t: State, t: Any) -> Any:
        prediction = self.model(x_t, t, self.previous)
        self.previous = map_structure(_lasting, prediction)
        return prediction

    def start(self) -> Callable[[State, Any], Any]:
        """Return the same closure with nothing remembered; in a run gradients flow through."""
        previous = self.null

        def guess(x_t: State, t: Any) -> Any:
            nonlocal previous
            previous = self.model(x_t, t, previous)
            return previous

        return guess


def selfconditioned(model: Model, null: Any) -> SelfConditioned:
    """Close a self-conditioned model into a guess `guess(x_t, t)`.

    Every sampling run starts afresh from `null`, and two runs never share a memory. Called by
    hand, the closure remembers from call to call, as long as it lives, without gradients.

    Args:
        model: `model(x_t, t, previous)` returns a prediction.
        null: what the model is given before it has said anything, like a prediction.

    >>> guess = selfconditioned(lambda x_t, t, previous: previous + 1, torch.zeros(2))
    >>> guess(None, 1.0), guess(None, 0.5)
    (tensor([1., 1.]), tensor([2., 2.]))
    """
    if not callable(model):
        raise TypeError(f"Expected model to be callable; got {describe(model)}.")
    return SelfConditioned(model, null)


def selfconditioning_estimate(
    model: Model, x_t: State, t: Any, null: Any, *, generator: Generator = None
) -> Any:
    """Return what to pass as `previous` in training: the model's estimate or `null`, by a coin.

    The coin is drawn per example (the first dimension of the prediction). The estimate is made
    without gradient. One coin serves all parts of a structure.

    Args:
        model: `model(x_t, t, previous)`.
        x_t: the noised state.
        t: its time, as the model takes it.
        null: the null prediction, broadcasting to a prediction.
        generator: the source of the coin.

    Returns:
        A prediction, detached.

    Raises:
        TypeError: if null has not the structure of the prediction; see `null_like`.
    """
    with torch.no_grad():
        estimate, null = _whole(model(x_t, t, null)), _whole(null)
    _check_alike(estimate, null)
    first = leaves(estimate)[0]
    coin = as_draws(generator).uniform(first.shape[:1], torch.float32, first.device) < 0.5
    return _chosen(coin, estimate, null)


def _chosen(coin: Tensor, estimate: Any, null: Any) -> Any:
    """Choose part by part; a part of null may be one value for all of a structure."""
    if isinstance(null, dict):
        return {key: _chosen(coin, estimate[key], null[key]) for key in null}
    if isinstance(null, tuple | list):
        return tuple(_chosen(coin, e, n) for e, n in zip(estimate, null, strict=True))
    if isinstance(null, Bundle):
        return map_structure(lambda e, n: _choose(coin, e, n), estimate, null)
    return map_structure(lambda e: _choose(coin, e, null), estimate)


def null_like(prediction: Any) -> Any:
    """Return a null prediction like another: 0 everywhere, and variances of 1.

    Args:
        prediction: what the model says, of any structure.

    >>> from bridges import Noise
    >>> null_like({"pos": Noise(torch.ones(2)), "seq": torch.ones(2)})["seq"]
    tensor([0., 0.])
    """
    if isinstance(prediction, dict):
        return {key: null_like(part) for key, part in prediction.items()}
    if isinstance(prediction, tuple | list):
        return tuple(map(null_like, prediction))
    if isinstance(prediction, Prediction):
        return _whole(prediction).filled(torch.full_like)
    if not isinstance(prediction, Tensor):
        raise TypeError(f"Expected a prediction to hold tensors; got {describe(prediction)}.")
    return torch.zeros_like(prediction)


def _check_alike(estimate: Any, null: Any, name: str = "null") -> None:
    """Raise unless null has the structure of the estimate, or is one value for all of it."""
    if isinstance(null, Tensor | Real):
        return
    if isinstance(null, dict) and isinstance(estimate, dict) and null.keys() == estimate.keys():
        for key in null:
            _check_alike(estimate[key], null[key], f"{name}[{key!r}]")
        return
    if isinstance(null, tuple | list) and isinstance(estimate, tuple | list):
        if len(null) == len(estimate):
            for i, part in enumerate(null):
                _check_alike(estimate[i], part, f"{name}[{i}]")
            return
    if isinstance(null, Bundle) and type(null) is type(estimate):
        return
    raise TypeError(
        f"Expected {name} to have the structure of the prediction, {_described(estimate)}; "
        f"got {_described(null)}."
    )


def _described(value: Any) -> str:
    return f"a {type(value).__name__}" if isinstance(value, Bundle) else describe(value)


def _whole(value: Any) -> Any:
    """Give every number of a `Gaussian` its own variance, so that rows can be chosen."""
    if isinstance(value, Gaussian):
        var = torch.as_tensor(value.var, dtype=value.mean.dtype, device=value.mean.device)
        return Gaussian(value.mean, var.expand_as(value.mean))
    if isinstance(value, dict):
        return {key: _whole(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return tuple(map(_whole, value))
    return value


def _choose(coin: Tensor, estimate: Tensor, null: Any) -> Tensor:
    null = torch.as_tensor(null, dtype=estimate.dtype, device=estimate.device)
    return torch.where(expand_leading(coin, estimate.ndim), estimate, null).detach()


def _lasting(value: Any) -> Any:
    return lasting(value) if isinstance(value, Tensor) else value
