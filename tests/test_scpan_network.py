"""SCPAN's network, its pairs and its objective as a whole."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from capture import assert_capturable
from safetensors.torch import save_file

from facealign_lite import heatmaps, markups, nets, scpan, zoo
from facealign_lite.data import BatchedCrops, Crops, Further, Halves, Sample
from facealign_lite.evaluation import evaluate
from facealign_lite.scpan import Maps, Pairs, Scpan, ScpanConfig, Twins, Weights, read, scpan_loss
from facealign_lite.training import TrainConfig, fit

TINY = ScpanConfig(image_size=32, channels=8, stages=2, depth=1, stem=(4, 4, 8))
ARMS = {"SHN": {"bali": False, "attention": False}, "SHN+BALI": {"attention": False}, "SHN+SCPA": {"bali": False},
        "SCPAN": {}}
BOUNDARIES, BOUNDARY_FLIP = scpan.boundaries_of("68")
FLIP = markups.get("68").flip


def samples(count=3, size=40):
    """Faces of noise with landmarks on an arc and rows: no two in one place."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.linspace(5, 34, 17), np.linspace(8, 30, 4)), -1).reshape(-1, 2)
    return [Sample(rng.integers(0, 256, (size, size), np.uint8), grid + rng.uniform(-0.4, 0.4, (68, 2)))
            for _ in range(count)]


def batch_of(pairs, count):
    return torch.utils.data.default_collate([pairs[i] for i in range(count)])


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_one_network_with_parts_left_out(name):
    config = replace(TINY, **ARMS[name])
    said = Scpan(config)(torch.randn(2, 1, 32, 32))
    count = 13 if config.bali else 0
    assert [h.shape for h in said.heatmaps] == [(2, 68, 8, 8), (2, 68, 16, 16)]
    assert [c.shape for c in said.confidences] == [(2, count, 8, 8), (2, count, 16, 16)]
    assert said.offsets.shape == (2, count, 2, 16, 16)
    for maps in (*said.heatmaps, *said.confidences):
        assert (maps >= 0).all()
        torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(2, maps.shape[1]))
    has = {type(module).__name__ for module in Scpan(config).modules()}
    assert ("PoseAttention" in has) == config.attention and ("Features" in has) != config.attention


def test_counts_at_paper_size_and_what_the_reported_ones_tell():
    def count(**changes):
        with torch.device("meta"):
            return nets.parameter_count(Scpan(replace(scpan.PAPER, **changes))) / 1e6
    ours = [count(), count(bali=False, attention=False), count(stages=2)]
    reported = [16.99, 16.05, 8.73]
    assert [round(n, 2) for n in ours] == [15.71, 15.3, 7.96]
    assert all(0.9 < mine / theirs < 1 for mine, theirs in zip(ours, reported))
    assert round(count(depth=4), 2) == 13.14
    with torch.device("meta"):
        residual = nets.parameter_count(nets.Residual(256, 256)) / 1e6
        hourglass = nets.parameter_count(nets.Hourglass(5, 256)) / 1e6
    head = (256 * 81 + 81 + 2 * 256) / 1e6
    assert (ours[0] - ours[2]) / 2 == pytest.approx(hourglass + 2 * residual + head)
    missing = (reported[0] - reported[2]) / 2 - (ours[0] - ours[2]) / 2
    assert 1.1 < missing / residual < 1.3
    # the "model sizes" of the paper, in mebibytes: weights and two moments of Adam, four bytes each
    assert [round(n * 12e6 / 2**20) for n in reported] == [194, 184, 100]


def test_boundaries_cost_nothing_but_their_heads():
    def count(**changes):
        return nets.parameter_count(Scpan(replace(TINY, **changes)))
    earlier, last = 13 * (8 + 1), 39 * (4 + 1)
    assert count() - count(bali=False) == earlier + last
    assert count(attention=False) - count(bali=False, attention=False) == earlier + 13 * 8 + last    # and a way back


