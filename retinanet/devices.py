"""Which processor runs the network, and whether it has bfloat16 arithmetic."""

from __future__ import annotations

import platform

import torch

DEVICE_KINDS: tuple[str, ...] = ("cuda", "mps", "cpu")
"""The kinds of processor, best first: the order in which "auto" looks for one."""


class DeviceError(ValueError):
    """The processor asked for is not there; the message is a sentence for the person who asked."""


def _is_available(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_available()
    if kind == "mps":
        return torch.backends.mps.is_available()
    return kind == "cpu"


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """The device to compute on.

    Args:
        name: "auto" (the first available of CUDA, MPS, CPU), "cuda", "cuda:1", "mps" or "cpu".

    Raises:
        DeviceError: the name is no device, or this machine does not have it.
    """
    name = str(name)
    if name == "auto":
        return torch.device(next(kind for kind in DEVICE_KINDS if _is_available(kind)))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"{name!r} is no device; use auto, cuda, mps or cpu.") from error
    if device.type not in DEVICE_KINDS:
        raise DeviceError(f"{name!r} cannot run this model; use auto, cuda, mps or cpu.")
    available = [kind for kind in DEVICE_KINDS if _is_available(kind)]
    if device.type not in available:
        raise DeviceError(
            f"This machine has no {device.type} device; it has {', '.join(available)}."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise DeviceError(f"There is no {name}: this machine has {count} CUDA device(s), from 0.")
    return device


def supports_bf16(device: str | torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware, so that it is faster than float32.

    CUDA needs compute capability 8.0 (Ampere) or later; a CPU needs AMX-BF16, AVX512-BF16 or
    Arm's BF16. MPS is not used in bfloat16. A CPU without them would emulate it, slower than
    float32, and a torch too old to report the CPU's instructions counts as without.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def device_title(device: str | torch.device) -> str:
    """The device's name for a person, e.g. "NVIDIA H100 (cuda)" or "CPU, 2 threads"."""
    device = torch.device(device)
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    if device.type == "mps":
        return f"Apple GPU ({platform.machine()}, mps)"
    return f"CPU, {torch.get_num_threads()} threads"
