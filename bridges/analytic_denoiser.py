r"""Exact denoisers: the posterior of x_0 in closed form, for data whose law is known.

For tests, teaching and benchmarks: with these nothing is learned, and all error is the sampler's.
Data are normal, a mixture of normals, or a finite set. The mean is exact, so that Tweedie's
formula holds, :math:`\alpha_t \mu = x_t + \sigma_t^2 \nabla \log p_t(x_t)`; the variance is that
of the posterior, number by number. All is computed in float64, whatever the dtype of the state,
and finite at both ends of a schedule: where σ_t = 0 the mean is x_t/α_t (for a finite set, the
nearest point), and where α_t = 0 that of the data.
"""

from abc import abstractmethod
from typing import Any, final

import torch
from torch import Tensor

from bridges._device import widest
from bridges._precision import exact
from bridges._shapes import Time, describe, lasting
from bridges.denoiser import GaussianDenoiser, checked_var
from bridges.prediction import Gaussian
from bridges.schedule import Schedule


@final
class NormalDenoiser(GaussianDenoiser):
    r"""The posterior of numbers that are normal and independent, each or by channel.

    .. math::
        \mu = m + \frac{\alpha_t v}{\alpha_t^2 v + \sigma_t^2}\,(x_t - \alpha_t m), \qquad
        \sigma_\phi^2 = \frac{v\,\sigma_t^2}{\alpha_t^2 v + \sigma_t^2}

    Args:
        schedule: α and σ; it may be replaced at any time.
        mean: m, a number, or a tensor that broadcasts with the state.
        var: v, positive, likewise.

    Raises:
        TypeError, ValueError: if an argument is not as expected.

    >>> from bridges.schedule import RectifiedSchedule
    >>> denoiser = NormalDenoiser(RectifiedSchedule(), torch.tensor([1.0, 3.0]), 1.0)
    >>> denoiser(torch.zeros(4, 2), 0.5).mean[0]
    tensor([0.5000, 1.5000])
    """

    mean: Tensor
    var: Tensor

    def __init__(self, schedule: Schedule, mean: float | Tensor, var: float | Tensor) -> None:
        super().__init__()
        self.schedule = schedule
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float64).detach())
        self.register_buffer("var", checked_var(var, "var"))

    @exact
    def forward(self, x_t: Tensor, t: Time, **kwargs: Any) -> Gaussian:
        alpha, sigma = self._scales(x_t, t)
        mean, var = normal_posterior(x_t.to(widest(x_t.device)), alpha, sigma, self.mean, self.var)
        return Gaussian(mean.to(x_t.dtype), var.to(x_t.dtype))


