"""What may be asked of a device: whether it has float64, and whether its values may be read.

Everything that depends on it asks here, so that the answer is one for the whole library.
"""

import torch
from torch import Tensor


def has_float64(device: torch.device) -> bool:
    """Whether tensors in float64 can lie on a device: all have it but Apple's (MPS)."""
    return device.type != "mps"


def widest(device: torch.device) -> torch.dtype:
    """Return the dtype of times, coefficients and token draws on a device.

    It is float64 where there is one. Elsewhere it is float32, and what only float64 tells apart is
    lost: tokens whose probability is below 2⁻²⁴ of those before them are never drawn.
    """
    return torch.float64 if has_float64(device) else torch.float32


def host(value: object) -> Tensor:
    """Return numbers as a float64 tensor on the CPU, whatever the default device is."""
    if torch.compiler.is_compiling() and isinstance(value, float):
        # In a sum the number is an input of the graph; a tensor made of it would be compiled in.
        return torch.zeros((), dtype=torch.float64, device="cpu") + value
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def may_look(x: Tensor) -> bool:
    """Whether code may branch on the values of a tensor: on the CPU, and run as it is written.

    To read a value on another device is to wait for it; in compiled code and in the transforms of
    `torch.func` there is none to read.
    """
    return x.device.type == "cpu" and not is_traced()


def is_traced() -> bool:
    """Whether code runs on tensors without values: compiled, or in a transform of `torch.func`."""
    if torch.compiler.is_compiling():
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None


def in_transform(*tensors: Tensor) -> bool:
    """Whether one of the tensors is another inside a transform of `torch.func`."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is None:
        return False
    return any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors))