def test_the_attended_features_are_what_the_next_stage_sees():
    torch.manual_seed(0)
    model = Scpan(TINY).eval()
    images = torch.randn(1, 1, 32, 32)
    seen = []
    model.hourglasses[1].register_forward_hook(lambda module, given, out: seen.append(given[0]))
    model(images)
    with torch.no_grad():
        q = model.hourglasses[0](model.to_4(model.to_2(images)))
        mask = model.between[0].second(model.between[0].first(q)).sigmoid()
    torch.testing.assert_close(seen[0], mask * q + q)                           # Eq. 10
    with torch.no_grad():
        [said] = model.masks(images)
    torch.testing.assert_close(said, mask)


def test_a_mask_of_the_maps_sees_the_image_through_them_alone():
    """Change a head, and the mask changes; with the mask of the features behind them it does not."""
    images = torch.randn(1, 1, 32, 32)
    for made_of in ("features", "maps"):
        torch.manual_seed(0)
        model = Scpan(replace(TINY, mask=made_of)).eval()
        with torch.no_grad():
            [before] = model.masks(images)
            said, count = model(images), model.between[0].second.branch[0].num_features
            model.heads[0][2].weight += 1
            [after] = model.masks(images)
        assert count == {"features": 8, "maps": 68 + 13}[made_of] and before.shape == (1, 8, 8, 8)
        assert torch.equal(before, after) == (made_of == "features")
        assert said.heatmaps[0].shape == (1, 68, 8, 8) and ((before > 0) & (before < 1)).all()
        batch = batch_of(Pairs(Crops(samples(), 32)), 2)
        sum(scpan_loss(model.config, labelled_count=2)(model.train()(batch["image"]), batch).values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_pairs_go_through_side_by_side():
    torch.manual_seed(0)
    model, pairs = Scpan(TINY).eval(), torch.randn(3, 2, 1, 32, 32)
    both, pictures, twins = model(pairs), model(pairs[:, 0]), model(pairs[:, 1])
    torch.testing.assert_close(both.offsets[0::2], pictures.offsets)
    torch.testing.assert_close(both.heatmaps[-1][1::2], twins.heatmaps[-1])


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 1, 36, 32), (1, 32, 32)])
def test_the_network_refuses_other_images(shape):
    with pytest.raises(ValueError, match="images must be"):
        Scpan(TINY)(torch.zeros(shape))


@pytest.mark.parametrize("change, words", [({"stages": 0}, "stages"), ({"image_size": 36}, "image_size"),
                                           ({"mask": "heat"}, "mask"),
                                           ({"stem": (4, 8)}, "stem"), ({"stem": (4, 4, 4)}, "stem"),
                                           ({"reading": "guess"}, "reading"), ({"radius": 0}, "radius"),
                                           ({"sigma": None}, "sigma"), ({"reach": -1.0}, "reach")])
def test_the_configuration_refuses(change, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **change)


# ---- pairs (Algorithm 1) ---------------------------------------------------------------------------------------------

def test_a_pair_is_a_crop_and_what_the_disturbance_makes_of_it():
    crops = Crops(samples(), 32)
    pairs = Pairs(crops, seed=5)
    assert len(pairs) == 3
    for i in range(3):
        item = pairs.at(2, i)
        assert torch.equal(item["image"][0], crops[i]["image"]) and item["labelled"] == 1
        torch.testing.assert_close(item["landmarks"][0], crops[i]["landmarks"])
        moved = scpan.move_points(crops[i]["landmarks"][None], item["linear"][None], 32, FLIP)[0]
        torch.testing.assert_close(item["landmarks"][1], moved)
        again, other = pairs.at(2, i), pairs.at(3, i)
        assert torch.equal(item["image"], again["image"]) and not torch.equal(item["linear"], other["linear"])
    assert not torch.equal(pairs[0]["linear"], Pairs(crops, seed=6)[0]["linear"])


