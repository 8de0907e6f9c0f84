"""Processes on tokens: a device nobody may read, broken twins, and what constructors refuse."""

import copy
import math
import pickle
from dataclasses import dataclass

import pytest
import torch

from bridges import Draws, PlugIn, Process, testing
from bridges._shapes import describe
from bridges.categorical import (
    IndependentDiscreteDiffusion,
    MaskingDiscreteDiffusion,
    MixtureDiscreteDiffusion,
    UniformDiscreteDiffusion,
)
from bridges.transition import rows
from bridges.unmasking import Remasking
from bridges.wrapper import Wrapper
from test_categorical import rng
from test_jumps import ALL, DOUBLE, EVERY, MASKING
from token_cases import D3PM, PI, TABLES, DenseTokens, K, column, tokens

META = torch.device("meta")
TOKENS = tokens()(None)

# ------------------------------------------------------------------ a device that cannot be read


class Empty(Draws):
    """Draws on the meta device."""

    def normal(self, shape, dtype, device):
        assert device == META
        return torch.empty(tuple(shape), dtype=dtype, device=device)

    uniform = normal


def alike(found, x):
    assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)


@pytest.mark.parametrize("name", [*ALL, "remasking"])
@pytest.mark.parametrize(
    ("shape", "of_s", "of_t"),
    [
        ((4, 3), None, None),
        ((4, 3), (4,), (4,)),
        ((4, 3), (4, 3), (4, 3)),
        ((4, 3), None, (4,)),
        ((4, 3), (), (4, 3)),
        ((4, 3), None, ()),
        ((), None, ()),
        ((), None, None),
    ],
)
def test_nothing_reads_a_device(name, shape, of_s, of_t):
    """With times on the host (None) and of every shape on the device."""
    process = Remasking(MASKING, 0.5) if name == "remasking" else ALL[name][0]
    x = torch.empty(shape, dtype=torch.int64, device=META)
    s = 3.0 if of_s is None else torch.full(of_s, 3.0, device=META)
    t = 7.0 if of_t is None else torch.full(of_t, 7.0, device=META)
    s, t, zero = (process._expand(u, x) for u in (s, t, 0.0))
    logits = torch.empty(*shape, K, device=META)
    draws = Empty()
    alike(process._prior(shape, draws, torch.float32, META), x)
    alike(process._forward(x, zero, t, draws), x)
    alike(process._forward(x, s, t, draws), x)
    alike(process._between(x, x, s, t, 1.0, draws), x)
    assert process._log_prob(x, x, s, t).device == META
    for prediction in (logits, PlugIn(logits), x):
        for found in process._step(prediction, x, s, t, 1.0, draws):
            alike(found, x)
        if prediction is not x:
            assert process._error(prediction, x, x, t).device == META
    if name != "remasking":
        p = logits.double().softmax(-1)
        law = process._reverse_probs(p, x, s, t)
        assert (law.shape, law.device) == ((*shape, process.states), META)


# ------------------------------------------------------------------ copies


@EVERY
def test_processes_can_be_copied_and_saved(name):
    process, _ = ALL[name]
    x = torch.arange(6) % K
    for twin in (copy.deepcopy(process), pickle.loads(pickle.dumps(process))):
        a, b = (p.sample_forward(x, 3.0, generator=rng(1)) for p in (process, twin))
        assert torch.equal(a, b)
    assert len(repr(process)) < 6000
    assert describe(process)


# ------------------------------------------------------------------ broken twins


@dataclass(frozen=True)
class Twin(Wrapper):
    """A process with some of its hooks broken."""

    process: Process

    def draw(self, weights, draws):
        return draws.categorical(weights.log())


