"""A normal law of x_0 as a prediction: its density and draws, and how processes read it."""

import pytest
import torch
from scipy import stats

from bridges import (
    Joint,
    Noise,
    OrnsteinUhlenbeckDiffusion,
    PowerClock,
    RotationDiffusion,
    Score,
    Velocity,
    standardloss,
)
from bridges.prediction import Gaussian

DOUBLE = torch.float64
OU = OrnsteinUhlenbeckDiffusion(1.3, 0.7, 1.9)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=DOUBLE)


LAW = Gaussian(normal(4, 3), torch.rand(4, 1, generator=rng(1), dtype=DOUBLE) + 0.1)
X_T = normal(4, 3, seed=2)


def test_its_density_against_scipy():
    x = normal(4, 3, seed=3)
    exact = stats.norm(LAW.mean.numpy(), LAW.var.sqrt().numpy()).logpdf(x.numpy())
    torch.testing.assert_close(LAW.log_prob(x), torch.as_tensor(exact))


def test_its_draws(p_min):
    law = Gaussian(torch.full((20_000,), 1.3), torch.tensor(0.49))
    before = torch.get_rng_state()
    x = law.sample(generator=rng(4))
    assert stats.kstest(x.numpy(), stats.norm(1.3, 0.7).cdf).pvalue > p_min
    assert (torch.get_rng_state() == before).all()
    assert torch.equal(x, law.sample(generator=rng(4)))
    assert law.sample().dtype == torch.float32


@pytest.mark.parametrize("process", [OU, OU.on(PowerClock(1.7)), OU.tempered(0.8)])
def test_a_process_reads_it_as_its_mean(process):
    x_0 = normal(4, 3, seed=5)
    torch.testing.assert_close(process.endpoint(LAW, X_T, 0.5), LAW.mean)
    torch.testing.assert_close(process.error(LAW, x_0), (LAW.mean - x_0) ** 2)
    for s in (0.0, 0.2, 0.5):
        steps = [process.sample_step(p, X_T, s, 0.5, generator=rng(6)) for p in (LAW, LAW.mean)]
        torch.testing.assert_close(*steps)
    for kind in (Noise, Score, Velocity):
        found, exact = (process.convert(p, kind, X_T, 0.5).value for p in (LAW, LAW.mean))
        torch.testing.assert_close(found, exact)


def test_under_a_mask_and_in_a_joint():
    mask = torch.tensor([True, False, True, True])
    law = Gaussian(LAW.mean.clone(), LAW.var.clone())
    law.mean[1], law.var[1] = torch.nan, torch.nan
    x_s, x_0_hat = OU.where(mask).sample_step(law, X_T, 0.2, 0.5)
    assert x_s.isfinite().all()
    assert torch.equal(x_s[1], X_T[1])
    torch.testing.assert_close(x_0_hat[mask], LAW.mean[mask])
    both = Joint(OU, OU).endpoint((LAW, LAW.mean), (X_T, X_T), 0.5)
    torch.testing.assert_close(*both)
    law.mean.requires_grad_()
    loss = standardloss(OU, 0.5, law, X_T, mask=mask)
    loss.total.backward()
    assert law.mean.grad.isfinite().all()
    torch.testing.assert_close(loss.total, standardloss(OU, 0.5, LAW, X_T, mask=mask).total)


def test_curved_spaces_do_not_take_it():
    process = RotationDiffusion(1.0)
    x = process.sample_prior((4,))
    with pytest.raises(TypeError, match="Expected a prediction"):
        process.endpoint(Gaussian(x, torch.ones(())), x, 0.5)
