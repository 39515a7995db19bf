"""The whole RHT network: what is switched on is there, learns, borrows, is kept and is used by ``align``."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from capture import assert_capturable

from facealign_lite import contours, geometry, heatmaps, markups, rht, zoo
from facealign_lite.align import align
from facealign_lite.data import Augmentation, BatchedCrops, Further, Sample
from facealign_lite.nets import HourglassConfig, StackedHourglass, parameter_count
from facealign_lite.rht.backbones import HourglassFeatures
from facealign_lite.training import TrainConfig, fit

TINY = rht.RhtConfig(landmarks=19, image_size=64, width=4, tokens=8, heads=2, layers=1, hidden=8, widths=(8, 6, 4))
FLIP = list(markups.get("68").flip)


def faces(n=6, seed=0):
    """Toy faces: a blob of its own grey on each of 19 landmarks."""
    rng, out = np.random.default_rng(seed), []
    y, x = np.mgrid[:80, :80]
    base = np.stack([20 + 10 * (np.arange(19) % 5), 20 + 10 * (np.arange(19) // 5)], -1)
    for _ in range(n):
        points = base + rng.uniform(-3, 3, (19, 2))
        image = sum((60 + 9 * k) * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 8) for k, (u, v) in enumerate(points))
        out.append(Sample(image.clip(0, 255).astype(np.uint8), points, rng.random(19) > 0.3, markup="19"))
    return out


@pytest.fixture(scope="module")
def samples():
    return faces()


@pytest.fixture(scope="module")
def references(samples):
    return rht.References.of(samples, 32)


def batch_of(data, n=3):
    return torch.utils.data.default_collate([data[i] for i in range(n)])


def run(net, batch):
    return net(*(batch[name] for name in net.inputs))


# ---- backbones -----------------------------------------------------------------------------------------------------

def test_without_places_an_encoder_layer_is_pytorchs():
    torch.manual_seed(0)
    ours, theirs = rht.EncoderLayer(16, 4, 32), torch.nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True)
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([ours.places.weight, ours.contents.weight]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([ours.places.bias, ours.contents.bias]))
    for their, our in (("self_attn.out_proj", "join"), ("linear1", "think.0"), ("linear2", "think.2"),
                       ("norm1", "norm1"), ("norm2", "norm2")):
        theirs.get_submodule(their).load_state_dict(ours.get_submodule(our).state_dict())
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(ours(x, torch.zeros(9, 16)), theirs(x), atol=1e-5, rtol=1e-5)
    with torch.device("meta"):
        assert parameter_count(rht.Encoder(256, 4, 8, 1024)) == 4 * parameter_count(
            torch.nn.TransformerEncoderLayer(256, 8, 1024))


def test_places_matter_and_are_all_different():
    torch.manual_seed(0)
    x = torch.randn(1, 8, 3, 5)
    encoder = rht.Encoder(8, 2, 2, 16).eval()
    order = torch.randperm(15)
    shuffled = encoder(x.flatten(2)[..., order].view_as(x)).flatten(2)
    assert (shuffled - encoder(x).flatten(2)[..., order]).abs().max() > 1e-3
    places = rht.sine_places((6, 9), 16)
    assert places.shape == (54, 16) and torch.cdist(places, places).add(9 * torch.eye(54)).min() > 0.05
    torch.testing.assert_close(rht.sine_places((4, 7), 8)[:7, :4], rht.sine_places((4, 2), 8)[:1, :4].expand(7, -1))
    with pytest.raises(ValueError, match="width"):
        rht.sine_places((4, 4), 6)


def test_an_hourglass_can_start_from_a_trained_one():
    trained = StackedHourglass(HourglassConfig(image_size=64, channels=8, stem=(4, 8, 8), stacks=2)).eval()
    mine = HourglassFeatures(1, 8, 2).eval().start_from(trained)
    images = torch.rand(2, 1, 64, 64) - 0.5
    with torch.no_grad():
        x = trained.stem(images)
        for hourglass, features in zip(trained.hourglasses, trained.features):
            x = x + features[0](hourglass(x))                       # as the trained one up to its last residual
        torch.testing.assert_close(mine(images), x)
    mine(images).sum().backward()
    assert {name.split(".")[0] for name, p in mine.named_parameters() if p.grad is not None} == {"stacks"}
    for stacks, width in ((1, 8), (2, 12)):
        with pytest.raises(ValueError, match="widths"):
            HourglassFeatures(1, width, stacks).start_from(trained)


@pytest.mark.parametrize("backbone, depth, heads", [("hrnet", 1, 1), ("hourglass", 2, 1)])
def test_other_backbones_meet_the_references_at_an_eighth(backbone, depth, heads, references, samples):
    config = replace(TINY, backbone=backbone, depth=depth, heads=heads)
    torch.manual_seed(0)
    net = rht.Rht(config)
    assert net.backbone(torch.rand(2, 1, 64, 64)).shape == (2, 8, 8, 8)
    assert run(net, batch_of(rht.Pairs(samples, references, size=64))).landmarks.shape == (3, 19, 32, 32)


# ---- heatmaps ------------------------------------------------------------------------------------------------------

def test_what_is_drawn_are_points_and_lines():
    points = torch.rand(2, 19, 2, dtype=torch.float64) * 40 - 4                     # some beyond the border
    maps = rht.draw(points, replace(TINY, sigma=1.3))
    torch.testing.assert_close(maps[:, :19], heatmaps.encode(points, 32, 1.3))
    for b in range(2):
        for p, chain in enumerate(markups.boundaries("19")):
            line = points[b, list(chain)]
            line = line if len(line) > 1 else line.expand(2, 2)
            torch.testing.assert_close(maps[b, 19 + p], contours.encode(line[None], 32, 1.3)[0])
    assert rht.draw(points, replace(TINY, boundaries=False)).shape == (2, 19, 32, 32)


def test_what_is_drawn_is_read():
    points = torch.rand(3, 19, 2) * 54 + 5
    maps = rht.draw(heatmaps.to_heatmap(points, 64, 32), TINY)[:, :19]
    torch.testing.assert_close(rht.read(maps, 64), points, atol=0.02, rtol=0)


# ---- the network ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", rht.ABLATION)
def test_every_row_of_the_ablation_is_a_network_that_learns(name, samples, references):
    torch.manual_seed(0)
    config = replace(TINY, **rht.ABLATION[name])
    net = rht.Rht(config)
    out = run(net, batch_of(rht.Pairs(samples, references, size=64)))
    assert out.landmarks.shape == (3, 19, 32, 32) and out.boundaries.shape == (3, 15, 32, 32)
    assert out[-1] is out.landmarks
    assert (out.moved.soft is not None) == config.soft and (out.moved.hard is not None) == config.hard
    assert len(net.fusion.fuse) == (0 if name in ("backbone", "trans") else 1 if name == "trans_stm" else 3)
    sum(rht.rht_loss(config)(out, batch_of(rht.Pairs(samples, references, size=64))).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_each_part_costs_parameters():
    with torch.device("meta"):
        counts = [parameter_count(rht.Rht(replace(rht.LITE, **switches))) for switches in rht.ABLATION.values()]
        assert sorted(counts[:4]) == counts[:4] and counts[-1] == max(counts) < 1_000_000
        assert parameter_count(rht.Rht(rht.PAPER)) > 7_000_000


def test_the_layers_of_the_fusion_can_be_had_without_a_reference(samples, references):
    """A control that the paper does not have: as deep as with a reference, and nothing to borrow from."""
    alone, trans = (rht.Rht(replace(TINY, soft=False, hard=False, multiscale=many)) for many in (True, False))
    assert alone.transformer is None and len(alone.fusion.fuse) == 3 and len(trans.fusion.fuse) == 0
    assert parameter_count(alone) - parameter_count(trans) == sum(9 * w * w + w for w in TINY.widths)
    batch = batch_of(rht.Pairs(samples, references, size=64))
    said = run(alone.eval(), batch).landmarks
    other = batch | {name: batch[name].flip(0) for name in alone.inputs if name != "image"}
    assert torch.equal(said, run(alone, other).landmarks)                       # whoever the reference is
    said.square().sum().backward()
    assert all(block.join.weight.grad.abs().max() > 0 for block in alone.fusion.fuse)


def test_matches_and_a_map_that_are_given_are_used(samples, references):
    torch.manual_seed(0)
    net, batch = rht.Rht(TINY).eval(), batch_of(rht.Pairs(samples, references, size=64))
    index, theta = torch.arange(64).flip(0).expand(3, -1), torch.eye(2, 3).expand(3, -1, -1) * 0.5
    moved = net(batch["image"], batch["reference"], batch["reference_landmarks"], index, theta).moved
    assert torch.equal(moved.index, index) and torch.equal(moved.theta, theta) and (moved.confidence == 1).all()
    assert torch.equal(moved.soft[0], moved.values[0].flip(-1, -2))
    found = run(net, batch).moved
    same = net(batch["image"], batch["reference"], batch["reference_landmarks"], None, found.theta)
    assert torch.equal(same.moved.hard[1], found.hard[1]) and torch.equal(same.moved.soft[2], found.soft[2])


def test_a_hidden_layer_of_the_head_frees_the_maps_from_the_features():
    """Maps that are linear in w features of a pixel are a matrix of rank w at most, plus a constant."""
    torch.manual_seed(0)
    for head, wanted in ((0, 4), (32, 19)):
        net = rht.Rht(replace(TINY, boundaries=False, soft=False, hard=False, head=head)).eval()
        maps = net(torch.randn(2, 1, 64, 64)).landmarks.double().movedim(1, -1).flatten(0, -2)     # (pixels, 19)
        values = torch.linalg.svdvals(maps - maps.mean(0))
        rank = int((values > 1e-5 * values[0]).sum())
        assert rank == wanted


def test_the_reference_and_its_landmarks_are_used(samples, references):
    torch.manual_seed(0)
    net, batch = rht.Rht(TINY).eval(), batch_of(rht.Pairs(samples, references, size=64))
    out = run(net, batch).landmarks
    for name in ("reference", "reference_landmarks"):
        other = batch | {name: batch[name].roll(1, 0) + 1}
        assert (run(net, other).landmarks - out).abs().max() > 1e-6
    trans = rht.Rht(replace(TINY, **rht.ABLATION["trans"]))
    assert trans.inputs == ("image",) and trans.transformer is None


def test_one_step_after_another_lowers_the_loss(samples, references):
    torch.manual_seed(0)
    net, data = rht.Rht(TINY), rht.Pairs(samples, references, size=64)
    rows = fit(net, data, rht.rht_loss(TINY), TrainConfig(30, 6, 1e-2, log_every=5, device="cpu"), progress=False)
    assert rows[-1]["heatmaps"] < 0.8 * rows[0]["heatmaps"] and {"heatmaps", "consistency", "loss"} <= set(rows[0])


def test_the_loss_is_the_sum_of_its_equations(samples, references):
    torch.manual_seed(0)
    net, batch = rht.Rht(TINY), batch_of(rht.Pairs(samples, references, size=64))
    out = run(net, batch)
    truth = rht.draw(heatmaps.to_heatmap(batch["landmarks"], 64, 32), TINY)
    for all_visible, visible in ((True, torch.ones(3, 19)), (False, batch["visibility"])):
        seven = rht.heatmap_loss(out.landmarks, truth[:, :19], visible, out.boundaries, truth[:, 19:])
        eight = [rht.consistency_loss(e, s, out.moved.confidence) for e, s in zip(out.moved.hard, out.moved.soft)]
        for printed, moving in ((True, sum(eight)), (False, eight[0] / 8)):
            found = sum(rht.rht_loss(TINY, all_visible=all_visible, printed=printed)(out, batch).values())
            torch.testing.assert_close(found, rht.overall_loss(seven, moving))
    assert set(rht.rht_loss(TINY, weight=0)(out, batch)) == {"heatmaps"}


def test_agreement_teaches_the_affine_map_and_empties_no_features(samples, references):
    torch.manual_seed(0)
    net, batch = rht.Rht(TINY), batch_of(rht.Pairs(samples, references, size=64))
    for printed in (False, True):
        net.zero_grad(set_to_none=True)
        rht.rht_loss(TINY, printed=printed)(run(net, batch), batch)["consistency"].backward()
        assert net.transformer.localization.move.weight.grad.abs().max() > 0
        taught = [p.grad is not None and bool(p.grad.abs().max() > 0) for p in net.transformer.values.parameters()]
        assert any(taught) == printed


def test_the_loss_of_flat_maps_has_finite_gradients(samples, references):
    batch = batch_of(rht.Pairs(samples, references, size=64))
    flat = [torch.zeros(3, n, 32, 32, requires_grad=True) for n in (15, 19)]
    moved = [[torch.zeros(3, 4, 8 * s, 8 * s, requires_grad=True) for s in (1, 2, 4)] for _ in range(3)]
    theta = torch.eye(2, 3).repeat(3, 1, 1).requires_grad_()
    out = rht.RhtOutput(rht.Transformed(*moved[:2], torch.zeros(3, 1, 8, 8), None, theta, moved[2]), *flat)
    for printed in (True, False):
        sum(rht.rht_loss(TINY, printed=printed)(out, batch).values()).backward()
    assert all(t.grad.isfinite().all() for t in [*flat, *moved[0], *moved[1], theta])


@pytest.mark.parametrize("wrong", [dict(landmarks=0), dict(image_size=60), dict(widths=(8, 4)), dict(patch=4),
                                   dict(backbone="vgg"), dict(heads=3), dict(sigma=0), dict(layers=-1)])
def test_a_configuration_says_what_is_wrong(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)) if "heads" not in wrong else "heads"):
        rht.RhtConfig(**wrong)


def test_the_network_says_what_is_wrong(references):
    net, image = rht.Rht(TINY), torch.zeros(2, 1, 64, 64)
    with pytest.raises(ValueError, match="image must be"):
        net(image[..., :32])
    with pytest.raises(ValueError, match="reference and landmarks"):
        net(image)
    with pytest.raises(ValueError, match="landmarks must be"):
        net(image, references.images[:2], references.landmarks[:2, :4])


@pytest.mark.parametrize("name", rht.ABLATION)
@pytest.mark.parametrize("normalized", [False, True])
def test_a_step_waits_for_nothing(name, normalized, samples, references):
    config = replace(TINY, normalized=normalized, **rht.ABLATION[name])
    net, batch = rht.Rht(config), batch_of(rht.Pairs(samples, references, size=64))
    for printed in (False, True):
        loss = rht.rht_loss(config, all_visible=False, printed=printed)
        assert_capturable(lambda loss=loss: loss(run(net, batch), batch))


@pytest.mark.parametrize("backbone", ["hrnet", "hourglass"])
def test_a_step_with_another_backbone_waits_for_nothing(backbone, samples, references):
    config = replace(TINY, backbone=backbone, depth=1, heads=1)
    net, batch = rht.Rht(config), batch_of(rht.Pairs(samples, references, size=64))
    assert_capturable(lambda: rht.rht_loss(config)(run(net, batch), batch))


def test_a_normalised_encoder_cannot_come_to_look_at_one_place_only():
    """Features, weights and places a hundred times too large: a plain encoder looks at one place, this one does not."""
    torch.manual_seed(0)
    layers = {normalized: rht.Encoder(8, 1, 2, 16, normalized).eval() for normalized in (False, True)}
    x, seen, real = 100 * torch.randn(1, 8, 6, 6), {}, torch.nn.functional.scaled_dot_product_attention
    for normalized, encoder in layers.items():
        with torch.no_grad():
            encoder.layers[0].places.weight.mul_(100)
            if normalized:
                encoder.layers[0].sharpness.fill_(50.0)                             # e^50: it ends at 100

        def look(q, k, v, scale, normalized=normalized):
            seen[normalized] = (q @ k.mT * scale).abs().max().item()
            return real(q, k, v, scale=scale)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.functional, "scaled_dot_product_attention", look)
            assert encoder(x).isfinite().all()
    assert seen[False] > 15_000 and 50 < seen[True] < 101


def test_the_shipped_file_has_the_encoder_it_was_trained_with():
    config = zoo.load("rht", "cpu").config
    assert (config.normalized, config.sigma, config.image_size, config.backbone) == (True, 3.0, 128, "hourglass")
    assert replace(config, width=rht.LITE_HG.width, tokens=rht.LITE_HG.tokens, sigma=rht.LITE_HG.sigma) == rht.LITE_HG


def test_heat_is_a_share_of_the_map():
    assert rht.LITE.sigma / rht.LITE.heatmap_size == rht.PAPER.sigma / rht.PAPER.heatmap_size == 2 / 64
    assert rht.LITE.scaled(64) == replace(rht.LITE, image_size=64, sigma=1.0)
    assert rht.LITE.scaled(64).scaled(128) == rht.LITE


def test_the_hidden_layer_on_hrnet_is_transposes():
    """TP_H of TransPose with the paper's numbers, 64 wide, 4 layers, 1 head, has 128."""
    c = rht.PAPER_H
    assert (c.tokens, c.layers, c.heads, c.hidden) == (64, 4, 1, 128) and rht.PAPER.hidden == 1024


