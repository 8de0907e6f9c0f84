"""Training times: their law, how evenly a batch covers it, and where randomness comes from."""

import math

import pytest
import torch
from scipy import stats

from bridges import GivenDraws
from bridges.schedule import RectifiedSchedule
from bridges.time_sampler import (
    LogNormalTimes,
    LowDiscrepancyTimes,
    NormalLogSNRTimes,
    StratifiedTimes,
    TimeSampler,
    UniformLogSNRTimes,
    UniformTimes,
)
from bridges.ve_schedule import VESchedule
from bridges.vp_schedule import CosineSchedule, VPSchedule
from schedules import schedules

DOUBLE = torch.float64
RANGES = [UniformTimes, StratifiedTimes, LowDiscrepancyTimes]
ranges = pytest.mark.parametrize("kind", RANGES)
BASES = [UniformTimes(), StratifiedTimes(), LowDiscrepancyTimes()]
bases = pytest.mark.parametrize("base", BASES, ids=lambda b: type(b).__name__)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def one_of_each_batch(sampler, batches, n=4, seed=0):
    """Draw many batches and take one place of each, so that the draws are independent."""
    generator = rng(seed)
    place = torch.randint(n, (batches,), generator=rng(seed + 1)).tolist()
    return torch.stack([sampler(n, generator=generator, dtype=DOUBLE)[i] for i in place])


# ------------------------------------------------------------------ laws


@ranges
def test_uniform_times(kind, p_min):
    t = one_of_each_batch(kind(0.2, 3.0), 4000)
    assert stats.kstest(t.numpy(), stats.uniform(0.2, 2.8).cdf).pvalue > p_min


@bases
def test_log_normal_times(base, p_min):
    t = one_of_each_batch(LogNormalTimes(-0.7, 1.3, base), 4000, seed=2)
    assert stats.kstest(t.numpy(), stats.lognorm(1.3, scale=math.exp(-0.7)).cdf).pvalue > p_min


def log_noise(schedule, t):
    return -0.5 * schedule.log_snr(torch.as_tensor(t, dtype=DOUBLE))


@bases
@schedules
def test_log_snr_is_normal_where_the_schedule_reaches(schedule, base, p_min):
    t = one_of_each_batch(NormalLogSNRTimes(schedule, -0.9, 1.4, base), 2000, seed=4)
    low, high = log_noise(schedule, [0.0, 1.0]).tolist()
    law = stats.truncnorm((low + 0.9) / 1.4, (high + 0.9) / 1.4, loc=-0.9, scale=1.4)
    assert stats.kstest(log_noise(schedule, t).numpy(), law.cdf).pvalue > p_min


@bases
@schedules
def test_log_snr_is_uniform(schedule, base, p_min):
    t = one_of_each_batch(UniformLogSNRTimes(schedule, 0.1, 0.9, base), 2000, seed=6)
    low, high = log_noise(schedule, [0.1, 0.9]).tolist()
    law = stats.uniform(low, high - low)
    assert stats.kstest(log_noise(schedule, t).numpy(), law.cdf).pvalue > p_min
    assert t.min() >= 0.1
    assert t.max() <= 0.9


def test_the_logit_normal_law_of_rectified_flows(p_min):
    t = NormalLogSNRTimes(RectifiedSchedule(), 0.3, 0.8)(4000, generator=rng(8), dtype=DOUBLE)
    logit = torch.logit(t)
    assert stats.kstest(logit.numpy(), stats.norm(0.3, 0.8).cdf).pvalue > p_min


def test_uniform_times_are_independent(p_min):
    t = UniformTimes()(20_000, generator=rng(9)).reshape(-1, 2).double().numpy()
    assert stats.pearsonr(t[:, 0], t[:, 1]).pvalue > p_min


# ------------------------------------------------------------------ how evenly


@pytest.mark.parametrize("n", [1, 3, 64])
def test_every_stratum_has_one_time(n):
    t = StratifiedTimes(0.2, 3.0)(n, generator=rng(10), dtype=DOUBLE)
    assert torch.equal(((t - 0.2) / 2.8 * n).floor(), torch.arange(n).double())
    t = LowDiscrepancyTimes(0.2, 3.0)(n, generator=rng(11), dtype=DOUBLE)
    assert sorted(((t - 0.2) / 2.8 * n).floor().tolist()) == list(range(n))


