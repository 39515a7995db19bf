"""A folded network answers as the one it was made of, and the front door prepares what it loads so."""

import shutil
import threading

import numpy as np
import pytest
import torch
from skimage import data
from torch import nn

from facealign_lite import looks, zoo
from facealign_lite.align import align
from facealign_lite.data import box_of, crop_matrix
from facealign_lite.nets import HourglassConfig, Residual, StackedHourglass, folded
from facealign_lite.synthetic import SyntheticFaces

TINY = HourglassConfig(channels=8, stem=(4, 8, 8), depth=2)
ASTRONAUT = (176.0, 78.0, 276.0, 190.0)


def learnt(network, seed=0):
    """With statistics and factors as a training leaves them, none of them 0 or 1."""
    torch.manual_seed(seed)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d) and part.track_running_stats:
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
        if isinstance(part, nn.BatchNorm2d) and part.affine:
            nn.init.normal_(part.weight, 1, 0.3)
            nn.init.normal_(part.bias)
    return network.eval()


@pytest.mark.parametrize("steps", [
    [nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)], [nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU()],
    [nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1)], [nn.ReLU(), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)],
    [nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)], [nn.Identity(), nn.ReLU()], [Residual(3, 4), nn.BatchNorm2d(4), nn.ReLU()],
    [Residual(3, 4), nn.ReLU()], [nn.BatchNorm2d(3, affine=False), nn.ReLU()],
    [nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU()]])
def test_every_order_of_steps(steps):
    """Against the steps as they were, in double precision so that rounding hides nothing; nothing else is touched."""
    whole = learnt(nn.Sequential(*steps)).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    before, wanted = x.clone(), whole(x)
    state = {name: value.clone() for name, value in whole.state_dict().items()}
    quick = folded(whole)
    torch.testing.assert_close(quick(x), wanted, rtol=1e-10, atol=1e-10)
    assert torch.equal(x, before) and len(quick) == len(whole)
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())
    assert not any(value.requires_grad for value in quick.parameters())
    assert not any(part.training for part in quick.modules()) and all(p.requires_grad for p in whole.parameters())


def test_less_is_left_to_do():
    network = StackedHourglass(TINY)
    kinds = [type(part) for part in folded(network.train()).modules()]
    assert nn.BatchNorm2d in map(type, network.modules()) and network.training
    assert nn.BatchNorm2d not in kinds and Residual not in kinds


@pytest.mark.parametrize("name", zoo.names())
def test_every_shipped_network_reads_the_same_crops_alike(name):
    """In one crop and beside its mirror image, to a thousandth of a pixel of the crop."""
    network = zoo.load(name, "cpu")
    quick = folded(network).to(memory_format=torch.channels_last)
    face = SyntheticFaces(1, 192, seed=31)[0]
    matrix = crop_matrix(box_of(face.landmarks), network.config.image_size, angle=0.1)
    for mirror in (False, True):
        ways = np.stack([matrix, looks.mirrored(matrix, network.config.image_size)])[:2 if mirror else 1]
        wanted, found = (looks.look(face.image, ways, one, mirror) for one in (network, quick))
        assert (found.points - wanted.points).abs().max() < 1e-3
        assert (found.scores - wanted.scores).abs().max() < 1e-3
        assert found.contours is None or found.contours[0].keys() == wanted.contours[0].keys()


@pytest.mark.parametrize("name", zoo.names())
def test_align_by_name_answers_as_the_network_given(name, monkeypatch):
    """To a hundredth of a pixel, looking twice; the second crop is put on a grid, else one answer may be cut from
    pixels a 32nd beside the other's, which is how finely OpenCV resamples."""
    straight = looks.upright
    monkeypatch.setattr(looks, "upright", lambda reading, size: (
        None if (found := straight(reading, size)) is None else np.round(found, 2)))
    image = data.astronaut()
    given = align(image, ASTRONAUT, zoo.load(name, "cpu"))
    found = align(image, ASTRONAUT, name, "cpu")
    assert np.abs(found.landmarks - given.landmarks).max() < 0.01


@pytest.mark.parametrize("name", ["hourglass", "rht"])
def test_autocast_changes_little_and_raises_nothing(name):
    image = data.astronaut()
    wanted = align(image, ASTRONAUT, name, "cpu").landmarks
    with torch.autocast("cpu", torch.bfloat16):
        found = align(image, ASTRONAUT, name, "cpu")
    assert found.landmarks.dtype == np.float64 and np.linalg.norm(found.landmarks - wanted, axis=1).mean() < 1


def test_threads_share_one_network():
    image, found = data.astronaut(), []
    wanted = align(image, ASTRONAUT, device="cpu").landmarks

    def run():
        found.extend(align(image, ASTRONAUT, device="cpu").landmarks for _ in range(5))
    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20 and all(np.array_equal(one, wanted) for one in found)


def test_shipped_weights_that_are_trained_anew_are_read_anew(tmp_path, monkeypatch):
    """By name too; and what was loaded is kept, not loaded in every call."""
    for path in zoo.FOLDER.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    loaded, load = [], zoo.load
    monkeypatch.setattr(zoo, "load", lambda *given: loaded.append(given) or load(*given))
    image = data.astronaut()
    before = align(image, ASTRONAUT, "tab", "cpu").landmarks
    align(image, ASTRONAUT, "tab", "cpu")
    assert len(loaded) <= 1
    network = zoo.read(tmp_path / "tab.safetensors")[0]
    with torch.no_grad():
        for value in network.parameters():
            value.mul_(1.01)
    zoo.save(network, tmp_path / "tab.safetensors")
    zoo.write_sums()
    assert np.abs(align(image, ASTRONAUT, "tab", "cpu").landmarks - before).max() > 1e-3
