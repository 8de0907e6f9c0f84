"""What a network says that is no token: an error on the CPU, −1 where nobody may look."""

import math

import pytest
import torch

import bridges as br
from bridges import _device

K = 4
RATES = torch.tensor([[-2.0, 2, 0, 0], [0, -1, 1, 0], [1, 0, -2, 1], [1, 1, 1, -3]])
PI = [0.4, 0.3, 0.2, 0.1]
STEPS = br.DiscreteTimeDiffusion.uniform([0.3, 0.4, 0.5], K)
ABSORBING = br.DiscreteTimeDiffusion.absorbing([0.3, 0.4, 0.5], K)
PROCESSES = {
    "uniform": (br.UniformDiscreteDiffusion(0.8, K), 0.2, 0.7),
    "independent": (br.IndependentDiscreteDiffusion(0.8, PI), 0.2, 0.7),
    "masking": (br.MaskingDiscreteDiffusion(0.8, K), 0.2, 0.7),
    "mixture": (br.MixtureDiscreteDiffusion(0.8, PI, 0.5), 0.2, 0.7),
    "general": (br.GeneralDiscreteDiffusion(RATES), 0.2, 0.7),
    "steps": (STEPS, 1, 3),
    "absorbing": (ABSORBING, 1, 3),
    "remasking": (br.Remasking(br.MaskingDiscreteDiffusion(0.8, K), 0.4), 0.2, 0.7),
    "clocked": (br.UniformDiscreteDiffusion(0.8, K).on(br.PowerClock(2.0)), 0.2, 0.7),
    "tempered": (br.UniformDiscreteDiffusion(0.8, K).tempered(0.5), 0.2, 0.7),
}
every = pytest.mark.parametrize("name", PROCESSES)
SENTENCE = "Expected logits to have a softmax; got NaN, all −∞ or ∞ for 2 of 8 tokens"


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def noised(process):
    """Return states at the prior: masks where there are masks."""
    return process.sample_prior((2, 4), generator=rng(1)) * torch.ones(2, 4, dtype=torch.int64)


def spoiled(bad, rows=((0, 1), (1, 2))):
    logits = torch.randn(2, 4, K, generator=rng(2))
    for row in rows:
        logits[row] = torch.tensor(bad)
    return logits


BAD = {
    "nan": [0.0, math.nan, 0.0, 0.0],
    "all nan": [math.nan] * K,
    "all -inf": [-math.inf] * K,
    "all inf": [math.inf] * K,
    "inf": [0.0, math.inf, 0.0, 0.0],
    "nan and -inf": [-math.inf, math.nan, -math.inf, 0.0],
}
bads = pytest.mark.parametrize("bad", BAD.values(), ids=list(BAD))


@pytest.fixture
def _blind(monkeypatch):
    """Take the way of a device, where nobody may look."""
    for module in ("_device", "_draw", "_inversion", "token_process", "prediction"):
        monkeypatch.setattr(f"bridges.{module}.may_look", lambda x: False)


@bads
@every
def test_it_raises_on_the_cpu(name, bad):
    process, s, t = PROCESSES[name]
    x_t, logits = noised(process), spoiled(bad)
    for said in (logits, br.PlugIn(logits), logits.double(), logits.bfloat16()):
        with pytest.raises(ValueError, match=SENTENCE):
            process.endpoint(said, x_t, t, generator=rng())
        with pytest.raises(ValueError, match=SENTENCE):
            process.sample_step(said, x_t, s, t, generator=rng())
    with pytest.raises(ValueError, match=SENTENCE):
        br.sample_backward(lambda x, t: logits, process, [0, s, t], x_t, generator=rng())


@bads
@pytest.mark.usefixtures("_blind")
@every
def test_it_is_minus_one_on_a_device(name, bad):
    process, s, t = PROCESSES[name]
    x_t, logits = noised(process), spoiled(bad)
    wrong = torch.zeros(2, 4, dtype=torch.bool)
    wrong[0, 1] = wrong[1, 2] = True
    for said in (logits, br.PlugIn(logits)):
        x_0_hat = process.endpoint(said, x_t, t, generator=rng())
        x_s, again = process.sample_step(said, x_t, s, t, generator=rng())
        for x in (x_0_hat, x_s, again):
            assert torch.equal(x == -1, wrong)
            assert (x[~wrong] >= 0).all()
    times = [0, s, t]
    last = br.sample_backward(lambda x, t: spoiled(bad), process, times, x_t, generator=rng())
    assert torch.equal(last == -1, wrong)


@pytest.mark.usefixtures("_blind")
@every
def test_what_is_no_token_stays_so(name):
    """The first guess is spoiled and the later ones are not: no legal value comes back."""
    process, s, t = PROCESSES[name]
    guesses = iter([spoiled(BAD["nan"]), spoiled([0.0] * K)])
    x = br.sample_backward(
        lambda x, t: next(guesses), process, [0, s, t], noised(process), generator=rng()
    )
    assert (x[0, 1], x[1, 2]) == (-1, -1)
    assert (x >= 0).sum() == 6


