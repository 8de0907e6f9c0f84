r"""Samplers of a denoiser: a denoiser, a grid and a solver as one callable.

A denoiser knows the schedule of what it was trained on, so there is a process to it,
`GaussianDiffusion(denoiser.schedule)`; a sampler runs `sample_backward` with both. Times increase,
as everywhere, and t = 0 is data: the step to 0 ends at the denoiser's last mean, also where the
schedule has a σ above 0 there.

References:
    azula, whose samplers these are, with times that decrease.
"""

from abc import ABC, abstractmethod
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from bridges._draw import Generator
from bridges._shapes import Time, as_integer, as_number, describe
from bridges.gaussian import GaussianDiffusion
from bridges.one_step import DDIMSolver
from bridges.sampler import Guess, sample_backward
from bridges.schedule import Schedule
from bridges.solver import Solver


class Sampler(ABC):
    """A denoiser with the times at which it is asked; a sampler of your own names its solver.

    Args:
        denoiser: `denoiser(x_t, t)` returns a prediction of x_0; its attribute `schedule` is a
            `Schedule`, and is looked up in every run.
        steps: the number of steps, at least 1.
        timesteps: steps + 1 increasing times from 0 to 1; None for evenly spaced ones.

    Raises:
        TypeError: if the denoiser is not callable, or has no schedule.
        ValueError: if steps is not such a number, or timesteps does not hold steps + 1 times.
    """

    def __init__(self, denoiser: Guess, steps: int, *, timesteps: Any = None) -> None:
        if not callable(denoiser) or not isinstance(_schedule(denoiser), Schedule):
            raise TypeError(
                "Expected denoiser to be callable and to have a schedule; "
                f"got {describe(denoiser)}."
            )
        steps = as_integer(steps, "steps", 1)
        grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        grid = grid if timesteps is None else torch.as_tensor(timesteps, dtype=torch.float64)
        if grid.ndim == 0 or len(grid) != steps + 1:
            raise ValueError(
                f"Expected timesteps to hold {steps + 1} times; got {describe(timesteps)}."
            )
        if not bool((grid[1:] >= grid[:-1]).all() & (grid >= 0).all() & (grid <= 1).all()):
            raise ValueError(
                "Expected timesteps to increase within [0, 1]; got others: the data are at 0."
            )
        self.denoiser = denoiser
        self.steps = steps
        self.timesteps = grid

    @property
    @abstractmethod
    def solver(self) -> Solver:
        """The solver between two times."""

    @property
    def process(self) -> GaussianDiffusion:
        """The process of the denoiser's schedule."""
        return GaussianDiffusion(_schedule(self.denoiser))

    @final
    def __call__(self, x_1: Tensor, *, generator: Generator = None, **kwargs: Any) -> Tensor:
        """Draw a sample at the first time, without gradients.

        Args:
            x_1: the state at the last time, such as a draw of `process.sample_prior`.
            generator: the source of randomness.
            kwargs: what else the denoiser is given, such as labels.

        Returns:
            The state at the first time, like x_1.

        Raises:
            TypeError, ValueError: if x_1 or the times are not as expected.
        """
        return self._run(self.timesteps, x_1, generator, kwargs)

    @final
    def step(
        self, x_t: Tensor, t: Time, s: Time, *, generator: Generator = None, **kwargs: Any
    ) -> Tensor:
        """Draw x_s by one step from x_t, as the only step of a run.

        Args:
            x_t: the state at time t.
            t: its time, a number or a tensor over a leading part of the batch.
            s: the time to go to, 0 ≤ s ≤ t, a number or in the shape of t.
            generator: the source of randomness.
            kwargs: what else the denoiser is given.

        Returns:
            x_s, like x_t.

        Raises:
            TypeError, ValueError: if the state or a time is not as expected.
        """
        s, t = (torch.as_tensor(time, dtype=torch.float64) for time in (s, t))
        if s.ndim > 0 and t.ndim > 0 and s.shape != t.shape:
            raise ValueError(
                f"Expected s to have the shape of t, {tuple(t.shape)}; got {tuple(s.shape)}."
            )
        shape = t.shape if s.ndim == 0 else s.shape
        return self._run(torch.stack((s.expand(shape), t.expand(shape))), x_t, generator, kwargs)

    def _run(
        self, timesteps: Tensor, x: Tensor, generator: Generator, kwargs: dict[str, Any]
    ) -> Tensor:
        guess = partial(self.denoiser, **kwargs) if kwargs else self.denoiser
        x_s: Tensor = sample_backward(
            guess, self.process, timesteps, x, solver=self.solver, generator=generator
        )
        return x_s


