"""The calls of the annotated DDPM, as printed there, against NumPy."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import bridges as br
from bridges import DenoiseDiffusion, GivenDraws
from published import rows, ways

DOUBLE = torch.float64
B, D, T = 6, 3, 8
TABLE = [0.02, 0.3, 0.1, 0.05, 0.4, 0.25, 0.6, 0.5]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=rng(seed), dtype=DOUBLE)


def close(found, exact, rtol=1e-10, atol=1e-12):
    np.testing.assert_allclose(found.detach().numpy(), exact, rtol=rtol, atol=atol)


class EpsModel(nn.Module):
    """A network that says some ε, and notes the indices it is told."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=DOUBLE))
        self.told = []

    def forward(self, x_t, t):
        self.told.append(t)
        t = t.to(x_t).reshape(*t.shape, *[1] * (x_t.ndim - t.ndim))
        return torch.tanh(self.scale * x_t) + 0.1 * t


def eps_in_numpy(x_t, t):
    return np.tanh(0.7 * x_t) + 0.1 * t


def tables(beta=None):
    """β, α, ᾱ as the page has them."""
    beta = np.linspace(0.0001, 0.02, T) if beta is None else np.asarray(beta)
    return beta, 1 - beta, np.cumprod(1 - beta)


made = pytest.mark.parametrize(
    ("diffusion", "beta"),
    [
        (DenoiseDiffusion(EpsModel(), T), None),
        (DenoiseDiffusion(eps_model=EpsModel(), n_steps=T, beta=None), None),
        (DenoiseDiffusion(EpsModel(), T, beta=TABLE), TABLE),
        (DenoiseDiffusion(EpsModel(), T, beta=torch.tensor(TABLE, dtype=DOUBLE)), TABLE),
        (DenoiseDiffusion(EpsModel(), T, beta=np.array(TABLE)), TABLE),
    ],
    ids=["paper", "paper by name", "list", "tensor", "array"],
)


@made
def test_its_variables(diffusion, beta):
    exact, alpha, alpha_bar = tables(beta)
    assert isinstance(diffusion.eps_model, EpsModel)
    assert diffusion.n_steps == T
    for found, right in [
        (diffusion.beta, exact),
        (diffusion.alpha, alpha),
        (diffusion.alpha_bar, alpha_bar),
        (diffusion.sigma2, exact),
    ]:
        close(found, right)
    close(diffusion.process.schedule.alpha(torch.arange(1, T + 1) / T) ** 2, alpha_bar, 1e-6)
    assert diffusion.schedule == diffusion.process.schedule == diffusion.denoiser.schedule


@made
def test_q_sample(diffusion, beta):
    _, _, alpha_bar = tables(beta)
    x_0, noise, t = normal(B, D), normal(B, D, seed=2), torch.tensor([0, 1, 3, 5, 6, 7])
    of_t = alpha_bar[t.numpy()][:, None]
    exact = np.sqrt(of_t) * x_0.numpy() + np.sqrt(1 - of_t) * noise.numpy()
    for found in (
        diffusion.q_sample(x_0, t, noise),
        diffusion.q_sample(x_0, t, noise=noise),
        diffusion.q_sample(x_0, t, eps=noise),
        diffusion.q_sample(x_0=x_0, t=t, noise=noise),
        diffusion.q_sample(x_0, t, generator=GivenDraws(normals=[noise])),
    ):
        close(found, exact)
    mean, var = diffusion.q_xt_x0(x_0, t)
    close(mean, np.sqrt(of_t) * x_0.numpy())
    close(var, 1 - of_t)
    assert diffusion.q_sample(x_0, t).shape == (B, D)
    one = diffusion.q_sample(x_0, 3, noise)
    close(one[2], exact[2])


@made
def test_p_sample(diffusion, beta):
    beta, alpha, alpha_bar = tables(beta)
    x_t, noise, t = normal(B, D), normal(B, D, seed=2), torch.tensor([7, 1, 3, 5, 6, 0])
    b, a, a_bar = (table[t.numpy()][:, None] for table in (beta, alpha, alpha_bar))
    eps = eps_in_numpy(x_t.numpy(), t.numpy()[:, None])
    mean = (x_t.numpy() - b / np.sqrt(1 - a_bar) * eps) / np.sqrt(a)
    exact = mean + np.where(t.numpy()[:, None] > 0, np.sqrt(b), 0) * noise.numpy()
    for found in (
        diffusion.p_sample(x_t, t, generator=GivenDraws(normals=[noise])),
        diffusion.p_sample(x_t=x_t, t=t, generator=GivenDraws(normals=[noise])),
    ):
        close(found, exact)
    assert diffusion.p_sample(x_t, t).requires_grad


