"""What stands beside k-diffusion's names, against its formulas in NumPy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import bridges as br
from bridges import (
    CosineSchedule,
    EDMSchedule,
    LogNormalTimes,
    NoiseDenoiser,
    NormalLogSNRTimes,
    PreconditionedDenoiser,
    RescheduledDenoiser,
    StepIndex,
    StratifiedTimes,
    TableSchedule,
    VDenoiser,
)
from published import rows

DOUBLE = torch.float64
T = 100
SCHEDULE = EDMSchedule()


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def network(x, told):
    """Say something that depends on all that is given."""
    return torch.tanh(x + 0.1) + 0.01 * told.to(x).reshape(-1, 1)


def in_numpy(x, told):
    return np.tanh(x + 0.1) + 0.01 * told[:, None]


def at(sigma):
    """As the page has it: the time at which σ_t is sigma."""
    return SCHEDULE.inverse_log_snr(-2 * sigma.log())


def close(found, exact, rtol=1e-8, atol=1e-10):
    np.testing.assert_allclose(found.detach().numpy(), exact, rtol=rtol, atol=atol)


def test_its_denoiser():
    """Told log σ here, σ there."""
    sigma, x, sigma_data = torch.tensor([0.01, 0.5, 3.0, 70.0], dtype=DOUBLE), normal(4, 2), 0.5
    denoiser = PreconditionedDenoiser(network, EDMSchedule(), var_x=sigma_data**2)
    s = sigma.numpy()[:, None]
    total = s**2 + sigma_data**2
    value = in_numpy(x.numpy() / np.sqrt(total), np.log(sigma.numpy()))
    exact = value * s * sigma_data / np.sqrt(total) + x.numpy() * sigma_data**2 / total
    close(denoiser(x, at(sigma)).mean, exact)


@pytest.mark.parametrize("kind", [NoiseDenoiser, VDenoiser])
def test_discrete_networks(kind):
    """`CompVisDenoiser` and `CompVisVDenoiser`, at the σ of a table."""
    betas = torch.linspace(1e-4, 0.02, T, dtype=DOUBLE)
    index = torch.tensor([0, 20, 60, T - 1])
    alpha_bar = np.cumprod(1 - betas.numpy())[index.numpy()]
    sigma, x = np.sqrt((1 - alpha_bar) / alpha_bar), normal(4, 2)
    denoiser = RescheduledDenoiser(
        kind(network, TableSchedule(betas), StepIndex(T)), EDMSchedule()
    )
    s = sigma[:, None]
    value = in_numpy(x.numpy() / np.sqrt(s**2 + 1), index.numpy())
    exact = x.numpy() - s * value
    if kind is VDenoiser:
        exact = x.numpy() / (s**2 + 1) - s / np.sqrt(s**2 + 1) * value
    close(denoiser(x, at(torch.from_numpy(sigma))).mean, exact, rtol=1e-7)


def test_its_v_denoiser():
    """Told the time of the circle, 2/π atan σ, in both."""
    sigma, x = torch.tensor([0.01, 0.5, 3.0, 70.0], dtype=DOUBLE), normal(4, 2)
    denoiser = RescheduledDenoiser(VDenoiser(network, CosineSchedule()), EDMSchedule())
    s = sigma.numpy()[:, None]
    value = in_numpy(x.numpy() / np.sqrt(s**2 + 1), np.arctan(sigma.numpy()) * 2 / math.pi)
    exact = x.numpy() / (s**2 + 1) - s / np.sqrt(s**2 + 1) * value
    close(denoiser(x, at(sigma)).mean, exact, rtol=1e-7)


def test_its_soft_weighting():
    """A scaler is what errors are divided by."""

    def soft(process, t):
        sigma = process.schedule.sigma(t)
        return (sigma**2 + 0.25) ** 2 / (0.5 * sigma) ** 2

    process, x_0, t = br.GaussianDiffusion(SCHEDULE), normal(4, 2), torch.rand(4, dtype=DOUBLE)
    found = br.standardloss(process, t, 0 * x_0, x_0, scaler=soft).total
    sigma = SCHEDULE.sigma(t).numpy()[:, None]
    weight = (0.5 * sigma) ** 2 / (sigma**2 + 0.25) ** 2
    close(found, np.mean(weight * x_0.numpy() ** 2), rtol=1e-6)


def test_its_draws(p_min):
    draws = torch.Generator().manual_seed(3)
    sigma = LogNormalTimes(-1.2, 1.2)(20_000, generator=draws)
    assert stats.kstest(sigma.log().numpy(), stats.norm(-1.2, 1.2).cdf).pvalue > p_min
    t = NormalLogSNRTimes(SCHEDULE, -1.2, 1.2)(20_000, generator=draws)
    log_sigma = SCHEDULE.sigma(t.double()).log().numpy()
    inside = (log_sigma > -4) & (log_sigma < 3)
    law = stats.truncnorm(-2.8 / 1.2, 4.2 / 1.2, -1.2, 1.2)
    assert stats.kstest(log_sigma[inside], law.cdf).pvalue > p_min
    u = StratifiedTimes()(1000, generator=draws)
    assert ((u.sort().values * 1000).floor() == torch.arange(1000)).all()


@pytest.mark.parametrize(
    "name",
    [
        "K.layers.Denoiser",
        "model(x, sigma)",
        "CompVisDenoiser",
        "CompVisVDenoiser",
        "VDenoiser(model)",
        "soft-min-snr",
        "rand_log_normal",
        "stratified_uniform",
    ],
)
def test_its_names_stand_on_the_page(name):
    assert any(name in row[0] for row in rows("denoisers.md", "## Coming from elsewhere"))