def test_unlabelled_crops_keep_their_labels_to_themselves():
    few, many = Crops(samples(2), 32, seed=1), Crops(samples(5), 32, seed=2)
    pairs = Pairs(few, many)
    assert len(pairs) == 10
    items = list(pairs)                                                         # ends by itself
    assert len(items) == 10
    assert [float(item["labelled"]) for item in items] == [1, 0] * 5
    assert all(item["landmarks"].isnan().all() == (item["labelled"] == 0) for item in items)
    shown = [next(k for k in range(5) if torch.equal(item["image"][0], many[k]["image"])) for item in items[1::2]]
    assert shown == list(range(5))
    assert torch.equal(items[4]["image"][0], few[0]["image"])                   # the smaller part starts anew


def test_pairs_of_batches_are_crops_and_what_given_numbers_make_of_them():
    first, second = (BatchedCrops(samples(n), 32, seed=n) for n in (2, 3))
    twins = Twins(turn=30, scale=(0.8, 1), shift=0.1, unlabelled="other")
    both = Halves(first, second, "other")
    made = Further(both, twins.count, twins)
    drawn = made.draws([(0, 0), (0, 1), (1, 2)])
    batch, plain = made.batch(drawn), both.batch({k[5:]: v for k, v in drawn.items() if k.startswith("data.")})
    assert batch["image"].shape == (6, 2, 1, 32, 32) and batch["labelled"].tolist() == [1, 1, 1, 0, 0, 0]
    assert torch.equal(batch["image"][:, 0], plain["image"]) and batch["linear"].shape == (6, 2, 3)
    moved = scpan.move_points(plain["landmarks"], batch["linear"], 32, FLIP)
    torch.testing.assert_close(batch["landmarks"][:3], torch.stack([plain["landmarks"], moved], 1)[:3])
    assert batch["landmarks"][3:].isnan().all()
    assert len({tuple(row.flatten().tolist()) for row in batch["linear"]}) == 6      # none is drawn for two
    where = scpan.move_images(plain["image"], batch["linear"])
    assert 0.2 < (batch["image"][:, 1] == where).double().mean() < 1                 # texture apart
    model, loss = Scpan(TINY), scpan_loss(TINY, labelled_count=3)
    assert_capturable(lambda: loss(model(made.batch(drawn)["image"]), made.batch(drawn)))
    alone = Twins()
    batch = Further(first, alone.count, alone).batch(Further(first, alone.count, alone).draws([(0, 0), (0, 1)]))
    assert batch["image"].shape == (2, 2, 1, 32, 32) and batch["labelled"].tolist() == [1, 1]


# ---- the objective ---------------------------------------------------------------------------------------------------

def answer(config, batch, seed=0):
    torch.manual_seed(seed)
    return Scpan(config)(batch["image"])


def test_the_loss_of_labelled_pairs_is_the_overall_loss():
    batch = batch_of(Pairs(Crops(samples(), 32)), 3)
    said = answer(TINY, batch)
    pair = [Maps([h[k::2] for h in said.heatmaps], [c[k::2] for c in said.confidences], said.offsets[k::2])
            for k in (0, 1)]
    truths = [scpan.truth(batch["landmarks"][:, k], 32, (8, 16), BOUNDARIES, 1.2, 3) for k in (0, 1)]
    wanted = scpan.overall_loss(pair, truths, BOUNDARIES, batch["linear"], FLIP, BOUNDARY_FLIP, radius=3, reach=2.0,
                                sigma=1.2, within=4.0, decode_radius=2)
    changes = {"sigma": 1.2, "radius": 3, "reach": 2.0, "within": 4.0, "decode_radius": 1.6}
    for loss in (scpan_loss(TINY, **changes), scpan_loss(replace(TINY, **changes))):
        found = loss(said, batch)
        assert found.keys() == wanted.keys() | {"unlabelled"} and found["unlabelled"] == 0
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name])
    assert scpan_loss(TINY, labelled_count=3)(said, batch).keys() == wanted.keys()


