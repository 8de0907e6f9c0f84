"""Every space on every clock: with one seed, it is exactly the process at the clock's times."""

import pytest
import torch

from bridges._shapes import leaves
from cases import SPACES
from clock_cases import BY_CDF, EXACT

UNSCHEDULED = [case for case in SPACES if case.far > 100]
S, T = 0.3, 0.8


def rng(seed):
    return torch.Generator().manual_seed(seed)


def same(x, y):
    return all(torch.equal(a, b) for a, b in zip(leaves(x), leaves(y), strict=True))


@pytest.mark.parametrize("case", UNSCHEDULED, ids=lambda case: case.name)
@pytest.mark.parametrize("clock", list(EXACT | BY_CDF), ids=lambda c: type(c).__name__)
def test_a_space_on_a_clock(case, clock):
    process, x_0 = case.process, case.point(torch.float64)
    if case.name != "masses and padding":
        x_0 = x_0[:40]
    s, t = clock(torch.tensor([S, T], dtype=torch.float64)).tolist()
    x_t = process.on(clock).sample_forward(x_0, T, generator=rng(1))
    assert same(x_t, process.sample_forward(x_0, t, generator=rng(1)))
    x_s = process.on(clock).sample_bridge(x_0, x_t, S, T, generator=rng(2))
    assert same(x_s, process.sample_bridge(x_0, x_t, s, t, generator=rng(2)))
    assert torch.equal(process.on(clock).loss_scale(T), process.loss_scale(t))
