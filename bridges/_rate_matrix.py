r"""The exponential of a rate matrix, and the law that it keeps.

A rate matrix has rows that sum to 0 and no negative entry off the diagonal; its exponential
:math:`P(\tau) = e^{Q\tau}` holds the probabilities to go from row to column in time τ. Both ways
to it are in float64, take times of any shape and never look at a time on a device.
"""

import math
from abc import ABC, abstractmethod
from typing import Final, final

import torch
from torch import Tensor

from bridges._device import may_look
from bridges._shapes import Constant, on_host
from bridges._tables import square

FLOOR: Final = 2.0**-48
"""What rounding may leave in place of 0, as a share of the largest term of a sum."""

TERMS: Final = 18
"""Terms of a Poisson law of mean 1; those left out have probability 10⁻¹⁷."""

SQUARINGS: Final = 50
"""On a device a matrix is squared so often at most; after 2⁵⁰ jumps nothing moves any more."""


def rate_matrix(values: object, name: str = "rates") -> Tensor:
    """Return a rate matrix as a float64 tensor with rows that sum to 0, or raise."""
    rates = square(values, name)
    off = rates - rates.diag().diag()
    if bool((off < 0).any()):
        raise ValueError(
            f"Expected {name} to be at least 0 off the diagonal; got {off.min().item():.9g}."
        )
    leaving = off.sum(1)
    miss = (leaving + rates.diag()).abs()
    if bool((miss > 1e-6 * leaving.max()).any()):
        raise ValueError(
            f"Expected {name} to have rows that sum to 0; got {miss.max().item():.3g}."
        )
    if bool(leaving.max() == 0):
        raise ValueError(f"Expected {name} to move some state; got 0 everywhere.")
    return off - leaving.diag()


def stationary(rates: Tensor) -> Tensor | None:
    """Return the one law π with πQ = 0, or None where there are several.

    There is one if some state can be reached from every other. By elimination without a
    subtraction, which keeps the digits of small probabilities.

    References:
        Grassmann, Taksar & Heyman, Regenerative analysis and steady state distributions for Markov
        chains, 1985.
    """
    reach = (rates != 0).double() + torch.eye(len(rates), dtype=torch.float64, device="cpu")
    for _ in range(math.ceil(math.log2(len(rates)))):
        reach = (reach @ reach > 0).double()
    home = (reach > 0).all(0).nonzero().squeeze(-1)
    if len(home) == 0:
        return None
    rest = rates[home][:, home].clone()
    for n in range(len(home) - 1, 0, -1):
        rest[:n, n] /= rest[n, :n].sum()
        rest[:n, :n] += torch.outer(rest[:n, n], rest[n, :n])
    weights = torch.ones(len(home), dtype=torch.float64, device="cpu")
    for n in range(1, len(home)):
        weights[n] = weights[:n] @ rest[:n, n]
    pi = torch.zeros(len(rates), dtype=torch.float64, device="cpu")
    pi[home] = weights / weights.sum()
    return pi


def exponential(rates: Tensor, pi: Tensor | None) -> "Exponential":
    """Return e^{Qτ} as a function of τ; `pi` is the stationary law, if there is one."""
    if pi is None or bool((pi == 0).any()):
        return Uniformised(rates)
    flow = pi.unsqueeze(1) * rates
    balanced = (flow - flow.T).abs() <= 1e-12 * (flow + flow.T).abs()
    return Spectral(rates, pi) if bool(balanced.all()) else Uniformised(rates)


class Exponential(ABC):
    """The exponential of a rate matrix as a function of time."""

    @abstractmethod
    def __call__(self, tau: Tensor, device: torch.device) -> Tensor:
        """Return e^{Qτ} of shape `(*tau.shape, K, K)` on a device; τ may be infinite."""


@final
class Spectral(Exponential):
    r"""Reversible rates: detailed balance, :math:`\pi_i Q_{ij} = \pi_j Q_{ji}`.

    .. math:: P(\tau) = I + D^{-1/2}\,U \operatorname{expm1}(\Lambda\tau)\,U^T D^{1/2}, \qquad
        D^{1/2} Q D^{-1/2} = U \Lambda U^T, \quad D = \operatorname{diag}(\pi)

    One product of matrices per time. What is within rounding of 0 off the diagonal is 0: at small
    times, states that are many jumps apart.
    """

    def __init__(self, rates: Tensor, pi: Tensor) -> None:
        root = pi.sqrt()
        symmetric = root.unsqueeze(1) * rates / root
        values, vectors = torch.linalg.eigh((symmetric + symmetric.T) / 2)
        values[-1] = 0.0  # the stationary law does not decay, not even by rounding
        self._values = Constant(values.clamp(max=0))
        self._vectors = Constant(vectors)
        self._ratio = Constant(root / root.unsqueeze(1))

    def __call__(self, tau: Tensor, device: torch.device) -> Tensor:
        values, vectors = self._values.on(device), self._vectors.on(device)
        tau = tau.to(values)
        tau = (tau.unsqueeze(-1) if tau.ndim else tau).clamp(max=1e30)
        decay = torch.expm1(values * tau)
        moved = (vectors * decay.unsqueeze(-2)) @ vectors.mT
        stay = (1 + moved.diagonal(dim1=-2, dim2=-1)).clamp(min=0)
        floor = -FLOOR * decay[..., :1, None]
        moved = torch.where(moved > floor, moved, 0.0) * self._ratio.on(device)
        moved.diagonal(dim1=-2, dim2=-1).copy_(stay)
        return moved


@final
class Uniformised(Exponential):
    r"""Any rates, by the jumps of a Poisson process.

    .. math:: P(\tau) = \Big(\sum_n \frac{e^{-y} y^n}{n!}\,R^n\Big)^{2^h}, \qquad
        R = I + Q/q, \quad 2^h y = q\,\tau, \quad y \le 1,

    where q is the largest rate to leave a state. Nothing is subtracted, so every entry that takes
    fewer than 18 jumps keeps its digits; the rows are divided by their sums.

    References:
        Jensen, Markoff chains as an aid in the study of Markoff processes, 1953.
    """

    def __init__(self, rates: Tensor) -> None:
        self._fastest = float(-rates.diag().min())
        jump = rates / self._fastest
        off = jump - jump.diag().diag()
        self._jump = Constant(off + (1 + jump.diag()).clamp(min=0).diag())

    def __call__(self, tau: Tensor, device: torch.device) -> Tensor:
        jump = self._jump.on(device)
        mean = (self._fastest * tau).clamp(max=2.0**SQUARINGS)
        halvings = torch.log2(mean.clamp(min=1.0)).ceil()
        share = (mean / torch.exp2(halvings)).to(jump)[..., None, None]
        one = torch.eye(len(jump), dtype=jump.dtype, device=device)
        power = one.expand(*tau.shape, *one.shape)
        for n in range(TERMS, 0, -1):
            power = one + (share / n) * (jump @ power)
        power = power / power.sum(-1, keepdim=True)
        left = halvings.to(jump)[..., None, None]
        for i in range(self._squarings(halvings)):
            squared = power @ power
            power = torch.where(left > i, squared / squared.sum(-1, keepdim=True), power)
        return power

    def _squarings(self, halvings: Tensor) -> int:
        if on_host(halvings):
            return int(halvings)
        if may_look(halvings):
            return int(halvings.max()) if halvings.numel() else 0
        return SQUARINGS
