"""What a graphics card adds to the loop: captured steps that end where eager ones do. Skipped where there is none."""

import warnings
from dataclasses import replace

import pytest
import torch
from test_training import Batched
from torch import nn
from toy_run import CONFIG, Toy, toy_loss, toy_model, train

from facealign_lite.nets import HourglassConfig, StackedHourglass, landmark_loss
from facealign_lite.training import CHECKPOINT, fit, read_checkpoint, steps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CARD = replace(CONFIG, device="cuda", amp="off")


class OnCard(Batched):
    """Ramps made on the device from a few drawn numbers."""

    def draws(self, keys):
        return {"noise": torch.stack([super(Batched, self).at(*key)["image"] for key in keys]),
                "slope": torch.stack([super(Batched, self).at(*key)["slope"] for key in keys])}

    def batch(self, draws):
        return {"image": draws["noise"] + 0, "slope": draws["slope"] * 1}


def close(a, b, tolerance=1e-4):
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values()):
        torch.testing.assert_close(x, y, atol=tolerance, rtol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("data", [Toy, OnCard])
def test_captured_equals_eager(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captured, rows = train(CARD, toy_model(drop=0), data=data())
    eager, wanted = train(replace(CARD, capture=False), toy_model(drop=0), data=data())
    close(captured, eager)
    for row, other in zip(rows, wanted, strict=True):
        assert row == pytest.approx(other, rel=1e-3)


def test_the_card_ends_where_the_processor_does(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    # without normalisation: a bias before it has no gradient but rounding, by which Adam walks at its full rate
    on_card, _ = train(CARD, toy_model(norm=False, drop=0))
    on_cpu, _ = train(replace(CONFIG, device="cpu"), toy_model(norm=False, drop=0))
    close(on_card.cpu(), on_cpu, 1e-3)


def test_dropout_is_drawn_anew_in_every_replay():
    class Dice(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))
            self.register_buffer("seen", torch.zeros(40, 16))
            self.register_buffer("at", torch.zeros(1, dtype=torch.long))

        def forward(self, images):
            mask = nn.functional.dropout(torch.ones(16, device=images.device), 0.5, self.training)
            self.seen.index_copy_(0, self.at, mask[None])
            self.at += 1
            return self.w * images.flatten(1)[:, :1]
    model, _ = train(replace(CARD, ema=0), Dice())
    assert len(model.seen.unique(dim=0)) > 38


def test_a_resumed_run_on_the_card_goes_on(tmp_path):
    whole, history = train(CARD, toy_model(drop=0))

    class Stops(Toy):
        def at(self, epoch, index):
            if epoch == 7:
                raise KeyboardInterrupt
            return super().at(epoch, index)
    Stops.__name__ = "Toy"
    config = replace(CARD, out=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(config, toy_model(drop=0), data=Stops())
    assert 0 < read_checkpoint(tmp_path / CHECKPOINT)[0]["step"] < CARD.steps
    model, again = train(config, toy_model(drop=0), resume=True)
    close(model, whole)
    assert [row["step"] for row in again] == [row["step"] for row in history]


@pytest.mark.parametrize("waits", [lambda o: o * (1.0 if o.sum().item() > 0 else 1.0),
                                   lambda o: o[o[:, 0].abs() >= 0],
                                   lambda o: o * torch.tensor([1.0], device=o.device)], ids=["item", "mask", "copy"])
def test_what_cannot_be_captured_is_said_once_and_trained_all_the_same(waits):
    with pytest.warns(UserWarning, match="not captured") as said:
        model, _ = train(CARD, toy_model(drop=0), lambda o, b: toy_loss(waits(o), b))
    assert len(said) == 1
    close(model, train(CARD, toy_model(drop=0))[0])


def test_runs_on_streams_of_their_own():
    configs = [CARD, replace(CARD, steps=23, seed=5), replace(CARD, steps=31, lr=0.01)]
    together = [toy_model(drop=0) for _ in configs]
    going = [steps(model, OnCard(), toy_loss, config, progress=False) for model, config in zip(together, configs)]
    while going:
        going = [run for run in going if next(run, None) is not None]
    for model, config in zip(together, configs):
        close(model, train(config, toy_model(drop=0), data=OnCard())[0])


def test_an_hourglass_in_bf16_learns_under_capture():
    torch.manual_seed(0)
    points = torch.rand(4, 3, 2) * 20 + 6
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    images = torch.exp(-((x - points[..., :1, None]) ** 2 + (y - points[..., 1:, None]) ** 2) / 8)
    images = (images * torch.tensor([1.0, 0.6, -0.8])[:, None, None]).sum(1, keepdim=True)
    data = [{"image": i, "landmarks": p} for i, p in zip(images, points, strict=True)]
    net = StackedHourglass(HourglassConfig(landmarks=3, image_size=32, channels=16, depth=2, stem=(8, 16, 16)))
    config = replace(CARD, steps=80, lr=5e-3, ema=0, amp="auto")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(net, data, landmark_loss, config, progress=False)
    error = net.read(net(images.cuda())).points.cpu() - points
    assert error.abs().mean() < 1.5
