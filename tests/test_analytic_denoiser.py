"""Closed-form posteriors, against sums over a grid, dense conditioning and Tweedie's formula."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import MultivariateNormal

from bridges import sample_backward
from bridges.analytic_denoiser import (
    CorrelatedNormalDenoiser,
    EmpiricalDenoiser,
    MixtureDenoiser,
    NormalDenoiser,
)
from bridges.gaussian import GaussianDiffusion
from bridges.schedule import RectifiedSchedule
from bridges.ve_schedule import VESchedule
from bridges.vp_schedule import CosineSchedule, VPSchedule

DOUBLE = torch.float64
SCHEDULES = [VPSchedule(), CosineSchedule(), RectifiedSchedule(), VESchedule(0.01, 30.0)]
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
TIMES = torch.tensor([0.05, 0.3, 0.6, 0.9], dtype=DOUBLE)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=DOUBLE)


MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE)
VAR = torch.tensor([0.3, 1.7, 0.02], dtype=DOUBLE)
ROOT = normal(3, 3, seed=1)
COV = ROOT @ ROOT.T + 0.1 * torch.eye(3, dtype=DOUBLE)
WEIGHTS = torch.tensor([0.2, 0.7, 0.1], dtype=DOUBLE)
MEANS = 2 * normal(3, 3, seed=2)
VARIANCES = normal(3, 3, seed=3).square() + 0.05
DATA = 1.5 * normal(40, 3, seed=4) + 3


def denoisers(schedule):
    return {
        "normal": NormalDenoiser(schedule, MEAN, VAR),
        "correlated": CorrelatedNormalDenoiser(schedule, MEAN, COV),
        "mixture": MixtureDenoiser(schedule, WEIGHTS, MEANS, VARIANCES),
        "one variance each": MixtureDenoiser(schedule, WEIGHTS, MEANS, VARIANCES[:, 0]),
        "data": EmpiricalDenoiser(schedule, DATA),
    }


def log_prior(name, x_t, alpha, sigma):
    """Return log p_t(x_t), from the law of the noised data, up to a constant."""
    noise = sigma**2 * torch.eye(3, dtype=DOUBLE)
    if name in ("normal", "correlated"):
        cov = torch.diag(VAR) if name == "normal" else COV
        return MultivariateNormal(alpha * MEAN, alpha**2 * cov + noise).log_prob(x_t)
    if name == "data":
        parts = [(1.0, y, torch.zeros(3, 3, dtype=DOUBLE)) for y in DATA]
    else:
        v = VARIANCES if name == "mixture" else VARIANCES[:, :1].expand(3, 3)
        parts = [(w, m, torch.diag(c)) for w, m, c in zip(WEIGHTS, MEANS, v, strict=True)]
    logs = [
        math.log(w) + MultivariateNormal(alpha * m, alpha**2 * c + noise).log_prob(x_t)
        for w, m, c in parts
    ]
    return torch.logsumexp(torch.stack(logs), 0)


NAMES = list(denoisers(VPSchedule()))
names = pytest.mark.parametrize("name", NAMES)


@names
@schedules
def test_tweedies_formula(name, schedule):
    """The mean from the slope of log p_t, and the variance from its curvature, by autograd."""
    for t in TIMES:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x_t = (alpha * 2 * normal(3, seed=5) + sigma * normal(3, seed=6)).requires_grad_()
        (slope,) = torch.autograd.grad(log_prior(name, x_t, alpha, sigma), x_t, create_graph=True)
        curvature = torch.stack(
            [torch.autograd.grad(slope[i], x_t, retain_graph=True)[0][i] for i in range(3)]
        )
        law = denoisers(schedule)[name](x_t.detach(), t)
        mean = (x_t + sigma**2 * slope) / alpha
        torch.testing.assert_close(law.mean, mean.detach(), rtol=1e-10, atol=1e-10)
        var = sigma**2 / alpha**2 * (1 + sigma**2 * curvature)
        torch.testing.assert_close(law.var.expand(3), var.detach(), rtol=1e-8, atol=1e-9)


@schedules
def test_normal_points_by_dense_conditioning(schedule):
    for t in TIMES:
        alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
        x_t, cov = normal(3, seed=7), COV.numpy()
        gain = np.linalg.solve(alpha**2 * cov + sigma**2 * np.eye(3), alpha * cov).T
        mean = MEAN.numpy() + gain @ (x_t - alpha * MEAN).numpy()
        law = denoisers(schedule)["correlated"](x_t, t)
        np.testing.assert_allclose(law.mean, mean, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(law.var, np.diag(cov - alpha * gain @ cov), rtol=1e-8)


@schedules
def test_a_mixture_of_numbers_by_integration_over_x_0(schedule):
    grid = np.linspace(-12, 12, 40_001)
    prior = sum(
        w * stats.norm(m, math.sqrt(v)).pdf(grid)
        for w, m, v in torch.stack((WEIGHTS, MEANS[:, 0], VARIANCES[:, 0]), -1).tolist()
    )
    denoiser = MixtureDenoiser(schedule, WEIGHTS, MEANS[:, :1], VARIANCES[:, :1])
    for t in TIMES:
        alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
        weight = prior * stats.norm(alpha * grid, sigma).pdf(0.4)
        mean = (weight * grid).sum() / weight.sum()
        var = (weight * (grid - mean) ** 2).sum() / weight.sum()
        law = denoiser(torch.tensor([0.4], dtype=DOUBLE), t)
        assert law.mean.item() == pytest.approx(mean, rel=1e-8)
        assert law.var.item() == pytest.approx(var, rel=1e-8)


@schedules
def test_a_set_of_data_by_hand(schedule):
    x_t = normal(2, 5, 3, seed=8)
    for t in TIMES:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        square = (x_t.unsqueeze(-2) - alpha * DATA).square().sum(-1)
        shares = torch.softmax(-square / (2 * sigma**2), -1).unsqueeze(-1)
        mean = (shares * DATA).sum(-2)
        var = (shares * (DATA - mean.unsqueeze(-2)) ** 2).sum(-2)
        law = denoisers(schedule)["data"](x_t, t)
        torch.testing.assert_close(law.mean, mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(law.var, var, rtol=1e-7, atol=1e-9)


# ------------------------------------------------------------------ ends, shapes, dtypes


@names
def test_both_ends(name):
    law = denoisers(RectifiedSchedule())[name](DATA[:5], 0.0)
    torch.testing.assert_close(law.mean, DATA[:5], rtol=1e-12, atol=1e-12)
    assert law.var.abs().max() < 1e-12
    law = denoisers(RectifiedSchedule())[name](normal(5, 3), 1.0)
    exact = {"data": DATA.mean(0), "normal": MEAN, "correlated": MEAN}
    mean = exact.get(name, WEIGHTS @ MEANS)
    torch.testing.assert_close(law.mean, mean.expand(5, 3), rtol=1e-10, atol=1e-10)


def test_without_noise_a_set_of_data_answers_its_nearest_point():
    found = denoisers(RectifiedSchedule())["data"](DATA[:5] + 0.01, 0.0).mean
    torch.testing.assert_close(found, DATA[:5], rtol=1e-12, atol=1e-12)


@names
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE, torch.bfloat16])
def test_batches_times_and_dtypes(name, dtype):
    denoiser, x_t = denoisers(VPSchedule())[name], normal(2, 4, 3).to(dtype).requires_grad_()
    times = torch.tensor([[0.1, 0.3, 0.5, 0.9], [0.0, 1e-12, 0.2, 1.0]])
    law = denoiser(x_t, times)
    assert law.mean.dtype == law.var.dtype == dtype
    assert law.mean.shape == law.var.expand_as(x_t).shape == (2, 4, 3)
    one = denoiser(x_t[0, 2], times[0, 2].double()).mean
    torch.testing.assert_close(law.mean[0, 2], one)
    (slope,) = torch.autograd.grad(law.mean.sum(), x_t)
    assert slope.isfinite().all()
    assert denoiser(x_t, times[:, 0]).mean.shape == denoiser(x_t, 0.3).mean.shape == (2, 4, 3)


def test_points_of_two_dimensions():
    flat, schedule = denoisers(VPSchedule()), VPSchedule()
    x_t = normal(5, 3, 1, seed=9)
    square = {
        "correlated": CorrelatedNormalDenoiser(
            schedule, MEAN.reshape(3, 1), COV.reshape(3, 1, 3, 1)
        ),
        "mixture": MixtureDenoiser(
            schedule, WEIGHTS, MEANS.reshape(3, 3, 1), VARIANCES.unsqueeze(-1)
        ),
        "data": EmpiricalDenoiser(schedule, DATA.unsqueeze(-1)),
    }
    for name, denoiser in square.items():
        exact = flat[name](x_t.squeeze(-1), torch.full((5,), 0.4))
        found = denoiser(x_t, torch.full((5,), 0.4))
        torch.testing.assert_close(found.mean.squeeze(-1), exact.mean)
        torch.testing.assert_close(found.var.squeeze(-1), exact.var)


def test_data_move_with_the_module():
    denoiser = denoisers(VPSchedule())["mixture"].to("meta")
    assert denoiser(torch.empty(4, 3, device="meta"), 0.5).mean.device.type == "meta"


def test_an_exact_denoiser_samples_its_data(p_min):
    schedule = CosineSchedule()
    denoiser = MixtureDenoiser(schedule, WEIGHTS, MEANS[:, :1], VARIANCES[:, :1])
    x = torch.randn(4000, 1, generator=rng(10))
    grid = torch.linspace(0, 1, 150)
    end = sample_backward(denoiser, GaussianDiffusion(schedule), grid, x, generator=rng(11))

    def cdf(x):
        each = stats.norm(MEANS[:, 0].numpy(), VARIANCES[:, 0].sqrt().numpy())
        return (WEIGHTS.numpy() * each.cdf(x[..., None])).sum(-1)

    assert stats.kstest(end.flatten().numpy(), cdf).pvalue > p_min


def test_bad_input():
    schedule = VPSchedule()
    for make, error, words in [
        (lambda: NormalDenoiser(schedule, MEAN, -VAR), ValueError, "var to be positive"),
        (lambda: CorrelatedNormalDenoiser(schedule, MEAN, VAR), ValueError, "at least 2 dim"),
        (lambda: CorrelatedNormalDenoiser(schedule, MEAN, COV[:2]), ValueError, "cov to have sh"),
        (lambda: CorrelatedNormalDenoiser(schedule, MEAN, -COV), ValueError, "no negative eig"),
        (
            lambda: CorrelatedNormalDenoiser(schedule, MEAN, ROOT),
            ValueError,
            "cov to be symmetric",
        ),
        (lambda: MixtureDenoiser(schedule, WEIGHTS[:2], MEANS, VARIANCES), ValueError, "weights"),
        (lambda: MixtureDenoiser(schedule, WEIGHTS, MEANS, VARIANCES[:2]), ValueError, "varianc"),
        (lambda: EmpiricalDenoiser(schedule, DATA[:0]), ValueError, "not to be empty"),
        (lambda: EmpiricalDenoiser(schedule, [1.0]), TypeError, "data to be a floating tensor"),
        (lambda: EmpiricalDenoiser(0.1, DATA), TypeError, "schedule to be a Schedule"),
        (lambda: EmpiricalDenoiser(schedule, DATA)(normal(4, 2), 0.1), ValueError, "points of"),
    ]:
        with pytest.raises(error, match=words):
            make()
