"""Generative models over several kinds of space at once.

A process noises points of a space and knows its bridge, the law of x_s given x_0 and x_t. A model
guesses x_0; sampling alternates the guess and a step of the bridge towards it.

The modules `recipes`, `testing`, `protein`, `nn` and `convert` are imported when they are first
used.
"""

from importlib import import_module
from typing import Final

from bridges._checks import unchecked
from bridges._draw import Draws, GivenDraws, StreamDraws
from bridges.analytic_denoiser import (
    CorrelatedNormalDenoiser,
    EmpiricalDenoiser,
    MixtureDenoiser,
    NormalDenoiser,
)
from bridges.angle import WrappedBrownianDiffusion, WrappedInterpolatedBrownianDiffusion
from bridges.categorical import (
    IndependentDiscreteDiffusion,
    MaskingDiscreteDiffusion,
    MixtureDiscreteDiffusion,
    UniformDiscreteDiffusion,
)
from bridges.clock import (
    Clock,
    GeometricClock,
    LinearClock,
    LinearRateClock,
    LogarithmicClock,
    PowerClock,
)
from bridges.correlated_noise import CovarianceFactor, SymmetricNoise
from bridges.curve import CircleCurve, Curve, DataCurve, LineCurve, NoiseCurve
from bridges.ddpm import DenoiseDiffusion
from bridges.denoised_sampler import DDIMSampler, DDPMSampler, Sampler, SolverSampler
from bridges.denoiser import GaussianDenoiser, PreconditionedDenoiser, estimate_var
from bridges.discrete_time import DiscreteTimeDiffusion
from bridges.gaussian import BrownianDiffusion, GaussianDiffusion, OrnsteinUhlenbeckDiffusion
from bridges.grid import (
    cosine_times,
    explicit_times,
    exponential_times,
    geometric_times,
    karras_times,
    quadratic_times,
    timeschedule,
    uniform_times,
)
from bridges.joint import Joint
from bridges.linear_noise import LinearNoise, ZeroCentreOfMass
from bridges.loss import Loss, standardloss
from bridges.multistep import AdamsBashforthSolver, ExponentialSolver, RosenbrockSolver
from bridges.network_denoiser import (
    FlowDenoiser,
    NoiseDenoiser,
    RescheduledDenoiser,
    ScoreDenoiser,
    StepIndex,
    VDenoiser,
    VelocityDenoiser,
)
from bridges.one_step import (
    DDIMSolver,
    EulerSolver,
    HeunSolver,
    PredictorCorrectorSolver,
)
from bridges.preconditioned_guess import PreconditionedGuess
from bridges.prediction import (
    Gaussian,
    Mixture,
    Noise,
    PlugIn,
    Prediction,
    Score,
    Tangent,
    Velocity,
)
from bridges.process import Process
from bridges.quaternion import UnitQuaternionDiffusion
from bridges.rate_matrix import GeneralDiscreteDiffusion
from bridges.rotation import RotationDiffusion
from bridges.sampler import Step, sample_backward, trajectory
from bridges.schedule import DecaySchedule, RectifiedSchedule, Schedule, ShiftedSchedule
from bridges.selfcondition import null_like, selfconditioned, selfconditioning_estimate
from bridges.share_clock import CDFClock, CosineClock, LogLinearClock
from bridges.solver import GaussianSolver, Solver
from bridges.sphere import SphereDiffusion
from bridges.structured import StructuredDiffusion
from bridges.table_clock import TableClock
from bridges.time_sampler import (
    LogNormalTimes,
    LowDiscrepancyTimes,
    NormalLogSNRTimes,
    StratifiedTimes,
    TimeSampler,
    UniformLogSNRTimes,
    UniformTimes,
)
from bridges.unmasking import Remasking, sample_by_first_hitting
from bridges.ve_schedule import EDMSchedule, VESchedule
from bridges.vp_schedule import CosineSchedule, OffsetCosineSchedule, TableSchedule, VPSchedule
from bridges.weight import (
    EDMWeight,
    FlowWeight,
    MinSNRWeight,
    SNRWeight,
    UniformWeight,
    VWeight,
    Weight,
)

