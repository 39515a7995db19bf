"""Whether a step can be captured as a CUDA graph, told on a CPU: nothing in it may make the processor ask the GPU.

A helper for tests, ``from capture import assert_capturable``.
"""

from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# operations whose answer goes to the host, or whose result has a shape that depends on the values
ASKS = {"_local_scalar_dense", "equal", "nonzero", "nonzero_numpy", "masked_select", "unique_dim", "unique_consecutive",
        "_unique", "_unique2", "bincount", "linalg_matrix_rank", "linalg_lstsq"}
# tensors made from numbers of the host, or numbers made from tensors
VISITS = {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, torch.Tensor.new_tensor, torch.Tensor.tolist,
          torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.__array__}


def assert_capturable(fn: Callable[[], Any]) -> None:
    """Run ``fn``, then once more and backward from all it gives, under a watch for what a capture would not survive.

    The first run is a warm-up, as before a real capture: constants that are made once may be made then. Make inputs
    outside of ``fn``.

    Raises:
        AssertionError: naming the operation: an answer the host waits for, boolean-mask indexing, a Python list or a
            number of the host that becomes a tensor, a shape that depends on values.
    """
    fn()
    with _Visits(), _Asks():
        given = [value for value in _tensors(fn()) if value.requires_grad]
        if given:
            torch.autograd.backward([value.sum() for value in given])


def _tensors(result: Any) -> Iterator[torch.Tensor]:
    for leaf in tree_leaves(result):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif is_dataclass(leaf):
            yield from _tensors(vars(leaf))


class _Asks(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        masked = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        sized = name == "repeat_interleave" and kwargs.get("output_size") is None
        made = name == "lift_fresh" or (name == "_to_copy" and kwargs.get("device") is not None
                                        and args[0].device != kwargs["device"])
        if name in ASKS or masked or sized or made:
            raise AssertionError(f"{func} cannot be captured" + (": indexed by a mask" if masked else ""))
        return func(*args, **kwargs)


class _Visits(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in VISITS:
            raise AssertionError(f"{func.__name__} cannot be captured")
        return func(*args, **(kwargs or {}))
