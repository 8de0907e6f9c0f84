import math

import numpy as np
import pytest
import torch
from scipy import stats

from bridges import WrappedBrownianDiffusion
from bridges._draw import Draws
from bridges.angle import wrap

P_MIN = 1e-4
RATE, PERIOD = 0.8, 3.0
LOPSIDED = WrappedBrownianDiffusion(RATE, PERIOD)
DOUBLE = torch.float64
PERIODS = pytest.mark.parametrize("period", [2 * math.pi, 1.0, 0.3, 7.1, 1e-3, 360.0])


class Quiet(Draws):
    """Draws without noise; the uniform numbers cover [0, 1) evenly."""

    def normal(self, shape, dtype, device):
        return torch.zeros(tuple(shape), dtype=dtype)

    def uniform(self, shape, dtype, device):
        (n,) = shape
        return (torch.arange(n, dtype=dtype) + 0.5) / n


class Silent(Quiet):
    def uniform(self, shape, dtype, device):
        raise AssertionError("a deterministic step draws nothing")

    normal = uniform


def rng(seed):
    return torch.Generator().manual_seed(seed)


def density(delta, v, period):
    """The sum over 401 images, in numpy."""
    lifts = np.asarray(delta)[..., None] + period * np.arange(-200, 201)
    return stats.norm.pdf(lifts, scale=math.sqrt(v)).sum(-1)


def cdf(v, period):
    """The distribution function on [−P/2, P/2) of a wrapped normal about 0."""
    shifts = period * np.arange(-200, 201)
    law = stats.norm(scale=math.sqrt(v))
    return lambda x: (law.cdf(x[:, None] + shifts) - law.cdf(-period / 2 + shifts)).sum(-1)


# ------------------------------------------------------------------ wrap


@PERIODS
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_wrap_keeps_what_lies_inside_bit_for_bit(period, dtype):
    half = torch.tensor(period / 2, dtype=dtype)
    inside = (2 * torch.rand(20_000, generator=rng(1), dtype=dtype) - 1) * half
    below = torch.nextafter(half, torch.zeros_like(half))
    tiny = torch.tensor([0.0, 1e-30, -1e-30, -half, below, -below], dtype=dtype)
    inside = torch.cat([inside[(inside >= -half) & (inside < half)], tiny])
    assert torch.equal(wrap(inside, period), inside)


@PERIODS
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("size", [1.0, 10.0, 1e4, 1e7, 1e12, 1e30])
def test_wrap_ends_inside(period, dtype, size):
    half = torch.tensor(period / 2, dtype=dtype)
    x = size * period * (2 * torch.rand(20_000, generator=rng(2), dtype=dtype) - 1)
    up = torch.nextafter(half, 2 * half)
    edges = torch.stack([half, -half, up, -up, 2 * half, 3 * half, -3 * half])
    y = wrap(torch.cat([x, size * edges]), period)
    assert (y >= -half).all()
    assert (y < half).all()


@PERIODS
def test_wrap_moves_by_whole_turns(period):
    x = 40 * period * (torch.rand(1000, generator=rng(3), dtype=DOUBLE) - 0.5)
    turns = (x - wrap(x, period)) / period
    torch.testing.assert_close(turns, turns.round(), rtol=0, atol=1e-10)


# ------------------------------------------------------------------ forward and bridge


@PERIODS
@pytest.mark.parametrize("share", [1e-4, 0.02, 0.3, 3.0])
def test_forward_is_a_wrapped_normal(period, share):
    v = share * period**2
    process = WrappedBrownianDiffusion(v / 0.5, period)
    x_0 = wrap(period * torch.rand(50_000, generator=rng(4), dtype=DOUBLE), period)
    x_t = process.sample_forward(x_0, 0.75, start=0.25, generator=rng(5))
    step = wrap(x_t - x_0, period).numpy()
    assert stats.kstest(step, cdf(v, period)).pvalue > P_MIN