@made
def test_loss(diffusion, beta):
    _, _, alpha_bar = tables(beta)
    x_0, noise = normal(B, D), normal(B, D, seed=2)
    u = torch.tensor([0.0, 0.2, 0.49, 0.6, 0.9, 0.999], dtype=DOUBLE)
    t = np.floor(u.numpy() * T).astype(int)
    of_t = alpha_bar[t][:, None]
    x_t = np.sqrt(of_t) * x_0.numpy() + np.sqrt(1 - of_t) * noise.numpy()
    exact = np.mean((noise.numpy() - eps_in_numpy(x_t, t[:, None])) ** 2)
    for found in (
        diffusion.loss(x_0, noise, generator=GivenDraws(uniforms=[u])),
        diffusion.loss(x_0, noise=noise, generator=GivenDraws(uniforms=[u])),
        diffusion.loss(x_0=x_0, generator=GivenDraws(uniforms=[u], normals=[noise])),
    ):
        close(found, exact)
    diffusion.loss(x_0).backward()
    assert diffusion.eps_model.scale.grad.isfinite()


@made
def test_a_run_as_its_experiment_writes_it(diffusion, beta):
    """From t = T − 1 down, with tensors of indices."""
    x = normal(B, D)
    with torch.no_grad():
        for t_ in range(T):
            t = T - t_ - 1
            x = diffusion.p_sample(x, x.new_full((B,), t, dtype=torch.long))
    assert x.isfinite().all()
    assert diffusion.sample((B, D)).shape == (B, D)


# ------------------------------------------------------------------ tables of one's own


def test_the_same_model_on_a_table_of_ones_own():
    """One ancestral step of its denoiser has the mean of p, and the bridge's variance."""
    diffusion = DenoiseDiffusion(EpsModel(), T, beta=TABLE)
    diffusion.sigma2 = diffusion.beta_tilde
    x_t, noise = normal(B, D), normal(B, D, seed=2)
    for t in (1, 4, T - 1):
        draws = GivenDraws(normals=[noise, noise])
        sampler = br.DDPMSampler(diffusion.denoiser, steps=1)
        found = sampler.step(x_t, (t + 1) / T, t / T, generator=draws)
        torch.testing.assert_close(found, diffusion.p_sample(x_t, t, generator=draws).detach())


def test_a_table_that_ends_with_1():
    table = [*TABLE[:-1], 1]
    diffusion = DenoiseDiffusion(EpsModel(), T, beta=table)
    assert diffusion.alpha_bar[-1] == diffusion.alpha[-1] == 0
    x, noise = normal(B, D), normal(B, D, seed=2)
    torch.testing.assert_close(diffusion.q_sample(x, T - 1, noise), noise)
    torch.testing.assert_close(
        diffusion.beta_tilde[-1].item(), 1 - np.prod(1 - np.array(TABLE[:-1]))
    )
    assert diffusion.loss(x).isfinite()
    assert diffusion.p_sample(x, T - 2).isfinite().all()
    for call in (lambda: diffusion.p_sample(x, T - 1), lambda: diffusion.sample((B, D))):
        with pytest.raises(ValueError, match=f"^Expected t to be below {T - 1}, where β is 1"):
            call()


