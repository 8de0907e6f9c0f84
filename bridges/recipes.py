r"""The noise of published models, as processes: nothing here but numbers.

Time 0 is data and 1 is noise, whatever the paper calls them. Each recipe says which formula it is,
and what of the paper is not in it. Coordinates are in the paper's own unit.
"""

import math

import torch

from bridges._shapes import as_integer, positive
from bridges.angle import WrappedBrownianDiffusion
from bridges.categorical import MaskingDiscreteDiffusion
from bridges.clock import GeometricClock, LinearRateClock, LogarithmicClock, PowerClock
from bridges.gaussian import BrownianDiffusion, GaussianDiffusion, OrnsteinUhlenbeckDiffusion
from bridges.joint import Joint
from bridges.process import Process
from bridges.rotation import RotationDiffusion
from bridges.schedule import RectifiedSchedule
from bridges.share_clock import LogLinearClock
from bridges.table_clock import TableClock

FLOW_SIGMA = 1.5
"""The σ of the rotations that MultiFlow and FrameFlow start from, IGSO(3) in training."""


def framediff() -> Joint:
    r"""Return FrameDiff's noise, on `pos` (nm, that is Å/10) and `rot`.

    .. math::
        \alpha_t^2 = e^{-(0.1\,t + \frac12 19.9\,t^2)}, \quad \sigma_t^2 = 1 - \alpha_t^2; \qquad
        v_t = \log^2\!\big(t\,e^{1.5} + (1 - t)\,e^{0.1}\big)

    References:
        Yim et al., SE(3) diffusion model with application to protein backbone generation, 2023.

    >>> framediff().sample_prior({"pos": (2, 24, 3), "rot": (2, 24)})["rot"].shape
    torch.Size([2, 24, 3, 3])
    """
    return Joint(
        pos=OrnsteinUhlenbeckDiffusion(0.0).on(LinearRateClock(0.1, 20.0)),
        rot=RotationDiffusion(1.0).on(LogarithmicClock(0.1, 1.5)),
    )


def rfdiffusion(steps: int = 50) -> Joint:
    r"""Return RFdiffusion's noise, on `pos` (Å/4) and `rot`.

    With :math:`\beta_k` evenly spaced from 2/T to 14/T, at :math:`t = k/T`

    .. math::
        \alpha_t^2 = \prod_{j \le k} (1 - \beta_j), \quad \sigma_t^2 = 1 - \alpha_t^2; \qquad
        v_t = (0.02 + 1.5\,t + \tfrac12 t^2)^2 .

    Between the times k/T it is interpolated; use `uniform_times(0, 1, steps + 1)`.

    References:
        Watson et al., De novo design of protein structure and function with RFdiffusion, 2023.

    Args:
        steps: T, 50 in inference; above 14, as there.

    >>> x = torch.ones(3)
    >>> rfdiffusion().parts["pos"].score(x, x, 0.02).abs() < 1
    tensor([True, True, True])
    """
    steps = as_integer(steps, "steps", 15, what="an integer above 14")
    beta = torch.linspace(0.01, 0.07, steps, dtype=torch.float64, device="cpu") * (200 / steps)
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device="cpu")
    forgotten = torch.cat((t[:1], -torch.log1p(-beta).cumsum(0)))
    variance = (0.02 + 1.5 * t + 0.5 * t**2) ** 2
    variance[0] = 0
    return Joint(
        pos=OrnsteinUhlenbeckDiffusion(0.0).on(TableClock(t, forgotten)),
        rot=RotationDiffusion(1.0).on(TableClock(t, variance)),
    )


def frameflow(rate: float = 10.0) -> Joint:
    r"""Return FrameFlow's flow, on `pos` (nm) and `rot`; walk it with `eta=0.0`.

    Positions: :math:`x_t = (1 - t)\,x_0 + t\,\varepsilon`. Rotations: with `eta` = 0 the way that
    is left to x̂_0 is :math:`e^{-c\Delta}` of itself after a time Δ, as in the exponential schedule
    of its sampler (which takes Euler steps of it), and at t = 1 the law is the heat kernel of
    σ = 1.5 about x_0, as in its training. In between, its training puts x_t on a geodesic to such
    a draw, which is no Brownian motion; here x_t has the heat kernel of that width.

    References:
        Yim et al., Fast protein backbone generation with SE(3) flow matching, 2023.

    Args:
        rate: c, positive.
    """
    return Joint(pos=GaussianDiffusion(RectifiedSchedule()), rot=_exponential_rotations(rate))


def multiflow(rate: float = 10.0) -> Joint:
    r"""Return MultiFlow's flow, on `pos` (nm), `rot` and `seq`.

    `frameflow`, and residue types that are masked with probability t. Walk it with
    `eta={"pos": 0.0, "rot": 0.0, "seq": 1.0}`.

    References:
        Campbell et al., Generative flows on discrete state-spaces: enabling multimodal flows with
        applications to protein co-design, 2024.

    Args:
        rate: c of the rotations, positive.
    """
    return Joint(
        pos=GaussianDiffusion(RectifiedSchedule()),
        rot=_exponential_rotations(rate),
        seq=MaskingDiscreteDiffusion(1.0, 20).on(LogLinearClock(0.0)),
    )


def torsional_diffusion() -> Process:
    r"""Return the noise of torsional diffusion, :math:`v_t = (0.01\pi)^2 \cdot 100^{2t}`.

    References:
        Jing et al., Torsional diffusion for molecular conformer generation, 2022.

    >>> torsional_diffusion().sample_prior((3,)).shape
    torch.Size([3])
    """
    return WrappedBrownianDiffusion(1.0).on(GeometricClock((0.01 * math.pi) ** 2, math.pi**2))


def mattergen_coordinates(num_atoms: float = 1.0) -> Process:
    r"""Return MatterGen's noise of fractional coordinates, of period 1.

    .. math:: v_t = n^{-2/3}\,\big(0.005 \cdot 1000^{\,t}\big)^2

    References:
        Zeni et al., A generative model for inorganic materials design, 2025.

    Args:
        num_atoms: n, atoms in the unit cell, positive.

    >>> mattergen_coordinates(8).sample_prior((3,)).abs().max() <= 0.5
    tensor(True)
    """
    size = positive(num_atoms, "num_atoms") ** (-1 / 3)
    return WrappedBrownianDiffusion(1.0, period=1.0).on(
        GeometricClock((0.005 * size) ** 2, (5.0 * size) ** 2)
    )


def edm() -> Process:
    r"""Return EDM's noise, :math:`\alpha_t = 1, \sigma_t = t`, with t from 0.002 to 80.

    Its grid is `karras_times(0.002, 80.0, n)` with 0 before it. There is no prior: start from
    normals of standard deviation 80.

    References:
        Karras et al., Elucidating the design space of diffusion-based generative models, 2022.

    >>> edm().score(torch.ones(1), torch.zeros(1), 2.0)
    tensor([-0.2500])
    """
    return BrownianDiffusion(1.0).on(PowerClock(2.0))


def _exponential_rotations(rate: float) -> Process:
    last = FLOW_SIGMA**2
    first = last * math.exp(-2 * positive(rate, "rate"))
    return RotationDiffusion(1.0).on(GeometricClock(first, last))
