"""D3PM: its constructions and formulas, from the paper and its code, against ours, in NumPy.

There t runs from 0 to T − 1 and `q_mats[t]` is a product of t + 1 matrices; here data are at 0.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bridges import DiscreteTimeDiffusion, GivenDraws, PlugIn, sample_backward
from published import rows

DOUBLE = torch.float64
K, T, B = 5, 6, 4
BETAS = np.array([0.05, 0.3, 0.1, 0.2, 0.6, 0.4])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def close(found, exact, rtol=1e-10, atol=1e-13):
    np.testing.assert_allclose(found.detach().numpy(), exact, rtol=rtol, atol=atol)


# ------------------------------------------------------------------ matrices, as its code has them


def uniform(beta, k):
    matrix = np.full((k, k), beta / k)
    np.fill_diagonal(matrix, 1 - beta * (k - 1) / k)
    return matrix


def gaussian(beta, k):
    """With levels from 0 to 255, whatever their number is."""
    values = np.linspace(0.0, 255.0, k) * 2 / (k - 1)
    weights = np.exp(-values * values / beta)
    shifts = weights / (2 * weights.sum() - 1)
    apart = np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
    matrix = np.where(apart > 0, shifts[apart], 0)
    return matrix + np.diag(1 - matrix.sum(1))


def absorbing(beta, k):
    """With one state more, the paper's [MASK]."""
    matrix = np.diag(np.full(k + 1, 1 - beta))
    matrix[:, k] += beta
    return matrix


def middle(beta, k):
    """With the middle level as the mask, as for images."""
    matrix = np.diag(np.full(k, 1 - beta))
    matrix[:, k // 2] += beta
    return matrix


def banded(beta, k, bands=1):
    apart = np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
    matrix = np.where((apart > 0) & (apart <= bands), beta / k, 0.0)
    return matrix + np.diag(1 - matrix.sum(1))


LEVELS = 255 / (K - 1)  # its code counts them in this unit
CASES = {
    "uniform": (uniform, lambda: DiscreteTimeDiffusion.uniform(BETAS, K)),
    "gaussian": (
        lambda beta, k: gaussian(beta * LEVELS**2, k),
        lambda: DiscreteTimeDiffusion.gaussian(BETAS, K),
    ),
    "absorbing": (absorbing, lambda: DiscreteTimeDiffusion.absorbing(BETAS, K)),
    "middle": (
        middle,
        lambda: DiscreteTimeDiffusion(np.stack([middle(beta, K) for beta in BETAS])),
    ),
    "banded": (
        banded,
        lambda: DiscreteTimeDiffusion(np.stack([banded(beta, K) for beta in BETAS])),
    ),
}
cases = pytest.mark.parametrize("name", CASES)


def both(name):
    """Return Q_1, …, Q_T, the products Q̄_0, …, Q̄_T, and our process."""
    matrix, make = CASES[name]
    steps = np.stack([matrix(beta, K) for beta in BETAS])
    products = [np.eye(steps.shape[-1])]
    for step in steps:
        products.append(products[-1] @ step)
    return steps, np.stack(products), make()


@cases
def test_the_matrices(name):
    steps, products, process = both(name)
    close(process.matrices, steps)
    x_0, x_t = torch.arange(K), torch.arange(process.states)
    pairs = x_0.repeat_interleave(process.states), x_t.repeat(K)
    for t in range(T):
        found = process.log_prob(pairs[1], pairs[0], t + 1).exp().reshape(K, -1)
        close(found, products[t + 1][:K], rtol=1e-5, atol=1e-7)


def test_the_gaussian_matrices_of_its_code():
    """Equation (8) for 256 levels; of other numbers in its own unit."""
    close(DiscreteTimeDiffusion.gaussian([0.02], 256).matrices[0], gaussian(0.02, 256), atol=1e-12)
    k, betas = 64, torch.linspace(0.05, 0.9, 3, dtype=DOUBLE)
    close(
        DiscreteTimeDiffusion.gaussian(betas * ((k - 1) / 255) ** 2, k).matrices,
        np.stack([gaussian(beta, k) for beta in betas.numpy()]),
        atol=1e-12,
    )


@pytest.mark.parametrize("steps", [10, 1000])
def test_its_tables_of_beta(steps):
    code = {row[0]: row[1] for row in rows("denoisers.md", "### D3PM")}
    table = "`get_diffusion_betas`: linear"
    names = {"math": math, "torch": torch, "T": steps, "start": 1e-3, "stop": 0.2}
    found = eval(code[table].strip("`"), names)
    close(found, np.linspace(1e-3, 0.2, steps), rtol=1e-5)

    betas, alpha_bar = re_code(code["cosine"])
    names["a"] = eval(alpha_bar, names)
    grid = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2)
    exact = np.minimum(1 - grid[1:] / grid[:-1], 0.999)
    close(eval(betas, names), exact, rtol=2e-2, atol=1e-6)

    close(eval(code["jsd"].strip("`"), names), 1 / np.linspace(steps, 1.0, steps), rtol=1e-6)
    for table in (found, eval(betas, names), eval(code["jsd"].strip("`"), names)):
        assert len(DiscreteTimeDiffusion.absorbing(table, 3).matrices) == steps