def test_low_discrepancy_times_are_equally_spaced():
    t = LowDiscrepancyTimes()(8, generator=rng(12), dtype=DOUBLE)
    gaps = (t - t[0]).remainder(1.0)
    torch.testing.assert_close(gaps, torch.arange(8, dtype=DOUBLE) / 8, rtol=0, atol=1e-15)


def test_strata_inside_are_uniform(p_min):
    t = StratifiedTimes()(4000, generator=rng(13), dtype=DOUBLE)
    inside = (4000 * t).remainder(1.0)
    assert stats.kstest(inside.numpy(), stats.uniform.cdf).pvalue > p_min


@pytest.mark.parametrize(
    "make",
    [
        lambda base: LogNormalTimes(base=base),
        lambda base: NormalLogSNRTimes(VPSchedule(), base=base),
    ],
)
def test_an_even_base_covers_a_law_evenly(make):
    """The error of a batch's mean of a smooth function is far below that of independent times."""

    def spread(base):
        means = [make(base)(64, generator=rng(i)).clamp(max=4).mean() for i in range(200)]
        return torch.stack(means).std().item()

    assert spread(StratifiedTimes()) < 0.3 * spread(UniformTimes())
    assert spread(LowDiscrepancyTimes()) < 0.3 * spread(UniformTimes())


# ------------------------------------------------------------------ draws, dtypes, devices


ALL = [
    *BASES,
    LogNormalTimes(),
    NormalLogSNRTimes(VESchedule(0.01, 30.0)),
    UniformLogSNRTimes(VPSchedule(), 0.01, 1.0),
]
samplers = pytest.mark.parametrize("sampler", ALL, ids=lambda s: type(s).__name__)


@samplers
def test_the_generator_is_the_only_source(sampler):
    before = torch.get_rng_state()
    first, again = (sampler(16, generator=rng(14)) for _ in range(2))
    assert torch.equal(first, again)
    assert (torch.get_rng_state() == before).all()
    assert not torch.equal(first, sampler(16))


@samplers
def test_dtypes_and_shapes(sampler):
    for dtype in (torch.float32, DOUBLE, torch.bfloat16):
        assert sampler(5, dtype=dtype).dtype == dtype
    assert sampler(5).dtype == torch.get_default_dtype()
    assert sampler(5).shape == (5,)
    assert sampler(0).shape == (0,)
    assert sampler(5, device="meta").device.type == "meta"


@samplers
@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_the_ends_of_the_numbers_drawn(sampler, u):
    shape = (1,) if getattr(sampler, "base", sampler) == LowDiscrepancyTimes() else (3,)
    noise = torch.full(shape, u, dtype=DOUBLE)
    t = sampler(3, generator=GivenDraws(uniforms=[noise]), dtype=torch.float32)
    assert (t > 0).all()
    assert t.isfinite().all()
    assert sampler == LogNormalTimes() or (t <= 1).all()


def test_a_narrow_base_leaves_out_the_tails():
    t = LogNormalTimes(0.0, 1.0, UniformTimes(0.1, 0.9))(1000, generator=rng(15))
    edges = torch.tensor(stats.lognorm(1.0).ppf([0.1, 0.9]))
    assert t.min() >= edges[0] - 1e-6
    assert t.max() <= edges[1] + 1e-6


def test_bad_input():
    for make, error, words in [
        (lambda: UniformTimes(-0.1), ValueError, "0 ≤ lb < ub"),
        (lambda: StratifiedTimes(0.5, 0.5), ValueError, "0 ≤ lb < ub"),
        (lambda: UniformTimes()(-1), ValueError, "n to be an integer"),
        (lambda: UniformTimes()(2.0), ValueError, "n to be an integer"),
        (lambda: LogNormalTimes(std=0.0), ValueError, "std to be positive"),
        (lambda: LogNormalTimes(base=UniformTimes(0, 2)), ValueError, "base to be uniform"),
        (lambda: LogNormalTimes(base=LogNormalTimes()), ValueError, "base to be uniform"),
        (lambda: NormalLogSNRTimes(3), TypeError, "schedule to be a Schedule"),
        (lambda: NormalLogSNRTimes(VESchedule(1.0, 2.0), 99.0, 0.1), ValueError, "to reach"),
        (lambda: UniformLogSNRTimes(CosineSchedule(), 0.0, 0.9), ValueError, "finite log-SNR"),
        (lambda: UniformLogSNRTimes(CosineSchedule(), 0.1, 1.2), ValueError, "lb < ub ≤ 1"),
    ]:
        with pytest.raises(error, match=words):
            make()
    with pytest.raises(TypeError, match="abstract"):
        TimeSampler()
