import pytest
import torch

from bridges import (
    GeometricClock,
    Joint,
    LinearClock,
    OrnsteinUhlenbeckDiffusion,
    PowerClock,
    RotationDiffusion,
    UniformDiscreteDiffusion,
    WrappedBrownianDiffusion,
    sample_backward,
    trajectory,
)

B, L, K = 4, 3, 5
NAN = float("nan")
PARTS = {
    "pos": OrnsteinUhlenbeckDiffusion(0.5),
    "seq": UniformDiscreteDiffusion(1.0, K),
    "angle": WrappedBrownianDiffusion(0.7, 3.0),
    "rot": RotationDiffusion(0.9),
}
SPACES = pytest.mark.parametrize("name", list(PARTS))
MASKS = [
    torch.tensor(True),
    torch.tensor(False),
    torch.tensor([True, False, False, True]),
    torch.rand(B, L, generator=torch.Generator().manual_seed(0)) < 0.5,
    torch.zeros(B, L, dtype=torch.bool),
]
RANKS = pytest.mark.parametrize("mask", MASKS, ids=["true", "false", "B", "BL", "none"])
GRID = [0.0, 0.3, 0.8, 1.5]


def rng(seed):
    return torch.Generator().manual_seed(seed)


def full(mask):
    return mask.reshape(*mask.shape, *[1] * (2 - mask.ndim)).expand(B, L)


def state(name, seed):
    return PARTS[name].sample_prior((B, L), generator=rng(seed))


def spoiled(x, mask):
    """Put what is no point of any space off the mask."""
    x = x.clone()
    x[~full(mask)] = NAN if x.is_floating_point() else -1
    return x


def prediction(name, mask, seed=1):
    """Return a prediction that is NaN off the mask."""
    if name == "seq":
        return spoiled(torch.randn(B, L, K, generator=rng(seed)), mask)
    return spoiled(state(name, seed), mask)


def same(a, b):
    """Whether two tensors are equal bit for bit, NaN included."""
    return a.dtype == b.dtype and torch.equal(torch.nan_to_num(a, 7e7), torch.nan_to_num(b, 7e7))


def check(process, name, mask, x_s, x_t):
    """Off the mask nothing moved; on it x_s is a point of the space."""
    off = ~full(mask)
    assert same(x_s[off], x_t[off])
    process._check_values(x_s, "x_s")
    assert x_s[full(mask)].double().isfinite().all()


@SPACES
@RANKS
@pytest.mark.parametrize("spoil", [False, True])
def test_the_rest_stays_bit_for_bit(name, mask, spoil):
    """In every way of drawing, with NaN in the predictions and what is no point in the state."""
    process, on = PARTS[name].where(mask), full(mask)
    x_0, x_t, t = state(name, 2), state(name, 3), torch.tensor([0.1, 0.4, 0.8, 1.5])
    if spoil:
        x_0, x_t = spoiled(x_0, mask), spoiled(x_t, mask)
    for time in (0.7, t):
        noised = process.sample_forward(x_0, time, generator=rng(4))
        check(process, name, mask, noised, x_0)
        if name == "pos" and on.any():
            assert (noised[on] != x_0[on]).all()
        check(
            process, name, mask, process.sample_bridge(x_0, x_t, 0.05, time, generator=rng(5)), x_t
        )
        guess = prediction(name, mask)
        check(process, name, mask, process.endpoint(guess, x_t, time, generator=rng(6)), x_t)
        for found in process.sample_step(guess, x_t, 0.05, time, generator=rng(7)):
            check(process, name, mask, found, x_t)
    for s, time in [(0.0, 1.0), (0.0, 0.0), (1.0, 1.0)]:
        check(process, name, mask, process.sample_bridge(x_0, x_t, s, time), x_t)
        check(process, name, mask, process.sample_step(guess, x_t, s, time)[0], x_t)
    for step in trajectory(lambda x, t: guess, process, GRID, x_t, generator=rng(8)):
        check(process, name, mask, step.x_s, x_t)
        check(process, name, mask, step.x_0_hat, x_t)


