"""A process run on another clock: every time t becomes τ(t); `Process.on` makes it."""

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from bridges._device import host
from bridges._draw import Draws
from bridges._shapes import State, cast, describe, expand_leading, on_host
from bridges.clock import Clock
from bridges.prediction import Velocity
from bridges.process import Process
from bridges.wrapper import Wrapper


@final
@dataclass(frozen=True)
class Clocked(Wrapper):
    """A process run on another clock; see `Process.on`."""

    process: Process
    clock: Clock

    def __post_init__(self) -> None:
        if not isinstance(self.clock, Clock):
            raise TypeError(f"Expected clock to be a Clock; got {describe(self.clock)}.")
        if (zero := self.clock(host(0.0)).item()) != 0:
            raise ValueError(f"Expected clock to be 0 at time 0; got {zero}.")

    def _forward(self, x: State, s: Any, t: Any, draws: Draws) -> State:
        # At an infinite time of the clock, only the outer times tell that nothing happens.
        if on_host(s, t):
            return x if s.item() == t.item() else self._onward(x, s, t, draws)
        still = s == t
        x_t = self._onward(x, torch.where(still, 0.0, s), torch.where(still, 1.0, t), draws)
        return torch.where(expand_leading(still.to(x.device), x.ndim), x, x_t)

    def _onward(self, x: State, s: Any, t: Any, draws: Draws) -> State:
        return self.process._forward(x, self.clock(s), self.clock(t), draws)

    def _bridge(self, x_0: State, x_t: State, s: Any, t: Any, eta: Any, draws: Draws) -> State:
        return self.process._between(x_0, x_t, self.clock(s), self.clock(t), eta, draws)

    def _endpoint(self, prediction: Any, x_t: State, t: Any, draws: Draws) -> State:
        inner = self._inner(prediction, x_t, t)
        return self.process._endpoint(inner, x_t, self.clock(t), draws)

    def _step(
        self, prediction: Any, x_t: State, s: Any, t: Any, eta: Any, draws: Draws
    ) -> tuple[State, State]:
        inner = self._inner(prediction, x_t, t)
        return self.process._step(inner, x_t, self.clock(s), self.clock(t), eta, draws)

    def _error(self, prediction: Any, x_0: State, x_t: State | None, t: Any) -> Any:
        if t is None:
            return self.process._error(prediction, x_0, x_t, None)
        inner = self._inner(prediction, x_0, t)
        return self.process._error(inner, x_0, x_t, self.clock(t))

    def _convert(self, prediction: Any, to: Any, x_t: State, t: Any) -> Any:
        inner = self._inner(prediction, x_t, t)
        converted = self.process._convert(inner, to, x_t, self.clock(t))
        if not isinstance(converted, Velocity):
            return converted
        return Velocity(converted.value * self._speed(converted.value, x_t, t))

    def _inner(self, prediction: Any, x_t: State, t: Any) -> Any:
        """Turn a velocity per unit of t into one per unit of the clock's time."""
        if not isinstance(prediction, Velocity):
            return prediction
        return Velocity(prediction.value / self._speed(prediction.value, x_t, t))

    def _speed(self, value: Tensor, x_t: State, t: Any) -> Tensor:
        moving = t > 0
        speed = torch.where(moving, self.clock.derivative(torch.where(moving, t, 1.0)), 1.0)
        # A velocity has no unit where the clock runs infinitely fast: that is not hidden.
        speed = torch.where(speed.isfinite(), speed, math.nan)
        return cast(speed, value, value.ndim - len(self._batch_shape(x_t)))

    def _loss_scale(self, t: Any) -> Any:
        return self.process._loss_scale(self.clock(t))

    def _log_snr(self, t: Any) -> Any:
        return self.process._log_snr(self.clock(t))

    def _preconditioning(self, t: Any, var_x: Any) -> Any:
        return self.process._preconditioning(self.clock(t), var_x)

    def _scales(self, t: Any) -> Any:
        return self.process._scales(self.clock(t))

    def _transition(self, s: Any, t: Any) -> Any:
        return self.process._transition(self.clock(s), self.clock(t))

    def _log_prob(self, x_t: State, x_0: State, s: Any, t: Any) -> Any:
        return self.process._log_prob(x_t, x_0, self.clock(s), self.clock(t))

    def _score(self, x_t: State, x_0: State, t: Any) -> Any:
        return self.process._score(x_t, x_0, self.clock(t))

    def _check_time(self, t: Tensor, name: str) -> None:
        self.process._check_time(self.clock(t), name)

    def _counted(self, x: State, t: Any) -> Any:
        return self.process._counted(x, self.clock(t))
