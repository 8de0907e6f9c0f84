r"""Denoisers: modules that return the law of x_0 given x_t.

A `GaussianDenoiser` knows its schedule, and so how x_t was noised, :math:`x_t \mid x_0 \sim
N(\alpha_t x_0, \sigma_t^2)`. It returns

.. math:: q(x_0 \mid x_t) = N(\mu(x_t, t),\, \sigma_\phi^2(t))

as a `Gaussian`, whose point is the mean, and is a guess for `sample_backward` with the process
`GaussianDiffusion(schedule)`. The schedule's own formula holds at t = 0 too: that of an exploding
one has :math:`\sigma_{\min}` there.

`PreconditionedDenoiser` makes one from a network; `network_denoiser` is for networks that were
trained to say something else, and `analytic_denoiser` has closed forms.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from bridges._device import host, widest
from bridges._draw import Generator, as_draws
from bridges._precision import at_least_float32
from bridges._shapes import Time, cast, describe, expand_time, lasting, like, positive
from bridges.preconditioning import NumberPreconditioning
from bridges.prediction import Gaussian
from bridges.schedule import Schedule


class ExactBuffers(nn.Module):
    """A module whose own float64 buffers stay so when its parameters change their dtype."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:  # noqa: FBT001, FBT002
        exact = {k: v for k, v in self.named_buffers(recurse=False) if v.dtype == torch.float64}
        for name in exact:  # a device without float64 would refuse them
            self._buffers[name] = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in exact.items():
            device = fn(torch.empty(0, device=value.device)).device
            self._buffers[name] = value.to(device, widest(device))
        return self


class GaussianDenoiser(ExactBuffers, ABC):
    """A module whose call `denoiser(x_t, t)` returns a normal law of x_0.

    A denoiser of your own calls `super().__init__()`, sets its schedule and writes `forward`.

    Attributes:
        schedule: α and σ of the states that it is given; anything but a Schedule raises a
            TypeError. Where a denoiser says so it may be replaced at any time.

    >>> from bridges.vp_schedule import VPSchedule
    >>> class Mine(GaussianDenoiser):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.schedule = VPSchedule()
    ...     def forward(self, x_t, t, **kwargs):
    ...         return Gaussian(0 * x_t, torch.ones(()))
    >>> Mine()(torch.ones(2, 3), 0.5).mean[0]
    tensor([0., 0., 0.])
    """

    schedule: Schedule

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "schedule" and not isinstance(value, Schedule):
            raise TypeError(f"Expected schedule to be a Schedule; got {describe(value)}.")
        super().__setattr__(name, value)

    @abstractmethod
    def forward(self, x_t: Tensor, t: Time, **kwargs: Any) -> Gaussian:
        """Return the law of x_0 given x_t.

        Args:
            x_t: the noised state, floating.
            t: its time, a number or a tensor whose shape is a leading part of the batch shape.
            kwargs: what else a network is given.

        Returns:
            Its mean, like x_t, and its variance, which broadcasts with that.

        Raises:
            TypeError, ValueError: if the state or the time is not as expected.
        """

    def _time(self, t: Time, x_t: Tensor) -> Tensor:
        """Return t in float64, in the shape in which a network is told it."""
        return told_time(t.to(widest(t.device)) if isinstance(t, Tensor) else host(t), x_t)

    def _scales(self, x_t: Tensor, t: Time, point_ndim: int = 0) -> tuple[Tensor, Tensor]:
        """Return α_t and σ_t in float64, broadcasting over the numbers of x_t."""
        if not isinstance(x_t, Tensor) or not x_t.is_floating_point():
            raise TypeError(f"Expected x_t to be a floating tensor; got {describe(x_t)}.")
        time = expand_time(t, x_t.shape[: x_t.ndim - point_ndim], x_t.device, "t")
        time = cast(time, time, point_ndim)
        return self.schedule.alpha(time), self.schedule.sigma(time)


