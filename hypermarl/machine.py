"""What the machine can do for training: its devices, bfloat16 products, and a compiler that fuses small operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar

import torch

from hypermarl.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")


def torch_device(name: str) -> torch.device:
    """The device of that name, or one clear sentence."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse bfloat16 where the hardware has no such product: it would be slower than fp32, and less exact."""
    if precision == "bf16" and not multiplies_bf16(device):
        raise UserError(f"train.precision=bf16 needs bfloat16 products, which this {device.type} has not; use fp32.")


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware has bfloat16 products of its own; emulated ones take seven times as long as fp32."""
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def check_compiler(device: torch.device) -> None:
    """Fuse something tiny, so that a missing compiler is one sentence now and not a long trace later."""
    try:
        compiled(_twice, device.type)(torch.ones(2, device=device))
    except Exception as error:  # whatever a compiler's absence raises, and that differs by system
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"train.compile=true needs a compiler: {reason}") from error


@cache
def compiled(function: Callable[P, R], device: str) -> Callable[P, R]:
    """`function` with its operations fused by torch.compile; on an accelerator its launches become one CUDA graph."""
    fused: Callable[P, R] = torch.compile(function, mode="reduce-overhead" if device == "cuda" else "default")
    return fused


def _twice(x: torch.Tensor) -> torch.Tensor:
    return x + x
