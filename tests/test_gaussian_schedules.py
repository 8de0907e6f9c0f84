"""Gaussian processes with a schedule, and Brownian motion on numbers."""

import math

import pytest
import torch
from scipy import stats

from bridges import GivenDraws, LinearClock, testing
from bridges.gaussian import BrownianDiffusion, GaussianDiffusion
from bridges.schedule import RectifiedSchedule
from bridges.vp_schedule import CosineSchedule
from cases import column, numbers
from gaussian_cases import EXPLODING, SCHEDULES, DensePath, scheduled

DOUBLE = torch.float64
BY_NAME = pytest.mark.parametrize("name", SCHEDULES)
BROWNIAN = BrownianDiffusion(1.7)
DENSE_BROWNIAN = DensePath(lambda t: 1.0, lambda t: math.sqrt(1.7 * t))
POINTS = torch.tensor([-2.0, 3.0, 0.4], dtype=DOUBLE)
STATES = torch.tensor([1.5, 0.2, -0.7], dtype=DOUBLE)


def affine(draw, like=STATES):
    """Return the mean and the standard deviation of a draw, from its answers to 0 and 1."""
    zero, one = (GivenDraws(normals=[torch.full_like(like, noise)]) for noise in (0.0, 1.0))
    mean = draw(zero)
    return mean, draw(one) - mean


# ------------------------------------------------------------------ laws


@BY_NAME
def test_every_law(name):
    process, dense = scheduled(name)
    near = None if name in EXPLODING else 1e-8
    testing.check_process(
        process,
        point=numbers()(torch.float32),
        view=column,
        general=dense,
        near=near,
        far=1.0,
    )


def test_every_law_of_brownian_motion():
    point = numbers()(torch.float32)
    testing.check_process(BROWNIAN, point=point, view=column, general=DENSE_BROWNIAN, prior=False)


@pytest.mark.parametrize("name", ["cosine", "rectified", "decay", "offset cosine"])
def test_laws_where_nothing_of_x_0_is_left(name):
    process, dense = scheduled(name)
    point, times = numbers()(torch.float32), (0.6, 1.0)
    testing.check_two_times(process, point, column, times)
    testing.check_semigroup(process, point, column, times)
    testing.check_general(process, point, column, times, general=dense)
    # Just before the end the state is new: x_1 is noise that knows nothing of it.
    x_1, before = (process.sample_forward(point, 1.0) for _ in range(2))
    for s, end in ((0.0, point), (1.0, x_1)):
        assert torch.equal(process.sample_bridge(point, x_1, s, 1.0), end)
    draws = GivenDraws(normals=[before])
    x_s = process.sample_bridge(point, x_1, 1 - 1e-9, 1.0, generator=draws)
    torch.testing.assert_close(x_s, before, rtol=1e-4, atol=1e-4)


@BY_NAME
@pytest.mark.parametrize(("s", "t"), [(1e-3, 0.2), (0.3, 0.31), (0.05, 0.9), (0.4, 1.0)])
def test_draws_by_dense_conditioning(name, s, t):
    process, dense = scheduled(name)
    a, gained = dense.transition(s, t)
    to_0, to_t, variance = dense.conditioned(s, t)
    for times in ((s, t), [torch.full((3,), u, dtype=DOUBLE) for u in (s, t)]):
        mean, spread = affine(
            lambda d, times=times: process.sample_forward(
                STATES, times[1], start=times[0], generator=d
            )
        )
        torch.testing.assert_close(mean, a * STATES, rtol=1e-9, atol=1e-12)
        expected = torch.full_like(spread, math.sqrt(gained.item()))
        torch.testing.assert_close(spread, expected, rtol=1e-7, atol=1e-12)
        mean, spread = affine(
            lambda d, times=times: process.sample_bridge(POINTS, STATES, *times, generator=d)
        )
        exact = to_0.item() * POINTS + to_t.item() * STATES
        torch.testing.assert_close(mean, exact, rtol=1e-7, atol=1e-9)
        expected = torch.full_like(spread, math.sqrt(variance.item()))
        torch.testing.assert_close(spread, expected, rtol=1e-6, atol=1e-12)


@BY_NAME
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0, 1.6, 5.0])
@pytest.mark.parametrize(("s", "t"), [(0.05, 0.1), (0.3, 0.9), (0.2, 1.0)])
def test_every_eta_keeps_the_marginal(name, eta, s, t):
    """With x_t of variance σ_t² about α_t x_0, x_s has variance σ_s² about α_s x_0."""
    process, dense = scheduled(name)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = dense.scales(s), dense.scales(t)
    draws = GivenDraws(normals=[torch.zeros(3)] * 2 if eta else [])
    on_mean, one_above = (
        process.sample_bridge(POINTS, x_t, s, t, eta=eta, generator=draws)
        for x_t in (alpha_t * POINTS, alpha_t * POINTS + sigma_t)
    )
    torch.testing.assert_close(on_mean, alpha_s * POINTS, rtol=1e-9, atol=1e-12)
    noise = GivenDraws(normals=[torch.ones(3)] if eta else [])
    spread = process.sample_bridge(POINTS, alpha_t * POINTS, s, t, eta=eta, generator=noise)
    variance = (one_above - on_mean) ** 2 + (spread - on_mean) ** 2
    torch.testing.assert_close(variance, torch.full_like(variance, sigma_s**2), rtol=1e-9, atol=0)
    r = alpha_t * sigma_s / (alpha_s * sigma_t)
    share = torch.full(
        (3,), 1.0 if eta == 0 else (r if r > 1e-12 else 0.0) ** (eta**2), dtype=DOUBLE
    )
    torch.testing.assert_close(one_above - on_mean, sigma_s * share, rtol=1e-6, atol=1e-12)


