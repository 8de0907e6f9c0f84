"""A process on part of a state; `Process.where` makes it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from bridges._draw import Draws
from bridges._shapes import describe, expand_leading, lasting
from bridges._space import Space, expand_mask
from bridges.prediction import Prediction
from bridges.process import Process
from bridges.wrapper import Wrapper


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
    name: str = field(default="mask", repr=False)
    _inner: dict[tuple[int, ...], Process] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        mask = torch.tensor(self.mask) if isinstance(self.mask, bool) else self.mask
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(f"Expected {self.name} to be bool; got {describe(self.mask)}.")
        object.__setattr__(self, "mask", lasting(mask))
        object.__setattr__(self, "_inner", {})

    def _inside(self, batch_shape: tuple[int, ...]) -> Process:
        """Return the process on what the mask does not hold, for states of a batch shape."""
        if batch_shape not in self._inner:
            try:
                self._inner[batch_shape] = self.process._holding(self.mask, batch_shape)
            except ValueError as error:
                message = str(error).replace("Expected mask", f"Expected {self.name}", 1)
                raise ValueError(message) from None
        return self._inner[batch_shape]

    def _own(self, x: Tensor) -> Process:
        return self._inside(self._batch_shape(x))

    def _expanded(self, x: Tensor) -> Tensor:
        """Bring the mask to the rank of a state."""
        return expand_mask(self.mask, x, self.point_ndim - self._own(x)._element_ndim, self.name)

    def _keep(self, inside: Tensor, outside: Tensor) -> Tensor:
        return torch.where(self._expanded(outside), inside, outside)

    def _safe(self, x: Any, x_t: Tensor | None = None) -> Any:
        """Put zeros off the mask, where anything may stand, so that the hooks see no NaN."""
        like = x if x_t is None else x_t
        said = isinstance(x, Prediction)

        def keep(value: Any, harmless: float) -> Any:
            mask = self._over(value, like, self.point_ndim if said else 0)
            if mask is None:
                return value
            return torch.where(mask, value, torch.full_like(value, harmless))

        return x.filled(keep) if isinstance(x, Prediction) else keep(x, 0.0)

    def _over(self, value: Any, like: Tensor, least: int) -> Tensor | None:
        """Bring the mask to the rank of values over the batch of a state, or over its points.

        A mask that reaches into points is for values with at least so many dimensions after the
        batch; the centres of a mixture have one more before the point. None for other values.
        """
        ndim = len(self._batch_shape(like))
        if not isinstance(value, Tensor) or value.shape[:ndim] != like.shape[:ndim]:
            return None
        mask, inner = self.mask, value.ndim - ndim
        if mask.ndim > ndim:
            self._expanded(like)
            if inner > self.point_ndim:
                mask = mask.unsqueeze(ndim)
            if inner < least or value.ndim < mask.ndim:
                return None
        else:
            return expand_mask(mask, value, inner, self.name)
        return expand_leading(mask.to(value.device), value.ndim)

    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> Tensor:
        x: Tensor = self.process._prior(shape, draws, dtype, device)
        inside = self._inside(tuple(shape))
        if inside is self.process:
            return x
        return self._keep(inside._prior(shape, draws, dtype, device), x)

    def _forward(self, x: Tensor, s: Any, t: Any, draws: Draws) -> Tensor:
        return self._keep(self._own(x)._forward(self._safe(x), s, t, draws), x)

    def _bridge(self, x_0: Tensor, x_t: Tensor, s: Any, t: Any, eta: Any, draws: Draws) -> Tensor:
        x_s = self._own(x_t)._between(self._safe(x_0), self._safe(x_t), s, t, eta, draws)
        return self._keep(x_s, x_t)

    def _endpoint(self, prediction: Any, x_t: Tensor, t: Any, draws: Draws) -> Tensor:
        safe = self._safe(prediction, x_t)
        return self._keep(self._own(x_t)._endpoint(safe, self._safe(x_t), t, draws), x_t)

    def _step(
        self, prediction: Any, x_t: Tensor, s: Any, t: Any, eta: Any, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        safe = self._safe(prediction, x_t)
        x_s, x_0_hat = self._own(x_t)._step(safe, self._safe(x_t), s, t, eta, draws)
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
        x_s = self._own(x_t)._combine(self._safe(x_t), share, safe, sigma, draws)
        return self._keep(x_s, x_t)

    def _error(self, prediction: Any, x_0: Tensor, x_t: Tensor | None, t: Any) -> Any:
        safe = None if x_t is None else self._safe(x_t)
        error = self._own(x_0)._error(self._safe(prediction, x_0), self._safe(x_0), safe, t)
        return self._safe(error, x_0)

    def _convert(self, prediction: Any, to: Any, x_t: Tensor, t: Any) -> Any:
        safe = self._safe(prediction, x_t)
        return self._safe(self._own(x_t)._convert(safe, to, self._safe(x_t), t), x_t)

    def _log_prob(self, x_t: Tensor, x_0: Tensor, s: Any, t: Any) -> Any:
        log_prob = self._own(x_t)._log_prob(self._safe(x_t), self._safe(x_0), s, t)
        return self._safe(log_prob, x_t)

    def _score(self, x_t: Tensor, x_0: Tensor, t: Any) -> Any:
        return self._safe(self._own(x_t)._score(self._safe(x_t), self._safe(x_0), t), x_t)

    def _on_values(
        self, x: Tensor, mask: Tensor | None, check: Callable[[Space, Tensor], None]
    ) -> None:
        own, over = self._own(x), self._expanded(x)
        shape = x.shape[: x.ndim - self.point_ndim + own._element_ndim]
        over = over.reshape(over.shape[: len(shape)]).expand(shape)
        if mask is not None:
            over = over & expand_leading(mask, over.ndim)
        own._on_values(x, over, check)

    def _counted(self, x: Tensor, t: Any) -> Any:
        return self._safe(self._own(x)._counted(x, t), x)
