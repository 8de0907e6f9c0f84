"""A schedule of each kind, for tests that run on all."""

import pytest

from bridges import (
    CosineSchedule,
    EDMSchedule,
    RectifiedSchedule,
    TableSchedule,
    VESchedule,
    VPSchedule,
)

SCHEDULES = [
    VPSchedule(),
    CosineSchedule(),
    RectifiedSchedule(),
    VESchedule(0.01, 30.0),
    EDMSchedule(),
    TableSchedule.linear(100),
]
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
