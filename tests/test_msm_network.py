"""MSM's landmark networks, and Algorithm 2 from a rough crop to landmarks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from capture import assert_capturable
from test_msm import FACES
from test_msm_stgan import poses
from torch import nn

from facealign_lite import geometry, markups, msm
from facealign_lite.data import BatchedCrops, Crops, Sample
from facealign_lite.heatmaps import decode, encode, to_heatmap, to_image
from facealign_lite.msm import network, stgan
from facealign_lite.nets import Hourglass, landmark_loss, parameter_count
from facealign_lite.training import TrainConfig, fit

TINY = msm.HeatConfig(pools=1, channels=4, depth=2, stem=(2, 2, 4))
SMALL = msm.RegressionConfig(image_size=32, width=2)
MEAN = msm.mean_face(FACES)
BOOK = msm.ShapeDictionary.fit(FACES, 60)


def images(n=2, channels=1, size=128):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0)) - 0.5


# ---- networks ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("pools, side", [(1, 64), (2, 32)])
def test_every_stack_gives_a_map_and_every_pool_halves_its_side(pools, side):
    config = replace(TINY, pools=pools)
    assert [tuple(out.shape) for out in msm.HeatNet(config)(images())] == [(2, 68, side, side)] * 2
    assert config.heatmap_size == side
    assert msm.HEAT_LITE.heatmap_size == 32 and msm.HEAT_PAPER.heatmap_size == 64


def test_paper_size_by_layers():
    model = msm.HeatNet(msm.HEAT_PAPER)
    kinds = [module for module in model.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert [(k.in_channels, k.out_channels, k.stride) for k in kinds] == [(256, 256, (2, 2))] * 8   # 2 stacks, 4 levels
    residual = 2 * (256 + 128 + 128) + 256 * 128 + 9 * 128 * 128 + 128 * 256
    hourglass = 13 * residual + 4 * (2 * 256 + 16 * 256 * 256)
    widening = 2 * (128 + 128 + 128) + 128 * 128 + 9 * 128 * 128 + 128 * 256 + 128 * 256
    stem = (27 * 64 + 64) + (2 * 64 + 9 * 64 * 128) + (2 * 128 + 9 * 128 * 128) + widening
    one_by_one = 2 * 256 + 256 * 256
    heads = 2 * (residual + one_by_one) + 2 * (2 * 256 + 256 * 68 + 68)
    between = one_by_one + 68 * 256 + 256
    assert parameter_count(model) == stem + 2 * hourglass + heads + between


def test_batch_normalisation_stands_before_every_convolution_but_the_first():
    """In order of definition: of the stem, the hourglasses and what follows them."""
    for part in (msm.HeatNet(TINY).stem, msm.HeatNet(TINY).hourglasses[0], msm.HeatNet(TINY).heads[0]):
        plain = [m for m in part.modules() if isinstance(m, (nn.BatchNorm2d, nn.Conv2d, nn.ConvTranspose2d))]
        convolutions = [i for i, m in enumerate(plain) if not isinstance(m, nn.BatchNorm2d)]
        bare = [i for i in convolutions if i == 0 or not isinstance(plain[i - 1], nn.BatchNorm2d)]
        skips = [i for i in bare if plain[i].kernel_size == (1, 1) and i > 0]      # a wider unit's own skip
        assert set(bare) - set(skips) <= {0}


def test_a_deconvolution_doubles_the_side_and_a_silent_one_leaves_the_skip():
    hourglass = Hourglass(2, 4, rise=network.deconvolution).eval()
    x = torch.randn(1, 4, 8, 8)
    assert hourglass(x).shape == x.shape
    nn.init.zeros_(hourglass.up[-1].weight)
    torch.testing.assert_close(hourglass(x), hourglass.across(x))


def test_a_deconvolution_starts_as_bilinear_interpolation_plus_noise():
    up = network.deconvolution(4)[-1]
    tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
    bilinear = torch.einsum("io,y,x->ioyx", torch.eye(4), tent, tent)
    assert 0 < (up.weight - bilinear).abs().max() <= 0.3 / (4 * 16) ** 0.5
    x = torch.randn(1, 4, 5, 6)
    with torch.no_grad():
        up.weight.copy_(bilinear)
    inside = (..., slice(1, -1), slice(1, -1))                      # beyond the border zeros come in
    torch.testing.assert_close(up(x)[inside], nn.functional.interpolate(x, scale_factor=2, mode="bilinear")[inside])


def test_the_paper_baseline_has_the_weights_of_resnet_50():
    """He et al.'s 50 layers hold 25,557,032 numbers, 2,049,000 of them in the layer of 1000 classes."""
    model = msm.RegressionNet(msm.REGRESSION_PAPER)
    assert parameter_count(model.features) == 25_557_032 - 2_049_000
    assert model.last.in_features == 2048
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules()) == 50 + 4      # and four 1 x 1 skips


