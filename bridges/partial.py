"""Processes made from one process: on part of a state, at another temperature.

Each is a process and holds a process; `Process.where` and `Process.tempered` make them. `clocked`
has the one on another clock.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from bridges._draw import Draws, TemperedDraws
from bridges._shapes import State, describe, positive
from bridges._space import Space, expand_mask
from bridges.prediction import Prediction
from bridges.process import Process


class Wrapper(Process):
    """A process that passes every hook on to the process that it holds."""

    process: Process

    @property
    def point_ndim(self) -> int:  # type: ignore[override]
        """The dimensions of one point, as in the process it holds."""
        return self.process.point_ndim

    def _forward(self, x: State, s: Any, t: Any, draws: Draws) -> State:
        return self.process._forward(x, s, t, draws)

    def _bridge(self, x_0: State, x_t: State, s: Any, t: Any, eta: Any, draws: Draws) -> State:
        return self.process._between(x_0, x_t, s, t, eta, draws)

    def _between(self, x_0: State, x_t: State, s: Any, t: Any, eta: Any, draws: Draws) -> State:
        return self._bridge(x_0, x_t, s, t, eta, draws)

    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> State:
        return self.process._prior(shape, draws, dtype, device)

    def _endpoint(self, prediction: Any, x_t: State, t: Any, draws: Draws) -> State:
        return self.process._endpoint(prediction, x_t, t, draws)

    def _step(
        self, prediction: Any, x_t: State, s: Any, t: Any, eta: Any, draws: Draws
    ) -> tuple[State, State]:
        return self.process._step(prediction, x_t, s, t, eta, draws)

    def _error(self, prediction: Any, x_0: State, x_t: State | None, t: Any) -> Any:
        return self.process._error(prediction, x_0, x_t, t)

    def _loss_scale(self, t: Any) -> Any:
        return self.process._loss_scale(t)

    def _log_snr(self, t: Any) -> Any:
        return self.process._log_snr(t)

    def _log_prob(self, x_t: State, x_0: State, s: Any, t: Any) -> Any:
        return self.process._log_prob(x_t, x_0, s, t)

    def _score(self, x_t: State, x_0: State, t: Any) -> Any:
        return self.process._score(x_t, x_0, t)

    def _preconditioning(self, t: Any, var_x: Any) -> Any:
        return self.process._preconditioning(t, var_x)

    def _scales(self, t: Any) -> Any:
        return self.process._scales(t)

    def _combine(
        self, x_t: State, share: Any, terms: Iterable[tuple[Any, State]], sigma: Any, draws: Draws
    ) -> State:
        return self.process._combine(x_t, share, terms, sigma, draws)

    def _convert(self, prediction: Any, to: Any, x_t: State, t: Any) -> Any:
        return self.process._convert(prediction, to, x_t, t)

    def _on_values(
        self, x: State, mask: Tensor | None, check: Callable[[Space, Tensor], None]
    ) -> None:
        self.process._on_values(x, mask, check)

    def _rounded(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return self.process._rounded(x, dtype)

    def _check_time(self, t: Tensor, name: str) -> None:
        self.process._check_time(t, name)

    def _check_shape(self, x: State, name: str) -> None:
        self.process._check_shape(x, name)

    def _shape(self, shape: Any) -> Any:
        return self.process._shape(shape)

    def _eta(self, eta: Any) -> Any:
        return self.process._eta(eta)

    def _check_noise(self, what: str) -> None:
        self.process._check_noise(what)

    def _counted(self, x: State, t: Any) -> Any:
        return self.process._counted(x, t)


@final
@dataclass(frozen=True)
class Tempered(Wrapper):
    """A process whose bridge is drawn at another temperature; see `Process.tempered`."""

    process: Process
    scale: float

    def __post_init__(self) -> None:
        positive(self.scale, "scale")

    def _eta(self, eta: Any) -> Any:
        number = self.process._eta(eta)
        if number == 0:
            self._check_noise("eta = 0")
        return number

    def _check_noise(self, what: str) -> None:
        raise ValueError(
            "Expected a tempered process to draw noise, which it scales; "
            f"got {what}, which draws none."
        )

    def _bridge(self, x_0: State, x_t: State, s: Any, t: Any, eta: Any, draws: Draws) -> State:
        return self.process._between(x_0, x_t, s, t, eta, TemperedDraws(draws, self.scale))

    def _endpoint(self, prediction: Any, x_t: State, t: Any, draws: Draws) -> State:
        return self.process._endpoint(prediction, x_t, t, TemperedDraws(draws, self.scale))

    def _step(
        self, prediction: Any, x_t: State, s: Any, t: Any, eta: Any, draws: Draws
    ) -> tuple[State, State]:
        return self.process._step(prediction, x_t, s, t, eta, TemperedDraws(draws, self.scale))

    def _combine(
        self, x_t: State, share: Any, terms: Iterable[tuple[Any, State]], sigma: Any, draws: Draws
    ) -> State:
        return self.process._combine(x_t, share, terms, sigma, TemperedDraws(draws, self.scale))


@final
@dataclass(frozen=True, eq=False)
class Partial(Wrapper):
    """A process on the elements where a mask is true; see `Process.where`.

    Off the mask, steps and `endpoint` return x_t bit for bit, even where a prediction is NaN, and
    errors, log-densities and scores are 0 with zero gradient. The prior has nothing to keep and
    draws everywhere.
    """

    process: Process
    mask: Tensor

    def __post_init__(self) -> None:
        mask = torch.tensor(self.mask) if isinstance(self.mask, bool) else self.mask
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(f"Expected mask to be bool; got {describe(self.mask)}.")
        object.__setattr__(self, "mask", mask)

    def _keep(self, inside: Tensor, outside: Tensor) -> Tensor:
        return torch.where(expand_mask(self.mask, outside, self.point_ndim), inside, outside)

    def _safe(self, x: Any, x_t: Tensor | None = None) -> Any:
        """Put zeros off the mask, where anything may stand, so that the hooks see no NaN."""
        like = x if x_t is None else x_t
        batch_shape = self._batch_shape(like)
        ndim = len(batch_shape)

        def keep(value: Any, harmless: float) -> Any:
            if not isinstance(value, Tensor) or value.shape[:ndim] != batch_shape:
                return value
            mask = expand_mask(self.mask, value, value.ndim - ndim)
            return torch.where(mask, value, torch.full_like(value, harmless))

        return x.filled(keep) if isinstance(x, Prediction) else keep(x, 0.0)

    def _forward(self, x: Tensor, s: Any, t: Any, draws: Draws) -> Tensor:
        return self._keep(self.process._forward(self._safe(x), s, t, draws), x)

    def _bridge(self, x_0: Tensor, x_t: Tensor, s: Any, t: Any, eta: Any, draws: Draws) -> Tensor:
        x_s = self.process._between(self._safe(x_0), self._safe(x_t), s, t, eta, draws)
        return self._keep(x_s, x_t)

    def _endpoint(self, prediction: Any, x_t: Tensor, t: Any, draws: Draws) -> Tensor:
        safe = self._safe(prediction, x_t)
        return self._keep(self.process._endpoint(safe, self._safe(x_t), t, draws), x_t)

    def _step(
        self, prediction: Any, x_t: Tensor, s: Any, t: Any, eta: Any, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        safe = self._safe(prediction, x_t)
        x_s, x_0_hat = self.process._step(safe, self._safe(x_t), s, t, eta, draws)
        return self._keep(x_s, x_t), self._keep(x_0_hat, x_t)

    def _combine(
        self,
        x_t: Tensor,
        share: Any,
        terms: Iterable[tuple[Any, Tensor]],
        sigma: Any,
        draws: Draws,
    ) -> Tensor:
        safe = [(factor, self._safe(term)) for factor, term in terms]
        return self._keep(self.process._combine(self._safe(x_t), share, safe, sigma, draws), x_t)

    def _error(self, prediction: Any, x_0: Tensor, x_t: Tensor | None, t: Any) -> Any:
        safe = None if x_t is None else self._safe(x_t)
        error = self.process._error(self._safe(prediction, x_0), self._safe(x_0), safe, t)
        return self._safe(error, x_0)

    def _convert(self, prediction: Any, to: Any, x_t: Tensor, t: Any) -> Any:
        safe = self._safe(prediction, x_t)
        return self._safe(self.process._convert(safe, to, self._safe(x_t), t), x_t)

    def _log_prob(self, x_t: Tensor, x_0: Tensor, s: Any, t: Any) -> Any:
        return self._safe(self.process._log_prob(self._safe(x_t), self._safe(x_0), s, t), x_t)

    def _score(self, x_t: Tensor, x_0: Tensor, t: Any) -> Any:
        return self._safe(self.process._score(self._safe(x_t), self._safe(x_0), t), x_t)

    def _on_values(
        self, x: Tensor, mask: Tensor | None, check: Callable[[Space, Tensor], None]
    ) -> None:
        batch_shape = self._batch_shape(x)
        own = expand_mask(self.mask, x, self.point_ndim)
        own = own.reshape(own.shape[: len(batch_shape)]).expand(batch_shape)
        self.process._on_values(x, own if mask is None else own & mask, check)

    def _counted(self, x: Tensor, t: Any) -> Any:
        return self._safe(self.process._counted(x, t), x)
