import math

import pytest
import torch
from scipy import stats

from bridges import GivenDraws, Noise, sample_backward
from bridges.denoised_sampler import DDIMSampler, DDPMSampler, SolverSampler
from bridges.gaussian import GaussianDiffusion
from bridges.multistep import AdamsBashforthSolver
from bridges.one_step import DDIMSolver
from bridges.schedule import RectifiedSchedule
from bridges.ve_schedule import VESchedule
from bridges.vp_schedule import VPSchedule
from mixture_denoiser import DOUBLE, on_a_line
from solver_cases import NoDraws, bend, rng

SCHEDULES = [RectifiedSchedule(), VPSchedule(), VESchedule(0.01, 50.0)]
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)


class Bent:
    """A denoiser that is not linear, and notes when it is asked."""

    def __init__(self, schedule):
        self.schedule, self.seen = schedule, []

    def __call__(self, x_t, t):
        self.seen.append(t)
        return bend(x_t, t)


def by_hand(denoiser, x, grid, eta, normals):
    """Run the formula of the paper with tensors of one element per time; η as azula has it."""
    scales = [
        (denoiser.schedule.alpha(t).item(), denoiser.schedule.sigma(t).item())
        for t in torch.as_tensor(grid, dtype=DOUBLE)
    ]
    for i in range(len(grid) - 1, 0, -1):
        (a_s, s_s), (a_t, s_t) = scales[i - 1], scales[i]
        if grid[i - 1] == 0:
            a_s, s_s = 1.0, 0.0
        mean = bend(x, torch.full((len(x),), grid[i], dtype=DOUBLE))
        tau = min(1.0, eta * (1 - (a_t / a_s * s_s / s_t) ** 2))
        x = a_s * mean + s_s * math.sqrt(1 - tau) * (x - a_t * mean) / s_t
        x = x + s_s * math.sqrt(tau) * normals[i]
    return x


@schedules
@pytest.mark.parametrize("eta", [0.3, 1.0, 1.6])
def test_samplers_are_their_formulas(schedule, eta):
    denoiser, grid = Bent(schedule), [0.0, 0.25, 0.5, 0.75, 1.0]
    x, normals = (torch.randn(*n, 3, 2, generator=rng(0), dtype=DOUBLE) for n in ((), (5,)))
    exact = by_hand(denoiser, x, grid, eta, normals)
    # The step to 0 draws nothing, since σ is 0 there.
    noise = GivenDraws(normals=list(normals.flip(0))[:3])
    found = DDIMSampler(denoiser, eta, steps=4)(x, generator=noise)
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)
    if eta == 1:
        noise = GivenDraws(normals=list(normals.flip(0))[:3])
        torch.testing.assert_close(DDPMSampler(denoiser, 4)(x, generator=noise), exact)


@schedules
def test_ddim_draws_nothing_at_eta_zero(schedule):
    denoiser, x = Bent(schedule), torch.randn(3, 2, generator=rng(1), dtype=DOUBLE)
    found = DDIMSampler(denoiser, steps=4)(x, generator=NoDraws())
    exact = by_hand(denoiser, x, [0.0, 0.25, 0.5, 0.75, 1.0], 0.0, torch.zeros(5))
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)


def test_the_grid_and_how_the_denoiser_is_asked():
    denoiser, x = Bent(RectifiedSchedule()), torch.zeros(3, 2)
    sampler = DDPMSampler(denoiser, 5)
    assert sampler.timesteps.tolist() == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    sampler(x)
    assert [t.shape for t in denoiser.seen] == [(3,)] * 5
    torch.testing.assert_close(
        denoiser.seen, [torch.full((3,), t) for t in (1.0, 0.8, 0.6, 0.4, 0.2)]
    )
    own = DDIMSampler(Bent(RectifiedSchedule()), steps=2, timesteps=[0.1, 0.5, 0.9])
    own(x)
    assert [t[0].item() for t in own.denoiser.seen] == pytest.approx([0.9, 0.5])