def test_a_regression_of_zeros_is_the_middle_of_the_crop():
    model = msm.RegressionNet(SMALL).eval()
    nn.init.zeros_(model.last.weight)
    nn.init.zeros_(model.last.bias)
    assert torch.equal(model(images(2, size=32)), torch.full((2, 68, 2), 15.5))
    nn.init.ones_(model.last.bias)
    assert torch.equal(model(images(2, size=32)), torch.full((2, 68, 2), 31.5))             # the outer edge


def test_point_loss_by_hand():
    points = torch.zeros(1, 2, 2)
    batch = {"image": torch.zeros(1, 1, 32, 32), "landmarks": torch.tensor([[[1.0, 2], [3, 4]]])}
    assert msm.point_loss(points, batch).item() == pytest.approx(10 / 4 * 2 / 32)


def test_heat_of_a_peak_is_the_peak_and_of_a_flat_map_thin():
    peaks = encode(torch.tensor([[20.0, 30.0], [40.0, 12.0]], dtype=torch.float64), 64, 1.5)
    found = msm.heat(peaks.clamp(min=1e-30).log(), 1.5)
    torch.testing.assert_close(found, peaks.float(), atol=1e-4, rtol=0)
    flat = torch.zeros(1, 64, 64, requires_grad=True)
    assert torch.allclose(msm.heat(flat), torch.full((1, 64, 64), 2 * np.pi * network.SIGMA**2 / 4096))
    msm.heat(flat)[0, 0, 0].backward()
    assert torch.isfinite(flat.grad).all()


def test_scores_tell_a_spread_map_from_a_sharp_one():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    logits = torch.stack([-((x - 30) ** 2 + (y - 30) ** 2) / (2 * s**2) for s in (1.2, 3, 9)])
    score = msm.scores(msm.heat(logits).numpy())
    assert score[0] > 2 * score[1] > 4 * score[2]


@pytest.mark.parametrize("model, loss", [(lambda: msm.HeatNet(TINY), landmark_loss),
                                         (lambda: msm.RegressionNet(msm.RegressionConfig(width=4)), msm.point_loss)])
