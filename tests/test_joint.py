import math

import pytest
import torch
from scipy import stats

from bridges import (
    Joint,
    OrnsteinUhlenbeckDiffusion,
    RotationDiffusion,
    UniformDiscreteDiffusion,
    WrappedBrownianDiffusion,
    sample_backward,
    trajectory,
)

P_MIN = 1e-4
POS = OrnsteinUhlenbeckDiffusion(0.5)
SEQ = UniformDiscreteDiffusion(1.0, 5)
ANGLE = WrappedBrownianDiffusion(0.7)
ROT = RotationDiffusion(0.9)
NAMED = Joint(pos=POS, seq=SEQ, rot=ROT)
SHAPES = {"pos": (4, 6, 3), "seq": (4, 6), "rot": (4,)}


def rng(seed):
    return torch.Generator().manual_seed(seed)


def equal(a, b):
    """Whether two structures are alike and equal bit for bit."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return type(b) is tuple and len(a) == len(b) and all(map(equal, a, b))
    return a.dtype == b.dtype and torch.equal(a, b)


def state(seed=0):
    return NAMED.sample_prior(SHAPES, generator=rng(seed))


def logits(shape, seed=1):
    return torch.randn(*shape, 5, generator=rng(seed))


# ------------------------------------------------------------------ structure


def test_a_joint_is_its_parts_in_order():
    """The same generator walks through the parts one after the other."""
    x, t = state(), torch.tensor([0.1, 0.5, 1.0, 2.0])
    draws = rng(2)
    apart = {k: p.sample_forward(x[k], t, generator=draws) for k, p in NAMED.parts.items()}
    assert equal(NAMED.sample_forward(x, t, generator=rng(2)), apart)
    draws = rng(3)
    apart = {
        k: p.sample_bridge(x[k], apart[k], 0.05, t, generator=draws)
        for k, p in NAMED.parts.items()
    }
    x_t = NAMED.sample_forward(x, t, generator=rng(2))
    assert equal(NAMED.sample_bridge(x, x_t, 0.05, t, generator=rng(3)), apart)


def test_tuples_and_dicts_draw_the_same():
    x = state()
    tupled = Joint(POS, SEQ, ROT)
    x_t = NAMED.sample_forward(x, 0.4, generator=rng(4))
    assert equal(
        tupled.sample_forward(tuple(x.values()), 0.4, generator=rng(4)), tuple(x_t.values())
    )
    prior = tupled.sample_prior(tuple(SHAPES.values()), generator=rng(0))
    assert equal(prior, tuple(x.values()))


def test_methods_return_structures_of_the_parts():
    x, t = state(), torch.tensor([0.1, 0.5, 1.0, 2.0])
    x_t = NAMED.sample_forward(x, t, generator=rng(5))
    prediction = {"pos": x["pos"] + 1, "seq": logits((4, 6)), "rot": x["rot"]}
    both = Joint(pos=POS, rot=ROT)
    pair, pair_t = ({k: y[k] for k in ("pos", "rot")} for y in (x, x_t))
    for name, found in {
        "log_prob": both.log_prob(pair_t, pair, t),
        "score": both.score(pair_t, pair, t),
    }.items():
        assert equal(found, {k: getattr(p, name)(x_t[k], x[k], t) for k, p in both.parts.items()})
    assert equal(
        NAMED.error(prediction, x),
        {k: p.error(prediction[k], x[k]) for k, p in NAMED.parts.items()},
    )
    assert equal(NAMED.loss_scale(t), {k: p.loss_scale(t) for k, p in NAMED.parts.items()})
    found = NAMED.endpoint(prediction, x_t, t, generator=rng(6))
    draws = rng(6)
    assert equal(
        found,
        {k: p.endpoint(prediction[k], x_t[k], t, generator=draws) for k, p in NAMED.parts.items()},
    )


def test_keys_may_come_in_any_order():
    x = state()
    shuffled = {k: x[k] for k in ("rot", "pos", "seq")}
    assert equal(
        NAMED.sample_forward(shuffled, 0.4, generator=rng(7)),
        NAMED.sample_forward(x, 0.4, generator=rng(7)),
    )


@pytest.mark.parametrize("deep", [0.0, (0.3, 0.0), (0.3, {"seq": 0.0, "rot": 0.9})])
def test_nesting(deep):
    process = Joint(POS, Joint(ANGLE, Joint(seq=SEQ, rot=ROT)))
    x = process.sample_prior(((5, 2), ((5,), {"seq": (5, 3), "rot": (5,)})), generator=rng(8))
    x_t = process.sample_forward(x, (0.4, deep), generator=rng(9))
    assert not torch.equal(x_t[0], x[0])
    assert equal(x_t[1][1]["seq"], x[1][1]["seq"])
    if deep == 0.0:
        assert equal(x_t[1], x[1])
    else:
        assert not torch.equal(x_t[1][0], x[1][0])
        assert equal(x_t[1][1]["rot"], x[1][1]["rot"]) == (deep[1] == 0.0)
    mask = (torch.tensor(False), (torch.tensor(True), torch.tensor(False)))
    masked = process.where(mask).sample_forward(x, 0.7, generator=rng(10))
    assert equal((masked[0], masked[1][1]), (x[0], x[1][1]))
    assert not torch.equal(masked[1][0], x[1][0])


# ------------------------------------------------------------------ times


@pytest.mark.parametrize("rest", [0.6, torch.tensor([0.1, 0.5, 1.0, 2.0])])
@pytest.mark.parametrize("zero", [0.0, torch.zeros(4)])
@pytest.mark.parametrize("still", ["pos", "seq", "rot"])
def test_a_part_at_time_zero_stays_bit_for_bit(still, zero, rest):
    x, prediction = state(), dict(state(11), seq=logits((4, 6)))
    t = {k: zero if k == still else rest for k in SHAPES}
    x_t = NAMED.sample_forward(x, t, generator=rng(12))
    for key in SHAPES:
        assert torch.equal(x_t[key], x[key]) == (key == still)
    if still == "rot" and isinstance(zero, torch.Tensor):
        return  # a rotation at per-example ends: see test_rotation.py
    x_s = NAMED.sample_bridge(x, x_t, {k: 0.5 * v for k, v in t.items()}, t, generator=rng(13))
    assert torch.equal(x_s[still], x[still])
    if isinstance(rest, float):
        stayed, _ = NAMED.sample_step(prediction, x_t, t, t, generator=rng(14))
        assert equal(stayed, x_t)


def test_one_time_of_each_kind_per_part():
    x = state()
    t = {"pos": torch.rand(4, 6, 3), "seq": torch.rand(4, 6), "rot": 0.4}
    x_t = NAMED.sample_forward(x, t, generator=rng(15))
    assert {k: v.shape for k, v in x_t.items()} == {k: v.shape for k, v in x.items()}


def test_members_are_independent():
    n = 40_000
    process = Joint(POS, ANGLE)
    x = (torch.zeros(n), torch.zeros(n))
    x_t = process.sample_forward(x, 0.5, generator=rng(16))
    x_s = process.sample_bridge(x, x_t, 0.2, 0.5, generator=rng(17))
    for a, b in (x_t, x_s, (x_t[0], x_s[1])):
        assert stats.spearmanr(a, b).pvalue > P_MIN
        assert stats.spearmanr(a.abs(), b.abs()).pvalue > P_MIN
    law = stats.norm(0.5 * -math.expm1(-0.25), math.sqrt(-math.expm1(-0.5)))
    assert stats.kstest(x_t[0].double().numpy(), law.cdf).pvalue > P_MIN


def test_eta_and_temperature_per_part():
    x, prediction = state(), dict(state(18), seq=logits((4, 6)))
    eta = {"pos": 0.0, "seq": 1.0, "rot": 0.0}
    steps = [
        NAMED.sample_step(prediction, x, 0.2, 0.5, eta=eta, generator=rng(i))[0] for i in (1, 2)
    ]
    assert torch.equal(steps[0]["pos"], steps[1]["pos"])
    assert torch.equal(steps[0]["rot"], steps[1]["rot"])
    assert not torch.equal(steps[0]["seq"], steps[1]["seq"])
    cold = NAMED.tempered({"pos": 1e-9, "seq": 1e-9, "rot": 1.0})
    step, x_0_hat = cold.sample_step(prediction, x, 0.2, 0.5, generator=rng(19))
    assert torch.equal(x_0_hat["seq"], prediction["seq"].argmax(-1))
    straight = POS.sample_bridge(prediction["pos"], x["pos"], 0.2, 0.5, generator=rng(20))
    assert (step["pos"] - straight).abs().max() > 0.1
    again = cold.sample_step(prediction, x, 0.2, 0.5, generator=rng(21))[0]
    torch.testing.assert_close(step["pos"], again["pos"])
    assert not torch.equal(step["rot"], again["rot"])
    with pytest.raises(ValueError, match="Expected eta to be 1 for tokens"):
        NAMED.sample_step(prediction, x, 0.2, 0.5, eta=0.0)


# ------------------------------------------------------------------ sampling


def test_a_part_kept_clean_while_the_other_is_generated():
    x = state()
    grid = [0.0, 0.5, 2.0]
    grids = {"pos": grid, "seq": [0.0, 0.0, 0.0], "rot": torch.tensor([0.0, 0.3, 1.0])}
    target = dict(state(22), seq=logits((4, 6)))
    seen = []

    def guess(x_t, t):
        seen.append((x_t, t))
        return target

    steps = list(trajectory(guess, NAMED, grids, x, generator=rng(23)))
    assert [step.s for step in steps] == [
        {"pos": 0.5, "seq": 0.0, "rot": pytest.approx(0.3)},
        {"pos": 0.0, "seq": 0.0, "rot": 0.0},
    ]
    assert all(torch.equal(step.x_s["seq"], x["seq"]) for step in steps)
    assert torch.equal(steps[-1].x_s["pos"], target["pos"])
    for (_, t), expected in zip(seen, [(2.0, 0.0, 1.0), (0.5, 0.0, 0.3)], strict=True):
        for key, value in zip(SHAPES, expected, strict=True):
            torch.testing.assert_close(t[key], torch.full((4,), value))


def test_one_grid_gives_the_guess_one_time():
    seen = []

    def guess(x_t, t):
        seen.append(t)
        return dict(x_t, seq=logits((4, 6)))

    x = {k: v.double() if v.is_floating_point() else v for k, v in state().items()}
    sample_backward(guess, NAMED, [0.0, 1.0], x, generator=rng(24))
    torch.testing.assert_close(seen, [torch.ones(4, dtype=torch.float64)])


# ------------------------------------------------------------------ what a Joint may be


def test_construction():
    with pytest.raises(ValueError, match="Expected a Joint to have parts by position or by name"):
        Joint()
    with pytest.raises(ValueError, match="Expected a Joint to have parts by position or by name"):
        Joint(POS, seq=SEQ)
    with pytest.raises(TypeError, match="Expected part 1 to be a Process; got 'x'"):
        Joint(POS, "x")
    assert repr(Joint(a=POS, b=SEQ)) == f"Joint(a={POS!r}, b={SEQ!r})"
    assert repr(Joint(POS)) == f"Joint({POS!r})"


def test_a_part_without_a_mask_is_left_whole():
    x = state()
    off = torch.zeros(4, 6, dtype=torch.bool)
    masked = NAMED.where({"pos": off, "seq": None, "rot": None})
    x_t, free = (p.sample_forward(x, 0.7, generator=rng(31)) for p in (masked, NAMED))
    assert torch.equal(x_t["pos"], x["pos"])
    assert torch.equal(x_t["seq"], free["seq"])
