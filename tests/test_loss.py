import math

import pytest
import torch

from bridges import (
    Joint,
    LinearClock,
    OrnsteinUhlenbeckDiffusion,
    PowerClock,
    RotationDiffusion,
    UniformDiscreteDiffusion,
    WrappedBrownianDiffusion,
    standardloss,
)

NAN = float("nan")
B, L, K = 4, 3, 5
POS = OrnsteinUhlenbeckDiffusion(0.5, 1.2, 0.8)
SEQ = UniformDiscreteDiffusion(0.7, K)
JOINT = Joint(pos=POS, seq=SEQ)
T = torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=torch.float64)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def batch():
    x_0 = {
        "pos": torch.randn(B, L, 2, generator=rng(1)),
        "seq": SEQ.sample_prior((B, L), generator=rng(2)),
    }
    guess = {
        "pos": torch.randn(B, L, 2, generator=rng(3)),
        "seq": torch.randn(B, L, K, generator=rng(4)),
    }
    return x_0, guess


# ------------------------------------------------------------------ scales


@pytest.mark.parametrize("t", [1e-8, 0.3, 2.0, 50.0])
def test_scales_are_those_of_diffusions_jl(t):
    r = 0.37
    exact = {
        OrnsteinUhlenbeckDiffusion(0.0, 1.0, r): math.sqrt(-math.expm1(-r * t)),
        WrappedBrownianDiffusion(r): 2 * math.sqrt(-math.expm1(-r * t / 8)),
        UniformDiscreteDiffusion(r, 20): math.sqrt(-math.expm1(-r * t)) * 19 / 20 * math.log(2),
        # There a quarter of the squared angle goes over √(1 − e^{−5rt}); our rate is 4r.
        RotationDiffusion(4 * r): 4 * math.sqrt(-math.expm1(-5 * r * t)),
        RotationDiffusion(r): 4 * math.sqrt(-math.expm1(-1.25 * r * t)),
    }
    for process, scale in exact.items():
        for time in (
            t,
            torch.tensor(t, dtype=torch.float64),
            torch.full((2, 3), t, dtype=torch.float64),
        ):
            found = process.loss_scale(time)
            assert found.dtype == torch.float64
            assert found.shape == torch.as_tensor(time).shape
            torch.testing.assert_close(found, torch.full_like(found, scale), rtol=1e-12, atol=0)


@pytest.mark.parametrize("period", [1.0, 360.0])
def test_the_scale_of_an_angle_follows_its_period(period):
    """In other units the loss is the same number of squared units."""
    unit = period / (2 * math.pi)
    radians, other = WrappedBrownianDiffusion(0.8), WrappedBrownianDiffusion(0.8 * unit**2, period)
    ours, theirs = (p.loss_scale(0.6).item() for p in (other, radians))
    assert ours == pytest.approx(theirs * unit**2)


def test_a_rotation_loss_by_hand():
    process, t = RotationDiffusion(4 * 0.3), 0.7
    turn = torch.tensor([[0.0, -0.6, 0.0], [0.6, 0.0, 0.0], [0.0, 0.0, 0.0]])
    prediction = torch.matrix_exp(turn).unsqueeze(0)
    loss = standardloss(process, t, prediction, torch.eye(3).unsqueeze(0))
    assert loss.total.item() == pytest.approx(
        0.36 / 4 / math.sqrt(-math.expm1(-5 * 0.3 * t)), rel=1e-5
    )
    assert loss.counts == 1


# ------------------------------------------------------------------ sums, counts, parts


def test_totals_by_hand():
    x_0, guess = batch()
    loss = standardloss(JOINT, T, guess, x_0)
    square = ((guess["pos"] - x_0["pos"]) ** 2).double()
    by_scale = square / torch.sqrt(1 - torch.exp(-0.8 * T))[:, None, None]
    logs = torch.log_softmax(guess["seq"].double(), -1)
    nats = -logs.gather(-1, x_0["seq"].unsqueeze(-1)).squeeze(-1)
    scaled = nats / (torch.sqrt(1 - torch.exp(-0.7 * T)) * 0.8 * math.log(2))[:, None]
    exact = {"pos": by_scale, "seq": scaled}
    for key, value in exact.items():
        assert loss.sums[key].item() == pytest.approx(value.sum().item(), rel=1e-5)
        assert loss.counts[key].item() == value.numel()
        assert loss.parts[key].item() == pytest.approx(value.mean().item(), rel=1e-5)
    assert loss.total.item() == pytest.approx(
        sum(v.mean().item() for v in exact.values()), rel=1e-5
    )


