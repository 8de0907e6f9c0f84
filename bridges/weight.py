r"""Weights of losses: always on the error of x_0, whatever the network says.

Papers weigh the error of what their network says. In terms of the error of x_0 and of the
signal-to-noise ratio :math:`\mathrm{SNR} = \alpha_t^2/\sigma_t^2`, these are the same losses:

.. math::
    \|\hat\varepsilon - \varepsilon\|^2 = \mathrm{SNR}\,\|\hat x_0 - x_0\|^2, \qquad
    \|\hat v - v\|^2 = (1 + \mathrm{SNR})\,\|\hat x_0 - x_0\|^2

So one network output, said in any form, has one gradient. A weight is a `scaler` of
`standardloss`, which divides by it: called as one, it returns 1 over the weight, from the log-SNR
of the process. On curved spaces the SNR is :math:`1/v_t`. It is held between e⁻⁴⁰ and e⁴⁰, where
every weight is finite in float32.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor

from bridges._shapes import Time, map_structure, positive
from bridges.process import Process

WIDEST: Final = 40.0
"""Where the log-SNR ends, either way."""


class Weight(ABC):
    """A weight on the error of x_0 that depends on the signal-to-noise ratio alone.

    Tokens have no such ratio; in a Joint with tokens give each part a scaler of its own.
    """

    @abstractmethod
    def weight(self, log_snr: Tensor) -> Tensor:
        """Return the weight at a log-SNR, like it."""

    @final
    def __call__(self, process: Process, t: Time) -> Any:
        """Return 1 over the weight, in the shape of t; for a Joint, a structure."""
        return map_structure(
            lambda log_snr: 1 / self.weight(log_snr.clamp(-WIDEST, WIDEST)), process.log_snr(t)
        )


@final
@dataclass(frozen=True)
class UniformWeight(Weight):
    """1 at every noise: the loss of networks that say x_0.

    >>> from bridges import OrnsteinUhlenbeckDiffusion, standardloss
    >>> process, x_0 = OrnsteinUhlenbeckDiffusion(0.0), torch.zeros(2)
    >>> standardloss(process, 0.3, x_0 + 2, x_0, scaler=UniformWeight()).total
    tensor(4.)
    """

    def weight(self, log_snr: Tensor) -> Tensor:
        return torch.ones_like(log_snr)


@final
@dataclass(frozen=True)
class SNRWeight(Weight):
    """The SNR: the loss of networks that say the noise ε, as in DDPM.

    References:
        Ho, Jain & Abbeel, Denoising diffusion probabilistic models, 2020.
    """

    def weight(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp()


@final
@dataclass(frozen=True)
class VWeight(Weight):
    r"""1 + SNR: the loss of networks that say v, here :math:`\alpha^2 + \sigma^2 = 1`.

    References:
        Salimans & Ho, Progressive distillation for fast sampling of diffusion models, 2022.
    """

    def weight(self, log_snr: Tensor) -> Tensor:
        return 1 + log_snr.exp()


@final
@dataclass(frozen=True)
class FlowWeight(Weight):
    r""":math:`(1 + \alpha_t/\sigma_t)^2`: the loss of networks that say :math:`\varepsilon - x_0`.

    References:
        Lipman et al., Flow matching for generative modeling, 2023.
    """

    def weight(self, log_snr: Tensor) -> Tensor:
        return (1 + (0.5 * log_snr).exp()).square()


@final
@dataclass(frozen=True)
class MinSNRWeight(Weight):
    r""":math:`\min(\mathrm{SNR}, \gamma)`: that of ε, but no more than γ at low noise.

    References:
        Hang et al., Efficient diffusion training via Min-SNR weighting strategy, 2023; 5 there.

    Args:
        gamma: γ, positive.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        positive(self.gamma, "gamma")

    def weight(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp().clamp(max=self.gamma)


@final
@dataclass(frozen=True)
class EDMWeight(Weight):
    r""":math:`\mathrm{SNR} + 1/\sigma_x^2`: the loss of the output of a preconditioned network.

    Such an output then weighs 1 at every noise. For α = 1 it is
    :math:`(\sigma^2 + \sigma_x^2)/(\sigma\,\sigma_x)^2`. With `sigma_data` 1 it is `VWeight`.

    References:
        Karras et al., Elucidating the design space of diffusion-based generative models, 2022; 0.5
        there.

    Args:
        sigma_data: σ_x, the standard deviation of the data, positive.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        positive(self.sigma_data, "sigma_data")

    def weight(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp() + self.sigma_data**-2
