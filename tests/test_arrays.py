"""Numbers in whatever form they come."""

import numpy as np
import pytest
import torch

from facealign_lite.arrays import finite, floats, plain

VALUES = [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize("values", [
    VALUES, np.array(VALUES), np.array(VALUES, ">f4"), np.array(VALUES, np.int8), np.array(VALUES, np.longdouble),
    np.array(VALUES)[::-1][::-1], torch.tensor(VALUES), torch.tensor(VALUES, requires_grad=True),
    torch.tensor(VALUES, dtype=torch.bfloat16, requires_grad=True), torch.tensor(VALUES).half(),
    torch.tensor(VALUES).int(), list(torch.tensor(VALUES, requires_grad=True)), torch.tensor(VALUES).mT.mT,
    [[torch.tensor(1.0), 2], (3, torch.tensor(4.0, requires_grad=True))], torch.nn.Parameter(torch.tensor(VALUES)),
])
def test_every_form_gives_the_same_numbers(values):
    for read in (floats, finite):
        seen = read(values, "x")
        assert seen.dtype == np.float64 and seen.dtype.isnative
        np.testing.assert_array_equal(seen, VALUES)
    assert plain(values, "x").dtype.kind in "iuf"


def test_float64_is_not_copied():
    array = np.array(VALUES)
    assert floats(array, "x") is array or np.shares_memory(floats(array, "x"), array)


@pytest.mark.parametrize("values", [
    None, "text", [None, 1.0], ["1"], [[1], [1, 2]], np.array([1j]), np.array([1], object), {"a": 1}, [10**400],
    np.array(["2026-01-01"], "M8[D]"), torch.tensor([1j]), torch.empty(2, device="meta"), torch.eye(2).to_sparse(),
    b"bytes", lambda: 1,
], ids=lambda values: type(values).__name__)
def test_what_are_no_numbers_is_refused(values):
    for read in (plain, floats, finite):
        with pytest.raises(ValueError, match="x must be"):
            read(values, "x")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
def test_what_is_not_finite_is_named_with_its_place(bad):
    with pytest.raises(ValueError, match=r"x must be finite, got .* at \[1, 0\]"):
        finite([[1, 2], [bad, 4]], "x")
    assert floats(bad, "x").shape == ()
    with pytest.raises(ValueError, match="x must be finite"):
        finite(bad, "x")
