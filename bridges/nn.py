r"""Random Fourier features: a few numbers, such as a time, as a network likes to read them.

A network learns slowly what varies quickly with a small number of inputs. Random waves of them,

.. math:: \phi(x) = (\cos 2\pi W x,\; \sin 2\pi W x), \qquad W_{ij} \sim N(0, \sigma^2),

turn that into something to read off: with d features the products of two embeddings tend to a
Gaussian kernel as d grows,

.. math:: \tfrac2d\,\phi(x)\cdot\phi(y) \to e^{-2\pi^2\sigma^2\|x - y\|^2},

so σ is about the inverse of the distance over which the answer changes.
"""

import math
from numbers import Integral
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from bridges._draw import Generator, as_draws
from bridges._precision import exact
from bridges._shapes import as_integer, describe, positive


@final
class RandomFourierFeatures(nn.Module):
    r"""The features :math:`(\cos 2\pi W x, \sin 2\pi W x)`, with random W that is not learned.

    W is the buffer `weight`, (out_features/2, in_features): it moves and is saved with the module.
    The features have its dtype. Under autocast too: phases of many turns lose everything in half
    precision.

    References:
        Tancik et al., Fourier features let networks learn high frequency functions in low
        dimensional domains, 2020.
        Rahimi & Recht, Random features for large-scale kernel machines, 2007.

    Args:
        in_features: how many numbers make one x; 1 for a time, given as `t.unsqueeze(-1)`.
        out_features: how many features come out, even: half are cosines, half sines.
        scale: σ, the standard deviation of W, in inverse units of x; positive.
        generator: the source of W; None for the global state.
        dtype: of W; None for torch's default.
        device: of W; None for torch's default.

    Raises:
        TypeError, ValueError: if a size is not a positive integer, `out_features` is odd, or the
            scale is not positive.

    >>> features = RandomFourierFeatures(1, 64, scale=1.0)
    >>> t = torch.rand(8)
    >>> features(t.log().unsqueeze(-1)).shape
    torch.Size([8, 64])
    """

    weight: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scale: float,
        *,
        generator: Generator = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.in_features = _size(in_features, "in_features")
        self.out_features = _size(out_features, "out_features")
        if out_features % 2:
            raise ValueError(f"Expected out_features to be even; got {out_features}.")
        self.scale = positive(scale, "scale")
        dtype = torch.get_default_dtype() if dtype is None else dtype
        device = torch.get_default_device() if device is None else torch.device(device)
        weight = as_draws(generator).normal((out_features // 2, in_features), dtype, device)
        self.register_buffer("weight", self.scale * weight)

    @exact
    def forward(self, x: Tensor) -> Tensor:
        """Return the features of x.

        Args:
            x: floating numbers, shape (…, in_features).

        Returns:
            The cosines, then the sines: shape (…, out_features), in the dtype of `weight`.

        Raises:
            TypeError, ValueError: if x is not a floating tensor of that shape.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"Expected x to be a floating tensor; got {describe(x)}.")
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(
                f"Expected x to have shape (…, {self.in_features}); got {tuple(x.shape)}."
            )
        phase = 2 * math.pi * functional.linear(x.to(self.weight.dtype), self.weight)
        return torch.cat((phase.cos(), phase.sin()), -1)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, scale={self.scale}"


def _size(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"Expected {name} to be an integer; got {describe(value)}.")
    return as_integer(value, name, 1, what="at least 1")