# ---- references ----------------------------------------------------------------------------------------------------

def test_a_random_reference_is_another_every_epoch_and_the_same_again(samples, references):
    data = rht.Pairs(samples, references, size=64, augment=Augmentation(), seed=3)
    chosen = [[int(data.at(epoch, i)["chosen"]) for i in range(6)] for epoch in range(8)]
    assert chosen == [[int(data.at(epoch, i)["chosen"]) for i in range(6)] for epoch in range(8)]
    assert len({tuple(row) for row in chosen}) == 8 and set(sum(chosen, [])) == set(range(6))
    item = data.at(2, 1)
    assert torch.equal(item["reference"], references.images[chosen[2][1]])
    assert torch.equal(item["reference_landmarks"], references.landmarks[chosen[2][1]])


def test_batches_are_lent_random_references(samples, references):
    made = Further(BatchedCrops(samples, 64), 1, rht.Lender(references))
    drawn = made.draws([(epoch, i) for epoch in range(30) for i in range(6)])
    batch = made.batch(drawn)
    chosen = batch["chosen"]
    assert torch.equal(chosen, (drawn["chance"][:, 0] * 6).long()) and set(chosen.tolist()) == set(range(6))
    assert torch.equal(batch["reference"], references.images[chosen])
    assert torch.equal(batch["reference_landmarks"], references.landmarks[chosen])
    net, few = rht.Rht(TINY), made.draws([(0, i) for i in range(3)])
    assert_capturable(lambda: rht.rht_loss(TINY)(run(net, made.batch(few)), made.batch(few)))


