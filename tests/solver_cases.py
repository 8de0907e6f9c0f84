"""Every solver, for tests that run them all."""

import pytest
import torch

from bridges import Draws, OrnsteinUhlenbeckDiffusion
from bridges.curve import CircleCurve, DataCurve, LineCurve, NoiseCurve
from bridges.gaussian import GaussianDiffusion
from bridges.multistep import AdamsBashforthSolver, ExponentialSolver, RosenbrockSolver
from bridges.one_step import DDIMSolver, EulerSolver, HeunSolver, PredictorCorrectorSolver
from bridges.schedule import RectifiedSchedule

DOUBLE = torch.float64
OU = OrnsteinUhlenbeckDiffusion(0.5, 1.2, 0.8)
RECTIFIED = GaussianDiffusion(RectifiedSchedule())
CURVES = (NoiseCurve(), DataCurve(), LineCurve(), CircleCurve())
DETERMINISTIC = [
    EulerSolver(),
    DDIMSolver(),
    *(HeunSolver(curve) for curve in CURVES),
    *(AdamsBashforthSolver(3, curve) for curve in CURVES),
    *(ExponentialSolver(3, curve) for curve in CURVES),
    RosenbrockSolver(2),
]
STOCHASTIC = [DDIMSolver(0.4), DDIMSolver(1.0), PredictorCorrectorSolver(2, 0.1)]
SOLVERS = [*DETERMINISTIC, *STOCHASTIC]
every = pytest.mark.parametrize("solver", SOLVERS, ids=str)
deterministic = pytest.mark.parametrize("solver", DETERMINISTIC, ids=str)


class NoDraws(Draws):
    def normal(self, shape, dtype, device):
        raise AssertionError("a deterministic step drew noise")

    uniform = normal


def rng(seed):
    return torch.Generator().manual_seed(seed)


def bend(x_t, t):
    """A guess that is not linear, in t or in x."""
    t = t.reshape(-1, *[1] * (x_t.ndim - 1))
    return torch.tanh(x_t - 0.3) * torch.exp(-0.5 * t) + 0.2
