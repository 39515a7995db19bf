"""TAB: boundary maps against brute force, the two networks against their equations, and what each loss reaches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from capture import assert_capturable
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.interpolate import CubicHermiteSpline

from facealign_lite import geometry, markups, tab, zoo
from facealign_lite.align import align
from facealign_lite.data import MARGIN, crop_matrix, upright_matrix
from facealign_lite.nets import Hierarchical, parameter_count
from facealign_lite.training import TrainConfig, fit

MARKUPS = ("98", "68", "36", "29", "19")


def face(markup, size=32, seed=0, spread=1.0):
    """Landmarks anywhere about a map."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(-0.5, size - 0.5, (markups.get(markup).count, 2)) - size / 2) * spread + size / 2


# ---- curves --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("markup", MARKUPS)
def test_fifteen_boundaries_of_every_markup(markup):
    chains, table = markups.boundaries(markup), markups.get(markup)
    assert len(chains) == len(markups.BOUNDARIES) == 15
    for name, chain in zip(markups.BOUNDARIES, chains):
        assert len(set(chain)) == len(chain) >= 1 and set(chain) <= set(range(table.count))
        if name in table.curves:
            assert chain == table.curves[name]
    for chain, mirror in zip(chains, markups.BOUNDARY_FLIP):            # in the mirror a boundary is its twin
        assert {table.flip[k] for k in chain} == set(chains[mirror])


def test_boundaries_pass_nearly_all_landmarks():
    missing = {m: set(range(markups.get(m).count)) - {k for chain in markups.boundaries(m) for k in chain}
               for m in MARKUPS}
    assert missing == {"98": {96, 97}, "68": set(), "36": set(), "29": {16, 17}, "19": set()}     # pupils
    for m in ("194", "17"):
        with pytest.raises(ValueError, match="markup must be one of"):
            markups.boundaries(m)


@given(st.integers(3, 9), st.integers(1, 7), st.integers(0, 999))
def test_a_smooth_line_is_the_cubic_with_the_slopes_of_parabolas(count, steps, seed):
    points = np.random.default_rng(seed).normal(size=(count, 2)) * 10
    at = np.append(0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1)))

    def slope(i):                                       # of the parabola through point i and its neighbours, at i
        j = min(max(i, 1), count - 2)
        local = at[j - 1:j + 2] - at[i]
        return np.linalg.solve(np.stack([local**2, local, np.ones(3)], 1), points[j - 1:j + 2])[1]
    spline = CubicHermiteSpline(at, points, np.array([slope(i) for i in range(count)]))
    where = np.concatenate([np.linspace(a, b, steps, endpoint=False) for a, b in zip(at, at[1:])] + [at[-1:]])
    got = tab.smooth(torch.from_numpy(points), steps)
    np.testing.assert_allclose(got, spline(where), atol=1e-6)
    np.testing.assert_allclose(got[::steps], points, atol=1e-9)         # through every landmark


def test_three_points_give_their_parabola_two_a_line_and_one_itself():
    points = torch.tensor([[0.0, 0], [3, 1], [4, 5]], dtype=torch.float64)
    at = np.append(0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1)))
    curve = tab.smooth(points, 8).numpy()
    where = np.concatenate([np.linspace(a, b, 8, endpoint=False) for a, b in zip(at, at[1:])] + [at[-1:]])
    parabola = np.stack([np.polyval(np.polyfit(at, points[:, k], 2), where) for k in (0, 1)], 1)
    np.testing.assert_allclose(curve, parabola, atol=1e-9)
    np.testing.assert_allclose(tab.smooth(points[:2], 4)[:, 0], [0, 0.75, 1.5, 2.25, 3])
    assert tab.smooth(points[:1], 4).tolist() == [[0, 0], [0, 0]]
    for points, steps in ((torch.zeros(0, 2), 2), (torch.zeros(4, 3), 2), (torch.zeros(4, 2), 0)):
        with pytest.raises(ValueError, match="points"):
            tab.smooth(points, steps)


