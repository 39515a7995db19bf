"""Apple's MPS has no float64: on it no tensor of the device may become one. Shown on the processor, by a stand-in."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

import facealign_lite
from facealign_lite import looks, zoo
from facealign_lite.align import align
from facealign_lite.data.tensors import exact, sent

ASTRONAUT = (176.0, 78.0, 276.0, 190.0)


class Elsewhere(torch.Tensor):
    """A tensor whose results are of its kind until ``cpu()``, and never of float64."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        made = super().__torch_function__(function, types, args, kwargs or {})
        if function is torch.Tensor.cpu:
            return made.as_subclass(torch.Tensor)
        if isinstance(made, Elsewhere) and made.dtype == torch.float64:
            raise TypeError("MPS has no float64")
        return made


def test_the_stand_in_refuses_what_the_device_would():
    there = torch.ones(2).as_subclass(Elsewhere)
    with pytest.raises(TypeError, match="float64"):
        (there * 2).double()
    assert there.cpu().double().dtype == torch.float64


@pytest.mark.parametrize("name", zoo.names())
def test_align_asks_for_no_float64(name, monkeypatch):
    network, cut = zoo.load(name, "cpu"), looks.cut
    wanted = align(data.astronaut(), ASTRONAUT, network)
    monkeypatch.setattr(looks, "cut", lambda *given: cut(*given).as_subclass(Elsewhere))
    found = align(data.astronaut(), ASTRONAUT, network)
    np.testing.assert_array_equal(found.landmarks, wanted.landmarks)


def test_numbers_are_narrowed_on_the_way_there_alone():
    apple, here = torch.device("mps"), torch.device("cpu")
    assert (exact(apple), exact(here)) == (torch.float32, torch.float64)
    value = torch.arange(3, dtype=torch.float64)
    assert sent(value, here).dtype == torch.float64 and sent(torch.arange(3), here).dtype == torch.int64
    with torch.device("meta"):
        assert sent(torch.zeros(2), torch.device("meta")).dtype == torch.float32


def test_nothing_is_widened_before_it_is_here():
    """In no module: doubled on the device, then fetched."""
    for path in Path(facealign_lite.__file__).parent.rglob("*.py"):
        assert not re.search(r"\.double\(\)\.cpu\(\)|dtype=torch\.float64, device=", path.read_text()), path.name