def test_what_it_refuses():
    diffusion, x = DenoiseDiffusion(EpsModel(), T), normal(B, D)
    for call, error, words in [
        (lambda: diffusion.q_sample(x, 3, x, eps=x), ValueError, "noise or eps, two names of one"),
        (lambda: diffusion.q_sample(x, 3, x[:2]), ValueError, "noise to have the shape of the"),
        (lambda: diffusion.q_sample(x, 3, eps=x[:2]), ValueError, "eps to have the shape of the"),
        (lambda: DenoiseDiffusion(EpsModel(), 3, beta=TABLE), ValueError, "beta to hold n_steps "),
        (lambda: DenoiseDiffusion(EpsModel(), 1, beta=[1.0]), ValueError, "n_steps to be an int"),
        (lambda: DenoiseDiffusion(EpsModel(), 2, beta=[0.0, 0.1]), ValueError, "beta to lie betw"),
        (lambda: DenoiseDiffusion(EpsModel(), 2, beta=[1.0, 0.1]), ValueError, "beta to lie betw"),
        (
            lambda: DenoiseDiffusion(EpsModel(), 2, beta=[0.1, "a"]),
            TypeError,
            r"beta\[1\] to be a",
        ),
        (lambda: DenoiseDiffusion(EpsModel(), 2, beta=0.1), ValueError, "beta to hold at least 2"),
    ]:
        with pytest.raises(error, match=f"^Expected {words}"):
            call()


def test_copies_are_the_same_model():
    diffusion, x = DenoiseDiffusion(EpsModel(), T, beta=TABLE), normal(B, D)
    for other in (copy.deepcopy(diffusion), pickle.loads(pickle.dumps(diffusion))):
        assert torch.equal(
            other.sample((B, D), generator=rng()), diffusion.sample((B, D), generator=rng())
        )
        assert torch.equal(other.denoiser(x, 0.5).mean, diffusion.denoiser(x, 0.5).mean)
    again = DenoiseDiffusion(EpsModel(), T, beta=TABLE)
    again.load_state_dict(diffusion.state_dict())


# ------------------------------------------------------------------ a state of one dimension


def test_a_state_of_one_dimension_is_one_example():
    network = EpsModel()
    diffusion = DenoiseDiffusion(network, T)
    x = normal(D)
    for t in (3, torch.tensor(3)):
        found = diffusion.p_sample(x, t, generator=GivenDraws(normals=[x]))
        batch = diffusion.p_sample(x[None], t, generator=GivenDraws(normals=[x[None]]))
        torch.testing.assert_close(found, batch[0])
        assert [told.shape for told in network.told[-2:]] == [(), (1,)]
        assert diffusion.q_sample(x, t).shape == (D,)
        torch.testing.assert_close(diffusion.p_x0(x, t, x), diffusion.p_x0(x[None], t, x[None])[0])
    network.told.clear()
    diffusion.sample((D,), generator=rng())
    diffusion.interpolate(x, x, 0.5)
    assert {(told.shape, told.dtype) for told in network.told} == {((), torch.int64)}
    network.told.clear()
    diffusion.loss(x)  # batch first: D examples of one number
    diffusion.p_sample(x, torch.tensor([0, 1, 2]))
    assert [told.shape for told in network.told] == [(D,)] * 2


# ------------------------------------------------------------------ what the page says


def theirs(what, **names):
    (code,) = [text for row, text in ways("denoisers.md").items() if what in row]
    return eval(code, {"torch": torch, **names})


def test_their_noise_in_the_last_step():
    diffusion, x_t = DenoiseDiffusion(EpsModel(), T, beta=TABLE), torch.ones(20_000, 1)
    found = theirs("last step", diffusion=diffusion, x_t=x_t)
    assert found.dtype == torch.float32
    assert found.var().item() == pytest.approx(TABLE[0], rel=0.05)
    assert diffusion.p_sample(x_t, 0).var() < 1e-12


def test_their_tables_and_their_steps():
    diffusion = DenoiseDiffusion(EpsModel(), T)
    exact = torch.cumprod(1.0 - torch.linspace(0.0001, 0.02, T), dim=0)
    found = theirs("float32", diffusion=diffusion)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=0)
    x, noise, t = normal(B, D), normal(B, D, seed=2), torch.randint(0, T, (B,), generator=rng())
    given = GivenDraws(uniforms=[(t.double() + 0.5) / T])
    found = theirs(
        "randint", diffusion=diffusion, eps_model=diffusion.eps_model, x=x, noise=noise, t=t
    )
    torch.testing.assert_close(found, diffusion.loss(x, noise, generator=given))


@pytest.mark.parametrize("name", ["eps_model", "n_steps", "beta", "alpha", "alpha_bar", "sigma2"])
def test_its_variables_stand_on_the_page(name):
    page = rows("denoisers.md", "## Coming from elsewhere")
    assert any(f"`{name}`" in row[0] for row in page)
    assert hasattr(DenoiseDiffusion(EpsModel(), T), name)
