"""Files of tensors, safetensors, in which nothing is ever executed; and tensors on their way to a device."""

import errno
import json
import stat
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from torch import Tensor

LARGEST = 1 << 32         # bytes of a file


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and what the file says of itself.

    The file is read, not mapped: safetensors' ``safe_open`` keeps 40 kB of every file that it has opened.

    Raises:
        ValueError: if it is no safetensors file, or larger than ``LARGEST``.
        OSError: if it cannot be read or is no ordinary file.
    """
    path = Path(path)
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, f"{path} is there and is no ordinary file")
    if found.st_size > LARGEST:
        raise ValueError(f"{path} must be of at most {LARGEST} bytes, got {found.st_size}")
    data = path.read_bytes()
    try:
        tensors = from_bytes(data)
        said = json.loads(data[8:8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is not a safetensors file: {' '.join(str(error).split())[:200]}") from None
    return tensors, said


def exact(device: torch.device) -> torch.dtype:
    """The most exact numbers that a device has: float64, but on Apple's MPS float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def sent(value: Tensor, device: torch.device) -> Tensor:
    """The tensor on that device, in numbers that it has."""
    value = value.to(exact(device)) if value.dtype == torch.float64 else value
    return value.to(device, non_blocking=True)
