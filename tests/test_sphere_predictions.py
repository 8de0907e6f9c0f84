"""What a network may say on the sphere, and what must not be: waiting for a device, bad input."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from bridges import Draws, Mixture, Noise, Score, Velocity
from bridges.sphere import SphereDiffusion
from sphere_cases import SPHERE, angle_cdf, at_angle

DOUBLE = torch.float64
UNIT = SphereDiffusion(1.0)
X_0 = torch.tensor([0.6, -0.64, 0.48], dtype=DOUBLE)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def uniform(n, seed):
    return UNIT.sample_prior((n,), generator=rng(seed), dtype=DOUBLE)


# ------------------------------------------------------------------ predictions


@pytest.mark.parametrize("kind", [Score, Noise, Velocity])
def test_tangent_vectors_return(kind):
    x_0, x_t = uniform(20, 19), uniform(20, 20)
    said = SPHERE.convert(x_0, kind, x_t, 0.6)
    assert (said.value * x_t).sum(-1).abs().max() < 1e-12
    torch.testing.assert_close(SPHERE.endpoint(said, x_t, 0.6), x_0)
    for other in (Score, Noise, Velocity):
        there = SPHERE.convert(said, other, x_t, 0.6)
        torch.testing.assert_close(SPHERE.convert(there, kind, x_t, 0.6).value, said.value)
    # What a network says along x_t does not count.
    torch.testing.assert_close(SPHERE.endpoint(kind(said.value + 3 * x_t), x_t, 0.6), x_0)


def test_velocity_carries_the_law_along():
    """The probability flow from x_0, integrated, keeps the quantiles of the angle."""

    def slope(t, beta):
        x_t = at_angle(X_0, beta)
        score = Score(SPHERE.score(x_t, X_0.expand_as(x_t), t))
        speed = SPHERE.convert(score, Velocity, x_t, t).value
        away = (x_t @ X_0).unsqueeze(-1) * x_t - X_0
        return (speed * away).sum(-1).numpy() / np.sin(beta)

    beta = np.array([0.2, 0.5, 1.1, 1.6])
    end = integrate.solve_ivp(slope, (0.2, 0.9), beta, rtol=1e-9, atol=1e-9).y[:, -1]
    before, after = (angle_cdf(1.1 * t)(b) for t, b in ((0.2, beta), (0.9, end)))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_mixture():
    n, variances = 20_000, (0.02, 1.3)
    logits = torch.tensor([0.4, -0.8], dtype=DOUBLE).expand(n, 2)
    centre = torch.stack([X_0, at_angle(X_0, 2.5)]).expand(n, 2, 3)
    said = Mixture(logits, 7 * centre, torch.tensor(variances, dtype=DOUBLE).expand(n, 2))
    x_0 = UNIT.endpoint(said, X_0.expand(n, 3), 1.0, generator=rng(21))
    weight, along = torch.softmax(logits[0], -1), x_0 @ X_0
    # The mean of the cosine to a centre is e^{−v}.
    exact = weight[0] * math.exp(-0.02) + weight[1] * math.exp(-1.3) * math.cos(2.5)
    assert abs(along.mean() - exact) < 4.5 * along.std() / math.sqrt(n)
    kernels = [UNIT.log_prob(x_0, centre[:, m], v).exp() for m, v in enumerate(variances)]
    expected = -torch.log(weight[0] * kernels[0] + weight[1] * kernels[1])
    torch.testing.assert_close(UNIT.error(said, x_0), expected)


# ------------------------------------------------------------------ no waiting, and bad input


class OnMeta(Draws):
    """Draws without values, so many at most."""

    def __init__(self, calls):
        self.left = calls

    def normal(self, shape, dtype, device):
        self.left -= 1
        assert self.left >= 0, "more rounds of proposals than the device should take"
        return torch.empty(tuple(shape), dtype=dtype, device=device)

    uniform = normal


@pytest.mark.parametrize(
    ("s", "t", "per_example"),
    [
        (0.0, 0.1, False),
        (0.01, 0.02, False),
        (1.0, 2.5, False),
        (2.0, 9.0, False),
        (0.0, 9.0, True),
    ],
)
def test_nothing_reads_a_value_from_the_device(s, t, per_example, monkeypatch):
    monkeypatch.setattr("bridges._so3_draw._rounds", lambda acceptance: 2)
    x = UNIT.sample_prior((4, 3), device="meta")
    kernels = torch.empty(4, 3, 2, device="meta"), torch.empty(4, 3, 2, 3, device="meta")
    mixture = Mixture(kernels[0], kernels[1], kernels[0])
    if per_example:
        s, t = (torch.full((4,), v, dtype=DOUBLE, device="meta") for v in (s, t))
    s, t = UNIT._expand(s, x), UNIT._expand(t, x)
    for guess in (x, Score(x), mixture):
        for eta in (0.0, 0.6, 1.0):
            for found in UNIT._step(guess, x, s, t, eta, OnMeta(50)):
                assert (found.device.type, found.shape, found.dtype) == ("meta", x.shape, x.dtype)
        assert UNIT._error(guess, x, x, t).shape == (4, 3)
    assert UNIT._forward(x, s, t, OnMeta(8)).shape == x.shape
    assert UNIT._log_prob(x, x, s, t).shape == (4, 3)
    assert UNIT._score(x, x, t).shape == x.shape


def test_bad_input():
    x = uniform(4, 22)
    for call, message in (
        (lambda: SphereDiffusion(0.0), "rate to be positive"),
        (lambda: UNIT.sample_forward(torch.zeros(4, 2), 1.0), "to hold vectors"),
        (lambda: UNIT.sample_forward(1.01 * x, 1.0), "to hold unit vectors"),
        (lambda: UNIT.sample_forward(x * math.nan, 1.0), "to hold unit vectors"),
        (lambda: UNIT.endpoint(x[:2], x, 1.0), "to have the shape of the state"),
        (lambda: UNIT.endpoint(Score(x[:, :2]), x, 1.0), "tangent vector of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_loss_scale():
    t = torch.tensor([0.0, 1e-6, 1e4])
    expected = torch.tensor([0.0, math.sqrt(2 * 1.1e-6), 2.0], dtype=DOUBLE)
    torch.testing.assert_close(SPHERE.loss_scale(t), expected, rtol=1e-5, atol=0)
    blind = UNIT.error(uniform(50_000, 23), uniform(50_000, 24)).mean().item()
    assert blind == pytest.approx(math.pi**2 / 2 - 2, abs=0.05)