def test_unlabelled_pairs_add_self_calibration_and_nothing_else():
    pairs = Pairs(Crops(samples(2), 32), Crops(samples(4), 32, seed=9))
    batch = batch_of(pairs, 8)
    said, loss = answer(TINY, batch), scpan_loss(TINY, unlabelled=3.0)
    odd = {name: value[1::2] for name, value in batch.items()}
    rows = torch.tensor([2, 3, 6, 7, 10, 11, 14, 15])
    def some(rows):
        return Maps([h[rows] for h in said.heatmaps], [c[rows] for c in said.confidences], said.offsets[rows])
    alone, both = loss(some(rows), odd), loss(said, batch)
    names = {"last", "earlier", "field", "coordinates", "calibrated", "unlabelled"}
    assert alone.keys() == both.keys() == names
    assert all(alone[name] == 0 for name in names - {"unlabelled"})
    assert scpan_loss(TINY, labelled_count=0)(some(rows), odd).keys() == {"unlabelled"}
    torch.testing.assert_close(both["unlabelled"], alone["unlabelled"])
    a, b = (Maps([h[k::2][1::2] for h in said.heatmaps], [c[k::2][1::2] for c in said.confidences], said.offsets)
            for k in (0, 1))
    stages = scpan.self_calibrated_divergence(a, b, odd["linear"], FLIP, BOUNDARY_FLIP, TINY.sigma)
    torch.testing.assert_close(alone["unlabelled"], 3 * stages[0])


def test_halves_of_a_fixed_size_are_the_labelled_pairs_then_the_others():
    batch = batch_of(Pairs(Crops(samples(2), 32), Crops(samples(4), 32, seed=9)), 6)
    order = [0, 2, 4, 1, 3, 5]
    halves = {name: value[order] for name, value in batch.items()}
    said = answer(TINY, halves)
    fixed, named = scpan_loss(TINY, labelled_count=3)(said, halves), scpan_loss(TINY)(said, halves)
    assert fixed.keys() == named.keys()
    for name, value in fixed.items():
        torch.testing.assert_close(value, named[name])
    with pytest.raises(ValueError, match="labelled_count"):
        scpan_loss(TINY, labelled_count=-1)


def test_a_labelled_picture_without_landmarks_is_no_secret():
    batch = batch_of(Pairs(Crops(samples(2), 32)), 2)
    batch["landmarks"][1, 0, 7] = torch.nan
    assert sum(scpan_loss(TINY)(answer(TINY, batch), batch).values()).isnan()


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("count", [None, 2])
def test_a_step_waits_for_nothing(name, count):
    config = replace(TINY, **ARMS[name])
    batch = batch_of(Pairs(Crops(samples(2), 32), Crops(samples(2), 32), shift=0.1), 4)
    batch = {key: value[[0, 2, 1, 3]] for key, value in batch.items()}
    model, loss = Scpan(config), scpan_loss(config, labelled_count=count)
    assert_capturable(lambda: loss(model(batch["image"]), batch))


@pytest.mark.parametrize("name", ARMS)
def test_a_few_steps_lower_the_loss_and_move_every_weight(name):
    config = replace(TINY, **ARMS[name])
    pairs = Pairs(Crops(samples(2), 32), Crops(samples(2), 32))
    torch.manual_seed(0)
    model = Scpan(config)
    before = {key: value.clone() for key, value in model.named_parameters()}
    weights = replace(scpan.WEIGHTS, calibrated=4.0 if config.attention else 0.0)
    run = TrainConfig(12, 4, 1e-2, warmup=0, amp="off", device="cpu", log_every=1)
    rows = fit(model, pairs, scpan_loss(config, weights), run, progress=False)
    first, last = (sum(row[name] for name in ("last", "earlier")) for row in (rows[0], rows[-1]))
    assert last < 0.97 * first
    if not config.bali:
        assert rows[0]["field"] == 0
    assert all(not torch.equal(value, before[key]) for key, value in model.named_parameters())