def test_sums_and_counts_add_up_over_batches():
    x_0, guess = batch()
    mask = torch.tensor([True, False, True, True])
    whole = standardloss(JOINT, T, guess, x_0, mask=mask)
    halves = [
        standardloss(
            JOINT,
            T[i : i + 2],
            {k: v[i : i + 2] for k, v in guess.items()},
            {k: v[i : i + 2] for k, v in x_0.items()},
            mask=mask[i : i + 2],
        )
        for i in (0, 2)
    ]
    for key in whole.sums:
        torch.testing.assert_close(whole.sums[key], sum(h.sums[key] for h in halves))
        assert whole.counts[key] == sum(h.counts[key] for h in halves)


@pytest.mark.parametrize(
    "t",
    [
        0.5,
        torch.rand(B, generator=rng(5)),
        torch.rand(B, L, generator=rng(5)),
        torch.rand(B, L, 2, generator=rng(5)),
    ],
)
def test_times_of_every_rank(t):
    x_0, guess = batch()
    loss = standardloss(POS, t, guess["pos"], x_0["pos"])
    spread = torch.as_tensor(t).double()
    spread = spread.reshape(*spread.shape, *[1] * (3 - spread.ndim)).expand(B, L, 2)
    exact = (guess["pos"] - x_0["pos"]) ** 2 / torch.sqrt(1 - torch.exp(-0.8 * spread))
    assert loss.total.item() == pytest.approx(exact.mean().item(), rel=1e-5)


def test_clean_elements_are_not_counted():
    x_0, guess = batch()
    t = {"pos": torch.tensor([0.0, 0.5, 0.0, 1.0]), "seq": torch.zeros(B)}
    guess["pos"][0] = NAN
    guess = {k: v.requires_grad_() for k, v in guess.items()}
    loss = standardloss(JOINT, t, guess, x_0)
    assert loss.counts["pos"] == 2 * L * 2
    assert loss.counts["seq"] == 0
    assert loss.parts["seq"] == 0
    only = standardloss(POS, t["pos"][[1, 3]], guess["pos"][[1, 3]], x_0["pos"][[1, 3]])
    torch.testing.assert_close(loss.total, only.total)
    loss.total.backward()
    assert guess["pos"].grad[1:].isfinite().all()
    assert (guess["seq"].grad == 0).all()
    for zero in (0.0, torch.zeros(())):
        assert standardloss(JOINT, zero, guess, x_0).total == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_elements_of_a_loss(dtype):
    x_0, guess = ({k: v.to(dtype) if k == "pos" else v for k, v in x.items()} for x in batch())
    mask = torch.rand(B, L, generator=rng(8)) < 0.6
    loss = standardloss(JOINT, T, guess, x_0, mask=mask)
    square = (guess["pos"] - x_0["pos"]).float() ** 2
    for key, element in loss.elements.items():
        assert element.shape == (x_0[key].shape if key == "pos" else (B, L))
        assert element.dtype == torch.promote_types(guess[key].dtype, torch.float32)
        assert (element[~mask] == 0).all()
        torch.testing.assert_close(element.sum(), loss.sums[key])
    scale = torch.sqrt(1 - torch.exp(-0.8 * T)).float().reshape(B, 1, 1)
    exact = mask.unsqueeze(-1) * square / scale
    torch.testing.assert_close(loss.elements["pos"].float(), exact, rtol=2e-3, atol=1e-5)


# ------------------------------------------------------------------ masks


def spoil(x, mask):
    x = x.clone()
    x[~mask] = NAN if x.is_floating_point() else -1
    return x


@pytest.mark.parametrize("with_process", [False, True])
@pytest.mark.parametrize(
    "mask", [torch.tensor([True, False, True, True]), torch.rand(B, L, generator=rng(6)) < 0.6]
)
def test_masked_elements_do_not_count_whatever_stands_there(mask, with_process):
    x_0, guess = batch()
    on = mask.reshape(*mask.shape, *[1] * (2 - mask.ndim)).expand(B, L)
    bad_0 = {k: spoil(v, on) for k, v in x_0.items()}
    bad = {k: spoil(v, on).requires_grad_() for k, v in guess.items()}
    if with_process:
        loss = standardloss(JOINT.where(mask), T, bad, bad_0)
    else:
        loss = standardloss(JOINT, T, bad, bad_0, mask=mask)
    each = T.unsqueeze(-1).expand(B, L)[on]
    exact = standardloss(
        JOINT, each, {k: v[on] for k, v in guess.items()}, {k: v[on] for k, v in x_0.items()}
    )
    torch.testing.assert_close(loss.total, exact.total)
    assert loss.counts == exact.counts
    loss.total.backward()
    for value in bad.values():
        assert value.grad.isfinite().all()
        assert (value.grad[~on] == 0).all()
        assert (value.grad[on] != 0).any()


