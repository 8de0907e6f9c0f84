"""Tangent vectors as predictions, on every continuous space."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from bridges import GivenDraws, Noise, Score, Velocity
from prediction_cases import (
    ANGLE,
    CLOCK,
    CURVED,
    DOUBLE,
    OU,
    ROTATION,
    SPACES,
    TANGENTS,
    rng,
    state,
    tangent_of,
)

# ------------------------------------------------------------------ one vector, three units


@SPACES
@pytest.mark.parametrize("kind", TANGENTS)
@pytest.mark.parametrize("clock", [None, CLOCK], ids=["own", "clock"])
def test_every_pair_of_conversions_returns(process, kind, clock):
    _, x_t = state(process)
    run = process if clock is None else process.on(clock)
    given = kind(tangent_of(process, x_t))
    for other in TANGENTS:
        there = run.convert(given, other, x_t, 0.6)
        assert isinstance(there, other)
        torch.testing.assert_close(run.convert(there, kind, x_t, 0.6).value, given.value)
        torch.testing.assert_close(
            run.endpoint(there, x_t, 0.6), run.endpoint(given, x_t, 0.6), rtol=0, atol=1e-12
        )


@SPACES
@pytest.mark.parametrize("kind", TANGENTS)
def test_a_point_becomes_a_tangent_vector_and_returns(process, kind):
    x_0, x_t = state(process)
    said = process.convert(x_0, kind, x_t, 0.6)
    torch.testing.assert_close(process.endpoint(said, x_t, 0.6), x_0, rtol=0, atol=1e-10)


def test_units_on_numbers():
    x_0, x_t = state(OU)
    alpha, variance = math.exp(-1.9 * 0.6), 0.49 / 3.8 * -math.expm1(-3.8 * 0.6)
    noise = (x_t - 1.3 - alpha * (x_0 - 1.3)) / math.sqrt(variance)
    for kind, value in ((Noise, noise), (Score, -noise / math.sqrt(variance))):
        torch.testing.assert_close(OU.convert(x_0, kind, x_t, 0.6).value, value)
    torch.testing.assert_close(OU.score(x_t, x_0, 0.6), -noise / math.sqrt(variance))


def test_velocity_on_numbers_is_the_slope_of_the_path():
    """x_t = μ + α_t (x_0 − μ) + σ_t ε with x_0 and ε held, on a clock and off it."""
    noise = torch.tensor([0.4, -1.1, 2.0], dtype=DOUBLE)
    x_0 = torch.tensor([2.0, 0.3, -0.6], dtype=DOUBLE)

    def path(process, t):
        return process.sample_forward(x_0, t, generator=GivenDraws(normals=[noise]))

    for process in (OU, OU.on(CLOCK)):
        slope = (path(process, 0.6 + 1e-6) - path(process, 0.6 - 1e-6)) / 2e-6
        found = process.convert(x_0, Velocity, path(process, 0.6), 0.6).value
        torch.testing.assert_close(found, slope, rtol=1e-7, atol=1e-7)


def test_velocity_on_a_circle_carries_the_law_along():
    """The probability flow of a wrapped normal, integrated, keeps its quantiles."""

    def slope(t, x):
        x = torch.as_tensor(x)
        score = Score(ANGLE.score(x, torch.zeros_like(x), t))
        return ANGLE.convert(score, Velocity, x, t).value.numpy()

    def cdf(x, t):
        shifts, law = 3.0 * np.arange(-40, 41), stats.norm(scale=math.sqrt(1.7 * t))
        return (law.cdf(x[:, None] + shifts) - law.cdf(-1.5 + shifts)).sum(-1)

    x = np.array([-1.1, -0.4, 0.2, 0.9])
    end = integrate.solve_ivp(slope, (0.1, 0.5), x, rtol=1e-9, atol=1e-9).y[:, -1]
    np.testing.assert_allclose(cdf(end, 0.5), cdf(x, 0.1), atol=1e-7)


# ------------------------------------------------------------------ steps


@CURVED
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_a_step_along_a_tangent_vector(process, eta):
    """Against the composition: contract by c, then the straight bridge, in the tangent space."""
    _, x_t = state(process)
    w, s, t = tangent_of(process, x_t), 0.2, 0.5
    noise = tangent_of(process, x_t, seed=9)
    draws = GivenDraws(normals=[noise] if eta > 0 else [])
    said = Score(w / (process.rate * t))
    x_s, x_0_hat = process.sample_step(said, x_t, s, t, eta=eta, generator=draws)
    c = (s / t) ** ((1 - eta**2) / 2)
    v, a = c**2 * process.rate * t, process.rate * s
    move = (1 - c) * w + (1 - a / v) * c * w + math.sqrt(a * max(v - a, 0.0) / v) * noise
    for found, vector in ((x_s, move), (x_0_hat, w)):
        torch.testing.assert_close(found, process._exp(x_t, vector), rtol=0, atol=1e-12)


@SPACES
def test_the_ends_of_a_step_are_pinned_row_by_row(process):
    _, x_t = state(process)
    said = Noise(tangent_of(process, x_t))
    t = torch.tensor([0.5, 0.5, 0.5, 0.0, 0.7, 0.9], dtype=DOUBLE)
    s = torch.tensor([0.0, 0.5, 0.2, 0.0, 0.0, 0.9], dtype=DOUBLE)
    x_s, x_0_hat = process.sample_step(said, x_t, s, t, generator=rng(1))
    torch.testing.assert_close(x_s[[0, 4]], x_0_hat[[0, 4]], rtol=0, atol=0)
    torch.testing.assert_close(x_s[[1, 3, 5]], x_t[[1, 3, 5]], rtol=0, atol=0)
    assert x_s.isfinite().all()
    torch.testing.assert_close(x_0_hat[3], x_t[3])


@CURVED
def test_a_tangent_vector_is_not_wrapped_around(process):
    """Half of a way of one and a half turns is three quarters of a turn, not minus a quarter."""
    _, x_t = state(process)
    turn = 3.0 if process is ANGLE else 2 * math.pi
    way = tangent_of(process, x_t)
    w = 1.5 * turn * (way.sign() if way.ndim == 1 else way / way.norm(dim=-1, keepdim=True))
    said = Score(w / (process.rate * 1.0))
    x_s, _ = process.sample_step(said, x_t, 0.25, 1.0, eta=0.0)
    torch.testing.assert_close(x_s, process._exp(x_t, 0.5 * w), rtol=0, atol=1e-12)


# ------------------------------------------------------------------ errors and losses


@SPACES
@pytest.mark.parametrize("kind", TANGENTS)
def test_the_true_score_has_no_error(process, kind):
    x_0, x_t = state(process)
    said = process.convert(Score(process.score(x_t, x_0, 0.6)), kind, x_t, 0.6)
    assert process.error(said, x_0, x_t=x_t, t=0.6).abs().max() < 1e-20
    off = kind(said.value + 0.1)
    assert process.error(off, x_0, x_t=x_t, t=0.6).min() > 1e-6


def test_the_error_of_a_score_is_in_the_unit_of_a_distance():
    x_0, x_t = state(ROTATION)
    said = Score(ROTATION.score(x_t, x_0, 0.6) + torch.tensor([0.0, 0.3, -0.4]))
    error = ROTATION.error(said, x_0, x_t=x_t, t=0.6)
    torch.testing.assert_close(error, torch.full((6,), (0.9 * 0.6 * 0.5) ** 2, dtype=DOUBLE))


def test_an_error_of_a_tangent_vector_needs_the_state():
    for process in (OU, ANGLE, ROTATION):
        x_0, _ = state(process)
        with pytest.raises(ValueError, match="Expected x_t and t beside a tangent vector"):
            process.error(Score(tangent_of(process, x_0)), x_0)
