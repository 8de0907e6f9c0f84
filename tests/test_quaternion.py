"""Unit quaternions: the laws of the process, its degenerate input, scores and predictions."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats

from bridges import (
    Noise,
    Process,
    RotationDiffusion,
    Score,
    StreamDraws,
    Velocity,
    testing,
)
from bridges import _s3_kernel as s3
from bridges._so3 import quat_to_matrix
from bridges._two_sample import compare
from bridges.quaternion import UnitQuaternionDiffusion
from bridges.wrapper import Wrapper
from oracles import Few
from quaternion_cases import (
    FULL,
    GENERAL,
    QUATERNION,
    RATE,
    WIDE,
    about,
    angle,
    angle_between,
    angle_cdf,
    coordinates,
    inverse,
    quaternions,
    times,
)

DOUBLE = torch.float64
UNIT = UnitQuaternionDiffusion(1.0)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
TANGENTS = pytest.mark.parametrize("kind", [Score, Noise, Velocity])
AXIS = torch.tensor([0.6, 0.0, -0.8], dtype=DOUBLE)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def uniform(n, seed, dtype=DOUBLE):
    return UNIT.sample_prior((n,), generator=rng(seed), dtype=dtype)


def turned(x, theta):
    """The state at an angle from x, about an axis off the others."""
    step = torch.from_numpy(about(AXIS.numpy(), np.array(theta)))
    return torch.from_numpy(times(x.double().numpy(), step.numpy())).to(x.dtype)


def entries(q):
    return quat_to_matrix(q).flatten(-2).double()


# ------------------------------------------------------------------ laws


@pytest.mark.parametrize(
    ("dtype", "when"),
    [
        (torch.float32, (0.13, 0.71)),
        (DOUBLE, WIDE),
        pytest.param(DOUBLE, (0.13, 0.71), marks=pytest.mark.slow),
        pytest.param(torch.float32, WIDE, marks=pytest.mark.slow),
    ],
)
def test_every_law(dtype, when):
    testing.check_process(
        QUATERNION, point=quaternions()(dtype), view=coordinates, general=GENERAL, times=when
    )


@DTYPES
@pytest.mark.parametrize("v", [1e-4, 0.01, 0.5, 2.0, 4.5, 4.7, 12.0, 50.0])
def test_forward_has_the_kernels_angle(v, dtype, p_min):
    x_0 = uniform(1, 1, dtype).expand(50_000, 4)
    process = UnitQuaternionDiffusion(2.0)
    x_t = process.sample_forward(x_0, 0.75 * v, start=0.25 * v, generator=rng(2))
    step = times(inverse(x_0.double()), x_t.double())
    assert stats.kstest(angle(step), angle_cdf(v)).pvalue > p_min
    axis = step[:, 1:] / np.linalg.norm(step[:, 1:], axis=1, keepdims=True)
    for component in axis.T:
        assert stats.kstest(component, stats.uniform(-1, 2).cdf).pvalue > p_min


def test_a_short_step_is_a_normal_rotation_vector(p_min):
    x_0 = uniform(1, 3).expand(50_000, 4)
    x_t = UnitQuaternionDiffusion(3e-7).sample_forward(x_0, 2.0, generator=rng(4))
    z = s3.log(s3.between(x_0, x_t)).numpy() / math.sqrt(6e-7)
    for component in z.T:
        assert stats.kstest(component, stats.norm.cdf).pvalue > p_min


@pytest.mark.parametrize("when", [(0.13, 0.71), (1.0, 2.9), (4.0, 6.1)])
def test_as_rotations_they_are_the_diffusion_of_rotations(when):
    """One process walked and bridged on S³, and one on SO(3): which sign is lost."""
    s, t = when
    x_0, draws = quaternions(20_000)(DOUBLE), rng(5)
    x_t = QUATERNION.sample_forward(x_0, t, generator=draws)
    x_s = QUATERNION.sample_bridge(x_0, x_t, s, t, generator=draws)
    rotation, start = RotationDiffusion(RATE), quat_to_matrix(x_0)
    end = rotation.sample_forward(start, t, generator=draws)
    middle = rotation.sample_bridge(start, end, s, t, generator=draws)

    def view(rot):
        return rot.flatten(-2)[:, [0, 1, 3, 5, 8]]

    projected = [quat_to_matrix(x) for x in (x_s, x_t)]
    compare("projection", when, view, projected, (middle, end))


def test_both_signs_of_an_end_are_told_apart():
    """−1 is as far as can be: a bridge to it goes all the way round, to 1 it stays."""
    one = torch.tensor([1.0, 0, 0, 0], dtype=DOUBLE).expand(1000, 4)
    for sign, low, high in ((1, 0.0, 1.0), (-1, 2.0, 4.3)):
        x_s = UNIT.sample_bridge(one, sign * one, 0.02, 0.04, generator=rng(6))
        assert low <= angle(x_s).min()
        assert angle(x_s).max() <= high


@pytest.mark.parametrize(("s", "t"), [(1.0, 2.0), (0.01, 2.9), (2.0, 9.0)])
def test_times_per_example_have_the_law_of_numbers(s, t):
    n, far = 20_000, 4 * t
    x_0 = uniform(1, 7).expand(n, 4)
    x_t = turned(x_0, FULL - 0.05)
    rows = torch.arange(n) % 2 == 0
    given = [torch.where(rows, u, 4 * u).double() for u in (s, t)]
    own = UNIT.sample_bridge(x_0, x_t, *given, generator=rng(8))
    for mask, pair in ((rows, (s, t)), (~rows, (4 * s, far))):
        one = UNIT.sample_bridge(x_0, x_t, *pair, generator=rng(9))
        compare("times per example", pair, coordinates, (own[mask],), (one,), ("x_s",))


def test_eta_zero_is_the_geodesic_point():
    x_0 = uniform(5, 10)
    x_s = UNIT.sample_bridge(x_0, turned(x_0, 5.2), 0.36, 1.0, eta=0.0)
    torch.testing.assert_close(x_s, turned(x_0, 0.6 * 5.2))


@pytest.mark.parametrize("eta", [0.3, 0.7])
def test_eta_keeps_the_marginal_at_small_noise(eta, p_min):
    x_0 = uniform(50_000, 11)
    x_t = UNIT.sample_forward(x_0, 0.01, generator=rng(12))
    x_s = UNIT.sample_bridge(x_0, x_t, 0.004, 0.01, eta=eta, generator=rng(13))
    assert stats.kstest(angle_between(x_0, x_s), angle_cdf(0.004)).pvalue > p_min


def test_a_sample_does_not_depend_on_its_neighbours():
    x_0 = uniform(6, 14)
    x_t = torch.where(torch.arange(6)[:, None] < 3, turned(x_0, 1.0), -x_0)
    for s, t in ((0.1, 0.3), (0.5, 2.9), (2.0, 8.0)):
        whole = UNIT.sample_bridge(x_0, x_t, s, t, generator=StreamDraws(1, torch.arange(6)))
        for i in range(6):
            draws = StreamDraws(1, torch.tensor([i]))
            own = UNIT.sample_bridge(x_0[[i]], x_t[[i]], s, t, generator=draws)
            assert torch.equal(whole[[i]], own)


# ------------------------------------------------------------------ degenerate input


@DTYPES
@pytest.mark.parametrize("v", [1e-8, 1e-5, 1e-2, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("theta", [0.0, 1e-7, 1.0, FULL - 1e-6, FULL])
def test_bridge_lies_on_the_space(v, theta, dtype):
    x_0 = uniform(64, 15, dtype) * 1.0009
    x_t = turned(x_0, theta)
    for s, t in [(0.3 * v, v), (torch.full((64,), 0.3 * v), torch.full((64,), v))]:
        for eta in (1.0, 0.4, 1e-9, 0.0):
            x_s = UNIT.sample_bridge(x_0, x_t, s, t, eta=eta, generator=rng(16))
            assert (x_s.norm(dim=-1) - 1).abs().max() < 1e-6
        x = UNIT.sample_forward(x_0, t, generator=rng(17))
        assert (x.norm(dim=-1) - 1).abs().max() < 1e-6


def test_a_tiny_bridge_in_float32_has_its_width():
    x_0 = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(50_000, 4)
    x_t = UNIT.sample_forward(x_0, 1e-8, generator=rng(18))
    x_s = UNIT.sample_bridge(x_0, x_t, 3e-9, 1e-8, generator=rng(19))
    for step, v in ((x_s, 3e-9), (s3.between(x_s, x_t), 7e-9)):
        assert (4 * step[:, 1:].double().square().mean() / v).item() == pytest.approx(1, abs=0.02)


def test_a_long_run_stays_on_the_sphere():
    x = uniform(100, 20, torch.float32)
    for i in range(300):
        x = UNIT.sample_forward(x, i + 0.1, start=float(i), generator=rng(i))
    assert (x.double().norm(dim=-1) - 1).abs().max() < 1e-6


def test_projection_of_any_quaternion():
    q = torch.tensor([[0.0, 0, 0, 0], [0, -3e30, 0, 4e30], [1e-30, 0, 0, 0]], requires_grad=True)
    found = UNIT.endpoint(q, torch.tensor([[1.0, 0, 0, 0]]).expand(3, 4), 1.0)
    expected = torch.tensor([[1.0, 0, 0, 0], [0, -0.6, 0, 0.8], [1, 0, 0, 0]])
    torch.testing.assert_close(found, expected)
    UNIT.error(q, expected.flip(-1)[[0, 0, 0]]).sum().backward()
    assert q.grad.isfinite().all()


def test_nan_shows_and_does_not_wait_for_ever():
    x = uniform(4, 21)
    said = x.clone()
    said[2] = math.nan
    rows = (torch.full((4,), 0.5), torch.full((4,), 2.0))
    for s, t in ((0.1, 0.3), (0.5, 3.0), (1.0, 9.0), rows):
        x_s, _ = UNIT.sample_step(said, x, s, t, generator=Few(22))
        assert x_s.isnan().any(-1).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.ones(2, 4), "Expected x_t to hold unit vectors, of length 1 to 0.001; got"),
        (torch.ones(2, 3), r"Expected x_t to hold vectors \(…, 4\); got"),
    ],
)
def test_bad_states(x, sentence):
    with pytest.raises(ValueError, match=sentence):
        UNIT.endpoint(x, x, 1.0)
    with pytest.raises(ValueError, match=r"tangent vector of shape \(2, 3\)"):
        UNIT.endpoint(Score(torch.zeros(2, 4)), uniform(2, 23), 1.0)
    with pytest.raises(ValueError, match="Expected rate to be positive"):
        UnitQuaternionDiffusion(-1.0)


# ------------------------------------------------------------------ broken twins


@dataclass(frozen=True)
class Twin(Wrapper):
    """The process with some of its hooks broken."""

    process: Process


class OneSign(Twin):
    """Takes q and −q for one point, and goes to the nearer."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        sign = torch.where((x_0 * x_t).sum(-1, keepdim=True) < 0, -1.0, 1.0)
        return self.process._bridge(x_0, sign * x_t, s, t, eta, draws)


