"""Independent jumps against the exponentials of their rates, to digits rather than by counts."""

import math

import numpy as np
import pytest
import torch

from bridges.categorical import (
    IndependentDiscreteDiffusion,
    MixtureDiscreteDiffusion,
    UniformDiscreteDiffusion,
)
from bridges.rate_matrix import GeneralDiscreteDiffusion
from bridges.share_clock import LogLinearClock
from test_categorical import Even, chi2, rng
from token_cases import D3PM, JUMPS, MASK, PI, RATE, STEPS, TABLES, K, bridge_table, transition

P_MIN = 1e-4
DOUBLE = torch.float64
TIMES = [(0.2, 0.9), (1e-6, 2e-6), (1e-6, 2.0), (1.5, 1.6), (3.0, 40.0)]
ALL = TABLES | {"discrete time": (D3PM, STEPS)}
MASKING, MIXTURE = (TABLES[name][0] for name in ("masking", "mixture"))
INDEPENDENT = TABLES["independent"][0]
SPECIAL = pytest.mark.parametrize("name", JUMPS)
EVERY = pytest.mark.parametrize("name", ALL)


@pytest.fixture
def _double():
    """Densities come in the default dtype."""
    torch.set_default_dtype(DOUBLE)
    yield
    torch.set_default_dtype(torch.float32)


def pairs(process):
    """All x_0 with all x_t."""
    states = torch.arange(process.states)
    return torch.cartesian_prod(states[: process.k], states).unbind(-1)


def per_row(t, x):
    return torch.full(x.shape, t, dtype=DOUBLE)


def times_of(name):
    return [(10.0, 20.0), (3.0, 77.0), (89.0, 90.0)] if name == "discrete time" else TIMES


@EVERY
@pytest.mark.usefixtures("_double")
def test_densities_have_all_their_digits(name):
    process, rates = ALL[name]
    x_0, x_t = pairs(process)
    for s, t in times_of(name):
        exact = torch.from_numpy(transition(rates, s, t))[x_0, x_t]
        for time in (t, per_row(t, x_t)):
            found = process.log_prob(x_t, x_0, time, start=s).exp()
            near = 1e-15 if name in ("ladder", "arrows") and t - s < 1e-3 else 0.0
            torch.testing.assert_close(found, exact, rtol=1e-9, atol=near)


@EVERY
def test_bridges_have_all_their_digits(name):
    process, rates = ALL[name]
    x_0, x_t = pairs(process)
    for s, t in times_of(name):
        if name in ("ladder", "arrows") and s == 1e-6:
            continue  # there the oracle's own digits end
        exact = bridge_table(rates, s, t)[x_0, x_t]
        reached = exact.isfinite().all(-1)
        for s_of, t_of in [(s, t), (per_row(s, x_t), t), (s, per_row(t, x_t))]:
            found = process.bridge_probs(x_0, x_t, s_of, t_of)
            assert found.dtype == DOUBLE
            np.testing.assert_allclose(found.sum(-1), 1.0, rtol=1e-12)
            np.testing.assert_allclose(found[reached], exact[reached], rtol=1e-9, atol=1e-14)
            carried = torch.nn.functional.one_hot(x_t, process.states).double()
            assert torch.equal(found[~reached], carried[~reached])


@SPECIAL
@pytest.mark.parametrize(("s", "t"), [(1e-6, 2e-6), (1e-6, 2.0), (0.2, 0.9)])
def test_small_probabilities_of_a_bridge_are_right_in_relative_terms(name, s, t):
    process, rates = TABLES[name]
    x_0, x_t = pairs(process)
    exact, found = bridge_table(rates, s, t)[x_0, x_t], process.bridge_probs(x_0, x_t, s, t)
    reached = exact.isfinite().all(-1)
    assert reached.sum() >= 2 * K - 1
    np.testing.assert_allclose(found[reached], exact[reached], rtol=1e-10)


