import pytest
import torch

P_MIN = 1e-4
"""The probability with which a statistical test refuses a right law."""

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

torch.set_num_threads(1)


def pytest_generate_tests(metafunc):
    """Run every test that asks for a device on each that is there."""
    marked = {
        name.strip()
        for mark in metafunc.definition.iter_markers("parametrize")
        for name in (mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0])
    }
    if "device" in metafunc.fixturenames and "device" not in marked:
        metafunc.parametrize("device", DEVICES)


@pytest.fixture
def p_min():
    return P_MIN


@pytest.fixture(scope="session")
def splits():
    """Return the fragments of the example's data, for each split."""
    from fragments.data import SPLITS, Fragments

    return {split: Fragments.load(split, 24) for split in SPLITS}


@pytest.fixture(scope="session")
def held_out_batch(splits):
    """Return the test split as one batch."""
    return splits["test"].held_out()
