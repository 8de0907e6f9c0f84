"""The quaternion maps against NumPy, the heat kernel against many digits, and the exact draws."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bridges import _s3_draw
from bridges import _s3_kernel as s3
from bridges._draw import GeneratorDraws
from bridges._so3 import unit
from bridges._so3_kernel import kept_share
from quaternion_cases import (
    FULL,
    about,
    angle,
    angle_between,
    angle_cdf,
    inverse,
    kernel,
    other_side_share,
    side_cdf,
    times,
)

DOUBLE = torch.float64
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
AXIS = np.array([2.0, -1.0, 0.5]) / math.sqrt(5.25)
THETAS = [0.0, 0.7, 3.0, FULL - 0.3, FULL - 1e-3, FULL]
PAIRS = [
    (1e-4, 2e-4),
    (0.03, 0.9),
    (0.9, 0.03),
    (3e-6, 3.0),
    (1.3, 0.7),
    (2.9, 4.4),
    (4.9, 4.5),
    (0.3, 6.5),
    (9.0, 7.0),
]


def rng(seed):
    return torch.Generator().manual_seed(seed)


def number(v):
    return torch.tensor(v, dtype=DOUBLE)


def random_quaternions(n, seed):
    return unit(torch.randn(n, 4, generator=rng(seed), dtype=DOUBLE))


def close(a, b, tol):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=0, atol=tol)


# ------------------------------------------------------------------ maps


def test_products_against_numpy():
    p, q = random_quaternions(100, 1), random_quaternions(100, 2)
    close(s3.product(p, q), times(p, q), 1e-15)
    close(s3.between(p, q), times(inverse(p), q), 1e-15)


@DTYPES
@pytest.mark.parametrize("theta", [0.0, 1e-9, 1e-4, 1.0, 3.2, 6.0, FULL - 1e-4, FULL])
def test_log_inverts_exp_all_the_way_to_the_antipode(theta, dtype):
    tol = 1e-14 if dtype == DOUBLE else 1e-6
    rotvec = torch.tensor(theta * AXIS, dtype=dtype).expand(3, 3)
    q = s3.exp(rotvec)
    close(q.double(), np.broadcast_to(about(AXIS, np.array(theta)), (3, 4)).copy(), tol)
    close(s3.exp(s3.log(q)), q, tol)
    near, far = s3.angles(q)
    close(near.double(), np.full(3, theta), 10 * tol)
    close(far.double(), np.full(3, FULL - theta), 10 * tol)
    close(s3.log(q).norm(dim=-1), near, 10 * tol)


def test_small_angles_and_small_gaps_keep_their_digits():
    q = torch.tensor([[1.0, 3e-12, 0, 4e-12], [-1.0, 3e-12, 0, 4e-12]])
    near, far = s3.angles(q)
    torch.testing.assert_close(near[0], torch.tensor(1e-11), rtol=1e-6, atol=0)
    torch.testing.assert_close(far[1], torch.tensor(1e-11), rtol=1e-6, atol=0)


def test_log_at_the_antipode():
    q = torch.tensor([[-1.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 1e-12, 0.0]], requires_grad=True)
    rotvec = s3.log(q)
    close(rotvec, torch.tensor([[FULL, 0, 0], [0, FULL, 0]]), 1e-6)
    s3.angles(q)[0].sum().backward()
    assert q.grad.isfinite().all()


# ------------------------------------------------------------------ the heat kernel


@pytest.mark.parametrize("v", [1e-6, 1e-3, 0.1, 1.0, 3.0, 4.59, 4.61, 8.0, 40.0])
def test_log_kernel_to_many_digits(v):
    """The value and its slope over θ, at angles given from both ends, in both dtypes."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        u = mpmath.mpf(v)

        def log_h(x):
            images = [x + 4 * mpmath.pi * j for j in range(-9, 10)]
            total = mpmath.fsum(y * mpmath.exp(-(y**2) / (2 * u)) for y in images)
            front = u / 8 + mpmath.log(8 * mpmath.pi) / 2 - 1.5 * mpmath.log(u)
            return front + mpmath.log(total / mpmath.sin(x / 2))

        for rest in (1e-9, 1e-4, 0.5, 3.1, 3.2, 6.0, 6.28):
            x = 2 * mpmath.pi - mpmath.mpf(rest)
            exact, slope = float(log_h(x)), float(mpmath.diff(log_h, x) / x)
            for dtype, tol in ((DOUBLE, 1e-11), (torch.float32, 1e-5)):
                given = (torch.tensor([y], dtype=dtype) for y in (FULL - rest, rest))
                found = s3.log_heat_kernel(*given, number(v))
                assert found[0].item() == pytest.approx(exact, rel=tol, abs=tol)
                assert found[1].item() == pytest.approx(slope, rel=30 * tol)


