"""The sphere: its laws against Legendre series, against rotations, and with its turn broken."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bridges import RotationDiffusion, sphere, testing
from bridges.sphere import SphereDiffusion, any_across
from sphere_cases import (
    ANGLES,
    ROW,
    SPHERE,
    angle,
    at_angle,
    coordinates,
    ks,
    series,
    vectors,
)

P_MIN = 1e-4
MANY = 40_000
DOUBLE = torch.float64
UNIT = SphereDiffusion(1.0)
X_0 = torch.tensor([0.6, -0.64, 0.48], dtype=DOUBLE)
VARIANCES = [1e-8, 1e-4, 0.01, 0.3, 1.0, 2.9, 3.1, 20.0]
PAIRS = [(1e-8, 2e-8), (0.01, 2.5), (0.2, 0.3), (1.0, 0.7), (2.9, 2.8), (3.5, 0.1), (50.0, 50.0)]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])


def rng(seed):
    return torch.Generator().manual_seed(seed)


def uniform(n, seed, dtype=DOUBLE):
    return UNIT.sample_prior((n,), generator=rng(seed), dtype=dtype)


def off_unit(x):
    return (x.double().norm(dim=-1) - 1).abs().max().item()


# ------------------------------------------------------------------ laws of the draws


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("times", [(0.13, 0.71), (0.6, 2.9)])
def test_every_law(times, dtype):
    given = {key: ROW[key] for key in ("view", "general")}
    testing.check_process(SPHERE, point=vectors()(dtype), times=times, **given)


@DTYPES
@pytest.mark.parametrize("v", VARIANCES)
def test_forward_has_the_law_of_the_series(v, dtype):
    x = uniform(1, 0, dtype)
    x_0 = x.expand(MANY, 3)
    x_t = SphereDiffusion(2.0).sample_forward(x_0, 0.75 * v, start=0.25 * v, generator=rng(1))
    assert x_t.dtype == dtype
    assert ks(x_0, x_t, v) > P_MIN
    side = any_across(x)
    heading = torch.atan2(x_t @ torch.linalg.cross(x, side).squeeze(), x_t @ side.squeeze())
    law = stats.uniform(-math.pi, 2 * math.pi)
    assert stats.kstest(heading.numpy(), law.cdf).pvalue > P_MIN


def test_forward_is_a_rotation_of_the_vector():
    eye = torch.eye(3, dtype=DOUBLE).expand(1000, 3, 3)
    rot = RotationDiffusion(0.9).sample_forward(eye, 0.7, generator=rng(2))
    x_t = SphereDiffusion(0.9).sample_forward(X_0.expand(1000, 3), 0.7, generator=rng(2))
    torch.testing.assert_close(x_t, rot @ X_0)


@DTYPES
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_bridge_splits_the_way_into_two_kernels(a, b, dtype):
    x_0 = uniform(MANY, 3, dtype)
    x_t = UNIT.sample_forward(x_0, a + b, generator=rng(4))
    x_s = UNIT.sample_bridge(x_0, x_t, a, a + b, generator=rng(5))
    assert x_s.dtype == dtype
    assert ks(x_0, x_s, a) > P_MIN
    assert ks(x_s, x_t, b) > P_MIN
    # The two steps are independent, in length and, seen from x_s, in direction.
    first, second = (UNIT._log(x_s, x).double() for x in (x_0, x_t))
    lengths = torch.stack([first.norm(dim=-1), second.norm(dim=-1)])
    assert abs(torch.corrcoef(lengths)[0, 1].item()) * math.sqrt(MANY) < 4
    along = (first * second).sum(-1)
    assert abs(along.mean() / along.std()) * math.sqrt(MANY) < 4


def test_times_per_example_have_the_law_of_numbers():
    per = 10_000
    a, b = (torch.tensor(v, dtype=DOUBLE).repeat_interleave(per) for v in zip(*PAIRS, strict=True))
    x_0 = uniform(len(a), 6)
    x_t = UNIT.sample_forward(x_0, a + b, generator=rng(7))
    x_s = UNIT.sample_bridge(x_0, x_t, a, a + b, generator=rng(8))
    rows = (x.split(per) for x in (x_0, x_s, x_t))
    for (v_a, v_b), start, middle, end in zip(PAIRS, *rows, strict=True):
        assert ks(start, end, v_a + v_b) > P_MIN
        assert ks(start, middle, v_a) > P_MIN
        assert ks(middle, end, v_b) > P_MIN


def fixed_ends(beta, a, b):
    """Cosines of a grid of x_s to x_0, to x_t and to the normal of both, and the bridge's mass."""
    nodes, weights = np.polynomial.legendre.leggauss(120)
    z, phi = np.meshgrid(nodes, (np.arange(96) + 0.5) * math.pi / 48, indexing="ij")
    x, y = np.sqrt(1 - z**2) * np.cos(phi), np.sqrt(1 - z**2) * np.sin(phi)
    to_t = math.cos(beta) * z + math.sin(beta) * x
    start, end = (
        np.interp(np.arccos(cos.clip(-1, 1)), ANGLES, series(np.cos(ANGLES), v))
        for cos, v in ((z, a), (to_t, b))
    )
    mass = weights[:, None] * start * end
    return np.stack([z, to_t, y]), mass / mass.sum()