def test_the_mask_of_the_loss_multiplies_with_the_processs():
    x_0, guess = batch()
    a, b = torch.tensor([True, False, True, True]), torch.rand(B, L, generator=rng(7)) < 0.6
    both = standardloss(JOINT.where(a), T, guess, x_0, mask=b)
    once = standardloss(JOINT, T, guess, x_0, mask=a[:, None] & b)
    torch.testing.assert_close(both.total, once.total)
    assert both.counts == once.counts


def test_a_mask_per_part_and_an_empty_mask():
    x_0, guess = batch()
    mask = {"pos": torch.zeros(B, dtype=torch.bool), "seq": torch.tensor(True)}
    loss = standardloss(JOINT, T, guess, x_0, mask=mask)
    assert (loss.counts["pos"], loss.counts["seq"]) == (0, B * L)
    assert loss.parts["pos"] == 0
    torch.testing.assert_close(loss.total, loss.parts["seq"])


# ------------------------------------------------------------------ scalers and clocks


def test_a_custom_scaler():
    x_0, guess = batch()
    asked = []

    def scaler(process, t):
        asked.append((process, t))
        return 2 * torch.as_tensor(t) + 1

    loss = standardloss(POS, T, guess["pos"], x_0["pos"], scaler=scaler)
    exact = (guess["pos"] - x_0["pos"]) ** 2 / (2 * T + 1)[:, None, None]
    assert loss.total.item() == pytest.approx(exact.mean().item(), rel=1e-5)
    assert asked[0][0] is POS
    assert asked[0][1] is T
    plain = standardloss(JOINT, T, guess, x_0, scaler=lambda process, t: 1.0)
    assert plain.parts["pos"].item() == pytest.approx(
        ((guess["pos"] - x_0["pos"]) ** 2).mean().item()
    )
    each = standardloss(JOINT, T, guess, x_0, scaler=lambda process, t: {"pos": 2.0, "seq": 1.0})
    torch.testing.assert_close(each.parts["pos"], plain.parts["pos"] / 2)
    torch.testing.assert_close(each.parts["seq"], plain.parts["seq"])


def test_a_scaler_for_each_part():
    x_0, guess = batch()
    default, asked = standardloss(JOINT, T, guess, x_0), []

    def scaler(process, t):
        asked.append((process, t))
        return 2.0

    times = {"pos": T, "seq": 0.5}
    mixed = standardloss(JOINT, times, guess, x_0, scaler={"pos": scaler, "seq": None})
    assert asked == [(POS, T)]
    plain = ((guess["pos"] - x_0["pos"]) ** 2).mean()
    torch.testing.assert_close(mixed.parts["pos"], plain / 2)
    alone = standardloss(SEQ, 0.5, guess["seq"], x_0["seq"]).total
    torch.testing.assert_close(mixed.parts["seq"], alone)
    own = standardloss(JOINT, T, guess, x_0, scaler={"pos": None, "seq": None})
    torch.testing.assert_close(own.parts, default.parts)
    for process, bad, error in (
        (JOINT, 3.0, TypeError),
        (JOINT, {"pos": scaler}, ValueError),
        (POS, {"pos": scaler}, TypeError),
    ):
        x, said = (x_0, guess) if process is JOINT else (x_0["pos"], guess["pos"])
        with pytest.raises(error, match="Expected scaler to be"):
            standardloss(process, T, said, x, scaler=bad)


@pytest.mark.parametrize("clock", [LinearClock(2.0), PowerClock(2.0)])
def test_scales_run_on_the_processs_own_clock(clock):
    x_0, guess = batch()
    found = standardloss(JOINT.on(clock), T, guess, x_0)
    exact = standardloss(JOINT, clock(T), guess, x_0)
    torch.testing.assert_close(found.total, exact.total)


def test_nested_joints():
    x_0, guess = batch()
    process = Joint(POS, Joint(SEQ, POS))
    nested = lambda x: (x["pos"], (x["seq"], x["pos"]))  # noqa: E731
    loss = standardloss(process, (T, 0.5), nested(guess), nested(x_0))
    one = standardloss(POS, T, guess["pos"], x_0["pos"])
    two = standardloss(JOINT, 0.5, guess, x_0)
    torch.testing.assert_close(loss.parts, (one.total, (two.parts["seq"], two.parts["pos"])))
    torch.testing.assert_close(loss.total, one.total + two.total)