def re_code(cell):
    """Return the two codes of a cell: a table, and what it is made with."""
    first, _, second = cell.strip("`").split("`")
    return first, second.removeprefix("a = ")


# ------------------------------------------------------------------ laws


def tokens(process, seed=1):
    """Draw every pair of a clean and of a noised token with a time from 1 to T."""
    x_0 = torch.arange(K).repeat_interleave(B * T)
    t = torch.arange(1, T + 1).repeat(K * B)
    return x_0, process.sample_forward(x_0, t, generator=rng(seed)), t


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def normalised(weights):
    return weights / weights.sum(-1, keepdims=True)


@cases
def test_q_sample(name):
    _, products, process = both(name)
    x_0, t = torch.arange(K).repeat(T), torch.arange(T).repeat_interleave(K)
    u = torch.rand(len(t), 1, generator=rng(2), dtype=DOUBLE)
    x_t = process.sample_forward(x_0, t + 1, generator=GivenDraws(uniforms=[u]))
    cdf = products[t.numpy() + 1, x_0.numpy()].cumsum(-1)
    exact = (u.numpy() >= cdf / cdf[:, -1:]).sum(-1)
    np.testing.assert_array_equal(x_t.numpy(), exact)


@cases
def test_q_posterior_logits_of_tokens(name):
    """q(x_{t−1} | x_t, x_0) ∝ Q_t[·, x_t] Q̄_{t−1}[x_0, ·]."""
    steps, products, process = both(name)
    x_0, x_t, t = tokens(process)
    found = process.bridge_probs(x_0, x_t, t - 1, t)
    i = t.numpy()
    fact1 = steps.transpose(0, 2, 1)[i - 1, x_t.numpy()]
    fact2 = products[i - 1, x_0.numpy()]
    close(found, normalised(fact1 * fact2))


@cases
def test_q_posterior_logits_of_a_network(name):
    """p(x_{t−1} | x_t) ∝ Q_t[·, x_t] (softmax(logits) Q̄_{t−1}), which is the plug-in reading."""
    steps, products, process = both(name)
    _, x_t, t = tokens(process)
    logits = torch.randn(len(t), K, generator=rng(3), dtype=DOUBLE)
    found = process.reverse_probs(PlugIn(logits), x_t, t - 1, t)
    i, probs = t.numpy(), np.exp(log_softmax(logits.numpy()))
    fact1 = steps.transpose(0, 2, 1)[i - 1, x_t.numpy()]
    fact2 = np.einsum("bk,bks->bs", probs, products[i - 1, :K])
    close(found, normalised(fact1 * fact2), rtol=1e-9)


@cases
def test_p_logits_at_its_first_time(name):
    """There, at t = 0, the logits are those of x_0 as they are; here less what x_t rules out."""
    steps, _, process = both(name)
    x_t = process.sample_forward(torch.arange(K), 1, generator=rng(4))
    logits = torch.randn(K, K, generator=rng(5), dtype=DOUBLE)
    found = process.reverse_probs(logits, x_t, 0, 1)
    possible = steps[0].T[x_t.numpy(), :K] > 0
    close(found[:, :K], normalised(np.exp(log_softmax(logits.numpy())) * possible), rtol=1e-9)
    close(found[:, K:], 0 * found[:, K:].numpy())