@EVERY
def test_steps_draw_what_the_laws_say(name):
    """Evenly spaced uniforms give every state its share to within three counts."""
    process, rates = ALL[name]
    s, t = times_of(name)[0]
    x_0, x_t = pairs(process)
    n = 20_000
    wide = [x.unsqueeze(-1).expand(-1, n) for x in (x_0, x_t)]

    class Rows(Even):
        def uniform(self, shape, dtype, device):
            one = super().uniform((n, 1) if shape[-1] == 1 else (n,), dtype, device)
            return one.expand(tuple(shape))

    states = range(process.states)
    x_s = process.sample_bridge(*wide, s, t, generator=Rows())
    shares = torch.stack([(x_s == z).double().mean(-1) for z in states], -1)
    assert (shares - process.bridge_probs(x_0, x_t, s, t)).abs().max() <= 3.1 / n
    noised = process.sample_forward(wide[1], t, start=s, generator=Rows())
    shares = torch.stack([(noised == z).double().mean(-1) for z in states], -1)
    assert (shares - torch.from_numpy(transition(rates, s, t))[x_t]).abs().max() <= 3.1 / n


def test_special_cases_are_cases_of_the_general_one():
    masks = MixtureDiscreteDiffusion(RATE, PI, 1.0)
    uniform = IndependentDiscreteDiffusion(RATE, torch.full((K,), 1 / K))
    for special, general in [(MASKING, masks), (TABLES["uniform"][0], uniform)]:
        x_0, x_t = pairs(special)
        for s, t in TIMES:
            a, b = (process.bridge_probs(x_0, x_t, s, t) for process in (special, general))
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)
            a, b = (p.sample_bridge(x_0, x_t, s, t, generator=rng(1)) for p in (special, general))
            if special is not MASKING:  # which spends its uniform number otherwise
                assert torch.equal(a, b)


@EVERY
def test_priors(name):
    process, rates = ALL[name]
    x = process.sample_prior((100, 1000), generator=rng(2), dtype=torch.float16)
    assert x.dtype == torch.int64
    last = transition(rates, 0, 90 if name == "discrete time" else 1e4).mean(0)
    assert chi2(x.flatten(), np.where(last < 1e-12, 0.0, last)) > P_MIN


# ------------------------------------------------------------------ rates


@pytest.mark.parametrize(
    ("process", "pi"),
    [
        (UniformDiscreteDiffusion.from_substitution_rate(0.7, K), np.full(K, 1 / K)),
        (IndependentDiscreteDiffusion.from_substitution_rate(0.7, PI), np.array(PI)),
        (
            GeneralDiscreteDiffusion.from_exchangeabilities(np.ones((K, K)), PI, 0.7),
            np.array(PI),
        ),
    ],
)
def test_a_substitution_rate_counts_changes(process, pi):
    """At the law that the process keeps, 0.7 tokens change per unit of time."""
    n, dt = 1_000_000, 0.01
    x = torch.from_numpy(np.repeat(np.arange(K), np.round(pi * n).astype(int)))
    changed = (process.sample_forward(x, dt, generator=rng(3)) != x).double().mean().item()
    assert changed == pytest.approx(0.7 * dt, rel=0.05)
    exact = pi @ (1 - process.log_prob(torch.arange(K), torch.arange(K), dt).exp().numpy())
    assert exact == pytest.approx(0.7 * dt, rel=0.01)


def test_an_event_rate_counts_jumps_to_the_same_state_too():
    """The rate of the constructors: 0.8 jumps, of which a share changes nothing."""
    for name in ("uniform", "independent"):
        process, rates = TABLES[name]
        for x in range(K):
            stays = process.log_prob(torch.tensor(x), torch.tensor(x), 1e-3).item()
            assert -stays / 1e-3 == pytest.approx(-rates[x, x], rel=1e-3)


@EVERY
def test_loss_scales(name):
    """√(c (1 − 1/K)) ln 2, where c is the share that changed; for jumps √(1 − α) m ln 2."""
    process, _ = ALL[name]
    t = torch.tensor([[0.0, 1.0], [7.0, 60.0]])
    scale = process.loss_scale(t)
    assert scale.shape == t.shape
    assert scale.dtype == DOUBLE
    assert scale[0, 0] == 0
    assert (scale.flatten()[1:] > 0).all()
    if name in JUMPS:
        moving = {"uniform": 1 - 1 / K, "masking": 1.0, "independent": 1 - 1 / K}
        moving["mixture"] = 1 - (1 - MASK) * np.square(PI).sum()
        exact = (-torch.expm1(-RATE * t.double())).sqrt() * moving[name] * math.log(2)
        torch.testing.assert_close(scale, exact)