def test_a_chosen_reference_stays(samples, references):
    data = rht.Pairs(samples, references, [5, 4, 3, 2, 1, 0], size=64)
    assert [int(data.at(7, i)["chosen"]) for i in range(6)] == [5, 4, 3, 2, 1, 0]
    with pytest.raises(ValueError, match="choice"):
        rht.Pairs(samples, references, [0, 1], size=64)
    with pytest.raises(ValueError, match="choice"):
        rht.Pairs(samples, references, [6] * 6, size=64)
    with pytest.raises(ValueError, match="references"):
        rht.Pairs(samples, references, size=128)


def test_references_keep_their_places_when_resized(references):
    large = references.resized(64)
    assert large.images.shape == (6, 1, 64, 64)
    torch.testing.assert_close(heatmaps.to_heatmap(large.landmarks, 64, 32), references.landmarks)
    for image, points in zip(large.images[:, 0], large.landmarks):                  # a blob lies on each landmark
        at = points.round().long()
        assert (image[at[:, 1], at[:, 0]] > image.median()).all()
    assert len(references[[1, 1, 4]]) == 3 and torch.equal(references[4].landmarks[0], references.landmarks[4])


def test_other_references(references):
    mean, wrong, coarse = references.mean_shape(), references.wrong(), references.degraded(8)
    torch.testing.assert_close(mean.landmarks[0], references.landmarks.mean(0))
    assert mean.images.abs().max() == 0 and len(mean) == 1
    assert torch.equal(wrong.images, references.images)
    assert (wrong.landmarks != references.landmarks).flatten(1).any(1).all()
    assert torch.equal(coarse.landmarks, references.landmarks)
    assert (coarse.images.diff(dim=-1).abs().mean() < 0.7 * references.images.diff(dim=-1).abs().mean())
    with pytest.raises(ValueError, match="landmarks"):
        rht.References(references.images, references.landmarks[:2])


