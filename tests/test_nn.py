"""Random Fourier features: the formula, the kernel they tend to, and what a module must do."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats

from bridges import GivenDraws
from bridges.nn import RandomFourierFeatures

DOUBLE = torch.float64


def rng(seed):
    return torch.Generator().manual_seed(seed)


def test_the_formula():
    weight = torch.tensor([[0.5, -1.0], [2.0, 0.25], [0.0, 3.0]], dtype=DOUBLE)
    features = RandomFourierFeatures(
        2, 6, scale=0.7, generator=GivenDraws(normals=[weight]), dtype=DOUBLE
    )
    x = torch.tensor([[0.3, -0.2], [1.5, 4.0]], dtype=DOUBLE)
    phase = 2 * np.pi * x.numpy() @ (0.7 * weight.numpy()).T
    expected = np.concatenate([np.cos(phase), np.sin(phase)], axis=-1)
    np.testing.assert_allclose(features(x).numpy(), expected, rtol=0, atol=1e-14)


def test_on_one_number_it_is_diffusions_jl():
    """There d features of a time are d/2 cosines of 2πwt, then the sines, with w of scale σ."""
    features = RandomFourierFeatures(1, 10, 2.5, generator=rng(0))
    w, t = features.weight.squeeze(-1), torch.tensor([-1.3, 0.4])
    expected = torch.stack(
        [torch.cat((torch.cos(2 * math.pi * w * u), torch.sin(2 * math.pi * w * u))) for u in t]
    )
    torch.testing.assert_close(features(t.unsqueeze(-1)), expected)


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_weights_are_normal_with_the_scale(scale, p_min):
    weight = RandomFourierFeatures(5, 20_000, scale, generator=rng(1)).weight
    assert stats.kstest(weight.flatten().numpy(), stats.norm(scale=scale).cdf).pvalue > p_min


@pytest.mark.parametrize("d", [64, 200_000])
@pytest.mark.parametrize("scale", [0.4, 1.1])
@pytest.mark.parametrize("distance", [0.05, 0.2, 0.45])
def test_the_kernel_is_gaussian(d, scale, distance, p_min):
    """The product is a mean of d/2 cosines whose mean and variance the kernel k itself gives.

    With k_m that of m times the distance, cos² = (1 + cos 2·)/2 has the mean (1 + k_2)/2.
    """
    k_1, k_2 = (math.exp(-2 * (math.pi * scale * m * distance) ** 2) for m in (1, 2))
    features = RandomFourierFeatures(3, d, scale, generator=rng(2), dtype=DOUBLE)
    x = torch.tensor([0.9, -0.4, 0.1], dtype=DOUBLE)
    y = x + distance * torch.tensor([2.0, -1.0, 2.0], dtype=DOUBLE) / 3
    found = 2 / d * (features(x) @ features(y)).item()
    z = (found - k_1) / math.sqrt(((1 + k_2) / 2 - k_1**2) / (d / 2))
    assert 2 * stats.norm.sf(abs(z)) > p_min
    assert 2 / d * (features(x) @ features(x)).item() == pytest.approx(1, abs=1e-12)


# ------------------------------------------------------------------ randomness


def test_the_generator_is_the_only_randomness():
    before = torch.get_rng_state()
    one, two, three = (
        RandomFourierFeatures(2, 8, 1.0, generator=rng(seed)).weight for seed in (5, 5, 6)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_generator_the_global_state_is_used():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        weight = RandomFourierFeatures(2, 8, 1.0).weight
    assert torch.equal(weight, RandomFourierFeatures(2, 8, 1.0, generator=rng(3)).weight)


def test_the_same_call_gives_the_same_features():
    features, x = RandomFourierFeatures(2, 8, 1.0), torch.rand(4, 2)
    assert torch.equal(features(x), features(x))


# ------------------------------------------------------------------ a module


def test_the_weights_are_saved_and_not_learned():
    saved, loaded = (RandomFourierFeatures(2, 8, 1.0, generator=rng(seed)) for seed in (1, 2))
    x = torch.rand(3, 2, generator=rng(3))
    assert not torch.equal(saved(x), loaded(x))
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(saved(x), loaded(x))
    assert list(saved.state_dict()) == ["weight"]
    assert not list(saved.parameters())
    assert torch.equal(copy.deepcopy(saved)(x), saved(x))


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, DOUBLE])
def test_the_weights_move_and_the_features_are_like_them(batch, dtype, device):
    features = RandomFourierFeatures(2, 8, 1.0).to(device, dtype)
    out = features(torch.rand(*batch, 2, device=device))
    assert out.shape == (*batch, 8)
    assert out.dtype == features.weight.dtype == dtype
    assert out.device == features.weight.device


def test_dtype_and_device_are_those_of_torch_unless_given(device):
    made = RandomFourierFeatures(1, 2, 1.0, dtype=DOUBLE, device=device)
    assert (made.weight.dtype, made.weight.device.type) == (DOUBLE, device)
    with torch.device("meta"):
        assert RandomFourierFeatures(1, 2, 1.0).weight.device.type == "meta"


def test_phases_keep_their_digits_under_autocast(device):
    features = RandomFourierFeatures(3, 64, 4.0, generator=rng(4)).to(device)
    x = 10 * torch.rand(16, 3, generator=rng(5)).to(device)
    with torch.autocast(device, torch.bfloat16):
        inside = features(x)
    torch.testing.assert_close(inside, features(x))


def test_gradients_reach_the_input():
    features = RandomFourierFeatures(2, 6, 0.5, generator=rng(6), dtype=DOUBLE)
    x = torch.rand(4, 2, dtype=DOUBLE, generator=rng(7)).requires_grad_()
    assert torch.autograd.gradcheck(features, x)


def test_it_can_be_compiled():
    features, x = RandomFourierFeatures(2, 8, 1.0), torch.rand(4, 2)
    compiled = torch.compile(features, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), features(x))


def test_it_shows_its_sizes():
    assert repr(RandomFourierFeatures(2, 8, 1.5)) == "RandomFourierFeatures(2, 8, scale=1.5)"


# fmt: off
@pytest.mark.parametrize(("error", "arguments", "words"), [
    (TypeError, (1.0, 8, 1.0), "Expected in_features to be an integer; got 1.0."),
    (TypeError, (True, 8, 1.0), "Expected in_features to be an integer; got True."),
    (ValueError, (0, 8, 1.0), "Expected in_features to be at least 1; got 0."),
    (ValueError, (1, 0, 1.0), "Expected out_features to be at least 1; got 0."),
    (TypeError, (1, "8", 1.0), "Expected out_features to be an integer; got '8'."),
    (ValueError, (1, 7, 1.0), "Expected out_features to be even; got 7."),
    (ValueError, (1, 8, 0.0), "Expected scale to be positive; got 0.0."),
    (ValueError, (1, 8, math.inf), "Expected scale to be finite; got inf."),
    (TypeError, (1, 8, None), "Expected scale to be a number; got None."),
])
# fmt: on
def test_what_a_constructor_refuses(error, arguments, words):
    with pytest.raises(error) as got:
        RandomFourierFeatures(*arguments)
    assert str(got.value) == words


def test_what_a_call_refuses():
    features = RandomFourierFeatures(2, 8, 1.0)
    with pytest.raises(TypeError, match="^Expected x to be a floating tensor; got a int64 tensor"):
        features(torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match="^Expected x to be a floating tensor; got 0.5.$"):
        features(0.5)
    for shape in ((3,), (), (2, 1)):
        with pytest.raises(ValueError, match=r"^Expected x to have shape \(…, 2\); got \("):
            features(torch.zeros(shape))
    with pytest.raises(TypeError, match="^Expected generator to be a torch.Generator"):
        RandomFourierFeatures(2, 8, 1.0, generator=3)
