"""Tangent vectors as predictions on numbers, for every schedule and at both ends."""

import math
from dataclasses import dataclass

import pytest
import torch

from bridges import (
    GivenDraws,
    Noise,
    OrnsteinUhlenbeckDiffusion,
    PowerClock,
    Score,
    Velocity,
    recipes,
)
from bridges.clocked import Clocked
from bridges.gaussian import BrownianDiffusion, GaussianDiffusion
from bridges.schedule import RectifiedSchedule
from bridges.vp_schedule import CosineSchedule, TableSchedule
from gaussian_cases import SCHEDULES

DOUBLE = torch.float64
TANGENTS = (Score, Noise, Velocity)
CLOCK = PowerClock(1.7, 0.8)
PROCESSES = {
    **{name: GaussianDiffusion(schedule) for name, (schedule, _) in SCHEDULES.items()},
    "brownian": BrownianDiffusion(1.7),
    "ornstein-uhlenbeck": OrnsteinUhlenbeckDiffusion(1.3, 0.7, 1.9),
}
BY_NAME = pytest.mark.parametrize("name", PROCESSES)
RECTIFIED = GaussianDiffusion(RectifiedSchedule())
NO_SIGNAL = [RECTIFIED, GaussianDiffusion(CosineSchedule())]
X_T = torch.tensor([1.5, 0.2, -0.7], dtype=DOUBLE)
X_0 = torch.tensor([-2.0, 3.0, 0.4], dtype=DOUBLE)
VALUE = torch.tensor([0.3, -1.2, 0.8], dtype=DOUBLE)


def scales(process, t):
    """α and σ, from the answers to two points and to a noise."""
    draws = [GivenDraws(normals=[torch.tensor([z], dtype=DOUBLE)]) for z in (0.0, 0.0, 1.0)]
    zero, one, noisy = (
        process.sample_forward(torch.tensor([x], dtype=DOUBLE), t, generator=draw).item()
        for x, draw in zip((0.0, 1.0, 0.0), draws, strict=True)
    )
    return one - zero, noisy - zero, zero


@BY_NAME
@pytest.mark.parametrize("t", [0.03, 0.55, 0.97])
def test_a_point_in_all_three_units(name, t):
    process = PROCESSES[name]
    alpha, sigma, zero = scales(process, t)
    noise = (X_T - zero - alpha * X_0) / sigma
    found = [process.convert(X_0, kind, X_T, t).value for kind in TANGENTS]
    torch.testing.assert_close(found[0], -noise / sigma, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found[0], process.score(X_T, X_0, t), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found[1], noise, rtol=1e-8, atol=1e-10)
    h = 1e-6
    (alpha_1, sigma_1, _), (alpha_2, sigma_2, _) = scales(process, t - h), scales(process, t + h)
    y_0 = X_0 - process.mean
    slope = ((alpha_2 - alpha_1) * y_0 + (sigma_2 - sigma_1) * noise) / (2 * h)
    torch.testing.assert_close(found[2], slope, rtol=1e-5, atol=1e-6)