def test_the_ways_to_choose(samples, references):
    bank = references.bank(keypoints=24, words=100, shortlist=6)
    assert rht.choose("most", samples, bank).tolist() == [0, 1, 2, 3, 4, 5]         # each is most like itself
    assert all(a != b for a, b in enumerate(rht.choose("least", samples, bank)))
    assert set(rht.choose("neutral", samples, bank)) == {bank.neutral()}
    assert rht.choose("random", samples * 9, bank, 1).tolist() == rht.choose("random", samples * 9, bank, 1).tolist()
    assert len(set(rht.choose("random", samples * 9, bank, 1))) > 3
    with pytest.raises(ValueError, match="way must be"):
        rht.choose("best", samples, bank)


def test_the_shipped_faces_are_few_small_and_annotated():
    faces = rht.References.shipped()
    assert 24 <= len(faces) <= 48 and faces.images.shape[1:] == (1, 128, 128)
    assert rht.references.SHIPPED.stat().st_size < 500_000
    assert (faces.landmarks > 0).all() and (faces.landmarks < 127).all() and faces.images.std((1, 2, 3)).min() > 0.05
    eyes = faces.landmarks[:, [36, 45]]
    assert (eyes[:, 1, 0] > eyes[:, 0, 0]).all()                                    # upright, names not mirrored
    bank = faces.bank()
    assert [bank.most_correlated(rht.as_picture(image)) for image in faces.images[::6]] == \
        list(range(0, len(faces), 6))


