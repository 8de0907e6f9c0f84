r"""The discrete-time DDPM, in the words of the annotated one: steps are counted, networks say ε.

With a table of :math:`\beta_t`, here from 10⁻⁴ to 0.02 in T even steps unless another is given,
:math:`\alpha_t = 1 - \beta_t` and :math:`\bar\alpha_t = \prod_{i \le t} \alpha_i`,

.. math::
    q(x_t \mid x_0) &= N\big(\sqrt{\bar\alpha_t}\, x_0,\; 1 - \bar\alpha_t\big) \\
    p(x_{t-1} \mid x_t) &= N\Big(\tfrac{1}{\sqrt{\alpha_t}} \big(x_t -
        \tfrac{\beta_t}{\sqrt{1 - \bar\alpha_t}}\, \varepsilon_\theta(x_t, t)\big),\;
        \beta_t\Big) .

Here α and σ² are the paper's letters, not those of the rest of the library: index t, from 0 to
T − 1, is the time (t + 1)/T of `GaussianDiffusion(TableSchedule(beta))`, whose α² is
:math:`\bar\alpha_t`. The mean of p is that of the library's bridge towards x̂_0. The variance is
not: :math:`\beta_t` is right for data of variance 1 that are independent normal numbers, and the
bridge's, :math:`\tilde\beta_t = \beta_t (1 - \bar\alpha_{t-1})/(1 - \bar\alpha_t)`, for a single
point. For other samplers and grids, `denoiser` is this model as a guess.

References:
    Ho, Jain & Abbeel, Denoising diffusion probabilistic models, 2020.
    labml.ai, Annotated deep learning paper implementations: DDPM, 2021 (the names).
"""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from bridges._checks import values_are_checked
from bridges._device import widest
from bridges._draw import Draws, Generator, as_draws
from bridges._precision import widened
from bridges._shapes import (
    as_integer,
    as_number,
    as_shape,
    describe,
    expand_leading,
    is_leading,
    like,
)
from bridges.denoiser import ExactBuffers, answer, checked_backbone, told_time
from bridges.gaussian import GaussianDiffusion
from bridges.network_denoiser import NoiseDenoiser, StepIndex
from bridges.vp_schedule import TableSchedule, as_betas


