"""Drawing tokens from logits: rare tokens, chunks, memory, and twins that go wrong."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from bridges import Draws, PlugIn, StreamDraws, _inversion
from bridges._draw import as_draws
from bridges._inversion import draw_from_logits, draw_from_weights
from test_categorical import Even, rng
from test_jumps import DOUBLE, P_MIN
from token_cases import ROWS

FLOATS = [torch.float16, torch.bfloat16, torch.float32, DOUBLE]
LARGE = 50_000


class At(Draws):
    """Draws with given uniform numbers."""

    def __init__(self, u):
        self.u = u

    def normal(self, shape, dtype, device):
        raise AssertionError("tokens need no normal draw")

    def uniform(self, shape, dtype, device):
        assert dtype == DOUBLE
        return self.u.reshape(tuple(shape))


def exact_tokens(logits, u):
    """The same by a running sum in extended precision, one row at a time."""
    p = np.exp(logits.double().numpy().astype(np.longdouble))
    cdf = p.cumsum(-1)
    found = [np.searchsorted(c, v * c[-1], side="right") for c, v in zip(cdf, u, strict=True)]
    return torch.tensor(np.array(found, dtype=np.int64).reshape(len(u)))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("k", [2, 20, 777, 33_000])
def test_it_inverts_the_distribution_function(k, dtype):
    """But for a uniform number that falls within rounding of the end of a token's share."""
    logits = (3 * torch.randn(40, k, generator=rng(1))).to(dtype)
    u = torch.rand(40, 1, generator=rng(2), dtype=DOUBLE)
    found = draw_from_logits(logits, u)
    assert (found == exact_tokens(logits, u.numpy())).sum() >= 39
    assert found.dtype == torch.int64


@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 5), (0,), (4, 0)])
@pytest.mark.parametrize("chunk", [1, 30, 2**18])
def test_chunks_change_nothing(shape, chunk, monkeypatch):
    logits = torch.randn(*shape, 11, generator=rng(3))
    u = torch.rand(*shape, 1, generator=rng(4), dtype=DOUBLE)
    whole = draw_from_logits(logits, u)
    monkeypatch.setattr(_inversion, "CHUNK", chunk)
    assert torch.equal(draw_from_logits(logits, u), whole)
    assert whole.shape == shape


def test_a_row_is_the_same_in_any_batch():
    """Also where the batch is cut into chunks: its uniform numbers are drawn before."""
    logits = torch.randn(300, 4000, generator=rng(5))
    whole = StreamDraws(6, torch.arange(300)).categorical(logits)
    for i in (0, 123, 299):
        assert StreamDraws(6, torch.tensor([i])).categorical(logits[i : i + 1]) == whole[i]


def test_strided_logits_and_logits_with_a_gradient():
    logits = torch.randn(11, 5, 6, generator=rng(7), requires_grad=True)
    u = torch.rand(6, 5, 1, generator=rng(8), dtype=DOUBLE)
    before = logits.detach().clone()
    found = draw_from_logits(logits.permute(2, 1, 0), u)
    assert torch.equal(found, draw_from_logits(before.permute(2, 1, 0).contiguous(), u))
    wide = before[:, 0].T[:1].expand(6, 11)
    assert torch.equal(draw_from_logits(wide, u[:, 0]), draw_from_logits(wide.clone(), u[:, 0]))
    assert torch.equal(logits, before)


@pytest.mark.parametrize("k", [5, 1000])
@pytest.mark.parametrize("u", [0.0, 0.4, 1 - 2.0**-53])
def test_impossible_tokens_are_never_drawn_by_logits_or_weights(k, u):
    logits = torch.randn(64, k, generator=rng(9))
    logits[torch.rand(64, k, generator=rng(10)) < 0.6] = -math.inf
    logits[:, 3] = -1e4
    logits[:8, -1], logits[8:16, 0] = -math.inf, -math.inf
    uniform = torch.full((64, 1), u, dtype=DOUBLE)
    for token in (
        draw_from_logits(logits, uniform),
        draw_from_weights(logits.double().softmax(-1), uniform),
    ):
        assert logits.gather(1, token.unsqueeze(1)).isfinite().all()


def test_rows_without_a_law_give_no_token():
    logits = torch.zeros(4, 6)
    logits[0, 2], logits[1], logits[2, 0] = math.nan, -math.inf, math.inf
    token = draw_from_logits(logits, torch.full((4, 1), 0.3, dtype=DOUBLE))
    assert token.tolist() == [-1, -1, -1, 1]


def test_weights_are_not_written_to():
    """Also for a single token, whose row of a table is no copy."""
    table = torch.rand(3, 3, generator=rng(11), dtype=DOUBLE)
    before = table.clone()
    draw_from_weights(table[torch.tensor(1)], torch.tensor([0.5], dtype=DOUBLE))
    assert torch.equal(table, before)
    for row in ROWS:
        for _ in range(2):
            laws = row["process"].log_prob(torch.tensor(1), torch.tensor(2), 20.0)
            x_t = row["process"].sample_forward(torch.tensor(2), 20.0)
            row["process"].sample_bridge(torch.tensor(2), x_t, 10.0, 20.0)
            assert row["process"].log_prob(torch.tensor(1), torch.tensor(2), 20.0) == laws


# ------------------------------------------------------------------ rare tokens


