"""The rotation maps against SciPy and roma, and the heat kernel against many digits."""

import math

import numpy as np
import pytest
import roma
import torch
from scipy.spatial.transform import Rotation

from bridges import RotationDiffusion, _so3
from bridges._so3_kernel import _log_images, _log_series, far_lift, images, log_heat_kernel
from oracles import Few

UNIT = RotationDiffusion(1.0)
EYE = torch.eye(3, dtype=torch.float64)
ANGLES = [0.0, 1e-12, 1e-7, 1e-3, 1.0, 2.0, 3.0, math.pi - 1e-3, math.pi - 1e-7, math.pi]


def rotvecs(angles, n=200, seed=0):
    """Return rotation vectors: every angle about n random axes and the three axes themselves."""
    axes = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    axes = torch.cat([torch.nn.functional.normalize(axes, dim=-1), EYE, -EYE])
    return torch.cat([w * axes for w in angles])


def close(a, b, tol):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=0, atol=tol)


def test_exp_against_scipy_and_roma():
    u = rotvecs([*ANGLES, 4.0, 2 * math.pi, 9.0])
    close(_so3.exp(u), Rotation.from_rotvec(u.numpy()).as_matrix(), 1e-14)
    close(_so3.exp(u), roma.rotvec_to_rotmat(u), 1e-12)
    close(_so3.exp(u.float()), _so3.exp(u).float(), 3e-6)


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_log_inverts_exp_and_stays_within_pi(dtype, tol):
    rot = _so3.exp(rotvecs(ANGLES)).to(dtype)
    u = _so3.log(rot)
    assert u.dtype == dtype
    assert (u.norm(dim=-1) <= math.pi * (1 + tol)).all()
    close(_so3.exp(u), rot, tol)


def test_log_against_scipy_below_pi():
    u = rotvecs(ANGLES[:-2])
    close(_so3.log(_so3.exp(u)), u, 1e-12)
    close(_so3.log(_so3.exp(u)), Rotation.from_matrix(_so3.exp(u).numpy()).as_rotvec(), 1e-12)
    close(_so3.log(_so3.exp(u)), roma.rotmat_to_rotvec(_so3.exp(u)), 1e-7)


def test_small_logs_keep_their_digits_in_float32():
    """A float32 matrix holds a small turn in its antisymmetric part to full relative accuracy."""
    u = rotvecs([1e-6, 1e-4, 1e-2]).float()
    torch.testing.assert_close(_so3.log(_so3.exp(u)), u, rtol=2e-6, atol=1e-13)


def test_quaternions_against_scipy():
    u = rotvecs(ANGLES)
    q = _so3.matrix_to_quat(_so3.exp(u))
    scipy = Rotation.from_rotvec(u.numpy()).as_quat(scalar_first=True)
    overlap = (q * torch.as_tensor(scipy)).sum(-1).abs()
    close(overlap, torch.ones_like(overlap), 1e-14)
    assert (q[..., 0] >= 0).all()
    close(_so3.quat_to_matrix(q), _so3.exp(u), 1e-14)


def test_products_against_matmul():
    a, b = _so3.exp(rotvecs([1.0], seed=1)), _so3.exp(rotvecs([2.5], seed=2))
    close(_so3.between(a, b), a.mT @ b, 1e-15)
    close(_so3.compose(a, b), a @ b, 1e-15)
    close(_so3.det(a + 0.3 * b), torch.linalg.det(a + 0.3 * b), 1e-14)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, 3.0, math.pi])
def test_log_has_finite_gradients(angle):
    rot = _so3.exp(rotvecs([angle], n=5))
    rot = rot.requires_grad_()
    (_so3.log(rot) * torch.tensor([1.0, -2.0, 0.5])).sum().backward()
    assert rot.grad.isfinite().all()


# ------------------------------------------------------------------ the heat kernel


@pytest.mark.parametrize("v", [0.05, 0.5, 2.0, 2.99, 3.01, 8.0, 40.0])
def test_log_prob_to_many_digits(v):
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        for w in (1e-3, 0.4, 1.7, 3.0, 3.14):
            x, u = mpmath.mpf(w), mpmath.mpf(v)
            total = mpmath.fsum(
                (2 * n + 1) * mpmath.exp(-n * (n + 1) * u / 2) * mpmath.sin((n + 0.5) * x)
                for n in range(110)
            )
            exact = float(mpmath.log(total / mpmath.sin(x / 2)))
            rot = _so3.exp(torch.tensor([w, 0.0, 0.0], dtype=torch.float64))
            assert UNIT.log_prob(rot, EYE, v).item() == pytest.approx(exact, rel=1e-10, abs=1e-10)
            found = UNIT.log_prob(rot.float(), EYE.float(), v).item()
            assert found == pytest.approx(exact, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("v", [1.2, 2.0, 3.0, 5.0])
def test_the_two_forms_agree(v):
    """In the logarithm, and in the slope over the angle, which is smooth at 0."""
    w = torch.linspace(0, math.pi, 101, dtype=torch.float64)
    for few, many in zip(
        _log_images(w, torch.tensor(v)), _log_series(w, torch.tensor(v)), strict=True
    ):
        torch.testing.assert_close(few, many, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("v", [1e-4, 0.02, 0.7, 2.9, 3.1, 20.0])
def test_density_integrates_to_one(v):
    w = torch.linspace(0, min(math.pi, 14 * math.sqrt(v)), 20_001, dtype=torch.float64)
    for time in (torch.full_like(w, v), torch.tensor(v, dtype=torch.float64)):
        density = log_heat_kernel(w, time)[0].exp() * (1 - w.cos()) / math.pi
        assert torch.trapezoid(density, w).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("v", [1e-6, 0.01, 0.5, 2.0, 6.0])
@pytest.mark.parametrize("w", [0.01, 0.5, 2.0, 3.0, math.pi])
def test_far_lift_is_the_share_of_the_double_covers_kernel(w, v):
    def h(angle):
        y = angle + 4 * np.pi * np.arange(-6, 7)
        return y, -(y**2) / (2 * v)

    (near, log_near), (far, log_far) = h(w), h(2 * math.pi - w)
    top = max(log_near.max(), log_far.max())
    near, far = (near * np.exp(log_near - top)).sum(), (far * np.exp(log_far - top)).sum()
    found = far_lift(torch.tensor(w, dtype=torch.float64), torch.tensor(v, dtype=torch.float64))
    assert found.item() == pytest.approx(far / (near + far), rel=1e-9, abs=1e-8)


def test_nan_shows_and_does_not_wait_for_ever():
    x = UNIT.sample_prior((5,), generator=torch.Generator().manual_seed(8))
    prediction = x.clone()
    prediction[2] = math.nan
    for s, t in (
        (0.1, 0.3),
        (0.5, 2.0),
        (1.0, 9.0),
        (torch.full((5,), 0.5), torch.full((5,), 2.0)),
    ):
        x_s, _ = UNIT.sample_step(prediction, x, s, t, generator=Few(9))
        assert x_s.isnan().flatten(1).any(1).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("v", [1e-6, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("period", [2 * math.pi, 4 * math.pi])
def test_images_against_their_sum(v, period):
    r = np.linspace(1e-3, period / 2, 50)
    for k in (1, 2):
        y = r + period * k * np.array([[-1], [1]])
        exact = (y / r * np.exp(-(y**2 - r**2) / (2 * v))).sum(0)
        found = images(torch.tensor(r), torch.tensor(v, dtype=torch.float64), period, k)
        close(found, exact, 1e-9)