def test_a_step_lowers_the_loss(model, loss):
    torch.manual_seed(0)
    model, batch = model(), {"image": images(2), "landmarks": torch.rand(2, 68, 2) * 100 + 14}
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    values = []
    for _ in range(2):
        value = loss(model(batch["image"]), batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[1] < values[0]


# ---- Algorithm 2 ---------------------------------------------------------------------------------------------------

class Sure(nn.Module):
    """An hourglass that sees given points (B, K, 2) of the straight crop, and those in ``doubt`` spread out."""

    def __init__(self, points, doubt=(), at=None):
        super().__init__()
        self.config = TINY
        self.points, self.doubt, self.at = points, list(doubt), at

    def forward(self, straight):
        points = self.points.clone()
        if self.at is not None:
            points[:, self.doubt] = torch.tensor(self.at, dtype=points.dtype)
        maps = encode(to_heatmap(points, 128, 64), 64, 1.2).clamp(min=1e-30).log()
        maps[:, self.doubt] /= 30
        return [maps]


class Knows(nn.Module):
    """A generator that knows theta."""

    def __init__(self, theta):
        super().__init__()
        self.config, self.theta = msm.StGanConfig(), theta

    def forward(self, images):
        return self.theta


def knowing(doubt=(), at=None, n=3, theta=None):
    """A model of oracles on ``n`` faces, and where their landmarks lie in the rough crops."""
    theta = poses(n) if theta is None else theta
    straight = msm.from_frame(torch.from_numpy(msm.canonical(FACES[:n])), 128)
    model = msm.Msm.assemble(msm.Generator(), msm.HeatNet(TINY), BOOK)
    model.generator, model.hourglass = Knows(theta), Sure(straight, doubt, at)
    return model.eval(), msm.move(straight, theta[:n].double(), 128)


def test_algorithm_2_gives_sure_landmarks_back_in_the_rough_crop():
    model, rough = knowing()
    found = msm.run(model, images(3), keep=True)
    assert found.reliable.all() and (found.landmarks - rough).norm(dim=-1).max() < 0.05
    corner = encode(np.full((1, 2), 20.5), 64, 1.2)                              # between four pixels
    assert 0.99 * msm.scores(corner, TINY.radius) / TINY.clean_score < found.scores.min().item()
    assert found.scores.max() <= 1


def test_the_papers_argmax_is_off_by_half_a_map_pixel():
    model, rough = knowing(theta=torch.eye(2, 3).expand(3, 2, 3))
    off = (msm.run(model, images(3), False, "argmax").landmarks - rough).abs()
    assert 0.3 < off.mean() < 0.7 and 0.8 < off.max() <= 1 + 1e-6               # uniform in +- 1 pixel of the crop


def test_every_way_to_read_a_map_finds_its_peak():
    model, rough = knowing(theta=torch.eye(2, 3).expand(3, 2, 3))
    for method, limit in (("argmax", 1.5), ("center_of_mass", 0.05), ("soft_argmax", 0.05)):
        assert (msm.run(model, images(3), False, method).landmarks - rough).norm(dim=-1).max() < limit


def test_doubtful_landmarks_are_rebuilt_and_others_left():
    mouth = list(range(48, 68))
    model, rough = knowing(mouth, at=(20.0, 20.0))
    found, raw = msm.run(model, images(3), keep=True), msm.run(model, images(3), reconstruct=False)
    assert not found.reliable[:, mouth].any() and found.reliable.sum() == 3 * 48
    error, before = ((x.landmarks - rough).norm(dim=-1) for x in (found, raw))
    assert before[:, mouth].min() > 20 and error[:, mouth].mean() < 5
    assert torch.equal(found.landmarks[:, :48], raw.landmarks[:, :48])
    every = msm.run(model, images(3)).landmarks
    assert not torch.equal(every[:, :48], raw.landmarks[:, :48])


def test_line_6_as_printed_trusts_nobody():
    """With w max(w) a face on which every landmark is as sure as can be has none above 0.4; with w / max(w), all."""
    points = to_heatmap(msm.from_frame(torch.from_numpy(msm.canonical(FACES[:3])), 128), 128, 64)
    w = msm.scores(encode(points, 64, 1.2))
    printed, divided = w * w.max(-1, keepdims=True), w / w.max(-1, keepdims=True)
    assert printed.max() < msm.OUTLINE < msm.INNER < divided.min()
    assert msm.reliable(w).all()
    # and what the printed line calls reliable changes when the heat is measured in other units
    assert (10 * w * (10 * w).max(-1, keepdims=True) > msm.INNER).all() and (msm.reliable(10 * w) == 1).all()


def test_a_reading_is_what_run_finds():
    mouth = list(range(48, 68))
    model, _ = knowing(mouth, at=(20.0, 20.0))
    found, reading = msm.run(model, images(3)), model.read(model(images(3)))
    torch.testing.assert_close(reading.points, found.landmarks.float())
    torch.testing.assert_close(reading.scores, found.scores.float())
    assert torch.equal(reading.reliable, found.reliable) and torch.equal(reading.theta, found.theta.float())
    assert not reading.reliable[:, mouth].any() and reading.reliable[:, :48].all()
    assert reading.scores[:, mouth].max() < 0.2 and reading.scores[:, :48].min() > 0.85


def test_a_reading_of_a_mirrored_pair_is_of_both():
    """Truth in the crop and in its mirror image, each straightened in its own way."""
    theta = poses(3)
    other = torch.tensor([[1.0, -1, -1], [-1, 1, 1]]) * theta * torch.tensor([1.1, 1.1, 1])     # mirrored, and wider
    model, rough = knowing(theta=torch.cat([theta, other]))
    model.config = replace(model.config, keep=True)
    mirror = (rough * torch.tensor([-1.0, 1]) + torch.tensor([127.0, 0]))[:, list(markups.get("68").flip)]
    inverse = torch.linalg.inv(torch.cat([other, torch.tensor([[[0.0, 0, 1]]]).expand(3, 1, 3)], 1).double())[:, :2]
    model.hourglass.points = torch.cat([model.hourglass.points, msm.move(mirror, inverse, 128)])
    found = model.read(model(images(6)), mirrored=True)
    assert found.points.shape == found.theta.shape[:1] + (68, 2) == (3, 68, 2)
    assert (found.points - rough[:3]).norm(dim=-1).max() < 0.05
    assert found.reliable.shape == found.scores.shape == (3, 68) and torch.equal(found.theta, theta)


def test_a_model_without_exemplars_rebuilds_nothing():
    torch.manual_seed(0)
    model = msm.Msm().eval()
    assert model.dictionary is None
    found, raw = msm.run(model, images()), msm.run(model, images(), reconstruct=False)
    assert torch.equal(found.landmarks, raw.landmarks)
    assert torch.equal(model.read(model(images())).points, raw.landmarks.float())


def test_the_paper_model_has_the_papers_numbers():
    paper = msm.MSM_PAPER
    assert paper.heat == msm.HEAT_PAPER and paper.generator == stgan.PAPER.generator
    assert (paper.outline, paper.inner, paper.k, paper.exemplars, paper.ridge, paper.keep) == (
        0.4, 0.6, 100, 500, 60, False)
    assert (paper.image_size, paper.heatmap_size, paper.in_channels, paper.reading) == (128, 64, 3, "argmax")
    assert paper.floor == 0                                         # ours
    # the paper gives neither radius nor width: ours cover the same share of the crop on both maps
    lite = msm.MsmConfig()
    assert paper.sigma / paper.heatmap_size == lite.sigma / lite.heatmap_size
    assert (2 * paper.radius + 1) / paper.heatmap_size == (2 * lite.radius + 1) / lite.heatmap_size == 5 / 64


@pytest.mark.parametrize("reading", ["center_of_mass", "soft_argmax"])
def test_a_heat_net_is_read_at_its_peaks(reading):
    model = msm.HeatNet(replace(TINY, reading=reading))
    points = torch.rand(4, 68, 2, generator=torch.Generator().manual_seed(1)) * 100 + 14
    points[2:] = (points[:2] * torch.tensor([-1.0, 1]) + torch.tensor([127.0, 0]))[:, list(markups.get("68").flip)]
    outputs = Sure(points, doubt=[8])(None)
    found = model.read([torch.zeros_like(outputs[0]), *outputs])
    sure = torch.arange(68) != 8                                                         # the chin, in both
    assert (found.points - points)[:, sure].norm(dim=-1).max() < 0.05
    assert found.scores[:, 8].max() < 0.2 and found.scores[:, sure].min() > 0.85 and found.scores.max() <= 1
    both = model.read(outputs, mirrored=True)
    assert (both.points - points[:2])[:, sure].norm(dim=-1).max() < 0.05
    assert model.inputs == msm.Msm.inputs == msm.RegressionNet.inputs == ("image",)


def test_heat_is_learnt_as_wide_as_it_is_scored():
    """A clean peak of that width, between whose maps the loss is least, scores 1."""
    config = replace(TINY, sigma=2.0)
    points = torch.full((1, 68, 2), 64.5)                                                   # on a pixel of the map
    batch = {"image": torch.zeros(1, 1, 128, 128), "landmarks": points}
    peaks = {s: [encode(to_heatmap(points, 128, 64), 64, s).clamp(min=1e-30).log()] for s in (1.6, 2.0, 2.4)}
    losses = {sigma: msm.heat_loss(config)(peak, batch).item() for sigma, peak in peaks.items()}
    assert min(losses, key=losses.get) == 2.0
    torch.testing.assert_close(msm.HeatNet(config).read(peaks[2.0]).scores, torch.ones(1, 68), atol=1e-4, rtol=0)
    assert msm.HeatNet(config).read(peaks[2.4]).scores.max() < 0.8


def test_a_regression_is_read_as_it_is():
    model = msm.RegressionNet(SMALL)
    points = torch.rand(2, 68, 2) * 32
    mirror = (points * torch.tensor([-1.0, 1]) + torch.tensor([31.0, 0]))[:, list(markups.get("68").flip)]
    found, both = model.read(points), model.read(torch.cat([points, mirror]), mirrored=True)
    assert torch.equal(found.points, points) and torch.equal(found.scores, torch.ones(2, 68))
    torch.testing.assert_close(both.points, points)


def test_an_empty_heatmap_still_gives_a_face():
    model, _ = knowing(range(68), at=(64.0, 64.0))
    model.hourglass.forward = lambda straight: [torch.zeros(3, 68, 64, 64)]
    assert torch.isfinite(msm.run(model, images(3)).landmarks).all()


def test_the_module_is_its_parts():
    torch.manual_seed(0)
    generator, hourglass = msm.Generator(), msm.HeatNet(TINY)
    model = msm.Msm.assemble(generator, hourglass, BOOK, margin=0.2)
    theta, straight, logits = model(images())
    assert torch.equal(theta, generator(images())) and torch.equal(straight, msm.straighten(images(), theta))
    assert torch.equal(logits, hourglass(straight)[-1])
    np.testing.assert_allclose(model.dictionary.exemplars, BOOK.exemplars, atol=1e-4)
    again = msm.Msm(model.config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(images()).logits, logits) and again.config.margin == 0.2


def test_lite_parts_fit_the_defaults():
    model = msm.Msm.assemble(msm.Generator(), msm.HeatNet(), BOOK)
    assert replace(model.config, exemplars=500) == msm.MsmConfig()


# ---- crops to train on ---------------------------------------------------------------------------------------------

def faces_as_samples(n):
    dots = []
    for i in range(n):
        points = geometry.transform(FACES[i], geometry.similarity(0.9, 0.3 * i, (30 + i, 20)))
        image = np.zeros((190, 190), np.uint8)
        for x, y in np.round(points[[30, 8]]).astype(int):
            image[y - 2:y + 3, x - 2:x + 3] = 255
        dots.append(Sample(image, points))
    return dots


def test_undisturbed_straight_crops_are_straight():
    crops = msm.StraightCrops(Crops(faces_as_samples(3), 128), MEAN, 0, 0, 0)
    for i in range(3):
        item = crops[i]
        theta = msm.true_theta(item["landmarks"][None], torch.from_numpy(MEAN), 128)
        torch.testing.assert_close(theta, torch.eye(2, 3)[None], atol=1e-4, rtol=0)
        x, y = item["landmarks"][30].round().int().tolist()
        assert item["image"][0, y, x] > 0.3                                     # the picture moved along


def test_straight_crops_are_disturbed_alike_whenever_they_are_asked_for():
    crops = msm.StraightCrops(Crops(faces_as_samples(2), 128), MEAN, seed=3)
    one, again, other = crops.at(4, 1), crops.at(4, 1), crops.at(5, 1)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["landmarks"], other["landmarks"])
    landmarks = torch.stack([crops.at(epoch, 0)["landmarks"] for epoch in range(150)])
    theta = msm.true_theta(landmarks, torch.from_numpy(MEAN), 128)
    left = msm.pose_residual(torch.eye(2, 3).expand_as(theta), theta)
    assert left.rotation.std().item() == pytest.approx(12, rel=0.2) and abs(left.rotation.mean()) < 2
    assert left.scale.log().std().item() == pytest.approx(0.12, rel=0.2)


