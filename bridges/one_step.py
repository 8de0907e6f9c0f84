r"""Solvers of one step: each step uses the guesses of that step alone; see `solver`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from bridges._draw import Draws
from bridges._shapes import as_integer, as_number
from bridges.curve import Curve, LineCurve, Scales, check_curve
from bridges.solver import Carry, GaussianSolver


@final
@dataclass(frozen=True)
class EulerSolver(GaussianSolver):
    r"""Euler's method in u: DDIM without noise. First order, 1 guess per step.

    .. math:: y_s = \alpha_s\,\hat y_0 + \sigma_s\,\varepsilon, \qquad
        \varepsilon = (y_t - \alpha_t\,\hat y_0)/\sigma_t

    Exact for a guess that stays the same. It is the process's own step with η = 0.

    References:
        Song, Meng & Ermon, Denoising diffusion implicit models, 2021.

    >>> from bridges import OrnsteinUhlenbeckDiffusion, sample_backward
    >>> process = OrnsteinUhlenbeckDiffusion(0.0)
    >>> guess = lambda x_t, t: torch.exp(-t / 2) * x_t  # for data of variance 1
    >>> sample_backward(guess, process, [0.1, 2.0], torch.ones(2), solver=EulerSolver())
    tensor([0.6368, 0.6368])
    """

    def _factors(self, t: Scales, s: Scales) -> Sequence[Tensor]:
        return t.shares(s.alpha, s.sigma)


@final
@dataclass(frozen=True)
class DDIMSolver(GaussianSolver):
    r"""DDIM with noise, as azula has it. First order, 1 guess per step.

    .. math:: y_s = \alpha_s\,\hat y_0 + \sigma_s \sqrt{1 - \tau}\,\varepsilon
        + \sigma_s \sqrt{\tau}\,\varepsilon', \qquad
        \tau = \min(1,\; \eta\,(1 - r^2)), \qquad r = \frac{\alpha_t\,\sigma_s}{\alpha_s\,\sigma_t}

    with fresh noise ε'. η = 1 is the bridge (DDPM) and η = 0 draws nothing (`EulerSolver`), as for
    the process's own η. In between they differ: the own step has :math:`1 - \tau = r^{2\eta^2}`,
    the exact solution of the reverse SDE for a guess that stays the same, so that many small steps
    make one large one. Since :math:`r^{2\eta^2} \approx 1 - \eta^2 (1 - r^2)` as the steps shrink,
    the η here is the square of the own one there. The DDIM paper's η is the root of this one too.

    References:
        Song, Meng & Ermon, Denoising diffusion implicit models, 2021.
        azula, whose sampler of this name has this η.

    Args:
        eta: η, at least 0; the cap acts above 1.

    Raises:
        ValueError: if eta is negative.

    >>> from bridges import OrnsteinUhlenbeckDiffusion, sample_backward
    >>> process = OrnsteinUhlenbeckDiffusion(0.0)
    >>> guess = lambda x_t, t: torch.exp(-t / 2) * x_t  # for data of variance 1
    >>> solver = DDIMSolver(eta=0.5)
    >>> sample_backward(guess, process, [0.0, 0.1, 2.0], torch.ones(2), solver=solver).shape
    torch.Size([2])
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if as_number(self.eta, "eta") < 0:
            raise ValueError(f"Expected eta to be at least 0; got {self.eta!r}.")

    @property
    def draws_noise(self) -> bool:
        """Whether η is above 0."""
        return self.eta > 0

    def _factors(self, t: Scales, s: Scales) -> Sequence[Tensor]:
        kept, lost = s.alpha * t.sigma, s.sigma * t.alpha
        moving = kept > 0
        r = torch.where(moving, lost / torch.where(moving, kept, 1.0), 1.0)
        tau = (self.eta * (1 - r**2)).clamp(0, 1)
        return *t.shares(s.alpha, s.sigma * torch.sqrt(1 - tau)), s.sigma * torch.sqrt(tau)

    def _inside(self, carry: Carry, x_t: Tensor, x_0: Tensor, draws: Draws) -> Tensor:
        of_x_t, of_x_0, sigma = carry.now()
        sigma = sigma if self.eta > 0 else 0.0
        found: Tensor = carry.process._combine(x_t, of_x_t, ((of_x_0, x_0),), sigma, draws)
        return found


