"""D3PM: products of its steps for any pair of times, its named matrices, and its grid of times."""

import math

import numpy as np
import pytest
import torch

from bridges import LinearClock, sample_backward
from bridges.categorical import MaskingDiscreteDiffusion, UniformDiscreteDiffusion
from bridges.discrete_time import DiscreteTimeDiffusion
from bridges.table_clock import TableClock
from test_categorical import chi2, rng
from test_jumps import DOUBLE, P_MIN
from token_cases import D3PM, STEPS, K, steps, transition

BETAS = (0.02, 0.3, 0.1, 0.05, 0.6, 0.25, 0.9)


def number(t):
    return torch.tensor(float(t), dtype=DOUBLE)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 13])
def test_rows_and_columns_of_every_product(count):
    """For numbers and for times of every row, of which some are the same and some are far."""
    table = steps(count, K, count)
    process, states = DiscreteTimeDiffusion(table), torch.arange(K)
    pairs = torch.tensor([(s, t) for s in range(count + 1) for t in range(s, count + 1)])
    exact = torch.stack([torch.from_numpy(transition(table, s, t)) for s, t in pairs.tolist()])
    s, t = (times.double().unsqueeze(1) for times in pairs.unbind(1))
    x = states.expand(len(pairs), K)
    torch.testing.assert_close(process._row(x, s, t), exact, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(process._column(x, s, t), exact.mT, rtol=1e-13, atol=1e-15)
    for i, (a, b) in enumerate(pairs.tolist()):
        for found, right in [
            (process._row(states, number(a), number(b)), exact[i]),
            (process._column(states, number(a), number(b)), exact[i].mT),
            (process._row(states, number(a), t[i]), exact[i]),
            (process._column(states, s[i], number(b)), exact[i].mT),
        ]:
            torch.testing.assert_close(found, right, rtol=1e-13, atol=1e-15)


def test_tables_are_made_once_and_when_needed():
    process = DiscreteTimeDiffusion(STEPS)
    assert not {"_from_0", "_blocks"} & set(vars(process))
    x = torch.arange(K)
    process.sample_forward(x, 20)
    assert "_from_0" in vars(process)
    assert "_blocks" not in vars(process)
    process.sample_forward(x, 20, start=10)
    assert "_blocks" in vars(process)
    kept = sum(len(block.on(x.device)) for block in process._blocks)
    assert kept + len(process._from_0.on(x.device)) <= 3 * len(STEPS) + 1


def test_a_run_from_the_last_time():
    """With the data's law as a leave-one-out guess the last x_0 has the law of the data."""
    data = torch.tensor([0.5, 0.02, 0.3, 0.08, 0.1])

    def guess(x_t, t):
        return D3PM.posterior(data.log().expand(len(x_t), -1), x_t, t[0].item())

    x = D3PM.sample_prior((30_000,), generator=rng(1))
    assert chi2(x, transition(STEPS, 0, 90).mean(0)) > P_MIN
    x = sample_backward(guess, D3PM, [0, 1, 2, 30, 31, 60, 90], x, generator=rng(2))
    assert chi2(x, data.double()) > P_MIN


@pytest.mark.parametrize("t", [0.5, 1.01, 91, torch.tensor([1.0, 2.0, 2.5])])
def test_times_off_the_steps_are_refused(t):
    x = torch.zeros(3, dtype=torch.int64)
    got = 2.5 if isinstance(t, torch.Tensor) else t
    with pytest.raises(
        ValueError, match=f"Expected the time t to be an integer from 0 to 90; got {got}"
    ):
        D3PM.sample_forward(x, t)
    if not isinstance(t, torch.Tensor):
        with pytest.raises(ValueError, match="Expected the time timesteps.* to be an integer"):
            sample_backward(lambda x_t, t: x_t, D3PM, [0, t], x)


def test_a_clock_brings_the_steps_to_the_unit_interval():
    process, x = D3PM.on(LinearClock(90.0)), torch.full((20_000,), 3)
    for t in (1 / 3, torch.full((20_000,), 1 / 3, dtype=DOUBLE)):
        x_t = process.sample_forward(x, t, generator=rng(3))
        assert chi2(x_t, transition(STEPS, 0, 30)[3]) > P_MIN
    with pytest.raises(ValueError, match="Expected the time t to be an integer from 0 to 90; got"):
        process.sample_forward(x, 0.3333)


# ------------------------------------------------------------------ named matrices


@pytest.mark.parametrize(
    ("walked", "special"),
    [
        (DiscreteTimeDiffusion.uniform(BETAS, K), UniformDiscreteDiffusion(1.0, K)),
        (DiscreteTimeDiffusion.absorbing(BETAS, K), MaskingDiscreteDiffusion(1.0, K)),
    ],
    ids=["uniform", "absorbing"],
)
def test_uniform_and_absorbing_steps_are_jumps_on_a_clock(walked, special):
    """With e^{−τ} the product of the 1 − β."""
    tau = -np.log1p(-np.array(BETAS)).cumsum()
    jumps = special.on(TableClock(range(8), [0.0, *tau]))
    assert (walked.k, walked.states) == (special.k, special.states)
    x_t = torch.arange(walked.states)
    logits = torch.randn(walked.states, K, generator=rng(4))
    for s, t in [(0, 3), (2, 3), (4, 7)]:
        times = [jumps.clock(number(u)).item() for u in (s, t)]
        a, b = walked.reverse_probs(logits, x_t, s, t), special.reverse_probs(logits, x_t, *times)
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)
        x_0 = torch.arange(K)
        a = walked.log_prob(x_t[-K:], x_0, t, start=s)
        torch.testing.assert_close(a, jumps.log_prob(x_t[-K:], x_0, t, start=s))