@cases
def test_p_sample_draws_from_p_logits(name, p_min):
    _, _, process = both(name)
    logits = torch.randn(K, generator=rng(6), dtype=DOUBLE)
    x_t = torch.full((20_000,), K // 2 if name == "middle" else process.states - 1)
    many = PlugIn(logits.expand(len(x_t), K))
    x_s, _ = process.sample_step(many, x_t, 2, 3, generator=rng(7))
    exact = process.reverse_probs(PlugIn(logits), x_t[0], 2, 3).numpy()
    counts = np.bincount(x_s.numpy(), minlength=process.states)
    kept = exact > 1e-12
    assert counts[~kept].sum() == 0
    assert stats.chisquare(counts[kept], len(x_t) * exact[kept]).pvalue > p_min


# ------------------------------------------------------------------ the bound


def bound_term(process, logits, x_0, x_t, t):
    """As the page has it."""
    q = process.bridge_probs(x_0, x_t, t - 1, t)
    p = process.reverse_probs(PlugIn(logits), x_t, t - 1, t)
    return (torch.xlogy(q, q) - torch.xlogy(q, p)).sum(-1)


@cases
def test_vb_terms(name):
    steps, products, process = both(name)
    x_0, x_t, t = tokens(process)
    logits = torch.randn(len(t), K, generator=rng(8), dtype=DOUBLE)
    found = bound_term(process, logits, x_0, x_t, t)
    i, probs = t.numpy(), np.exp(log_softmax(logits.numpy()))
    fact1 = steps.transpose(0, 2, 1)[i - 1, x_t.numpy()]
    q = normalised(fact1 * products[i - 1, x_0.numpy()])
    p = normalised(fact1 * np.einsum("bk,bks->bs", probs, products[i - 1, :K]))
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.where(q > 0, q * (np.log(q) - np.log(p)), 0).sum(-1)
    close(found, exact, rtol=1e-8, atol=1e-12)
    first = t == 1
    close(found[first], -np.log(p[first.numpy(), x_0[first].numpy()]), rtol=1e-8, atol=1e-12)


@cases
def test_its_decoder_term_and_cross_entropy(name):
    """In nats here, in bits there, and the mean over an example there."""
    _, _, process = both(name)
    x_0 = torch.randint(K, (B, 3), generator=rng(9))
    logits = torch.randn(B, 3, K, generator=rng(10), dtype=DOUBLE)
    found = process.error(logits, x_0).mean(-1) / math.log(2)
    rows_of = log_softmax(logits.numpy())
    picked = np.take_along_axis(rows_of, x_0.numpy()[..., None], -1)[..., 0]
    close(found, -picked.mean(-1) / np.log(2))


@cases
def test_the_bound_of_the_exact_model_is_the_entropy_of_the_data(name):
    """Told the law of the data, p is the reverse of q: L_vb with q(x_T) as prior is tight."""
    _, products, process = both(name)
    law = np.array([0.5, 0.02, 0.3, 0.08, 0.1])
    at_end = law @ products[T, :K]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(products[T, :K]) - np.log(at_end)
        total = np.where(products[T, :K] > 0, products[T, :K] * ratio, 0).sum(-1) @ law
    x_0, x_t = (x.flatten() for x in torch.meshgrid(
        torch.arange(K), torch.arange(process.states), indexing="ij"
    ))  # fmt: skip
    logits = torch.from_numpy(law).log().expand(len(x_0), K)
    for t in range(1, T + 1):
        weight = law[:, None] * products[t, :K]
        term = bound_term(process, logits, x_0, x_t, t).numpy().reshape(K, -1)
        total += np.where(weight > 0, weight * term, 0).sum()
    assert total == pytest.approx(-(law * np.log(law)).sum(), rel=1e-9)


def test_p_sample_loop():
    process = DiscreteTimeDiffusion.absorbing(1 / torch.arange(T, 0, -1), K)
    seen = []

    def guess(x_t, t):
        seen.append(t)
        return PlugIn(torch.zeros(*x_t.shape, K))

    x_1 = process.sample_prior((B, 3), generator=rng(11))
    assert (x_1 == K).all()
    x = sample_backward(guess, process, range(T + 1), x_1, generator=rng(12))
    assert ((x >= 0) & (x < K)).all()
    assert [t[0].item() for t in seen] == list(range(T, 0, -1))


# ------------------------------------------------------------------ the page


HERE = {
    "CategoricalDiffusion": ("uniform", "gaussian", "absorbing"),
    "q_onestep_mats": ("matrices",),
    "q_probs(x_start, t)": ("log_prob",),
    "q_sample(x_start, t, noise)": ("sample_forward",),
    "q_posterior_logits(x_start, x_t, t)": ("bridge_probs",),
    "p_logits": ("reverse_probs",),
    "p_sample(model_fn, x, t, noise)": ("sample_step",),
    "p_sample_loop(model_fn, shape)": ("sample_prior",),
    "cross_entropy_x_start": ("error",),
    "vb_terms_bpd": (),
    "prior_bpd": (),
    "logistic_pars": (),
}


@pytest.mark.parametrize("name", HERE)
def test_every_name_has_a_row_and_what_stands_there_exists(name):
    found = [row for row in rows("denoisers.md", "### D3PM") if name in row[0]]
    assert found
    process = DiscreteTimeDiffusion.uniform(BETAS, K)
    for ours in HERE[name]:
        assert hasattr(process, ours)
        assert ours in {"uniform", "gaussian", "absorbing"} or any(ours in row[1] for row in found)
    if not HERE[name]:
        assert found[0][1].startswith("none yet")