def test_a_landmark_bends_only_its_two_neighbouring_pieces_to_each_side():
    points = torch.randn(9, 2, generator=torch.manual_seed(0), dtype=torch.float64) + 3 * torch.arange(9)[:, None]
    moved = points.clone()
    moved[4] += 1
    same = (tab.smooth(points, 5) == tab.smooth(moved, 5)).all(-1)
    still = torch.ones_like(same)
    still[11:30] = False
    still[[15, 25]] = True                                               # points 3 and 5 themselves
    assert torch.equal(same, still)


def test_points_that_coincide_leave_all_finite():
    points = torch.tensor([[1.0, 1], [1, 1], [4, 2], [4, 2], [4, 2], [9, 9]])
    assert tab.smooth(points, 6).isfinite().all()
    assert tab.boundary_maps(np.full((68, 2), 5.0), "68", 12).isfinite().all()


# ---- maps ----------------------------------------------------------------------------------------------------------

@settings(max_examples=15, deadline=None)
@given(st.sampled_from(MARKUPS), st.integers(0, 99), st.floats(0.5, 2.5), st.floats(0.2, 1.6))
def test_boundary_maps_are_their_definition_pixel_by_pixel(markup, seed, sigma, spread):
    height, width = 18, 23
    points = face(markup, 20, seed, spread)
    maps = tab.boundary_maps(points, markup, (height, width), sigma).numpy()
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
    nearest = np.full((height, width), np.inf)
    for heat, line in zip(maps, tab.boundary_curves(points, markup)):
        d = geometry.distance_to_polyline(pixels, line.numpy())
        clear = abs(d - 3 * sigma) > 1e-3                                # which side of the cut it is
        np.testing.assert_allclose(heat[clear], np.where(d < 3 * sigma, np.exp(-d**2 / (2 * sigma**2)), 0)[clear],
                                   atol=1e-9)
        nearest = np.minimum(nearest, d)
    assert maps.shape == (16, height, width)
    np.testing.assert_array_equal(maps[15], maps[:15].max(0))
    assert (maps[15][nearest < 2.9 * sigma] > 0).all()


def test_nothing_is_snapped_and_nothing_wraps():
    """Shifting the landmarks by a fraction shifts the maps by it; a line beyond one border is not seen at the other."""
    points = face("68", 24, spread=0.6)
    a = tab.boundary_maps(points, "68", 24, 2.0)
    b = tab.boundary_maps(points + [0.5, 0], "68", 24, 2.0)
    assert (a - b).abs().max() > 0.15                                     # half a pixel of a slope of 0.3
    halves = tab.boundary_maps(2 * (points + 0.5) - 0.5, "68", 48, 4.0)   # twice the map: pixel pairs straddle it
    np.testing.assert_allclose(tab.boundary_maps(points + 0.25, "68", 24, 2.0), halves[:, ::2, ::2], atol=1e-6)
    for shift in ([-30.0, 0.0], [30.0, 0.0], [0.0, 30.0], [0.0, -30.0]):
        assert not tab.boundary_maps(points + np.array(shift), "68", 24, 2.0).any()


def test_the_mirror_image_has_the_mirrored_maps():
    points = face("98", 20, seed=3)
    mirror = points[list(markups.get("98").flip)] * [-1, 1] + [19, 0]
    order = [*markups.BOUNDARY_FLIP, 15]
    np.testing.assert_allclose(tab.boundary_maps(mirror, "98", 20), tab.boundary_maps(points, "98", 20).flip(-1)[order],
                               atol=1e-9)


def test_maps_of_many_faces_and_bad_input():
    faces = torch.tensor(np.stack([face("29", 16, s) for s in range(3)]))
    maps = tab.boundary_maps(faces, "29", 16)
    for one, points in zip(maps, faces):
        torch.testing.assert_close(one, tab.boundary_maps(points, "29", 16))
    assert tab.boundary_maps(faces.float(), "29", 16).dtype == torch.float32
    for points, markup, sigma, what in ((faces, "68", 1.0, "68"), (faces, "29", 0.0, "sigma"),
                                        (faces * torch.nan, "29", 1.0, "finite"), (faces[..., 0], "29", 1.0, "29")):
        with pytest.raises(ValueError, match=what):
            tab.boundary_maps(points, markup, 16, sigma)


# ---- quality -------------------------------------------------------------------------------------------------------