def test_heat_is_read_in_crop_pixels_with_its_mirror_image():
    net = rht.Rht(replace(TINY, landmarks=68))
    points = torch.rand(2, 68, 2, generator=torch.Generator().manual_seed(0)) * 54 + 5
    heat = rht.draw(heatmaps.to_heatmap(points, 64, 32), net.config)[:, :68]
    out = rht.RhtOutput(None, None, torch.cat([heat, 0.5 * heat.flip(-1)[:, FLIP]]))
    alone, both = net.read(rht.RhtOutput(None, None, heat)), net.read(out, mirrored=True)
    torch.testing.assert_close(alone.points, points, atol=0.02, rtol=0)
    torch.testing.assert_close(alone.points, rht.read(heat, 64))
    torch.testing.assert_close(both.points, points, atol=0.02, rtol=0)
    torch.testing.assert_close(alone.scores, heat.amax((-2, -1)))
    torch.testing.assert_close(both.scores, 0.75 * alone.scores)


def test_a_crop_is_lent_the_shipped_face_most_like_it():
    shipped = rht.References.shipped()
    for size in (64, 128):                            # a crop of a shipped face is most like that face, small or not
        net = rht.Rht(replace(TINY, landmarks=68, image_size=size))
        own = [3, 11, 20]
        faces, points = net.lend(shipped.resized(size)[own].images)
        lent = shipped.resized(size // 2)[own]
        assert torch.equal(faces, lent.images) and torch.equal(points, lent.landmarks)
        assert net(shipped.resized(size)[own].images, faces, points).landmarks.shape == (3, 68, size // 2, size // 2)
    with pytest.raises(ValueError, match="19 landmarks"):
        rht.Rht(TINY).lend(torch.zeros(1, 1, 64, 64))
    with pytest.raises(ValueError, match="borrows"):
        rht.Rht(replace(TINY, **rht.ABLATION["trans"])).lend(torch.zeros(1, 1, 64, 64))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_given_face_is_lent_to_all_upright_with_its_landmarks_in_place(channels):
    net = rht.Rht(replace(TINY, landmarks=68, image_size=128, in_channels=channels))
    face = rht.References.shipped()
    photo, points = rht.as_picture(face.images[4]), face.landmarks[4].double().numpy()
    turn = geometry.similarity(1.0, 0.5, (40, -10))
    turned = cv2.warpAffine(photo, turn, (128, 128))
    there = geometry.transform(points, turn)
    faces, landmarks = net.lend(torch.zeros(3, channels, 128, 128), (turned, there))
    assert faces.shape == (3, channels, 64, 64) and torch.equal(faces[0], faces[2])
    eyes = landmarks[0, [36, 45]]
    assert eyes[0, 0] < eyes[1, 0] and (landmarks > 0).all() and (landmarks < 64).all()
    assert (eyes[0, 1] - eyes[1, 1]).abs() < 1e-3                                   # the outer corners lie level
    plain = net.lend(torch.zeros(1, channels, 128, 128), (photo, points))
    torch.testing.assert_close(plain[1][0], landmarks[0], atol=1e-3, rtol=0)        # turned or not, the same crop
    assert (plain[0][0] - faces[0]).abs().median() < 0.05
    for wrong in (there[:4], np.full((68, 2), np.nan)):
        with pytest.raises(ValueError, match=r"landmarks \(68, 2\)"):
            net.lend(torch.zeros(1, channels, 128, 128), (turned, wrong))


# ---- kept and used -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change", [{}, {"backbone": "hrnet", "heads": 1}, {"backbone": "hourglass", "depth": 1},
                                    rht.ABLATION["trans"]])