@final
class DenoiseDiffusion(ExactBuffers):
    r"""A network that says ε, with the T steps of DDPM; see the module for the laws.

    Indices of steps t are integers from 0 to T − 1, or int64 tensors whose shape is a leading part
    of that of the state. States may have any shape.

    Args:
        eps_model: ε_θ, called as `eps_model(x_t, t)` with int64 indices t, in their own shape or
            of shape (B,) for a number, () for one where x_t has one dimension and so is one
            example; it returns a tensor like x_t.
        n_steps: T, at least 2.
        beta: β, T numbers between 0 and 1, of which the last may be 1: then the last step leaves
            only noise, ε says nothing of x_0 there, and nothing is sampled from that step. None
            for the paper's.

    Attributes:
        beta: β, float64, shape (T,), as are the others.
        alpha: 1 − β.
        alpha_bar: ᾱ.
        sigma2: the variance of p, β.

    Raises:
        TypeError, ValueError: if an argument is not as expected.

    >>> diffusion = DenoiseDiffusion(lambda x_t, t: x_t, 100)
    >>> diffusion.sample((4, 3), generator=torch.Generator().manual_seed(0)).shape
    torch.Size([4, 3])
    """

    beta: Tensor
    alpha: Tensor
    alpha_bar: Tensor
    sigma2: Tensor

    def __init__(
        self, eps_model: Callable[..., Tensor], n_steps: int, *, beta: Any = None
    ) -> None:
        super().__init__()
        n_steps = as_integer(n_steps, "n_steps", 2)
        self.eps_model, self.n_steps = checked_backbone(eps_model, "eps_model"), n_steps
        self.schedule = _schedule(beta, n_steps)
        table = torch.tensor(self.schedule.betas, dtype=torch.float64)
        self.register_buffer("beta", table)
        self.register_buffer("alpha", 1 - table)
        self.register_buffer("alpha_bar", torch.log1p(-table).cumsum(0).exp())
        self.register_buffer("sigma2", table.clone())

    @property
    def process(self) -> GaussianDiffusion:
        """The process in continuous time, from 0 to 1.

        Start its runs from standard normal numbers, as `sample` does: with few steps x_0 still
        shows at t = 1, and its own prior has the noise alone.
        """
        return GaussianDiffusion(self.schedule)

    @property
    def denoiser(self) -> NoiseDenoiser:
        """This model as a guess for `sample_backward` with the process."""
        return NoiseDenoiser(self.eps_model, self.schedule, StepIndex(self.n_steps))

    @property
    def beta_tilde(self) -> Tensor:
        """The variance of the bridge: put it in place of `sigma2` for the bridge's own law."""
        before = functional.pad(self.alpha_bar[:-1], (1, 0), value=1.0)
        return self.beta * (1 - before) / (1 - self.alpha_bar)

    # ---------------------------------------------------------------- noising and learning

    def q_xt_x0(self, x_0: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the variance of x_t given x_0.

        Args:
            x_0: the clean state.
            t: the index of a step.

        Returns:
            The mean, like x_0, and the variance, which broadcasts with it.

        Raises:
            TypeError, ValueError: if x_0 is not floating or t not an index of it.
        """
        mean, var = self._q(widened(x_0), t)
        return mean.to(x_0.dtype), var.to(x_0.dtype)

    def _q(self, x_0: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self._gather(self.alpha_bar, self._index(t, x_0), x_0)
        return alpha_bar.sqrt().to(x_0.dtype) * x_0, (1 - alpha_bar).to(x_0.dtype)

    def q_sample(
        self,
        x_0: Tensor,
        t: int | Tensor,
        noise: Tensor | None = None,
        *,
        eps: Tensor | None = None,
        generator: Generator = None,
    ) -> Tensor:
        """Draw x_t given x_0.

        Args:
            x_0: the clean state.
            t: the index of a step.
            noise: ε, like x_0, if it was drawn before.
            eps: another name of the same.
            generator: the source of ε.

        Returns:
            x_t, like x_0.

        Raises:
            TypeError, ValueError: if an argument is not as expected, or ε is given twice.
        """
        if noise is not None and eps is not None:
            raise ValueError("Expected noise or eps, two names of one tensor; got both.")
        _check_state(x_0)
        x = widened(x_0)
        mean, var = self._q(x, t)
        given, name = (noise, "noise") if eps is None else (eps, "eps")
        drawn = _normal(x, as_draws(generator)) if given is None else like(given, x, name)
        return (mean + var.sqrt() * drawn).to(x_0.dtype)

    def p_x0(self, x_t: Tensor, t: int | Tensor, eps: Tensor) -> Tensor:
        r"""Return :math:`(x_t - \sqrt{1 - \bar\alpha_t}\,\varepsilon)/\sqrt{\bar\alpha_t}`."""
        alpha_bar = self._gather(self.alpha_bar, self._index(t, x_t), x_t)
        self._check_told(t)
        to_x, to_eps = alpha_bar.rsqrt(), (1 / alpha_bar - 1).sqrt()
        x = widened(x_t)
        y = to_x.to(x.dtype) * x - to_eps.to(x.dtype) * like(eps, x, "eps")
        return y.to(x_t.dtype)

    def loss(
        self, x_0: Tensor, noise: Tensor | None = None, *, generator: Generator = None
    ) -> Tensor:
        r"""Return the simplified loss, the mean of :math:`(\varepsilon - \varepsilon_\theta)^2`.

        Args:
            x_0: clean states, batch first; each gets a step at random.
            noise: ε, if it was drawn before.
            generator: the source of the steps, by one uniform number each, and then of ε.
        """
        _check_state(x_0)
        draws = as_draws(generator)
        u = draws.uniform(x_0.shape[:1], widest(x_0.device), x_0.device)
        t = (u * self.n_steps).long().clamp(max=self.n_steps - 1)
        noise = _normal(x_0, draws) if noise is None else like(noise, x_0, "noise")
        eps = self._eps(self.q_sample(x_0, t, noise), t)
        return functional.mse_loss(widened(eps), widened(noise))

    # ---------------------------------------------------------------- sampling

    def p_sample(self, x_t: Tensor, t: int | Tensor, *, generator: Generator = None) -> Tensor:
        """Draw the state before the step with index t; that before the first is its mean.

        Args:
            x_t: the noised state.
            t: the index of a step.
            generator: the source of randomness.

        Returns:
            A state like x_t.

        Raises:
            TypeError, ValueError: if x_t is not floating or t not an index of it.
        """
        return self._p_sample(x_t, t, as_draws(generator))

    @torch.no_grad()
    def sample(
        self,
        shape: Sequence[int],
        *,
        generator: Generator = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw states from the model, from normal noise and through all steps, without gradients.

        Args:
            shape: the shape of the states, batch first.
            generator: the source of randomness.
            dtype: floating dtype; None for torch's default.
            device: None for that of this module.
        """
        draws = as_draws(generator)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        device = self.beta.device if device is None else torch.device(device)
        return self._denoised(
            draws.normal(as_shape(shape), dtype, device), self.n_steps - 1, draws
        )

    @torch.no_grad()
    def interpolate(
        self,
        x_1: Tensor,
        x_2: Tensor,
        lambda_: float,
        t: int | None = None,
        *,
        generator: Generator = None,
    ) -> Tensor:
        r"""Noise two states, mix them as :math:`(1 - \lambda)\,x_1 + \lambda\,x_2`, and denoise.

        Each gets noise of its own, as in the annotated DDPM, so that a mix has less than either.

        Args:
            x_1: a clean state.
            x_2: another, like it.
            lambda_: λ, from 0 to 1.
            t: the index of the step to mix at; None for the last.
            generator: the source of randomness.

        Raises:
            TypeError, ValueError: if an argument is not as expected.
        """
        if not 0 <= as_number(lambda_, "lambda_") <= 1:
            raise ValueError(f"Expected lambda_ to lie in [0, 1]; got {lambda_!r}.")
        t, draws = self.n_steps - 1 if t is None else t, as_draws(generator)
        _check_state(x_1)
        x_2 = like(x_2, x_1, "x_2")
        first, second = (self.q_sample(x, t, generator=draws) for x in (x_1, x_2))
        return self._denoised(torch.lerp(first, second, lambda_), t, draws)

    def _eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        return answer(self.eps_model, x_t, t)

    def _p_sample(self, x_t: Tensor, step: int | Tensor, draws: Draws) -> Tensor:
        t = self._index(step, x_t)
        self._check_told(step)
        beta, alpha, alpha_bar, sigma2 = (
            self._gather(table, t, x_t)
            for table in (self.beta, self.alpha, self.alpha_bar, self.sigma2)
        )
        x, eps = widened(x_t), self._eps(x_t, t)
        eps_coef = (beta / (1 - alpha_bar).sqrt()).to(x.dtype)
        mean = alpha.rsqrt().to(x.dtype) * (x - eps_coef * eps)
        if not isinstance(step, Tensor) and step == 0:
            return mean.to(x_t.dtype)
        sigma = torch.where(expand_leading(t, x.ndim) > 0, sigma2.sqrt(), 0.0)
        return (mean + sigma.to(x.dtype) * _normal(x, draws)).to(x_t.dtype)

    def _denoised(self, x_t: Tensor, t: int, draws: Draws) -> Tensor:
        for index in range(t, -1, -1):
            x_t = self._p_sample(x_t, index, draws)
        return x_t

    # ---------------------------------------------------------------- indices

    def _index(self, t: int | Tensor, x: Tensor) -> Tensor:
        """Return an index as an int64 tensor on the state's device, as the network is told it."""
        _check_state(x)
        if isinstance(t, Integral) and not isinstance(t, bool):
            self._check_range(int(t), int(t))
            return told_time(torch.full((), int(t), device=x.device), x)
        if not isinstance(t, Tensor) or t.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"Expected t to be an integer or an int64 tensor; got {describe(t)}.")
        if not is_leading(t.shape, x.shape):
            raise ValueError(
                f"Expected t to have a leading part of the shape {tuple(x.shape)}; "
                f"got {tuple(t.shape)}."
            )
        if t.numel() and values_are_checked():
            self._check_range(int(t.min()), int(t.max()))
        return told_time(t.to(x.device, torch.int64), x)

    def _check_told(self, t: int | Tensor) -> None:
        """Raise where ε says nothing of x_0: after a last step that leaves only noise."""
        last = self.n_steps - 1
        if not self.schedule.forgets_in_a_step or not values_are_checked():
            return
        if bool(torch.as_tensor(t == last).any()):
            raise ValueError(
                f"Expected t to be below {last}, where β is 1, as ε says nothing of x_0 there; "
                f"got {last}."
            )

    def _check_range(self, low: int, high: int) -> None:
        if low < 0 or high >= self.n_steps:
            raise ValueError(
                f"Expected t to lie in [0, {self.n_steps}); got values from {low} to {high}."
            )

    def _gather(self, table: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """Return the entries of a table, broadcasting with the state, in float64."""
        return expand_leading(table.to(x.device).take(t), x.ndim)


def _schedule(beta: Any, n_steps: int) -> TableSchedule:
    """Return the schedule of a table of β, or raise unless it has n_steps of them."""
    if beta is None:
        return TableSchedule.linear(n_steps)
    betas = as_betas(beta, "beta")
    if len(betas) != n_steps:
        raise ValueError(f"Expected beta to hold n_steps = {n_steps} numbers; got {len(betas)}.")
    return TableSchedule(betas)


def _normal(x: Tensor, draws: Draws) -> Tensor:
    return draws.normal(x.shape, x.dtype, x.device)


def _check_state(x: Tensor) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"Expected a state to be a floating tensor; got {describe(x)}.")
