"""Where a network runs."""

import torch


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device of that name; for "auto" CUDA, then Apple's MPS, then the CPU.

    Raises:
        ValueError: if the name is unknown to PyTorch or no such device is there.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else
                            "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
        if found.type == "meta":
            raise TypeError("it holds no numbers")
    except (RuntimeError, AssertionError, TypeError, AttributeError, ImportError) as error:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda', 'cuda:0', 'mps', ... and be present, "
                         f"got {device!r} ({' '.join(str(error).splitlines()[:1])})") from None
    return found
