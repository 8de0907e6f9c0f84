"""The scripts under `benchmarks/` run, and one network learns faster with preconditioning."""

import math

import pytest

import preconditioning


@pytest.mark.slow
def test_preconditioning_beats_the_bare_network_at_equal_steps():
    found = preconditioning.compare(60)
    for part in ("pos", "rot", "psi"):
        with_it, bare = (
            sum(map(math.log, found[name][part])) for name in ("preconditioned", "bare")
        )
        assert with_it < bare - math.log(4) * len(preconditioning.TIMES) / 2
    assert sum(found["preconditioned"]["seq"]) < sum(found["bare"]["seq"]) + 0.2