def test_the_mean_square_of_an_empty_map_is_the_area_of_the_squared_band():
    """A straight line of length l has sum exp(-d^2 / sigma^2) = l sigma sqrt(pi) on its map, so the rest is known."""
    points = np.zeros((98, 2)) - 99
    points[list(markups.boundaries("98")[5])] = [[8, y] for y in (-20, 0, 40, 60)]        # the ridge crosses the map
    target = tab.boundary_maps(points, "98", (40, 17), 1.5)
    wanted = 2 * 40 * 1.5 * np.pi**0.5 / (16 * 40 * 17)                                   # the ridge and the union
    assert tab.boundary_mse(torch.zeros_like(target), target).item() == pytest.approx(wanted, rel=1e-3)
    assert tab.boundary_mse(target, target).item() == 0


def test_overlap_counts_pixels_of_bands():
    target = torch.zeros(2, 6, 6)
    target[0, 2:4] = 0.7
    predicted = target.clone()
    predicted[0, 2] = 0.4
    predicted[0, 5, :3] = 0.6                                             # shared 6, joint 15
    assert tab.boundary_overlap(predicted, target).tolist() == pytest.approx([6 / 15, 1])
    assert tab.boundary_overlap(predicted, target, 0.3).tolist() == pytest.approx([12 / 15, 1])
    target[1, 0, 0] = 1
    assert tab.boundary_overlap(predicted, target)[1] == 0
    for bad in (lambda: tab.boundary_overlap(predicted, target, 0), lambda: tab.boundary_mse(predicted, target[0]),
                lambda: tab.boundary_overlap(predicted[0], target[0])):
        with pytest.raises(ValueError, match=r"level|predicted"):
            bad()


# ---- networks ------------------------------------------------------------------------------------------------------

TOY = tab.TabConfig(image_size=32, channels=8, depth=3, widths=(4, 6, 8, 10))


def batch(count=2, size=32, seed=0, landmarks=68):
    draw = torch.manual_seed(seed)
    return {"image": torch.rand(count, 1, size, size, generator=draw) - 0.5,
            "landmarks": torch.rand(count, landmarks, 2, generator=draw) * (size - 1)}