def test_a_batch_is_straightened_as_one_crop_is():
    """The same chance gives the same crops, so the same distribution of chance gives the same distribution of crops."""
    plain = Crops(faces_as_samples(3), 128)
    crops, items = msm.StraightCrops(plain, MEAN, seed=4), [plain[i] for i in range(3)]
    uniforms = torch.special.ndtr(torch.stack([crops.normals(7, i) for i in range(3)]))
    images, landmarks = msm.straight_batch(torch.stack([item["image"] for item in items]),
                                           torch.stack([item["landmarks"] for item in items]), uniforms.float(),
                                           torch.from_numpy(MEAN).float())
    for i in range(3):
        one = crops.at(7, i)
        torch.testing.assert_close(landmarks[i], one["landmarks"], atol=2e-3, rtol=0)
        assert (images[i] - one["image"]).abs().max() < 2e-3


def test_straight_batches_are_batched_data():
    """Any batch gives the same crop; undisturbed ones are those of ``StraightCrops``; a step can hold them."""
    faces = faces_as_samples(5)
    data = msm.StraightBatches(BatchedCrops(faces, 128), MEAN, seed=2)
    batch = data.batch(data.draws([(3, 4), (0, 1), (1, 1)]))
    for i, (epoch, index) in enumerate([(3, 4), (0, 1), (1, 1)]):
        for name, value in data.at(epoch, index).items():
            torch.testing.assert_close(batch[name][i], value, atol=1e-4, rtol=0)
    assert not torch.equal(batch["landmarks"][1], batch["landmarks"][2])
    still = msm.StraightBatches(BatchedCrops(faces, 128), MEAN, 0, 0, 0).at(0, 1)
    one = msm.StraightCrops(Crops(faces, 128), MEAN, 0, 0, 0).at(0, 1)
    torch.testing.assert_close(still["landmarks"], one["landmarks"], atol=2e-3, rtol=0)
    assert (still["image"] - one["image"]).abs().mean() < 0.01
    draws = data.draws([(0, 0), (0, 1)])
    assert_capturable(lambda: data.batch(draws))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = data.batch(draws)
    assert all(torch.equal(rounded[name], value) for name, value in data.batch(draws).items())
    history = fit(msm.HeatNet(TINY), data, landmark_loss, TrainConfig(1, 2, amp="off", device="cpu"), progress=False)
    assert np.isfinite(history[0]["loss"])