def _schedule(denoiser: Any) -> Any:
    return getattr(denoiser, "schedule", None)


@final
class DDPMSampler(Sampler):
    r"""The sampler of DDPM: a draw from the bridge towards the denoiser's mean.

    .. math:: x_s = \alpha_s\,\mu + \sigma_s\,r\,\frac{x_t - \alpha_t\,\mu}{\sigma_t}
        + \sigma_s \sqrt{1 - r^2}\,\varepsilon, \qquad
        r = \frac{\alpha_t\,\sigma_s}{\alpha_s\,\sigma_t}

    Exact as the steps shrink, if μ is the posterior mean.

    References:
        Ho, Jain & Abbeel, Denoising diffusion probabilistic models, 2020.

    Args:
        denoiser: see `Sampler`.
        steps: the number of steps, at least 1.
        timesteps: steps + 1 increasing times; None for evenly spaced ones.

    >>> from bridges.analytic_denoiser import NormalDenoiser
    >>> from bridges.schedule import RectifiedSchedule
    >>> denoiser = NormalDenoiser(RectifiedSchedule(), mean=3.0, var=1e-20)
    >>> DDPMSampler(denoiser, steps=4)(torch.randn(2, 2))
    tensor([[3., 3.],
            [3., 3.]])
    """

    @property
    def solver(self) -> Solver:
        """DDIM with η = 1, which is the bridge."""
        return DDIMSolver(1.0)


@final
class DDIMSampler(Sampler):
    r"""The sampler of DDIM: deterministic at η = 0, DDPM at η = 1; see `DDIMSolver`.

    .. math:: x_s = \alpha_s\,\mu + \sigma_s \sqrt{1 - \tau}\,\frac{x_t - \alpha_t\,\mu}{\sigma_t}
        + \sigma_s \sqrt{\tau}\,\varepsilon, \qquad \tau = \min(1,\; \eta\,(1 - r^2))

    Exact as the steps shrink, if μ is the posterior mean.

    References:
        Song, Meng & Ermon, Denoising diffusion implicit models, 2021; their η is the root of this.

    Args:
        denoiser: see `Sampler`.
        steps: the number of steps, at least 1.
        eta: η, at least 0.
        timesteps: steps + 1 increasing times; None for evenly spaced ones.

    Raises:
        ValueError: if eta is negative.

    >>> from bridges.analytic_denoiser import NormalDenoiser
    >>> from bridges.schedule import RectifiedSchedule
    >>> denoiser = NormalDenoiser(RectifiedSchedule(), mean=0.0, var=4.0)
    >>> DDIMSampler(denoiser, steps=64)(torch.tensor([-1.0, 1.0]))  # exactly: -2 and 2
    tensor([-1.9542,  1.9542])
    """

    def __init__(
        self, denoiser: Guess, steps: int, *, eta: float = 0.0, timesteps: Any = None
    ) -> None:
        super().__init__(denoiser, steps, timesteps=timesteps)
        self.eta = as_number(eta, "eta")
        DDIMSolver(self.eta)

    @property
    def solver(self) -> Solver:
        """DDIM with this η."""
        return DDIMSolver(self.eta)
