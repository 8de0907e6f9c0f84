r"""Denoisers from networks that were trained to say something else than x_0.

Whatever a network says is some mix of x_0 and of the noise ε, and x_t is another, so that x_0
follows. All of these are unpreconditioned: the network is given x_t and t as they are.

====================  ========================================  ==================================
class                 the network says                          x̂_0
====================  ========================================  ==================================
`NoiseDenoiser`       ε                                         (x_t − σ_t ε)/α_t
`ScoreDenoiser`       s, the score                              (x_t + σ_t² s)/α_t
`VelocityDenoiser`    dx_t/dt along the probability flow        from both slopes
`VDenoiser`           (α_t ε − σ_t x_0)/√(α_t² + σ_t²)          see there
`FlowDenoiser`        ε − x_0                                   (x_t − σ_t v)/(α_t + σ_t)
====================  ========================================  ==================================

The first three are `Noise`, `Score` and `Velocity` as `GaussianDiffusion` reads them.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from bridges._device import widest
from bridges._draw import as_draws
from bridges._precision import widened
from bridges._shapes import Time, as_count, describe, expand_time
from bridges.denoiser import GaussianDenoiser, answer, checked_backbone, checked_var
from bridges.gaussian import GaussianDiffusion
from bridges.preconditioning import LOUDEST, NumberPreconditioning
from bridges.prediction import Gaussian, Noise, Score, Tangent, Velocity
from bridges.schedule import Schedule


@final
@dataclass(frozen=True)
class StepIndex:
    r"""The index of a step, for networks that count time: :math:`tT - 1`, rounded.

    A process of T steps reaches time k/T by its k-th, which papers and their code count from 0:
    times from 0 to 1 become 0 to T − 1, and time 0, before any step, becomes 0 as well.

    Args:
        n_steps: T, positive.

    >>> StepIndex(1000)(torch.tensor([0.0, 0.001, 0.5, 1.0]))
    tensor([  0,   0, 499, 999])
    """

    n_steps: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_steps", as_count(self.n_steps, "n_steps"))

    def __call__(self, t: Tensor) -> Tensor:
        """Return int64 indices, in the shape of t."""
        index = (t.to(widest(t.device)) * self.n_steps).round().long() - 1
        return index.clamp(0, self.n_steps - 1)


class NetworkDenoiser(GaussianDenoiser):
    r"""A network whose answer is turned into x̂_0; see the module.

    The variance is that of `PreconditionedDenoiser`, as if data were normal.

    Args:
        backbone: called as `backbone(x_t, t, **kwargs)`, with t in its own shape, (B,) for a
            number, () for one where x_t has one dimension and so is one example; it returns a
            tensor like x_t. A module is given both in the dtype of its parameters (integers stay
            so), a function t at least in float32.
        schedule: α and σ of the states that the network was trained on. Others are served by a
            `RescheduledDenoiser` around this one.
        time: `time(t)` is what the network is told instead of t, from float64 times; such as
            `StepIndex(1000)`. None for t itself.
        var_x: σ_x², the variance of the data, as in `PreconditionedDenoiser`.

    Raises:
        TypeError, ValueError: if an argument is not as expected.
    """

    var_x: Tensor

    def __init__(
        self,
        backbone: Callable[..., Tensor],
        schedule: Schedule,
        time: Callable[[Tensor], Tensor] | None = None,
        *,
        var_x: float | Tensor = 1.0,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        if time is not None and not callable(time):
            raise TypeError(f"Expected time to be callable; got {describe(time)}.")
        self.backbone, self.time = checked_backbone(backbone), time
        self.register_buffer("var_x", checked_var(var_x, "var_x"))

    @abstractmethod
    def _point(self, value: Tensor, x_t: Tensor, t: Time) -> Tensor:
        """Return x̂_0."""

    def forward(self, x_t: Tensor, t: Time, **kwargs: Any) -> Gaussian:
        var_x = self.var_x.to(widest(self.var_x.device))
        scales = NumberPreconditioning(*self._scales(x_t, t), var_x)
        time = self._time(t, x_t)
        told = time if self.time is None else self.time(time)
        value = answer(self.backbone, x_t, told.to(x_t.device), **kwargs)
        _, _, c_out = scales.coefficients
        mean = self._point(value, x_t, t)
        return Gaussian(mean, c_out.square().to(x_t.dtype))

    def _read(self, prediction: Tangent, x_t: Tensor, t: Time) -> Tensor:
        """Return x̂_0 as the process of the schedule reads a tangent vector.

        At t = 0 itself the process has no noise, where a schedule may have some.
        """
        time = expand_time(t, x_t.shape, x_t.device, "t").clamp(min=1e-30)
        process, wide = GaussianDiffusion(self.schedule), widened(x_t)
        return process._endpoint(prediction, wide, time, as_draws(None)).to(x_t.dtype)


@final
class NoiseDenoiser(NetworkDenoiser):
    r"""A network that says ε, :math:`\hat x_0 = (x_t - \sigma_t\,\varepsilon)/\alpha_t`.

    Where α_t = 0 it says nothing about x_0, and x̂_0 is 0.

    References:
        Ho, Jain & Abbeel, Denoising diffusion probabilistic models, 2020.

    >>> from bridges.schedule import RectifiedSchedule
    >>> denoiser = NoiseDenoiser(lambda x_t, t: torch.ones_like(x_t), RectifiedSchedule())
    >>> denoiser(torch.tensor([2.0]), 0.5).mean
    tensor([3.])
    """

    def _point(self, value: Tensor, x_t: Tensor, t: Time) -> Tensor:
        return self._read(Noise(value), x_t, t)


@final
class ScoreDenoiser(NetworkDenoiser):
    r"""A network that says the score, :math:`\hat x_0 = (x_t + \sigma_t^2\,s)/\alpha_t`.

    References:
        Song et al., Score-based generative modeling through stochastic differential equations,
        2021.
    """

    def _point(self, value: Tensor, x_t: Tensor, t: Time) -> Tensor:
        return self._read(Score(value), x_t, t)


@final
class VelocityDenoiser(NetworkDenoiser):
    r"""A network that says :math:`\dot x_t = \dot\alpha_t x_0 + \dot\sigma_t \varepsilon`."""

    def _point(self, value: Tensor, x_t: Tensor, t: Time) -> Tensor:
        return self._read(Velocity(value), x_t, t)


@final
class VDenoiser(NetworkDenoiser):
    r"""A network that says v, the velocity on the circle of α and σ, at any scale.

    .. math:: v = \frac{\alpha_t \varepsilon - \sigma_t x_0}{\sqrt{\alpha_t^2 + \sigma_t^2}},
        \qquad \hat x_0 = \frac{\alpha_t x_t - \sigma_t \sqrt{\alpha_t^2 + \sigma_t^2}\; v}
        {\alpha_t^2 + \sigma_t^2}

    References:
        Salimans & Ho, Progressive distillation for fast sampling of diffusion models, 2022.
    """

    def _point(self, value: Tensor, x_t: Tensor, t: Time) -> Tensor:
        alpha, sigma = self._scales(x_t, t)
        size = torch.hypot(alpha, sigma)
        to_x, to_v = alpha / size**2, sigma / size
        return _mixed(to_x, x_t, -to_v, value)


@final
class FlowDenoiser(NetworkDenoiser):
    r"""A network that says :math:`v = \varepsilon - x_0`, as in flow matching, on any schedule.

    .. math:: \hat x_0 = (x_t - \sigma_t v)/(\alpha_t + \sigma_t)

    Time 0 is data here. A network of the other convention says −v and is told 1 − t.

    References:
        Lipman et al., Flow matching for generative modeling, 2023.
    """

    def _point(self, value: Tensor, x_t: Tensor, t: Time) -> Tensor:
        alpha, sigma = self._scales(x_t, t)
        to_x, to_v = 1 / (alpha + sigma), sigma / (alpha + sigma)
        return _mixed(to_x, x_t, -to_v, value)


def _mixed(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """Return a x + b y, rounded once to the dtype of x."""
    wide = widened(x)
    return (a.to(wide.dtype) * wide + b.to(wide.dtype) * y).to(x.dtype)


@final
class RescheduledDenoiser(GaussianDenoiser):
    r"""A denoiser on another schedule: it is asked at the time t' of the same log-SNR.

    .. math:: \hat x_0(x_t, t) = \hat x_0'\Big(x_t \sqrt{\tfrac{\alpha'^2 + \sigma'^2}
        {\alpha_t^2 + \sigma_t^2}},\; t'\Big)

    Exact, since x_t and its multiple say the same about x_0; noise outside the range of its own
    schedule is taken as that of the nearer end. A network that was trained on the β of DDPM is so
    sampled on the σ of EDM.

    Args:
        denoiser: any GaussianDenoiser.
        schedule: the schedule to use it on; it may be replaced at any time.

    Raises:
        TypeError: if they are not a denoiser and a schedule.

    >>> from bridges.schedule import RectifiedSchedule
    >>> from bridges.ve_schedule import EDMSchedule
    >>> inner = FlowDenoiser(lambda x_t, t: 0 * x_t, RectifiedSchedule())
    >>> RescheduledDenoiser(inner, EDMSchedule())(torch.tensor([3.0]), 1.0).mean
    tensor([0.0370])
    """

    def __init__(self, denoiser: GaussianDenoiser, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule
        if not isinstance(denoiser, GaussianDenoiser):
            raise TypeError(
                f"Expected denoiser to be a GaussianDenoiser; got {describe(denoiser)}."
            )
        self.denoiser = denoiser

    def forward(self, x_t: Tensor, t: Time, **kwargs: Any) -> Gaussian:
        alpha, sigma = self._scales(x_t, t)
        log_snr = self.schedule.log_snr(self._time(t, x_t)).clamp(-2 * LOUDEST, 2 * LOUDEST)
        own_time = self.denoiser.schedule.inverse_log_snr(log_snr).clamp(0, 1)
        own_time = torch.where(log_snr > -2 * LOUDEST, own_time, 1.0)  # not a rounding before it
        own_alpha, own_sigma = self.denoiser._scales(x_t, own_time)
        scale = torch.hypot(own_alpha, own_sigma) / torch.hypot(alpha, sigma)
        wide = widened(x_t)
        inner = (scale.to(wide.dtype) * wide).to(x_t.dtype)
        law: Gaussian = self.denoiser(inner, own_time, **kwargs)
        return law