class ForgetsPi(Twin):
    """Lets a token that ends where it began jump as if to any state, not to itself."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        ones = torch.ones(x_t.shape, dtype=DOUBLE)
        fresh, take, _, again = self.process._shares(ones, s, t)
        u = draws.uniform(x_t.shape, DOUBLE, x_t.device)
        fresh = torch.where(x_0 == x_t, again, fresh)
        kept = torch.where(u < fresh + take, x_t, x_0)
        return torch.where(u < fresh, self.process._quantile(u / fresh), kept)


class RevealsByAlpha(Twin):
    """Forgets that the token is masked: reveals by α_s − α_t, not over 1 − α_t."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        reveal = torch.exp(-self.process.rate * s) - torch.exp(-self.process.rate * t)
        u = draws.uniform(x_t.shape, DOUBLE, x_t.device)
        return torch.where((x_t == self.process.k) & (u < reveal), x_0, x_t)


class ForgetsTheEnd(Twin):
    """Draws x_s from x_0 alone."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        return self.draw(self.process._row(x_0, torch.zeros_like(s), s), draws)


class RowForColumn(Twin):
    """Takes the row of x_t for its column: right for symmetric matrices only."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        to_s = self.process._row(x_0, torch.zeros_like(s), s)
        return self.draw(to_s * self.process._row(x_t, s, t), draws)


class OneStepShort(Twin):
    """Leaves out the step into t."""

    def _forward(self, x, s, t, draws):
        return self.process._forward(x, s, (t - 1).clamp(min=s), draws)


class UniformPrior(Twin):
    def _prior(self, shape, draws, dtype, device):
        return (draws.uniform(shape, DOUBLE, device) * K).long()


@pytest.mark.parametrize(
    ("twin", "name", "times"),
    [
        (ForgetsPi, "independent", (0.5, 1.4)),
        (ForgetsPi, "mixture", (0.5, 1.4)),
        (RevealsByAlpha, "masking", (0.5, 1.4)),
        (ForgetsTheEnd, "residues", (0.5, 1.4)),
        (ForgetsTheEnd, "discrete time", (10, 20)),
        (RowForColumn, "arrows", (0.5, 1.4)),
        (RowForColumn, "discrete time", (10, 20)),
        (OneStepShort, "discrete time", (1, 2)),
    ],
)
def test_a_twin_fails_the_joint_law_of_two_times(twin, name, times):
    process, rates = ALL[name]
    testing.check_two_times(process, TOKENS, column, times)
    for check in (
        lambda: testing.check_two_times(twin(process), TOKENS, column, times),
        lambda: testing.check_general(
            twin(process), TOKENS, column, times, general=DenseTokens(rates)
        ),
    ):
        with pytest.raises(AssertionError, match="joint law of two times|general process"):
            check()


def test_row_for_column_is_right_where_matrices_are_symmetric():
    process, _ = TABLES["ladder"]
    testing.check_two_times(RowForColumn(process), TOKENS, column, (0.5, 1.4))


@pytest.mark.parametrize("name", ["independent", "residues", "arrows"])
def test_a_twin_with_another_prior(name):
    testing.check_prior(ALL[name][0], TOKENS, column)
    with pytest.raises(AssertionError, match="prior as the far limit"):
        testing.check_prior(UniformPrior(ALL[name][0]), TOKENS, column)


def test_rows_are_gathered_for_times_of_any_shape():
    tables = torch.rand(3, 1, K, K, generator=rng(2))
    x = torch.arange(12).reshape(3, 4) % K
    found = rows(tables, x)
    for i in range(3):
        assert torch.equal(found[i], tables[i, 0][x[i]])
    assert torch.equal(rows(tables[0, 0], x), tables[0, 0][x])


# ------------------------------------------------------------------ what is refused

