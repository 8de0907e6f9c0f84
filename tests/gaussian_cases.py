"""Rows of Gaussian and structured processes for `cases.py`, and their laws by dense conditioning.

The oracle knows α, σ and a covariance matrix only. It draws with the matrix's eigenvectors and
conditions the joint normal law of (x_s, x_t), with no formula of the package.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from bridges import OrnsteinUhlenbeckDiffusion, Process
from bridges.correlated_noise import CovarianceFactor, SymmetricNoise
from bridges.gaussian import GaussianDiffusion
from bridges.linear_noise import ZeroCentreOfMass
from bridges.schedule import DecaySchedule, RectifiedSchedule
from bridges.structured import StructuredDiffusion
from bridges.ve_schedule import EDMSchedule, VESchedule
from bridges.vp_schedule import (
    CosineSchedule,
    OffsetCosineSchedule,
    TableSchedule,
    VPSchedule,
)

# ---------------------------------------------------------------- the oracle


@dataclass(frozen=True, eq=False)
class DensePath(Process):
    """x_t | x_0 ~ N(α_t x_0, σ_t² C) on flattened points, Markov, by dense linear algebra."""

    alpha: Callable[[float], float]
    sigma: Callable[[float], float]
    covariance: np.ndarray = field(default_factory=lambda: np.eye(1))
    point_shape: tuple[int, ...] = ()

    @property
    def point_ndim(self):
        return len(self.point_shape)

    def scales(self, t):
        return (self.alpha(t), self.sigma(t)) if t > 0 else (1.0, 0.0)

    def transition(self, s, t):
        """Return the factor of the mean and the covariance of x_t given x_s."""
        (alpha_s, sigma_s), (alpha_t, sigma_t) = self.scales(s), self.scales(t)
        a = alpha_t / alpha_s
        return a, (sigma_t**2 - a**2 * sigma_s**2) * self.covariance

    def conditioned(self, s, t):
        """Return the matrices of x_0 and x_t in the mean of x_s, and its covariance."""
        (alpha_s, sigma_s), (a, gained) = self.scales(s), self.transition(s, t)
        cov_s = sigma_s**2 * self.covariance
        cov_t = a**2 * cov_s + gained
        gain = np.linalg.pinv(cov_t, rcond=1e-9, hermitian=True) @ (a * cov_s)
        to_0 = alpha_s * np.eye(len(cov_s)) - a * alpha_s * gain
        return to_0, gain, cov_s - a * gain.T @ cov_s

    def draw(self, mean, covariance, draws):
        values, vectors = np.linalg.eigh(covariance)
        factor = torch.from_numpy(vectors * np.sqrt(values.clip(min=0))).to(mean)
        return mean + draws.normal(mean.shape, mean.dtype, mean.device) @ factor.mT

    def flat(self, x):
        return x.reshape(*x.shape[: x.ndim - self.point_ndim], len(self.covariance))

    def _forward(self, x, s, t, draws):
        a, covariance = self.transition(s.item(), t.item())
        return self.draw(a * self.flat(x), covariance, draws).reshape(x.shape)

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        to_0, to_t, covariance = self.conditioned(s.item(), t.item())
        to_0, to_t = (torch.from_numpy(m).to(x_t) for m in (to_0, to_t))
        mean = self.flat(x_0) @ to_0 + self.flat(x_t) @ to_t
        return self.draw(mean, covariance, draws).reshape(x_t.shape)

    def _prior(self, shape, draws, dtype, device):
        raise NotImplementedError

    def _error(self, prediction, x_0, x_t, t):
        raise NotImplementedError


# ---------------------------------------------------------------- schedules, in plain numbers
#
# Each formula is a function of t and of the module whose functions it uses: `math`, or `mpmath`
# for as many digits as are wanted.

BETAS = np.linspace(1e-3, 0.4, 50).tolist()


def of_betas(t, m=math):
    """α of a table of β, with straight lines in the log-SNR between its points."""
    log_kept = [sum(m.log(1 - b * t**0) for b in BETAS[: k + 1]) for k in range(len(BETAS))]
    points = [log - m.log(1 - m.exp(log)) for log in log_kept]
    place = t * len(BETAS)
    i = min(max(int(place), 1), len(BETAS) - 1)
    line = points[i - 1] + (place - i) * (points[i] - points[i - 1])
    log_snr = points[0] - m.log(place) if place < 1 else line
    return 1 / m.sqrt(1 + m.exp(-log_snr))


def preserving(alpha):
    return alpha, lambda t, m=math: m.sqrt(1 - alpha(t, m) ** 2)


def vp(t, m=math):
    return m.exp(-0.05 * t - 4.975 * t * t)


def slow_start(t, m=math):
    return m.exp(t * t * m.log(0.004))


def cosine(t, m=math):
    return m.cos(m.pi / 2 * t)


def offset_cosine(t, m=math):
    o = 0.008 * t**0
    return m.cos((t + o) / (1 + o) * m.pi / 2) / m.cos(o / (1 + o) * m.pi / 2)


def shifted_cosine(t, m=math):
    return m.cos(m.atan(0.4 * m.tan(m.pi / 2 * t)))


def one(t, m=math):
    return t**0


def ve(t, m=math):
    return m.exp((1 - t) * m.log(0.02) + t * m.log(800))


def edm(t, m=math):
    low, high = (m.exp(m.log(sigma) / 7) for sigma in (0.002, 800))
    return ((1 - t) * low + t * high) ** 7


def lost(t, m=math):
    gamma = 0.3 * t**0
    return (1 - m.exp(t * m.log(gamma))) / (1 - gamma)


def straight(sigma):
    return (lambda t, m=math: 1 - sigma(t, m)), sigma


SCHEDULES = {
    "vp": (VPSchedule(), preserving(vp)),
    "vp by alpha_min": (VPSchedule.from_alpha_min(0.004), preserving(slow_start)),
    "cosine": (CosineSchedule(), preserving(cosine)),
    "offset cosine": (OffsetCosineSchedule(), preserving(offset_cosine)),
    "table": (TableSchedule(BETAS), preserving(of_betas)),
    "ve": (VESchedule(0.02, 800.0), (one, ve)),
    "edm": (EDMSchedule(0.002, 800.0), (one, edm)),
    "rectified": (RectifiedSchedule(), straight(lambda t, m=math: t)),
    "decay": (DecaySchedule(0.3), straight(lost)),
    "shifted rectified": (
        RectifiedSchedule().shifted(3.0),
        straight(lambda t, m=math: 3 * t / (1 + 2 * t)),
    ),
    "shifted cosine": (CosineSchedule().shifted(0.4), preserving(shifted_cosine)),
    "shifted edm": (
        EDMSchedule(0.002, 800.0).shifted(2.0),
        (one, lambda t, m=math: 2 * edm(t, m)),
    ),
}
"""Schedules, and α and σ by formulas written again."""

EXPLODING = ("ve", "edm", "shifted edm")

# ---------------------------------------------------------------- noise, as matrices

MASS = torch.tensor([1.0, 12.0, 16.0, 3.0])
PADDED = torch.tensor([True, True, False, True])
CHAIN = CovarianceFactor.chain(3, 0.7, 2)


def centring(weight, kept):
    """A for one coordinate: I − 1 wᵀ/Σw on the atoms that are kept."""
    kept = np.asarray(kept, dtype=float)
    w = np.asarray(weight, dtype=float) * kept
    return np.diag(kept) - np.outer(kept, w) / w.sum()


def symmetric(n, diagonal):
    """A from one number per entry of the upper triangle, rows in order."""
    columns = []
    for i in range(n):
        for j in range(i, n):
            entry = np.zeros((n, n))
            entry[i, j] = entry[j, i] = diagonal if i == j else 1.0
            columns.append(entry.reshape(-1))
    return np.array(columns).T


def chain(n, rho):
    return np.linalg.cholesky(rho ** np.abs(np.subtract.outer(np.arange(n), np.arange(n))))


def per_coordinate(a, d):
    return np.kron(a, np.eye(d))


NOISES = {
    "equal atoms": (ZeroCentreOfMass(4, 3), per_coordinate(centring(np.ones(4), np.ones(4)), 3)),
    "masses": (
        ZeroCentreOfMass(4, 2, weight=MASS),
        per_coordinate(centring(MASS, np.ones(4)), 2),
    ),
    "masses and padding": (
        ZeroCentreOfMass(4, 2, PADDED, MASS),
        per_coordinate(centring(MASS, PADDED), 2),
    ),
    "symmetric": (SymmetricNoise(3, 0.6), symmetric(3, 0.6)),
    "orthogonal ensemble": (SymmetricNoise(2, math.sqrt(2)), symmetric(2, math.sqrt(2))),
    "hollow": (SymmetricNoise(3, 0.0), symmetric(3, 0.0)),
    "chain": (CHAIN, per_coordinate(chain(3, 0.7), 2)),
    "factor": (
        CovarianceFactor(torch.tensor([[1.0, -2.0], [0.5, 0.3]], dtype=torch.float64), 3),
        per_coordinate(np.array([[1.0, -2.0], [0.5, 0.3]]), 3),
    ),
}
"""Noises, and A as a dense matrix on flattened points."""


# ---------------------------------------------------------------- rows


def four_sums(x):
    """Four sums with weights of no pattern, which show every number of a point."""
    k = math.prod(x.shape[-2:])
    weights = torch.randn(k, 4, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    return x.flatten(-2).double() @ weights.to(x.device)


def points_of(noise, n=10_000):
    """Two points on the range of a noise."""
    generator = torch.Generator().manual_seed(4)
    points = torch.randn(2, *noise.point_shape, generator=generator, dtype=torch.float64)
    return lambda dtype: noise.project(0.3 * points).to(dtype).repeat(n // 2, 1, 1)


def scheduled(name):
    schedule, (alpha, sigma) = SCHEDULES[name]
    return GaussianDiffusion(schedule), DensePath(alpha, sigma)


def structured(name, process=None, alpha=None, sigma=None):
    """A noise on an Ornstein–Uhlenbeck process, and the same by dense conditioning."""
    noise, a = NOISES[name]
    ou = OrnsteinUhlenbeckDiffusion(0.0, 0.7, 1.9)
    alpha = alpha or (lambda t: math.exp(-1.9 * t))
    sigma = sigma or (lambda t: 0.7 * math.sqrt(-math.expm1(-3.8 * t) / 3.8))
    dense = DensePath(alpha, sigma, a @ a.T, noise.point_shape)
    return StructuredDiffusion(process or ou, noise), dense


def rows(case):
    """Return rows of the table, made by `cases.Case`, which need not be imported here."""

    def row(name, process, dense, view, point, **how):
        return case(name, process, point, view, dense, **how)

    on_schedules = [
        row(
            name,
            *scheduled(name),
            lambda x: x.unsqueeze(-1).double(),
            lambda dtype: torch.tensor([2.1, 1.8], dtype=dtype).repeat(10_000),
            wide=(0.4, 0.95),
            near=None if name in EXPLODING else 1e-8,
            far=1.0,
        )
        for name in ("vp", "rectified", "edm")
    ]
    with_noise = [
        row(name, *structured(name), four_sums, points_of(NOISES[name][0]))
        for name in ("masses and padding", "hollow", "chain")
    ]
    return [*on_schedules, *with_noise]