@pytest.mark.parametrize("name", tab.STEMS)
@pytest.mark.parametrize("stride", [2, 4])
def test_every_stem_gives_features_of_the_size_of_the_maps(name, stride):
    config = replace(TOY, stem=name, stride=stride, image_size=32 * stride // 2)
    features = tab.stem(config)(torch.zeros(2, 1, 48, 32))
    assert features.shape == (2, 8, 48 // stride, 32 // stride) and config.heatmap_size == 16


@pytest.mark.parametrize("stacks", [1, 2, 3])
def test_every_stack_is_supervised_and_learns(stacks):
    model = tab.SCBE(replace(TOY, stacks=stacks))
    maps, features = model(batch()["image"])
    assert [m.shape for m in maps] == [(2, 16, 16, 16)] * stacks
    assert [f.shape for f in features] == [(2, 8, 16, 16), (2, 8, 8, 8), (2, 8, 4, 4)]
    loss = tab.boundary_loss()
    target = tab.boundary_targets(batch(), "68", (16, 16))
    torch.testing.assert_close(loss((maps, features), batch()), sum((m - target).square().mean() for m in maps))
    loss((maps, features), batch()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_the_stem_reaches_the_second_hourglass_past_the_first():
    """With all that comes back from the first stack silenced, the second sees the stem."""
    model = tab.SCBE(TOY).eval()
    for back in (*model.back_features, *model.back_maps):
        torch.nn.init.zeros_(back.weight), torch.nn.init.zeros_(back.bias)
    image = batch()["image"]
    seen = []
    model.hourglasses[1].across.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(image)
    torch.testing.assert_close(seen[0], model.stem(image))


def test_low_level_features_are_used_again_from_the_third_hourglass_on():
    """Before, the stacked hourglass does so anyway: its second is given the stem's features and what comes back."""
    torch.manual_seed(0)
    model, image = tab.SCBE(replace(TOY, stacks=3)).eval(), batch()["image"]
    ours, plain = model(image)[0], model.run(image, from_stem=False)[0]
    assert [torch.equal(a, b) for a, b in zip(ours, plain)] == [True, True, False]


def test_single_scale_features_are_means_of_the_finest():
    torch.manual_seed(0)
    multi, single = tab.SCBE(TOY).eval(), tab.SCBE(replace(TOY, scales="single")).eval()
    single.load_state_dict(multi.state_dict())
    (maps, ms), (same, ss) = multi(batch()["image"]), single(batch()["image"])
    torch.testing.assert_close(maps, same)
    torch.testing.assert_close(ms[0], ss[0])
    for i in (1, 2):
        torch.testing.assert_close(ss[i], ss[0].unfold(2, 2**i, 2**i).unfold(3, 2**i, 2**i).mean((-2, -1)))
        assert (ms[i] - ss[i]).abs().max() > 1e-3


@pytest.mark.parametrize("t", [0, 1, 2, 3])
def test_fusion_is_eq_3_and_4_level_by_level(t):
    """By hand, in the paper's counting: i = 1 .. s, j from max(1, i - t + 1) to i - 1, and i itself."""
    torch.manual_seed(0)
    balt = tab.BALT(replace(TOY, fusion=t)).eval()
    maps = torch.randn(2, 16, 16, 16)
    b = {i: torch.randn(2, 8, 32 >> i, 32 >> i) for i in (1, 2, 3)}

    def pool(x):
        return x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-2, -1))
    f, kept = balt.first(maps), []
    for i in (1, 2, 3):
        if t:
            f = f + balt.transitions[f"{i - 1}to{i - 1}"](b[i])
            for j in range(max(1, i - t + 1), i):
                part = balt.transitions[f"{j - 1}to{i - 1}"](b[j])
                for _ in range(i - j):                                   # printed once; two levels up need two
                    part = pool(part)
                f = f + part
        kept.append(f)
        f = balt.down[i - 1](pool(f))
    for i in (1, 2, 3):                                                  # Eq. 5: concatenate, convolve; upsample before
        f = torch.nn.functional.interpolate(f, scale_factor=2, mode="bilinear")
        f = balt.up[3 - i](torch.cat([kept[3 - i], f], 1))
    torch.testing.assert_close(balt(maps, [b[i] for i in (1, 2, 3)]), balt.head(f))
    pairs = {0: 0, 1: 3, 2: 5, 3: 6}[t]
    assert len(balt.transitions) == pairs


def test_without_fusion_features_are_not_looked_at_and_with_it_they_are():
    maps, features = torch.randn(1, 16, 16, 16), [torch.randn(1, 8, 16 >> i, 16 >> i) for i in range(3)]
    for t in range(4):
        balt = tab.BALT(replace(TOY, fusion=t)).eval()
        differ = [not torch.equal(balt(maps, features), balt(maps, [f + (i == j) for j, f in enumerate(features)]))
                  for i in range(3)]
        assert differ == [t > 0] * 3


def test_the_paper_size_comes_close_to_what_is_reported():
    """86.9 and 64.5 MB of four-byte weights. What a second stack adds is that of the cited hourglass to 1 %; the U-Net
    is lighter than theirs, by the same for one and two stacks, and no common one comes nearer."""
    def megabytes(model):                         # of 2^20 bytes, with batch norm statistics, as a saved file has
        return sum(v.numel() for v in model.state_dict().values() if v.is_floating_point()) * 4 / 2**20
    with torch.device("meta"):
        scbe = [megabytes(tab.SCBE(replace(tab.PAPER, stacks=n))) for n in (1, 2)]
        balt = {widths: megabytes(tab.BALT(replace(tab.PAPER, widths=widths))) for widths in (
            tab.PAPER.widths, (64, 128, 256, 512), (64, 128, 256, 512, 1024), (64, 128, 256, 512, 512),
            (32, 64, 128, 256), (64, 128, 256))}
    assert scbe[1] - scbe[0] == pytest.approx(86.9 - 64.5, rel=0.01)
    missing = {widths: 64.5 - scbe[0] - size for widths, size in balt.items()}
    assert 0 < missing[tab.PAPER.widths] < 5 and missing[tab.PAPER.widths] == min(missing.values(), key=abs)
    assert 86.9 - scbe[1] - balt[tab.PAPER.widths] == pytest.approx(missing[tab.PAPER.widths], abs=0.15)


def test_the_papers_start_is_gaussian_everywhere_but_in_the_stem():
    torch.manual_seed(0)
    model, other = tab.SCBE(TOY), tab.SCBE(TOY)
    other.load_state_dict(model.state_dict())
    tab.start_small(model)
    kept = [n for (n, a), b in zip(model.named_parameters(), other.parameters(), strict=True) if torch.equal(a, b)]
    drawn = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d) and not n.startswith("stem.")}
    assert drawn and not {n.removesuffix(".weight") for n in kept} & drawn
    assert any(n.startswith("stem.") for n in kept)
    everything = torch.cat([model.get_submodule(n).weight.flatten() for n in sorted(drawn)])
    assert everything.std().item() == pytest.approx(0.001, rel=0.05) and abs(everything.mean().item()) < 5e-5
    assert all(not m.bias.any() for n in drawn if (m := model.get_submodule(n)).bias is not None)