def test_the_loss_scale_of_a_matrix_is_that_of_uniform_jumps():
    process, rates = TABLES["uniform"]
    t = torch.tensor([0.0, 1e-6, 0.3, 5.0], dtype=DOUBLE)
    general = GeneralDiscreteDiffusion(rates)
    steps = -torch.expm1(-RATE * torch.ones(5, dtype=DOUBLE))
    torch.testing.assert_close(general.loss_scale(t), process.loss_scale(t), rtol=1e-9, atol=0.0)
    walked = type(D3PM).uniform(steps, K)
    for n in range(6):
        assert walked.loss_scale(n).item() == pytest.approx(process.loss_scale(float(n)).item())


# ------------------------------------------------------------------ what cannot be


@pytest.mark.parametrize("clean", [MASKING, INDEPENDENT])
def test_a_token_that_cannot_have_jumped_is_carried_over(clean):
    """Whatever is guessed for it, at every s, also where nothing is left of x_0."""
    told = 3 if clean is MASKING else 2
    x_t, guess = torch.full((1000,), told), torch.arange(1000) % K
    logits = torch.randn(1000, K, generator=rng(4))
    for process, t in [(clean, 0.9), (clean.on(LogLinearClock(0.0)), 1.0)]:
        for s in (0.0, 0.3, torch.linspace(0, 0.5, 1000)):
            for prediction in (guess, logits):
                for x in process.sample_step(prediction, x_t, s, t, generator=rng(5)):
                    assert (x == told).all()
        assert (process.sample_bridge(guess, x_t, 0.4, t, generator=rng(6)) == told).all()
    law = clean.reverse_probs(logits, x_t, 0.3, 0.9)
    assert torch.equal(law, torch.nn.functional.one_hot(x_t, clean.states).double())
    assert (clean.error(logits, x_t, x_t=x_t, t=0.9) == 0).all()
    assert (clean.error(logits, x_t) > 0).all()


def test_a_mixture_without_masks_guesses_for_a_mask_all_the_same():
    process = MixtureDiscreteDiffusion(RATE, PI, 0.0)
    x_t, logits = torch.full((100,), K), torch.zeros(100, K)
    x_s, x_0_hat = process.sample_step(logits, x_t, 0.0, 0.5, generator=rng(12))
    assert (x_0_hat < K).all()
    assert torch.equal(x_s, x_0_hat)
    assert (process.sample_bridge(x_0_hat, x_t, 0.2, 0.5) == K).all()


def test_a_revealed_token_gives_no_gradient_and_a_mask_all_of_it():
    logits = torch.randn(2, 3, K, generator=rng(7), requires_grad=True)
    x_0 = torch.tensor([[0, 1, 2], [3, 4, 0]])
    x_t = torch.tensor([[0, K, 2], [K, K, 0]])
    MASKING.error(logits, x_0, x_t=x_t, t=torch.tensor([0.5, 0.8])).sum().backward()
    masked = x_t == K
    assert (logits.grad[~masked] == 0).all()
    exact = logits.softmax(-1) - torch.nn.functional.one_hot(x_0, K)
    torch.testing.assert_close(logits.grad[masked], exact.detach()[masked])


def test_forward_and_bridge_of_masks():
    x_0 = torch.arange(100_000) % K
    x_t = MASKING.sample_forward(x_0, 0.9, generator=rng(8))
    x_s = MASKING.sample_bridge(x_0, x_t, 0.4, 0.9, generator=rng(9))
    assert ((x_t == x_0) | (x_t == K)).all()
    assert (x_s[x_t < K] == x_0[x_t < K]).all()
    for x, t in [(x_t, 0.9), (x_s, 0.4)]:
        share = (x == K).double().mean().item()
        assert share == pytest.approx(-math.expm1(-RATE * t), abs=0.006)


def test_infinite_clock_time():
    """At the end of a clock that forgets everything, x_t has the law of the prior."""
    for name in JUMPS[:3]:
        process, rates = TABLES[name]
        x_0 = torch.full((50_000,), 2)
        last = transition(rates, 0, 1e4)[2]
        for t in (1.0, torch.ones(50_000)):
            x_t = process.on(LogLinearClock(0.0)).sample_forward(x_0, t, generator=rng(10))
            assert chi2(x_t, np.where(last < 1e-12, 0.0, last)) > P_MIN