@pytest.mark.parametrize("name", [name for name in PROCESSES if name != "tempered"])
def test_integers_outside_the_tokens(name, monkeypatch):
    process, s, t = PROCESSES[name]
    x_t, said = noised(process), torch.tensor([[0, 1, -1, 2], [3, K, K + 3, 0]])
    for call in (
        lambda: process.endpoint(said, x_t, t),
        lambda: process.sample_step(said, x_t, s, t, generator=rng()),
        lambda: process.endpoint(said.int(), x_t, t),
    ):
        with pytest.raises(ValueError, match=r"tokens to lie in \[0, 4\); got others for 3 of 8"):
            call()
    for module in ("_device", "_draw", "token_process"):
        monkeypatch.setattr(f"bridges.{module}.may_look", lambda x: False)
    x_s, x_0_hat = process.sample_step(said, x_t, s, t, generator=rng())
    wrong = (said < 0) | (said >= K)
    assert torch.equal(x_0_hat == -1, wrong)
    assert torch.equal(x_s == -1, wrong)


def test_what_is_told_needs_no_guess():
    """A revealed token carries over, and so does what a mask holds, whatever is said of it."""
    process, x_t = br.MaskingDiscreteDiffusion(1.0, K), torch.tensor([K, 2, K, 1])
    logits = torch.randn(4, K, generator=rng())
    logits[1], logits[3] = math.nan, math.inf
    x_0_hat = process.endpoint(logits, x_t, 0.5, generator=rng())
    assert (x_0_hat[1], x_0_hat[3]) == (2, 1)
    logits[2] = math.nan
    with pytest.raises(ValueError, match="for 1 of 4 tokens"):
        process.endpoint(logits, x_t, 0.5)
    held = process.where(torch.tensor([True, True, False, True]))
    assert held.endpoint(logits, x_t, 0.5, generator=rng())[2] == K


def test_one_minus_infinity_is_legal():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, -math.inf]]).expand(50, K)
    process = br.UniformDiscreteDiffusion(1.0, K)
    x = process.endpoint(logits, torch.zeros(50, dtype=torch.int64), 0.5, generator=rng())
    assert (x == 1).all()


@bads
def test_first_hitting(bad, monkeypatch):
    process, x = br.MaskingDiscreteDiffusion(1.0, K), torch.full((2, 4), K)
    guess = lambda x_t, t: spoiled(bad)  # noqa: E731
    with pytest.raises(ValueError, match="Expected logits to have a softmax"):
        br.sample_by_first_hitting(guess, process, x, 3.0, generator=rng())
    for module in ("_device", "_draw", "_inversion", "token_process"):
        monkeypatch.setattr(f"bridges.{module}.may_look", lambda x: False)
    found = br.sample_by_first_hitting(guess, process, x, 3.0, generator=rng())
    assert (found == -1).sum() == 2


@bads
@pytest.mark.parametrize(
    ("process", "x_t"),
    [
        (br.OrnsteinUhlenbeckDiffusion(0.0), torch.zeros(2, 4)),
        (br.WrappedBrownianDiffusion(1.0), torch.zeros(2, 4)),
        (br.RotationDiffusion(1.0), torch.eye(3).expand(2, 4, 3, 3)),
        (br.SphereDiffusion(1.0), torch.eye(3)[0].expand(2, 4, 3)),
    ],
)
def test_mixtures(process, x_t, bad, monkeypatch):
    centre = x_t.unsqueeze(2).expand(2, 4, K, *x_t.shape[2:])
    mixture = br.Mixture(spoiled(bad), centre, torch.full((2, 4, K), 0.1))
    for call in (
        process.endpoint,
        lambda *a, **k: process.sample_step(a[0], a[1], 0.1, a[2], **k),
    ):
        with pytest.raises(ValueError, match=SENTENCE):
            call(mixture, x_t, 0.5, generator=rng())
    for module in ("_draw", "_inversion", "prediction"):
        monkeypatch.setattr(f"bridges.{module}.may_look", lambda x: False)
    point = process.endpoint(mixture, x_t, 0.5, generator=rng())
    lost = point.reshape(2, 4, -1).isnan().any(-1)
    assert lost.sum() == 2
    assert lost[0, 1]
    assert lost[1, 2]


def test_a_draw_by_hand():
    draws = br.StreamDraws(3, torch.arange(2))
    logits = spoiled(BAD["nan"])
    with pytest.raises(ValueError, match=SENTENCE):
        draws.categorical(logits)
    unused = torch.zeros(2, 4, dtype=torch.bool)
    unused[0, 1] = True
    with pytest.raises(ValueError, match="for 1 of 8 tokens"):
        draws.categorical(logits, unused=unused)
    unused[1, 2] = True
    assert (draws.categorical(logits, unused=unused)[~unused] >= 0).all()


def test_nobody_looks_in_compiled_code_or_transforms():
    seen = []

    def watch(x):
        seen.append(_device.may_look(x))
        return x + 1

    watch(torch.zeros(2))
    torch.compile(watch, backend="eager")(torch.zeros(2))
    torch.vmap(watch)(torch.zeros(2, 3))
    torch.func.grad(lambda x: watch(x).sum())(torch.zeros(2))
    watch(torch.empty(2, device="meta"))
    assert seen == [True, False, False, False, False]


@pytest.mark.parametrize("name", [name for name in PROCESSES if name != "tempered"])
def test_compiled_code_returns_minus_one(name):
    process, s, t = PROCESSES[name]
    x_t, logits = noised(process), spoiled(BAD["nan"])
    s, t = (torch.tensor(float(u), dtype=torch.float64) for u in (s, t))
    noise = torch.rand(2, 4, 1, generator=rng(), dtype=torch.float64)

    def endpoint(logits, x_t, noise):
        given = br.GivenDraws(uniforms=[noise])
        return process._endpoint(logits, x_t, t, given)

    torch.compiler.reset()  # a function compiled for many processes is compiled no more
    found = torch.compile(endpoint, backend="eager", fullgraph=True)(logits, x_t, noise)
    assert (found == -1).sum() == 2
