"""ST-GAN: the tables layer by layer, the sampler, the true pose and what is left of it, the game of two networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from capture import assert_capturable
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from facealign_lite import geometry, msm
from facealign_lite.msm import stgan
from facealign_lite.nets import parameter_count
from facealign_lite.training import TrainConfig, fit

TINY = msm.StGanConfig(generator=(2,) * 10, discriminator=(2,) * 6)
MEAN = torch.tensor([[25.0, 20], [100, 22], [64, 70], [40, 100], [90, 105]])


def poses(n, seed=0):
    """theta (n, 2, 3): turns to 40 degrees, sizes from 0.7 to 1.4, shifts to a fifth of the side."""
    rng = np.random.default_rng(seed)
    return torch.tensor(np.stack([geometry.similarity(scale, angle, shift) for scale, angle, shift in zip(
        rng.uniform(0.7, 1.4, n), rng.uniform(-0.7, 0.7, n), rng.uniform(-0.4, 0.4, (n, 2)))])).float()


def posed(n, seed=0, size=128):
    """Landmarks (n, 5, 2) of the mean face in rough crops, and the theta that straightens them."""
    theta = poses(n, seed)
    return msm.move(msm.from_frame(MEAN, size).expand(n, -1, -1), theta, size), theta


def walk(layers, images):
    """Output side and channels of each layer in turn."""
    found = []
    for layer in layers:
        images = layer(images)
        found.append((images.shape[-1], images.shape[1]))
    return found


# ---- Tables I and II -----------------------------------------------------------------------------------------------

def test_table_1_by_output_size_and_number_of_weights():
    generator = msm.Generator(stgan.PAPER).eval()
    assert walk([*generator.layers, generator.last], torch.zeros(1, 3, 128, 128)) == [
        (64, 8), (32, 16), (32, 16), (16, 32), (16, 32), (8, 64), (8, 64), (4, 128), (4, 128), (1, 32), (1, 6)]
    kernels = [layer for layer in generator.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.weight.numel() for layer in kernels] == [
        9 * 3 * 8, 9 * 8 * 16, 9 * 16 * 16, 9 * 16 * 32, 9 * 32 * 32, 9 * 32 * 64, 9 * 64 * 64, 9 * 64 * 128,
        9 * 128 * 128, 16 * 128 * 32, 32 * 6]
    assert [layer.stride[0] for layer in kernels] == [2, 2, 1, 2, 1, 2, 1, 2, 1, 1, 1]
    # with the printed 16 kernels in Conv6 and Conv8 the next rows could not read their own inputs
    assert [layer.in_channels for layer in kernels[6:9:2]] == [64, 128]
    normalised = 2 * sum(stgan.PAPER.generator)
    assert parameter_count(generator) == sum(layer.weight.numel() for layer in kernels) + normalised + 6 == 360_750


def test_table_2_by_output_size_and_number_of_weights():
    discriminator = msm.Discriminator(stgan.PAPER)
    assert walk(discriminator.layers, torch.zeros(1, 3, 128, 128)) == [
        (64, 32), (32, 64), (16, 128), (8, 256), (4, 512), (2, 1024), (1, 2)]
    counts = [sum(p.numel() for p in layer.parameters()) for layer in discriminator.layers]
    assert counts == [16 * a * b + b for a, b in zip((3, 32, 64, 128, 256, 512), (32, 64, 128, 256, 512, 1024))] + [
        4 * 1024 * 2 + 2]
    assert discriminator(torch.zeros(3, 3, 128, 128)).shape == (3, 2)


def test_two_logits_are_the_scalar_of_the_text():
    logits = torch.randn(7, 2, dtype=torch.float64)
    scalar = torch.sigmoid(logits[:, 1] - logits[:, 0])
    assert torch.allclose(msm.discriminator_objective(logits, logits),
                          scalar.log().mean() + (1 - scalar).log().mean())


def test_an_untrained_generator_leaves_the_crop_as_it_is():
    torch.manual_seed(0)
    images = torch.rand(2, 1, 128, 128) - 0.5
    theta = msm.Generator()(images)
    assert torch.equal(theta, torch.eye(2, 3).expand(2, 2, 3))
    assert torch.allclose(msm.straighten(images, theta), images, atol=1e-5)


def test_theta_is_not_rounded_to_bfloat16():
    torch.manual_seed(0)
    generator = msm.Generator(TINY)
    nn.init.normal_(generator.last.weight, std=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        theta = generator(torch.rand(4, 1, 128, 128) - 0.5)
    assert theta.dtype == torch.float32 and not torch.equal(theta, theta.bfloat16().float())


# ---- grid and sampler ----------------------------------------------------------------------------------------------

def test_equation_2_pixel_by_pixel():
    theta, size = poses(3), 6
    found = msm.grid(theta, size)
    assert torch.allclose(found, F.affine_grid(theta, (3, 1, size, size), align_corners=False), atol=1e-6)
    for b, y, x in np.ndindex(3, size, size):
        target = torch.tensor([(2 * x + 1) / size - 1, (2 * y + 1) / size - 1, 1])
        assert torch.allclose(found[b, y, x], theta[b] @ target, atol=1e-6)


def test_autocast_does_not_round_places():
    """A grid in bfloat16 would read crops up to half a pixel away."""
    theta, points, crops = poses(3), torch.rand(3, 5, 2) * 128, torch.rand(3, 1, 128, 128)
    calls = (lambda: msm.grid(theta, 128), lambda: msm.straighten(crops, theta), lambda: msm.move(points, theta, 128),
             lambda: msm.move_back(points, theta, 128), lambda: msm.true_theta(points, MEAN, 128))
    for call in calls:
        plain = call()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(call(), plain)


def test_the_gradient_of_the_sampler_is_that_of_finite_differences():
    x = torch.linspace(-2, 2, 12, dtype=torch.float64)
    images = (torch.sin(x) + torch.cos(1.3 * x[:, None]))[None, None]
    theta = torch.tensor([[[0.613, 0.117, 0.0317], [-0.091, 0.577, -0.0213]]], dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda t: (msm.straighten(images, t) * weights).sum(), (theta,), eps=1e-7,
                                    atol=1e-5)


def test_a_dot_lands_where_its_point_does():
    points, theta, size = torch.tensor([[[40.0, 70.0], [90.0, 30.0]]]), poses(1, seed=3), 128
    rough = msm.move(points, theta, size)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    for place, true in zip(rough[0], points[0]):
        blob = torch.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / 32)[None, None]
        straight = msm.straighten(blob, theta)[0, 0]
        seen = torch.stack([(straight * x).sum(), (straight * y).sum()]) / straight.sum()
        assert (seen - true).norm() < 0.05


@pytest.mark.parametrize("size", [7, 64, 128])
def test_pixel_maps_are_theta_between_pixel_centres(size):
    theta, points = poses(4), torch.rand(4, 9, 2) * size
    normal = (2 * points + 1) / size - 1
    wanted = ((normal @ theta[:, :, :2].mT + theta[:, None, :, 2] + 1) * size - 1) / 2
    assert torch.allclose(msm.move(points, theta, size), wanted, atol=1e-3)
    assert np.allclose(geometry.transform(points[2], msm.pixel_map(theta, size)[2]), wanted[2], atol=1e-3)


def test_the_printed_inverse_of_line_14_leads_away_from_the_rough_crop():
    """S_O = theta^-1 S_F with the theta of Eq. 2 does not give the landmarks back; theta does."""
    rough, theta = posed(5)
    straight = msm.from_frame(MEAN, 128).expand(5, -1, -1)
    full = torch.cat([theta, torch.tensor([[[0.0, 0, 1]]]).expand(5, 1, 3)], 1)
    printed = msm.move(straight, torch.linalg.inv(full)[:, :2], 128)
    assert (msm.move(straight, theta, 128) - rough).norm(dim=-1).max() < 1e-3
    assert (printed - rough).norm(dim=-1).mean(1).min() > 5


# ---- the true theta ------------------------------------------------------------------------------------------------

def test_the_frame_and_back():
    points = torch.rand(5, 2) * 128
    assert torch.allclose(msm.to_frame(msm.from_frame(points, 96, 0.2), 96, 0.2), points, atol=1e-4)
    corners = torch.tensor([[-0.5, -0.5], [127.5, 127.5]])
    assert torch.allclose(msm.to_frame(corners, 128, 0), corners)
    assert torch.allclose(msm.to_frame(corners, 128, 0.5) - 63.5, (corners - 63.5) * 1.5)


def test_the_true_theta_of_a_posed_mean_face_is_its_pose():
    rough, theta = posed(6)
    assert torch.allclose(msm.true_theta(rough, MEAN, 128), theta, atol=1e-5)
    assert torch.allclose(msm.true_theta(rough / 2 - 0.25, MEAN, 64), theta, atol=1e-5)     # half the pixels


def test_the_true_theta_is_procrustes():
    rng = np.random.default_rng(1)
    landmarks = torch.tensor(rng.uniform(0, 128, (4, 5, 2)))
    theta = msm.true_theta(landmarks, MEAN.double(), 128)
    goal = msm.from_frame(MEAN.double(), 128).numpy()
    for face, back in zip(landmarks.numpy(), msm.pixel_map(theta, 128).numpy()):
        np.testing.assert_allclose(geometry.compose(back, geometry.procrustes(face, goal)), np.eye(2, 3), atol=1e-9)


def test_moving_back_undoes_moving():
    points = torch.rand(4, 7, 2, dtype=torch.float64) * 128
    theta = poses(4).double() + 0.1 * torch.randn(4, 2, 3, dtype=torch.float64)             # no similarity
    torch.testing.assert_close(msm.move_back(msm.move(points, theta, 128), theta, 128), points)


def test_a_mean_face_is_canonical_and_of_any_pose_of_its_faces():
    rng = np.random.default_rng(2)
    shapes = rng.uniform(20, 100, (1, 68, 2)) + rng.normal(0, 2, (9, 68, 2))
    mean = msm.mean_face(shapes)
    np.testing.assert_allclose(msm.canonical(mean[None])[0], mean, atol=1e-9)
    moved = np.stack([geometry.transform(s, geometry.similarity(1 + i / 9, i, (i, 3))) for i, s in enumerate(shapes)])
    np.testing.assert_allclose(msm.mean_face(moved), mean, atol=1e-9)


def test_a_residual_is_one_of_the_mean_that_was_aimed_at():
    """Judged by a mean face a tenth larger, a theta that is right leaves the face a tenth too small."""
    rough, theta = posed(6)
    larger = MEAN.mean(0) + 1.1 * (MEAN - MEAN.mean(0))
    left = msm.pose_residual(theta, msm.true_theta(rough, larger, 128))
    torch.testing.assert_close(left.scale, torch.full((6,), 1 / 1.1, dtype=torch.float64), rtol=1e-4, atol=0)
    assert left.rotation.abs().max() < 1e-2


@settings(max_examples=50, deadline=None)
@given(st.floats(-90, 90), st.floats(0.3, 3), st.floats(-1, 1), st.floats(-1, 1))
def test_the_residual_names_the_pose_that_is_left(angle, scale, x, y):
    """A crop straightened by ``target`` but for a turn, a size and a shift shows the face so turned, sized, moved."""
    target = poses(1, seed=5).double()
    left = torch.tensor(geometry.similarity(scale, np.deg2rad(angle), (x, y)))[None]
    back = torch.linalg.inv(left[..., :2])
    theta = torch.cat([target[..., :2] @ back, target[..., 2:] - target[..., :2] @ back @ left[..., 2:]], -1)
    found = msm.pose_residual(theta, target, margin=0)
    assert found.rotation.item() == pytest.approx(angle, abs=1e-6)
    assert found.scale.item() == pytest.approx(scale, rel=1e-9)
    assert found.shift.item() == pytest.approx(np.hypot(x, y) / 2, abs=1e-9)


def test_no_residual_where_theta_is_right():
    theta = poses(4)
    rotation, scale, shift = msm.pose_residual(theta, theta)
    assert rotation.abs().max() < 1e-4 and (scale - 1).abs().max() < 1e-6 and shift.max() < 1e-6


# ---- losses --------------------------------------------------------------------------------------------------------

def test_losses_by_hand():
    p = torch.tensor([0.9, 0.6]), torch.tensor([0.2, 0.7])                      # D of real and of generated crops
    real, fake = (torch.stack([torch.log(1 - d), torch.log(d)], -1) for d in p)
    assert msm.discriminator_objective(real, fake).item() == pytest.approx(
        np.log([0.9, 0.6]).mean() + np.log([0.8, 0.3]).mean(), rel=1e-5)
    assert msm.adversarial_loss(fake).item() == pytest.approx(np.log([0.8, 0.3]).mean(), rel=1e-5)
    assert msm.adversarial_loss(fake, saturating=False).item() == pytest.approx(-np.log([0.2, 0.7]).mean(), rel=1e-5)
    theta = torch.zeros(2, 2, 3)
    target = torch.stack([torch.full((2, 3), 2.0), torch.eye(2, 3)])
    assert msm.parameter_loss(theta, target).item() == pytest.approx((np.sqrt(24) + np.sqrt(2)) / 2, rel=1e-6)


def test_an_exact_theta_and_a_sure_discriminator_have_finite_gradients():
    theta = poses(2).requires_grad_()
    msm.parameter_loss(theta, theta.detach()).backward()
    assert torch.equal(theta.grad, torch.zeros_like(theta))
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    (msm.adversarial_loss(logits) + msm.adversarial_loss(logits, saturating=False)).backward()
    assert torch.isfinite(logits.grad).all()


def batch_of(n=3):
    torch.manual_seed(1)
    landmarks, theta = posed(n)
    return {"image": torch.rand(n, 1, 128, 128) - 0.5, "landmarks": landmarks}, theta


@pytest.mark.parametrize("saturating", [True, False])
def test_one_backward_pass_gives_each_player_its_own_gradient(saturating):
    """Algorithm 1: the generator descends Eq. 5, the discriminator climbs Eq. 3, and neither sees the other's slope."""
    torch.manual_seed(0)
    gan, (batch, target) = msm.StGan(TINY), batch_of()
    nn.init.normal_(gan.generator.last.weight, std=0.1)
    generator, discriminator = list(gan.generator.parameters()), list(gan.discriminator.parameters())
    loss = msm.stgan_loss(gan, MEAN, adversarial=0.7, parameters=2.0, saturating=saturating)
    sum(loss(gan(batch["image"]), batch).values()).backward()
    found = [p.grad.clone() for p in generator + discriminator]
    theta = gan(batch["image"])
    real, fake = msm.straighten(batch["image"], target), msm.straighten(batch["image"], theta)
    equation_5 = 2.0 * msm.parameter_loss(theta, target) + 0.7 * msm.adversarial_loss(gan.discriminator(fake),
                                                                                       saturating)
    equation_3 = msm.discriminator_objective(gan.discriminator(real), gan.discriminator(fake))
    down = torch.autograd.grad(equation_5, generator, retain_graph=True)
    up = torch.autograd.grad(equation_3, discriminator)
    for ours, theirs in zip(found, [*down, *[-g for g in up]], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("adversarial", [0.0, 0.5])
def test_a_step_can_be_captured(adversarial):
    gan, (batch, _) = msm.StGan(TINY), batch_of()
    loss = msm.stgan_loss(gan, MEAN.double(), adversarial)
    assert_capturable(lambda: loss(gan(batch["image"]), batch))
    assert (gan.discriminator.layers[0][0].weight.grad is not None) == (adversarial > 0)


def test_each_player_is_a_group_of_its_own():
    gan = msm.StGan(TINY)
    groups = gan.parameter_groups()
    assert groups == {"generator": list(gan.generator.parameters()),
                      "discriminator": list(gan.discriminator.parameters())}
    assert sum(len(group) for group in groups.values()) == len(list(gan.parameters()))


def test_without_the_game_the_discriminator_stands_still():
    gan, (batch, target) = msm.StGan(TINY), batch_of()
    parts = msm.stgan_loss(gan, MEAN, adversarial=0)(gan(batch["image"]), batch)
    assert list(parts) == ["parameters"]
    assert parts["parameters"].item() == pytest.approx(msm.parameter_loss(torch.eye(2, 3), target).item(), rel=1e-5)
    parts["parameters"].backward()
    assert all(p.grad is None for p in gan.discriminator.parameters())


class Crosses:
    """Crops of a white cross on black, turned, sized and moved."""

    def __init__(self, n):
        self.landmarks, theta = posed(n, seed=4)
        x = torch.linspace(-1, 1, 128)
        cross = ((x.abs() < 0.1) | (x[:, None].abs() < 0.1)).float() * ((x < 0.6) & (x[:, None] < 0.9))
        full = torch.cat([theta, torch.tensor([[[0.0, 0, 1]]]).expand(n, 1, 3)], 1)
        self.images = msm.straighten(cross.expand(n, 1, -1, -1) - 0.5, torch.linalg.inv(full)[:, :2])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return {"image": self.images[i], "landmarks": self.landmarks[i]}


def test_training_straightens():
    data = Crosses(8)
    target = msm.true_theta(data.landmarks, MEAN, 128)
    torch.manual_seed(0)
    gan = msm.StGan(replace(stgan.LITE, discriminator=(4,) * 6))
    config = TrainConfig(12, 8, 2e-3, schedule="steps", warmup=0, amp="off", device="cpu", log_every=1)
    history = fit(gan, data, msm.stgan_loss(gan, MEAN), config, progress=False)
    assert set(history[0]) == {"step", "lr", "parameters", "adversarial", "discriminator", "loss",
                               "gradient_norm"}
    assert history[-1]["parameters"] < 0.8 * history[0]["parameters"]
    with torch.no_grad():
        before, after = (msm.pose_residual(theta, target).rotation.abs().mean()
                         for theta in (torch.eye(2, 3).expand(8, 2, 3), gan.train()(data.images)))
    assert after < before


@pytest.mark.parametrize("call, words", [
    (lambda: msm.StGanConfig(generator=(8,) * 9), "generator.*10"),
    (lambda: msm.StGanConfig(discriminator=(8, 0, 8, 8, 8, 8)), "discriminator"),
    (lambda: msm.StGanConfig(in_channels=0), "in_channels"),
    (lambda: msm.Generator()(torch.zeros(1, 1, 64, 64)), "images.*128.*64"),
    (lambda: msm.Discriminator()(torch.zeros(1, 3, 128, 128)), "images.*3"),
    (lambda: msm.grid(torch.zeros(3, 3), 8), "theta"),
    (lambda: msm.straighten(torch.zeros(2, 1, 8, 9), torch.zeros(2, 2, 3)), "images"),
    (lambda: msm.straighten(torch.zeros(2, 1, 8, 8), torch.zeros(1, 2, 3)), "images"),
    (lambda: msm.true_theta(torch.zeros(1, 5, 2), MEAN, 128), "one point"),
    (lambda: msm.true_theta(torch.full((1, 5, 2), torch.nan), MEAN, 128), "NaN"),
    (lambda: msm.true_theta(torch.zeros(1, 4, 2), MEAN, 128), "mean"),
    (lambda: msm.pose_residual(torch.zeros(1, 2, 3), poses(1)), "invertible"),
    (lambda: msm.pose_residual(poses(1), torch.zeros(2, 3)), "target"),
    (lambda: msm.stgan_loss(msm.StGan(TINY), MEAN, adversarial=-1), "weights"),
    (lambda: msm.stgan_loss(msm.StGan(TINY), MEAN)(poses(3), {**batch_of()[0], "landmarks": torch.zeros(3, 4, 2)}),
     "landmarks"),
    (lambda: msm.stgan_loss(msm.StGan(TINY), MEAN, adversarial=float("nan")), "weights"),
])
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
