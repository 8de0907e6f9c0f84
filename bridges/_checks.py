"""Whether values are checked: a switch, and where it is off on its own.

A check of values reads them, and on a device reading is waiting. Shapes and dtypes are always
checked.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from bridges._device import is_traced

_DEPTH: Final = ContextVar("bridges_unchecked", default=0)
"""How many contexts without checks are open."""


@contextmanager
def unchecked() -> Iterator[None]:
    """Skip the checks of values, for as long as the context lasts.

    Public methods then trust that tokens are in range, rotations orthonormal, states on their
    space and times finite and in order, and wait for no device to find out. Shapes and dtypes are
    checked as ever, and what a draw finds (logits without a softmax) is refused as ever. In
    compiled code and in the transforms of `torch.func`, where nobody may look, values are
    unchecked anyway.

    >>> import torch
    >>> from bridges import RotationDiffusion
    >>> with unchecked():
    ...     x_t = RotationDiffusion(1.0).sample_forward(torch.zeros(2, 3, 3), 0.5)
    >>> x_t.shape
    torch.Size([2, 3, 3])
    """
    _DEPTH.set(_DEPTH.get() + 1)
    try:
        yield
    finally:  # also where contexts are left in another order than they were entered
        _DEPTH.set(_DEPTH.get() - 1)


def values_are_checked() -> bool:
    """Whether public methods look at values, here and now."""
    return not is_traced() and _DEPTH.get() <= 0