@pytest.mark.parametrize("delta", [0.0, 0.4, 1.2, 1.4999, -1.5])
@pytest.mark.parametrize(
    ("a", "b"), [(0.01, 0.02), (0.05, 0.15), (0.3, 0.4), (2.0, 3.0), (9.0, 4.0), (20.0, 1.0)]
)
def test_windings_against_sixty_by_brute_force(a, b, delta):
    """Without noise x_s sits on x_0 + (Δ + kP) a/(a + b): count how often each k is drawn."""
    n = 200_000
    cap_a, cap_b = min(a, PERIOD**2), min(b, PERIOD**2)
    x_0, x_t = torch.full((n,), 0.2, dtype=DOUBLE), torch.full((n,), 0.2 + delta, dtype=DOUBLE)
    x_t = wrap(x_t, PERIOD)
    k = np.arange(-60, 61)
    lifts = float(wrap(x_t[0] - x_0[0], PERIOD)) + PERIOD * k
    weight = np.exp(-(lifts**2 - (lifts**2).min()) / (2 * (a + b)))
    weight /= weight.sum()
    points = wrap(torch.as_tensor(0.2 + lifts * cap_a / (cap_a + cap_b)), PERIOD).numpy()
    for time in (a / RATE, torch.full((n,), a / RATE)):
        x_s = LOPSIDED.sample_bridge(x_0, x_t, time, (a + b) / RATE, generator=Quiet()).numpy()
        if a + b > PERIOD**2:  # the caps may move the law by 1e-8, but not its circular moments
            continue
        for point in np.unique(points.round(9)):
            same = np.abs(points - point) < 1e-6
            share = (np.abs(x_s - point) < 1e-6).mean()
            assert share == pytest.approx(weight[same].sum(), abs=2e-5)


@pytest.mark.parametrize(
    ("a", "b"),
    [(1e-3, 2e-3), (0.1, 0.2), (0.4, 0.1), (1.0, 2.0), (9.0, 0.5), (0.3, 12.0), (30.0, 40.0)],
)
@pytest.mark.parametrize("per_example", [False, True])
def test_bridge_between_fixed_ends(a, b, per_example):
    """The law of x_s is ∝ p(x_s | x_0) p(x_t | x_s): compare on a fine grid."""
    n, x_0, x_t = 40_000, 0.7, -1.3
    t = (a + b) / RATE
    s = torch.full((n,), a / RATE, dtype=DOUBLE) if per_example else a / RATE
    ends = torch.full((n,), x_0, dtype=DOUBLE), torch.full((n,), x_t, dtype=DOUBLE)
    x_s = LOPSIDED.sample_bridge(*ends, s, t, generator=rng(6)).numpy()
    edges = np.linspace(-PERIOD / 2, PERIOD / 2, 20_001)
    middle = (edges[1:] + edges[:-1]) / 2
    mass = density(middle - x_0, a, PERIOD) * density(x_t - middle, b, PERIOD)
    total = np.concatenate([[0], np.cumsum(mass)]) / mass.sum()
    assert stats.kstest(x_s, lambda x: np.interp(x, edges, total)).pvalue > P_MIN


@pytest.mark.parametrize("eta", [0.0, 0.4, 0.9])
def test_eta_keeps_the_marginal_at_small_noise(eta):
    x_0 = torch.full((50_000,), 1.49, dtype=DOUBLE)
    x_t = LOPSIDED.sample_forward(x_0, 0.05, generator=rng(7))
    x_s = LOPSIDED.sample_bridge(x_0, x_t, 0.02, 0.05, eta=eta, generator=rng(8))
    step = wrap(x_s - x_0, PERIOD).numpy()
    assert stats.kstest(step, cdf(0.02 * RATE, PERIOD)).pvalue > P_MIN