@pytest.mark.parametrize("value", [0.0, -30.0, 30.0])
def test_flat_heads_have_finite_gradients(value):
    batch = batch_of(Pairs(Crops(samples(2), 32), Crops(samples(2), 32)), 4)
    model = Scpan(TINY)
    for head in (model.heads[0][-1], model.out[-1][-1]):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, value)
    sum(scpan_loss(TINY)(model(batch["image"]), batch).values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_landmarks_read_from_a_wrong_place_teach_nothing():
    points = torch.tensor([[[3.0, 4.0], [30.0, 30.0]]], requires_grad=True)
    target = torch.tensor([[[5.0, 4.0], [20.0, 30.0]]])
    scpan.coordinate_loss(points, target, 40, within=5.0).backward()
    assert (points.grad[0, 0] != 0).any() and (points.grad[0, 1] == 0).all()
    assert scpan.coordinate_loss(points.detach(), target, 40).item() == pytest.approx((2 / 40) ** 2 + (10 / 40) ** 2)


def test_peaks_blurred_again_make_a_scaled_twin_agree():
    points = torch.rand(1, 68, 2, generator=torch.Generator().manual_seed(0)) * 16 + 24
    linear = scpan.linear_map(torch.tensor([0.3]), torch.tensor([0.6]), torch.tensor([False]))
    heat = heatmaps.encode(points, 64, 2.0)
    twin = heatmaps.encode(scpan.move_points(points, linear, 64, FLIP), 64, 2.0)
    narrow, blurred = (scpan.self_calibrated_loss(heat, twin, linear, FLIP, scpan.divergence, sigma) / 68
                       for sigma in (None, 2.0))
    assert blurred < 1e-3 and narrow > 0.05


def test_alone_calibration_is_content_with_all_landmarks_in_the_middle():
    """What turns and mirrors leave alone needs no face: Eq. 20 needs the labels of some pictures."""
    middle = heatmaps.encode(torch.full((4, 68, 2), 15.5), 32, 1.5)
    lids = middle[:, :13]
    lazy = Maps([middle, middle], [lids, lids], torch.zeros(4, 13, 2, 32, 32))
    linear = scpan.draw_linear(4, torch.Generator().manual_seed(1))
    cost = scpan.semi_supervised_loss({}, [lazy, lazy], linear, FLIP, BOUNDARY_FLIP, 1.5)["unlabelled"]
    elsewhere = heatmaps.encode(torch.full((4, 68, 2), 8.0), 32, 1.5)
    stuck = Maps([elsewhere, middle], [lids, lids], lazy.offsets)
    assert cost / 81 < 1e-3
    assert scpan.semi_supervised_loss({}, [stuck, stuck], linear, FLIP, BOUNDARY_FLIP, 1.5)["unlabelled"] / 68 > 0.3


# ---- reading ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("reach, worst", [(None, 1.3), (1.5, 0.7), (1.0, 0.4)])
def test_a_perfect_answer_is_read(reach, worst):
    points = torch.tensor(np.stack([s.landmarks for s in samples(2)])) * 3
    true = scpan.truth(points, 128, (32, 64), BOUNDARIES)
    heat = [h / h.sum((-2, -1), keepdim=True) for h in true.maps.heatmaps]
    found, sure = read(true.maps._replace(heatmaps=heat), replace(ScpanConfig(), reach=reach))
    error = (found - true.points).norm(dim=-1)
    assert error.max() < worst and error.mean() < worst / 3
    assert ((sure > 0.3) & (sure < 0.7)).all()                                  # of a Gaussian of 1.5, 3 x 3 pixels


def test_one_arm_reads_without_vectors():
    config = ScpanConfig(bali=False)
    points = torch.tensor(samples(1)[0].landmarks)[None] * 3
    true = scpan.truth(points, 128, (32, 64), ())
    found, _ = read(true.maps, config)
    assert (found - true.points).norm(dim=-1).max() < 0.25                      # the centre of mass within the window


WAYS = ("votes", "window", "soft_argmax", "printed")


def random_maps(seed=0, batch=4, size=16):
    torch.manual_seed(seed)
    heat = torch.randn(batch, 68, size, size).mul(3).flatten(2).softmax(-1).unflatten(-1, (size, size))
    return Maps([heat], [heat[:, :13]], 2 * torch.randn(batch, 13, 2, size, size))


def test_the_configuration_says_how_maps_are_read():
    said = random_maps()
    heat, arrows = said.heatmaps[-1], scpan.landmark_offsets(said.offsets, BOUNDARIES, 68)
    wanted = {"votes": scpan.decode_bali(heat, arrows, 2, 1.5), "window": scpan.decode_bali(heat, 0 * arrows, 2),
              "soft_argmax": heatmaps.decode(heat.log(), "soft_argmax"), "printed": scpan.decode_bali(heat, arrows, 2)}
    for way in WAYS:
        model = Scpan(replace(TINY, reading=way, decode_radius=1.7))
        found = model.read(said)
        torch.testing.assert_close(found.points, heatmaps.to_image(wanted[way], 16, 32))
        torch.testing.assert_close(found.scores, heatmaps.peak(heat.log()))
        torch.testing.assert_close(read(said, model.config)[0], wanted[way])
    assert Scpan.inputs == ("image",)


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_and_its_mirror_image_are_read_as_one(way):
    """The second half is the first in a mirror, so both say the same."""
    said = random_maps(batch=2)
    heat, arrows = said.heatmaps[-1], said.offsets
    back = arrows.flip(-1)[:, list(BOUNDARY_FLIP)] * torch.tensor([-1.0, 1.0]).view(1, 1, 2, 1, 1)
    both = Maps([torch.cat([heat, heat.flip(-1)[:, list(FLIP)]])], said.confidences, torch.cat([arrows, back]))
    model = Scpan(replace(TINY, reading=way))
    alone, together = model.read(said), model.read(both, mirrored=True)
    torch.testing.assert_close(together.points, alone.points, atol=1e-4, rtol=0)
    torch.testing.assert_close(together.scores, alone.scores)


def test_lengths_are_shares_of_the_map():
    lengths = ("radius", "decode_radius", "sigma")
    def shares(config):
        return [getattr(config, name) / config.heatmap_size for name in lengths]
    assert shares(scpan.PAPER) == [5 / 128, 3 / 128, 3 / 128]                    # 11 x 11 and 7 x 7 of 128 x 128
    assert (scpan.PAPER.square, scpan.PAPER.window) == (5, 3)
    assert shares(scpan.LITE) == shares(scpan.PAPER) and scpan.LITE.sigmas[0] / 32 == scpan.PAPER.sigmas[0] / 64
    small = scpan.LITE.scaled(64)
    assert small.image_size == 64 and shares(small) == shares(scpan.PAPER) and small.scaled(128) == scpan.LITE
    assert (small.reach, small.within, small.sigma_earlier) == (0.75, 1.25, 0.375)
    assert (small.square, small.window) == (1, 1) and (scpan.LITE.square, scpan.LITE.window) == (3, 2)
    assert scpan.PAPER.scaled(128).reach is None and scpan.LITE.sigmas == (0.75, 0.75, 0.75, 1.5)


def test_old_files_are_read_as_they_were_trained(tmp_path):
    """Files written before lengths were in the configuration: R 5, r 3, sigma 1.5 on maps of any size."""
    model, path = Scpan(ScpanConfig(image_size=64, stages=2)), tmp_path / "old.safetensors"
    fields = {name: getattr(model.config, name) for name in ("landmarks", "image_size", "in_channels", "channels",
                                                             "stages", "depth", "stem", "bali", "attention")}
    metadata = {"format": zoo.FORMAT, "architecture": "Scpan", "config": json.dumps(fields)}
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path, metadata)
    config = zoo.read(path)[0].config
    assert (config.image_size, config.reading, config.square, config.window, config.reach, config.within) == (
        64, "votes", 5, 3, 1.5, 5)
    assert config.sigmas == (1.5, 1.5)


def test_weights_of_the_loss_are_the_papers():
    assert Weights() == Weights(last=1, field=16, coordinates=40, earlier=4, calibrated=4)


def test_evaluation_reads_votes():
    faces = samples(2)
    true = scpan.truth(torch.tensor(np.stack([crop["landmarks"] for crop in Crops(faces, 128)])), 128, (32, 64),
                       BOUNDARIES)

    class Knows(Scpan):
        def forward(self, images):
            return true.maps
    found = evaluate(Knows(replace(TINY, image_size=128)), faces, device="cpu")
    assert found.predicted.shape == (2, 68, 2) and 0 < found.errors.mean() < 0.02
