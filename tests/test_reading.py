"""What every network says when it is asked where the landmarks are: the same questions to all that are shipped."""

from dataclasses import is_dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._pytree import tree_map

from facealign_lite import heatmaps, markups, zoo
from facealign_lite.data import Crops
from facealign_lite.nets import HourglassConfig, Reading, StackedHourglass, fold_mirrored, read_maps
from facealign_lite.synthetic import SyntheticFaces

FLIP = list(markups.get("68").flip)
# no gradient: curves are traced on the CPU; exemplars are fitted to what was seen there, too
NOT_DIFFERENTIABLE = ("acenet", "acenet_weak", "msm")


@pytest.fixture(scope="module", params=zoo.names())
def named(request):
    return request.param, zoo.load(request.param, "cpu")


@pytest.fixture(scope="module")
def faces(named):
    """Two rendered faces in crops of the size that the network takes: images, landmarks."""
    size = named[1].config.image_size
    crops = Crops(SyntheticFaces(2, 128, seed=5), size)
    return tuple(torch.stack([crops[i][name] for i in (0, 1)]) for name in ("image", "landmarks"))


def answer(network, images):
    """What ``forward`` gives for images, with all that it asks for."""
    return network(images, *(network.lend(images) if len(network.inputs) > 1 else ()))


def flip_of(reading):
    return list(markups.ANCHOR_FLIP) if reading.anchors is not None else FLIP


def test_every_network_has_config_inputs_and_read(named):
    _, network = named
    assert is_dataclass(network.config) and type(network.config).__dataclass_params__.frozen
    assert network.config.image_size >= 64 and network.config.in_channels in (1, 3)
    assert network.inputs[0] == "image" and callable(network.read)
    if len(network.inputs) > 1:
        with torch.no_grad():
            lent = network.lend(torch.zeros(2, network.config.in_channels, *[network.config.image_size] * 2))
        assert len(lent) == len(network.inputs) - 1 and all(len(one) == 2 for one in lent)


def test_readings_are_in_crop_pixels(named, faces):
    name, network = named
    images, truth = faces
    size = images.shape[-1]
    with torch.no_grad():
        reading = network.read(answer(network, images))
    count = len(markups.ANCHORS) if reading.anchors is not None else 68
    assert reading.points.shape == (2, count, 2) and reading.scores.shape == (2, count)
    assert reading.points.dtype in (torch.float32, torch.float64) and not reading.points.isnan().any()
    assert (reading.scores >= 0).all() and (reading.scores <= 1).all() and (reading.scores > 0.05).float().mean() > 0.9
    room = 0.25 * size if reading.theta is not None else 0.5             # a straightened crop may reach beyond the crop
    assert (reading.points >= -room).all() and (reading.points <= size - 1 + room).all()
    if reading.anchors is None:                                         # faces like those they were trained on
        eyes = (truth[:, 36] - truth[:, 45]).norm(dim=-1)
        assert ((reading.points - truth).norm(dim=-1).mean(1) / eyes).max() < 0.12, name
        assert reading.contours is None
    else:
        known = markups.get("68").anchors
        ours = [i for i, anchor in enumerate(markups.ANCHORS) if anchor in known]
        theirs = [known[markups.ANCHORS[i]] for i in ours]
        assert (reading.points[:, ours] - truth[:, theirs]).norm(dim=-1).mean() < 0.03 * size
        assert torch.equal(reading.anchors, reading.points) and len(reading.contours) == 2
        for lines in reading.contours:
            assert set(lines) <= set(markups.CONTOURS) and len(lines) > 6
            assert all(line.ndim == 2 and line.shape[1] == 2 and (np.abs(line - (size - 1) / 2) < size / 2 + 2).all()
                       for line in lines.values())
    if reading.reliable is not None:
        assert reading.reliable.dtype == torch.bool and reading.reliable.shape == (2, count)
    if reading.theta is not None:
        assert reading.theta.shape == (2, 2, 3)


def test_a_pair_read_from_either_side_is_the_same_in_the_mirror(named, faces):
    """(crop, mirror image) and (mirror image, crop) are one pair: their readings mirror each other, for any network."""
    _, network = named
    images = faces[0]
    with torch.no_grad():
        one, other = (network.read(answer(network, torch.cat(pair)), mirrored=True)
                      for pair in ((images, images.flip(-1)), (images.flip(-1), images)))
    assert len(one.points) == len(images)
    there = other.points * other.points.new_tensor([-1, 1]) + other.points.new_tensor([images.shape[-1] - 1, 0])
    flip = flip_of(one)
    torch.testing.assert_close(there[:, flip], one.points, atol=0.01, rtol=0)
    torch.testing.assert_close(other.scores[:, flip], one.scores, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="even"):
        network.read(answer(network, images[:1]), mirrored=True)