class Exchanged(Twin):
    """Takes the way to come for the way gone."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        return self.process._bridge(x_0, x_t, t - s, t, eta, draws)


class Wrapped(Twin):
    """Wraps a normal around the sphere, as if it were flat."""

    def _forward(self, x, s, t, draws):
        noise = draws.normal((*x.shape[:-1], 3), x.dtype, x.device)
        return self.process._exp(x, (self.process.rate * (t - s)).sqrt().to(x.dtype) * noise)


class UnitSphere(Twin):
    """Takes the variance of the rotation vector for that on the unit sphere."""

    def _forward(self, x, s, t, draws):
        return self.process._forward(x, 4 * s, 4 * t, draws)


class Adrift(Twin):
    def _forward(self, x, s, t, draws):
        return 1.002 * self.process._forward(x, s, t, draws)


@pytest.mark.parametrize(
    ("twin", "check", "when"),
    [
        (OneSign, testing.check_two_times, WIDE),
        (Exchanged, testing.check_two_times, (0.13, 0.71)),
        (Wrapped, testing.check_semigroup, WIDE),
        (UnitSphere, testing.check_two_times, (0.13, 0.71)),
        (Adrift, testing.check_space, (0.13, 0.71)),
    ],
)
def test_the_laws_refuse_a_broken_twin(twin, check, when):
    args = quaternions(20_000)(torch.float32), coordinates, when
    check(QUATERNION, *args)
    with pytest.raises(AssertionError, match=r"Expected the .* to hold at times"):
        check(twin(QUATERNION), *args)