def test_uniform_numbers_become_the_disturbance_that_was_asked_for():
    n = 20_000
    points = msm.from_frame(torch.from_numpy(MEAN), 8).expand(n, -1, -1)
    uniforms = torch.rand(n, 4, generator=torch.Generator().manual_seed(0))
    uniforms[0], uniforms[1] = 0, 1                                                 # the ends are finite
    _, landmarks = msm.straight_batch(torch.zeros(n, 1, 8, 8), points, uniforms, torch.from_numpy(MEAN), 10, 0.1, 0.05)
    theta = msm.true_theta(landmarks, torch.from_numpy(MEAN), 8)
    left = msm.pose_residual(torch.eye(2, 3).expand_as(theta), theta)
    assert left.rotation.std().item() == pytest.approx(10, rel=0.02) and abs(left.rotation.mean()) < 0.3
    assert left.scale.log().std().item() == pytest.approx(0.1, rel=0.02) and abs(left.scale.log().mean()) < 0.003
    # sides of the crop; the face is turned and resized after it was moved
    away = (landmarks.mean(1) - points[0].mean(0)) / 8
    assert away.norm(dim=-1).square().mean().sqrt().item() == pytest.approx(0.05 * 2 ** 0.5, rel=0.1)


def test_straightening_a_batch_and_the_losses_can_be_captured():
    batch = {"image": images(2), "landmarks": msm.from_frame(torch.from_numpy(MEAN), 128).float().expand(2, -1, -1)}
    uniforms, mean = torch.rand(2, 4), torch.from_numpy(MEAN).float()
    assert_capturable(lambda: msm.straight_batch(batch["image"], batch["landmarks"], uniforms, mean))
    regression = msm.RegressionNet(msm.RegressionConfig(width=2))
    assert_capturable(lambda: msm.point_loss(regression(batch["image"]), batch))
    heat, whole = msm.HeatNet(TINY), msm.Msm()
    assert_capturable(lambda: landmark_loss(heat(batch["image"]), batch))
    assert_capturable(lambda: whole(batch["image"]))