def test_parameters_by_hand():
    c, unit = 256, 9 * (256 * 128 + 128 * 64 + 64 * 64) + 2 * (256 + 128 + 64)
    assert parameter_count(Hierarchical(c, c)) == unit
    assert parameter_count(tab.SCBE(replace(tab.PAPER, stacks=2))) - parameter_count(
        tab.SCBE(replace(tab.PAPER, stacks=1))) == 14 * unit + c * c + 2 * c + 2 * (16 * c) + 16 + c + c * c + c
    pairs = (3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)
    assert parameter_count(tab.stem(tab.PAPER)) == sum(9 * a * b + 3 * b for a, b in pairs)


def test_public_weights_of_vgg16_are_taken_by_name(tmp_path):
    """The names and shapes that torchvision publishes for VGG16 with batch norm, the classifier included."""
    public, n, before = {}, 0, 3
    for block in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
        for width in block if max(block) < 512 else block[:1]:
            public[f"features.{n}.weight"] = torch.randn(width, before, 3, 3)
            public[f"features.{n}.bias"] = torch.randn(width)
            for part in ("weight", "bias", "running_mean", "running_var"):
                public[f"features.{n + 1}.{part}"] = torch.rand(width) + 0.5
            n, before = n + 3, width
        n += 1
    public["classifier.0.bias"] = torch.zeros(4)
    path = tmp_path / "vgg16_bn.safetensors"
    save_file(public, path)
    config = replace(tab.PAPER, stacks=1, channels=256, widths=(8, 8, 8, 8), unit="residual", depth=3)
    model = tab.TAB(config).load_stem(path).eval()
    own = model.scbe.stem.body.state_dict()
    assert all(torch.equal(own[name], public[name]) for name in own if "tracked" not in name)
    image = torch.rand(1, 3, 16, 16) - 0.5
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    wanted = model.scbe.stem.body((image + 0.5 - mean[:, None, None]) / deviation[:, None, None])
    torch.testing.assert_close(model.scbe.stem(image), wanted)
    public["features.3.weight"] = torch.randn(64, 64, 1, 1)
    save_file(public, path)
    with pytest.raises(ValueError, match=r"features\.3\.weight"):
        model.load_stem(path)
    with pytest.raises(ValueError, match="stem"):
        tab.TAB(replace(TOY, stem="hourglass")).load_stem(path)