__all__ = [
    "AdamsBashforthSolver",
    "BrownianDiffusion",
    "CDFClock",
    "CircleCurve",
    "Clock",
    "CorrelatedNormalDenoiser",
    "CosineClock",
    "CosineSchedule",
    "CovarianceFactor",
    "Curve",
    "DDIMSampler",
    "DDIMSolver",
    "DDPMSampler",
    "DataCurve",
    "DecaySchedule",
    "DenoiseDiffusion",
    "DiscreteTimeDiffusion",
    "Draws",
    "EDMSchedule",
    "EDMWeight",
    "EmpiricalDenoiser",
    "EulerSolver",
    "ExponentialSolver",
    "FlowDenoiser",
    "FlowWeight",
    "Gaussian",
    "GaussianDenoiser",
    "GaussianDiffusion",
    "GaussianSolver",
    "GeneralDiscreteDiffusion",
    "GeometricClock",
    "GivenDraws",
    "HeunSolver",
    "IndependentDiscreteDiffusion",
    "Joint",
    "LineCurve",
    "LinearClock",
    "LinearNoise",
    "LinearRateClock",
    "LogLinearClock",
    "LogNormalTimes",
    "LogarithmicClock",
    "Loss",
    "LowDiscrepancyTimes",
    "MaskingDiscreteDiffusion",
    "MinSNRWeight",
    "Mixture",
    "MixtureDenoiser",
    "MixtureDiscreteDiffusion",
    "Noise",
    "NoiseCurve",
    "NoiseDenoiser",
    "NormalDenoiser",
    "NormalLogSNRTimes",
    "OffsetCosineSchedule",
    "OrnsteinUhlenbeckDiffusion",
    "PlugIn",
    "PowerClock",
    "PreconditionedDenoiser",
    "PreconditionedGuess",
    "Prediction",
    "PredictorCorrectorSolver",
    "Process",
    "RectifiedSchedule",
    "Remasking",
    "RescheduledDenoiser",
    "RosenbrockSolver",
    "RotationDiffusion",
    "SNRWeight",
    "Sampler",
    "Schedule",
    "Score",
    "ScoreDenoiser",
    "ShiftedSchedule",
    "Solver",
    "SolverSampler",
    "SphereDiffusion",
    "Step",
    "StepIndex",
    "StratifiedTimes",
    "StreamDraws",
    "StructuredDiffusion",
    "SymmetricNoise",
    "TableClock",
    "TableSchedule",
    "Tangent",
    "TimeSampler",
    "UniformDiscreteDiffusion",
    "UniformLogSNRTimes",
    "UniformTimes",
    "UniformWeight",
    "UnitQuaternionDiffusion",
    "VDenoiser",
    "VESchedule",
    "VPSchedule",
    "VWeight",
    "Velocity",
    "VelocityDenoiser",
    "Weight",
    "WrappedBrownianDiffusion",
    "WrappedInterpolatedBrownianDiffusion",
    "ZeroCentreOfMass",
    "cosine_times",
    "estimate_var",
    "explicit_times",
    "exponential_times",
    "geometric_times",
    "karras_times",
    "null_like",
    "quadratic_times",
    "sample_backward",
    "sample_by_first_hitting",
    "selfconditioned",
    "selfconditioning_estimate",
    "standardloss",
    "timeschedule",
    "trajectory",
    "unchecked",
    "uniform_times",
]

MODULES: Final = ("convert", "nn", "protein", "recipes", "testing")


def __getattr__(name: str) -> object:
    if name in MODULES:
        return import_module(f"bridges.{name}")
    raise AttributeError(f"module 'bridges' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES})