def test_a_step_is_one_of_the_run():
    sampler = DDPMSampler(Bent(RectifiedSchedule()), 2)
    x, draws, other = torch.randn(3, 2, generator=rng(2)), rng(3), rng(3)
    half = sampler.step(x, 1.0, 0.5, generator=draws)
    end = sampler.step(half, torch.tensor([0.5] * 3), 0.0, generator=draws)
    assert torch.equal(end, sampler(x, generator=other))
    rows = torch.tensor([0.1, 0.2, 0.3])
    assert torch.equal(sampler.step(x, rows, rows), x)


def test_the_schedule_is_looked_up_in_every_run():
    denoiser = Bent(RectifiedSchedule())
    sampler, x = DDIMSampler(denoiser, steps=4), torch.randn(3, generator=rng(4))
    first = sampler(x)
    denoiser.schedule = VPSchedule()
    assert sampler.process == GaussianDiffusion(VPSchedule())
    assert torch.equal(sampler(x), DDIMSampler(Bent(VPSchedule()), steps=4)(x))
    assert not torch.equal(sampler(x), first)


def test_a_sampler_of_ones_own_names_a_solver():
    class Bashforth(SolverSampler):
        @property
        def solver(self):
            return AdamsBashforthSolver(3)

    denoiser, x = Bent(RectifiedSchedule()), torch.randn(3, 2, generator=rng(5))
    sampler = Bashforth(denoiser, 6)
    exact = sample_backward(denoiser, sampler.process, sampler.timesteps, x, solver=sampler.solver)
    assert torch.equal(sampler(x), exact)
    with pytest.raises(TypeError):
        SolverSampler(denoiser, 6)


def test_a_denoiser_may_say_noise_and_runs_without_gradients():
    class SaysNoise(Bent):
        def __call__(self, x_t, t):
            return Noise(weight * torch.tanh(x_t))

    weight = torch.tensor(1.0, requires_grad=True)
    x = torch.randn(3, 2, generator=rng(6))
    end = DDIMSampler(SaysNoise(VPSchedule()), steps=4)(x)
    assert not end.requires_grad
    assert end.isfinite().all()


@pytest.mark.parametrize("make", [DDPMSampler, lambda d, n: DDIMSampler(d, 0.5, steps=n)])
def test_samples_are_the_data(make, p_min):
    denoiser = on_a_line(GaussianDiffusion(RectifiedSchedule()))
    x = torch.randn(4_000, 1, generator=rng(7), dtype=DOUBLE)
    end = make(denoiser, 250)(x, generator=rng(8)).flatten()
    assert stats.ks_2samp(end, denoiser.sample(4_000, rng(9)).flatten()).pvalue > p_min


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda d: DDPMSampler(bend, 4),
            "denoiser to be callable and to have a schedule; got <fu",
        ),
        (lambda d: DDPMSampler(d.schedule, 4), "denoiser to be callable and to have a schedule; "),
        (lambda d: DDPMSampler(d, 0), "steps to be an integer of at least 1; got 0."),
        (lambda d: DDPMSampler(d, 4.0), "steps to be an integer of at least 1; got 4.0."),
        (lambda d: DDPMSampler(d, 2, timesteps=[0.0, 1.0]), "timesteps to hold 3 times; got a li"),
        (lambda d: DDIMSampler(d, -1, steps=4), "eta to be at least 0; got -1"),
        (
            lambda d: DDPMSampler(d, 2, timesteps=[0.0, 1.0, 0.5]),
            r"timesteps to increase within \[0, 1\]",
        ),
        (
            lambda d: DDPMSampler(d, 2, timesteps=[0.0, 1.0, 1.5]),
            r"timesteps to increase within \[0, 1\]",
        ),
        (
            lambda d: DDPMSampler(d, 2).step(torch.zeros(2), torch.ones(2), torch.zeros(1)),
            r"s to have the shape of t, \(2,\); got \(1,\).",
        ),
    ],
)
def test_bad_input(make, sentence):
    with pytest.raises((TypeError, ValueError), match=f"^Expected {sentence}"):
        make(Bent(RectifiedSchedule()))


def test_ddpm_is_ddim_at_one():
    assert DDPMSampler(Bent(VPSchedule()), 3).solver == DDIMSolver(1.0)
