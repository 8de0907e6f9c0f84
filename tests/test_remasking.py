"""Remasking keeps the law at every time and no more; what it is good for, on a toy."""

import math

import numpy as np
import pytest
import torch

from bridges import LinearClock, PowerClock, sample_backward, testing
from bridges.categorical import MaskingDiscreteDiffusion
from bridges.share_clock import LogLinearClock
from bridges.unmasking import Remasking
from mask_toy import DOUBLE, LINEAR, PAIR, K, Posterior, counts, exact_law
from test_categorical import chi2, rng
from token_cases import column

P_MIN = 1e-4
MASKING = MaskingDiscreteDiffusion(0.8, 5)
POINT = torch.tensor([2, 4]).repeat(10_000)
SHARES = pytest.mark.parametrize("share", [0.0, 0.3, 1.0])


@SHARES
@pytest.mark.parametrize(
    ("s", "t"), [(0.2, 0.9), (1e-6, 2.0), (1.5, 1.6), (3.0, 40.0), (1.0, math.inf)]
)
def test_masks_are_as_frequent_as_they_should_be(share, s, t):
    """P(mask at s) = P(mask at t) (1 − reveal) + P(token at t) hide."""
    s, t = (torch.tensor(u, dtype=DOUBLE) for u in (s, t))
    hide, reveal = Remasking(MASKING, share)._shares(s, t)
    alpha_s, alpha_t = torch.exp(-0.8 * s), torch.exp(-0.8 * t)
    masked = (1 - alpha_t) * (1 - reveal) + alpha_t * hide
    torch.testing.assert_close(masked, 1 - alpha_s, rtol=0, atol=1e-14)
    assert 0 <= hide <= 1
    assert 0 <= reveal <= 1 + 1e-15
    if share == 1.0:
        assert hide == 1 or reveal.item() == pytest.approx(1.0)


@SHARES
def test_the_law_at_every_time_is_kept(share):
    process = Remasking(MASKING, share).on(PowerClock(1.7, 0.8))
    generator = rng(1)
    x = process.sample_forward(POINT, 2.0, generator=generator)
    for s, t in [(0.9, 2.0), (0.5, 0.9), (0.4, 0.5), (0.1, 0.4)]:
        times = (s, t) if s > 0.4 else (torch.full((20_000,), u, dtype=DOUBLE) for u in (s, t))
        x = process.sample_bridge(POINT, x, *times, generator=generator)
        kept = math.exp(-0.8 * 0.8 * s**1.7)
        for token in (2, 4):
            law = np.zeros(6)
            law[token], law[5] = kept, 1 - kept
            assert chi2(x[token == POINT], law) > P_MIN
    assert torch.equal(process.sample_bridge(POINT, x, 0.0, 0.1), POINT)


def test_the_joint_law_of_two_times_is_not():
    testing.check_two_times(Remasking(MASKING, 0.0), POINT, column)
    with pytest.raises(AssertionError, match="joint law of two times"):
        testing.check_two_times(Remasking(MASKING, 0.5), POINT, column)


def test_the_other_laws_hold():
    process = Remasking(MASKING, 0.4)
    for check in (testing.check_space, testing.check_shapes, testing.check_randomness):
        check(process, POINT, column)
    testing.check_prior(process, POINT, column)
    x_t = process.sample_forward(POINT, 0.7, generator=rng(4))
    s = torch.tensor([0.0, 0.7]).repeat(10_000)
    x_s = process.sample_bridge(POINT, x_t, s, 0.7, generator=rng(5))
    assert torch.equal(x_s[::2], POINT[::2])
    assert torch.equal(process.sample_bridge(POINT, x_t, 0.7, 0.7), x_t)


def test_a_share_of_nothing_is_the_plain_bridge():
    x_t = MASKING.sample_forward(POINT, 0.9, generator=rng(6))
    logits = torch.randn(20_000, 5, generator=rng(7))
    for s in (0.0, 0.4, torch.linspace(0, 0.9, 20_000)):
        steps = [
            process.sample_step(logits, x_t, s, 0.9, generator=rng(8))
            for process in (MASKING, Remasking(MASKING, 0.0))
        ]
        assert all(map(torch.equal, *steps))


def test_guesses_for_revealed_tokens_are_not_asked():
    x_t, guess = torch.full((10_000,), 3), torch.zeros(10_000, 5)
    x_s, x_0_hat = Remasking(MASKING, 1.0).sample_step(guess, x_t, 0.4, 0.9, generator=rng(9))
    assert (x_0_hat == 3).all()
    assert ((x_s == 3) | (x_s == 5)).all()
    hide = (1 - math.exp(-0.8 * 0.4)) / math.exp(-0.8 * 0.9)
    assert (x_s == 5).double().mean().item() == pytest.approx(hide, abs=0.02)


def test_a_run_has_the_law_that_enumeration_says():
    for share in (0.0, 0.7):
        process = Remasking(LINEAR.process, share).on(LogLinearClock(0.0))
        x, grid = process.sample_prior((30_000, 2)), torch.linspace(0, 1, 5, dtype=DOUBLE)
        x = sample_backward(Posterior(PAIR), process, grid, x, generator=rng(10))
        assert chi2(counts(x), exact_law(Posterior(PAIR), share, 4).ravel()) > P_MIN


def miss(guess, share, steps):
    return 0.5 * np.abs(exact_law(guess, share, steps) - PAIR).sum()


def test_with_the_true_posterior_the_plain_bridge_is_nearer():
    for steps in (4, 16):
        misses = [miss(Posterior(PAIR), share, steps) for share in (0.0, 0.3, 1.0)]
        assert misses == sorted(misses)
        assert misses[2] > 1.2 * misses[0]


def test_a_guess_that_is_wrong_while_little_is_known_is_corrected():
    """The first guess is wrong, and those that see the other token are right."""
    guess = Posterior(PAIR)
    guess.table[K, K] = torch.tensor([0.8, 0.2], dtype=DOUBLE)
    plain, masked, longer = miss(guess, 0.0, 32), miss(guess, 1.0, 32), miss(guess, 1.0, 64)
    assert plain > 0.25
    assert masked < 0.65 * plain
    assert longer < masked
    assert miss(guess, 0.0, 64) > 0.95 * plain


def test_where_and_clocks_go_around_it():
    process = Remasking(MASKING, 1.0).on(LinearClock(2.0)).where(torch.arange(20_000) % 2 == 0)
    x_t = process.sample_forward(POINT, 0.6, generator=rng(11))
    x_s = process.sample_bridge(POINT, x_t, 0.3, 0.6, generator=rng(12))
    assert torch.equal(x_s[1::2], x_t[1::2])
    assert (x_s[::2] != x_t[::2]).any()
    torch.testing.assert_close(
        process.log_prob(x_t, POINT, 0.6)[::2], MASKING.log_prob(x_t, POINT, 1.2)[::2]
    )
