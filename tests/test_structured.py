"""Gaussian processes with structured noise: laws, densities and what they keep."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bridges import (
    GivenDraws,
    OrnsteinUhlenbeckDiffusion,
    testing,
)
from bridges.gaussian import BrownianDiffusion, GaussianDiffusion
from bridges.linear_noise import ZeroCentreOfMass
from bridges.schedule import RectifiedSchedule
from bridges.structured import StructuredDiffusion, StructuredDraws
from bridges.vp_schedule import VPSchedule
from gaussian_cases import (
    MASS,
    NOISES,
    SCHEDULES,
    four_sums,
    points_of,
    structured,
)

DOUBLE = torch.float64
BY_NAME = pytest.mark.parametrize("name", NOISES)
OU = OrnsteinUhlenbeckDiffusion(0.0, 0.7, 1.9)
VP = GaussianDiffusion(VPSchedule())
BATCH_MASK = torch.tensor([[True, True, False, True], [False, True, True, True]])
MOLECULES = ZeroCentreOfMass(4, 3, BATCH_MASK, MASS)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def range_state(noise, shape=(5,), seed=0, dtype=DOUBLE):
    return noise(torch.randn(*shape, *noise.point_shape, generator=rng(seed), dtype=dtype))


# ------------------------------------------------------------------ laws


FEW = ("masses and padding", "hollow", "chain")


@pytest.mark.parametrize(
    "name",
    [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in NOISES],
)
def test_every_law(name):
    process, dense = structured(name)
    point = points_of(process.noise)(torch.float32)
    testing.check_process(process, point=point, view=four_sums, general=dense)


@pytest.mark.parametrize(
    ("name", "process", "scales"),
    [
        ("masses", GaussianDiffusion(RectifiedSchedule()), SCHEDULES["rectified"][1]),
        ("hollow", VP, SCHEDULES["vp"][1]),
        ("chain", BrownianDiffusion(1.7), (lambda t: 1.0, lambda t: math.sqrt(1.7 * t))),
    ],
)
def test_laws_on_other_processes(name, process, scales):
    process, dense = structured(name, process, *scales)
    point = points_of(process.noise)(torch.float32)
    for check in (testing.check_two_times, testing.check_density, testing.check_times):
        check(process, point, four_sums, (0.33, 0.71))
    testing.check_general(process, point, four_sums, (0.33, 0.71), general=dense)


@BY_NAME
@pytest.mark.parametrize(("s", "t"), [(0.05, 0.6), (0.5, 0.51), (0.3, 2.5)])
def test_bridge_by_dense_conditioning(name, s, t):
    process, dense = structured(name)
    x_0, x_t = (range_state(process.noise, seed=seed) for seed in (1, 2))
    to_0, to_t, covariance = (torch.from_numpy(m) for m in dense.conditioned(s, t))
    k = len(covariance)
    basis = torch.eye(k, dtype=DOUBLE).reshape(k, *process.noise.point_shape)
    zeros = torch.zeros_like(x_t)
    mean = process.sample_bridge(x_0, x_t, s, t, generator=GivenDraws(normals=[zeros]))
    exact = x_0.flatten(1) @ to_0 + x_t.flatten(1) @ to_t
    torch.testing.assert_close(mean.flatten(1), exact, rtol=1e-7, atol=1e-10)
    rest = torch.zeros_like(basis)
    spread = process.sample_bridge(rest, rest, s, t, generator=GivenDraws(normals=[basis]))
    found = spread.flatten(1).T @ spread.flatten(1)
    torch.testing.assert_close(found, covariance, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
def test_every_eta_keeps_the_covariance(eta):
    process, dense = structured("masses and padding")
    noise, s, t = process.noise, 0.2, 0.7
    basis = torch.eye(8, dtype=DOUBLE).reshape(8, 4, 2)
    zeros = torch.zeros_like(basis)
    x_t = dense.sigma(t) * noise(basis)
    draws = [GivenDraws(normals=[z] if eta else []) for z in (zeros, basis)]
    moved = process.sample_bridge(zeros, x_t, s, t, eta=eta, generator=draws[0]).flatten(1)
    drawn = process.sample_bridge(zeros, zeros, s, t, eta=eta, generator=draws[1]).flatten(1)
    exact = torch.from_numpy(dense.sigma(s) ** 2 * dense.covariance)
    torch.testing.assert_close(moved.T @ moved + drawn.T @ drawn, exact, rtol=1e-9, atol=1e-12)


def test_what_solvers_combine_has_the_noise_of_the_process():
    """A step of a solver is α x_t + Σ c x + σ A ε, with factors over the batch."""
    process = StructuredDiffusion(OU, MOLECULES)
    x, y = (range_state(MOLECULES, (2, 5), seed) for seed in (1, 2))
    z = torch.randn(2, 5, 4, 3, dtype=DOUBLE, generator=rng(3))
    factor = torch.tensor([[0.3], [0.7]], dtype=DOUBLE)
    draws = GivenDraws(normals=[z])
    found = process._combine(x, 0.5, ((factor, y),), 2 * factor, draws)
    factor = factor[..., None, None]
    exact = 0.5 * x + factor * y + 2 * factor * MOLECULES(z)
    torch.testing.assert_close(found, exact)


class PlainBridge(StructuredDiffusion):
    """A bridge with noise that was not passed through A."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        s, t = self._over(s), self._over(t)
        return self.process._between(x_0, x_t, s, t, eta, draws)


