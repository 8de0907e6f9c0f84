"""Shapes, times and structures: the checks that every public method shares.

A state is a tensor `(*B, *P)`: any batch shape, then the point of the space. A time is a number or
a tensor whose shape is a leading part of the batch shape. Inside the library a time is always a
float64 tensor (float32 on a device without float64) that broadcasts over the batch; a number
becomes a 0-dimensional one on the host, so reading it never waits for a device.
"""

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from bridges._device import host, in_transform, widest

T = TypeVar("T")

State: TypeAlias = Any
"""A tensor, or a tuple or dict of states."""

Time: TypeAlias = Any
"""A number, a tensor over a leading part of the batch shape, or, for a Joint, a structure."""


def describe(value: object) -> str:
    """Say in a few words what a value is, for an error message.

    >>> describe(torch.zeros(2, 3)), describe("a"), describe(-1.0)
    ('a float32 tensor of shape (2, 3)', "'a'", '-1.0')
    """
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a dict with keys {sorted(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of length {len(value)}"
    return repr(value)


def as_number(value: object, name: str) -> float:
    """Return a finite real number as a float, or raise."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"Expected {name} to be a number; got {describe(value)}.")
    number = float(value)
    if not -math.inf < number < math.inf:
        raise ValueError(f"Expected {name} to be finite; got {value!r}.")
    return number


def positive(value: object, name: str) -> float:
    """Return a finite number above zero as a float, or raise."""
    number = as_number(value, name)
    if number <= 0:
        raise ValueError(f"Expected {name} to be positive; got {value!r}.")
    return number


def as_integer(
    value: object, name: str, least: int, most: int | None = None, what: str = ""
) -> int:
    """Return an integer, of Python or NumPy, as an int, or raise.

    Args:
        value: the argument.
        name: what it is called.
        least: the least that it may be.
        most: the most that it may be; None for any number.
        what: what it must be, in other words than the bounds.

    >>> as_integer(3, "n", 1)
    3
    """
    if not isinstance(value, bool) and isinstance(value, Integral):
        number = int(value)
        if least <= number and (most is None or number <= most):
            return number
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ValueError(
        f"Expected {name} to be {what or f'an integer {bounds}'}; got {describe(value)}."
    )


def as_count(value: object, name: str) -> int:
    """Return a positive integer as an int, or raise."""
    return as_integer(value, name, 1, what="a positive integer")


def like(value: object, x: Tensor, name: str) -> Tensor:
    """Return a tensor in the dtype of x, or raise unless it is one of the same shape."""
    if not isinstance(value, Tensor):
        raise TypeError(f"Expected {name} to be a tensor; got {describe(value)}.")
    if value.shape != x.shape:
        raise ValueError(
            f"Expected {name} to have the shape of the state, {tuple(x.shape)}; "
            f"got {tuple(value.shape)}."
        )
    return value.to(x.dtype)


def as_shape(shape: object, name: str = "shape") -> tuple[int, ...]:
    """Return a batch shape as a tuple of non-negative integers, or raise."""
    if not isinstance(shape, Sequence) or not all(map(_is_size, shape)):
        raise ValueError(
            f"Expected {name} to be a tuple of non-negative integers; got {describe(shape)}."
        )
    return tuple(map(int, shape))


def _is_size(n: object) -> bool:
    return isinstance(n, Integral) and not isinstance(n, bool) and int(n) >= 0


def is_leading(shape: Sequence[int], batch_shape: Sequence[int]) -> bool:
    """Whether `shape` is `()` or a leading part of `batch_shape`."""
    return tuple(shape) == tuple(batch_shape[: len(shape)])


def expand_leading(value: Tensor, ndim: int) -> Tensor:
    """Append dimensions of size one until `value` has `ndim`; a 0-dimensional tensor stays one.

    >>> expand_leading(torch.zeros(5, 2), 4).shape
    torch.Size([5, 2, 1, 1])
    """
    return value if value.ndim == 0 else value.reshape(*value.shape, *[1] * (ndim - value.ndim))


def expand_time(t: object, batch_shape: Sequence[int], device: torch.device, name: str) -> Tensor:
    """Turn a time into a float64 tensor that broadcasts over the batch shape.

    Args:
        t: a number, or a real tensor whose shape is `()` or a leading part of the batch shape.
        batch_shape: the batch shape of the state.
        device: where the state lies; a tensor with dimensions moves there.
        name: what to call it in an error message.

    Raises:
        TypeError: if it is neither a number nor a real tensor.
        ValueError: if a number is not finite, or a tensor's shape does not fit.
    """
    if not isinstance(t, Tensor):
        return host(as_number(t, f"the time {name}"))
    if t.is_complex() or t.dtype == torch.bool:
        raise TypeError(f"Expected the time {name} to be real; got {describe(t)}.")
    if not is_leading(t.shape, batch_shape):
        raise ValueError(
            f"Expected the time {name} to be a number or to have a leading part of the batch "
            f"shape {tuple(batch_shape)}; got shape {tuple(t.shape)}."
        )
    if t.ndim == 0:
        return t.to(widest(t.device))
    return expand_leading(t.to(device, widest(device)), len(batch_shape))


class CoupledTimeError(ValueError):
    """Times that differ inside one point, whose noise couples it."""

    def __init__(self, name: str, shape: tuple[int, ...], path: tuple[object, ...] = ()) -> None:
        self.name, self.shape, self.path = name, shape, path
        part = "".join(f"[{key!r}]" for key in path)
        part = part if len(path) > 1 else part[1:-1] or "the process"
        super().__init__(
            f"Expected the time {name} of {part} to be one for each example, since its noise "
            f"couples a point; got shape {shape}: give {part} times over the batch alone, and "
            "hold what is to stay by where(mask)."
        )

    def of(self, part: object) -> "CoupledTimeError":
        """Return the same error, with the name of the part that it came from."""
        return CoupledTimeError(self.name, self.shape, (part, *self.path))


def on_host(*times: Tensor) -> bool:
    """Whether every time is one number that can be read without waiting for a device."""
    if torch.compiler.is_compiling() or in_transform(*times):  # there is no value to read
        return False
    return all(t.ndim == 0 and t.device.type == "cpu" for t in times)


def cast(coefficient: Tensor, x: Tensor, point_ndim: int = 0) -> Tensor:
    """Bring a float64 coefficient to the dtype of `x` and append the point's dimensions."""
    c = coefficient.to(x.dtype)
    return c if c.ndim == 0 else c.reshape(*c.shape, *[1] * point_ndim)


class Constant:
    """A tensor that belongs to a process, with a copy on every device it was used on.

    >>> Constant(torch.ones(2)).on(torch.device("cpu"))
    tensor([1., 1.])
    """

    def __init__(self, value: Tensor) -> None:
        self._copies = {value.device: lasting(value)}

    def on(self, device: torch.device) -> Tensor:
        """Return the tensor on a device; it is copied there once."""
        if device not in self._copies:
            value = next(iter(self._copies.values()))
            exact = value.dtype == torch.float64
            with torch.inference_mode(False):  # noqa: FBT003  (compiled code takes no keyword)
                copy = value.to(device, widest(device) if exact else value.dtype)
            self._copies[device] = copy
        return self._copies[device]


def lasting(value: Tensor) -> Tensor:
    """Return a tensor to keep: it remembers no graph and may be used in training later.

    >>> with torch.inference_mode():
    ...     kept = lasting(torch.ones(2))
    >>> kept.is_inference()
    False
    """
    if torch.compiler.is_compiling():
        return value.detach()
    with torch.inference_mode(False):  # noqa: FBT003  (compiled code takes no keyword)
        return value.clone() if value.is_inference() else value.detach()


class kept(Generic[T]):
    """A property of an object that never changes, computed where it is first asked for.

    It is `functools.cached_property` without its lock, which compiled code cannot take.

    >>> class Square:
    ...     side = 3
    ...
    ...     @kept
    ...     def area(self):
    ...         return self.side**2
    >>> square = Square()
    >>> square.area, vars(square)
    (9, {'area': 9})
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute, self.__doc__ = compute, compute.__doc__

    def __get__(self, owner: Any, kind: type) -> T:
        if owner is None:
            return self  # type: ignore[return-value]
        value: T = self.compute(owner)
        owner.__dict__[self.compute.__name__] = value
        return value


class Bundle:
    """A dataclass of tensors; the functions of structures look into it and build it again."""

    def parts(self) -> tuple[Any, ...]:
        """List the values of its fields."""
        return tuple(vars(self).values())


def map_structure(f: Callable[..., Any], *trees: Any) -> Any:
    """Apply `f` to the leaves of structures (tuples, dicts and bundles) that are alike.

    >>> map_structure(lambda a, b: a + b, {"x": 1, "y": (2, 3)}, {"x": 10, "y": (20, 30)})
    {'x': 11, 'y': (22, 33)}
    """
    first = trees[0]
    if isinstance(first, dict):
        return {key: map_structure(f, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, tuple | list):
        return tuple(map_structure(f, *parts) for parts in zip(*trees, strict=True))
    if isinstance(first, Bundle):
        fields = zip(*(tree.parts() for tree in trees), strict=True)
        return type(first)(*(map_structure(f, *parts) for parts in fields))
    return f(*trees)


def leaves(tree: Any) -> list[Any]:
    """List the leaves of a structure in order.

    >>> leaves({"x": 1, "y": (2, 3)})
    [1, 2, 3]
    """
    found: list[Any] = []
    map_structure(found.append, tree)
    return found
