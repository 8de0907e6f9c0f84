r"""Samplers of a denoiser: a grid of times and a step as one module.

A `Sampler` walks its times from the last to the first, and each of its steps draws

.. math:: x_s \sim q(x_s \mid x_t), \qquad s \le t .

A sampler of your own writes `step`. That of a `SolverSampler` is a solver's: a denoiser knows the
schedule of what it was trained on, so there is a process to it,
`GaussianDiffusion(denoiser.schedule)`, and `sample_backward` runs the whole grid at once. Times
increase, as everywhere, and t = 0 is data: the step of a solver to 0 ends at the denoiser's last
mean, also where the schedule has a σ above 0 there.

References:
    azula, whose samplers these are, with times that decrease.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any, final

import torch
from torch import Tensor, nn

from bridges._device import host, widest
from bridges._draw import Generator, as_draws
from bridges._precision import at_least_float32, exact
from bridges._shapes import Time, as_integer, as_number, as_shape, describe, like
from bridges.gaussian import GaussianDiffusion
from bridges.one_step import DDIMSolver
from bridges.sampler import Guess, sample_backward
from bridges.schedule import Schedule
from bridges.selfcondition import RunGuess
from bridges.solver import Solver


class Sampler(nn.Module, ABC):
    r"""A grid of times that is walked from the last to the first; a sampler of your own steps it.

    It calls `super().__init__(steps)`, sets its denoiser and writes `step`. A denoiser that is a
    module is a submodule, with all that follows for `state_dict` and `to`.

    Args:
        steps: the number of steps, at least 1.
        timesteps: steps + 1 increasing times from 0 to 1; None for evenly spaced ones.

    Attributes:
        denoiser: `denoiser(x_t, t)` returns a law or another prediction of x_0, and has a
            schedule. It is for the subclass to set.
        timesteps: the times, float64 on the CPU, shape (steps + 1,). They stay so whatever dtype
            and device the module is moved to.

    Raises:
        ValueError: if steps is not such a number, or timesteps does not hold steps + 1 times.

    >>> from bridges.analytic_denoiser import NormalDenoiser
    >>> from bridges.schedule import RectifiedSchedule
    >>> class Euler(Sampler):
    ...     def __init__(self, denoiser, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.denoiser = denoiser
    ...     def step(self, x_t, t, s, **kwargs):
    ...         (alpha_t, sigma_t), (alpha_s, sigma_s) = map(self.denoiser.schedule, (t, s))
    ...         mean = self.denoiser(x_t, t, **kwargs).mean
    ...         return alpha_s * mean + sigma_s / sigma_t * (x_t - alpha_t * mean)
    >>> sampler = Euler(NormalDenoiser(RectifiedSchedule(), mean=0.0, var=4.0), steps=64)
    >>> sampler(torch.tensor([-1.0, 1.0]))  # exactly: -2 and 2
    tensor([-1.9542,  1.9542])
    """

    denoiser: Any

    def __init__(self, steps: int, *, timesteps: Any = None) -> None:
        super().__init__()
        self.steps = as_integer(steps, "steps", 1)
        self.timesteps = _grid(timesteps, self.steps)

    @torch.no_grad()
    @exact
    def init(
        self,
        shape: Sequence[int],
        mean: float | Tensor | None = None,
        var: float | Tensor | None = None,
        *,
        generator: Generator = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        r"""Draw a state at the last time, for data with that mean and that variance.

        .. math:: x_1 \sim N(\alpha_1 \operatorname{E}[x_0],\;
            \alpha_1^2 \operatorname{Var}[x_0] + \sigma_1^2)

        Exact if data are independent normal numbers, and as :math:`\alpha_1/\sigma_1 \to 0`.

        Args:
            shape: the shape of the state.
            mean: E[x_0], a number or a tensor that broadcasts to the shape; None for 0.
            var: Var[x_0], at least 0, likewise; None for 1.
            generator: the source of randomness.
            dtype: floating dtype; None for torch's default.
            device: None for that of the module's parameters and buffers; torch's default where
                there are none.

        Raises:
            TypeError: if the sampler has no denoiser with a schedule, or an argument is not as
                expected.
            ValueError: if mean or var does not broadcast to the shape, or var is negative.
        """
        schedule = _schedule(getattr(self, "denoiser", None))
        if not callable(schedule):
            raise TypeError(
                "Expected the sampler to have a denoiser with a schedule, to draw its first state "
                f"from; got {describe(getattr(self, 'denoiser', None))}."
            )
        shape, dtype = as_shape(shape), torch.get_default_dtype() if dtype is None else dtype
        device = self._device() if device is None else torch.device(device)
        m = _moment(0.0 if mean is None else mean, "mean", shape)
        v = _moment(1.0 if var is None else var, "var", shape)
        if not bool((v >= 0).all()):
            raise ValueError("Expected var to be at least 0; got another number.")
        alpha, sigma = schedule(self.timesteps[-1])
        wide = at_least_float32(dtype)
        first = (alpha * m).to(device, wide)
        std = torch.sqrt(alpha**2 * v + sigma**2).to(device, wide)
        noise = as_draws(generator).normal(shape, wide, device)
        x_1: Tensor = (first + std * noise).to(dtype)
        return x_1

    def _device(self) -> torch.device:
        value = next(chain(self.parameters(), self.buffers()), None)
        return torch.empty(0).device if value is None else value.device

    @torch.no_grad()
    def forward(self, x_1: Tensor, *, generator: Generator = None, **kwargs: Any) -> Tensor:
        """Draw a sample at the first time, without gradients.

        Args:
            x_1: the state at the last time, such as a draw of `init`.
            generator: the source of randomness; a step is given it where it is not None.
            kwargs: what else each step is given, such as labels for the denoiser.

        Returns:
            The state at the first time, like x_1.

        Raises:
            TypeError, ValueError: if x_1 is not floating, or a step does not return a state like
                it.
        """
        if not isinstance(x_1, Tensor) or not x_1.is_floating_point():
            raise TypeError(f"Expected x_1 to be a floating tensor; got {describe(x_1)}.")
        more = kwargs if generator is None else {**kwargs, "generator": generator}
        x, times = x_1, self.timesteps.unbind()
        for i in range(len(times) - 1, 0, -1):
            x = like(self.step(x, times[i], times[i - 1], **more), x_1, "what step returns")
        return x

    @abstractmethod
    def step(self, x_t: Tensor, t: Tensor, s: Tensor, **kwargs: Any) -> Tensor:
        """Draw x_s from x_t.

        Args:
            x_t: the state at time t.
            t: its time, a float64 number on the CPU, shape ().
            s: the time to go to, 0 ≤ s ≤ t, likewise.
            kwargs: what the run was given, and its generator if there is one.

        Returns:
            x_s, like x_t.
        """


def _schedule(denoiser: Any) -> Any:
    return getattr(denoiser, "schedule", None)


def _grid(timesteps: Any, steps: int) -> Tensor:
    """Return the times in float64 on the CPU, or raise."""
    if timesteps is None:
        return torch.linspace(0, 1, steps + 1, dtype=torch.float64, device="cpu")
    grid = torch.as_tensor(timesteps, dtype=torch.float64, device="cpu")
    if grid.shape != (steps + 1,):
        raise ValueError(
            f"Expected timesteps to hold {steps + 1} times; got {describe(timesteps)}."
        )
    if not bool((grid[1:] >= grid[:-1]).all() & (grid >= 0).all() & (grid <= 1).all()):
        raise ValueError(
            "Expected timesteps to increase within [0, 1]; got others: the data are at 0."
        )
    return grid.clone()


def _moment(value: float | Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a mean or a variance in float64, or raise unless it broadcasts to a shape."""
    if not isinstance(value, Tensor):
        return host(as_number(value, name))
    if not value.is_floating_point():
        raise TypeError(f"Expected {name} to be floating; got {describe(value)}.")
    sizes = zip(reversed(value.shape), reversed(shape), strict=False)
    if value.ndim > len(shape) or any(n not in (1, size) for n, size in sizes):
        raise ValueError(
            f"Expected {name} to broadcast to shape {shape}; got shape {tuple(value.shape)}."
        )
    return value.to(widest(value.device))


class SolverSampler(Sampler):
    """A sampler whose steps are a solver's, run for a whole grid at once; it names the solver.

    Args:
        denoiser: `denoiser(x_t, t)` returns a prediction of x_0; its attribute `schedule` is a
            `Schedule`, and is looked up in every run. It is given t of shape (B,), or () where
            x_t has one dimension and so is one example, in the dtype of the state, but at least
            in float32.
        steps: the number of steps, at least 1.
        timesteps: steps + 1 increasing times from 0 to 1; None for evenly spaced ones.

    Raises:
        TypeError: if the denoiser is not callable, or has no schedule.
        ValueError: if steps is not such a number, or timesteps does not hold steps + 1 times.

    >>> from bridges import AdamsBashforthSolver, NormalDenoiser, RectifiedSchedule
    >>> class Bashforth(SolverSampler):
    ...     @property
    ...     def solver(self):
    ...         return AdamsBashforthSolver(order=3)
    >>> sampler = Bashforth(NormalDenoiser(RectifiedSchedule(), mean=0.0, var=4.0), steps=64)
    >>> sampler(torch.tensor([-1.0, 1.0]))  # exactly: -2 and 2
    tensor([-1.9989,  1.9989])
    """

    def __init__(self, denoiser: Guess, steps: int, *, timesteps: Any = None) -> None:
        is_schedule = isinstance(denoiser, Schedule)
        if is_schedule or not callable(denoiser) or not _has_schedule(denoiser):
            raise TypeError(
                "Expected denoiser to be callable and to have a schedule; "
                f"got {describe(denoiser)}."
            )
        super().__init__(steps, timesteps=timesteps)
        self.denoiser = denoiser

    @property
    @abstractmethod
    def solver(self) -> Solver:
        """The solver between two times."""

    @property
    def process(self) -> GaussianDiffusion:
        """The process of the denoiser's schedule."""
        return GaussianDiffusion(_schedule(self.denoiser))

    def forward(self, x_1: Tensor, *, generator: Generator = None, **kwargs: Any) -> Tensor:
        return self._run(self.timesteps, x_1, generator, kwargs)

    @final
    def step(
        self, x_t: Tensor, t: Time, s: Time, *, generator: Generator = None, **kwargs: Any
    ) -> Tensor:
        """Draw x_s by one step from x_t, as the only step of a run, without gradients.

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
        denoiser = self.denoiser
        denoiser = denoiser.start() if isinstance(denoiser, RunGuess) else denoiser
        guess = partial(denoiser, **kwargs) if kwargs else denoiser
        if isinstance(x, Tensor) and x.ndim == 1 and timesteps.ndim == 1:
            guess = partial(_as_one, guess)
        x_s: Tensor = sample_backward(
            guess, self.process, timesteps, x, solver=self.solver, generator=generator
        )
        return x_s


def _has_schedule(denoiser: Any) -> bool:
    return isinstance(_schedule(denoiser), Schedule)


def _as_one(guess: Guess, x_t: Tensor, t: Tensor) -> Any:
    """Ask about a state of one dimension as one example: its times are all the same."""
    return guess(x_t, t[0] if t.numel() else t.new_zeros(()))


@final
class DDPMSampler(SolverSampler):
    r"""The sampler of DDPM: a draw from the bridge towards the denoiser's mean.

    .. math:: x_s = \alpha_s\,\mu + \sigma_s\,r\,\frac{x_t - \alpha_t\,\mu}{\sigma_t}
        + \sigma_s \sqrt{1 - r^2}\,\varepsilon, \qquad
        r = \frac{\alpha_t\,\sigma_s}{\alpha_s\,\sigma_t}

    Exact as the steps shrink, if μ is the posterior mean.

    References:
        Ho, Jain & Abbeel, Denoising diffusion probabilistic models, 2020.

    Args:
        denoiser: see `SolverSampler`.
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
class DDIMSampler(SolverSampler):
    r"""The sampler of DDIM: deterministic at η = 0, DDPM at η = 1; see `DDIMSolver`.

    .. math:: x_s = \alpha_s\,\mu + \sigma_s \sqrt{1 - \tau}\,\frac{x_t - \alpha_t\,\mu}{\sigma_t}
        + \sigma_s \sqrt{\tau}\,\varepsilon, \qquad \tau = \min(1,\; \eta\,(1 - r^2))

    Exact as the steps shrink, if μ is the posterior mean.

    References:
        Song, Meng & Ermon, Denoising diffusion implicit models, 2021; their η is the root of this.

    Args:
        denoiser: see `SolverSampler`.
        eta: η, at least 0; None for 0.
        steps: the number of steps, at least 1.
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
        self,
        denoiser: Guess,
        eta: float | None = None,
        *,
        steps: int,
        timesteps: Any = None,
    ) -> None:
        super().__init__(denoiser, steps, timesteps=timesteps)
        self.eta = None if eta is None else as_number(eta, "eta")
        DDIMSolver(self.eta or 0.0)

    @property
    def solver(self) -> Solver:
        """DDIM with this η."""
        return DDIMSolver(self.eta or 0.0)
