"""The watch of ``capture`` sees what a CUDA graph would not survive, and nothing else."""

import numpy as np
import pytest
import torch
from capture import assert_capturable

X = torch.arange(12.0).view(3, 4)


@pytest.mark.parametrize("name, fn", {
    "item": lambda: X.sum().item(), "int": lambda: int(X[0, 0]), "if": lambda: 1 if X.any() else 0,
    "mask": lambda: X[X > 3], "put": lambda: X.clone().__setitem__(X > 3, 0.0),
    "select": lambda: X.masked_select(X > 3),
    "nonzero": lambda: X.nonzero(), "where": lambda: torch.where(X > 3), "list": lambda: X[:, [0, 2]],
    "tensor": lambda: torch.tensor([1.0, 2]), "new": lambda: X.new_tensor([1.0]), "numpy": lambda: X.numpy(),
    "array": lambda: np.asarray(X), "from": lambda: torch.from_numpy(np.ones(3)), "tolist": lambda: X.tolist(),
    "repeat": lambda: torch.repeat_interleave(X[0].long()), "unique": lambda: X.unique(), "equal": lambda: X.equal(X),
}.items())
def test_what_cannot_be_captured(name, fn):
    with pytest.raises(AssertionError, match="cannot be captured"):
        assert_capturable(fn)


def test_a_plain_step_with_its_backward_can_be_captured():
    weight, index = torch.ones(4, requires_grad=True), torch.tensor([0, 2])

    def step():
        picked = (X * weight)[:, index]
        t = torch.linspace(0, 1, 5, device=X.device)
        return {"loss": torch.where(picked > 3, picked, 0.0).mean() + t.mean() + X.new_zeros(())}
    assert_capturable(step)
    assert weight.grad.abs().sum() > 0


def test_a_backward_that_asks_is_seen():
    class Curious(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, gradient):
            return gradient * gradient.sum().item()
    weight = torch.ones(4, requires_grad=True)
    with pytest.raises(AssertionError, match="_local_scalar_dense"):
        assert_capturable(lambda: Curious.apply(weight))


def test_what_is_made_once_may_be_made_before():
    kept = {}

    def step():
        if "index" not in kept:
            kept["index"] = torch.tensor([0, 2])
        return X[:, kept["index"]]
    assert_capturable(step)
