"""A forward pass captured once as a CUDA graph and replayed, for networks that a card waits for."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


def captured(model: nn.Module, *example: Tensor, dtype: torch.dtype | None = None) -> Callable[..., Any]:
    """``model`` as a function that launches all its kernels at once; on a CPU it is the model itself.

    A network of a thousand small kernels takes Python tens of milliseconds to launch, and the card a few to run.

    Args:
        model: in eval mode, on the device where it shall run.
        example: what it will be called with: only these shapes and types can be asked for.
        dtype: ``torch.bfloat16`` or ``torch.float16`` computes so where autocast allows; None computes as it is.

    Returns:
        a function of tensors like ``example`` that gives what ``model`` gives; on a GPU in tensors of its own, so that
        an answer stays when the next is asked for.

    Raises:
        ValueError: if the model is in training mode, has no parameters, or (when called) the shapes are others.
        RuntimeError: if the forward pass waits for the device, so that it cannot be captured.
    """
    if model.training:
        raise ValueError("model must be in eval mode, got one in training mode")
    device = next((p.device for p in model.parameters()), None)
    if device is None:
        raise ValueError("model must have parameters")

    def call(*inputs: Tensor) -> Any:
        with torch.inference_mode(), torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            return model(*inputs)
    if device.type != "cuda":
        return call
    given = [one.to(device, copy=True) for one in example]
    stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):                                              # libraries choose their kernels
            call(*given)
    torch.cuda.current_stream(device).wait_stream(stream)
    with torch.cuda.graph(graph):
        answer = call(*given)

    def replay(*inputs: Tensor) -> Any:
        if len(inputs) != len(given) or any(a.shape != b.shape for a, b in zip(inputs, given)):
            raise ValueError(f"inputs must be of the captured shapes {[tuple(g.shape) for g in given]}, got "
                             f"{[tuple(i.shape) for i in inputs]}")
        for to, one in zip(given, inputs):
            to.copy_(one, non_blocking=True)
        graph.replay()
        return tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, answer)
    return replay