# ------------------------------------------------------------------ ends


@BY_NAME
def test_time_0_is_data_whatever_the_schedule_says(name):
    process, dense = scheduled(name)
    for t in (0.0, torch.zeros(3)):
        assert torch.equal(process.sample_forward(POINTS, t), POINTS)
        assert torch.equal(process.loss_scale(t), torch.as_tensor(t).double())
    t = torch.tensor([0.0, 0.3, 1.0], dtype=DOUBLE)
    for s in (0.0, torch.zeros(3), torch.tensor([0.0, 0.1, 1.0], dtype=DOUBLE)):
        x_t = process.sample_forward(POINTS, t, start=s, generator=torch.Generator())
        assert x_t.isfinite().all()
        assert x_t[0] == POINTS[0]
    assert x_t[2] == POINTS[2]


@BY_NAME
def test_gradients_where_rows_stand_at_the_ends(name):
    process, _ = scheduled(name)
    s = torch.tensor([0.0, 0.0, 0.5, 0.2, 1.0], dtype=DOUBLE)
    t = torch.tensor([0.0, 1.0, 0.5, 1.0, 1.0], dtype=DOUBLE)
    x_0 = torch.linspace(-1, 2, 5, dtype=DOUBLE, requires_grad=True)
    x_t = torch.ones(5, dtype=DOUBLE, requires_grad=True)
    for eta in (0.0, 0.5, 1.0):
        x_s = process.sample_bridge(x_0, x_t, s, t, eta=eta)
        slopes = torch.autograd.grad(x_s.sum(), (x_0, x_t))
        assert all(slope.isfinite().all() for slope in slopes)
        assert slopes[0][:3].tolist() == [0.0, 1.0, 0.0]
    moved = process.sample_forward(x_0, t, start=s)
    assert torch.autograd.grad(moved.sum(), x_0)[0].isfinite().all()


def test_the_schedule_ends_at_1():
    process = GaussianDiffusion(RectifiedSchedule())
    late = torch.tensor([0.5, 1.25])
    with pytest.raises(ValueError, match="Expected the time t to be at most 1.*got 1.25"):
        process.sample_forward(torch.zeros(2), late)
    with pytest.raises(ValueError, match="Expected the time t to be at most 1"):
        process.on(LinearClock(2.0)).sample_bridge(torch.zeros(2), torch.zeros(2), 0.1, 0.6)


@BY_NAME
def test_prior_has_the_variance_of_the_end(name):
    process, dense = scheduled(name)
    mean, spread = affine(lambda d: process.sample_prior((3,), generator=d, dtype=DOUBLE))
    torch.testing.assert_close(mean, torch.zeros_like(mean))
    torch.testing.assert_close(spread, torch.full_like(spread, dense.sigma(1.0)))


def test_brownian_motion_has_no_prior():
    with pytest.raises(NotImplementedError, match="Expected a process with a prior; got Brownian"):
        BROWNIAN.sample_prior((3,))


@BY_NAME
def test_loss_scale_is_the_share_of_noise(name):
    process, dense = scheduled(name)
    t = torch.tensor([0.01, 0.4, 1.0], dtype=DOUBLE)
    scales = [dense.scales(u) for u in t.tolist()]
    exact = torch.tensor([sigma / math.hypot(alpha, sigma) for alpha, sigma in scales])
    torch.testing.assert_close(process.loss_scale(t), exact.double(), rtol=1e-6, atol=0)
    assert BROWNIAN.loss_scale(1 / 1.7).item() == pytest.approx(math.sqrt(0.5))


def test_densities_against_scipy():
    cosine = scheduled("cosine")
    for process, dense in (cosine, scheduled("ve"), (BROWNIAN, DENSE_BROWNIAN)):
        for s, t in ((0.0, 0.4), (0.2, 1.0)):
            a, variance = dense.transition(s, t)
            law = stats.norm(a * POINTS.numpy(), math.sqrt(variance.item()))
            found = process.log_prob(STATES, POINTS, t, start=s)
            torch.testing.assert_close(found, torch.from_numpy(law.logpdf(STATES.numpy())))


# ------------------------------------------------------------------ laws with teeth


class LostSquare(GaussianDiffusion):
    """The variance gained, with a in place of a²."""

    def _late(self, s, t):
        a, _ = super()._late(s, t)
        return a, self.schedule.sigma(t) ** 2 - a * self.schedule.sigma(s) ** 2


class Coupled(GaussianDiffusion):
    """Right at every single time, but x_t uses the noise of x_s again: nothing is drawn."""

    def _late(self, s, t):
        a, w = super()._late(s, t)
        return torch.sqrt((self.schedule.sigma(t) / self.schedule.sigma(s)) ** 2), 0 * w


class WithoutTime(GaussianDiffusion):
    """The ratio of variances as s/t."""

    def _late(self, s, t):
        a, _ = super()._late(s, t)
        v = self.schedule.sigma(t) ** 2
        return a, v * (1 - s / t)


@pytest.mark.parametrize("twin", [LostSquare, Coupled, WithoutTime])
def test_broken_transitions_are_refused(twin):
    point = numbers()(torch.float32)
    with pytest.raises(AssertionError):
        testing.check_two_times(twin(CosineSchedule()), point, column, (0.6, 0.8))
    with pytest.raises(AssertionError):
        testing.check_general(
            twin(CosineSchedule()), point, column, (0.6, 0.8), general=scheduled("cosine")[1]
        )