def miss_at_fixed_ends(beta, a, b, n=25_000):
    """How many standard errors the moments of the bridge are off at most."""
    x_t = at_angle(X_0, beta)
    x_s = UNIT.sample_bridge(X_0.expand(n, 3), x_t.expand(n, 3), a, a + b, generator=rng(9))
    way = torch.tensor([1.0, -2.0, 0.4], dtype=DOUBLE)
    normal = torch.linalg.cross(X_0, torch.linalg.cross(X_0, way))
    found = torch.stack([x_s @ X_0, x_s @ x_t, x_s @ (normal / normal.norm())]).numpy()
    exact, mass = fixed_ends(beta, a, b)
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    drawn = np.concatenate([found, [found[i] * found[j] for i, j in pairs]])
    moments = np.concatenate([exact, [exact[i] * exact[j] for i, j in pairs]])
    gap = np.abs(drawn.mean(1) - (mass * moments).sum((1, 2)))
    return (gap / (drawn.std(1) / math.sqrt(n) + 1e-6)).max()


@pytest.mark.parametrize("beta", [0.0, 1e-3, 0.7, 1.6, 2.5, 3.1, math.pi - 1e-5, math.pi])
@pytest.mark.parametrize(("a", "b"), [(0.07, 0.1), (0.2, 0.4), (1.5, 0.4), (1.1, 1.4), (0.8, 3.4)])
def test_bridge_between_fixed_ends(beta, a, b):
    assert miss_at_fixed_ends(beta, a, b) < 4.5


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_eta_keeps_the_marginal_at_small_noise(eta):
    x_0 = uniform(50_000, 10)
    x_t = UNIT.sample_forward(x_0, 0.005, generator=rng(11))
    x_s = UNIT.sample_bridge(x_0, x_t, 0.002, 0.005, eta=eta, generator=rng(12))
    assert ks(x_0, x_s, 0.002) > P_MIN


def test_eta_zero_is_the_geodesic_point():
    x_s = UNIT.sample_bridge(X_0, at_angle(X_0, 1.2), 0.36, 1.0, eta=0.0)
    torch.testing.assert_close(x_s, at_angle(X_0, 0.6 * 1.2))


# ------------------------------------------------------------------ broken twins


def even_turn(beta, v, draws):
    psi = math.pi * (draws.uniform(beta.shape, beta.dtype, beta.device) - 0.5)
    return psi.cos(), psi.sin()


def no_turn(beta, v, draws):
    return torch.ones_like(beta), torch.zeros_like(beta)


def half_of_the_noise(beta, v, draws, right=sphere.sample_turn):
    return right(beta, 0.5 * v, draws)


@pytest.mark.parametrize("broken", [even_turn, no_turn, half_of_the_noise])
def test_a_broken_turn_is_refused_at_fixed_ends(broken, monkeypatch):
    monkeypatch.setattr(sphere, "sample_turn", broken)
    assert miss_at_fixed_ends(1.6, 0.2, 0.4) > 10


