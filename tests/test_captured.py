"""A captured forward pass answers as the plain one does."""

import pytest
import torch

from facealign_lite.nets import HourglassConfig, StackedHourglass, captured

SMALL = HourglassConfig(landmarks=3, image_size=32, channels=16, depth=2, stem=(8, 16, 16))
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def model(request):
    torch.manual_seed(0)
    return StackedHourglass(SMALL).eval().to(request.param)


def test_it_answers_as_the_model_does(model):
    device = next(model.parameters()).device
    first, second = torch.rand(2, 3, 1, 32, 32, device=device) - 0.5
    run = captured(model, first)
    kept = run(first)[-1]
    with torch.inference_mode():
        torch.testing.assert_close(run(second)[-1], model(second)[-1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(kept, model(first)[-1], atol=1e-4, rtol=1e-4)    # the first answer has stayed


def test_half_precision_is_near(model):
    images = torch.rand(2, 1, 32, 32, device=next(model.parameters()).device) - 0.5
    heat = captured(model, images, dtype=torch.bfloat16)(images)[-1]
    wanted = model(images)[-1]
    assert heat.dtype == torch.bfloat16
    assert (heat.float() - wanted).norm() < 0.05 * wanted.norm()


def test_other_shapes_and_modes_are_refused(model):
    images = torch.rand(2, 1, 32, 32, device=next(model.parameters()).device)
    if images.is_cuda:
        with pytest.raises(ValueError, match="captured shapes"):
            captured(model, images)(images[:1])
    with pytest.raises(ValueError, match="eval mode"):
        captured(model.train(), images)
