"""Masks revealed one by one, on toys whose laws are known exactly."""

import numpy as np
import pytest
import torch
from scipy import stats

from bridges import (
    LinearClock,
    OrnsteinUhlenbeckDiffusion,
    PlugIn,
    PowerClock,
    StreamDraws,
    sample_backward,
    selfconditioned,
)
from bridges.categorical import MaskingDiscreteDiffusion, UniformDiscreteDiffusion
from bridges.share_clock import CosineClock, LogLinearClock
from bridges.unmasking import Remasking, _reveal, sample_by_first_hitting
from mask_toy import (
    DOUBLE,
    LINEAR,
    MASKING,
    PAIR,
    RATE,
    TRIPLE,
    K,
    Posterior,
    counts,
    exact_law,
    masks,
)
from test_categorical import chi2, rng

P_MIN = 1e-4


# ------------------------------------------------------------------ first hitting


@pytest.mark.parametrize("joint", [PAIR, TRIPLE], ids=["two", "three"])
@pytest.mark.parametrize("clock", [None, PowerClock(2.0, 3.0), CosineClock()])
def test_first_hitting_has_the_law_of_the_data(joint, clock):
    process = MASKING if clock is None else MASKING.on(clock)
    x = sample_by_first_hitting(
        Posterior(joint), process, masks(40_000, joint.ndim), 1e3, generator=rng(1)
    )
    assert chi2(counts(x), joint.ravel()) > P_MIN


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_plain_sampler_has_its_known_bias(steps):
    """On two masks it draws from (1 − c) J + c m₁ ⊗ m₂, with c = Σ (Δα)²."""
    n, grid = 40_000, torch.linspace(0, 1, steps + 1, dtype=DOUBLE)
    c = (grid.diff() ** 2).sum().item()
    assert c == pytest.approx(1 / steps)
    law = (1 - c) * PAIR + c * np.outer(PAIR.sum(1), PAIR.sum(0))
    x = LINEAR.sample_prior((n, 2))
    x = sample_backward(Posterior(PAIR), LINEAR, grid, x, generator=rng(2))
    assert chi2(counts(x), law.ravel()) > P_MIN
    assert chi2(counts(x), PAIR.ravel()) < P_MIN
    np.testing.assert_allclose(exact_law(Posterior(PAIR), 0.0, steps), law, atol=1e-14)


@pytest.mark.parametrize("clock", [None, PowerClock(2.0, 3.0), LogLinearClock(1e-3)])
def test_times_are_those_at_which_masks_are_hit(clock):
    """The share of masks at the first of n is the largest of n uniforms, and so on downwards."""
    process, guess = (MASKING if clock is None else MASKING.on(clock)), Posterior(TRIPLE)
    sample_by_first_hitting(guess, process, masks(20_000, 3), 1e3, generator=rng(3))
    assert [int((x == K).sum(1).unique()) for x, _ in guess.calls] == [3, 2, 1]
    shares = []
    for _, t in guess.calls:
        assert t.shape == (20_000,)
        assert t.dtype == torch.get_default_dtype()
        tau = t.double() if clock is None else clock(t.double())
        shares.append(-torch.expm1(-RATE * tau))
    for i, share in enumerate(shares):
        largest = 3 - i
        assert stats.kstest(share.numpy(), stats.beta(largest, i + 1).cdf).pvalue > P_MIN
    assert (shares[0] > shares[1]).all()
    assert (shares[1] > shares[2]).all()


def test_any_position_is_next():
    guess = Posterior(TRIPLE)
    sample_by_first_hitting(guess, MASKING, masks(30_000, 3), 1e3, generator=rng(4))
    second, third = (x for x, _ in guess.calls[1:])
    assert chi2((second != K).int().argmax(1), np.full(3, 1 / 3)) > P_MIN
    assert chi2((third == K).int().argmax(1), np.full(3, 1 / 3)) > P_MIN


def test_what_is_revealed_stays_and_conditions_the_rest():
    """Examples of 0 to 3 masks in one batch, in as many rounds as the most have."""
    n, guess = 20_000, Posterior(TRIPLE)
    whole, two, one = torch.tensor([1, 0, 1]), torch.tensor([0, K, K]), torch.tensor([K, 1, 0])
    x = torch.stack([whole, two, one]).repeat(n, 1)
    before = x.clone()
    found = sample_by_first_hitting(guess, MASKING, x, 1e3, generator=rng(5))
    assert torch.equal(x, before)
    assert torch.equal(found[x != K], x[x != K])
    assert len(guess.calls) == 2
    conditional = TRIPLE[0] / TRIPLE[0].sum()
    assert chi2(counts(found[1::3, 1:]), conditional.ravel()) > P_MIN
    assert chi2(found[2::3, 0], TRIPLE[:, 1, 0] / TRIPLE[:, 1, 0].sum()) > P_MIN


def test_no_mask_no_call():
    guess = Posterior(PAIR)
    for x in (torch.zeros(4, 2, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64)):
        assert torch.equal(sample_by_first_hitting(guess, MASKING, x, 1e3), x)
    assert not guess.calls