class Twice(StructuredDiffusion):
    """Noise that passes through A twice: right for equal masses only."""

    def _draws(self, draws):
        return StructuredDraws(StructuredDraws(draws, self.noise), self.noise)


@pytest.mark.parametrize(("twin", "name"), [(PlainBridge, "chain"), (Twice, "chain")])
def test_broken_noise_is_refused(twin, name):
    noise, dense = NOISES[name][0], structured(name)[1]
    point = points_of(noise)(torch.float32)
    with pytest.raises(AssertionError):
        testing.check_general(twin(OU, noise), point, four_sums, general=dense)
    with pytest.raises(AssertionError):
        testing.check_density(twin(OU, noise), point, four_sums)


def test_a_bridge_that_leaves_the_range_is_refused():
    process = PlainBridge(OU, NOISES["equal atoms"][0])
    point = points_of(process.noise, 20)(torch.float32)
    with pytest.raises(AssertionError, match="bridge draw to have its centre of mass at 0"):
        testing.check_space(process, point, four_sums)


# ------------------------------------------------------------------ densities


def scipy_log_prob(dense, x_t, x_0, s, t):
    a, covariance = dense.transition(s, t)
    law = stats.multivariate_normal(cov=covariance, allow_singular=True)
    return torch.from_numpy(np.atleast_1d(law.logpdf((x_t - a * x_0).flatten(-2).numpy())))


def check_density_by_scipy(process, dense):
    x_0, x_t = (range_state(process.noise, seed=seed) for seed in (3, 4))
    for s, t in ((0.0, 0.3), (0.2, 1.4)):
        found = process.log_prob(x_t, x_0, t, start=s)
        torch.testing.assert_close(found, scipy_log_prob(dense, x_t, x_0, s, t))


@BY_NAME
def test_log_prob_against_scipy(name):
    check_density_by_scipy(*structured(name))


def test_log_prob_of_a_batch_with_masks_and_times():
    process = StructuredDiffusion(OU, MOLECULES)
    t = torch.tensor([0.3, 1.1], dtype=DOUBLE)
    x_0, x_t = (range_state(MOLECULES, (2, 5), seed) for seed in (3, 4))
    found = process.log_prob(x_t, x_0, t)
    assert found.shape == (2, 5)
    for i, mask in enumerate(BATCH_MASK):
        alone = StructuredDiffusion(OU, ZeroCentreOfMass(4, 3, mask, MASS))
        exact = alone.log_prob(x_t[i], x_0[i], t[i])
        torch.testing.assert_close(found[i], exact)


class EveryNumber(StructuredDiffusion):
    """A density that counts all numbers of a point as free."""

    def _log_normal(self, y, v):
        short = math.prod(self.noise.point_shape) - self.noise.rank(y.device)
        return super()._log_normal(y, v) - 0.5 * short * torch.log(2 * math.pi * v)


@pytest.mark.parametrize("name", ["equal atoms", "masses", "hollow"])
def test_a_density_over_too_many_numbers_is_refused(name):
    process, dense = structured(name)
    with pytest.raises(AssertionError):
        check_density_by_scipy(EveryNumber(OU, process.noise), dense)


@BY_NAME
def test_the_score_is_the_gradient_along_the_range(name):
    process, _ = structured(name)
    noise = process.noise
    x_0, x_t = (range_state(noise, seed=seed) for seed in (3, 4))
    along = range_state(noise, seed=5)
    h = 1e-5
    ahead, behind = (process.log_prob(x_t + step * along, x_0, 0.4) for step in (h, -h))
    score = process.score(x_t, x_0, 0.4)
    slope = (score * along).flatten(1).sum(1)
    torch.testing.assert_close(slope, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-6)
    # It has no part across the range, where A Aᵀ has its null space.
    back = noise.precision(noise.covariance(score))
    torch.testing.assert_close(back, score, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["masses and padding", "symmetric", "factor"])
def test_gradcheck_of_log_prob(name):
    process, _ = structured(name)
    noise = process.noise
    x_0, z = range_state(noise, (2,), 3), torch.randn(2, *noise.point_shape, dtype=DOUBLE)
    z.requires_grad_()
    t = torch.tensor([0.3, 0.8], dtype=DOUBLE)
    assert torch.autograd.gradcheck(lambda z: process.log_prob(noise(z), x_0, t), (z,))
    assert torch.autograd.gradcheck(lambda z: process.log_prob(x_0, noise(z), 0.4, start=t / 4), z)