@pytest.mark.parametrize("v", [3.0, 4.0, 4.6, 6.0])
def test_the_two_forms_agree(v):
    w = torch.linspace(0, FULL, 101, dtype=DOUBLE)
    few = s3._log_images(w, FULL - w, number(v))
    many = s3._log_series(w, FULL - w, number(v))
    for one, other in zip(few, many, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("v", [0.02, 0.7, 4.5, 4.7, 20.0])
def test_log_kernel_against_numpy(v):
    w = torch.linspace(1e-3, FULL - 1e-3, 101, dtype=DOUBLE)
    exact = np.log(kernel(w.numpy(), v)).astype(float)
    for time in (number(v), torch.full_like(w, v)):
        close(s3.log_heat_kernel(w, FULL - w, time)[0], exact, 1e-8)


@pytest.mark.parametrize("v", [1e-4, 0.02, 0.7, 4.5, 4.7, 20.0])
def test_density_integrates_to_one(v):
    w = torch.linspace(0, min(FULL, 14 * math.sqrt(v)), 20_001, dtype=DOUBLE)
    density = s3.log_heat_kernel(w, FULL - w, number(v))[0].exp() * (w / 2).sin() ** 2 / math.pi
    assert torch.trapezoid(density, w).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("v", [1e-3, 0.1, 1.0, 3.0, 5.0])
def test_correction_against_its_sum(v):
    w = np.linspace(1e-3, FULL - 1e-3, 101)
    y = w + 2 * FULL * np.arange(-5, 6)[:, None]
    exact = (y / w * np.exp(-(y**2 - w**2) / (2 * v))).sum(0)
    w = torch.tensor(w)
    close(s3.correction(w, FULL - w, number(v)), exact, 1e-9)
    edge = torch.tensor([FULL - 1e-9], dtype=DOUBLE)
    found = s3.correction(edge, torch.tensor([1e-9], dtype=DOUBLE), number(v)).item()
    assert found == pytest.approx(1e-9 * (4 * math.pi / v - 1 / math.pi), rel=1e-5)


def test_kept_share_has_a_smooth_slope():
    x = torch.tensor([0.0, 1e-12, 0.0399999, 0.0400001, 3.0, 1e30], requires_grad=True)
    value = kept_share(x)
    value.sum().backward()
    exact = np.array([-0.5, -0.5, -0.48686, -0.48686, -0.088983, 0.0])
    torch.testing.assert_close(x.grad, torch.tensor(exact).float(), rtol=1e-4, atol=1e-6)
    close(value[2], value[3], 1e-6)


# ------------------------------------------------------------------ draws


def bridge(theta, a, b, n=10_000, seed=3, dtype=DOUBLE):
    target = torch.tensor(theta * AXIS, dtype=dtype).expand(n, 3)
    draws = GeneratorDraws(rng(seed))
    return _s3_draw.sample_between(target, number(a), number(b), draws).double().numpy()


@DTYPES
@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_bridge_between_fixed_ends(theta, a, b, dtype, p_min):
    """Both sides by quadrature; ρ given r; the direction about the line between the ends."""
    q, end = bridge(theta, a, b, dtype=dtype), about(AXIS, np.array(theta))
    r, rho = angle(q), angle_between(q, end)
    assert stats.kstest(r, side_cdf(theta, a, b)).pvalue > p_min
    assert stats.kstest(rho, side_cdf(theta, b, a)).pvalue > p_min
    if theta in (0, FULL):
        cosine = q[:, 1:] @ AXIS / np.linalg.norm(q[:, 1:], axis=1)
        assert stats.kstest(cosine, stats.uniform(-1, 2).cdf).pvalue > p_min
    elif dtype == DOUBLE:
        share = other_side_share(r, rho, theta, b)
        assert stats.kstest(share, stats.uniform.cdf).pvalue > p_min
    u = np.cross(AXIS, [0.0, 0.0, 1.0])
    u /= np.linalg.norm(u)
    azimuth = np.arctan2(q[:, 1:] @ np.cross(AXIS, u), q[:, 1:] @ u)
    assert stats.kstest(azimuth, stats.uniform(-math.pi, FULL).cdf).pvalue > p_min


def refusals(theta, a, b, n=40_000):
    """The probabilities of both sides under the law."""
    q = bridge(theta, a, b, n)
    r, rho = angle(q), angle_between(q, about(AXIS, np.array(theta)))
    share = other_side_share(r, rho, theta, b)
    return [
        stats.kstest(r, side_cdf(theta, a, b)).pvalue,
        stats.kstest(share, stats.uniform.cdf).pvalue,
    ]


@pytest.mark.parametrize(
    ("name", "broken", "case"),
    [
        ("_cut_exponential", lambda g, u: u, (FULL - 0.05, 0.1, 0.3)),
        ("_rise", lambda r, length: FULL - r, (FULL - 0.05, 1e-4, 0.3)),
        ("correction", lambda r, rest, v: torch.ones_like(r), (FULL - 0.05, 0.9, 4.4)),
        ("kernel_ratio", lambda r, rest, v: torch.ones_like(r), (FULL - 0.7, 1.3, 5.5)),
        ("_logistic", torch.ones_like, (FULL - 0.05, 0.1, 0.3)),
    ],
)
def test_the_law_between_fixed_ends_refuses_a_broken_draw(name, broken, case, monkeypatch, p_min):
    assert min(refusals(*case)) > p_min
    monkeypatch.setattr(_s3_draw, name, broken)
    assert min(refusals(*case)) < 1e-9


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_any_tangent_point_gives_the_law(factor, monkeypatch, p_min):
    right = _s3_draw._tangent_point
    monkeypatch.setattr(_s3_draw, "_tangent_point", lambda *args: factor * right(*args))
    for case in ((FULL - 0.05, 0.03, 0.3), (FULL - 0.01, 1e-4, 0.9), (FULL - 0.3, 2.9, 4.4)):
        assert min(refusals(*case, n=10_000)) > p_min


@pytest.mark.parametrize("ratio", [1e-7, 1e-4, 1e-2, 0.3, 1.0])
@pytest.mark.parametrize("b", [1e-6, 0.01, 0.6, 2.0, 4.9, 5.1, 12.0])
def test_many_proposals_are_kept(ratio, b):
    """At every angle, and as many as a device takes for granted."""
    a, n, draws = ratio * b, 3000, GeneratorDraws(rng(4))
    gaps = [0.0, *(math.sqrt(a) * x for x in (0.3, 1, 3)), *(0.08 * (a + b) * x for x in (1, 3))]
    for gap in [*gaps, 0.3, 2.0, FULL]:
        target = torch.tensor(max(FULL - gap, 0.0) * AXIS).expand(n, 3)
        kept = _s3_draw._bridge_proposal(target, number(a), number(b), draws)[1].double().mean()
        assert kept > _s3_draw._least_share(a, b) - 4 / math.sqrt(n) / 2


@DTYPES
@pytest.mark.parametrize("theta", [0.0, 1e-9, 1e-4, 0.02, 1.0, 3.0, 5.0])
@pytest.mark.parametrize(("a", "b"), [(1e-4, 3e-4), (0.3, 0.1), (1.4, 1.1)])
def test_a_straight_bridge_closes_its_triangle(theta, a, b, dtype):
    """R is at the sides of the bridge in ℝ³ from both ends, and in its plane with the target."""
    target = torch.tensor(theta * AXIS, dtype=dtype).expand(2000, 3)
    noise = torch.randn(2000, 3, generator=rng(9), dtype=DOUBLE).to(dtype)
    length = torch.full((2000,), theta, dtype=dtype)
    args = target, length, number(a), number(b), noise
    q, _, _, fits = _s3_draw._so3_draw._straight(*args)
    assert fits.double().mean() > 0.7
    p = (a * target + math.sqrt(a * b * (a + b)) * noise).double()[fits] / (a + b)
    q, end = q.double()[fits], s3.exp(target.double())[fits]
    tol = 1e-14 if dtype == DOUBLE else 1e-6
    close(q.norm(dim=-1), torch.ones_like(q[:, 0]), tol)
    close(q[:, 0], torch.cos(0.5 * p.norm(dim=-1)), tol)
    close((q * end).sum(-1), torch.cos(0.5 * (target.double()[fits] - p).norm(dim=-1)), tol)
    axis = torch.tensor(AXIS).expand_as(p)
    normal = torch.linalg.cross(axis, p)
    close((normal * q[:, 1:]).sum(-1), torch.zeros_like(q[:, 0]), 10 * tol)
    assert ((torch.linalg.cross(normal, axis) * q[:, 1:]).sum(-1) > -tol).all()


def test_a_straight_bridge_is_kept_as_often_as_the_correction_says():
    for theta, a, b in ((5.9, 1.1, 0.6), (4.5, 3.9, 4.8)):
        n, v = 100_000, number(a + b)
        length = torch.full((n,), theta, dtype=DOUBLE)
        target = torch.tensor(theta * AXIS).expand(n, 3)
        noise = torch.randn(n, 3, generator=rng(5), dtype=DOUBLE)
        straight = _s3_draw._so3_draw._straight(target, length, number(a), number(b), noise)
        _, r, rho, fits = straight
        keep = s3.correction(r, FULL - r, number(a)) * s3.correction(rho, FULL - rho, number(b))
        share = s3.correction(length[:1], FULL - length[:1], v).item()
        assert (keep * fits).mean().item() == pytest.approx(share, abs=2e-3)


@pytest.mark.parametrize(("a", "b"), [(1e-5, 2e-5), (1e-6, 2.0), (0.05, 0.9), (2.0, 4.9)])
@pytest.mark.parametrize("gap", [0.0, 1e-3, 0.05, 0.4])
def test_no_proposal_should_be_kept_more_than_surely(gap, a, b):
    """The bound of p(r) lies above it: a probability above 1 would bend the law."""
    n = 20_000
    length = torch.full((n,), FULL - gap, dtype=DOUBLE)
    noise = torch.randn(n, 3, generator=rng(6), dtype=DOUBLE)
    target = torch.tensor((FULL - gap) * AXIS).expand(n, 3)
    keep = _s3_draw._around(target, length, number(a), number(b), noise)[1]
    assert keep.max() < 1 + 1e-9


@DTYPES
@pytest.mark.parametrize("v", [1e-4, 0.3, 4.5, 4.7, 50.0])
def test_kernel_draws_have_its_angle(v, dtype, p_min):
    args = (50_000,), GeneratorDraws(rng(7)), dtype, torch.device("cpu")
    for time in (number(v), number(v).expand(50_000)):
        q = _s3_draw.sample_kernel(time, *args)
        assert q.dtype == dtype
        assert stats.kstest(angle(q), angle_cdf(v)).pvalue > p_min