def test_other_shapes_predictions_and_wrappers():
    x = torch.full((50, 2, 3), K)
    sure = torch.arange(300).reshape(50, 2, 3) % K
    logits = 1e3 * torch.nn.functional.one_hot(sure, K).float()
    mask = torch.rand(50, 2, generator=rng(6)) < 0.5
    for prediction in (logits, sure, PlugIn(logits)):
        for process in (MASKING, MASKING.tempered(0.5).on(LinearClock(2.0))):
            found = sample_by_first_hitting(lambda x, t, p=prediction: p, process, x, 1e3)
            assert torch.equal(found, sure)
        process = MASKING.where(mask).on(LinearClock(3.0)).where(torch.tensor(True))
        found = sample_by_first_hitting(lambda x, t, p=prediction: p, process, x, 1e3)
        assert torch.equal(found[mask], sure[mask])
        assert (found[~mask] == K).all()
    flat = sample_by_first_hitting(lambda x, t: logits[:, 0, 0], MASKING, x[:, 0, 0], 1e3)
    assert torch.equal(flat, sure[:, 0, 0])


def test_temperature_divides_the_logits():
    guess = Posterior(PAIR)
    x = sample_by_first_hitting(
        guess, MASKING.tempered(0.5), masks(40_000, 2), 1e3, generator=rng(7)
    )
    m = PAIR.sum(1) ** 2 / (PAIR.sum(1) ** 2).sum()
    rows = PAIR**2 / (PAIR**2).sum(1, keepdims=True)
    n = PAIR.sum(0) ** 2 / (PAIR.sum(0) ** 2).sum()
    columns = PAIR**2 / (PAIR**2).sum(0)
    law = 0.5 * (m[:, None] * rows + n * columns)
    assert chi2(counts(x), law.ravel()) > P_MIN


def test_a_sample_depends_on_its_number_alone_and_runs_start_afresh():
    guess = Posterior(TRIPLE)
    together = sample_by_first_hitting(
        guess, MASKING, masks(3, 3), 1e3, generator=StreamDraws(8, torch.tensor([4, 9, 2]))
    )
    alone = sample_by_first_hitting(
        guess, MASKING, masks(1, 3), 1e3, generator=StreamDraws(8, torch.tensor([9]))
    )
    assert torch.equal(together[1], alone[0])
    seen = []
    null = torch.zeros(2, 3, K)

    def model(x_t, t, previous):
        seen.append(previous)
        return previous + 1

    closure = selfconditioned(model, null)
    for _ in range(2):
        sample_by_first_hitting(closure, MASKING, masks(2, 3), 1e3)
    assert [int(p[0, 0, 0]) for p in seen] == [0, 1, 2, 0, 1, 2]


def test_rounds_read_nothing_from_a_device():
    x = torch.full((4, 3), K, device="meta")
    hidden = torch.ones(4, 3, dtype=torch.bool, device="meta")
    share = torch.ones(4, dtype=torch.float64, device="meta")

    class Empty(StreamDraws.__base__):
        def normal(self, shape, dtype, device):
            return torch.empty(tuple(shape), dtype=dtype, device=device)

        uniform = normal

    def guess(x_t, t):
        assert t.shape == (4,)
        return torch.empty(4, 3, K, device="meta")

    found = _reveal(guess, MASKING, x, hidden, share, PowerClock(2.0).inverse, 3, Empty())
    assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)


def hitting(guess=print, process=MASKING, x=None):
    x = masks(1, 2) if x is None else x
    return lambda: sample_by_first_hitting(guess, process, x, 1e3)


ELSE = "process to be a MaskingDiscreteDiffusion, or one on a clock, tempered or on a mask; got "
BAD = [
    (TypeError, hitting(process=UniformDiscreteDiffusion(1.0, 3)), f"{ELSE}UniformDiscreteDif"),
    (TypeError, hitting(process=Remasking(MASKING, 0.5)), f"{ELSE}Remasking"),
    (TypeError, hitting(guess=3), "guess to be callable; got 3."),
    (TypeError, hitting(x=torch.zeros(2)), "x to be an int64 tensor of tokens"),
    (ValueError, hitting(x=masks(1, 2) + 1), "x to hold tokens in [0, 3)"),
    (ValueError, hitting(x=torch.tensor(2)), "x to have at least 1 dimension; got shape ()."),
    (
        ValueError,
        hitting(guess=lambda x, t: torch.zeros(1, 3, 2)),
        "the prediction to have the batch shape (1, 2); got a float32 tensor of shape (1, 3, 2).",
    ),
    (
        ValueError,
        hitting(guess=lambda x, t: torch.zeros(1, 2, 3)),
        "logits to have shape (1, 1, 2); got (1, 1, 3).",
    ),
    (
        TypeError,
        lambda: Remasking(OrnsteinUhlenbeckDiffusion(), 0.5),
        "process to be a MaskingDiscreteDiffusion; got OrnsteinUhlenbeckDiffusion.",
    ),
    (ValueError, lambda: Remasking(MASKING, 1.1), "share to lie in [0, 1]; got 1.1."),
    (TypeError, lambda: Remasking(MASKING, "1"), "share to be a number; got '1'."),
]


@pytest.mark.parametrize(("error", "call", "words"), BAD)
def test_what_is_refused(error, call, words):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(f"Expected {words}")


def test_times_start_where_the_run_does():
    """On a clock that leaves a share unmasked at t = 1, no guess is asked beyond it."""
    process, seen = MaskingDiscreteDiffusion(1.0, K).on(LogLinearClock(0.3)), []

    def guess(x, t):
        seen.append(t.clone())
        return torch.zeros(*x.shape, K)

    sample_by_first_hitting(guess, process, masks(20_000, 1), 1.0, generator=rng(11))
    times = torch.cat(seen).double().numpy()
    assert stats.kstest(times, "uniform").pvalue > P_MIN
