"""Weights files: what is saved comes back, and nothing else is let in."""

import errno
import importlib.util
import json
import time
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as to_bytes
from torch import nn

from facealign_lite import zoo
from facealign_lite.acenet import AceConfig, AceNet
from facealign_lite.nets import HourglassConfig, StackedHourglass
from facealign_lite.records import ROOT
from facealign_lite.scpan import Scpan, ScpanConfig

TINY = HourglassConfig(image_size=32, channels=8, stem=(4, 8, 8), depth=2)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return StackedHourglass(TINY)


def test_float32_comes_back_to_the_bit(model, tmp_path):
    found, record = zoo.read(zoo.save(model, tmp_path / "a.safetensors", {"steps": 7}, half=False))
    assert found.config == TINY and record == {"steps": 7} and not found.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.state_dict().items())


def test_float16_is_half_the_size_and_close(model, tmp_path):
    whole = zoo.save(model, tmp_path / "a.safetensors", half=False)
    half = zoo.save(model, tmp_path / "b.safetensors")
    kernels = sum(value.numel() for value in model.state_dict().values() if value.ndim > 1)
    assert whole.stat().st_size - half.stat().st_size == pytest.approx(2 * kernels, abs=200)
    found = zoo.load(half, "cpu")
    images = torch.rand(2, 1, 32, 32) - 0.5
    assert next(found.parameters()).dtype == torch.float32
    torch.testing.assert_close(found(images)[-1], model.eval()(images)[-1], atol=1e-2, rtol=1e-2)


def test_an_ace_network_comes_back(tmp_path):
    torch.manual_seed(0)
    model = AceNet(AceConfig(image_size=64, widths=(4, 8, 8), depth=2)).eval()
    found, _ = zoo.read(zoo.save(model, tmp_path / "a.safetensors"))
    images = torch.rand(1, 1, 64, 64) - 0.5
    assert found.config == model.config
    for ours, theirs in zip(found(images), model(images), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=1e-2)


def test_a_scpan_comes_back(tmp_path):
    torch.manual_seed(0)
    model = Scpan(ScpanConfig(image_size=32, channels=8, stages=2, depth=1, stem=(4, 4, 8), bali=False)).eval()
    found, _ = zoo.read(zoo.save(model, tmp_path / "a.safetensors"))
    images = torch.rand(1, 1, 32, 32) - 0.5
    assert found.config == model.config
    torch.testing.assert_close(found(images).heatmaps, model(images).heatmaps, atol=1e-3, rtol=1e-2)


def test_what_float16_cannot_hold_stays_float32(model, tmp_path):
    with torch.no_grad():
        model.heads[0].weight[0, 0] = 1e6
        model.stem[1].running_var[0] = 1e-9
    found, _ = zoo.read(zoo.save(model, tmp_path / "a.safetensors"))
    assert found.heads[0].weight[0, 0] == 1e6 and found.stem[1].running_var[0] == 1e-9


def test_shipped_models_are_small_and_whole():
    for name in zoo.names():
        model = zoo.load(name, "cpu")
        assert (zoo.FOLDER / f"{name}.safetensors").stat().st_size < 2_000_000
        size, channels = model.config.image_size, model.config.in_channels
        lent = (torch.zeros(1, channels, size // 2, size // 2), torch.zeros(1, 68, 2)) if name == "rht" else ()
        with torch.inference_mode():
            said = model(torch.zeros(1, channels, size, size), *lent)
        output = said.landmarks if name == "rht" else said.heatmaps[-1] if name == "scpan" else said[-1]
        assert output.shape[1] == {"acenet": 25, "acenet_weak": 25}.get(name, 68) and torch.isfinite(output).all()
        assert zoo.record(name)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="hourglass.*'hourgals'"):
        zoo.load("hourgals")
    with pytest.raises(ValueError, match="hourgals"):
        zoo.record("hourgals")


def test_missing_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="hourglass.safetensors"):
        zoo.load("hourglass")


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(tmp_path_factory, payload):
    path = tmp_path_factory.mktemp("zoo") / "a.safetensors"
    path.write_bytes(payload)
    with pytest.raises(ValueError, match="a.safetensors"):
        zoo.read(path)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.999])
def test_truncated_file(model, tmp_path, keep):
    path = zoo.save(model, tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:int(keep * path.stat().st_size)])
    with pytest.raises(ValueError, match="not a safetensors file"):
        zoo.read(path)


