"""Several processes as one, on tuples or dicts.

The members are independent: the law of a Joint is the product of theirs. Nothing is lost by that,
since a model that sees the whole state ties them together again as the steps shrink.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from bridges._draw import Draws
from bridges._shapes import CoupledTimeError, State, Time, describe, leaves
from bridges.clock import Clock
from bridges.partial import Partial
from bridges.process import Process


@final
class Joint(Process):
    """A process on a tuple (`Joint(a, b)`) or on a dict (`Joint(pos=a, seq=b)`) of states.

    Shapes for `sample_prior` have the structure of the parts. Times, `eta`, masks and temperatures
    may be one value for all parts or a structure of them. Errors, loss scales, log-densities and
    scores come back as structures. Joints nest.

    Raises:
        ValueError: if there is no part, or both kinds are given.
        TypeError: if a part is not a Process.

    >>> from bridges import Joint, OrnsteinUhlenbeckDiffusion, UniformDiscreteDiffusion
    >>> process = Joint(pos=OrnsteinUhlenbeckDiffusion(0.0), seq=UniformDiscreteDiffusion(1.0, 20))
    >>> x = process.sample_prior({"pos": (2, 24, 3), "seq": (2, 24)})
    >>> x_t = process.sample_forward(x, {"pos": torch.rand(2), "seq": 0.0})
    >>> bool((x_t["seq"] == x["seq"]).all())
    True
    """

    def __init__(self, *parts: Process, **named: Process) -> None:
        if bool(parts) == bool(named):
            given = "both" if parts else "no part"
            raise ValueError(
                f"Expected a Joint to have parts by position or by name; got {given}."
            )
        self.parts: tuple[Process, ...] | dict[str, Process] = named or parts
        for key, part in self._items():
            if not isinstance(part, Process):
                raise TypeError(f"Expected part {key!r} to be a Process; got {describe(part)}.")

    def __repr__(self) -> str:
        inside = (f"{k}={p!r}" if isinstance(k, str) else repr(p) for k, p in self._items())
        return f"Joint({', '.join(inside)})"

    # ---------------------------------------------------------------- structure

    def _items(self) -> list[tuple[Any, Process]]:
        if isinstance(self.parts, dict):
            return list(self.parts.items())
        return list(enumerate(self.parts))

    def _is_structure(self, value: Any) -> bool:
        return isinstance(value, Mapping if isinstance(self.parts, dict) else tuple | list)

    def _split(self, value: Any, name: str) -> Any:
        """Check that a value has the structure of the parts and return it."""
        if isinstance(self.parts, dict):
            fits = isinstance(value, Mapping) and set(value) == set(self.parts)
            shape = f"a dict with keys {sorted(self.parts)}"
        else:
            fits = isinstance(value, tuple | list) and len(value) == len(self.parts)
            shape = f"a tuple of length {len(self.parts)}"
        if not fits:
            raise ValueError(f"Expected {name} to be {shape}; got {describe(value)}.")
        return value

    def _spread(self, value: Any, name: str) -> Any:
        """Give every part the one value, or its own from a structure."""
        own = self._split(value, name) if self._is_structure(value) else None
        return self._build(lambda k, p: p._spread(value if own is None else own[k], name))

    def _build(self, f: Callable[[Any, Process], Any]) -> Any:
        built = {key: f(key, part) for key, part in self._items()}
        return built if isinstance(self.parts, dict) else tuple(built.values())

    def _rebuilt(self, f: Callable[[Any, Process], Process]) -> "Joint":
        parts = self._build(f)
        return Joint(**parts) if isinstance(parts, dict) else Joint(*parts)

    # ---------------------------------------------------------------- combinators

    def where(self, mask: Any) -> "Joint":
        mask = self._spread(mask, "mask")
        return self._rebuilt(lambda k, p: p if mask[k] is None else _masked(k, p, mask[k]))

    def on(self, clock: Clock) -> "Joint":
        return self._rebuilt(lambda k, p: p.on(clock))

    def tempered(self, scale: Any) -> "Joint":
        scale = self._spread(scale, "scale")
        return self._rebuilt(lambda k, p: p.tempered(scale[k]))

    # ---------------------------------------------------------------- hooks

    def _forward(self, x: State, s: Any, t: Any, draws: Draws) -> State:
        return self._build(lambda k, p: p._forward(x[k], s[k], t[k], draws))

    def _bridge(self, x_0: State, x_t: State, s: Any, t: Any, eta: Any, draws: Draws) -> State:
        return self._build(lambda k, p: p._between(x_0[k], x_t[k], s[k], t[k], eta[k], draws))

    def _between(self, x_0: State, x_t: State, s: Any, t: Any, eta: Any, draws: Draws) -> State:
        return self._bridge(x_0, x_t, s, t, eta, draws)

    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> State:
        return self._build(lambda k, p: p._prior(shape[k], draws, dtype, device))

    def _endpoint(self, prediction: Any, x_t: State, t: Any, draws: Draws) -> State:
        prediction = self._split(prediction, "the prediction")
        return self._build(lambda k, p: p._endpoint(prediction[k], x_t[k], t[k], draws))

    def _step(
        self, prediction: Any, x_t: State, s: Any, t: Any, eta: Any, draws: Draws
    ) -> tuple[State, State]:
        prediction = self._split(prediction, "the prediction")
        both = self._build(lambda k, p: p._step(prediction[k], x_t[k], s[k], t[k], eta[k], draws))
        return self._build(lambda k, p: both[k][0]), self._build(lambda k, p: both[k][1])

    def _error(self, prediction: Any, x_0: State, x_t: State | None, t: Any) -> Any:
        prediction = self._split(prediction, "the prediction")
        x_t = self._build(lambda k, p: None) if x_t is None else self._split(x_t, "x_t")
        t = self._build(lambda k, p: None) if t is None else t
        return self._build(lambda k, p: p._error(prediction[k], x_0[k], x_t[k], t[k]))

    def _convert(self, prediction: Any, to: Any, x_t: State, t: Any) -> Any:
        prediction, to = self._split(prediction, "the prediction"), self._spread(to, "to")
        return self._build(lambda k, p: p._convert(prediction[k], to[k], x_t[k], t[k]))

    def _loss_scale(self, t: Any) -> Any:
        return self._build(lambda k, p: p._loss_scale(t[k]))

    def _log_snr(self, t: Any) -> Any:
        return self._build(lambda k, p: p._log_snr(t[k]))

    def _log_prob(self, x_t: State, x_0: State, s: Any, t: Any) -> Any:
        return self._build(lambda k, p: p._log_prob(x_t[k], x_0[k], s[k], t[k]))

    def _score(self, x_t: State, x_0: State, t: Any) -> Any:
        return self._build(lambda k, p: p._score(x_t[k], x_0[k], t[k]))

    def _each(self, f: Callable[..., Any], *pieces: Any) -> Any:
        own = [self._split(piece, "the prediction") for piece in pieces]
        return self._build(lambda k, p: p._each(f, *(piece[k] for piece in own)))

    # ---------------------------------------------------------------- checks and times

    def _check(self, x: State, name: str) -> None:
        x = self._split(x, name)
        self._build(lambda k, p: p._check(x[k], f"{name}[{k!r}]"))

    def _check_shape(self, x: State, name: str) -> None:
        x = self._split(x, name)
        self._build(lambda k, p: p._check_shape(x[k], f"{name}[{k!r}]"))

    def _check_clean(self, x_0: State, name: str) -> None:
        x_0 = self._split(x_0, name)
        self._build(lambda k, p: p._check_clean(x_0[k], f"{name}[{k!r}]"))

    def _check_alike(self, x_0: State, x_t: State) -> None:
        self._build(lambda k, p: p._check_alike(x_0[k], x_t[k]))

    def _shape(self, shape: Any) -> Any:
        shape = self._split(shape, "shape")
        return self._build(lambda k, p: p._shape(shape[k]))

    def _eta(self, eta: Any) -> Any:
        eta = self._spread(eta, "eta")
        return self._build(lambda k, p: p._eta(eta[k]))

    def _times(self, x: State, **times: Time) -> list[Any]:
        spread = {name: self._spread(t, f"the time {name}") for name, t in times.items()}
        each = self._build(
            lambda k, p: _named(k, p._times, x[k], **{name: t[k] for name, t in spread.items()})
        )
        return [self._build(lambda k, p, i=i: each[k][i]) for i in range(len(times))]  # type: ignore[misc]

    def _expand(self, t: Time, x: State, name: str = "t") -> Any:
        t = self._spread(t, f"the time {name}")
        return self._build(lambda k, p: _named(k, p._expand, t[k], x[k], name))

    def _bare_time(self, t: Time) -> Any:
        t = self._spread(t, "the time t")
        return self._build(lambda k, p: p._bare_time(t[k]))

    def _model_time(self, t: Time, x: State) -> Any:
        if self._is_structure(t):
            t = self._split(t, "the time t")
            return self._build(lambda k, p: p._model_time(t[k], x[k]))
        key, part = next(
            ((k, p) for k, p in self._items() if _is_floating(x[k])), self._items()[0]
        )
        return part._model_time(t, x[key])

    def _counted(self, x: State, t: Any) -> Any:
        return self._build(lambda k, p: p._counted(x[k], t[k]))


def _is_floating(x: State) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves(x))


def _named(key: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call, and say of which part times differ inside a coupled point."""
    try:
        return call(*args, **kwargs)
    except CoupledTimeError as error:
        raise error.of(key) from None


def _masked(key: Any, part: Process, mask: Any) -> Process:
    """Return a part on a mask that is named after it."""
    return _renamed(part.where(mask), key)


def _renamed(masked: Process, key: Any) -> Process:
    if isinstance(masked, Joint):
        return masked._rebuilt(lambda k, p: _renamed(p, key))
    if isinstance(masked, Partial):
        return replace(masked, name=f"mask[{key!r}]{masked.name.removeprefix('mask')}")
    return masked
