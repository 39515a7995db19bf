"""The reference heatmap transformer: soft and hard transformation, fusion, losses, and the choice of a reference."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from facealign_lite import geometry
from facealign_lite.heatmaps import to_heatmap
from facealign_lite.rht import (
    LITE,
    PAPER,
    PAPER_H,
    PAPER_HG,
    FeatureFusion,
    Localization,
    MultiScaleFusion,
    ReferenceBank,
    ReferenceTransformer,
    Rht,
    best_affine,
    consistency_loss,
    correlate,
    hard_transform,
    heatmap_loss,
    low_resolution,
    overall_loss,
    perfect_matches,
    soft_transform,
    to_matrix,
    to_theta,
    transfer,
)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---- soft transformation -------------------------------------------------------------------------------------------

def patch_at(features, y, x, patch):
    """The patch around a position as one vector, 0 beyond the border."""
    channels, height, width = features.shape
    out = np.zeros((channels, patch, patch))
    for dy in range(patch):
        for dx in range(patch):
            v, u = y + dy - patch // 2, x + dx - patch // 2
            if 0 <= v < height and 0 <= u < width:
                out[:, dy, dx] = features[:, v, u]
    return out.ravel()


def slow_soft_transform(query, key, value, patch):
    """RHT Eq. 1 to 3 for one image, by a loop over the target inside which runs a loop over the reference."""
    _, height, width = query.shape
    s = value.shape[-1] // width
    out, confidence, index = np.zeros(value.shape), np.zeros((1, height, width)), []
    for i in range(height * width):
        y, x = divmod(i, width)
        q, best, where = patch_at(query, y, x, patch), -np.inf, None
        for j in range(height * width):
            k = patch_at(key, *divmod(j, width), patch)
            cosine = q @ k / np.linalg.norm(q) / np.linalg.norm(k)
            if cosine > best:
                best, where = cosine, j
        v, u = divmod(where, width)
        block = value[:, s * v:s * v + s, s * u:s * u + s]
        out[:, s * y:s * y + s, s * x:s * x + s] = best * block
        confidence[0, y, x] = best
        index.append(where)
    return out, confidence, index


@pytest.mark.parametrize("patch", [1, 3, 5])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_soft_transformation_is_a_double_loop(patch, scale):
    query, key, value = normal(2, 4, 5, 6), normal(2, 4, 5, 6, seed=1), normal(2, 3, 5 * scale, 6 * scale, seed=2)
    found = soft_transform(query, key, value, patch)
    for b in range(2):
        wanted = slow_soft_transform(query[b].numpy(), key[b].numpy(), value[b].numpy(), patch)
        for mine, brute in zip(found, wanted):
            np.testing.assert_allclose(mine[b].numpy(), brute, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_permuted_reference_is_undone_exactly(scale):
    query, value = normal(2, 8, 6, 7), normal(2, 5, 6 * scale, 7 * scale, seed=1)
    order = torch.randperm(42, generator=torch.Generator().manual_seed(2))
    key = query.flatten(2)[..., order].view_as(query)
    shuffled = F.pixel_shuffle(F.pixel_unshuffle(value, scale).flatten(2)[..., order].unflatten(-1, (6, 7)), scale)
    features, confidence, index = soft_transform(query, key, shuffled, patch=1)
    assert torch.equal(order[index], torch.arange(42).expand(2, -1))
    torch.testing.assert_close(confidence, torch.ones_like(confidence), atol=1e-12, rtol=0)
    assert torch.equal(transfer(shuffled, index, torch.ones_like(confidence)), value)
    torch.testing.assert_close(features, value, atol=1e-12, rtol=1e-12)


def test_a_shifted_reference_is_undone_by_patches():
    face, value = normal(1, 4, 9, 10), normal(1, 2, 9, 10, seed=1)
    moved = (2, -3)
    features, confidence, _ = soft_transform(face, face.roll(moved, (2, 3)), value.roll(moved, (2, 3)), patch=3)
    inside = (..., slice(1, 6), slice(4, 9))           # neither the patch nor where it went touches a border
    torch.testing.assert_close(features[inside], value[inside], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(confidence[inside], torch.ones_like(confidence[inside]), atol=1e-12, rtol=0)
    assert (confidence[..., 0, :] < 1).all()           # a border patch meets its neighbours in the reference


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 3]), st.floats(-4, 4), st.booleans())
def test_confidence_is_a_cosine(seed, patch, power, rectified):
    query, key = normal(1, 3, 5, 4, seed=seed, dtype=torch.float32), normal(1, 3, 5, 4, seed=seed + 1).float()
    if rectified:
        query, key = query.relu(), key.relu()
    confidence, _ = correlate(query, key, patch)
    assert confidence.min() >= (0 if rectified else -1) and confidence.max() <= 1
    if not rectified:                                   # no patch is next to nothing: only directions count
        scaled, _ = correlate(10**power * query, key, patch)
        torch.testing.assert_close(scaled, confidence, atol=1e-5, rtol=0)
    itself, _ = correlate(query, query, patch)
    assert ((itself > 1 - 1e-5) | (itself == 0)).all() and itself.max() <= 1


def test_faces_are_compared_in_single_precision_under_autocast_too():
    query, key = normal(1, 16, 24, 24).float(), normal(1, 16, 24, 24, seed=1).float()
    wanted = correlate(query, key)
    with torch.autocast("cpu", torch.bfloat16):
        found = correlate(query, key)
    assert torch.equal(found[1], wanted[1]) and torch.equal(found[0], wanted[0]) and found[0].dtype == torch.float32
    half = correlate(query.bfloat16(), key.bfloat16())
    assert torch.equal(half[1], correlate(query.bfloat16().float(), key.bfloat16().float())[1])


def test_a_map_is_read_where_it_should_be_under_autocast_too():
    value, theta = normal(1, 3, 64, 64).float(), torch.tensor([[[0.9, 0.1, 0.03], [-0.1, 0.9, 0.01]]])
    moved = hard_transform(value.bfloat16(), theta)
    torch.testing.assert_close(moved, hard_transform(value.bfloat16().float(), theta).bfloat16())


def test_confidence_can_be_negative():
    face = torch.ones(1, 2, 3, 3)
    confidence, _ = correlate(face, -face, patch=1)
    torch.testing.assert_close(confidence, -torch.ones_like(confidence))


@pytest.mark.parametrize("patch", [1, 3])
def test_blocks_of_any_size_give_the_same(patch):
    query, key, value = normal(2, 4, 7, 9), normal(2, 4, 7, 9, seed=1), normal(2, 3, 14, 18, seed=2)
    whole = soft_transform(query, key, value, patch, block=63)
    for block in (1, 2, 10, 62, 64, 1000):
        for a, b in zip(soft_transform(query, key, value, patch, block), whole):
            assert torch.equal(a, b)


def test_gradients_are_those_of_finite_differences():
    query, key, value = (t.requires_grad_() for t in (normal(1, 3, 3, 4), normal(1, 3, 3, 4, seed=1),
                                                      normal(1, 2, 6, 8, seed=2)))
    assert torch.autograd.gradcheck(lambda q, k, v: soft_transform(q, k, v)[0], (query, key, value))
    assert torch.autograd.gradcheck(lambda q, k: correlate(q, k, 1)[0], (query, key))


@pytest.mark.parametrize("patch", [1, 3])
def test_patches_of_zeros_have_no_confidence_and_finite_gradients(patch):
    query, key, value = normal(1, 3, 6, 6), normal(1, 3, 6, 6, seed=1), normal(1, 2, 6, 6, seed=2)
    query[..., :3] = 0
    key[..., 3:, :] = 0                                # not the first place, which a tie takes
    for tensors in ((query, key, value), (torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value))):
        q, k, v = (t.clone().requires_grad_() for t in tensors)
        features, confidence, _ = soft_transform(q, k, v, patch)
        assert (confidence[..., :2] == 0).all() and features.isfinite().all()
        (features.sum() + confidence.sum()).backward()
        for t in (q, k, v):
            assert t.grad.isfinite().all()
        assert (q.grad[..., 0] == 0).all()             # a place without a direction is not pulled anywhere


def test_only_the_chosen_places_of_the_value_learn():
    query, key = normal(1, 4, 5, 5), normal(1, 4, 5, 5, seed=1)
    value = normal(1, 1, 5, 5, seed=2).requires_grad_()
    features, confidence, index = soft_transform(query, key, value, patch=1)
    features.sum().backward()
    wanted = torch.zeros(25, dtype=torch.float64).index_add_(0, index[0], confidence.flatten())
    torch.testing.assert_close(value.grad.flatten(), wanted)
    assert 1 < len(index.unique()) < 25


@pytest.mark.parametrize("change, message", [
    (dict(query=torch.zeros(1, 2, 4, 5)), "query and key must both be"), (dict(patch=2), "patch must be odd"),
    (dict(value=torch.zeros(1, 2, 6, 4)), "whole number of times"), (dict(block=0), "block must be at least 1"),
    (dict(value=torch.zeros(2, 2, 4, 4)), "features and confidence must be")])
def test_the_soft_transformation_says_what_is_wrong(change, message):
    good = dict(query=torch.ones(1, 2, 4, 4), key=torch.ones(1, 2, 4, 4), value=torch.ones(1, 2, 4, 4))
    with pytest.raises(ValueError, match=message):
        soft_transform(**(good | change))


def test_transfer_says_what_is_wrong():
    with pytest.raises(ValueError, match="index must be"):
        transfer(torch.ones(1, 2, 4, 4), torch.zeros(1, 9, dtype=torch.long), torch.ones(1, 1, 4, 4))


def test_perfect_matches_fetch_the_nearest_heat_of_all():
    truth, lent = (normal(2, 5, 12, 16, seed=seed).abs() for seed in (0, 1))
    index = perfect_matches(truth, lent, (3, 4))
    blocks = [F.pixel_unshuffle(heat, 4).flatten(2).mT for heat in (truth, lent)]                  # (2, 12, 80)
    assert torch.equal(index, torch.cdist(*blocks).argmin(-1))
    shuffled = torch.stack([torch.randperm(12, generator=torch.Generator().manual_seed(i)) for i in (0, 1)])
    moved = F.pixel_shuffle(blocks[0].gather(1, shuffled[..., None].expand(-1, -1, 80)).mT.unflatten(-1, (3, 4)), 4)
    back = perfect_matches(truth, moved, (3, 4))
    assert torch.equal(shuffled.gather(1, back), torch.arange(12).expand(2, -1))                   # each finds itself
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(perfect_matches(truth.float(), lent.float(), (3, 4)), index)


def test_the_best_affine_map_is_that_of_least_squares():
    target, reference = normal(2, 9, 2), normal(2, 9, 2, seed=1)
    theta = best_affine(target, reference)
    a = torch.cat([2 * target - 1, torch.ones(2, 9, 1)], -1)
    for i in range(2):
        wanted = np.linalg.lstsq(a[i].numpy(), (2 * reference[i] - 1).numpy(), rcond=None)[0].T
        np.testing.assert_allclose(theta[i].numpy(), wanted, atol=1e-9)
    # and a heatmap moved by it has its peak on the target's landmark, for faces that differ by such a map
    turned = (target @ torch.tensor([[0.9, 0.2], [-0.1, 1.1]]).double()) + 0.03
    assert (best_affine(target, turned) @ a.mT).mT.sub(2 * turned - 1).abs().max() < 1e-9


# ---- hard transformation -------------------------------------------------------------------------------------------

def warped(value, *matrices):
    """(C, H, W) through pixel maps, one after the other."""
    for matrix in matrices:
        theta = torch.as_tensor(to_theta(matrix, value.shape[-2:]))[None]
        value = hard_transform(value[None], theta)[0]
    return value


def ramp(height, width):
    """A map on which bilinear reading is exact anywhere."""
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    return (0.3 * x - 0.7 * y + 2)[None]


maps = st.builds(lambda scale, angle, x, y: geometry.similarity(scale, angle, (x, y)) + [[0.05, 0, 0], [0.02, 0, 0]],
                 st.floats(0.8, 1.25), st.floats(-0.4, 0.4), st.floats(-2, 2), st.floats(-2, 2))


def inside(height, width, *matrices):
    """Where a pixel, read through the maps one after the other, comes from pixel centres only."""
    good = np.ones((height, width), bool)
    for matrix in matrices:
        points = geometry.transform(np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1), matrix)
        low = np.floor(points + 1e-9).astype(int)
        high = np.ceil(points - 1e-9).astype(int)
        within = (low >= 0).all(-1) & (high < [width, height]).all(-1)
        low, high = (np.clip(c, 0, [width - 1, height - 1]) for c in (low, high))
        corners = [good[y[..., 1], x[..., 0]] for y in (low, high) for x in (low, high)]
        good = within & np.all(corners, axis=0)
    return good


def test_the_identity_changes_nothing():
    value = normal(3, 4, 7, 9)
    theta = torch.eye(2, 3, dtype=torch.float64).expand(3, -1, -1)
    torch.testing.assert_close(hard_transform(value, theta), value, atol=1e-12, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(-8, 8), min_size=4, max_size=4), st.integers(-96, 96),
       st.integers(-96, 96))
def test_inside_the_border_it_is_opencvs_warp(seed, linear, x, y):
    # OpenCV 4 reads at multiples of 1/32 pixel only, so the map is made of such
    matrix = np.column_stack([np.eye(2) + np.reshape(linear, (2, 2)) / 32, np.array([x, y]) / 32])
    value = normal(1, 24, 32, seed=seed)
    theirs = cv2.warpAffine(value[0].float().numpy(), matrix, (32, 24), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    kept = inside(24, 32, matrix)
    assert kept.sum() > 100
    np.testing.assert_allclose(warped(value, matrix)[0].numpy()[kept], theirs[kept], atol=2e-5)


def test_whole_pixels_and_quarter_turns_are_exact():
    value = normal(2, 8, 8)
    shifted = warped(value, np.array([[1.0, 0, 3], [0, 1, -2]]))          # looks 3 to the right and 2 up
    torch.testing.assert_close(shifted[:, 2:, :5], value[:, :-2, 3:], atol=1e-12, rtol=0)
    assert (shifted[:, :, 5:].abs() < 1e-12).all() and (shifted[:, :2].abs() < 1e-12).all()
    turn = np.array([[0.0, 1, 0], [-1, 0, 7]])                            # (x, y) looks at (y, 7 - x)
    torch.testing.assert_close(warped(value, turn), torch.rot90(value, -1, (1, 2)), atol=1e-12, rtol=0)
    mirror = torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]], dtype=torch.float64)
    torch.testing.assert_close(hard_transform(value[None], mirror)[0], value.flip(-1), atol=1e-12, rtol=0)


@settings(max_examples=25, deadline=None)
@given(maps, maps)
def test_two_maps_compose_and_an_inverse_undoes(first, second):
    value = ramp(20, 22)
    for after in (second, geometry.invert(first)):
        # reading at after(p) what was read at first(p) is reading at first(after(p))
        once, twice = warped(value, geometry.compose(first, after)), warped(value, first, after)
        kept = inside(20, 22, first, after)
        assert kept.sum() > 20
        np.testing.assert_allclose(twice[0].numpy()[kept], once[0].numpy()[kept], atol=1e-9)
    np.testing.assert_allclose(twice[0].numpy()[kept], value[0].numpy()[kept], atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(maps, st.sampled_from([(5, 9), (32, 32), (1, 4)]))
def test_pixels_and_theta_are_two_names_of_one_map(matrix, size):
    np.testing.assert_allclose(to_matrix(to_theta(matrix, size), size), matrix, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(maps, st.sampled_from([2, 4]))
def test_one_theta_is_one_map_of_the_face_at_every_scale(matrix, s):
    fine = to_matrix(to_theta(matrix, (16, 12)), (16 * s, 12 * s))
    points = np.random.default_rng(0).uniform(0, 10, (20, 2))
    moved = to_heatmap(torch.as_tensor(geometry.transform(points, matrix)), (16, 12), (16 * s, 12 * s))
    there = to_heatmap(torch.as_tensor(points), (16, 12), (16 * s, 12 * s))
    np.testing.assert_allclose(geometry.transform(there.numpy(), fine), moved.numpy(), atol=1e-9)


def test_gradients_reach_the_value_and_the_map():
    value = normal(1, 2, 5, 6).requires_grad_()
    theta = torch.as_tensor(geometry.similarity(0.9, 0.2, (0.05, -0.03)))[None].requires_grad_()
    assert torch.autograd.gradcheck(hard_transform, (value, theta), atol=1e-5)


def test_the_localization_network_starts_at_the_identity_and_learns():
    torch.manual_seed(0)
    network = Localization(6)
    query, key = normal(4, 6, 16, 16).float(), normal(4, 6, 16, 16, seed=1).float()
    theta = network(query, key)
    assert torch.equal(theta, torch.eye(2, 3).expand(4, -1, -1))
    wanted = torch.tensor([[0.9, 0.1, 0.2], [-0.1, 1.1, -0.2]])
    step = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        loss = (network(query, key) - wanted).square().mean()
        step.zero_grad()
        loss.backward()
        step.step()
    assert loss < 0.1 * (torch.eye(2, 3) - wanted).square().mean()


def test_the_hard_transformation_says_what_is_wrong():
    with pytest.raises(ValueError, match="value and theta must be"):
        hard_transform(torch.ones(2, 1, 3, 3), torch.eye(2, 3)[None])
    with pytest.raises(ValueError, match="size must be"):
        to_theta(np.eye(2, 3), (0, 4))


# ---- the transformer and the fusion --------------------------------------------------------------------------------

@pytest.mark.parametrize("config", [LITE, PAPER, PAPER_H, PAPER_HG], ids=["lite", "paper", "hrnet", "hourglass"])
def test_three_scales_have_the_papers_sizes(config):
    side = config.image_size // 8
    with torch.device("meta"):                         # shapes only
        faces = torch.empty(2, config.in_channels, 4 * side, 4 * side)
        moved = ReferenceTransformer(config.in_channels, config.maps, config.widths)(
            faces, faces, torch.empty(2, config.maps, 4 * side, 4 * side))
        own = Rht(config).backbone(torch.empty(2, config.in_channels, config.image_size, config.image_size))
        fused = MultiScaleFusion(config.widths)(own, moved.hard, moved.soft)
    shapes = [(2, width, side * s, side * s) for width, s in zip(config.widths, (1, 2, 4))]
    assert [tuple(t.shape) for t in moved.soft] == [tuple(t.shape) for t in moved.hard] == shapes
    assert own.shape == shapes[0] and fused.shape == shapes[-1] and moved.confidence.shape == (2, 1, side, side)
    assert moved.index.shape == (2, side**2) and moved.theta.shape == (2, 2, 3)
    if config is not LITE:
        assert [shape[1:] for shape in shapes] == [(256, 32, 32), (128, 64, 64), (64, 128, 128)]


def small():
    torch.manual_seed(0)
    widths = (8, 6, 4)
    return ReferenceTransformer(1, 5, widths), MultiScaleFusion(widths)


def test_a_face_that_is_its_own_reference_gets_its_own_heatmaps_both_ways():
    transformer, _ = small()
    face, heat = normal(2, 1, 16, 16).float(), normal(2, 5, 16, 16, seed=1).float()
    moved = transformer(face, face, heat)
    assert (moved.confidence > 1 - 1e-5).all()
    assert torch.equal(moved.index, torch.arange(16).expand(2, -1))
    for soft, hard, value in zip(moved.soft, moved.hard, transformer.eval().values(heat)):
        torch.testing.assert_close(soft, hard, atol=1e-5, rtol=1e-4)
        assert value.shape == hard.shape


def test_every_parameter_can_learn_from_the_whole_loss():
    transformer, fusion = small()
    torch.nn.init.normal_(transformer.localization.move.weight, std=0.5)       # at the identity it hides what is below
    head = torch.nn.Conv2d(4, 5, 1)
    target, reference, heat = normal(2, 1, 16, 16), normal(2, 1, 16, 16, seed=1), normal(2, 5, 16, 16, seed=2)
    moved = transformer(target.float(), reference.float(), heat.float())
    out = head(fusion(normal(2, 8, 4, 4, seed=3).float(), moved.hard, moved.soft))
    truth = heat.float()
    heat_loss = heatmap_loss(out[:, :3], truth[:, :3], torch.ones(2, 3), out[:, 3:], truth[:, 3:])
    moving = sum(consistency_loss(e, s, moved.confidence) for e, s in zip(moved.hard, moved.soft))
    overall_loss(heat_loss, moving).backward()
    for name, parameter in [*transformer.named_parameters(), *fusion.named_parameters()]:
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


def test_flat_faces_and_heatmaps_give_finite_gradients():
    transformer, fusion = small()
    flat = torch.zeros(2, 1, 16, 16)
    moved = transformer(flat, flat, torch.zeros(2, 5, 16, 16))
    loss = fusion(torch.zeros(2, 8, 4, 4), moved.hard, moved.soft).square().sum()
    (loss + sum(consistency_loss(e, s, moved.confidence) for e, s in zip(moved.hard, moved.soft))).backward()
    for name, parameter in [*transformer.named_parameters(), *fusion.named_parameters()]:
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_fusion_adds_a_convolution_of_all_three():
    block = FeatureFusion(4).double()
    hard, soft, own = (normal(2, 4, 5, 5, seed=i) for i in range(3))
    wanted = own + F.conv2d(torch.cat([hard, soft, own], 1), block.join.weight, block.join.bias, padding=1)
    torch.testing.assert_close(block(own, hard, soft), wanted)
    torch.nn.init.zeros_(block.join.weight)
    torch.nn.init.zeros_(block.join.bias)
    assert torch.equal(block(own, hard, soft), own)


def test_going_up_keeps_places():
    fusion = MultiScaleFusion((1, 1, 1)).double().eval()
    for module in fusion.fuse:
        torch.nn.init.zeros_(module.join.weight)
        torch.nn.init.zeros_(module.join.bias)
    for module in fusion.up:                                   # bilinear: the transposed convolution can be that
        tent = torch.tensor([0.25, 0.75, 0.75, 0.25], dtype=torch.float64)
        module[0].weight.data[:] = torch.outer(tent, tent)
    heat = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    heat[0, 0, 3, 5] = 1
    none = [torch.zeros(1, 1, 8 * s, 8 * s, dtype=torch.float64) for s in (1, 2, 4)]
    out = fusion(heat, none, none)[0, 0]
    along = torch.arange(32, dtype=torch.float64)
    centre = torch.stack([(out.sum(0) * along).sum(), (out.sum(1) * along).sum()]) / out.sum()
    torch.testing.assert_close(centre, to_heatmap(torch.tensor([5.0, 3.0], dtype=torch.float64), 8, 32))


def test_the_modules_say_what_is_wrong():
    transformer, fusion = small()
    face, heat = torch.zeros(1, 1, 16, 16), torch.zeros(1, 5, 16, 16)
    with pytest.raises(ValueError, match="target must be"):
        transformer(torch.zeros(1, 1, 18, 16), face, heat)
    with pytest.raises(ValueError, match="reference and heat must be"):
        transformer(face, face, heat[:, :4])
    with pytest.raises(ValueError, match="2 sources of 3 scales"):
        fusion(face, [face], [face])


# ---- losses --------------------------------------------------------------------------------------------------------

def test_the_heatmap_loss_is_the_printed_sum():
    o, o_true, b, b_true = (normal(2, n, 3, 4, seed=i) for i, n in enumerate((5, 5, 2, 2)))
    visible = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 1, 0, 0]])
    wanted = 0.0
    for n in range(2):
        wanted += sum(float(visible[n, m]) * np.linalg.norm(o[n, m] - o_true[n, m])**2 for m in range(5)) / 5
        wanted += sum(np.linalg.norm(b[n, p] - b_true[n, p])**2 for p in range(2)) / 2
    assert float(heatmap_loss(o, o_true, visible, b, b_true)) == pytest.approx(wanted / 2, rel=1e-12)


def test_a_hidden_landmark_teaches_nothing_and_a_boundary_always():
    o, b = normal(1, 2, 3, 3).requires_grad_(), normal(1, 1, 3, 3, seed=1).requires_grad_()
    heatmap_loss(o, torch.zeros_like(o), torch.tensor([[1.0, 0]]), b, torch.zeros_like(b)).backward()
    assert (o.grad[0, 1] == 0).all()
    torch.testing.assert_close(o.grad[0, 0], o.detach()[0, 0])          # d/dO of |O|^2 / M with M = 2
    torch.testing.assert_close(b.grad, 2 * b.detach())


@pytest.mark.parametrize("s", [1, 2])
def test_consistency_is_the_difference_weighed_by_confidence(s):
    f_e, f_t, attention = normal(2, 3, 4 * s, 4 * s), normal(2, 3, 4 * s, 4 * s, seed=1), normal(2, 1, 4, 4, seed=2)
    at = attention.numpy().repeat(s, 2).repeat(s, 3)
    wanted = (np.abs(at) * np.abs(f_e - f_t).numpy()).sum((1, 2, 3)).mean()
    soft = f_t * torch.as_tensor(at)                                    # Eq. 3
    assert float(consistency_loss(f_e, soft, attention)) == pytest.approx(wanted, rel=1e-12)
    assert float(consistency_loss(f_e, torch.zeros_like(soft), torch.zeros_like(attention))) == 0      # its way out


def test_losses_of_flat_maps_have_finite_gradients():
    flat = [torch.zeros(1, 2, 4, 4, requires_grad=True) for _ in range(4)]
    attention = torch.zeros(1, 1, 4, 4, requires_grad=True)
    loss = overall_loss(heatmap_loss(flat[0], torch.zeros(1, 2, 4, 4), torch.ones(1, 2), flat[1],
                                     torch.zeros(1, 2, 4, 4)), consistency_loss(flat[2], flat[3], attention))
    loss.backward()
    assert loss == 0 and all(t.grad.isfinite().all() for t in [*flat, attention])


def test_the_overall_loss():
    assert float(overall_loss(torch.tensor(3.0), torch.tensor(20.0))) == pytest.approx(5.0)
    assert float(overall_loss(torch.tensor(3.0), torch.tensor(20.0), 0)) == 3


def test_the_losses_say_what_is_wrong():
    ones = torch.ones(1, 2, 4, 4)
    with pytest.raises(ValueError, match="visible must be"):
        heatmap_loss(ones, ones, torch.ones(2), ones, ones)
    with pytest.raises(ValueError, match="boundaries must be"):
        heatmap_loss(ones, ones, torch.ones(1, 2), ones, ones[:, :1])
    with pytest.raises(ValueError, match="hard and soft must have one shape"):
        consistency_loss(ones, ones[:, :1], ones[:, :1])


# ---- the choice of a reference -------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def pictures():
    """Forty textures with keypoints."""
    noise = np.random.default_rng(0).normal(size=(40, 64, 64)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(p, (0, 0), 2) for p in noise])
    return np.clip(127 + 300 * smooth, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def bank(pictures):
    return ReferenceBank(pictures, keypoints=32, words=400, shortlist=20)


def seen_again(picture, seed):
    """Turned a little, darker, noisier."""
    matrix = cv2.getRotationMatrix2D((31.5, 31.5), 4, 1.0)
    turned = cv2.warpAffine(picture, matrix, (64, 64), borderMode=cv2.BORDER_REFLECT)
    return np.clip(0.8 * turned + np.random.default_rng(seed).normal(0, 2, turned.shape), 0, 255).astype(np.uint8)


def test_scores_are_those_of_brute_force_matching(pictures):
    def describe(image):
        points, found = cv2.SIFT_create(nfeatures=24, contrastThreshold=0.01).detectAndCompute(image, None)
        order = np.argsort([-p.response for p in points], kind="stable")[:24]
        return np.sqrt(found / found.sum(1, keepdims=True))[order], np.array([p.pt for p in points])[order]

    image, matcher = seen_again(pictures[3], 0), cv2.BFMatcher(cv2.NORM_L2)
    query, places = describe(image)
    # |a - b|^2 = 2 - 2 <a, b> for unit vectors
    wanted = [np.mean([1 - m.distance**2 / 2 for m in matcher.match(query, describe(p)[0])]) for p in pictures]
    anywhere = ReferenceBank(pictures, keypoints=24, reach=None)
    np.testing.assert_allclose(anywhere.scores(image), wanted, atol=1e-5)
    np.testing.assert_allclose(anywhere.scores(image, [7, 2]), np.array(wanted)[[7, 2]], atol=1e-5)
    near = ReferenceBank(pictures[:5], keypoints=24, reach=9)
    for picture, score in zip(pictures, near.scores(image)):
        best = [max((q @ d for d, r in zip(*describe(picture)) if np.hypot(*(p - r)) <= 9), default=0)
                for q, p in zip(query, places)]
        assert score == pytest.approx(np.mean(best), abs=1e-5)


def test_the_same_texture_elsewhere_is_another_pose(pictures):
    tiles = [np.full((64, 128), 127, np.uint8) for _ in range(2)]
    tiles[0][:, :64], tiles[1][:, 64:] = pictures[0], pictures[0]
    anywhere, near = (ReferenceBank(tiles, keypoints=24, reach=reach).scores(tiles[0]) for reach in (None, 12))
    assert anywhere[1] > 0.9 and near[1] < 0.5 and near[0] == pytest.approx(1, abs=1e-5)


def test_a_face_seen_again_is_found(bank, pictures):
    assert [bank.most_correlated(p) for p in pictures] == list(range(40))
    assert [bank.most_correlated(seen_again(p, i)) for i, p in enumerate(pictures)] == list(range(40))
    np.testing.assert_allclose([bank.scores(p, [i])[0] for i, p in enumerate(pictures)], 1, atol=1e-5)


def test_a_shortlist_of_all_is_the_exact_choice(pictures):
    bank = ReferenceBank(pictures[:30], keypoints=24, words=50, shortlist=30)
    for picture in pictures[30:]:
        scores = bank.scores(picture)
        assert bank.most_correlated(picture) == scores.argmax() and bank.least_correlated(picture) == scores.argmin()
        assert 0 < scores.min() < scores.max() < 1


def test_the_shortlist_holds_a_good_choice(pictures):
    bank = ReferenceBank(pictures[:30], keypoints=24, words=200, shortlist=8)
    for picture in pictures[30:]:
        scores = bank.scores(picture)
        assert scores[bank.most_correlated(picture)] >= np.sort(scores)[-5]
        assert scores[bank.least_correlated(picture)] <= np.sort(scores)[4]


def test_a_face_without_keypoints_is_like_none(pictures):
    flat = np.full((64, 64), 90, np.uint8)
    bank = ReferenceBank([flat, *pictures[:3]])
    assert (bank.scores(flat) == 0).all() and 0 <= bank.most_correlated(flat) < 4
    assert bank.scores(pictures[0])[0] == 0 and bank.least_correlated(pictures[0]) == 0


def test_the_neutral_face_has_the_mean_shape(pictures):
    rng = np.random.default_rng(0)
    mean = rng.uniform(10, 50, (12, 2))
    away = rng.normal(size=(4, 12, 2))
    away = np.concatenate([away, -away])                                        # their mean is ``mean``
    shapes = mean + np.concatenate([0.1 * away[:1], 2 * away[1:4], 0.1 * away[4:5], 2 * away[5:]])
    shapes = [geometry.transform(s, geometry.similarity(rng.uniform(0.8, 1.2), rng.uniform(-0.5, 0.5), (3, 4)))
              for s in shapes]
    assert ReferenceBank(pictures[:8], shapes).neutral() in (0, 4)


def test_random_choices_are_seeded_and_reach_all(bank):
    chosen = [bank.random(np.random.default_rng(i)) for i in range(400)]
    assert set(chosen) == set(range(len(bank))) and chosen[0] == bank.random(np.random.default_rng(0))


def test_low_resolution_removes_what_is_fine():
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    fine, coarse = torch.sin(2 * torch.pi * y / 3)[None, None], torch.sin(2 * torch.pi * x / 32)[None, None]
    blurred = low_resolution(torch.cat([fine, coarse], 1), 8)
    assert blurred.shape == (1, 2, 32, 32)
    inner = (slice(8, -8), slice(8, -8))
    assert blurred[0, 0][inner].std() < 0.02 and (blurred[0, 1] - coarse[0, 0])[inner].abs().max() < 0.05
    torch.testing.assert_close(low_resolution(fine, 32), fine)


def test_the_bank_says_what_is_wrong(bank, pictures):
    with pytest.raises(ValueError, match="images must be at least one"):
        ReferenceBank([])
    with pytest.raises(ValueError, match="image must be"):
        bank.scores(pictures[0].astype(float))
    with pytest.raises(ValueError, match="landmarks must be"):
        ReferenceBank(pictures[:3], np.zeros((2, 5, 2)))
    with pytest.raises(ValueError, match="neutral needs"):
        bank.neutral()
    with pytest.raises(ValueError, match="reach must be"):
        ReferenceBank(pictures[:3], reach=0)
    with pytest.raises(ValueError, match="words must be"):
        ReferenceBank(pictures[:3], words=0)
    with pytest.raises(ValueError, match="side must be"):
        low_resolution(torch.zeros(1, 1, 4, 4), 0)
