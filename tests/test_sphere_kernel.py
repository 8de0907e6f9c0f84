"""The kernel on the sphere against Legendre series, in 300 digits where it is small, and the turn
behind a point against a quadrature.
"""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import cumulative_simpson

from bridges._draw import as_draws
from bridges._so3_kernel import log_heat_kernel
from bridges._sphere_kernel import ACCEPTANCE, sample_turn
from bridges.sphere import SphereDiffusion
from sphere_cases import at_angle, series

P_MIN = 1e-4
DOUBLE = torch.float64
UNIT = SphereDiffusion(1.0)
X_0 = torch.tensor([0.6, -0.64, 0.48], dtype=DOUBLE)
ANGLES = [0.0, 1e-8, 1e-4, 0.3, 1.5, 3.0, math.pi - 1e-4, math.pi - 1e-8, math.pi]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])


def rng(seed):
    return torch.Generator().manual_seed(seed)


def both_times(v, n):
    """A time as a number, and one for every row."""
    return v, torch.full((n,), v, dtype=DOUBLE)


def in_digits(beta, v):
    """log p(β; v) and its slope in β, from the series in 300 digits."""
    with mpmath.workdps(300):
        beta, v = mpmath.mpf(beta), mpmath.mpf(v)
        cos, total, slope = mpmath.cos(beta), mpmath.mpf(1), mpmath.mpf(0)
        wave, before, bend, bend_before = cos, mpmath.mpf(1), mpmath.mpf(1), mpmath.mpf(0)
        order = 1
        while order * (order + 1) * v < 1400:
            weight = (2 * order + 1) * mpmath.exp(-order * (order + 1) * v / 2)
            total, slope = total + weight * wave, slope + weight * bend
            after = ((2 * order + 1) * cos * wave - order * before) / (order + 1)
            bend_before, bend = bend, bend_before + (2 * order + 1) * wave
            before, wave, order = wave, after, order + 1
        return float(mpmath.log(total)), float(-mpmath.sin(beta) * slope / total)


# ------------------------------------------------------------------ log-density


@pytest.mark.parametrize("v", [1e-3, 0.01, 0.1, 0.7, 2.0, 2.9, 3.1, 10.0])
def test_density_is_the_legendre_series(v):
    beta = torch.cat([torch.tensor(ANGLES[:3], dtype=DOUBLE), torch.linspace(0.01, 3.14, 60)])
    expected = series(beta.cos().numpy(), v)
    keep = expected > 1e-5 * expected[0]
    x_t, x_0 = at_angle(X_0, beta), X_0.expand(63, 3)
    for t in both_times(v, 63):
        found = UNIT.log_prob(x_t, x_0, t).exp().numpy()
        np.testing.assert_allclose(found[keep], expected[keep], rtol=1e-10)


@pytest.mark.parametrize("v", [0.01, 0.04, 0.11, 0.5, 2.9, 3.1, 8.0])
@pytest.mark.parametrize("beta", [0.05, 0.7, 1.9, 2.7, 3.0, 3.13, math.pi - 1e-6])
def test_density_and_score_in_the_far_tail(beta, v):
    log_prob, slope = in_digits(beta, v)
    x_t = at_angle(X_0, beta)
    assert UNIT.log_prob(x_t, X_0, v).item() == pytest.approx(log_prob, rel=1e-11, abs=1e-11)
    score = UNIT.score(x_t, X_0, v)
    away = (x_t * math.cos(beta) - X_0) / math.sin(beta)
    torch.testing.assert_close(score, slope * away, rtol=1e-8, atol=1e-9)


def test_density_of_the_uniform_law_is_one():
    x = UNIT.sample_prior((50,), generator=rng(0))
    assert (UNIT.log_prob(x, X_0.float().expand(50, 3), 80.0).abs() < 1e-6).all()


# ------------------------------------------------------------------ score and gradients


@pytest.mark.parametrize("sigma", [0.001, 0.1, 0.25])
@pytest.mark.parametrize("sigmas", [1, 3, 6, 9, 12])
def test_score_is_the_slope_of_log_prob(sigma, sigmas):
    x_t, v, step = at_angle(X_0, sigma * sigmas), sigma**2, 1e-4 * sigma
    score = UNIT.score(x_t, X_0, v)
    for way in (X_0 - (x_t @ X_0) * x_t, torch.linalg.cross(x_t, X_0)):
        way = way / way.norm()
        ends = [UNIT.log_prob(UNIT._exp(x_t, h * way), X_0, v) for h in (step, -step)]
        slope = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(score @ way, slope, rtol=1e-6, atol=1e-6 / sigma)


@pytest.mark.parametrize("v", [0.01, 0.3, 2.0, 2.9, 3.1, 10.0])
def test_score_is_the_gradient_of_log_prob(v):
    x_t, x_0 = at_angle(X_0, ANGLES), X_0.expand(9, 3)
    for t in both_times(v, 9):
        free = x_t.clone().requires_grad_()
        UNIT.log_prob(free / free.norm(dim=-1, keepdim=True), x_0, t).sum().backward()
        score = UNIT.score(x_t, x_0, t)
        torch.testing.assert_close(score, free.grad, rtol=1e-6, atol=1e-6)
        assert ((score * x_t).sum(-1).abs() < 1e-12 * (1 + score.norm(dim=-1))).all()