@SPACES
@RANKS
def test_on_the_mask_it_is_the_process(name, mask):
    """With the same noise the elements on the mask are those of the process itself."""
    process, whole, on = PARTS[name].where(mask), PARTS[name], full(mask)
    x_0, x_t = state(name, 2), state(name, 3)
    if name == "rot":  # the number of draws depends on what stands off the mask
        return
    a, b = (p.sample_forward(x_0, 0.7, generator=rng(4)) for p in (process, whole))
    assert torch.equal(a[on], b[on])
    a, b = (p.sample_bridge(x_0, x_t, 0.2, 0.7, generator=rng(5)) for p in (process, whole))
    assert torch.equal(a[on], b[on])
    a, b = (p.sample_prior((B, L), generator=rng(6)) for p in (process, whole))
    assert torch.equal(a, b)


@SPACES
@RANKS
def test_errors_and_densities_are_zero_off_the_mask(name, mask):
    process, whole, on = PARTS[name].where(mask), PARTS[name], full(mask)
    clean_0, clean_t = state(name, 2), state(name, 3)
    x_0, x_t, guess = spoiled(clean_0, mask), spoiled(clean_t, mask), prediction(name, mask)
    t = torch.tensor([0.1, 0.4, 0.8, 1.5])
    found = [process.error(guess, x_0), process.log_prob(x_t, x_0, t)]
    exact = [
        whole.error(torch.nan_to_num(guess, 1.0), clean_0),
        whole.log_prob(clean_t, clean_0, t),
    ]
    if name != "seq":
        found.append(process.score(x_t, x_0, t))
        exact.append(whole.score(clean_t, clean_0, t))
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.shape == theirs.shape
        assert (ours[~on] == 0).all()
        torch.testing.assert_close(ours[on], theirs[on])


@SPACES
@RANKS
def test_gradients_are_finite_and_zero_off_the_mask(name, mask):
    process = PARTS[name].where(mask)
    x_0, guess = spoiled(state(name, 2), mask), prediction(name, mask).requires_grad_()
    process.error(guess, x_0).sum().backward()
    assert guess.grad.isfinite().all()
    assert (guess.grad[~full(mask)] == 0).all()
    assert (guess.grad[full(mask)] != 0).any() == full(mask).any()
    if name != "seq":
        x_t = spoiled(state(name, 3), mask).requires_grad_()
        process.log_prob(x_t, x_0, 0.7).sum().backward()
        assert x_t.grad.isfinite().all()
        assert (x_t.grad[~full(mask)] == 0).all()


@SPACES
def test_values_on_the_mask_are_still_checked(name):
    mask = torch.tensor([True, False, True, True])
    x = spoiled(state(name, 2), torch.tensor([False, True, True, True]))
    if name in ("seq", "rot"):
        with pytest.raises(ValueError, match="Expected x to hold"):
            PARTS[name].where(mask).sample_forward(x, 0.5)


@SPACES
def test_masks_multiply(name):
    a, b = MASKS[2], MASKS[3]
    x, guess = state(name, 2), prediction(name, full(a) & b)
    nested, once = PARTS[name].where(a).where(b), PARTS[name].where(full(a) & b)
    check(nested, name, full(a) & b, nested.sample_step(guess, x, 0.2, 0.7)[0], x)
    assert torch.equal(nested.error(guess, x), once.error(guess, x))


# ------------------------------------------------------------------ clocks and temperatures

CLOCKS = pytest.mark.parametrize(
    "clock", [LinearClock(2.5), PowerClock(2.0, 0.7), GeometricClock(0.02, 3.0)]
)


@SPACES
@CLOCKS
def test_on_a_clock(name, clock):
    """The process at the clock's times, in every method, start included."""
    clocked, plain = PARTS[name].on(clock), PARTS[name]
    x_0, x_t, guess = state(name, 2), state(name, 3), prediction(name, torch.tensor(True))
    s, t = 0.3, torch.tensor([0.4, 0.5, 0.8, 1.0], dtype=torch.float64)
    u, v = clock(torch.tensor(s, dtype=torch.float64)).item(), clock(t)
    pairs = [
        (
            clocked.sample_forward(x_0, t, start=s, generator=rng(4)),
            plain.sample_forward(x_0, v, start=u, generator=rng(4)),
        ),
        (
            clocked.sample_bridge(x_0, x_t, s, t, generator=rng(5)),
            plain.sample_bridge(x_0, x_t, u, v, generator=rng(5)),
        ),
        (
            clocked.sample_step(guess, x_t, s, t, generator=rng(6))[0],
            plain.sample_step(guess, x_t, u, v, generator=rng(6))[0],
        ),
        (clocked.log_prob(x_t, x_0, t, start=s), plain.log_prob(x_t, x_0, v, start=u)),
        (clocked.loss_scale(t), plain.loss_scale(v)),
        (clocked.error(guess, x_0, x_t=x_t, t=t), plain.error(guess, x_0)),
    ]
    if name != "seq":
        pairs.append((clocked.score(x_t, x_0, t), plain.score(x_t, x_0, v)))
    for found, exact in pairs:
        assert torch.equal(found, exact)
    assert torch.equal(clocked.sample_forward(x_0, 0.0), x_0)
    assert torch.equal(clocked.sample_bridge(x_0, x_t, 0.0, 0.5), x_0)


