"""What is read from a network: the posterior, the plug-in reading, and the law of one step."""

import math

import numpy as np
import pytest
import torch

from bridges import PlugIn, PowerClock
from test_categorical import chi2, rng
from test_jumps import ALL, DOUBLE, EVERY, INDEPENDENT, MASKING, P_MIN, per_row, times_of
from token_cases import JUMPS, TABLES, K, bridge_table, transition

DATA = np.array([0.5, 0.02, 0.3, 0.08, 0.1])


def dense(rates, s, t):
    return torch.from_numpy(transition(rates, s, t))


def law_of(k, seed=1):
    return torch.rand(k, generator=rng(seed), dtype=DOUBLE) ** 2 + 0.01


def all_x_t(process, t, kind):
    """Every x_t once, and a time for each or for all."""
    x_t = torch.arange(process.states)
    return x_t, (t if kind == "number" else per_row(t, x_t))


@EVERY
@pytest.mark.parametrize("kind", ["number", "tensor"])
def test_the_posterior_is_that_of_bayes(name, kind):
    process, rates = ALL[name]
    prior = law_of(process.k)
    for _, t in times_of(name):
        x_t, time = all_x_t(process, t, kind)
        logits = (7.0 + prior.log()).expand(len(x_t), -1)
        joint = prior * dense(rates, 0, t)[: process.k].T
        posterior = process.posterior(logits, x_t, time)
        assert posterior.isfinite().all()
        found = posterior.softmax(-1)
        exact = joint / joint.sum(-1, keepdim=True)
        known = joint > 1e-15 if name in ("ladder", "arrows") else joint >= 0
        torch.testing.assert_close(found[known], exact[known], rtol=1e-9, atol=1e-200)
        back = process.leave_one_out(posterior, x_t, time).log_softmax(-1)
        torch.testing.assert_close(back, logits.log_softmax(-1), rtol=0, atol=1e-10)


@EVERY
@pytest.mark.parametrize("kind", ["number", "tensor"])
def test_the_plug_in_reading_of_leave_one_out_logits_is_its_closed_form(name, kind):
    """Probabilities in place of x_0: p(x_s | x_t) ∝ p(x_s) p(x_t | x_s)."""
    process, rates = ALL[name]
    prior = law_of(process.k)
    for s, t in times_of(name):
        x_t, time = all_x_t(process, t, kind)
        closed = (prior @ dense(rates, 0, s)[: process.k]) * dense(rates, s, t).T
        closed = closed / closed.sum(-1, keepdim=True)
        plug_in = PlugIn(prior.log().expand(len(x_t), -1))
        found = process.reverse_probs(plug_in, x_t, s, time)
        torch.testing.assert_close(found, closed, rtol=0, atol=1e-12)


@EVERY
@pytest.mark.parametrize("kind", ["number", "tensor"])
def test_the_law_of_a_step_is_the_mean_of_the_bridges(name, kind):
    process, rates = ALL[name]
    probs = law_of(process.k)
    for s, t in times_of(name):
        if name in ("ladder", "arrows") and s == 1e-6:
            continue  # there the oracle's own digits end
        x_t, time = all_x_t(process, t, kind)
        possible = dense(rates, 0, t)[: process.k].T > 1e-14
        p = torch.where(possible, probs, 0.0)
        p = p / p.sum(-1, keepdim=True)
        bridges = bridge_table(rates, s, t)[: process.k].nan_to_num(0.0)
        exact = torch.einsum("yx,xyz->yz", p, bridges)
        found = process.reverse_probs(probs.log().expand(len(x_t), -1), x_t, s, time)
        assert found.dtype == DOUBLE
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.sum(-1), torch.ones(len(x_t), dtype=DOUBLE))


@EVERY
@pytest.mark.parametrize("wrap", [lambda logits: logits, PlugIn], ids=["posterior", "plug-in"])
def test_steps_draw_from_that_law(name, wrap):
    process, _ = ALL[name]
    (s, t), n = times_of(name)[0], 30_000
    for y in range(process.states):
        x_t = torch.full((n,), y)
        logits = law_of(process.k, y).log().float().expand(n, -1)
        x_s, x_0 = process.sample_step(wrap(logits), x_t, s, t, generator=rng(y))
        law = process.reverse_probs(wrap(logits[:1]), x_t[:1], s, t)[0]
        first = process.reverse_probs(wrap(logits[:1]), x_t[:1], 0.0, t)[0]
        assert chi2(x_s, law) > P_MIN / 10
        assert chi2(x_0, first) > P_MIN / 10


@EVERY
def test_a_true_posterior_takes_the_law_at_t_to_the_law_at_s(name):
    """For a token by itself, the others say nothing: its leave-one-out law is that of the data."""
    process, rates = ALL[name]
    data = torch.from_numpy(DATA)
    for s, t in times_of(name):
        at_s, at_t = (data @ dense(rates, 0, u)[: process.k] for u in (s, t))
        x_t = torch.arange(process.states)[at_t > 0]
        plug_in = PlugIn(data.log().expand(len(x_t), -1))
        logits = process.posterior(plug_in.logits, x_t, t)
        for prediction in (plug_in, logits):
            law = at_t[at_t > 0] @ process.reverse_probs(prediction, x_t, s, t)
            torch.testing.assert_close(law, at_s, rtol=0, atol=1e-11)