def test_eta_zero_draws_nothing_and_goes_the_shorter_way():
    x_0, x_t = torch.tensor([1.4, 0.1]), torch.tensor([-1.4, 0.5])
    x_s = LOPSIDED.sample_bridge(x_0, x_t, 0.25, 1.0, eta=0.0, generator=Silent())
    torch.testing.assert_close(x_s, torch.tensor([1.5 - PERIOD, 0.3]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("eta", [1e-9, 1e-8, 1e-6, 1e-4])
def test_tiny_eta_is_nearly_deterministic(eta):
    x_0, x_t = LOPSIDED.sample_prior((2, 100), generator=rng(9), dtype=DOUBLE)
    for s, t in torch.rand(200, 2, generator=rng(10), dtype=DOUBLE).sort(-1).values.tolist():
        x_s = LOPSIDED.sample_bridge(x_0, x_t, s, t, eta=eta, generator=rng(11))
        straight = LOPSIDED.sample_bridge(x_0, x_t, s, t, eta=0.0)
        assert wrap(x_s - straight, PERIOD).abs().max() < 10 * eta + 1e-7


# ------------------------------------------------------------------ density, score, the rest

SHARES = pytest.mark.parametrize("share", [1e-4, 0.01, 0.0624, 0.0626, 0.2, 0.26, 5.0])


@PERIODS
@SHARES
def test_log_prob_and_score(period, share):
    """Against a sum over 401 images; the score also against autograd."""
    v = share * period**2
    process = WrappedBrownianDiffusion(1.0, period)
    x_0 = torch.tensor(0.37 * period, dtype=DOUBLE).expand(9)
    reach = min(0.5, 7 * math.sqrt(share))
    delta = reach * period * torch.linspace(-1, 1, 9, dtype=DOUBLE)
    x_t = wrap(x_0 + delta, period).requires_grad_()
    exact = torch.as_tensor(np.log(density(delta.numpy(), v, period)))
    for t in (v, torch.full((9,), v, dtype=DOUBLE)):
        found = process.log_prob(x_t, x_0, t)
        torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)
        (slope,) = torch.autograd.grad(found.sum(), x_t)
        score = process.score(x_t, x_0, t)
        tol = 1e-9 / period
        torch.testing.assert_close(score[1:-1], slope[1:-1], rtol=1e-8, atol=tol)
    if reach == 0.5:  # opposite x_0 both ways round weigh alike
        torch.testing.assert_close(found[0], found[-1])
        torch.testing.assert_close(
            score[[0, -1]], torch.zeros(2, dtype=DOUBLE), rtol=0, atol=tol / 1e-4 / v**0.5
        )


@SHARES
def test_density_integrates_to_one(share):
    x = torch.linspace(-PERIOD / 2, PERIOD / 2, 20_001, dtype=DOUBLE)
    p = LOPSIDED.log_prob(x, torch.zeros_like(x), share * PERIOD**2 / RATE).exp()
    assert torch.trapezoid(p, x).item() == pytest.approx(1, abs=1e-9)


def test_mirror_points_have_equal_density_and_opposite_score():
    x = torch.linspace(0.1, 1.4, 7, dtype=DOUBLE)
    zero = torch.zeros_like(x)
    for t in (0.01, 0.7, 5.0):
        up, down = (LOPSIDED.log_prob(y, zero, t) for y in (x, -x))
        assert torch.equal(up, down)
        left, right = (LOPSIDED.score(y, zero, t) for y in (-x, x))
        torch.testing.assert_close(left, -right, rtol=1e-12, atol=1e-14)


@PERIODS
@pytest.mark.parametrize("share", [0.23, 0.25, 0.35])
def test_the_two_forms_of_the_density_agree(period, share):
    process = WrappedBrownianDiffusion(1.0, period)
    turn = period * (torch.arange(41, dtype=DOUBLE) / 40 - 0.5)
    v = torch.tensor((share * period) ** 2, dtype=DOUBLE)
    few, many = process._images(turn, v), process._waves(turn, v)
    torch.testing.assert_close(few[0], many[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(few[1] * period, many[1] * period, rtol=1e-10, atol=1e-10)


def test_error_and_endpoint_take_any_turn():
    x_0 = torch.tensor([1.4, -1.0, 0.0], dtype=DOUBLE)
    prediction = torch.tensor([-1.4 + 2 * PERIOD, -1.5, 0.3 - PERIOD], dtype=DOUBLE)
    expected = torch.tensor([0.04, 0.25, 0.09], dtype=DOUBLE)
    torch.testing.assert_close(LOPSIDED.error(prediction, x_0), expected)
    point = LOPSIDED.endpoint(prediction, x_0, 0.5)
    torch.testing.assert_close(point, torch.tensor([-1.4, -1.5, 0.3], dtype=DOUBLE))


@PERIODS
def test_prior_is_uniform_and_inside(period):
    x = WrappedBrownianDiffusion(1.0, period).sample_prior((100_000,), generator=rng(12))
    half = torch.tensor(period / 2)
    assert (x >= -half).all()
    assert (x < half).all()
    assert stats.kstest(x.double().numpy(), stats.uniform(-period / 2, period).cdf).pvalue > P_MIN
