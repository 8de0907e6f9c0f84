"""Generative models over several kinds of space at once.

A process noises points of a space and knows its bridge, the law of x_s given x_0 and x_t. A model
guesses x_0; sampling alternates the guess and a step of the bridge towards it.
"""

from bridges._draw import Draws, GivenDraws, StreamDraws
from bridges.angle import WrappedBrownianDiffusion, WrappedInterpolatedBrownianDiffusion
from bridges.categorical import UniformDiscreteDiffusion
from bridges.clock import (
    Clock,
    GeometricClock,
    LinearClock,
    LinearRateClock,
    LogarithmicClock,
    PowerClock,
)
from bridges.gaussian import OrnsteinUhlenbeckDiffusion
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
from bridges.loss import Loss, standardloss
from bridges.prediction import Mixture, Noise, PlugIn, Prediction, Score, Tangent, Velocity
from bridges.process import Process
from bridges.rotation import RotationDiffusion
from bridges.sampler import Step, sample_backward, trajectory
from bridges.selfcondition import selfconditioned, selfconditioning_estimate
from bridges.share_clock import CDFClock, CosineClock, LogLinearClock
from bridges.sphere import SphereDiffusion
from bridges.table_clock import TableClock

__all__ = [
    "CDFClock",
    "Clock",
    "CosineClock",
    "Draws",
    "GeometricClock",
    "GivenDraws",
    "Joint",
    "LinearClock",
    "LinearRateClock",
    "LogLinearClock",
    "LogarithmicClock",
    "Loss",
    "Mixture",
    "Noise",
    "OrnsteinUhlenbeckDiffusion",
    "PlugIn",
    "PowerClock",
    "Prediction",
    "Process",
    "RotationDiffusion",
    "Score",
    "SphereDiffusion",
    "Step",
    "StreamDraws",
    "TableClock",
    "Tangent",
    "UniformDiscreteDiffusion",
    "Velocity",
    "WrappedBrownianDiffusion",
    "WrappedInterpolatedBrownianDiffusion",
    "cosine_times",
    "explicit_times",
    "exponential_times",
    "geometric_times",
    "karras_times",
    "quadratic_times",
    "sample_backward",
    "selfconditioned",
    "selfconditioning_estimate",
    "standardloss",
    "timeschedule",
    "trajectory",
    "uniform_times",
]