@pytest.mark.parametrize("v", [1e-6, 1e-3, 0.1, 1.0, 5.0, 1e3])
@pytest.mark.parametrize("beta", [0.0, 1e-3, 2.0, math.pi - 1e-3, math.pi])
def test_gradcheck_along_the_sphere(beta, v):
    x_t, w = at_angle(X_0, beta), torch.zeros(3, dtype=DOUBLE, requires_grad=True)

    def log_prob(w):
        return UNIT.log_prob(UNIT._exp(x_t, UNIT._tangent(x_t, w)), X_0, v)

    assert torch.autograd.gradcheck(log_prob, w, rtol=1e-5, atol=1e-4)


@DTYPES
@pytest.mark.parametrize("v", [1e-8, 1e-6, 1e-3, 0.1, 2.0, 5.0, 1e3])
def test_everything_is_finite_at_every_angle(v, dtype):
    x_t, x_0 = at_angle(X_0, ANGLES).to(dtype).requires_grad_(), X_0.to(dtype).expand(9, 3)
    for t in both_times(v, 9):
        log_prob, score = UNIT.log_prob(x_t, x_0, t), UNIT.score(x_t, x_0, t)
        (gradient,) = torch.autograd.grad(log_prob.sum(), x_t)
        assert log_prob.dtype == score.dtype == dtype
        for value in (log_prob, score, gradient):
            assert value.isfinite().all()
    assert score[[0, -1]].norm() < 1e-2 * score[3].norm() + 1e-6


@pytest.mark.parametrize("v", [1e-8, 1e-6, 1e-3, 0.3])
def test_digits_of_float32(v):
    """Next to x_0, chords keep the digits that a cosine would lose."""
    sigma = math.sqrt(v)
    x_0 = X_0.float().expand(3, 3)
    x_t = at_angle(X_0, [sigma, 2 * sigma, min(3.0, 5 * sigma)]).float()
    unit = [x.double() / x.double().norm(dim=-1, keepdim=True) for x in (x_t, x_0)]
    rounding = 1e-6 + 3e-7 / sigma
    for f in (UNIT.log_prob, UNIT.score):
        torch.testing.assert_close(f(x_t, x_0, v).double(), f(*unit, v), rtol=rounding, atol=0)


# ------------------------------------------------------------------ the turn behind a point


def turn_cdf(beta, v):
    """The distribution of ψ, by a quadrature."""
    grid = np.linspace(-math.pi, math.pi, 20_001)
    narrow = math.sqrt(v) * 12 / max(math.cos(beta / 2), 1e-9)
    grid = grid * min(1.0, narrow / math.pi)
    cos = math.cos(beta / 2) * np.cos(grid / 2)
    sin = np.hypot(math.sin(beta / 2), math.cos(beta / 2) * np.sin(grid / 2))
    log_f = log_heat_kernel(torch.tensor(2 * np.arctan2(sin, cos)), torch.tensor(v, dtype=DOUBLE))
    weight = (log_f[0] - log_f[0].max()).exp().numpy()
    values = cumulative_simpson(weight, x=grid, initial=0)
    return lambda turn: np.interp(turn, grid, values / values[-1])


@DTYPES
@pytest.mark.parametrize("v", [1e-8, 1e-3, 0.1, 0.7, 2.0, 3.5, 60.0])
@pytest.mark.parametrize("beta", [0.0, 1e-4, 1.0, 2.9, math.pi - 1e-4, math.pi])
def test_turn_has_the_law_of_the_kernel(beta, v, dtype):
    n = 10_000
    for t in (torch.tensor(v, dtype=DOUBLE), torch.full((n,), v, dtype=DOUBLE)):
        cos, sin = sample_turn(torch.full((n,), beta, dtype=dtype), t, as_draws(rng(1)))
        assert cos.dtype == sin.dtype == dtype
        assert (cos >= 0).all()
        turn = 2 * torch.atan2(sin.double(), cos.double())
        rounded = min(torch.tensor(beta, dtype=dtype).item(), math.pi)
        assert stats.kstest(turn.numpy(), turn_cdf(rounded, v)).pvalue > P_MIN


class Counting:
    """Draws that count the numbers drawn."""

    def __init__(self, seed):
        self.source, self.count = as_draws(rng(seed)), 0

    def uniform(self, shape, dtype, device):
        self.count += math.prod(shape)
        return self.source.uniform(shape, dtype, device)

    def fork(self, count):
        return self

    def rows(self, index):
        return self


@pytest.mark.parametrize("v", [1e-8, 1e-3, 0.1, 1.0, 10.0])
def test_share_of_turns_that_are_kept(v):
    """A device counts on it; two numbers are drawn for a turn."""
    for beta in (0.0, 1.0, 2.6, math.pi):
        draws = Counting(2)
        sample_turn(torch.full((20_000,), beta, dtype=DOUBLE), torch.tensor(v).double(), draws)
        assert 2 * 20_000 / draws.count > ACCEPTANCE


@pytest.mark.parametrize("v", [1e-6, 1e-3, 0.03, 0.2, 0.7, 1.5, 2.9, 3.1, 6.0, 20.0])
def test_log_kernel_is_concave_in_the_squared_sine(v):
    """Which is why no turn is kept more often than always."""
    square = torch.linspace(0, 1, 401, dtype=DOUBLE)
    angle = 2 * torch.atan2(square.sqrt(), (1 - square).sqrt())
    log_f, by_angle = log_heat_kernel(angle, torch.tensor(v, dtype=DOUBLE))
    slope = by_angle[:-1] * 2 / torch.sinc(angle[:-1] / math.pi)
    assert (slope.diff() <= 1e-9 * slope[:-1].abs()).all()
    assert (slope < 0).all()