def test_wrong_sizes_are_refused():
    for bad in ({"stem": "alexnet"}, {"stacks": 0}, {"channels": 12}, {"widths": (8,)}, {"fusion": 4}, {"fusion": -1},
                {"image_size": 40}, {"scales": "few"}, {"stride": 3}, {"unit": "plain"}, {"widths": (4,) * 7},
                {"reading": "argmax"}, {"sigma": 0.0}, {"landmark_sigma": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            replace(TOY, **bad)
    for shape in ((1, 3, 32, 32), (1, 1, 36, 32), (1, 32, 32)):
        with pytest.raises(ValueError, match="images"):
            tab.TAB(TOY)(torch.zeros(shape))


# ---- training ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("reading", tab.LOSSES)
def test_stage_two_leaves_the_boundary_part_as_it_is(reading):
    config = replace(TOY, reading=reading)
    model = tab.TAB(config)
    assert not model.is_frozen and model.train().scbe.training
    before = {k: v.clone() for k, v in model.freeze().state_dict().items()}
    assert model.train().balt.training and not model.scbe.training
    items = [{k: v[i] for k, v in batch(6).items()} for i in range(6)]
    run = TrainConfig(8, 6, 1e-2, log_every=1, device="cpu", weight_decay=0.1)
    history = fit(model, items, tab.transform_loss(config), run, progress=False)
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items() if k.startswith("scbe."))
    assert any(not torch.equal(after[k], v) for k, v in before.items() if k.startswith("balt."))
    assert history[-1]["loss"] < history[0]["loss"]


def test_stage_one_learns_boundaries():
    torch.manual_seed(0)
    model = tab.SCBE(replace(TOY, stem="hourglass"))
    items = [{k: v[i] for k, v in batch(4).items()} for i in range(4)]
    run = TrainConfig(10, 4, 1e-2, log_every=1, device="cpu")
    history = fit(model, items, tab.boundary_loss(), run, progress=False)
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]


def test_losses_are_finite_on_flat_maps_and_wrong_names_are_refused():
    flat = torch.zeros(2, 16, 16, 16, requires_grad=True)
    tab.boundary_loss()(([flat], []), batch()).backward()
    assert flat.grad.isfinite().all()
    for reading in tab.LOSSES:
        maps = torch.zeros(2, 68, 16, 16, requires_grad=True)
        tab.transform_loss(replace(TOY, reading=reading))([flat, maps], batch()).backward()
        assert maps.grad.isfinite().all() and maps.grad.abs().max() > 0
    with pytest.raises(ValueError, match="markup"):
        tab.boundary_loss("194")


@pytest.mark.parametrize("stem", tab.STEMS)
@pytest.mark.parametrize("markup", ["98", "68", "29", "19"])
def test_a_step_of_stage_one_can_be_captured(markup, stem):
    model, item = tab.SCBE(replace(TOY, stem=stem)), batch(landmarks=markups.get(markup).count)
    loss = tab.boundary_loss(markup)
    assert_capturable(lambda: loss(model(item["image"]), item))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("reading", tab.LOSSES)
@pytest.mark.parametrize("scales", ["multi", "single"])
def test_a_step_of_stage_two_can_be_captured(reading, scales):
    config = replace(TOY, reading=reading, scales=scales)
    model, item = tab.TAB(config).freeze().train(), batch()
    assert_capturable(lambda: tab.transform_loss(config)(model(item["image"]), item))
    assert all((p.grad is not None) == name.startswith("balt.") for name, p in model.named_parameters())


def test_a_lost_landmark_stops_the_training():
    """A loss does not look for NaN, but neither does it overlook it."""
    model, item = tab.SCBE(TOY), batch()
    item["landmarks"][1, 30] = torch.nan
    assert tab.boundary_loss()(model(item["image"]), item).isnan()


def test_the_loss_of_stage_one_is_none_on_the_true_maps():
    """Crop pixels become map pixels by (p + 0.5) s - 0.5, and nothing else lies between loss and ``boundary_maps``."""
    item = batch(seed=5)
    true = tab.boundary_maps((item["landmarks"] + 0.5) / 2 - 0.5, "68", 16)
    assert tab.boundary_loss()(([true, true], []), item).item() < 1e-10


# ---- reading -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("loss", ["of the paper", "ours"])
def test_maps_that_the_loss_calls_perfect_are_read_where_the_landmarks_are(loss):
    """The loss of a config is least on maps that the same config reads rightly; read the other way they are wrong."""
    config = tab.PAPER if loss == "of the paper" else replace(tab.PAPER, reading="soft_argmax")
    points = torch.tensor([[10.0, 12], [50, 20], [6, 56]]).repeat(33, 1)[:98]
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    square = (x - points[:, 0, None, None]) ** 2 + (y - points[:, 1, None, None]) ** 2
    logits = -square / (2 * config.landmark_sigma**2)
    maps = (logits.exp() if config.reading == "center_of_mass" else logits)[None]
    item = {"image": torch.zeros(1, 3, 256, 256), "landmarks": (points[None] + 0.5) * 4 - 0.5}
    assert tab.transform_loss(config)([maps], item) < tab.transform_loss(config)([maps.roll(1, -1)], item) - 1e-4
    with torch.device("meta"):
        model, other = (tab.TAB(replace(tab.PAPER, reading=way)) for way in (config.reading, *{*tab.LOSSES} - {
            config.reading}))
    reading = model.read([maps])
    torch.testing.assert_close(reading.points, item["landmarks"], atol=0.01, rtol=0)
    assert (reading.scores > 0.4).all() and reading.anchors is None
    if config.reading == "center_of_mass":
        assert (other.read([maps]).points - item["landmarks"]).norm(dim=-1).min() > 40     # the middle of the map


