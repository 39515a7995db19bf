"""Crops by batches: the same crops as one at a time, the same chance, and each effect as OpenCV has it."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from capture import assert_capturable
from scipy import stats

from facealign_lite import markups
from facealign_lite.data import Augmentation, Crops, Sample, augmentation, crop_matrix, effects, save_packed
from facealign_lite.data.batches import BatchedCrops, Further, Halves, draw_photometry, draw_placement, sample
from facealign_lite.data.crops import crop
from facealign_lite.synthetic import SyntheticFaces

STILL = Augmentation(rotation=0, scale=(1, 1), shift=0, flip=0, outlier=0, gamma=0, contrast=(1, 1), brightness=0,
                     noise=0, colour=0, inversion=0, light=0, blur=0, motion=0, low_resolution=0, jpeg=0, occluder=0)
MOVING = replace(STILL, rotation=40, scale=(0.8, 1.3), shift=0.06, flip=0.5, outlier=0.1)
ALWAYS = replace(Augmentation(), inversion=0.5, light=1, blur=1, motion=1, low_resolution=1, jpeg=1, occluder=1)


def toy(seed=0, size=96, colour=True, contours=False):
    """A picture of blurred noise with landmarks anywhere."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (size, size, 3) if colour else (size, size), np.uint8)
    image = cv2.normalize(cv2.GaussianBlur(image, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
    known = {"anchors": rng.uniform(0, size, (12, 2)),
             "contours": {name: rng.uniform(0, size, (5 + i, 2)) for i, name in enumerate(markups.CONTOURS)}}
    landmarks = rng.uniform(0.25 * size, 0.75 * size, (68, 2))
    return Sample(image, landmarks, rng.random(68) < 0.8, **(known if contours else {}))


def toys(n=5, **kind):
    return [toy(i, **kind) for i in range(n)]


def chance(n, seed=0):
    """Uniform numbers (n,) for ever."""
    rng = np.random.default_rng(seed)
    while True:
        yield rng.random(n)


def for_all(on, effect, images, *numbers):
    """``effects.apply`` on a GPU."""
    return torch.where(on.view(-1, 1, 1, 1), effect(images, *numbers), images)


def batch(crops, keys):
    return crops.batch(crops.draws(keys))


# The same crops

@pytest.mark.parametrize("size, side", [(64, 96), (32, 96), (48, 40)])
@pytest.mark.parametrize("in_colour, colour", [(True, False), (True, True), (False, False), (False, True)])
def test_plain_crops_are_those_one_at_a_time(size, side, in_colour, colour):
    """Enlarged or reduced."""
    faces = toys(4, size=side, colour=in_colour, contours=True)
    one, many = Crops(faces, size, colour=colour), BatchedCrops(faces, size, colour=colour)
    seen = batch(many, [(0, i) for i in range(4)])
    for i in range(4):
        wanted = one.at(0, i)
        assert set(seen) == set(wanted)
        for name, value in wanted.items():
            assert seen[name][i].dtype == value.dtype and seen[name][i].shape == value.shape, name
            if name != "image":
                torch.testing.assert_close(seen[name][i], value, rtol=0, atol=1e-4)
        assert (seen["image"][i] - wanted["image"]).abs().mean() * 255 < 1


def test_images_need_not_be_square():
    faces = [replace(face, image=face.image[:70]) for face in toys(2)]
    one, many = Crops(faces, 48), BatchedCrops(faces, 48)
    for i in range(2):
        assert (many[i]["image"] - one[i]["image"]).abs().mean() * 255 < 0.1
    whole = many._whole(torch.tensor([1]))[0].permute(1, 2, 0).numpy()
    wanted = cv2.resize(faces[1].image, (48, 48), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(whole * 255, wanted, atol=1.01)
    larger = BatchedCrops(faces, 80)._whole(torch.tensor([0]))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(larger * 255, cv2.resize(faces[0].image, (80, 80), interpolation=cv2.INTER_AREA),
                               atol=1.01)


def test_faces_are_averaged_down_like_those_one_at_a_time():
    """By twos; which two go together is another matter, and costs less than a grey level."""
    faces = list(SyntheticFaces(6, 160, 7))
    one, many = Crops(faces, 64), BatchedCrops(faces, 64)
    assert many.levels == 2
    seen = batch(many, [(0, i) for i in range(6)])["image"]
    assert (seen - torch.stack([one[i]["image"] for i in range(6)])).abs().mean() * 255 < 1


@pytest.mark.parametrize("size", [64, 24])
def test_moved_crops_show_what_their_matrix_says(size):
    """Pixels, landmarks, visibility, anchors and contours, mirrored or not."""
    faces = toys(3, contours=True)
    crops = BatchedCrops(faces, size, MOVING)
    keys = [(epoch, i) for epoch in range(8) for i in range(3)]
    seen = batch(crops, keys)
    mirrored = torch.linalg.det(seen["matrix"][..., :2]) < 0
    assert 4 < mirrored.sum() < 20
    apart = []
    for k, (_, i) in enumerate(keys):
        matrix = seen["matrix"][k].numpy()
        pixels = crop(faces[i].image, matrix, size)
        grey = pixels @ np.array([0.299, 0.587, 0.114])
        apart.append(np.abs((seen["image"][k, 0].numpy() + 0.5) * 255 - grey).mean())
        plain = BatchedCrops([faces[i]], 64, margin=0).at(0, 0)
        for name, flip in (("landmarks", markups.get("68").flip), ("anchors", markups.ANCHOR_FLIP),
                           ("contours", markups.CONTOUR_FLIP), ("visibility", markups.get("68").flip)):
            wanted = plain[name].double()
            if name != "visibility":
                back = torch.linalg.inv(plain["matrix"][:, :2])
                wanted = (wanted - plain["matrix"][:, 2]) @ back.mT @ torch.from_numpy(matrix[:, :2]).mT
                wanted = wanted + torch.from_numpy(matrix[:, 2])
            wanted = wanted[list(flip)] if mirrored[k] else wanted
            torch.testing.assert_close(seen[name][k].double(), wanted, rtol=0, atol=1e-3)
    assert np.mean(apart) < 1


def test_matrices_are_those_of_crop_matrix():
    faces = toys(3)
    crops = BatchedCrops(faces, 40, replace(MOVING, flip=1), margin=0.2)
    draws = crops.draws([(0, 0), (0, 1), (0, 2)])
    placed = _placement(crops, [(0, 0), (0, 1), (0, 2)])
    for i in range(3):
        wanted = crop_matrix(faces[i].box, 40, 0.2, placed["angle"][i], placed["shift"][:, i], placed["scale"][i])
        wanted = np.array([[-1, 0, 39], [0, 1, 0]]) @ np.vstack([wanted, [0, 0, 1]])
        np.testing.assert_allclose(draws["matrix"][i], wanted, atol=1e-9)


def _placement(crops, keys):
    from facealign_lite.data import batches
    numbers = batches._uniform(batches._state(crops.seed, np.asarray(keys)), batches.CHANCES)
    return draw_placement(crops.augment, iter(numbers))


@pytest.mark.parametrize("kind", ["packed", "listed"])
def test_a_crop_is_the_same_in_every_batch(kind, tmp_path):
    faces = toys(6, size=64, contours=True)
    faces = save_packed(tmp_path / "pack", faces) if kind == "packed" else faces
    crops = BatchedCrops(faces, 48, ALWAYS, seed=3)
    keys = [(epoch, i) for epoch in range(3) for i in range(6)]
    whole = batch(crops, keys)
    for name, value in batch(crops, keys).items():
        torch.testing.assert_close(value, whole[name], rtol=0, atol=0)
    order = np.random.default_rng(0).permutation(len(keys))
    mixed = batch(BatchedCrops(faces, 48, ALWAYS, seed=3), [keys[k] for k in order])
    for k in (0, 7, 11):
        alone = crops.at(*keys[k])
        for name, value in whole.items():
            torch.testing.assert_close(alone[name], value[k], rtol=0, atol=1e-5)
            torch.testing.assert_close(mixed[name][list(order).index(k)], value[k], rtol=0, atol=1e-5)


def test_seed_epoch_and_index_each_change_the_crop():
    faces = [toy(0)] * 2
    first = BatchedCrops(faces, 32, Augmentation()).at(0, 0)["image"]
    assert not torch.equal(BatchedCrops(faces, 32, Augmentation(), seed=1).at(0, 0)["image"], first)
    crops = BatchedCrops(faces, 32, Augmentation())
    assert not torch.equal(crops.at(1, 0)["image"], first) and not torch.equal(crops.at(0, 1)["image"], first)
    assert torch.equal(crops[0]["image"], first)


def test_draws_have_one_shape_and_batches_stay_pictures():
    crops = BatchedCrops(toys(4), 40, ALWAYS, colour=True)
    one, two = (crops.draws([(epoch, i) for i in range(4)]) for epoch in (0, 1))
    assert {k: (t.shape, t.dtype) for k, t in one.items()} == {k: (t.shape, t.dtype) for k, t in two.items()}
    assert all(t.device.type == "cpu" and len(t) == 4 for t in one.values())
    for epoch in range(8):
        image = batch(crops, [(epoch, i) for i in range(4)])["image"]
        assert image.shape == (4, 3, 40, 40) and image.min() >= -0.5 and image.max() <= 0.5     # false for NaN


def test_a_gpu_would_make_the_same_crops(monkeypatch):
    """A GPU computes every effect for all and chooses then; here a CPU does it so."""
    crops = BatchedCrops(toys(6, size=64), 48, Augmentation())
    keys = [(epoch, i) for epoch in range(4) for i in range(6)]
    some = batch(crops, keys)["image"]
    monkeypatch.setattr(effects, "apply", for_all)
    torch.testing.assert_close(batch(crops, keys)["image"], some, rtol=0, atol=1e-5)


def test_nothing_waits_for_a_number_of_a_tensor():
    """Tensors of the device "meta" have a shape and no numbers: what runs on them, a CUDA graph can hold."""
    crops = BatchedCrops(toys(3, contours=True), 32, Augmentation())
    draws = crops.draws([(0, 0), (0, 1), (5, 2)])
    wanted = crops.batch(draws)
    crops.to("meta").device = torch.device("cpu")                               # autocast knows no "meta"
    seen = crops.batch({name: tensor.to("meta") for name, tensor in draws.items()})
    assert {k: (t.shape, t.dtype) for k, t in seen.items()} == {k: (t.shape, t.dtype) for k, t in wanted.items()}
    assert all(tensor.device.type == "meta" for tensor in seen.values())


@pytest.mark.parametrize("augment", [None, Augmentation()], ids=["plain", "augmented"])
def test_a_cuda_graph_can_hold_a_batch(augment, monkeypatch):
    monkeypatch.setattr(effects, "apply", for_all)
    crops = BatchedCrops(toys(3, contours=True), 32, augment)
    draws = crops.draws([(0, 0), (0, 1), (5, 2)])
    assert_capturable(lambda: crops.batch(draws))
    both = Halves(crops, BatchedCrops(toys(2), 32, augment), "which")
    drawn = both.draws([(0, 0), (0, 1), (5, 2)])
    assert_capturable(lambda: both.batch(drawn))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("colour", [False, True])
def test_a_card_makes_the_crops_of_the_processor_also_from_a_graph(colour):
    crops = BatchedCrops(toys(8, size=96, contours=True), 64, Augmentation(), colour=colour)
    drawn = [crops.draws([(epoch, i) for i in range(8)]) for epoch in range(6)]
    wanted = [crops.batch(draws) for draws in drawn]
    crops.to("cuda")
    given = {name: tensor.cuda() for name, tensor in drawn[0].items()}
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        crops.batch(given)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        held = crops.batch(given)
    for draws, on_cpu in zip(drawn, wanted):
        for name, tensor in draws.items():
            given[name].copy_(tensor)
        graph.replay()
        plain = crops.batch(given)
        for name, value in on_cpu.items():
            torch.testing.assert_close(held[name], plain[name], rtol=0, atol=1e-4)
            if name != "image":
                torch.testing.assert_close(plain[name].cpu(), value, rtol=0, atol=1e-3)
        # a rounded number may differ in its last place, and in JPEG a whole block with it
        assert (plain["image"].cpu() - on_cpu["image"]).abs().mean() * 255 < 0.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_crops_are_made_in_full_precision_under_autocast(dtype):
    crops = BatchedCrops(toys(3), 32, Augmentation())
    draws = crops.draws([(2, i) for i in range(3)])
    with torch.autocast("cpu", dtype):
        seen = crops.batch(draws)["image"]
    torch.testing.assert_close(seen, crops.batch(draws)["image"], rtol=0, atol=0)


# Two data sets in one batch

def test_halves_show_every_crop_of_both_and_say_which_is_which():
    first = BatchedCrops(toys(2), 32, MOVING, seed=1)
    second = BatchedCrops(toys(5, contours=True), 32, MOVING, seed=2)
    both = Halves(first, second, "synthetic")
    assert len(both) == 5
    keys = [(1, i) for i in range(5)]
    seen = batch(both, keys)
    assert seen["synthetic"].tolist() == [0] * 5 + [1] * 5 and len(seen["image"]) == 10
    for k, i in enumerate(range(5)):
        other = second.at(1, i)
        for name, value in other.items():
            torch.testing.assert_close(seen[name][5 + k], value, rtol=0, atol=1e-5)
        one = first.at(3 + i // 2, i % 2)                                       # 3 rounds of 2 faces for one of 5
        for name, value in one.items():
            torch.testing.assert_close(seen[name][k], value, rtol=0, atol=1e-5)
        assert seen["contours"][k].isnan().all() and seen["anchors"][k].isnan().all()
        pair = both.at(1, i)
        torch.testing.assert_close(pair["image"], torch.stack([one["image"], other["image"]]), rtol=0, atol=1e-5)
    assert len(Halves(second, first, "real")) == 5


def test_halves_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="size"):
        Halves(BatchedCrops(toys(2), 32), BatchedCrops(toys(2), 33), "which")
    with pytest.raises(ValueError, match="colour"):
        Halves(BatchedCrops(toys(2), 32), BatchedCrops(toys(2), 32, colour=True), "which")
    with pytest.raises(ValueError, match="image"):
        Halves(BatchedCrops(toys(2), 32), BatchedCrops(toys(2), 32), "image")
    with pytest.raises(IndexError):
        Halves(BatchedCrops(toys(2), 32), BatchedCrops(toys(2), 32), "which").draws([(0, 2)])


def test_a_further_change_has_its_own_chance():
    class Lend(torch.nn.Module):
        """A reference for each crop, as RHT has it."""

        def __init__(self):
            super().__init__()
            self.register_buffer("pictures", torch.arange(4.0))

        def forward(self, given, chance):
            return given | {"chance": chance, "lent": self.pictures[(4 * chance[:, 0]).long()]}
    crops = BatchedCrops(toys(3), 32, Augmentation(), seed=7)
    once = Further(crops, 2, Lend(), seed=7)
    keys = [(epoch, i) for epoch in range(600) for i in range(3)]
    chance = once.draws(keys)["chance"]
    twice = Further(once, 2, lambda given, other: given | {"other": other}, seed=7)
    assert chance.shape == (1800, 2) and chance.dtype == torch.float32 and len(twice) == 3
    numbers = np.concatenate([chance, twice.draws(keys)["chance"], crops.named(crops.draws(keys)["numbers"])["tones"],
                              _uniform_of(crops, keys)], 1)
    assert all(stats.kstest(row, "uniform").pvalue > 1e-4 for row in numbers.T[:4])
    assert np.abs(np.corrcoef(numbers.T) - np.eye(numbers.shape[1]))[:4].max() < 5 / 1800**0.5
    torch.testing.assert_close(once.draws(keys[5:9])["chance"], chance[5:9], rtol=0, atol=0)
    seen = batch(twice, keys[:6])
    torch.testing.assert_close(seen["image"], batch(crops, keys[:6])["image"], rtol=0, atol=0)
    torch.testing.assert_close(seen["chance"], chance[:6], rtol=0, atol=0)
    assert (seen["lent"] == (4 * chance[:6, 0]).floor()).all()
    assert twice.to("meta").data.change.pictures.device.type == crops.device.type == "meta"
    with pytest.raises(ValueError, match="count"):
        Further(crops, -1, Lend())


def _uniform_of(crops, keys):
    from facealign_lite.data import batches
    return batches._uniform(batches._state(crops.seed, np.asarray(keys)), batches.CHANCES).T


@pytest.mark.parametrize("faces, kind, words", [
    ([], {}, "empty"), ([toy(0), toy(1, size=95)], {}, r"faces\[1\].*shape"), ([toy(0)], {"size": 7}, "size"),
    ([Sample(toy(0).image, box=(1, 1, 9, 9))], {}, r"faces\[0\].*landmarks"), ([toy(0)], {"margin": -1}, "margin"),
    ([toy(0)], {"margin": np.inf}, "margin"), ([toy(0)], {"size": 32.5}, "size"), ([toy(0)], {"size": "32"}, "size"),
    ([SimpleNamespace(**vars(toy(0)) | {"landmarks": np.ones((67, 2))})], {}, r"faces\[0\].*\(68, 2\)"),
    ([SimpleNamespace(**vars(toy(0)) | {"visibility": np.ones(67)})], {}, r"faces\[0\].*\(67,\)"),
    ([toy(0), SimpleNamespace(**vars(toy(0)) | {"landmarks": np.ones((68, 2)), "box": None})], {}, r"right.*\[1\]")])
def test_nonsense_is_refused(faces, kind, words):
    with pytest.raises(ValueError, match=words):
        BatchedCrops(faces, **kind)
    with pytest.raises(IndexError):
        BatchedCrops([toy(0)]).draws([(0, 0), (0, 1)])


def test_a_box_larger_than_any_picture_costs_no_more_than_the_picture():
    """What shows the whole picture in one pixel is averaged over the picture, not over ten thousand of it."""
    crops = BatchedCrops([Sample(toy(0).image, toy(0).landmarks, box=(-1e5, -1e5, 1e5, 1e5))], 16)
    assert crops.levels == 96
    assert torch.isfinite(batch(crops, [(0, 0)])["image"]).all()


# The same chance

def alike(seen, wanted):
    """Two samples of one distribution: a true claim fails once in a thousand."""
    return stats.ks_2samp(np.ravel(seen), np.ravel(wanted)).pvalue > 1e-3


def test_placements_have_the_distribution_of_those_one_at_a_time():
    augment, n = replace(Augmentation(), outlier=0.3), 4000
    seen, rng = draw_placement(augment, chance(n)), np.random.default_rng(1)
    angle, scale, shift, mirrored = zip(*(augment.placement(rng) for _ in range(n)))
    assert alike(seen["angle"], angle) and alike(seen["scale"], scale) and alike(seen["mirrored"], mirrored)
    for axis in (0, 1):
        assert alike(seen["shift"][axis], np.array(shift)[:, axis])
    # a bad box is bad in both: far away goes with a scale beyond the range
    far = np.abs(seen["shift"]).max(0) > 0.2
    assert (seen["scale"][far] < 0.85).mean() + (seen["scale"][far] > 1.3).mean() == pytest.approx(0.5, abs=0.1)
    assert abs(np.corrcoef(seen["shift"])[0, 1]) < 0.05


class Told:
    """A generator of numpy's that writes down what it is asked for."""

    def __init__(self, seed):
        self.rng, self.told = np.random.default_rng(seed), []

    def __getattr__(self, name):
        def ask(*args):
            value = getattr(self.rng, name)(*args)
            self.told.append((name, args, value))
            return value
        return ask


def test_photometry_has_the_distribution_of_that_one_at_a_time():
    n, augment = 6000, Augmentation()
    seen = draw_photometry(augment, chance(n), 128, 3)
    u = np.random.default_rng(5).random
    assert set(np.unique(seen["inverted"])) == {0, 1}
    for name, column, p, low, high in (
            ("gain", 0, 1, 0.75, 1.25), ("gain", 2, 1, 0.75, 1.25), ("blur", 0, 0.25, 0.5, 2), ("motion", 0, 0.1, 3, 9),
            ("contrast", 0, 1, 0.6, 1.4), ("offset", 0, 1, -0.15, 0.15), ("noise", 0, 1, 0, 0.05),
            ("edge", 0, 1, -0.5, 0.5), ("steep", 0, 0.3, 2, 10), ("inverted", 0, 0.03, 1, 1),
            ("nearest", 0, 0.15, 1, 1), ("place", 1, 1, 0, 128), ("place", 2, 1, 0, 128), ("sides", 0, 1, 12.8, 51.2),
            ("sides", 3, 1, 12.8, 51.2), ("ellipse", 1, 0.5, 1, 1), ("tones", 4, 0.85, 0, 1)):
        values = seen[name][:, column]
        there = values != 0
        assert there.mean() == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5 + 1e-3), name
        assert low == high or alike(values[there], low + (high - low) * u(n)), name
        assert there.all() or np.isclose(values[there].min(), low, rtol=0.1, atol=0.02), name
    assert alike(np.log2(seen["exponent"]), 2 * u(n) - 1)
    lit = np.abs(seen["amount"]).max(1) > 0
    assert lit.mean() == pytest.approx(0.35, abs=0.025)
    assert alike(seen["amount"][lit, 1], (1.4 * u(n) - 0.7) + (0.4 * u(n) - 0.2))
    assert alike(np.ptp(seen["amount"][lit], axis=1), np.ptp(0.4 * u((n, 3)) - 0.2, axis=1))
    assert alike(np.arctan2(*seen["ramp"].T[::-1]), 2 * np.pi * u(n) - np.pi)
    assert alike(np.arctan2(*seen["streak"].T[::-1]), np.pi * u(n))
    small, quality = seen["small"][:, 0], seen["quality"][:, 0]
    assert (small > 0).mean() == pytest.approx(0.25, abs=0.023)
    assert (quality > 0).mean() == pytest.approx(0.2, abs=0.021)
    assert alike(small[small > 0], (128 * (0.2 + 0.5 * u(n))).astype(int))
    assert alike(quality[quality > 0], np.random.default_rng(6).integers(8, 60, n))
    assert set(np.unique(seen["rolls"])) == set(range(128))
    # independent of one another: which effects meet
    on = np.stack([lit, seen["blur"][:, 0] > 0, seen["motion"][:, 0] > 0, small > 0, quality > 0,
                   seen["kinds"].max(1) > 0, seen["inverted"][:, 0] > 0], 1).astype(float)
    assert np.abs(np.corrcoef(on.T) - np.eye(7)).max() < 4 / n**0.5


def test_occluders_are_as_many_and_filled_as_often():
    """Nobody's second occluder lies alone; other faces are lent to 0.3 x 0.45 of all crops, occluded or not."""
    n = 20000
    seen = draw_photometry(Augmentation(), chance(n), 64, 1)
    first, second = seen["kinds"].T
    near = {"abs": 0.012}
    assert (first > 0).mean() == pytest.approx(0.45, **near) and (second > 0).mean() == pytest.approx(0.225, **near)
    assert not ((second > 0) & (first == 0)).any()
    filled = first[first > 0]
    assert (filled == effects.PIECE).mean() == pytest.approx(0.35 * 0.135, **near)
    assert (filled == effects.NOISE).mean() == pytest.approx(0.6 - 0.35 * 0.135, abs=0.02)
    assert (filled == effects.TONE).mean() == pytest.approx(0.4, abs=0.02)
    black = seen["tones"][:, 0][first == effects.TONE] == 0
    assert black.mean() == pytest.approx(0.15 / 0.4, abs=0.03)
    box, ellipse = (seen["turn"][seen["ellipse"][:, 0] == k, :2] for k in (0, 1))
    assert (box > -1e-9).all() and 0.4 < (ellipse[:, 0] < 0).mean() < 0.6       # up to 90 degrees, up to 180


def test_pieces_are_lent_by_every_face_alike():
    other = BatchedCrops(toys(5), 16, Augmentation()).draws([(epoch, 3) for epoch in range(2000)])["other"]
    assert stats.chisquare(np.bincount(other, minlength=5)).pvalue > 1e-3


def test_what_never_happens_is_never_drawn():
    seen = draw_photometry(STILL, chance(3000), 64, 3)
    for name in ("inverted", "amount", "kinds", "blur", "motion", "small", "offset", "noise", "quality"):
        assert not seen[name].any(), name
    assert (seen["gain"] == 1).all() and (seen["exponent"] == 1).all() and (seen["contrast"] == 1).all()
    face = toy(1)
    torch.testing.assert_close(BatchedCrops([face], 48, STILL).at(0, 0)["image"],
                               BatchedCrops([face], 48).at(0, 0)["image"], rtol=0, atol=1e-5)


def test_noise_is_normal_and_uniform_and_its_own_in_every_crop():
    key = torch.tensor([0, 1, 2, -5, 2**31 - 1], dtype=torch.int32)
    shape = torch.Size([5, 3, 64, 64])
    for drawn, cdf in ((effects.normal(key, shape), "norm"), (effects.uniform(key, shape), "uniform")):
        rows = drawn.flatten(1).numpy()
        for row in rows:
            assert stats.kstest(row, cdf).pvalue > 1e-3
        assert np.abs(np.corrcoef(rows) - np.eye(5)).max() < 0.05
        for lag in (1, 2, 63, 64, 4096, 6144):                                  # neighbours, channels, halves
            assert abs(np.corrcoef(rows[:, :-lag].ravel(), rows[:, lag:].ravel())[0, 1]) < 0.02, lag
    both = np.corrcoef(effects.normal(key, shape).ravel(), effects.uniform(key, shape).ravel())[0, 1]
    assert abs(both) < 0.02
    torch.testing.assert_close(effects.normal(key[3:4], shape[:0] + (1, 3, 64, 64))[0], effects.normal(key, shape)[3])


def test_random_bits_are_those_of_whole_numbers_without_a_sign():
    def mixed(x):
        x ^= x >> 16
        x = x * 0x7FEB352D % 2**32
        x ^= x >> 15
        x = x * 0x846CA68B % 2**32
        return x ^ (x >> 16)
    seen = effects.bits(torch.tensor([-7], dtype=torch.int32), 50, 1)[0].tolist()
    assert [x % 2**32 for x in seen] == [mixed(mixed((1 << 26) + k) ^ (-7 % 2**32)) for k in range(50)]


# Each effect as OpenCV has it

def picture(channels=1, size=64, seed=0):
    return toy(seed, size, colour=channels == 3).image.reshape(size, size, channels)


def tensor(image):
    """(S, S, C) -> (1, C, S, S) float32."""
    return torch.from_numpy(np.ascontiguousarray(np.atleast_3d(image).transpose(2, 0, 1)[None], np.float32))


def back(images):
    return np.squeeze(images[0].numpy().transpose(1, 2, 0))


def numbers(*values):
    return torch.from_numpy(np.array(values, np.float32))


@pytest.mark.parametrize("channels", [1, 3])
def test_tone_is_the_table(channels):
    told = Told(3)
    table = replace(Augmentation(), inversion=0.5)._tone(2 + (channels == 3), told)
    gain, exponent, inverted = (value for _, _, value in told.told)
    image = picture(channels)
    seen = effects.tone(tensor(image), numbers(gain), numbers(2**exponent), numbers(inverted < 0.5))
    np.testing.assert_allclose(back(seen), cv2.LUT(np.squeeze(image), table), atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_light_is_the_ramp(seed):
    told = Told(seed)
    wanted = augmentation._ramp((64, 64, 3), told)
    values = [value for _, _, value in told.told]
    hard = len(values) == 6
    amount = values[-2] + values[-1]
    seen = effects.ramp(torch.ones(1, 3, 64, 64), numbers([np.cos(values[0]), np.sin(values[0])]), numbers(amount),
                        numbers(values[2] if hard else 0), numbers(values[3] if hard else 0))
    np.testing.assert_allclose(back(seen), wanted, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.25, 0.5, 0.74, 1.3, 2.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_blur_is_that_of_opencv(sigma, channels):
    image = picture(channels, 40) / np.float32(255)
    wanted = cv2.GaussianBlur(image, (0, 0), sigma)
    seen = effects.separable(tensor(image), effects.gaussian_matrix(40, numbers(sigma)))
    np.testing.assert_allclose(back(seen), wanted, atol=2e-3 if sigma < 0.3 else 2e-4)


@pytest.mark.parametrize("seed", range(6))
def test_motion_is_that_of_opencv(seed):
    told, image = Told(seed), picture(3) / np.float32(255)
    length = 2 + seed
    kernel = augmentation._streak(told, length)
    angle = told.told[0][2]
    wanted = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    kernels = effects.streak_kernels(5, numbers(length), numbers([np.cos(angle), np.sin(angle)]))
    np.testing.assert_allclose(back(effects.filtered(tensor(image), kernels)), wanted, atol=1e-4)


@pytest.mark.parametrize("small", [8, 13, 16, 31, 44])
@pytest.mark.parametrize("nearest", [False, True])
def test_low_resolution_is_that_of_opencv(small, nearest):
    image = picture(3) / np.float32(255)
    down = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    wanted = cv2.resize(down, (64, 64), interpolation=cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR)
    matrix = effects.low_resolution_matrix(64, numbers(small), numbers(nearest))
    np.testing.assert_allclose(matrix.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(back(effects.separable(tensor(image), matrix)), wanted, atol=1e-4)


@pytest.mark.parametrize("size", [64, 52])
@pytest.mark.parametrize("quality", [8, 20, 49, 50, 59])
@pytest.mark.parametrize("channels, near", [(1, 0.25), (3, 1.5)])
def test_jpeg_is_that_of_opencv(quality, channels, near, size):
    """To so many grey levels on average; what it does to a picture is many times more."""
    image = picture(channels, size) / np.float32(255)
    wanted = augmentation._jpeg(np.squeeze(image), quality)
    seen = back(effects.jpeg(tensor(image), numbers(quality)))
    assert np.abs(seen - wanted).mean() * 255 < near
    assert np.abs(np.squeeze(image) - wanted).mean() > 4 * np.abs(seen - wanted).mean()


@pytest.mark.parametrize("seed", range(20))
def test_occluders_cover_what_opencv_draws(seed):
    rng = np.random.default_rng(seed)
    size, (w, h), (x, y), ellipse = 128, rng.uniform(13, 51, 2), rng.uniform(20, 108, 2), seed % 2
    angle = rng.uniform(0, 180 if ellipse else 90)
    mask = np.zeros((size, size), np.uint8)
    if ellipse:
        cv2.ellipse(mask, (int(x), int(y)), (int(w / 2), int(h / 2)), angle, 0, 360, 1, -1)
    else:
        cv2.fillConvexPoly(mask, np.round(cv2.boxPoints(((x, y), (w, h), angle))).astype(np.int32), 1)
    turn = np.deg2rad(angle)
    seen = effects.covered(size, numbers([x, y]), numbers([w, h]), numbers([np.cos(turn), np.sin(turn)]),
                           numbers(ellipse))[0].numpy()
    edge = cv2.dilate(mask, np.ones((3, 3))) != cv2.erode(mask, np.ones((3, 3)))
    np.testing.assert_array_equal(seen[~edge], mask[~edge] > 0)
    assert abs(seen.sum() - mask.sum()) < 0.2 * edge.sum() and mask.sum() > 50


def test_occluders_are_filled_with_what_was_asked_for():
    """Below an ellipse of a piece, above a box of noise, of tone, or nothing."""
    size = 32
    image, other = torch.full((3, 1, size, size), 0.5), torch.rand(3, 1, size, size)
    kinds = torch.tensor([[effects.PIECE, effects.NOISE], [effects.PIECE, effects.TONE], [effects.PIECE, effects.NONE]])
    place = torch.tensor([[[12.0, 12.0], [18.0, 18.0]]]).expand(3, -1, -1)
    sides, turn = torch.full((3, 2, 2), 12.0), torch.tensor([1.0, 0.0]).expand(3, 2, 2)
    rolls = torch.tensor([[[3.0, 31.0], [0.0, 0.0]]]).expand(3, -1, -1)
    shape, key = torch.tensor([[1.0, 0.0]]).expand(3, -1), torch.tensor([5, 6, 7], dtype=torch.int32)
    seen = effects.occlude(image, kinds, place, sides, turn, shape, torch.full((3, 2, 1), 0.25), rolls, key,
                           lambda rows: other[rows], torch.arange(3))
    circle, box = (effects.covered(size, place[:, k], sides[:, k], turn[:, k], shape[:, k])[:, None] for k in (0, 1))
    rolled = torch.from_numpy(np.roll(other.numpy(), (3, 31), (2, 3)))
    box = box & torch.tensor([True, True, False])[:, None, None, None]
    circle = circle & ~box
    torch.testing.assert_close(seen[circle], rolled[circle], rtol=0, atol=0)
    torch.testing.assert_close(seen[~circle & ~box], image[~circle & ~box], rtol=0, atol=0)
    torch.testing.assert_close(seen[0][box[0]], effects.uniform(key, image.shape)[0][box[0]], rtol=0, atol=0)
    assert (seen[1][box[1]] == 0.25).all() and box[0].sum() == 169


def test_pieces_come_from_other_faces():
    dark, bright = toy(0), replace(toy(1), image=np.full((96, 96, 3), 200, np.uint8))
    dark = replace(dark, image=np.zeros((96, 96, 3), np.uint8))
    crops = BatchedCrops([dark, bright], 64, replace(STILL, occluder=1))
    seen = batch(crops, [(epoch, 0) for epoch in range(80)])["image"] + 0.5
    assert ((seen - 200 / 255).abs() < 1e-5).flatten(1).sum(1).gt(50).sum() > 2


def test_the_whole_photometry_has_the_moments_of_that_one_at_a_time():
    """Mean, spread and sharpness of 400 crops under all effects, each within what chance allows."""
    face, augment = toy(2, 64, colour=False), Augmentation()
    many = batch(BatchedCrops([face], 32, augment), [(epoch, 0) for epoch in range(400)])["image"][:, 0].numpy()
    one = np.stack([Crops([face], 32, augment).at(epoch, 0)["image"][0].numpy() for epoch in range(400)])
    for of in (lambda x: x.mean((1, 2)), lambda x: x.std((1, 2)), lambda x: np.abs(np.diff(x, axis=1)).mean((1, 2)),
               lambda x: np.abs(np.diff(x, axis=2)).max((1, 2)), lambda x: (x == -0.5).mean((1, 2)),
               lambda x: (x == 0.5).mean((1, 2))):
        assert alike(of(many), of(one))


def test_sampling_beyond_the_border_continues_the_image():
    image = torch.full((2, 1, 20, 20), 77.0)
    matrices = torch.from_numpy(np.stack([crop_matrix((-60, -60, 5, 5), 16), crop_matrix((900, 900, 990, 990), 16)]))
    assert (sample(image, matrices, 16) == 77).all() and (sample(image, matrices, 16, 7) == 77).all()


def test_reduction_averages_fine_texture_away():
    checks = (torch.from_numpy(np.indices((256, 256)).sum(0)) % 2 * 255.0)[None, None]
    matrix = torch.from_numpy(crop_matrix((-0.5, -0.5, 255.5, 255.5), 32, 0))[None]
    seen = sample(checks, matrix, 32, 8)
    assert (seen[..., 2:-2, 2:-2] - 127).abs().max() <= 2