def test_decoding_and_the_map_share_the_convention():
    """A point of the straight crop survives the way through the map and back."""
    points = msm.from_frame(torch.from_numpy(MEAN), 128)
    maps = encode(to_heatmap(points, 128, 64), 64, 1.2)
    assert (to_image(decode(maps, "center_of_mass"), 64, 128) - points).norm(dim=-1).max() < 0.02


@pytest.mark.parametrize("call, words", [
    (lambda: msm.HeatConfig(channels=3), "channels"),
    (lambda: msm.HeatConfig(depth=0), "depth"),
    (lambda: msm.HeatConfig(image_size=100), "image_size.*100"),
    (lambda: msm.HeatConfig(stem=(1, 2)), "stem"),
    (lambda: msm.HeatNet(TINY)(images(1, 3)), "images"),
    (lambda: msm.HeatNet(TINY)(images(1, size=100)), "multiples of 8"),
    (lambda: msm.RegressionConfig(image_size=100), "image_size"),
    (lambda: msm.RegressionConfig(blocks=(1, 1, 1)), "blocks"),
    (lambda: msm.RegressionConfig(width=0), "width"),
    (lambda: msm.RegressionNet(SMALL)(images(1)), "images"),
    (lambda: msm.point_loss(torch.zeros(1, 3, 2), {"landmarks": torch.zeros(1, 2, 2)}), "landmarks"),
    (lambda: msm.MsmConfig(image_size=64), "image_size"),
    (lambda: msm.MsmConfig(landmarks=5), "5"),
    (lambda: msm.MsmConfig(exemplars=0), "exemplars"),
    (lambda: msm.MsmConfig(margin=-1.0), "margin"),
    (lambda: msm.MsmConfig(k=0), "k"),
    (lambda: msm.MsmConfig(inner=1.5), "inner"),
    (lambda: msm.MsmConfig(floor=float("nan")), "floor"),
    (lambda: msm.MsmConfig(ridge=-1.0), "ridge"),
    (lambda: msm.HeatConfig(reading="mean"), "reading"),
    (lambda: msm.HeatConfig(radius=-1.0), "radius"),
    (lambda: msm.HeatConfig(sigma=0.0), "sigma"),
    (lambda: msm.RegressionNet(SMALL).read(torch.zeros(3, 68, 2), mirrored=True), "even"),
    (lambda: msm.Msm.assemble(msm.Generator(msm.StGanConfig(3)), msm.HeatNet(TINY), BOOK), "channels 3 and 1"),
    (lambda: msm.run(knowing()[0].train(), images(3)), "eval"),
    (lambda: msm.StraightCrops(Crops(faces_as_samples(1), 128), MEAN, scale=-1), "scale"),
    (lambda: msm.StraightBatches(BatchedCrops(faces_as_samples(1), 128), MEAN, rotation=float("nan")), "rotation"),
    (lambda: msm.straight_batch(images(2), torch.zeros(2, 68, 2), torch.zeros(2, 3), torch.ones(68, 2)),
     "uniforms"),
])
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
