"""The hooks of a process: what a space writes, in mathematics only.

A hook gets states that were checked, and times that are float64 tensors broadcasting over the
batch shape. A space writes `_forward`, `_bridge`, `_prior` and `_error`, and overrides the others
where it has more to say.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from bridges._draw import Draws
from bridges._precision import HALF, has_half
from bridges._shapes import State, expand_leading, on_host
from bridges._space import Space
from bridges.preconditioning import PlainPreconditioning


class Hooks(Space, ABC):
    """The laws of a process, behind the public methods of `Process`."""

    @abstractmethod
    def _forward(self, x: State, s: Any, t: Any, draws: Draws) -> State:
        """Draw x_t given x_s = x."""

    @abstractmethod
    def _bridge(self, x_0: State, x_t: State, s: Any, t: Any, eta: Any, draws: Draws) -> State:
        """Draw x_s given x_0 and x_t; the ends s = 0 and s = t are pinned by the caller."""

    @abstractmethod
    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> State:
        """Draw from the law at t → ∞."""

    @abstractmethod
    def _error(self, prediction: Any, x_0: State, x_t: State | None, t: Any) -> Any:
        """Return the error per element of the batch."""

    def _endpoint(self, prediction: Any, x_t: State, t: Any, draws: Draws) -> State:
        """Return the prediction itself: it is a point already."""
        return self._point(prediction, x_t)

    def _step(
        self, prediction: Any, x_t: State, s: Any, t: Any, eta: Any, draws: Draws
    ) -> tuple[State, State]:
        x_0_hat = self._endpoint(prediction, x_t, t, draws)
        return self._between(x_0_hat, x_t, s, t, eta, draws), x_0_hat

    def _loss_scale(self, t: Any) -> Any:
        return torch.ones_like(t)

    def _log_snr(self, t: Any) -> Any:
        raise NotImplementedError(
            f"Expected a process with a signal-to-noise ratio; got {type(self).__name__}."
        )

    def _log_prob(self, x_t: State, x_0: State, s: Any, t: Any) -> Any:
        raise NotImplementedError(
            f"Expected a process with a transition density; got {type(self).__name__}."
        )

    def _score(self, x_t: State, x_0: State, t: Any) -> Any:
        raise NotImplementedError(f"Expected a process with a score; got {type(self).__name__}.")

    def _preconditioning(self, t: Any, var_x: Any) -> Any:
        """Return the `Preconditioning` of networks; var_x is a float64 tensor, or None.

        A space that says nothing of it is passed through as it is.
        """
        try:
            log_snr = self._log_snr(t)
        except NotImplementedError:
            log_snr = -torch.log(t)
        return PlainPreconditioning(log_snr)

    def _scales(self, t: Any) -> Any:
        """Return α and σ of x_t given x_0, about the mean of the process."""
        raise self._not_gaussian()

    def _transition(self, s: Any, t: Any) -> Any:
        """Return the factor of the mean and the variance gained from time s to t."""
        raise self._not_gaussian()

    def _combine(
        self, x_t: State, share: Any, terms: Iterable[tuple[Any, State]], sigma: Any, draws: Draws
    ) -> State:
        """Return share · x_t + Σ factor · term + sigma · noise, about the mean of the process.

        The factors are numbers, or float64 tensors that broadcast over the batch. None is drawn
        where sigma is the number 0.
        """
        raise self._not_gaussian()

    def _not_gaussian(self) -> NotImplementedError:
        return NotImplementedError(
            f"Expected a Gaussian process for this solver; got {type(self).__name__}."
        )

    def _each(self, f: Callable[..., Any], *pieces: Any) -> Any:
        """Return f(self, *pieces); a Joint returns the structure of f(part, *its pieces)."""
        return f(self, *pieces)

    def _narrowed(self, x: State, *given: State) -> State:
        """Round a state that was computed on widened ones to the dtypes that they had.

        What was handed on from a given state stays bit for bit.
        """
        return self._each(_rounded, x, *given) if has_half(given[0]) else x

    def _spread(self, value: Any, name: str) -> Any:
        """Return the value; a Joint gives each part the one value, or its own of a structure."""
        return value

    def _convert(self, prediction: Any, to: Any, x_t: State, t: Any) -> Any:
        raise NotImplementedError(
            f"Expected a process with tangent vectors; got {type(self).__name__}."
        )

    def _between(self, x_0: State, x_t: State, s: Any, t: Any, eta: Any, draws: Draws) -> State:
        """Draw from the bridge, with both ends pinned exactly."""
        return self._pinned(x_0, x_t, s, t, lambda s, t: self._bridge(x_0, x_t, s, t, eta, draws))

    def _pinned(
        self, x_0: State, x_t: State, s: Any, t: Any, inside: Callable[[Any, Any], State]
    ) -> State:
        """Return x_t at s = t, then x_0 at s = 0, and draw by `inside(s, t)` elsewhere."""
        if on_host(s, t):
            if s.item() == t.item():
                return x_t
            return x_0 if s.item() == 0 else inside(s, t)
        between = (s > 0) & (s < t)
        x_s = inside(torch.where(between, s, 0.5), torch.where(between, t, 1.0))
        ndim, device = x_t.ndim, x_t.device
        x_s = torch.where(expand_leading((s == 0).to(device), ndim), x_0, x_s)
        return torch.where(expand_leading((s == t).to(device), ndim), x_t, x_s)


def _rounded(part: Hooks, x: Tensor, *given: Tensor) -> Tensor:
    return part._rounded(x, given) if given[0].dtype in HALF else x