def test_clocks_compose_from_the_outside_in():
    process = PARTS["pos"].on(PowerClock(2.0)).on(LinearClock(3.0))
    x = state("pos", 2)
    found = process.sample_forward(x, 0.2, generator=rng(4))
    exact = PARTS["pos"].sample_forward(x, (3 * 0.2) ** 2, generator=rng(4))
    torch.testing.assert_close(found, exact)


@SPACES
@RANKS
@pytest.mark.parametrize("order", ["mask first", "mask last", "mask between"])
@pytest.mark.parametrize("s", [0.0, 0.2, 0.7])
def test_wrappers_compose_in_any_order(name, mask, order, s):
    clock, process = PowerClock(2.0), PARTS[name]
    if order == "mask first":
        process = process.where(mask).on(clock).tempered(0.5)
    elif order == "mask last":
        process = process.on(clock).tempered(0.5).where(mask)
    else:
        process = process.tempered(0.5).where(mask).on(clock)
    x_0, x_t = state(name, 2), spoiled(state(name, 3), mask)
    guess = prediction(name, mask)
    check(process, name, mask, process.sample_bridge(x_0, x_t, s, 0.7, generator=rng(4)), x_t)
    check(process, name, mask, process.sample_step(guess, x_t, s, 0.7, generator=rng(5))[0], x_t)
    check(process, name, mask, process.sample_forward(x_0, 0.7, generator=rng(6)), x_0)
    end = sample_backward(lambda x, t: guess, process, GRID, x_t, generator=rng(7))
    check(process, name, mask, end, x_t)


def test_temperature_scales_the_noise_of_the_bridge_alone():
    x_0, x_t = torch.zeros(B, L), torch.ones(B, L)
    plain, warm = PARTS["pos"], PARTS["pos"].tempered(3.0)
    straight = plain.sample_bridge(x_0, x_t, 0.2, 0.7, eta=0.0)
    assert not torch.equal(straight, x_t)
    noise = [p.sample_bridge(x_0, x_t, 0.2, 0.7, generator=rng(4)) for p in (plain, warm)]
    middle = noise[0] - (noise[1] - noise[0]) / 2  # the answer without noise
    torch.testing.assert_close(middle, middle[:1, :1].expand(B, L))
    a, b = (p.sample_forward(x_0, 0.7, generator=rng(5)) for p in (plain, warm))
    assert torch.equal(a, b)
    with pytest.raises(ValueError, match="Expected scale to be positive; got 0"):
        plain.tempered(0)


# ------------------------------------------------------------------ a Joint, a whole run


def test_inpainting_with_a_joint():
    """One mask for all parts; NaN coordinates and the token −1 wait untouched."""
    process, mask = Joint(**PARTS).where(MASKS[3]), MASKS[3]
    x = {name: spoiled(state(name, 3), mask) for name in PARTS}
    guess = {name: prediction(name, mask) for name in PARTS}
    end = sample_backward(lambda x, t: guess, process, GRID, x, generator=rng(9))
    for name in PARTS:
        check(PARTS[name].where(mask), name, mask, end[name], x[name])
    torch.testing.assert_close(end["pos"][mask], guess["pos"][mask])
    assert all(error[~mask].eq(0).all() for error in process.error(guess, x).values())


@pytest.mark.parametrize("shape", [(B, 1), (1, L), (1, 1), (), (B,), (L,), (B + 1, L), (B, L, 1)])
def test_a_prediction_of_another_shape_is_not_spread(shape):
    process = OrnsteinUhlenbeckDiffusion(0.5).where(MASKS[3])
    x = torch.zeros(B, L)
    for call in (
        lambda: process.error(torch.zeros(shape), x),
        lambda: process.endpoint(torch.zeros(shape), x, 0.5),
        lambda: process.sample_step(torch.zeros(shape), x, 0.2, 0.5),
    ):
        with pytest.raises(
            ValueError, match="Expected the prediction to have the shape of the sta"
        ):
            call()
