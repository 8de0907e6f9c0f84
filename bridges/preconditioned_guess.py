r"""A network as a guess on any space: preconditioning for what `preconditioning` says of each."""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from bridges._precision import at_least_float32
from bridges._shapes import Constant, State, Time, describe, leaves, map_structure
from bridges.denoiser import checked_backbone, checked_var, network_dtype
from bridges.preconditioning import Preconditioning
from bridges.process import Process


@final
class PreconditionedGuess(nn.Module):
    r"""A network with preconditioning on any space, or on several at once.

    On numbers it is `PreconditionedDenoiser`; angles, rotations and unit vectors are shown as they
    are, and the network turns x_t by a tangent vector of its own scale; logits are left alone, and
    so is a space of your own that says nothing of preconditioning. See `preconditioning` for the
    laws. The prediction is a point on numbers, a `Noise` on curved
    spaces (give `standardloss` its x_t) and logits for tokens. With `EDMWeight(σ_x)` the loss of
    the first two is that of an output of size 1.

    Args:
        backbone: F, called as `backbone(inputs, c_noise, *args, **kwargs)`, both in the structure
            of the state: what is shown of each part, and its noise level in the shape of t. A
            module is given both in the dtype of its parameters, a function the noise level in a
            floating dtype of the state, at least in float32. It returns, in that structure,
            tensors like the numbers or the tangent vectors, (…, 3) on rotations, and logits for
            tokens.
        process: the process that noised the state.
        var_x: σ_x², the variance of the data, positive: a number, or a tensor that broadcasts with
            the state; for a Joint, one for all or a structure. None for the process's own: 1 on
            numbers, and that of the uniform law on curved spaces. Tokens have none.

    Raises:
        TypeError, ValueError: if an argument is not as expected.

    >>> from bridges import Joint, OrnsteinUhlenbeckDiffusion, WrappedBrownianDiffusion
    >>> process = Joint(OrnsteinUhlenbeckDiffusion(0.0), WrappedBrownianDiffusion(1.0))
    >>> guess = PreconditionedGuess(lambda x, noise: (0 * x[0], 0 * x[1]), process)
    >>> point, noise = guess(process.sample_prior(((4, 3), (4,))), torch.ones(4))
    >>> point.shape, noise.value.shape
    (torch.Size([4, 3]), torch.Size([4]))
    """

    def __init__(self, backbone: Callable[..., Any], process: Process, var_x: Any = None) -> None:
        super().__init__()
        if not isinstance(process, Process):
            raise TypeError(f"Expected process to be a Process; got {describe(process)}.")
        self.backbone, self.process = checked_backbone(backbone), process
        self._var_x = map_structure(_constant, var_x)

    def forward(self, x_t: State, t: Time, *args: Any, **kwargs: Any) -> Any:
        """Return the prediction of x_0, in the structure of the state.

        Args:
            x_t: the noised state.
            t: its time; for a Joint, one or a structure.
            args: what else the network is given, such as its last prediction.
            kwargs: likewise.

        Raises:
            TypeError, ValueError: if the state has not the structure, shapes and dtypes of the
                process.
        """
        process = self.process
        process._check_shape(x_t, "x_t")
        device = leaves(x_t)[0].device
        var_x = map_structure(lambda var: None if var is None else var.on(device), self._var_x)
        var_x = process._spread(var_x, "var_x")
        dtype = network_dtype(self.backbone)
        told = _level_dtype(x_t) if dtype is None else dtype
        noise = process._each(_noise_level(told), process._bare_time(t), var_x, x_t)
        scales = process._each(_scales, process._expand(t, x_t), var_x)
        inputs = process._each(lambda _, own, x: _cast(own.input(x), dtype), scales, x_t)
        values = self.backbone(inputs, noise, *args, **kwargs)
        return process._each(lambda _, own, v, x: own.output(v, x), scales, values, x_t)


def _scales(part: Process, t: Tensor, var_x: Tensor | None) -> Preconditioning:
    scales: Preconditioning = part._preconditioning(t, var_x)
    return scales


def _level_dtype(x_t: State) -> torch.dtype:
    """Return the first floating dtype of a state, at least float32."""
    dtypes = (x.dtype for x in leaves(x_t) if x.is_floating_point())
    return at_least_float32(next(dtypes, torch.get_default_dtype()))


def _cast(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x if dtype is None or not x.is_floating_point() else x.to(dtype)


def _noise_level(dtype: torch.dtype) -> Callable[..., Tensor]:
    """Return a function that makes the noise level of a part, in a dtype."""

    def noise_level(part: Process, t: Tensor, var_x: Tensor | None, x_t: Tensor) -> Tensor:
        return _scales(part, t, var_x).noise_level().to(x_t.device, dtype)

    return noise_level


def _constant(var_x: Any) -> Constant | None:
    return None if var_x is None else Constant(checked_var(var_x, "var_x"))