def test_revealed_tokens_carry_over_in_absorbing_steps():
    process = DiscreteTimeDiffusion.absorbing(BETAS, K)
    x_t, logits = torch.arange(1000) % K, torch.randn(1000, K, generator=rng(5))
    for x in process.sample_step(logits, x_t, 0, 5, generator=rng(6)):
        assert torch.equal(x, x_t)
    assert (process.sample_prior((50,)) >= 0).all()
    sure = DiscreteTimeDiffusion.absorbing([0.5, 1.0], K)
    assert (sure.sample_prior((50,)) == K).all()


def test_gaussian_steps_are_equation_8():
    process = DiscreteTimeDiffusion.gaussian(BETAS, 6)
    for beta, step in zip(BETAS, process.matrices, strict=True):
        total = sum(math.exp(-4 * n**2 / (25 * beta)) for n in range(-5, 6))
        for i in range(6):
            for j in range(6):
                if i != j:
                    exact = math.exp(-4 * (i - j) ** 2 / (25 * beta)) / total
                    assert step[i, j].item() == pytest.approx(exact, rel=1e-12)
    torch.testing.assert_close(process.matrices.sum(-2), torch.ones(7, 6, dtype=DOUBLE))
    torch.testing.assert_close(process.matrices, process.matrices.mT)


def test_gaussian_steps_move_a_level_by_a_gaussian():
    """Inside, the variance of a step is β (K − 1)²/8 where it is well above a level."""
    k, beta = 101, 0.01
    x = torch.full((100_000,), 50)
    moved = DiscreteTimeDiffusion.gaussian([beta], k).sample_forward(x, 1, generator=rng(7))
    assert moved.double().var().item() == pytest.approx(beta * (k - 1) ** 2 / 8, rel=0.03)


ONE = torch.eye(3).expand(2, 3, 3)
STEP = DiscreteTimeDiffusion
BAD = [
    (TypeError, lambda: STEP(None), "matrices to hold numbers; got None."),
    (ValueError, lambda: STEP(ONE[0]), "matrices to have 3 dimensions; got shape (3, 3)."),
    (ValueError, lambda: STEP([]), "matrices to have 3 dimensions; got shape (0,)."),
    (ValueError, lambda: STEP(ONE[:, :2]), "matrices to be square, of at least 2 states; got"),
    (ValueError, lambda: STEP(ONE * math.nan), "matrices to be finite; got nan."),
    (ValueError, lambda: STEP(ONE - 0.5), "matrices to be at least 0; got -0.5."),
    (ValueError, lambda: STEP(1.1 * ONE), "matrices to sum to 1; got 1.1"),
    (ValueError, lambda: STEP(ONE, real=4), "real to be an integer from 1 to 3; got 4."),
    (ValueError, lambda: STEP.uniform([0.1, 0.0], 3), "betas to lie in (0, 1]; got 0."),
    (ValueError, lambda: STEP.gaussian([0.1, 1.5], 3), "betas to lie in (0, 1]; got 1.5."),
    (TypeError, lambda: STEP.uniform("0.1", 3), "betas to hold numbers; got '0.1'."),
    (ValueError, lambda: STEP.absorbing([], 3), "betas to have 1 dimension; got shape (0,)."),
    (ValueError, lambda: STEP.absorbing([0.1], 1), "k to be an integer of at least 2; got 1."),
]


@pytest.mark.parametrize(("error", "call", "words"), BAD)
def test_what_constructors_refuse(error, call, words):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(f"Expected {words}")


def test_lists_of_matrices_are_taken():
    for matrices in (list(torch.from_numpy(STEPS)), STEPS.tolist(), list(STEPS)):
        process = DiscreteTimeDiffusion(matrices)
        torch.testing.assert_close(process.matrices, D3PM.matrices, rtol=1e-15, atol=0)