def normal_posterior(
    x_t: Tensor, alpha: Tensor, sigma: Tensor, m: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance of x_0 given x_t, for x_0 from N(m, v); see above.

    Args:
        x_t: the noised state, float64.
        alpha: α_t, broadcasting with it.
        sigma: σ_t, likewise.
        m: the mean, likewise.
        v: the variance, at least 0, likewise.
    """
    total = alpha**2 * v + sigma**2
    total = torch.where(total > 0, total, 1.0)
    return m + alpha * v / total * (x_t - alpha * m), v * sigma**2 / total


class PointDenoiser(GaussianDenoiser):
    """The posterior of whole points, whose numbers know of one another."""

    @property
    @abstractmethod
    def point_shape(self) -> torch.Size:
        """The shape of one point, of at least one dimension."""

    @abstractmethod
    def _posterior(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the variances, for flat float64 points (*B, D)."""

    @exact
    def forward(self, x_t: Tensor, t: Time, **kwargs: Any) -> Gaussian:
        shape, ndim = self.point_shape, len(self.point_shape)
        scales = self._scales(x_t, t, ndim)
        if x_t.shape[x_t.ndim - ndim :] != shape:
            raise ValueError(
                f"Expected x_t to hold points of shape {tuple(shape)}; got {describe(x_t)}."
            )
        alpha, sigma = (c.flatten(-ndim) if c.ndim else c for c in scales)
        found = self._posterior(x_t.to(widest(x_t.device)).flatten(-ndim), alpha, sigma)
        mean, var = (value.expand(*x_t.shape[:-ndim], -1).reshape(x_t.shape) for value in found)
        return Gaussian(mean.to(x_t.dtype), var.to(x_t.dtype))


@final
class CorrelatedNormalDenoiser(PointDenoiser):
    r"""The posterior of normal points, with any covariance.

    .. math::
        \mu = m + \alpha_t C\,(\alpha_t^2 C + \sigma_t^2 I)^{-1} (x_t - \alpha_t m), \qquad
        C = U \operatorname{diag}(\lambda)\, U^T

    computed on the eigenvectors U, found once. The variance is the diagonal of the posterior's
    covariance.

    Args:
        schedule: α and σ; it may be replaced at any time.
        mean: m, the shape of one point `(*P,)`; it has at least one dimension.
        cov: C, symmetric, with no negative eigenvalue, shape `(*P, *P)`.

    Raises:
        TypeError, ValueError: if an argument is not as expected.

    >>> from bridges.schedule import RectifiedSchedule
    >>> cov = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    >>> denoiser = CorrelatedNormalDenoiser(RectifiedSchedule(), torch.zeros(2), cov)
    >>> denoiser(torch.tensor([1.0, 0.0]), 0.5).mean
    tensor([0.8095, 0.4762])
    """

    mean: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    def __init__(self, schedule: Schedule, mean: Tensor, cov: Tensor) -> None:
        super().__init__()
        self.schedule = schedule
        mean, cov = checked_data(mean, "mean", 1), checked_data(cov, "cov", 2)
        if cov.shape != (*mean.shape, *mean.shape):
            raise ValueError(
                f"Expected cov to have shape {(*mean.shape, *mean.shape)}; got {describe(cov)}."
            )
        matrix = cov.reshape(mean.numel(), mean.numel())
        values, vectors = torch.linalg.eigh(matrix)
        slack = 1e-6 * float(values.abs().max())
        if float(values.min()) < -slack or float((matrix - matrix.mT).abs().max()) > slack:
            raise ValueError(
                "Expected cov to be symmetric with no negative eigenvalue; got another."
            )
        self.register_buffer("mean", mean)
        self.register_buffer("eigenvalues", values.clamp(min=0))
        self.register_buffer("eigenvectors", vectors)

    @property
    def point_shape(self) -> torch.Size:
        return self.mean.shape

    def _posterior(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        m, u = self.mean.flatten(), self.eigenvectors
        along = (x - alpha * m) @ u
        mean, var = normal_posterior(along, alpha, sigma, torch.zeros_like(m), self.eigenvalues)
        return m + mean @ u.mT, var @ u.square().mT


@final
class MixtureDenoiser(PointDenoiser):
    r"""The posterior of points from a mixture of normals.

    .. math::
        p(x_0) = \sum_k \pi_k\, N(x_0;\, m_k, v_k), \qquad
        r_k \propto \pi_k\, N(x_t;\, \alpha_t m_k,\, \alpha_t^2 v_k + \sigma_t^2), \qquad
        \mu = \sum_k r_k\, \mu_k

    with :math:`\mu_k` that of `NormalDenoiser`; the shares :math:`r_k` are of whole points.

    Args:
        schedule: α and σ; it may be replaced at any time.
        weights: π, positive, shape (K,); divided by their sum.
        means: m, shape `(K, *P)`, P the shape of one point.
        variances: v, positive, shape (K,) or `(K, *P)`.

    Raises:
        TypeError, ValueError: if an argument is not as expected.

    >>> from bridges.schedule import RectifiedSchedule
    >>> means = torch.tensor([[-1.0], [1.0]])
    >>> weights, variances = torch.ones(2), torch.full((2,), 0.1)
    >>> denoiser = MixtureDenoiser(RectifiedSchedule(), weights, means, variances)
    >>> denoiser(torch.tensor([[0.0], [0.5]]), 0.5).mean
    tensor([[0.0000],
            [0.7461]])
    """

    log_weights: Tensor
    means: Tensor
    variances: Tensor

    def __init__(
        self, schedule: Schedule, weights: Tensor, means: Tensor, variances: Tensor
    ) -> None:
        super().__init__()
        self.schedule = schedule
        means, weights = checked_data(means, "means", 2), checked_var(weights, "weights")
        variances = checked_var(variances, "variances")
        if weights.shape != means.shape[:1]:
            raise ValueError(f"Expected weights to have shape (K,); got {describe(weights)}.")
        if variances.shape not in (means.shape, means.shape[:1]):
            raise ValueError(
                f"Expected variances to have shape {tuple(means.shape[:1])} or "
                f"{tuple(means.shape)}; got {tuple(variances.shape)}."
            )
        self.register_buffer("log_weights", (weights / weights.sum()).log())
        self.register_buffer("means", means)
        self.register_buffer("variances", variances)

    @property
    def point_shape(self) -> torch.Size:
        return self.means.shape[1:]

    def _posterior(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        m, v = self.means.flatten(1), self.variances.reshape(len(self.means), -1)
        x, alpha, sigma = (_beside(value) for value in (x, alpha, sigma))
        total = alpha**2 * v + sigma**2
        square = (x - alpha * m) ** 2 / total + total.log()
        shares = torch.softmax(self.log_weights - 0.5 * square.sum(-1), -1).unsqueeze(-1)
        each, var = normal_posterior(x, alpha, sigma, m, v)
        mean = (shares * each).sum(-2)
        return mean, (shares * (var + (each - mean.unsqueeze(-2)) ** 2)).sum(-2)


@final
class EmpiricalDenoiser(PointDenoiser):
    r"""The posterior of points from a finite set, each as likely as another.

    .. math:: r_i \propto e^{-\|x_t - \alpha_t y_i\|^2/2\sigma_t^2}, \qquad
        \mu = \sum_i r_i\, y_i

    What a network that learned its data by heart would say. Where σ_t = 0 it is the nearest point.

    References:
        Karras et al., Elucidating the design space of diffusion-based generative models, 2022
        (appendix B.3).

    Args:
        schedule: α and σ; it may be replaced at any time.
        data: y, shape `(N, *P)`, P the shape of one point.

    Raises:
        TypeError, ValueError: if an argument is not as expected.

    >>> from bridges.schedule import RectifiedSchedule
    >>> denoiser = EmpiricalDenoiser(RectifiedSchedule(), torch.tensor([[0.0], [1.0]]))
    >>> denoiser(torch.tensor([[0.25], [0.9]]), torch.tensor([0.5, 0.0])).mean
    tensor([[0.5000],
            [1.0000]])
    """

    centre: Tensor
    data: Tensor

    def __init__(self, schedule: Schedule, data: Tensor) -> None:
        super().__init__()
        self.schedule = schedule
        data = checked_data(data, "data", 2)
        self.register_buffer("centre", lasting(data.mean(0)))
        self.register_buffer("data", lasting(data - self.centre))

    @property
    def point_shape(self) -> torch.Size:
        return self.centre.shape

    def _posterior(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        centre, y = self.centre.flatten(), self.data.flatten(1)
        closeness = (x - alpha * centre) @ y.mT - 0.5 * alpha * y.square().sum(-1)
        square = sigma.square().clamp(min=torch.finfo(x.dtype).tiny ** 0.5)
        shares = torch.softmax(alpha / square * closeness, -1)
        mean = shares @ y
        return mean + centre, (shares @ y.square() - mean.square()).clamp(min=0)


def _beside(value: Tensor) -> Tensor:
    """Make room for the components of a mixture."""
    return value.unsqueeze(-2) if value.ndim else value


def checked_data(value: Tensor, name: str, least: int) -> Tensor:
    """Return data of at least so many dimensions in float64, or raise."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"Expected {name} to be a floating tensor; got {describe(value)}.")
    if value.ndim < least or value.numel() == 0:
        raise ValueError(
            f"Expected {name} to have at least {least} dimensions and not to be empty; "
            f"got {describe(value)}."
        )
    return lasting(value.double())
