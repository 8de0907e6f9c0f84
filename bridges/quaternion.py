r"""Unit quaternions: Brownian motion on S³, with its exact kernel and its exact bridge.

States are unit quaternions (…, 4), scalar first. q and −q are two points: a state remembers how it
was turned, not only where to (`RotationDiffusion` forgets it). The variance of the rotation vector
is :math:`v = r\,t` per axis, so a short step is :math:`q_t = q_s\,e^{z/2}`, :math:`z \sim N(0, v
I_3)`, on the right: in the frame of q_s. As rotations, the states are `RotationDiffusion` at the
same rate; on the unit sphere in ℝ⁴ the variance is v/4. The angle between two states is θ in
[0, 2π], with cos(θ/2) their inner product.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from bridges import _s3_kernel as s3
from bridges._draw import Draws
from bridges._s3_draw import sample_between, sample_kernel
from bridges._so3 import unit
from bridges.prediction import Prediction
from bridges.unit_vector import UnitVectorMotion


@final
@dataclass(frozen=True)
class UnitQuaternionDiffusion(UnitVectorMotion):
    """Brownian motion on S³, on unit quaternions. Exact; see the module for the laws.

    The prior is uniform. A prediction is any quaternion, of which `endpoint` takes the direction,
    a `Score`, `Noise` or `Velocity`, or a `Mixture` of heat kernels. The error of a point is the
    squared angle θ² in rad², up to 4π². Densities are with respect to the normalised measure: the
    uniform law has log 0. The score is a rotation vector (…, 3) in the frame of x_t: the gradient
    along x_t exp(ε/2). A point prediction is an approximation, as on any curved space.
    Stochasticity `eta` below 1 follows the shorter geodesic, so it keeps the marginal only while
    √v is small against 2π.

    References:
        Nikolayev & Savyolov, Normal distribution on the rotation group SO(3), 1997.

    Args:
        rate: variance of the rotation vector per axis and unit of time, in rad²; positive.

    Raises:
        ValueError: if the rate is not positive.

    >>> process = UnitQuaternionDiffusion(1.0)
    >>> x_0 = process.sample_prior((8,))
    >>> x_t = process.sample_forward(x_0, 0.5)
    >>> process.sample_bridge(x_0, x_t, s=0.2, t=0.5).shape
    torch.Size([8, 4])
    """

    size: ClassVar[int] = 4
    pole: ClassVar[int] = 0

    rate: float

    # ---------------------------------------------------------------- maps

    @property
    def _spread_of_uniform(self) -> float:
        return (4 * math.pi**2 / 3 - 2) / 3

    def _exp(self, x: Tensor, w: Tensor) -> Tensor:
        return unit(s3.product(x, s3.exp(w)))

    def _log(self, x: Tensor, y: Tensor) -> Tensor:
        return s3.log(s3.between(x, y))

    def _tangent(self, x: Tensor, w: Tensor) -> Tensor:
        return self._vector(w, (*x.shape[:-1], 3))

    # ---------------------------------------------------------------- draws

    def _diffuse(self, x: Tensor, v: Tensor, draws: Draws) -> Tensor:
        return unit(s3.product(x, sample_kernel(v, x.shape[:-1], draws, x.dtype, x.device)))

    def _bridge_along(self, x_0: Tensor, w: Tensor, a: Tensor, b: Tensor, draws: Draws) -> Tensor:
        return unit(s3.product(x_0, sample_between(w, a, b, draws)))

    # ---------------------------------------------------------------- densities and errors

    def _log_kernel(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        return s3.log_heat_kernel(*s3.angles(s3.between(x, y)), v)[0]

    def _kernel_score(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        wide = torch.promote_types(y.dtype, torch.float32)
        step = s3.between(x.to(wide), y.to(wide))
        return (
            s3.log_heat_kernel(*s3.angles(step), v)[1].unsqueeze(-1).mul(s3.log(step)).to(y.dtype)
        )

    def _error(self, prediction: Any, x_0: Tensor, x_t: Tensor | None, t: Any) -> Tensor:
        if isinstance(prediction, Prediction):
            return super()._error(prediction, x_0, x_t, t)
        # The angle alone: its gradient keeps its digits at the antipode, where the axis has none.
        return s3.angles(s3.between(x_0, self._point(prediction, x_0)))[0].square()

    def _loss_scale(self, t: Tensor) -> Tensor:
        r"""Return 8 √(1 − e^{−5v/16}), twice RotationDiffusion's at v/4.

        Small angles weigh as much as there: the square of both starts as 20v, and a short step is
        the same. At the prior a squared angle is 4π²/3 − 2 = 11.2 on average, and 8 brings it to
        1.4, between the 1.3 of rotations and the 1.6 of angles.
        """
        return 8 * (-torch.expm1(-0.3125 * self.rate * t)).sqrt()
