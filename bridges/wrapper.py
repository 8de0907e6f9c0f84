"""Processes made from one process: what they share, and one at another temperature.

Each is a process and holds a process. `partial` has the one on part of a state, `clocked` the one
on another clock; `Process.where`, `on` and `tempered` make them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from bridges._draw import Draws, TemperedDraws
from bridges._shapes import State, describe, positive
from bridges._space import Space
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

    def _transition(self, s: Any, t: Any) -> Any:
        return self.process._transition(s, t)

    @property
    def _element_ndim(self) -> int:
        return self.process._element_ndim

    def _holding(self, mask: Tensor, batch_shape: tuple[int, ...]) -> Process:
        process = self.process._holding(mask, batch_shape)
        return self if process is self.process else _around(self, process)

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

    def _rounded(self, x: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        return self.process._rounded(x, given)

    def _check_time(self, t: Tensor, name: str) -> None:
        self.process._check_time(t, name)

    def _check_shape(self, x: State, name: str) -> None:
        self.process._check_shape(x, name)

    def _shape(self, shape: Any) -> Any:
        return self.process._shape(shape)

    def _expand(self, t: Any, x: State, name: str = "t") -> Any:
        return self.process._expand(t, x, name)

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

    def _check_drawn(self, said: Any) -> None:
        if self.scale != 1 and isinstance(said, Tensor) and not said.is_floating_point():
            raise ValueError(
                "Expected the model to say logits for a tempered process, which divides them; "
                f"got {describe(said)}."
            )

    def _bridge(self, x_0: State, x_t: State, s: Any, t: Any, eta: Any, draws: Draws) -> State:
        return self.process._between(x_0, x_t, s, t, eta, TemperedDraws(draws, self.scale))

    def _endpoint(self, prediction: Any, x_t: State, t: Any, draws: Draws) -> State:
        self._check_drawn(prediction)
        return self.process._endpoint(prediction, x_t, t, TemperedDraws(draws, self.scale))

    def _step(
        self, prediction: Any, x_t: State, s: Any, t: Any, eta: Any, draws: Draws
    ) -> tuple[State, State]:
        self._check_drawn(prediction)
        return self.process._step(prediction, x_t, s, t, eta, TemperedDraws(draws, self.scale))

    def _combine(
        self, x_t: State, share: Any, terms: Iterable[tuple[Any, State]], sigma: Any, draws: Draws
    ) -> State:
        return self.process._combine(x_t, share, terms, sigma, TemperedDraws(draws, self.scale))


def _around(wrapper: Wrapper, process: Process) -> Wrapper:
    """Return a wrapper like another, around a process."""
    return replace(wrapper, process=process)  # type: ignore[type-var]
