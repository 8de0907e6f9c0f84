"""One row per clock: its formula, to work out in 50 digits."""

import mpmath
import pytest
import torch
from torch.distributions import Exponential, LogNormal, Uniform, Weibull

from bridges import Clock, GeometricClock, LinearClock, OrnsteinUhlenbeckDiffusion, PowerClock
from bridges.clock import LinearRateClock, LogarithmicClock
from bridges.share_clock import CDFClock, CosineClock, LogLinearClock
from bridges.table_clock import TableClock

DOUBLE = torch.float64
EPS = torch.finfo(DOUBLE).eps


def double(*values):
    return torch.tensor(values, dtype=DOUBLE)


def cosine(offset):
    def phi(t):
        return (t + offset) / (1 + mpmath.mpf(offset)) * mpmath.pi / 2

    return lambda t: -2 * mpmath.log(mpmath.cos(phi(t)) / mpmath.cos(phi(mpmath.mpf(0))))


def logarithmic(low, high):
    low, high = mpmath.mpf(low), mpmath.mpf(high)
    return lambda t: mpmath.log(t * mpmath.exp(high) + (1 - t) * mpmath.exp(low)) ** 2


def table(t):
    return t / 2 if t < 0.3 else 0.15 + (t - mpmath.mpf(0.3)) * mpmath.mpf(2.85) / mpmath.mpf(0.7)


CLOSED = {
    LinearClock(2.5): lambda t: 2.5 * t,
    LinearClock(): lambda t: t,
    PowerClock(2.0, 0.7): lambda t: mpmath.mpf(0.7) * t**2,
    PowerClock(0.5): mpmath.sqrt,
    LinearRateClock(0.1, 20.0): lambda t: mpmath.mpf(0.1) * t + mpmath.mpf(19.9) / 2 * t**2,
    GeometricClock(0.02, 3.0): lambda t: mpmath.mpf(0.02) * (3 / mpmath.mpf(0.02)) ** t,
    LogarithmicClock(0.1, 1.5): logarithmic(0.1, 1.5),
}
LEFT = {
    LogLinearClock(0.0): lambda t: -mpmath.log(1 - t),
    LogLinearClock(1e-3): lambda t: -mpmath.log(1 - (1 - mpmath.mpf(1e-3)) * t),
    CosineClock(): cosine(0),
    CosineClock(0.008): cosine(0.008),
    CosineClock(1.3): cosine(1.3),
}
EXACT = CLOSED | LEFT | {TableClock([0.0, 0.3, 1.0], [0.0, 0.15, 3.0]): table}
BY_CDF = {
    CDFClock(Uniform(double(0.0)[0], double(2.0)[0])): lambda t: -mpmath.log(1 - t / 2),
    CDFClock(Exponential(double(1.7)[0])): lambda t: mpmath.mpf(1.7) * t,
    CDFClock(Weibull(double(0.7)[0], double(1.9)[0])): (
        lambda t: (t / mpmath.mpf(0.7)) ** mpmath.mpf(1.9)
    ),
    CDFClock(LogNormal(double(-0.6)[0], double(0.8)[0])): (
        lambda t: -mpmath.log(1 - mpmath.ncdf((mpmath.log(t) + mpmath.mpf(0.6)) / mpmath.mpf(0.8)))
    ),
}
JUMPS = (GeometricClock, LogarithmicClock)
NEAR_0 = double(*(10.0**k for k in range(-9, 0)), 0.3, 0.4, 0.5, 0.75)
INSIDE = torch.cat((NEAR_0, double(*(1 - 10.0**k for k in range(-9, -1)))))
ALL = EXACT | BY_CDF


def name(value):
    return str(value) if isinstance(value, Clock) else ""


exact = pytest.mark.parametrize(("clock", "formula"), EXACT.items(), ids=name)
every = pytest.mark.parametrize(("clock", "formula"), ALL.items(), ids=name)
by_cdf = pytest.mark.parametrize(("clock", "formula"), BY_CDF.items(), ids=name)


def in_50_digits(formula, t):
    with mpmath.workdps(50):
        return double(*(float(formula(mpmath.mpf(number))) for number in t.tolist()))


def alpha_and_variance(clock, t):
    """Return α_t and σ_t² of the default Ornstein–Uhlenbeck process."""
    process = OrnsteinUhlenbeckDiffusion(0.0).on(clock)
    one = torch.ones_like(t)
    variance = -1 / process.score(one, torch.zeros_like(t), t)
    return 1 + process.score(one, one, t) * variance, variance
