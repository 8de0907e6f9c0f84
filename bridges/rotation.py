r"""Rotations: Brownian motion on SO(3), with its exact kernel and its exact bridge.

States are rotation matrices (…, 3, 3). The variance of the rotation vector is :math:`v = r\,t` per
axis, so a short step is :math:`x_t = x_s \exp(z)`, :math:`z \sim N(0, v I_3)` on the right: in the
frame of x_s.

Both laws are drawn exactly, without tables, by one Gaussian and a test.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

import torch
from torch import Tensor

from bridges import _so3
from bridges._draw import Draws
from bridges._nearest import nearest
from bridges._precision import widened
from bridges._shapes import describe
from bridges._so3_draw import sample_between, sample_kernel, sample_uniform
from bridges._so3_kernel import log_heat_kernel
from bridges.manifold import BrownianMotion

ORTHOGONAL: Final = 1e-3
"""How far from orthonormal a matrix may be and still count as a rotation."""


@final
@dataclass(frozen=True)
class RotationDiffusion(BrownianMotion):
    """Brownian motion on SO(3), on rotation matrices. Exact; see the module for the laws.

    The prior is uniform (Haar). A prediction is any matrix, of which `endpoint` takes the nearest
    rotation, a `Score`, `Noise` or `Velocity`, or a `Mixture` of heat kernels. A point is an
    approximation, as on any curved space. The error of a point is the squared angle in radians.
    The score is a rotation vector (…, 3) in the frame of x_t: the gradient along x_t exp(ε).
    Stochasticity `eta` below 1 follows the shorter geodesic, so it keeps the marginal only while
    √v is small against π.

    References:
        Nikolayev & Savyolov, Normal distribution on the rotation group SO(3), 1997.

    Args:
        rate: variance of the rotation vector per axis and unit of time, in rad²; positive.
            Diffusions.jl turns by twice its Gaussian angle: its rate r is 4r here.

    Raises:
        ValueError: if the rate is not positive.

    >>> process = RotationDiffusion(1.0)
    >>> x_0 = process.sample_prior((8,))
    >>> x_t = process.sample_forward(x_0, 0.5)
    >>> process.sample_bridge(x_0, x_t, s=0.2, t=0.5).shape
    torch.Size([8, 3, 3])
    """

    point_ndim: ClassVar[int] = 2
    tangent_ndim: ClassVar[int] = 1

    rate: float

    @property
    def _spread_of_uniform(self) -> float:
        return (math.pi**2 / 3 + 2) / 3

    def _exp(self, x: Tensor, w: Tensor) -> Tensor:
        return _so3.compose(x, _so3.exp(w))

    def _log(self, x: Tensor, y: Tensor) -> Tensor:
        return _so3.log(_so3.between(x, y))

    def _tangent(self, x: Tensor, w: Tensor) -> Tensor:
        return self._vector(w, (*x.shape[:-2], 3))

    def _project(self, point: Tensor) -> Tensor:
        return nearest(point)

    def _diffuse(self, x: Tensor, v: Tensor, draws: Draws) -> Tensor:
        return _so3.compose(x, sample_kernel(v, x.shape[:-2], draws, x.dtype, x.device))

    def _bridge_along(self, x_0: Tensor, w: Tensor, a: Tensor, b: Tensor, draws: Draws) -> Tensor:
        return _so3.compose(x_0, sample_between(w, a, b, draws))

    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> Tensor:
        return sample_uniform(shape, draws, dtype, device)

    def _log_kernel(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        return log_heat_kernel(_so3.safe_norm(self._log(x, y)), v)[0]

    def _kernel_score(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        rotvec = self._log(x, y)
        return log_heat_kernel(_so3.safe_norm(rotvec), v)[1].unsqueeze(-1) * rotvec

    def _rounded(self, x: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        # A product hands on how far its factors are off, and rounding adds to it: what has gone
        # further than rounding alone can take it is put back. In float32 a run would have to take
        # millions of steps for that.
        dtype = given[0].dtype
        off = _gap(x).amax((-2, -1), keepdim=True) > 3 * torch.finfo(dtype).eps
        for state in given:
            off = off & (x != state.to(x.dtype)).any(-1, keepdim=True).any(-2, keepdim=True)
        return torch.where(off, _orthonormal(x), x).to(dtype)

    def _check_shape(self, x: Any, name: str) -> None:
        super()._check_shape(x, name)
        if x.shape[-2:] != (3, 3):
            raise ValueError(f"Expected {name} to hold matrices (…, 3, 3); got {describe(x)}.")

    def _check_values(self, x: Tensor, name: str) -> None:
        allowed, x = max(ORTHOGONAL, 8 * torch.finfo(x.dtype).eps), widened(x)
        gap = _gap(x)
        if x.numel() and not bool((gap < allowed).all() & (_so3.det(x) > 0).all()):
            raise ValueError(
                f"Expected {name} to hold rotation matrices, orthonormal to {allowed:.2g} and "
                f"right-handed; got a matrix that is {float(gap.max()):.2g} off, with "
                f"determinants down to {float(_so3.det(x).min()):.2g}."
            )

    def _loss_scale(self, t: Tensor) -> Tensor:
        r"""Return 4 √(1 − e^{−1.25v}), Diffusions.jl's scaler in our units.

        There it is √(1 − e^{−5rt}) with v = 4rt, on a quarter of the squared angle. A quarter of
        it is 1.3 on average at the prior, near the 1 of a standard normal; its square starts as
        5v/4, above the three axes' 3v/4, so the loss of small angles stays below that of numbers.
        """
        return 4 * (-torch.expm1(-1.25 * self.rate * t)).sqrt()


def _orthonormal(rot: Tensor) -> Tensor:
    """Return matrices that are nearly rotations with orthonormal rows."""
    first, second, _ = rot.unbind(-2)
    first = _so3.unit(first)
    second = _so3.unit(second - (first * second).sum(-1, keepdim=True) * first)
    return torch.stack((first, second, torch.linalg.cross(first, second)), -2)


def _gap(rot: Tensor) -> Tensor:
    """Return how far matrices are from orthonormal, entry by entry."""
    return (_so3.between(rot, rot) - torch.eye(3, dtype=rot.dtype, device=rot.device)).abs()