def meta(**changes):
    good = {"format": zoo.FORMAT, "architecture": "StackedHourglass",
            "config": json.dumps({"image_size": 32, "channels": 8, "stem": [4, 8, 8], "depth": 2}), "record": "{}"}
    return {name: value for name, value in (good | changes).items() if value is not None}


@pytest.mark.parametrize("changes", [
    {"format": None}, {"format": "other 1"}, {"architecture": "ResNet"}, {"config": None}, {"config": "[1, 2]"},
    {"config": "{"}, {"config": '{"unknown": 1}'}, {"config": '{"stacks": 0}'}, {"config": '{"stacks": "two"}'},
])
def test_foreign_metadata(model, tmp_path, changes):
    path = tmp_path / "a.safetensors"
    path.write_bytes(to_bytes(model.state_dict(), meta(**changes)))
    with pytest.raises(ValueError, match="a.safetensors must"):
        zoo.read(path)


@pytest.mark.parametrize("architecture, config", [
    ("StackedHourglass", {"channels": 4096, "stem": [48, 96, 4096]}), ("StackedHourglass", {"landmarks": 10**9}),
    ("StackedHourglass", {"channels": 16384, "stem": [48, 96, 16384]}), ("Msm", {"exemplars": 10**8}),
    ("Rht", {"width": 10**5}), ("TAB", {"stacks": 60000}), ("StackedHourglass", {"depth": 2000}),
    ("StackedHourglass", {"depth": 10**12}), ("StackedHourglass", {"image_size": 1 << 20}), ("AceNet", {"maps": 65000}),
    ("StackedHourglass", {"landmarks": float("nan")}), ("Scpan", {"channels": 2.5}), ("Msm", {"stem": [1] * 9999}),
    ("StackedHourglass", {"landmarks": "68"}), ("StackedHourglass", {"stem": None}), ("StackedHourglass", []),
    ("StackedHourglass", "[" * 100_000), ("StackedHourglass", "{"), ("StackedHourglass", None),
], ids=str)
def test_a_small_file_cannot_ask_for_much(tmp_path, monkeypatch, architecture, config):
    """What it asks for is weighed before memory is taken: no tensor with numbers may become larger than the file's."""
    made, empty = [], torch.empty

    def watched(*size, **options):
        tensor = empty(*size, **options)
        made.append(0 if tensor.is_meta else tensor.numel())
        return tensor
    monkeypatch.setattr(torch, "empty", watched)
    metadata = {"format": zoo.FORMAT, "architecture": architecture}
    if config is not None:
        metadata["config"] = config if isinstance(config, str) else json.dumps(config)
    path = tmp_path / "a.safetensors"
    path.write_bytes(to_bytes({"weight": torch.zeros(1)}, metadata))
    with pytest.raises(ValueError, match="a.safetensors"):
        zoo.read(path)
    assert max(made, default=0) < 10**6


@pytest.mark.parametrize("record", ["[" * 100_000, "3", "no"])
def test_a_damaged_record(model, tmp_path, record):
    metadata = {"format": zoo.FORMAT, "architecture": "StackedHourglass", "config": json.dumps(asdict(TINY)),
                "record": record}
    (tmp_path / "a.safetensors").write_bytes(to_bytes(model.state_dict(), metadata))
    with pytest.raises(ValueError, match="a.safetensors must hold its record"):
        zoo.read(tmp_path / "a.safetensors")