@pytest.mark.parametrize(("broken", "times"), [(even_turn, (0.5, 1.0)), (no_turn, (0.8, 2.0))])
def test_a_broken_turn_is_refused_in_walks(broken, times, monkeypatch):
    given = SPHERE, vectors(20_000)(DOUBLE), coordinates, times
    testing.check_two_times(*given)
    monkeypatch.setattr(sphere, "sample_turn", broken)
    with pytest.raises(AssertionError, match="joint law of two times"):
        testing.check_two_times(*given)


# ------------------------------------------------------------------ degenerate input


@DTYPES
@pytest.mark.parametrize("v", [1e-8, 1e-5, 1e-2, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("beta", [0.0, 1e-7, 1.0, math.pi - 1e-7, math.pi])
def test_bridge_lies_on_the_space(v, beta, dtype):
    x_0 = X_0.to(dtype).expand(64, 3)
    x_t = at_angle(X_0, beta).to(dtype).expand(64, 3)
    for s, t in [(0.3 * v, v), (torch.full((64,), 0.3 * v), torch.full((64,), v))]:
        for eta in (0.0, 1e-6, 1.0):
            x_s = UNIT.sample_bridge(x_0, x_t, s, t, eta=eta, generator=rng(13))
            assert off_unit(x_s) < 1e-6
        # What a guess far from x_t asks of a tiny step is its share of the way, for certain.
        straight = angle(x_0, x_s) - 0.3 * beta
        assert v > 1e-5 or straight.abs().max() < 10 * math.sqrt(v)


@DTYPES
def test_no_run_leaves_the_sphere(dtype):
    x = uniform(16, 14, dtype)
    x_0, generator = uniform(16, 15, dtype), rng(16)
    for _ in range(150):
        x = UNIT.sample_forward(x, 1e-3, generator=generator)
        x = UNIT._exp(x, UNIT._tangent(x, 0.1 * x_0))
        x = UNIT.sample_bridge(x_0, x, 0.99, 1.0, generator=generator)
        assert off_unit(x) < 1e-6


@DTYPES
def test_maps_undo_each_other(dtype):
    betas = torch.tensor([0.0, 1e-7, 1e-3, 1.0, 2.0, 3.0, 3.14, math.pi - 1e-6, math.pi]).double()
    y, x = at_angle(X_0, betas).to(dtype), X_0.to(dtype).expand(9, 3)
    w = UNIT._log(x, y)
    eps = torch.finfo(dtype).eps
    assert (w.norm(dim=-1) - angle(x, y)).abs().max() < 4 * eps
    assert (w * x).sum(-1).abs().max() < 4 * eps
    torch.testing.assert_close(UNIT._exp(x, w), y, rtol=0, atol=4 * eps)


@DTYPES
def test_errors_and_their_gradients(dtype):
    betas = torch.tensor([0.0, 1e-4, 1.0, 3.0, math.pi], dtype=DOUBLE)
    x_0 = X_0.to(dtype).expand(5, 3)
    for size in (1e-30, 1.0, 1e10):
        guess = (size * at_angle(X_0, betas)).to(dtype).requires_grad_()
        error = UNIT.error(guess, x_0)
        torch.testing.assert_close(error, (betas**2).to(dtype), rtol=1e-3, atol=1e-12)
        (slope,) = torch.autograd.grad(error.sum(), guess)
        assert slope.isfinite().all()
        across = (slope.double() * size).norm(dim=-1)
        torch.testing.assert_close(across[:4], 2 * betas[:4], rtol=1e-2, atol=1e-5)


def test_a_zero_vector_is_a_point_that_can_learn():
    guess = torch.zeros(2, 3, requires_grad=True)
    x_0 = uniform(2, 18, torch.float32)
    assert off_unit(UNIT.endpoint(guess.detach(), x_0, 1.0)) < 1e-6
    error = UNIT.error(guess, x_0)
    (slope,) = torch.autograd.grad(error.sum(), guess)
    assert error.isfinite().all()
    assert (UNIT.error(-0.1 * slope, x_0) < error).all()
