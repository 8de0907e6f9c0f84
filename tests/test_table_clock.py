import pytest

from bridges.table_clock import TableClock
from clock_cases import double


def test_a_table_goes_on_along_its_last_line():
    clock = TableClock(double(0.0, 0.5, 2.0), (0, 1, 2))
    assert clock(double(0.5, 2.0, 3.5)).tolist() == [1.0, 2.0, 3.0]
    assert clock.inverse(double(1.0, 2.0, 3.0)).tolist() == [0.5, 2.0, 3.5]
    assert clock.derivative(double(0.0, 0.5, 9.0)).tolist() == pytest.approx([2, 2 / 3, 2 / 3])
    assert TableClock([0, 2], [0, 3])(double(1.0)).item() == 1.5
    assert clock == TableClock([0.0, 0.5, 2.0], [0.0, 1.0, 2.0])


def test_a_table_on_the_device_of_the_time(device):
    clock = TableClock([0.0, 0.3, 1.0], [0.0, 0.15, 3.0])
    assert clock(double(0.2, 0.4).to(device)).device.type == device


# fmt: off
@pytest.mark.parametrize(("error", "make", "words"), [
    (ValueError, lambda: TableClock([0.1, 1], [0, 1]), "Expected times to start at 0; got 0.1."),
    (ValueError, lambda: TableClock([0, 1], [0.1, 1]), "Expected values to start at 0; got 0.1."),
    (ValueError, lambda: TableClock([0, 1], [0, 1, 2]),
     "Expected values to have length 2; got 3."),
    (ValueError, lambda: TableClock([0, 1, 1], [0, 1, 2]), "Expected times to increase; got "),
    (ValueError, lambda: TableClock([0], [0]), "Expected times to hold at least 2 numbers; got "),
])
# fmt: on
def test_bad_tables(error, make, words):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value).startswith(words)
