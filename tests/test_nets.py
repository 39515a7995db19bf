"""Hourglass and losses against their definitions."""

import numpy as np
import pytest
import torch
from capture import assert_capturable
from hypothesis import given, settings
from hypothesis import strategies as st

from facealign_lite.nets import (
    LITE,
    PAPER,
    Hourglass,
    HourglassConfig,
    Residual,
    StackedHourglass,
    constant,
    landmark_loss,
    mse_loss,
    parameter_count,
    to_grey,
)

TINY = HourglassConfig(landmarks=5, image_size=32, channels=8, stacks=2, depth=2, stem=(4, 8, 8))


def by_hand(logits, batch, sigma=1.2, heat=0.3):
    """landmark_loss with the target maps written out."""
    size, (height, width) = batch["image"].shape[-1], logits.shape[-2:]
    q = (batch["landmarks"] + 0.5) * width / size - 0.5
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    target = torch.exp(-((x - q[..., 0, None, None]) ** 2 + (y - q[..., 1, None, None]) ** 2) / (2 * sigma**2))
    target = target / target.sum((-2, -1), keepdim=True)
    p = torch.exp(logits) / torch.exp(logits).sum((-2, -1), keepdim=True)
    mean = torch.stack([(p * x).sum((-2, -1)), (p * y).sum((-2, -1))], -1)
    return (mean - q).abs().mean() + heat * -(target * torch.log(p)).sum((-2, -1)).mean()


def toy_batch(points=5, size=32, seed=0):
    draw = torch.manual_seed(seed)
    return {"image": torch.zeros(3, 1, size, size), "landmarks": torch.rand(3, points, 2, generator=draw) * (size - 1)}


def test_a_residual_unit_with_a_silent_branch_is_its_skip():
    unit = Residual(6, 6)
    torch.nn.init.zeros_(unit.branch[-1].weight)
    x = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(unit(x), x)
    assert Residual(4, 6)(torch.randn(2, 4, 5, 5)).shape == (2, 6, 5, 5)
    with pytest.raises(ValueError, match="even"):
        Residual(4, 5)


def test_parameters_are_those_of_the_paper():
    def residual(i, o):
        m = o // 2
        return i * m + 9 * m * m + m * o + 2 * (i + 2 * m) + (i * o if i != o else 0)
    assert parameter_count(Residual(64, 128)) == residual(64, 128)
    assert parameter_count(Hourglass(4, 256)) == 13 * residual(256, 256)          # three a scale and one at the bottom
    one = parameter_count(StackedHourglass(HourglassConfig(stacks=1)))
    two = parameter_count(StackedHourglass(HourglassConfig(stacks=2)))
    c, k = 96, 68
    assert two - one == 14 * residual(c, c) + c * c + 2 * c + c * k + k + (c * c + c) + (k * c + c)
    assert one < 1_000_000 and PAPER.heatmap_size == 64 and LITE.heatmap_size == 32


def test_frozen_weights_are_counted_unless_only_the_trained_are_asked_for():
    unit = Residual(64, 128)
    everything = parameter_count(unit)
    unit.skip.requires_grad_(False)
    assert parameter_count(unit) == everything == sum(p.numel() for p in unit.parameters())
    assert parameter_count(unit, trained=True) == everything - 64 * 128


def test_every_stack_predicts_and_learns():
    net = StackedHourglass(TINY)
    outputs = net(torch.randn(3, 1, 32, 32))
    assert [o.shape for o in outputs] == [(3, 5, 8, 8)] * 2
    landmark_loss(outputs, toy_batch()).backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []


def test_other_sizes_pass_and_wrong_ones_are_refused():
    net = StackedHourglass(TINY).eval()
    assert net(torch.randn(1, 1, 48, 64))[-1].shape == (1, 5, 12, 16)
    for shape in [(1, 3, 32, 32), (1, 1, 40, 32), (1, 32, 32)]:
        with pytest.raises(ValueError, match="images"):
            net(torch.randn(shape))
    for bad in [{"image_size": 100}, {"stacks": 0}, {"channels": 64}, {"stem": (48, 96)}]:
        with pytest.raises(ValueError):
            HourglassConfig(**bad)
    with pytest.raises(ValueError, match="depth"):
        Hourglass(0, 8)


