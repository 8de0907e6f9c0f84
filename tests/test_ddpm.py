"""The discrete-time DDPM against its paper's formulas and the library's bridge."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from bridges import GivenDraws, Noise, sample_backward
from bridges.ddpm import DenoiseDiffusion

DOUBLE = torch.float64
T = 50
SHAPES = [(4,), (4, 3), (2, 3, 5, 6)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=DOUBLE)


def network(x_t, t):
    """Say some ε that depends on all that is given."""
    return torch.tanh(x_t) + 0.1 * t.reshape(*t.shape, *[1] * (x_t.ndim - t.ndim)).to(x_t) / T


DIFFUSION = DenoiseDiffusion(network, T)
BETA = torch.linspace(1e-4, 0.02, T, dtype=DOUBLE)


def steps(shape, seed=1):
    return torch.randint(T, shape[:1], generator=rng(seed))


def over(table, t, x):
    return table[t].reshape(*t.shape, *[1] * (x.ndim - t.ndim))


# ------------------------------------------------------------------ tables


def test_the_tables_of_the_paper():
    exact = {
        "beta": BETA,
        "alpha": 1 - BETA,
        "alpha_bar": torch.cumprod(1 - BETA, 0),
        "sigma2": BETA,
    }
    assert dict(DIFFUSION.named_buffers()).keys() == exact.keys()
    for name, table in exact.items():
        torch.testing.assert_close(getattr(DIFFUSION, name), table, rtol=1e-12, atol=1e-15)
    before = torch.cat((torch.ones(1, dtype=DOUBLE), exact["alpha_bar"][:-1]))
    tilde = BETA * (1 - before) / (1 - exact["alpha_bar"])
    torch.testing.assert_close(DIFFUSION.beta_tilde, tilde, rtol=1e-9, atol=1e-16)


def test_a_thousand_steps_end_where_the_papers_do():
    assert DenoiseDiffusion(network, 1000).alpha_bar[-1].item() == pytest.approx(
        4.0358e-5, rel=1e-4
    )


# ------------------------------------------------------------------ noising


@shapes
def test_noising_is_that_of_the_continuous_process(shape):
    x_0, eps, t = normal(*shape), normal(*shape, seed=2), steps(shape)
    mean, var = DIFFUSION.q_xt_x0(x_0, t)
    torch.testing.assert_close(mean, over(torch.cumprod(1 - BETA, 0), t, x_0).sqrt() * x_0)
    found = DIFFUSION.q_sample(x_0, t, eps)
    torch.testing.assert_close(found, mean + var.sqrt() * eps)
    time = (t.double() + 1) / T
    exact = DIFFUSION.process.sample_forward(x_0, time, generator=GivenDraws(normals=[eps]))
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-12)


@shapes
def test_the_estimate_of_x_0_is_that_of_the_process(shape):
    x_t, eps, t = normal(*shape), normal(*shape, seed=2), steps(shape)
    found = DIFFUSION.p_x0(x_t, t, eps)
    exact = DIFFUSION.process.endpoint(Noise(eps), x_t, (t.double() + 1) / T)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(DIFFUSION.q_sample(found, t, eps), x_t)
    law = DIFFUSION.denoiser(x_t, (t.double() + 1) / T)
    torch.testing.assert_close(law.mean, DIFFUSION.p_x0(x_t, t, network(x_t, t)))


# ------------------------------------------------------------------ steps


def bridged(x_t, t, noise):
    """Take the library's step from index t, with that noise."""
    time = (t.double() + 1) / T
    x_0_hat = DIFFUSION.process.endpoint(Noise(network(x_t, t)), x_t, time)
    draws = GivenDraws(normals=[noise])
    return DIFFUSION.process.sample_bridge(x_0_hat, x_t, t.double() / T, time, generator=draws)


@shapes
def test_the_mean_of_a_step_is_the_bridges(shape):
    x_t, t = normal(*shape), steps(shape)
    none = GivenDraws(normals=[torch.zeros(shape)])
    found = DIFFUSION.p_sample(x_t, t, generator=none)
    ratio = over(BETA, t, x_t) / (1 - over(torch.cumprod(1 - BETA, 0), t, x_t)).sqrt()
    paper = (x_t - ratio * network(x_t, t)) / (1 - over(BETA, t, x_t)).sqrt()
    torch.testing.assert_close(found, paper, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found, bridged(x_t, t, torch.zeros(shape)), rtol=1e-9, atol=1e-10)


@shapes
def test_with_the_posterior_variance_the_law_of_a_step_is_the_bridges(shape):
    posterior = DenoiseDiffusion(network, T)
    posterior.sigma2 = posterior.beta_tilde
    for t in (torch.zeros(shape[:1]).long(), steps(shape), torch.full(shape[:1], T - 1)):
        x_t, noise = normal(*shape), normal(*shape, seed=3)
        found = posterior.p_sample(x_t, t, generator=GivenDraws(normals=[noise]))
        torch.testing.assert_close(found, bridged(x_t, t, noise), rtol=1e-8, atol=1e-9)


def test_the_noise_of_a_step_has_variance_beta_and_none_before_the_first():
    x_t, noise = normal(T, 2), normal(T, 2, seed=3)
    t = torch.arange(T)
    zero, drawn = (
        DIFFUSION.p_sample(x_t, t, generator=GivenDraws(normals=[z])) for z in (0 * noise, noise)
    )
    exact = BETA.sqrt().unsqueeze(-1) * noise
    exact[0] = 0
    torch.testing.assert_close(drawn - zero, exact)


