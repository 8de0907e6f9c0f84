"""What a state and a time of a space are, and the checks that public methods make once.

Hooks that read a tensor's values, and so may wait for a device, are called from public methods and
at the entry of samplers and losses, never inside a loop.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from bridges._checks import values_are_checked
from bridges._device import host
from bridges._shapes import (
    State,
    Time,
    as_number,
    as_shape,
    describe,
    expand_leading,
    expand_time,
    is_leading,
    on_host,
)


class Space:
    """Shapes, values and times of the states of one space."""

    point_ndim: ClassVar[int] = 0

    def _check_values(self, x: State, name: str) -> None:
        """Raise where a state that has the right shape and dtype does not lie on the space."""

    def _check_clean_values(self, x_0: State, name: str) -> None:
        """Raise where a state of the space cannot be x_0."""

    def _check_time(self, t: Tensor, name: str) -> None:
        """Raise where the process has no such time; that it is ≥ 0 and finite is known."""

    def _check_noise(self, what: str) -> None:
        """Raise where `what` draws nothing, and the process has noise to scale."""

    def _check_dtype(self, x: Tensor, name: str) -> None:
        if not x.is_floating_point():
            raise TypeError(f"Expected {name} to be a floating tensor; got {describe(x)}.")

    def _rounded(self, x: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        """Round a state that was computed in float32 to half precision, still on the space.

        `given` are the states in half precision that it was computed from.
        """
        return x.to(given[0].dtype)

    # ---------------------------------------------------------------- checks and times

    def _check(self, x: State, name: str) -> None:
        self._check_shape(x, name)
        if values_are_checked():
            self._on_values(x, None, lambda space, points: space._check_values(points, name))

    def _check_clean(self, x_0: State, name: str) -> None:
        self._check(x_0, name)
        if values_are_checked():
            self._on_values(
                x_0, None, lambda space, points: space._check_clean_values(points, name)
            )

    def _on_values(
        self, x: State, mask: Tensor | None, check: Callable[["Space", Tensor], None]
    ) -> None:
        """Run a check on the points on a mask over the batch; on all points if it is None."""
        check(self, x if mask is None else x[mask])

    def _check_shape(self, x: State, name: str) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"Expected {name} to be a tensor; got {describe(x)}.")
        self._check_dtype(x, name)
        if x.ndim < self.point_ndim:
            raise ValueError(
                f"Expected {name} to have at least {self.point_ndim} dimensions; "
                f"got {describe(x)}."
            )

    def _check_alike(self, x_0: State, x_t: State) -> None:
        if x_0.shape != x_t.shape:
            raise ValueError(
                f"Expected x_0 to have the shape of x_t, {tuple(x_t.shape)}; "
                f"got {tuple(x_0.shape)}."
            )

    def _point(self, prediction: Any, x_t: Tensor) -> Tensor:
        if not isinstance(prediction, Tensor):
            raise TypeError(
                f"Expected a prediction for {type(self).__name__} to be a tensor; "
                f"got {describe(prediction)}."
            )
        if prediction.shape != x_t.shape:
            raise ValueError(
                f"Expected the prediction to have the shape of the state, {tuple(x_t.shape)}; "
                f"got {tuple(prediction.shape)}."
            )
        return prediction.to(x_t.dtype)

    def _batch_shape(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape[: x.ndim - self.point_ndim])

    def _shape(self, shape: Any) -> Any:
        return as_shape(shape)

    def _eta(self, eta: Any) -> Any:
        number = as_number(eta, "eta")
        if not 0 <= number <= 1:
            raise ValueError(f"Expected eta to lie in [0, 1]; got {eta!r}.")
        return number

    def _times(self, x: State, **times: Time) -> list[Any]:
        """Expand named times and check that they are not negative and do not decrease."""
        expanded = [self._expand(t, x, name) for name, t in times.items()]
        if values_are_checked():
            self._check_times(times, expanded)
        return expanded

    def _check_times(self, times: dict[str, Time], expanded: list[Tensor]) -> None:
        names = list(times)
        for name, time in zip(names, expanded, strict=True):
            if not bool(time.isfinite().all()):
                raise ValueError(f"Expected the time {name} to be finite; got {describe(time)}.")
        if bool((expanded[0] < 0).any()):
            raise ValueError(f"Expected the time {names[0]} to be at least 0; got a negative one.")
        for i in range(1, len(names)):
            if not bool((expanded[i - 1] <= expanded[i]).all()):
                got = " and ".join(describe(times[name]) for name in names[i - 1 : i + 1])
                raise ValueError(
                    f"Expected the time {names[i - 1]} to be at most {names[i]}; got {got}."
                )
        for name, time in zip(names, expanded, strict=True):
            self._check_time(time, name)

    def _expand(self, t: Time, x: State, name: str = "t") -> Any:
        return expand_time(t, self._batch_shape(x), x.device, name)

    def _bare_time(self, t: Time) -> Any:
        """Turn a time into a float64 tensor of its own shape, on its own device."""
        return (
            expand_time(t, t.shape, t.device, "t")
            if isinstance(t, Tensor)
            else host(as_number(t, "the time t"))
        )

    def _model_time(self, t: Time, x: State) -> Any:
        """Return the time as a model is given it: shape (B,) or t's own, at least in float32."""
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        dtype = torch.promote_types(dtype, torch.float32)
        if isinstance(t, Tensor) and (t.ndim > 0 or not on_host(t)):
            return t.to(x.device, dtype)
        return torch.full(self._batch_shape(x)[:1], float(t), dtype=dtype, device=x.device)

    @property
    def _element_ndim(self) -> int:
        """How many dimensions of a point masks and errors reach into: 0, but where it is held."""
        return 0

    def _holding(self, mask: Tensor, batch_shape: tuple[int, ...]) -> Any:
        """Return the process as it is where a mask leaves elements out.

        It is this one, unless the mask reaches into points whose numbers know of one another.
        """
        return self

    def _counted(self, x: State, t: Any) -> Any:
        """Return which elements a loss counts, over the batch shape: those that were noised."""
        return (t > 0).to(x.device).expand(self._batch_shape(x))


def expand_mask(mask: Tensor, x: Tensor, point_ndim: int, name: str = "mask") -> Tensor:
    """Bring a mask over a leading part of the batch to the rank and device of a state.

    Raises:
        ValueError: if the mask's shape is not a leading part of the batch shape.
    """
    batch_shape = x.shape[: x.ndim - point_ndim]
    if not is_leading(mask.shape, batch_shape):
        raise ValueError(
            f"Expected {name} to have a leading part of the batch shape {tuple(batch_shape)}; "
            f"got shape {tuple(mask.shape)}."
        )
    return expand_leading(mask.to(x.device), x.ndim)