def test_a_flipped_bit_in_shipped_weights_is_noticed(tmp_path, monkeypatch):
    for path in zoo.FOLDER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    path = tmp_path / "scpan.safetensors"
    whole = bytearray(path.read_bytes())
    assert (tmp_path / zoo.SUMS).is_file() and zoo.load("scpan", "cpu")
    whole[len(whole) // 2] ^= 1                            # the last bit of one weight: finite, and another
    path.write_bytes(whole)
    for ask in (lambda: zoo.load("scpan", "cpu"), lambda: zoo.record("scpan")):
        with pytest.raises(ValueError, match="scpan.safetensors must be the file whose SHA-256"):
            ask()
    zoo.read(path)                                         # by its path it is anybody's file
    zoo.write_sums()
    assert zoo.record("scpan")
    assert (tmp_path / zoo.SUMS).read_text().count("\n") == len(zoo.names())


def test_records_hold_numbers_of_numpy_and_no_nan(model, tmp_path):
    facts = {"nme": np.float32(0.5), "steps": np.int64(7), "rows": np.eye(2), "names": ("a",)}
    path = zoo.save(model, tmp_path / "a.safetensors", facts)
    assert zoo.read(path)[1] == {"nme": 0.5, "steps": 7, "rows": [[1, 0], [0, 1]], "names": ["a"]}
    for bad in ({"nme": np.nan}, {"nme": np.float32(np.inf)}, {"model": model}, {(1, 2): 3}, 5, [1]):
        with pytest.raises(ValueError, match="record must be JSON"):
            zoo.save(model, tmp_path / "b.safetensors", bad)
    assert not (tmp_path / "b.safetensors").exists()
    with pytest.raises(ValueError, match="model must be"):
        zoo.load(["hourglass"])


def test_weights_of_another_type(model, tmp_path):
    metadata = {"format": zoo.FORMAT, "architecture": "StackedHourglass", "config": json.dumps(asdict(TINY))}
    tensors = {name: tensor.to(torch.int32) for name, tensor in model.state_dict().items()}
    (tmp_path / "a.safetensors").write_bytes(to_bytes(tensors, metadata))
    with pytest.raises(ValueError, match="of another"):
        zoo.read(tmp_path / "a.safetensors")


def test_weights_of_another_network(model, tmp_path):
    path, tensors = tmp_path / "a.safetensors", dict(model.state_dict())
    for change in (lambda t: t.pop("heads.0.bias"), lambda t: t.update(foreign=torch.ones(1)),
                   lambda t: t.update({"heads.0.bias": torch.ones(3)})):
        other = dict(tensors)
        change(other)
        path.write_bytes(to_bytes(other, meta()))
        with pytest.raises(ValueError, match="must hold the weights"):
            zoo.read(path)
    path.write_bytes(to_bytes(tensors, meta()))
    assert zoo.read(path)[0].config == TINY


def test_nan_is_neither_written_nor_read(model, tmp_path):
    with torch.no_grad():
        model.heads[0].bias[3] = np.nan
    with pytest.raises(ValueError, match="heads.0.bias"):
        zoo.save(model, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(to_bytes(model.state_dict(), meta()))
    with pytest.raises(ValueError, match="heads.0.bias"):
        zoo.read(tmp_path / "a.safetensors")


def test_save_refuses_other_models_and_endings(model, tmp_path):
    with pytest.raises(ValueError, match="Linear"):
        zoo.save(nn.Linear(2, 2), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"\.safetensors"):
        zoo.save(model, tmp_path / "a.pt")
    for half in (torch.zeros(0), None, 1):
        with pytest.raises(ValueError, match="half must be True or False"):
            zoo.save(model, tmp_path / "a.safetensors", half=half)
    with pytest.raises(ValueError, match="record must be JSON"):
        zoo.save(model, tmp_path / "a.safetensors", torch.zeros(0))
    assert not list(tmp_path.iterdir())


def test_full_disk_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = zoo.save(model, tmp_path / "a.safetensors", {"steps": 1})

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="a.safetensors"):
        zoo.save(model, path, {"steps": 2})
    assert zoo.read(path)[1] == {"steps": 1} and [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_devices():
    assert zoo.pick_device("cpu") == torch.device("cpu")
    assert zoo.pick_device().type in ("cpu", "cuda", "mps")
    for name in ("gpu9", "cuda:99", "", 3.5):
        with pytest.raises(ValueError, match="device"):
            zoo.pick_device(name)


def test_a_training_whose_time_is_up_is_closed_and_not_thrown_away(capsys):
    spec = importlib.util.spec_from_file_location("train_zoo", ROOT / "tools" / "train_zoo.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    done = []

    def run(name, steps):
        try:
            for _ in range(steps):
                yield
            done.append(f"{name} ended")
        except GeneratorExit:                           # here ``training.steps`` saves where it is
            done.append(f"{name} closed")
            raise
    tool.in_turn({"short": run("short", 3), "long": run("long", 10**9)}, until=time.monotonic() + 0.05)
    assert done == ["short ended", "long closed"] and "long is not done yet" in capsys.readouterr().out
    assert set(tool.RECIPES) >= set(zoo.names())