def test_gradients_flow_through_the_points(named, faces):
    name, network = named
    images = faces[0][:1].clone().requires_grad_()
    points = network.read(answer(network, images)).points
    assert points.requires_grad == (name not in NOT_DIFFERENTIABLE)
    if points.requires_grad:
        points[..., 0].mean().backward()
        assert images.grad.isfinite().all() and images.grad.abs().max() > 1e-4


def test_half_precision_is_read_in_single_precision(named, faces):
    _, network = named
    with torch.no_grad():
        outputs = answer(network, faces[0])
        half = tree_map(lambda t: t.bfloat16() if isinstance(t, Tensor) and t.is_floating_point() else t, outputs)
        full = tree_map(lambda t: t.float() if isinstance(t, Tensor) and t.is_floating_point() else t, half)
        read, wanted = network.read(half), network.read(full)
    assert read.points.dtype in (torch.float32, torch.float64)
    torch.testing.assert_close(read.points, wanted.points, atol=1e-4, rtol=0)
    torch.testing.assert_close(read.scores, wanted.scores, atol=1e-5, rtol=0)


# ---- folding ---------------------------------------------------------------------------------------------------------

@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["19", "29", "68", "98"]), st.integers(1, 3), st.integers(32, 256), st.integers(0, 99))
def test_a_symmetric_pair_folds_to_itself(markup, count, size, seed):
    table, rng = markups.get(markup), np.random.default_rng(seed)
    flip = list(table.flip)
    points = torch.from_numpy(rng.uniform(-5, size + 5, (count, table.count, 2)))
    scores = torch.from_numpy(rng.uniform(0, 1, points.shape[:2]))
    mirror = points[:, flip] * torch.tensor([-1.0, 1.0]) + torch.tensor([size - 1.0, 0.0])
    theta = torch.arange(2 * count)[:, None, None].expand(-1, 2, 3)
    both = Reading(torch.cat([points, mirror]), torch.cat([scores, scores[:, flip]]), theta=theta,
                   reliable=torch.cat([scores > 0.5, scores < 0.5]))
    folded = fold_mirrored(both, size, flip)
    torch.testing.assert_close(folded.points, points)
    torch.testing.assert_close(folded.scores, scores)
    assert torch.equal(folded.reliable, scores > 0.5) and torch.equal(folded.theta, theta[:count])
    # and a pair that disagrees meets in the middle
    moved = replace(both, points=both.points + torch.cat([torch.full((count, 1, 1), 2.0), torch.zeros(count, 1, 1)]))
    torch.testing.assert_close(fold_mirrored(moved, size, flip).points, points + 1)


def test_folding_refuses_what_is_no_pair():
    reading = Reading(torch.zeros(3, 68, 2), torch.zeros(3, 68))
    with pytest.raises(ValueError, match="even number"):
        fold_mirrored(reading, 128, FLIP)
    with pytest.raises(ValueError, match="order of its 68"):
        fold_mirrored(Reading(torch.zeros(2, 68, 2), torch.zeros(2, 68)), 128, FLIP[:-1])


# ---- maps ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("way, shape", [("soft_argmax", (32, 32)), ("center_of_mass", (64, 48))])
def test_maps_are_read_where_they_were_painted(way, shape):
    height, width = shape
    rng = np.random.default_rng(0)
    places = np.stack([rng.uniform(8, width - 9, (2, 68)), rng.uniform(8, height - 9, (2, 68))], -1)
    heat = heatmaps.encode(torch.from_numpy(places), shape, 1.5)
    maps = heat.clamp(min=1e-30).log() if way == "soft_argmax" else heat
    reading = read_maps(maps, (4 * height, 4 * width), way)
    np.testing.assert_allclose(reading.points, (places + 0.5) * 4 - 0.5, atol=0.02)
    if way == "center_of_mass":
        torch.testing.assert_close(reading.scores, heat.amax((-2, -1)).float())
    with pytest.raises(ValueError, match="way must be one of .*argmax"):
        read_maps(maps, 128, "argmax")


def test_the_way_of_reading_is_kept_with_the_weights(tmp_path):
    config = HourglassConfig(channels=8, stem=(4, 8, 8), depth=1, reading="center_of_mass")
    network, _ = zoo.read(zoo.save(StackedHourglass(config), tmp_path / "net.safetensors"))
    heat = heatmaps.encode(torch.full((1, 68, 2), 10.25), 32, 2.0)
    assert network.config.reading == "center_of_mass"
    np.testing.assert_allclose(network.read([heat]).points, 42.5, atol=0.05)
    with pytest.raises(ValueError, match="reading"):
        replace(config, reading="by eye")