def test_a_shift_of_the_input_shifts_the_features():
    """Away from the border, moving the image by the coarsest stride moves the heatmap with it."""
    net = StackedHourglass(HourglassConfig(landmarks=2, image_size=32, channels=8, depth=1, stem=(4, 8, 8))).eval()
    x = torch.zeros(1, 1, 256, 256)
    x[..., 120:136, 120:136] = torch.randn(16, 16)
    a, b = net(x)[-1], net(x.roll((8, 16), (2, 3)))[-1]                           # one heatmap pixel is 4 image pixels
    torch.testing.assert_close(a[..., 20:40, 20:40], b[..., 22:42, 24:44], atol=1e-4, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_landmark_loss_is_its_definition(seed):
    batch = toy_batch(seed=seed)
    logits = torch.randn(3, 5, 8, 8, generator=torch.manual_seed(seed)) * 3
    torch.testing.assert_close(landmark_loss([logits], batch), by_hand(logits, batch), atol=1e-4, rtol=1e-4)
    both = landmark_loss([logits, logits.flip(0)], batch)
    torch.testing.assert_close(both, by_hand(logits, batch) + by_hand(logits.flip(0), batch), atol=1e-4, rtol=1e-4)


def test_losses_are_least_at_the_truth():
    batch = toy_batch(size=64)
    q = (batch["landmarks"] + 0.5) / 4 - 0.5
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    square = (x - q[..., 0, None, None]) ** 2 + (y - q[..., 1, None, None]) ** 2
    assert mse_loss([torch.exp(-square / 2)] * 2, batch).item() == pytest.approx(0, abs=1e-9)
    best = landmark_loss([-square / (2 * 1.2**2)], batch, heat=1)
    for other in (-square / 8, -square * 2, -square.roll(1, -1) / (2 * 1.2**2)):
        assert landmark_loss([other], batch, heat=1) > best


@pytest.mark.parametrize("loss", [landmark_loss, mse_loss])
def test_gradients_are_right_and_finite(loss):
    batch = {k: v.double() for k, v in toy_batch(size=16).items()}
    batch["landmarks"][0, 0] = torch.tensor([-40.0, 500.0])                        # far outside the crop
    for logits in (torch.zeros(3, 5, 4, 4), torch.full((3, 5, 4, 4), 1e4), torch.randn(3, 5, 4, 4) * 100):
        logits.requires_grad_()
        value = loss([logits], {k: v.float() for k, v in batch.items()})
        value.backward()
        assert value.isfinite() and logits.grad.isfinite().all()
    with pytest.raises(ValueError, match="landmarks"):
        loss([torch.zeros(3, 4, 4, 4)], batch)


def test_grey_is_opencvs():
    import cv2
    image = np.random.default_rng(0).random((9, 7, 3), np.float32)
    seen = to_grey(torch.from_numpy(image).permute(2, 0, 1)[None])
    np.testing.assert_allclose(seen[0, 0].numpy(), cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), atol=1e-5)
    assert to_grey(seen) is seen
    with pytest.raises(ValueError, match="images"):
        to_grey(torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize("loss", [landmark_loss, mse_loss])
def test_a_step_can_be_captured(loss):
    net, batch = StackedHourglass(TINY), toy_batch()
    assert_capturable(lambda: loss(net(batch["image"]), batch))


def test_a_constant_is_made_once_and_serves_training_even_if_an_evaluation_asked_first():
    with torch.inference_mode():
        first = constant((2, 0), torch.device("cpu"))
    x = torch.randn(3, requires_grad=True)
    x[constant((2, 0), torch.device("cpu"))].sum().backward()
    assert x.grad.tolist() == [1, 0, 1] and constant((2, 0), torch.device("cpu")) is first