def test_a_network_comes_back_from_its_file(change, tmp_path, samples, references):
    torch.manual_seed(0)
    net = rht.Rht(replace(TINY, **change)).eval()
    found, _ = zoo.read(zoo.save(net, tmp_path / "a.safetensors", half=False))
    batch = batch_of(rht.Pairs(samples, references, size=64))
    assert found.config == net.config
    torch.testing.assert_close(run(found, batch).landmarks, run(net, batch).landmarks)


class Oracle(rht.Rht):
    """Knows colours: a landmark is where the target has the colour that the reference has at its landmark.

    The faces below are painted alike on both sides, as a mirror wants it, so it looks on that side of the crop only.
    """

    def forward(self, image, reference, landmarks):
        wanted = torch.nn.functional.grid_sample(reference, (2 * landmarks[:, None] + 1) / 64 - 1,
                                                 align_corners=False)[:, :, 0]                    # (B, 3, K)
        apart = torch.cdist(wanted.mT, image.flatten(2).mT).unflatten(-1, (128, 128))             # (B, K, H, W)
        left, x = landmarks[..., 0] < 31.5, torch.arange(128) < 63.5
        apart = torch.where(left[..., None, None] == x, apart, torch.inf)
        at = apart.flatten(2).argmin(-1)
        points = torch.stack([at % 128, at // 128], -1).float()
        return rht.RhtOutput(None, None, rht.draw(heatmaps.to_heatmap(points, 128, 64), self.config)[:, :68])


def painted(shape, size=200):
    """A photo whose colours say where on the face a pixel lies, and how far from its middle line."""
    middle, unit = shape.mean(0), np.ptp(shape, axis=0).max() / 100
    y, x = np.mgrid[:size, :size]
    u, v = np.abs(x - middle[0]) / unit, (y - middle[1]) / unit
    return np.stack([2.2 * u, 1.2 * v + 120, 0 * u], -1).round().clip(0, 255).astype(np.uint8)


def test_an_oracle_that_only_compares_with_the_reference_finds_every_landmark():
    mean = rht.References.shipped().landmarks.double().mean(0).numpy()
    mirrored = mean[FLIP] * [-1, 1] + [127, 0]
    shape = (mean + mirrored) / 2
    shape = shape + np.where(np.abs(shape - 63.5) < 0.5, 1.0, 0) * [1, 0]           # none on the seam of both sides
    target = geometry.transform(shape, geometry.similarity(0.9, 0.0, (40.0, 35.0)))
    lender = geometry.transform(shape, geometry.similarity(1.1, 0.0, (20.0, 25.0)))
    box = [*target.min(0), *target.max(0)]
    oracle = Oracle(rht.RhtConfig(in_channels=3))
    found = align(painted(target), box, oracle, "cpu", (painted(lender), lender))
    outer = np.abs(shape[:, 0] - 63.5) > 4                                          # the middle's own colours are level
    assert outer.sum() > 45 and np.linalg.norm(found.landmarks - target, axis=1)[outer].max() < 2
    assert found.scores.shape == (68,) and (found.scores > 0.7).all()
    moved = lender.copy()
    moved[36:48, 1] += 12                                                           # a reference that says otherwise
    other = align(painted(target), box, oracle, "cpu", (painted(lender), moved)).landmarks
    np.testing.assert_allclose((other - found.landmarks)[36:48, 1], 12 * 0.9 / 1.1, atol=2)


def test_align_borrows_from_the_shipped_faces_or_from_the_given_one():
    torch.manual_seed(0)
    net, face = rht.Rht(), rht.References.shipped()
    torch.nn.init.normal_(net.head[-1].weight)
    photo, points = rht.as_picture(face.images[0]), face.landmarks[0].double().numpy()
    box = [*points.min(0), *points.max(0)]
    own = align(photo, box, net, "cpu")
    assert own.landmarks.shape == (68, 2) and np.isfinite(own.landmarks).all()
    given = align(photo, box, net, "cpu", (rht.as_picture(face.images[9]), face.landmarks[9].numpy()))
    assert not np.allclose(own.landmarks, given.landmarks)
    trans = rht.Rht(replace(rht.LITE, **rht.ABLATION["trans"]))
    assert align(photo, box, trans, "cpu").landmarks.shape == (68, 2)
    with pytest.raises(ValueError, match="borrows from none"):
        align(photo, box, trans, "cpu", (photo, points))
    with pytest.raises(ValueError, match="borrows from none"):
        align(photo, box, "hourglass", "cpu", (photo, points))
    with pytest.raises(ValueError, match=r"landmarks \(68, 2\)"):
        align(photo, box, net, "cpu", (photo, points[:4]))
