"""A point is biased on a curved space; a score and a distribution are not."""

import pytest

import curved_spaces

TARGETS = curved_spaces.targets()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n != "circle" else n for n in TARGETS]
)
def test_exact_routes_and_the_biased_one(name):
    n, steps = 20_000, 60
    found = curved_spaces.compare(TARGETS[name], n, steps)
    # Two samples of one law differ by more than this with probability 1e-4 (three columns).
    limit = 2.3 * (2 / n) ** 0.5
    assert found["floor"] < limit
    assert found["distribution"] < limit
    assert found["score"] < limit
    assert found["point"] > 2 * limit