@BY_NAME
@pytest.mark.parametrize("kind", TANGENTS)
@pytest.mark.parametrize("t", [1e-6, 0.3, 0.999])
def test_every_pair_of_conversions_returns(name, kind, t):
    for process in (PROCESSES[name], PROCESSES[name].on(PowerClock(1.3, 0.9))):
        given = kind(VALUE)
        for other in TANGENTS:
            there = process.convert(given, other, X_T, t)
            back = process.convert(there, kind, X_T, t).value
            torch.testing.assert_close(back, VALUE, rtol=1e-6, atol=1e-6)
            a, b = (process.endpoint(said, X_T, t) for said in (given, there))
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["rectified", "cosine", "vp"])
@pytest.mark.parametrize("kind", TANGENTS)
def test_conversions_keep_their_digits_in_float32_at_little_noise(name, kind):
    """Through x̂_0 = x_t − σε and back, ε would keep two digits at σ = 1e-5."""
    process, t = PROCESSES[name], 1e-5
    for other in (Noise, Velocity):
        there = process.convert(kind(VALUE.float()), other, X_T.float(), t).value.double()
        exact = process.convert(kind(VALUE), other, X_T, t).value
        torch.testing.assert_close(there, exact, rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------ velocities


def flow_error(process, velocity_of, times=(0.11, 0.43, 0.81)):
    """How far a velocity is from that of the flow of normal data, which is known exactly.

    With x_0 ~ N(m, c²) the flow carries a quantile ξ along x_t = m_t + √(α_t² c² + σ_t²) ξ.
    """
    m, c, xi, h = 0.7, 0.6, torch.tensor([-1.3, 0.2, 2.1], dtype=DOUBLE), 1e-6

    def place(t):
        alpha, sigma, zero = scales(process, t)
        return zero + alpha * m, math.hypot(alpha * c, sigma)

    def path(t):
        mean, spread = place(t)
        return mean + spread * xi

    worst = 0.0
    for t in times:
        score = Score(-xi / place(t)[1])
        slope = (path(t + h) - path(t - h)) / (2 * h)
        miss = (velocity_of(process, score, path(t), t) - slope).abs().max()
        worst = max(worst, (miss / slope.abs().max().clamp(min=1)).item())
    return worst


def velocity(process, score, x_t, t):
    return process.convert(score, Velocity, x_t, t).value


@BY_NAME
@pytest.mark.parametrize("clock", [None, CLOCK], ids=["own", "clock"])
def test_velocity_follows_the_probability_flow(name, clock):
    process = PROCESSES[name] if clock is None else PROCESSES[name].on(clock)
    assert flow_error(process, velocity) < 1e-6


@dataclass(frozen=True)
class LostSpeed(Clocked):
    """A clock whose speed is forgotten in velocities."""

    def _speed(self, value, x_t, t):
        return torch.ones_like(value)


@BY_NAME
def test_a_velocity_without_the_speed_of_the_clock_is_refused(name):
    assert flow_error(LostSpeed(PROCESSES[name], CLOCK), velocity) > 1e-2


def test_the_velocity_of_the_rectified_schedule():
    noise = torch.tensor([0.4, -1.1, 2.0], dtype=DOUBLE)
    for t in (1e-6, 0.3, 1.0, torch.tensor([1e-3, 0.5, 1.0])):
        x_t = RECTIFIED.sample_forward(X_0, t, generator=GivenDraws(normals=[noise]))
        said = Velocity(noise - X_0)
        torch.testing.assert_close(RECTIFIED.endpoint(said, x_t, t), X_0, rtol=0, atol=1e-15)
        found = RECTIFIED.convert(X_0, Velocity, x_t, t)
        torch.testing.assert_close(found.value, said.value, rtol=0, atol=1e-9)


# ------------------------------------------------------------------ ends


@pytest.mark.parametrize("process", NO_SIGNAL)
def test_a_velocity_still_says_x_0_where_nothing_is_left_of_it(process):
    said = process.convert(X_0, Velocity, X_T, 1.0)
    torch.testing.assert_close(process.endpoint(said, X_T, 1.0), X_0, rtol=0, atol=1e-15)
    back = process.convert(Velocity(VALUE), Velocity, X_T, 1.0).value
    torch.testing.assert_close(back, VALUE, rtol=0, atol=1e-15)
    for kind in (Score, Noise):
        said = process.convert(X_0, kind, X_T, 1.0)
        torch.testing.assert_close(said.value, X_T if kind is Noise else -X_T)
        assert process.endpoint(said, X_T, 1.0).tolist() == [0.0, 0.0, 0.0]


@BY_NAME
@pytest.mark.parametrize("kind", TANGENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_predictions_are_finite_at_both_ends(name, kind, dtype):
    process = PROCESSES[name]
    value, x_t = VALUE.to(dtype).requires_grad_(), X_T.to(dtype)
    for t in (torch.tensor([0.0, 1e-12, 1.0], dtype=DOUBLE), 0.0, 1e-12, 1.0):
        x_0_hat = process.endpoint(kind(value), x_t, t)
        assert x_0_hat.isfinite().all()
        assert torch.autograd.grad(x_0_hat.sum(), value)[0].isfinite().all()
        for other in TANGENTS:
            assert process.convert(kind(value), other, x_t, t).value.isfinite().all()
        x_s, _ = process.sample_step(kind(value), x_t, 0.5 * torch.as_tensor(t), t)
        assert x_s.isfinite().all()
    assert torch.equal(process.endpoint(kind(value), x_t, 0.0), x_t)


def test_a_far_score_of_a_process_that_forgets_is_its_mean():
    process = PROCESSES["ornstein-uhlenbeck"]
    for kind in TANGENTS:
        for t in (300.0, 1e6):
            found = process.endpoint(kind(VALUE), X_T, t)
            assert found.tolist() == [1.3, 1.3, 1.3]


@BY_NAME
@pytest.mark.parametrize("kind", TANGENTS)
def test_the_error_of_a_tangent_vector_is_that_of_its_point(name, kind):
    process = PROCESSES[name]
    error = process.error(kind(VALUE), X_0, x_t=X_T, t=0.6)
    x_0_hat = process.endpoint(kind(VALUE), X_T, 0.6)
    torch.testing.assert_close(error, (x_0_hat - X_0) ** 2)


def test_other_predictions_are_refused():
    with pytest.raises(TypeError, match="Expected Score, Noise or Velocity; got float"):
        RECTIFIED.convert(X_0, float, X_T, 0.5)


def test_half_precision_is_not_blind_where_float32_sees():
    """The scale of a velocity, and α of DDPM's last step, are far from the end of float16."""
    x_0 = torch.ones(2, dtype=torch.float16)
    edm, ddpm = recipes.edm(), GaussianDiffusion(TableSchedule.linear(1000))
    for process, t in ((edm, 80.0), (ddpm, 1.0)):
        x_t = process.sample_forward(x_0, t, generator=torch.Generator().manual_seed(1))
        for kind in (Velocity, Noise):
            said = process.convert(x_0, kind, x_t, t)
            near = process.endpoint(said, x_t, t).float()
            torch.testing.assert_close(near, torch.ones(2), rtol=0, atol=0.3)