@final
@dataclass(frozen=True)
class HeunSolver(GaussianSolver):
    r"""Heun's method: Euler's step, and its slope averaged with the one at its end.

    .. math:: \frac{y_s}{S_s} = \frac{y_t}{S_t} + (\theta_s - \theta_t)\,\frac{g_t + g_s}{2}

    Second order, 2 guesses per step (1 on the step to 0, where there is no slope). On `NoiseCurve`
    it is the solver of EDM, which leaves the step from α = 0 as it is, since that lies at infinity
    there.

    References:
        Karras et al., Elucidating the design space of diffusion-based generative models, 2022.

    Args:
        curve: the variables S, θ and g; see `bridges.curve`.

    >>> from bridges import OrnsteinUhlenbeckDiffusion, sample_backward
    >>> process = OrnsteinUhlenbeckDiffusion(0.0)
    >>> guess = lambda x_t, t: torch.exp(-t / 2) * x_t  # for data of variance 1
    >>> sample_backward(guess, process, [0.1, 2.0], torch.ones(2), solver=HeunSolver())
    tensor([0.9253, 0.9253])
    """

    curve: Curve = LineCurve()

    def __post_init__(self) -> None:
        check_curve(self.curve)

    @property
    def corrections(self) -> int:
        """One more guess, for the slope at the end of the step."""
        return 1

    def _factors(self, t: Scales, s: Scales) -> Sequence[Tensor]:
        curve = self.curve
        half = 0.5 * curve.size(s) * (curve.place(s) - curve.place(t))
        half = torch.where(half.isfinite(), half, 0.0)
        straight = t.shares(*curve.ahead(t, s))
        at_t, at_s = t.shares(*curve.slopes(t)), s.shares(*curve.slopes(s))
        return (
            *straight,
            straight[0] - half * at_t[0],
            straight[1] - half * at_t[1],
            half * at_s[0],
            half * at_s[1],
        )

    def _kept(self, carry: Carry, x_t: Tensor, x_0: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        return x_t, x_0

    def correct(
        self, carry: Carry, prediction: Any, x_s: Tensor, s: Any, t: Any, draws: Draws
    ) -> tuple[Carry, Tensor]:
        process, (x_t, x_0) = carry.process, carry.history
        _, _, of_x_t, of_x_0, of_x_s, of_last = carry.last()
        last = process._endpoint(prediction, x_s, s, draws)
        terms = ((of_x_0, x_0), (of_x_s, x_s), (of_last, last))
        return carry, process._pinned(
            x_s, x_s, s, t, lambda s, t: process._combine(x_t, of_x_t, terms, 0.0, draws)
        )


@final
@dataclass(frozen=True)
class PredictorCorrectorSolver(GaussianSolver):
    r"""Euler's step, then steps of Langevin dynamics at the time that was reached.

    .. math:: y \gets \alpha_s\,\hat y_0(y) + \sqrt{1 - \delta}\,(y - \alpha_s\,\hat y_0(y))
        + \sqrt{\delta}\,\sigma_s\,\varepsilon

    1 + `count` guesses per step (1 on the step to 0). A correction is the exact solution of the
    Langevin equation for a guess that stays the same, so it is stable for every δ; with the exact
    guess it keeps the marginal as δ → 0. It takes out errors that the steps before have made, and
    does not raise the order.

    References:
        Song et al., Score-based generative modeling through stochastic differential equations,
        2021; they set δ from the norms of noise and score.

    Args:
        count: how many corrections follow a step, at least 0.
        delta: δ, the share of the noise that a correction renews, from 0 to 1.

    Raises:
        ValueError: if count is not such a number, or delta does not lie in [0, 1].

    >>> from bridges import OrnsteinUhlenbeckDiffusion, sample_backward
    >>> process = OrnsteinUhlenbeckDiffusion(0.0)
    >>> guess = lambda x_t, t: torch.exp(-t / 2) * x_t  # for data of variance 1
    >>> solver = PredictorCorrectorSolver(count=2, delta=0.1)
    >>> sample_backward(guess, process, [0.0, 0.1, 2.0], torch.ones(2), solver=solver).shape
    torch.Size([2])
    """

    count: int = 1
    delta: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", as_integer(self.count, "count", 0))
        if not 0 <= as_number(self.delta, "delta") <= 1:
            raise ValueError(f"Expected delta to lie in [0, 1]; got {self.delta!r}.")

    @property
    def corrections(self) -> int:
        """As many further guesses as there are corrections."""
        return self.count

    @property
    def draws_noise(self) -> bool:
        """Whether a correction renews some of the noise."""
        return self.count > 0 and self.delta > 0

    def _factors(self, t: Scales, s: Scales) -> Sequence[Tensor]:
        kept = math.sqrt(1 - self.delta)
        return (
            *t.shares(s.alpha, s.sigma),
            (1 - kept) * s.alpha,
            math.sqrt(self.delta) * s.sigma,
        )

    def correct(
        self, carry: Carry, prediction: Any, x_s: Tensor, s: Any, t: Any, draws: Draws
    ) -> tuple[Carry, Tensor]:
        process, kept = carry.process, math.sqrt(1 - self.delta)
        *_, of_x_0, sigma = carry.last()
        sigma = sigma if self.delta > 0 else 0.0
        terms = ((of_x_0, process._endpoint(prediction, x_s, s, draws)),)
        return carry, process._pinned(
            x_s, x_s, s, t, lambda s, t: process._combine(x_s, kept, terms, sigma, draws)
        )
