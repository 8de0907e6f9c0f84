"""General rate matrices: their exponentials, the laws they keep, and what constructors refuse."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from bridges._rate_matrix import Spectral, Uniformised, exponential, stationary
from bridges.rate_matrix import GeneralDiscreteDiffusion
from test_categorical import chi2, rng
from test_jumps import DOUBLE, P_MIN
from token_cases import (
    ARROWS,
    EXCHANGE,
    FREQUENCIES,
    LADDER,
    PI,
    RESIDUES,
    TABLES,
    K,
    random_rates,
)

CPU = torch.device("cpu")
TIMES = [0.0, 1e-9, 1e-6, 1e-3, 0.3, 2.0, 50.0, 1e3]
General = GeneralDiscreteDiffusion


def of(rates):
    rates = torch.from_numpy(np.array(rates))
    return exponential(rates, stationary(rates))


@pytest.mark.parametrize("rates", [RESIDUES, LADDER, ARROWS], ids=["residues", "ladder", "arrows"])
def test_exponentials_against_scipy(rates):
    ways = [of(rates), Uniformised(torch.from_numpy(rates))]
    assert isinstance(ways[0], Uniformised if rates is ARROWS else Spectral)
    batch = torch.tensor(TIMES, dtype=DOUBLE).reshape(2, 4, 1)
    exact = torch.stack([torch.from_numpy(expm(rates * t)) for t in TIMES])
    for way in ways:
        tables = way(batch, CPU).reshape(-1, K, K)
        torch.testing.assert_close(tables, exact, rtol=0, atol=2e-13)
        torch.testing.assert_close(
            tables.sum(-1), torch.ones(8, K, dtype=DOUBLE), rtol=0, atol=1e-12
        )
        assert (tables >= 0).all()
        for t, table in zip(TIMES, tables, strict=True):
            one = way(torch.tensor(t, dtype=DOUBLE), CPU)
            torch.testing.assert_close(one, table, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("tau", [1e-9, 1e-6, 1e-4])
def test_small_times_keep_their_digits(tau):
    """In relative terms, where one jump is enough; for uniformised rates anywhere."""
    for rates in (RESIDUES, LADDER, ARROWS):
        off, one_jump = rates > 0, tau * rates + tau**2 / 2 * rates @ rates
        table = of(rates)(torch.tensor(tau, dtype=DOUBLE), CPU).numpy()
        np.testing.assert_allclose(table[off], one_jump[off], rtol=max(100 * tau**2, 1e-12))
    table = Uniformised(torch.from_numpy(LADDER))(torch.tensor(tau, dtype=DOUBLE), CPU)
    for jumps in range(1, K):
        exact = (0.6 * tau) ** jumps / math.factorial(jumps)
        assert table[0, jumps].item() == pytest.approx(exact, rel=5 * tau)


def test_two_jumps_in_a_small_time():
    """An eigendecomposition without `expm1`, in float32, would be off by percents at one jump."""
    table = of(LADDER)(torch.tensor(1e-4, dtype=DOUBLE), CPU)
    assert table[0, 2].item() == pytest.approx(0.5 * (0.6e-4) ** 2, rel=1e-3)
    values, vectors = torch.linalg.eigh(torch.from_numpy(LADDER).float())
    twin = vectors @ (values * 1e-4).exp().diag() @ vectors.T
    assert abs(twin[0, 1].item() / table[0, 1].item() - 1) > 1e-3


def test_states_many_jumps_apart_are_not_reached_by_rounding():
    process = General.ordinal(60, 1.0)
    x_0, x_t = torch.tensor([0, 0]), torch.tensor([50, 1])
    assert process.log_prob(x_t, x_0, 1e-3)[0] == -math.inf
    x_s = process.sample_bridge(x_0, x_t, 5e-4, 1e-3, generator=rng(1))
    assert x_s[0] == 50
    logits = torch.zeros(10_000, 60)
    x_t = torch.full((10_000,), 30)
    x_0_hat = process.endpoint(logits, x_t, 1e-7, generator=rng(2))
    assert (x_0_hat - 30).abs().max() <= 3


def test_large_matrices():
    process = General.ordinal(256, 256.0**2)
    exact = expm(process.rates.numpy() * 0.02)
    table = process._exponential(torch.tensor(0.02, dtype=DOUBLE), CPU)
    np.testing.assert_allclose(table, exact, rtol=0, atol=1e-13)


def test_time_without_end():
    for rates in (RESIDUES, LADDER, ARROWS):
        tau = torch.tensor([math.inf, 1e30], dtype=DOUBLE)
        last = stationary(torch.from_numpy(np.array(rates)))
        for table in of(rates)(tau, CPU):
            torch.testing.assert_close(table, last.expand(K, K), rtol=1e-9, atol=1e-12)


def test_no_times_and_no_tokens():
    for rates in (LADDER, ARROWS):
        process = General(rates)
        assert of(rates)(torch.zeros(0, 1, dtype=DOUBLE), CPU).shape == (0, 1, K, K)
        x = torch.zeros(0, 3, dtype=torch.int64)
        t = torch.zeros(0)
        assert process.sample_forward(x, t).shape == (0, 3)
        assert process.sample_bridge(x, x, t, t).shape == (0, 3)
        logits = torch.zeros(0, 3, K)
        assert process.reverse_probs(logits, x, t, t).shape == (0, 3, K)


# ------------------------------------------------------------------ the law that is kept


def test_stationary_laws():
    for rates in (RESIDUES, LADDER, ARROWS, random_rates(40, 1)):
        pi = stationary(torch.from_numpy(np.array(rates)))
        np.testing.assert_allclose(pi.numpy() @ rates, 0.0, atol=1e-14)
        assert pi.sum().item() == pytest.approx(1.0)
    np.testing.assert_allclose(stationary(torch.from_numpy(RESIDUES)), FREQUENCIES, rtol=1e-12)


def test_rare_states_of_a_stationary_law_keep_their_digits():
    k = 12
    up, down = np.diag(np.full(k - 1, 1e-3), 1), np.diag(np.ones(k - 1), -1)
    rates = up + down
    pi = stationary(torch.from_numpy(rates - np.diag(rates.sum(1))))
    np.testing.assert_allclose(pi[1:] / pi[:-1], 1e-3, rtol=1e-12)


def test_priors_of_chains_that_end():
    """One place to end in has a law, and two have none."""
    into_2 = [[-1.0, 1.0, 0.0], [0.0, -2.0, 2.0], [0.0, 0.0, 0.0]]
    assert (General(into_2).sample_prior((50,)) == 2).all()
    pair = np.array([[-1.0, 1.0], [1.0, -1.0]])
    two = np.block([[pair, np.zeros((2, 2))], [np.zeros((2, 2)), 3 * pair]])
    process = General(two)
    with pytest.raises(NotImplementedError, match="Expected rates that keep one law, to draw fr"):
        process.sample_prior((3,))
    x_t = process.sample_forward(torch.tensor([0, 3]).repeat(10_000), 50.0, generator=rng(3))
    assert ((x_t[::2] < 2) & (x_t[1::2] >= 2)).all()
    assert chi2(x_t, np.full(4, 0.25)) > P_MIN


# ------------------------------------------------------------------ named matrices


def test_masks_as_a_matrix():
    """A state that x_0 may not take, beside the process that needs no matrix."""
    special, rates = TABLES["masking"]
    process = General(rates, real=K)
    assert (process.k, process.states) == (K, K + 1)
    x_t, logits = torch.arange(K + 1), torch.randn(K + 1, K, generator=rng(4))
    for s, t in [(0.0, 0.4), (0.3, 0.9)]:
        a, b = (p.reverse_probs(logits, x_t, s, t) for p in (special, process))
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    revealed = torch.arange(1000) % K
    guess = torch.randn(1000, K, generator=rng(5))
    for x in process.sample_step(guess, revealed, 0.0, 0.9, generator=rng(6)):
        assert torch.equal(x, revealed)
    with pytest.raises(
        ValueError, match=r"Expected x_0 to hold clean tokens, no mask, in \[0, 5\)"
    ):
        process.sample_bridge(x_t, x_t, 0.3, 0.9)


def test_exchangeabilities():
    process = General.from_exchangeabilities(EXCHANGE, FREQUENCIES, 0.9)
    np.testing.assert_allclose(process.rates, RESIDUES, rtol=1e-12, atol=1e-15)
    assert isinstance(process._exponential, Spectral)
    never = General.from_exchangeabilities(torch.ones(K, K), torch.tensor(PI), 1.0)
    assert not isinstance(never._exponential, Spectral)  # a state of probability 0
    assert chi2(never.sample_prior((100_000,), generator=rng(7)), np.array(PI)) > P_MIN


def test_the_walk_over_levels_has_known_eigenvalues():
    process = General.ordinal(K, 0.6)
    values = np.linalg.eigvalsh(process.rates.numpy())[::-1]
    np.testing.assert_allclose(values, -1.2 * (1 - np.cos(math.pi * np.arange(K) / K)), atol=1e-14)
    wide = General.ordinal(81, 2.0)
    x = wide.sample_forward(torch.full((100_000,), 40), 5.0, generator=rng(8))
    assert x.double().var().item() == pytest.approx(2 * 2.0 * 5.0, rel=0.03)


EXCHANGES = General.from_exchangeabilities
BAD = [
    (TypeError, lambda: General("rates"), "rates to hold numbers; got 'rates'."),
    (ValueError, lambda: General([0.0, 1.0]), "rates to have 2 dimensions; got shape (2,)."),
    (
        ValueError,
        lambda: General(torch.zeros(2, 3)),
        "rates to be square, of at least 2 states; got shape (2, 3).",
    ),
    (ValueError, lambda: General([[math.nan, 0], [0, 0]]), "rates to be finite; got nan."),
    (
        ValueError,
        lambda: General([[0.5, -0.5], [1.0, -1.0]]),
        "rates to be at least 0 off the diagonal; got -0.5.",
    ),
    (
        ValueError,
        lambda: General([[-1.0, 1.5], [1.0, -1.0]]),
        "rates to have rows that sum to 0; got 0.5.",
    ),
    (ValueError, lambda: General(torch.zeros(3, 3)), "rates to move some state; got 0 everyw"),
    (ValueError, lambda: General(ARROWS, real=6), "real to be an integer from 1 to 5; got 6."),
    (ValueError, lambda: General(ARROWS, real=0), "real to be an integer from 1 to 5; got 0."),
    (ValueError, lambda: General.ordinal(1, 1.0), "k to be an integer of at least 2; got 1."),
    (ValueError, lambda: General.ordinal(4, 0.0), "rate to be positive; got 0.0."),
    (ValueError, lambda: EXCHANGES(EXCHANGE, PI[:4], 1.0), "pi to have 5 states; got 4"),
    (ValueError, lambda: EXCHANGES(EXCHANGE, [0.5, 0.5], 1.0), "pi to have 5 states; got 2."),
    (ValueError, lambda: EXCHANGES(ARROWS.clip(0), PI, 1.0), "s to be symmetric; got "),
    (ValueError, lambda: EXCHANGES(-EXCHANGE, PI, 1.0), "s to be at least 0; got -"),
    (ValueError, lambda: EXCHANGES(np.eye(5), PI, 1.0), "s to exchange some states; got 0"),
    (ValueError, lambda: EXCHANGES(EXCHANGE, PI, -1.0), "rate to be positive; got -1.0."),
]


@pytest.mark.parametrize(("error", "call", "words"), BAD)
def test_what_constructors_refuse(error, call, words):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(f"Expected {words}")