@final
class PreconditionedDenoiser(GaussianDenoiser):
    r"""A network with EDM's preconditioning, for any schedule.

    .. math::
        \mu = c_\mathrm{skip}\, x_t + c_\mathrm{out}\, F(c_\mathrm{in}\, x_t,\, c_\mathrm{noise}),
        \qquad \sigma_\phi^2 = c_\mathrm{out}^2 = \frac{\sigma_x^2 \sigma_t^2}
        {\sigma_x^2 \alpha_t^2 + \sigma_t^2}

    with the coefficients of `preconditioning`, which are finite at both ends: where σ_t = 0 it
    returns x_t/α_t. The network never sees t: exchanging the schedule for another with the same
    signal-to-noise ratio changes no answer, and any other is served too.

    References:
        Karras et al., Elucidating the design space of diffusion-based generative models, 2022.

    Args:
        backbone: F, called as `backbone(c_in * x_t, c_noise, **kwargs)`, with c_noise in the shape
            of t, (B,) for a number, () for one where x_t has one dimension and so is one example;
            it returns a tensor like x_t. A module is given both in the dtype of its parameters, a
            function c_noise at least in float32.
        schedule: α and σ; it may be replaced at any time.
        var_x: σ_x², the variance of the data, positive: a number, or a tensor that broadcasts with
            the state, such as (C, 1, 1) for channels; see `estimate_var`.

    Raises:
        TypeError, ValueError: if an argument is not as expected.

    >>> from bridges.vp_schedule import VPSchedule
    >>> denoiser = PreconditionedDenoiser(lambda x, noise: 0 * x, VPSchedule(), var_x=0.25)
    >>> denoiser(torch.ones(2, 3), torch.tensor([0.0, 0.3])).mean[:, 0]
    tensor([1.0000, 0.2240])
    """

    var_x: Tensor

    def __init__(
        self, backbone: Callable[..., Tensor], schedule: Schedule, var_x: float | Tensor = 1.0
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.backbone = checked_backbone(backbone)
        self.register_buffer("var_x", checked_var(var_x, "var_x"))

    def forward(self, x_t: Tensor, t: Time, **kwargs: Any) -> Gaussian:
        scales = self._preconditioning(x_t, t)
        value = self._value(scales, x_t, t, **kwargs)
        _, _, c_out = scales.coefficients
        return Gaussian(scales.output(value, x_t), c_out.square().to(x_t.dtype))

    def loss(self, x: Tensor, t: Time, *, generator: Generator = None, **kwargs: Any) -> Tensor:
        r"""Return the mean of :math:`(\mu - x)^2/\sigma_\phi^2`, with x_t drawn at time t.

        It is computed as the same number :math:`(F - F^*)^2` with the network's target
        :math:`F^* = (\sigma_t x - \alpha_t \sigma_x^2 \varepsilon)\,c_\mathrm{in}/\sigma_x`, which
        loses no digits near σ_t = 0. `EDMWeight(σ_x)` is its weight. Where σ_t = 0 nothing is left
        to learn, and numbers there are not counted, as in `standardloss`.

        Args:
            x: the clean state.
            t: a number or a tensor whose shape is a leading part of that of x.
            generator: the source of ε.
            kwargs: what else the network is given.

        >>> from bridges.vp_schedule import VPSchedule
        >>> denoiser = PreconditionedDenoiser(lambda x, noise: 0 * x, VPSchedule())
        >>> 0.9 < denoiser.loss(torch.randn(100, 100), torch.rand(100)).item() < 1.1
        True
        """
        scales, root = self._preconditioning(x, t), self._var_x.sqrt()
        wide = at_least_float32(x.dtype)
        noise = as_draws(generator).normal(x.shape, wide, x.device)
        x_t = (scales.alpha.to(wide) * x + scales.sigma.to(wide) * noise).to(x.dtype)
        value = self._value(scales, x_t, t, **kwargs).to(wide)
        c_in, _, _ = scales.coefficients
        to_x, to_noise = scales.sigma * c_in / root, scales.alpha * c_in * root
        target = to_x.to(wide) * x - to_noise.to(wide) * noise
        counted = (scales.sigma > 0).to(x.device).expand(x.shape)
        square = torch.where(counted, value - target, 0.0).square()
        return square.sum() / counted.sum().clamp(min=1)

    @property
    def _var_x(self) -> Tensor:
        return self.var_x.to(widest(self.var_x.device))

    def _preconditioning(self, x_t: Tensor, t: Time) -> NumberPreconditioning:
        return NumberPreconditioning(*self._scales(x_t, t), self._var_x)

    def _value(self, scales: NumberPreconditioning, x_t: Tensor, t: Time, **kwargs: Any) -> Tensor:
        """Return F in the dtype of the state."""
        level, shape = scales.noise_level(), self._time(t, x_t).shape
        noise = level.expand(shape) if level.ndim == 0 else level.reshape(shape)
        return answer(self.backbone, scales.input(x_t), noise.to(x_t.device), **kwargs)


def told_time(t: Tensor, x_t: Tensor) -> Tensor:
    """Return a time as a network is told it: in its own shape, or (B,) for a number.

    A state of one dimension at one time is one example, not B of them: the shape stays ().

    >>> [told_time(torch.tensor(0.5), torch.zeros(shape)).shape for shape in ((4, 3), (4,))]
    [torch.Size([4]), torch.Size([])]
    """
    return t.expand(x_t.shape[:1]) if t.ndim == 0 and x_t.ndim > 1 else t


def answer(backbone: Callable[..., Any], x: Tensor, told: Tensor, **kwargs: Any) -> Tensor:
    """Ask a network in its own dtype, and return its answer in that of x.

    Args:
        backbone: called as `backbone(x, told, **kwargs)`.
        x: what it is shown.
        told: a time or a noise level, or integers, which stay so.
        kwargs: what else it is given.
    """
    dtype = network_dtype(backbone)
    if told.is_floating_point():
        told = told.to(at_least_float32(x.dtype) if dtype is None else dtype)
    value = backbone(x if dtype is None else x.to(dtype), told, **kwargs)
    return like(value, x, "what the backbone returns")


def network_dtype(backbone: object) -> torch.dtype | None:
    """Return the floating dtype of a module's parameters, or None where it has none.

    >>> network_dtype(nn.Linear(2, 2).bfloat16()), network_dtype(len)
    (torch.bfloat16, None)
    """
    if not isinstance(backbone, nn.Module):
        return None
    return next((p.dtype for p in backbone.parameters() if p.is_floating_point()), None)


def estimate_var(x: Tensor, dim: int | Sequence[int]) -> Tensor:
    """Return the variance of data, for `var_x`.

    Data are centred best: preconditioning does not subtract their mean.

    Args:
        x: data, floating.
        dim: the dimensions to average over, such as (0, 2, 3) for images by channel.

    Returns:
        It, with dimensions of size 1 in place of those, so that it broadcasts with a state of any
        batch shape; those at the front are dropped.

    >>> estimate_var(torch.tensor([[0.0, 1.0], [2.0, 5.0]]), dim=0)
    tensor([1., 4.])
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"Expected x to be a floating tensor; got {describe(x)}.")
    dims = dim if isinstance(dim, int) else tuple(dim)
    var = x.to(widest(x.device)).var(dims, correction=0, keepdim=True).to(x.dtype)
    while var.ndim and len(var) == 1:
        var = var.squeeze(0)
    return var


def checked_backbone(backbone: Callable[..., Any], name: str = "backbone") -> Callable[..., Any]:
    """Return a callable, or raise."""
    if not callable(backbone):
        raise TypeError(f"Expected {name} to be callable; got {describe(backbone)}.")
    return backbone


def checked_var(var: float | Tensor, name: str) -> Tensor:
    """Return a positive variance as a float64 tensor, or raise."""
    if not isinstance(var, Tensor):
        return lasting(host(positive(var, name)))
    if not var.is_floating_point():
        raise TypeError(f"Expected {name} to be floating; got {describe(var)}.")
    if not bool(((var > 0) & var.isfinite()).all()):
        raise ValueError(f"Expected {name} to be positive and finite; got another number.")
    return lasting(var.double())