def test_a_number_and_a_tensor_are_the_same_index():
    x = normal(4, 3)
    for t in (0, 7, T - 1):
        both = [
            DIFFUSION.p_sample(x, index, generator=rng(4)) for index in (t, torch.full((4,), t))
        ]
        assert torch.equal(*both)
    per_residue = torch.tensor([[3, 0, 9]] * 4)
    found = DIFFUSION.p_sample(x, per_residue, generator=rng(4))
    torch.testing.assert_close(found[:, 2:], DIFFUSION.p_sample(x, 9, generator=rng(4))[:, 2:])


# ------------------------------------------------------------------ learning


@shapes
def test_the_loss(shape):
    u = torch.rand(shape[:1], generator=rng(5), dtype=DOUBLE)
    x_0, noise = normal(*shape), normal(*shape, seed=6)
    t = (u * T).long()
    exact = (network(DIFFUSION.q_sample(x_0, t, noise), t) - noise).square().mean()
    given = GivenDraws(uniforms=[u])
    torch.testing.assert_close(DIFFUSION.loss(x_0, noise, generator=given), exact)
    drawn = GivenDraws(uniforms=[u], normals=[noise])
    torch.testing.assert_close(DIFFUSION.loss(x_0, generator=drawn), exact)


def test_every_step_is_trained_on_equally(p_min):
    seen = []
    spy = DenoiseDiffusion(lambda x_t, t: seen.append(t) or x_t, T)
    spy.loss(torch.zeros(20_000), generator=rng(7))
    counts = torch.bincount(seen[0], minlength=T)
    assert stats.chisquare(counts.numpy()).pvalue > p_min


def test_the_module_holds_its_network_and_learns():
    model = DenoiseDiffusion(Linear(), 10)
    assert [name for name, _ in model.named_parameters()] == ["eps_model.scale"]
    model.loss(torch.randn(8, 2), generator=rng(8)).backward()
    assert model.eps_model.scale.grad.isfinite()


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x_t, t):
        return self.scale * x_t


# ------------------------------------------------------------------ samples


def normal_model(mean, std, n_steps):
    """Return the model of numbers from N(mean, std²), exactly."""
    model = DenoiseDiffusion(lambda x_t, t: None, n_steps)

    def exact(x_t, t):
        alpha_bar = model.alpha_bar[t].unsqueeze(-1)
        total = alpha_bar * std**2 + 1 - alpha_bar
        return ((1 - alpha_bar).sqrt() * (x_t - alpha_bar.sqrt() * mean) / total).to(x_t)

    model.eps_model = exact
    return model


def test_samples_of_an_exact_model(p_min):
    model = normal_model(0.8, 1.0, 1000)
    x = model.sample((4000, 1), generator=rng(9))
    assert x.dtype == torch.float32
    assert stats.kstest(x.flatten().numpy(), stats.norm(0.8, 1.0).cdf).pvalue > p_min


def test_the_same_model_in_continuous_time(p_min):
    model = normal_model(0.8, 0.3, 1000)
    x = torch.randn(4000, 1, generator=rng(10))
    end = sample_backward(model.denoiser, model.process, torch.linspace(0, 1, 200), x, eta=0.0)
    assert stats.kstest(end.flatten().numpy(), stats.norm(0.8, 0.3).cdf).pvalue > p_min


def test_interpolation_ends_at_either_state_when_little_noise_was_added():
    model = normal_model(0.0, 1.0, 1000)
    x_1, x_2 = torch.full((500, 1), 1.0), torch.full((500, 1), -2.0)
    for lambda_, exact in ((0.0, 1.0), (0.5, -0.5), (1.0, -2.0)):
        x = model.interpolate(x_1, x_2, lambda_, 3, generator=rng(11))
        assert x.mean().item() == pytest.approx(exact, abs=0.02)
    far = model.interpolate(x_1, x_2, 0.0, generator=rng(12))
    assert far.mean().item() == pytest.approx(0.0, abs=0.2)


def test_sampling_uses_its_generator_alone_and_no_gradient():
    before = torch.get_rng_state()
    model = DenoiseDiffusion(Linear(), 10)
    first, again = (model.sample((3, 2), generator=rng(13)) for _ in range(2))
    assert torch.equal(first, again)
    assert not first.requires_grad
    assert (torch.get_rng_state() == before).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, DOUBLE])
def test_dtypes_come_out_as_they_went_in(dtype):
    x = torch.randn(4, 3).to(dtype)
    for found in (
        *DIFFUSION.q_xt_x0(x, 3),
        DIFFUSION.q_sample(x, 3),
        DIFFUSION.p_x0(x, 3, x),
        DIFFUSION.p_sample(x, 3),
        DIFFUSION.sample((4, 3), dtype=dtype),
        DIFFUSION.interpolate(x, x, 0.3, 5),
    ):
        assert found.dtype == dtype
        assert found.isfinite().all()


def test_bad_input():
    x = torch.zeros(4, 3)
    for make, error, words in [
        (lambda: DenoiseDiffusion(3, 10), TypeError, "eps_model to be callable"),
        (lambda: DenoiseDiffusion(network, 1), ValueError, "n_steps to be an integer of at"),
        (lambda: DIFFUSION.q_sample(x, T), ValueError, r"t to lie in \[0, 50\)"),
        (lambda: DIFFUSION.q_sample(x, torch.tensor([0, 1, 2, -1])), ValueError, "t to lie in"),
        (lambda: DIFFUSION.q_sample(x, 0.5), TypeError, "t to be an integer"),
        (lambda: DIFFUSION.p_sample(x, torch.zeros(3).long()), ValueError, "leading part"),
        (lambda: DIFFUSION.p_sample(x.long(), 3), TypeError, "state to be a floating tensor"),
        (lambda: DIFFUSION.interpolate(x, x, 1.5), ValueError, "lambda_ to lie in"),
    ]:
        with pytest.raises(error, match=words):
            make()
    assert math.isclose(DIFFUSION.process.schedule.betas[0], 1e-4)