UNIFORM = UniformDiscreteDiffusion
PIS = IndependentDiscreteDiffusion
MIXED = MixtureDiscreteDiffusion
X = torch.tensor([[0, 5], [1, 2]])
LOGITS = torch.zeros(2, 2, K)
BAD = [
    (ValueError, lambda: UNIFORM(0.0, 5), "rate to be positive; got 0.0."),
    (TypeError, lambda: UNIFORM("1", 5), "rate to be a number; got '1'."),
    (ValueError, lambda: UNIFORM(1.0, 1), "k to be an integer of at least 2; got 1."),
    (ValueError, lambda: UNIFORM(1.0, 5.0), "k to be an integer of at least 2; got 5.0."),
    (ValueError, lambda: UNIFORM.from_substitution_rate(-1.0, 5), "rate to be positive; got"),
    (ValueError, lambda: MaskingDiscreteDiffusion(-1.0, 5), "rate to be positive; got -1.0."),
    (ValueError, lambda: MaskingDiscreteDiffusion(1.0, True), "k to be an integer of at least"),
    (ValueError, lambda: PIS(0.0, PI), "rate to be positive; got 0.0."),
    (TypeError, lambda: PIS(1.0, "law"), "pi to hold numbers; got 'law'."),
    (TypeError, lambda: PIS(1.0, ["a", "b"]), "pi to hold numbers; got a list of length 2."),
    (ValueError, lambda: PIS(1.0, [[0.5, 0.5]]), "pi to have 1 dimension; got shape (1, 2)."),
    (ValueError, lambda: PIS(1.0, [1.0]), "pi to have at least 2 states; got 1."),
    (ValueError, lambda: PIS(1.0, [0.5, math.nan]), "pi to be finite; got nan."),
    (ValueError, lambda: PIS(1.0, [1.5, -0.5]), "pi to be at least 0; got -0.5."),
    (ValueError, lambda: PIS(1.0, [0.0, 0.0]), "pi to have a positive sum; got 2 zeros"),
    (
        ValueError,
        lambda: PIS.from_substitution_rate(1.0, [0.0, 1.0]),
        "pi to have mass on more than one state; got one.",
    ),
    (ValueError, lambda: MIXED(1.0, PI, 1.5), "mask to lie in [0, 1]; got 1.5."),
    (TypeError, lambda: MIXED(1.0, PI, None), "mask to be a number; got None."),
    (
        ValueError,
        lambda: MASKING.sample_bridge(X, X, 0.1, 0.5),
        "x_0 to hold clean tokens, no mask, in [0, 5); got values from 0 to 5.",
    ),
    (ValueError, lambda: MASKING.error(LOGITS, X), "x_0 to hold clean tokens, no mask, in [0,"),
    (ValueError, lambda: MASKING.sample_forward(X + 1, 0.5), "x to hold tokens in [0, 6); got v"),
    (
        ValueError,
        lambda: MASKING.endpoint(torch.zeros(2, 2, 6), X, 0.5),
        "logits to have shape (2, 2, 5); got (2, 2, 6).",
    ),
    (ValueError, lambda: MASKING.posterior(LOGITS[:1], X, 0.5), "logits to have shape (2, 2, 5)"),
    (TypeError, lambda: MASKING.leave_one_out(X, X, 0.5), "logits of shape (2, 2, 5) for Maski"),
    (TypeError, lambda: MASKING.reverse_probs(X, X, 0.1, 0.5), "logits of shape (2, 2, 5) for M"),
    (ValueError, lambda: MASKING.reverse_probs(LOGITS, X, 0.6, 0.5), "the time s to be at most t"),
    (ValueError, lambda: MASKING.bridge_probs(X, X, 0.1, 0.5), "x_0 to hold clean tokens, no ma"),
    (ValueError, lambda: MASKING.posterior(LOGITS, X + 1, 0.5), "x_t to hold tokens in [0, 6); g"),
    (ValueError, lambda: D3PM.log_prob(X % 5, X % 5, 0.5), "the time t to be an integer from 0 "),
]


@pytest.mark.parametrize(("error", "call", "words"), BAD)
def test_what_is_refused(error, call, words):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(f"Expected {words}")


def test_a_law_that_sums_to_one_within_rounding_is_divided_by_its_sum():
    pi = torch.tensor(PI, dtype=torch.float32) * (1 + 5e-7)
    process = IndependentDiscreteDiffusion(1.0, pi)
    assert process.pi.dtype == DOUBLE
    assert process.pi.sum().item() == pytest.approx(1.0, abs=1e-15)
    assert torch.equal(process.pi == 0, pi == 0)