def rare_logits(mass, common=5000):
    """A law of 50 000 tokens, of which all but the first few share a small mass."""
    p = torch.full((LARGE,), mass / (LARGE - common), dtype=DOUBLE)
    p[:common] = torch.rand(common, generator=rng(12), dtype=DOUBLE) + 0.1
    p[:common] *= (1 - mass) / p[:common].sum()
    return p.log().float()


def tail_counts(draw, n=2000):
    """Draw with uniform numbers from the top 2·10⁻⁵, of which half belong to the tail of 10⁻⁵."""
    u = 1 - 2e-5 * torch.rand(n, 1, generator=rng(13), dtype=DOUBLE)
    tokens = draw(rare_logits(1e-5).expand(n, -1), u)
    return tokens[tokens >= 5000]


def is_the_tail(tail, n=2000):
    """Whether as many are drawn as should be, evenly over the tail, and few of them twice."""
    share = stats.binomtest(len(tail), n, 0.5).pvalue
    spread = stats.kstest((tail.numpy() - 5000 + 0.5) / (LARGE - 5000), "uniform").pvalue
    twice = len(tail) - len(tail.unique())
    expected = len(tail) ** 2 / 2 / (LARGE - 5000)
    return min(share, spread, 2 * stats.poisson.sf(twice - 1, expected)) > P_MIN


def test_a_tail_of_rare_tokens_keeps_its_mass():
    """45 000 tokens of 2·10⁻¹⁰ each, and 10⁻⁵ together."""
    assert is_the_tail(tail_counts(lambda logits, u: At(u).categorical(logits)))


def test_a_running_sum_in_float32_loses_most_of_the_tail():
    """It rises in steps of 2⁻²⁴, so 170 tokens stand for all."""

    def twin(logits, u):
        cdf = logits.softmax(-1).cumsum(-1)
        return torch.searchsorted(cdf, (u * cdf[:, -1:]).float(), right=True).squeeze(-1)

    assert not is_the_tail(tail_counts(twin))


@pytest.mark.slow
def test_gumbel_noise_in_float32_loses_the_tail():
    """45 000 tokens of 3·10⁻⁸, and 1.5·10⁻³ together: no float32 noise exceeds 16.7."""
    logits, n, law = rare_logits(1.5e-3), 20_000, 1.5e-3
    gumbel, inverted = 0, 0
    for i in range(n // 50):
        noise = torch.rand(50, LARGE, generator=rng(i)).clamp_(min=1e-30).log_().neg_().log_()
        gumbel += int(((logits - noise).argmax(-1) >= 5000).sum())
        drawn = as_draws(rng(i)).categorical(logits.expand(50, -1))
        inverted += int((drawn >= 5000).sum())
    assert stats.binomtest(inverted, n, law).pvalue > P_MIN
    assert stats.binomtest(gumbel, n, law).pvalue < P_MIN


def test_shares_of_tokens_below_float32_noise():
    """A share of 2⁻³⁰, hit by evenly spaced uniforms above 1 − 2⁻²⁸."""
    logits = torch.full((1000,), -40 * math.log(2))
    logits[0], logits[-1] = 0.0, -30 * math.log(2)
    tokens = Even(1 - 2.0**-28, 1.0).categorical(logits.expand(4096, -1))
    share = (tokens == 999).double().mean().item() * 2.0**-28
    assert share == pytest.approx(2.0**-30, rel=1e-2)


# ------------------------------------------------------------------ memory


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that an operation makes; views are not made."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                made = storage.data_ptr() not in given
                self.bytes = max(self.bytes, storage.nbytes() if made else 0)
        return out


def large(name):
    from bridges import categorical as c

    k = 32_000
    pi = torch.rand(k, generator=rng(14), dtype=DOUBLE) + 1e-3
    return {
        "uniform": lambda: c.UniformDiscreteDiffusion(1.0, k),
        "independent": lambda: c.IndependentDiscreteDiffusion(1.0, pi / pi.sum()),
        "masking": lambda: c.MaskingDiscreteDiffusion(1.0, k),
        "mixture": lambda: c.MixtureDiscreteDiffusion(1.0, pi / pi.sum(), 0.5),
    }[name]()


@pytest.mark.parametrize("name", ["uniform", "independent", "masking", "mixture"])
def test_forward_and_bridge_never_hold_tokens_times_states(name):
    """64 × 1024 tokens of 32 000 states: nothing larger than the state, or the law itself."""
    process, x_0 = large(name), torch.arange(64 * 1024).reshape(64, 1024) % 32_000
    for t in (0.9, torch.linspace(0.5, 1.0, 64)):
        with Largest() as seen:
            x_t = process.sample_forward(x_0, t, generator=rng(15))
            process.sample_bridge(x_0, x_t, 0.5 * t, t, generator=rng(16))
            process.log_prob(x_t, x_0, t)
        assert seen.bytes <= 8 * x_0.numel()


@pytest.mark.parametrize("name", ["uniform", "independent", "masking", "mixture"])
def test_a_step_from_logits_holds_a_chunk_and_a_plug_in_one_copy(name):
    process, x_t = large(name), torch.arange(200) % 32_000
    logits = torch.randn(200, 32_000, generator=rng(17))
    for prediction, bound in [(logits, 8 * 2**18), (PlugIn(logits), 4 * logits.numel())]:
        with Largest() as seen:
            process.sample_step(prediction, x_t, 0.4, 0.9, generator=rng(18))
        assert seen.bytes <= bound


def test_the_recorder_sees_what_is_large():
    with Largest() as seen:
        torch.zeros(100, 100).softmax(-1, dtype=DOUBLE)
    assert seen.bytes == 80_000