@pytest.mark.parametrize("reading", tab.LOSSES)
def test_a_reading_with_its_mirror_image_is_that_of_both(reading):
    model = tab.TAB(replace(TOY, reading=reading)).eval()
    maps = torch.rand(3, 68, 16, 12, generator=torch.manual_seed(0)) * 5
    plain, mirror = model.read([maps]), maps.flip(-1)[:, list(markups.get("68").flip)]
    both = model.read([torch.cat([maps, mirror])], mirrored=True)
    torch.testing.assert_close(both.points, plain.points, atol=1e-4, rtol=0)
    torch.testing.assert_close(both.scores, plain.scores)


def test_widths_of_the_targets_keep_their_share_of_the_map():
    for config in (tab.LITE, tab.PAPER):
        assert config.heatmap_size == 64 and (config.sigma, config.landmark_sigma) == (1.0, 1.2)
        assert tab.scaled(config) == config
    large = tab.scaled(replace(tab.LITE, image_size=256))
    assert (large.heatmap_size, large.sigma, large.landmark_sigma) == (128, 2.0, 2.4)


# ---- the front door ------------------------------------------------------------------------------------------------

class Answer(torch.nn.Module):
    """In place of BALT: logits whose soft-argmax is known, whatever the boundaries."""

    def __init__(self, points, size):
        super().__init__()
        y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
        u, v = torch.tensor(points, dtype=torch.float32).T[..., None, None]
        self.logits = -((x - u) ** 2 + (y - v) ** 2) / 2

    def forward(self, boundaries, features):
        assert boundaries.shape[1:] == (16, *self.logits.shape[1:]) and len(features) == 3
        return self.logits.expand(len(boundaries), -1, -1, -1)


def test_align_reads_landmarks_where_the_maps_have_them():
    size = 32
    points = np.random.default_rng(0).uniform(8, 23, (68, 2))
    mirror = points[list(markups.get("68").flip)] * [-1, 1] + [size - 1, 0]
    points = (points + mirror) / 2                                       # a face that is its own mirror image
    model = tab.TAB(replace(TOY, image_size=2 * size)).eval()
    model.balt = Answer(points, size)
    box = np.array([30.0, 20, 90, 95])
    in_crop = (points + 0.5) * 2 - 0.5
    first = geometry.transform(in_crop, geometry.invert(crop_matrix(box, 2 * size, MARGIN)))
    second = geometry.transform(in_crop, geometry.invert(upright_matrix(first, 2 * size)))
    found = align(np.zeros((120, 130), np.uint8), box, model)
    np.testing.assert_allclose(found.landmarks, second, atol=0.05)
    assert found.scores.shape == (68,) and (found.scores > 0.4).all() and found.contours is None


def test_a_network_comes_back_from_its_file(tmp_path):
    config = replace(TOY, stem="resnet", scales="single", fusion=1)
    model = tab.TAB(config).freeze().eval()
    path = zoo.save(model, tmp_path / "tab.safetensors", half=False)
    again = zoo.load(path, "cpu")
    assert isinstance(again, tab.TAB) and again.config == config and not again.is_frozen
    for ours, theirs in zip(model(batch()["image"]), again(batch()["image"])):
        torch.testing.assert_close(ours, theirs)
    picture = np.random.default_rng(0).integers(0, 256, (60, 60), np.uint8)
    found = align(picture, (10, 10, 50, 50), path, "cpu")
    np.testing.assert_allclose(found.landmarks, align(picture, (10, 10, 50, 50), model).landmarks, atol=1e-3)