@pytest.mark.parametrize("steps", [16, 128, 1024])
def test_plug_in_with_the_posterior_in_its_place_is_biased(steps):
    """By a total variation of more than 0.1 on one token, however small the steps are."""
    process, rates = TABLES["uniform"]
    data, x_t = torch.from_numpy(DATA), torch.arange(K)
    law = torch.full((K,), 1 / K, dtype=DOUBLE)
    right, wrong, times = law, law, torch.linspace(1e-6, 12.0, steps + 1).tolist()
    for s, t in zip(times[-2::-1], times[:0:-1], strict=True):
        posterior = process.posterior(data.log().expand(K, -1), x_t, t)
        right = right @ process.reverse_probs(posterior, x_t, s, t)
        wrong = wrong @ process.reverse_probs(PlugIn(posterior), x_t, s, t)
    at_end = data @ dense(rates, 0, times[0])
    assert 0.5 * (right - at_end).abs().sum() < 1e-4
    assert 0.5 * (wrong - at_end).abs().sum() > 0.1


# ------------------------------------------------------------------ edges


@EVERY
def test_logits_and_gradients_stay_finite(name):
    """At t = 0, at tiny times, and where x_t rules an x_0 out."""
    process, _ = ALL[name]
    x_t = torch.arange(process.states)
    for t in (0.0, 1.0) if name == "discrete time" else (0.0, 1e-300, 1e-9, 1e3):
        logits = torch.randn(len(x_t), process.k, generator=rng(2), requires_grad=True)
        for f in (process.posterior, process.leave_one_out):
            found = f(logits, x_t, t)
            assert found.isfinite().all()
            (slope,) = torch.autograd.grad(found.softmax(-1)[:, 0].sum(), logits)
            assert slope.isfinite().all()
        law = process.reverse_probs(PlugIn(logits), x_t, 0.0 * t, t)
        assert law.isfinite().all()
        torch.testing.assert_close(law.sum(-1), torch.ones(len(x_t), dtype=DOUBLE))
        (slope,) = torch.autograd.grad(law[:, 1].sum(), logits)
        assert slope.isfinite().all()


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, DOUBLE])
def test_logits_keep_their_dtype_and_are_never_written_to(name, dtype):
    process, _ = ALL[name]
    logits = torch.randn(4, process.states, process.k, generator=rng(3)).to(dtype)
    before, x_t = logits.clone(), torch.arange(process.states).expand(4, -1)
    t = torch.tensor([1.0, 2.0, 3.0, 4.0])
    for f in (process.posterior, process.leave_one_out):
        assert f(logits, x_t, t).dtype == dtype
        assert f(logits, x_t, t).shape == logits.shape
    for prediction in (logits, PlugIn(logits)):
        process.sample_step(prediction, x_t, t - 1, t, generator=rng(4))
        process.error(prediction, x_t.clamp(max=process.k - 1), x_t=x_t, t=t)
        assert process.reverse_probs(prediction, x_t, t - 1, t).dtype == DOUBLE
    assert torch.equal(logits, before)


@pytest.mark.parametrize("name", JUMPS)
def test_only_one_logit_changes(name):
    process, _ = TABLES[name]
    logits = torch.randn(process.states, process.k, generator=rng(5), dtype=DOUBLE)
    x_t = torch.arange(process.states)
    change = process.posterior(logits, x_t, 0.7) - logits
    alpha, pi = math.exp(-0.7 * process.rate), process._pi(x_t).expand(process.states)
    exact = torch.log(1 + alpha / ((1 - alpha) * pi))
    for y in x_t.tolist():
        for x in range(process.k):
            if x != y:
                assert change[y, x] == 0
            elif pi[y] > 0:
                assert change[y, x].item() == pytest.approx(exact[y].item(), rel=1e-9)
            else:
                assert change[y, x] > 700


@EVERY
def test_errors(name):
    process, _ = ALL[name]
    logits = torch.randn(6, process.k, generator=rng(6), dtype=DOUBLE)
    x_0 = torch.tensor([0, 1, 2, 3, 4, 0])
    x_t = process.sample_forward(x_0, 4.0, generator=rng(7))
    exact = -process.posterior(logits, x_t, 4.0).log_softmax(-1)
    exact = exact.gather(-1, x_0.unsqueeze(-1)).squeeze(-1)
    told = (x_t == x_0) if process is MASKING else (x_t == 2) & (process is INDEPENDENT)
    exact = torch.where(torch.as_tensor(told), 0.0, exact)
    found = process.error(PlugIn(logits), x_0, x_t=x_t, t=4.0)
    torch.testing.assert_close(found, exact)
    with pytest.raises(ValueError, match="Expected x_t and t beside leave-one-out logits; got N"):
        process.error(PlugIn(logits), x_0, x_t=x_t)


def test_plug_in_off_a_mask_and_on_a_clock():
    process, _ = TABLES["uniform"]
    x_t, mask = torch.arange(4), torch.tensor([True, False, True, False])
    logits = torch.randn(4, K, generator=rng(8))
    logits[~mask] = math.nan
    clock = PowerClock(2.0, 0.5)
    plug_in = PlugIn(logits)
    x_s, x_0 = process.on(clock).where(mask).sample_step(plug_in, x_t, 0.2, 1.2, generator=rng(9))
    assert torch.equal(x_s[~mask], x_t[~mask])
    t = clock(torch.tensor(1.2, dtype=DOUBLE)).item()
    again = process.endpoint(PlugIn(logits.nan_to_num()), x_t, t, generator=rng(9))
    assert torch.equal(x_0[mask], again[mask])
    error = process.on(clock).where(mask).error(plug_in, x_t, x_t=x_t, t=1.2)
    assert error.isfinite().all()
    assert (error[~mask] == 0).all()
