r"""Numbers: Gaussian processes on ℝ, element by element; see `gaussian_process` for their laws."""

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from bridges._device import host, may_look
from bridges._draw import Draws
from bridges._shapes import as_number, describe, on_host, positive
from bridges.gaussian_process import GaussianProcess, Pair
from bridges.prediction import Velocity
from bridges.schedule import Schedule


@final
@dataclass(frozen=True)
class OrnsteinUhlenbeckDiffusion(GaussianProcess):
    r"""Ornstein–Uhlenbeck process, :math:`dx = -\theta(x - \mu)\,dt + v\,dW`. Exact.

    .. math::
        \alpha_t = e^{-\theta t}, \qquad
        \sigma_t^2 = \frac{v^2}{2\theta}\left(1 - e^{-2\theta t}\right)

    The prior is :math:`N(\mu, v^2/2\theta)`: standard normal for the defaults.

    References:
        Uhlenbeck & Ornstein, On the theory of the Brownian motion, 1930.

    Args:
        mean: μ, where the process settles.
        volatility: v, positive.
        reversion: θ, positive.

    Raises:
        ValueError: if volatility or reversion is not positive.

    >>> process = OrnsteinUhlenbeckDiffusion(0.0)
    >>> x_t = process.sample_forward(torch.zeros(4, 3), torch.rand(4))
    >>> process.sample_bridge(torch.zeros(4, 3), x_t, s=0.0, t=1.0).abs().max()
    tensor(0.)
    """

    mean: float = 0.0
    volatility: float = 1.0
    reversion: float = 0.5

    def __post_init__(self) -> None:
        as_number(self.mean, "mean")
        positive(self.volatility, "volatility")
        positive(self.reversion, "reversion")

    def _transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        rest = -self.reversion * (t - s)
        return torch.exp(rest), -self._stationary * torch.expm1(2 * rest)

    def _slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, v = self._marginal(t)
        return -self.reversion * alpha, 0.5 * self.volatility**2 * alpha**2 / v.sqrt()

    @property
    def _stationary(self) -> float:
        return self.volatility**2 / (2 * self.reversion)

    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> Tensor:
        return self.mean + math.sqrt(self._stationary) * draws.normal(shape, dtype, device)

    def _loss_scale(self, t: Tensor) -> Tensor:
        r"""Return √(1 − e^{−θt}), Diffusions.jl's scaler.

        The squared error of a good prediction grows as the variance does, from 0 to about 1.
        Dividing by its square root, not by itself, leaves the loss larger at high noise, where
        whole samples take shape.
        """
        return (-torch.expm1(-self.reversion * t)).sqrt()


@final
@dataclass(frozen=True)
class BrownianDiffusion(GaussianProcess):
    r"""Brownian motion on numbers, :math:`dx = \sqrt{r}\,dW`. Exact.

    .. math:: \alpha_t = 1, \qquad \sigma_t^2 = r\,t

    It spreads without end, so there is no prior: a run starts from a draw of variance
    :math:`r\,t` that is wide against the data. On `PowerClock(2.0)` t is the standard deviation.

    Args:
        rate: r, the variance per unit of time, positive.

    Raises:
        ValueError: if rate is not positive.

    >>> process = BrownianDiffusion(4.0)
    >>> process.score(torch.tensor([3.0]), torch.tensor([1.0]), 0.25)
    tensor([-2.])
    """

    rate: float

    def __post_init__(self) -> None:
        positive(self.rate, "rate")

    def _transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        w = self.rate * (t - s)
        return torch.ones_like(w), w

    def _slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), 0.5 * torch.sqrt(self.rate / t)

    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> Tensor:
        raise NotImplementedError(
            "Expected a process with a prior; got BrownianDiffusion, which spreads without end: "
            "start from normal numbers of variance rate · t."
        )


@final
@dataclass(frozen=True)
class GaussianDiffusion(GaussianProcess):
    r"""The Markov process whose scales are those of a schedule, on t from 0 to 1. Exact.

    .. math:: x_t \mid x_0 \sim N(\alpha_t x_0,\; \sigma_t^2), \qquad
        a = \alpha_t/\alpha_s, \quad w = \sigma_t^2 \left(1 -
        \frac{\alpha_t^2/\sigma_t^2}{\alpha_s^2/\sigma_s^2}\right)

    At t = 0 the state is x_0 itself, α = 1 and σ = 0, whatever the schedule says there. Later
    times are the schedule's, and it ends at 1: a later time raises. The prior is
    :math:`N(0, \sigma_1^2)`, which is the law at t = 1 where :math:`\alpha_1 = 0`, and close to it
    where :math:`\alpha_1 x_0` is small against :math:`\sigma_1`.

    References:
        Kingma et al., Variational diffusion models, 2021.

    Args:
        schedule: :math:`\alpha_t` and :math:`\sigma_t`; see `bridges.schedule`.

    >>> from bridges.schedule import RectifiedSchedule
    >>> process = GaussianDiffusion(RectifiedSchedule())
    >>> process.score(torch.tensor([3.0]), torch.tensor([2.0]), 0.5)
    tensor([-8.])
    """

    schedule: Schedule

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise TypeError(f"Expected schedule to be a Schedule; got {describe(self.schedule)}.")

    def _check_time(self, t: Tensor, name: str) -> None:
        if bool((t > 1).any()):
            raise ValueError(
                f"Expected the time {name} to be at most 1, where the schedule ends; "
                f"got {t.max().item()}."
            )

    def _marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if on_host(t) and t.item() > 0:
            return self.schedule.alpha(t), self.schedule.sigma(t) ** 2
        moving = t > 0
        t = torch.where(moving, t, 1.0)
        v = self.schedule.sigma(t) ** 2
        return torch.where(moving, self.schedule.alpha(t), 1.0), torch.where(moving, v, 0.0)

    def _transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if on_host(s) and s.item() == 0:
            return self._marginal(t)
        if on_host(s, t) and s.item() < t.item():
            return self._late(s, t)
        moving, late = s < t, (s > 0) & (s < t)
        alpha_t, v_t = self._marginal(t)
        a, w = self._late(torch.where(late, s, 0.25), torch.where(late, t, 0.75))
        return (
            torch.where(late, a, torch.where(moving, alpha_t, 1.0)),
            torch.where(late, w, torch.where(moving, v_t, 0.0)),
        )

    def _late(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the transition for 0 < s < t."""
        a = self.schedule.alpha(t) / self.schedule.alpha(s)
        log_r2 = self.schedule.log_snr(t) - self.schedule.log_snr(s)
        return a, -(self.schedule.sigma(t) ** 2) * torch.expm1(log_r2)

    def _solution(self, kind: type, x_t: Tensor, t: Tensor) -> tuple[Pair, Pair]:
        if self.schedule.forgets_in_a_step and kind is not Velocity and may_look(t):
            if bool((t == 1).any()):
                raise ValueError(
                    "Expected a point or a velocity at t = 1, where the last step of the schedule "
                    f"leaves nothing of x_0; got {kind.__name__}, which says nothing about it."
                )
        return super()._solution(kind, x_t, t)

    def _slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.schedule.alpha_dot(t), self.schedule.sigma_dot(t)

    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> Tensor:
        sigma = self.schedule.sigma(host(1.0))
        return sigma.item() * draws.normal(shape, dtype, device)
