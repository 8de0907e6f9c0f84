r"""Unit vectors: what Brownian motion on S² and on S³ share as points of ℝⁿ."""

from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from bridges._draw import Draws
from bridges._precision import widened
from bridges._shapes import describe
from bridges._so3 import unit
from bridges.manifold import BrownianMotion

UNIT: Final = 1e-3
"""How far from 1 the length of a vector may be, and still count; more in half precision."""


class UnitVectorMotion(BrownianMotion):
    """Brownian motion on unit vectors (…, n).

    The prior is uniform. A predicted point is any vector, of which the direction is taken; a zero
    vector, which has none, counts as the pole, and a gradient still turns it.
    """

    point_ndim: ClassVar[int] = 1
    tangent_ndim: ClassVar[int] = 1

    size: ClassVar[int]
    """n, the numbers of a vector."""

    pole: ClassVar[int]
    """The axis that stands for a prediction without a direction."""

    def _point(self, prediction: Any, x_t: Tensor) -> Tensor:
        return self._project(super()._point(prediction, x_t))

    def _project(self, point: Tensor) -> Tensor:
        top = point.detach().abs().amax(-1, keepdim=True)
        pole = torch.eye(self.size, dtype=point.dtype, device=point.device)[self.pole]
        scaled = point / torch.where(top == 0, 1.0, top)
        return unit(scaled + torch.where(top == 0, pole, 0.0))

    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> Tensor:
        return self._project(draws.normal((*shape, self.size), dtype, device))

    def _check_shape(self, x: Any, name: str) -> None:
        super()._check_shape(x, name)
        if x.shape[-1] != self.size:
            raise ValueError(
                f"Expected {name} to hold vectors (…, {self.size}); got {describe(x)}."
            )

    def _check_values(self, x: Tensor, name: str) -> None:
        allowed = max(UNIT, 8 * torch.finfo(x.dtype).eps)
        gap = (torch.linalg.vector_norm(widened(x), dim=-1) - 1).abs()
        if x.numel() and not bool((gap < allowed).all()):
            raise ValueError(
                f"Expected {name} to hold unit vectors, of length 1 to {allowed:.2g}; got a "
                f"vector that is {float(gap.max()):.2g} off."
            )
