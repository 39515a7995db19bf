"""Networks as graphs: exported for other programs, and compiled by PyTorch, they answer as they do here."""

import errno
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from facealign_lite import msm, nets, zoo
from facealign_lite.align import align
from facealign_lite.data import Crops, box_of
from facealign_lite.export import Graph, example
from facealign_lite.msm.model import move
from facealign_lite.nets import HourglassConfig, StackedHourglass
from facealign_lite.synthetic import SyntheticFaces

TINY = HourglassConfig(landmarks=3, image_size=32, channels=8, stem=(4, 8, 8), depth=2)
FACES = SyntheticFaces(3, 128, seed=11)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return StackedHourglass(TINY).eval()


@pytest.fixture(scope="module", params=zoo.names())
def network(request):
    return zoo.load(request.param, "cpu")


@pytest.fixture(scope="module")
def inputs(network):
    """What the network takes for three rendered faces."""
    crops = Crops(FACES, network.config.image_size)
    images = torch.stack([crops[i]["image"] for i in range(3)])
    return (images, *(network.lend(images) if len(network.inputs) > 1 else ()))


@pytest.fixture(scope="module")
def session(network, tmp_path_factory):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    path = zoo.export(network, tmp_path_factory.mktemp("graphs") / "one.onnx")
    return runtime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session, inputs) -> dict[str, np.ndarray]:
    found = session.run(None, {one.name: value.numpy() for one, value in zip(session.get_inputs(), inputs)})
    return dict(zip([one.name for one in session.get_outputs()], found))


# ---- ONNX ----------------------------------------------------------------------------------------------------------

def test_onnx_runtime_reads_the_same_landmarks(network, inputs, session):
    """Below 0.01 pixel, in batches of any size."""
    config = network.config
    for count in (1, 3):
        some = tuple(one[:count] for one in inputs)
        found = run(session, some)
        with torch.inference_mode():
            outputs = network(*some)
            wanted = Graph(network)(*some)
            reading = network.read(outputs)
        assert list(found) == list(wanted) and [one.name for one in session.get_inputs()] == list(network.inputs)
        for name, value in wanted.items():
            assert found[name].dtype == np.float32 and found[name].shape == tuple(value.shape)
            np.testing.assert_allclose(found[name], value.numpy(), atol=0.009 if "points" in name else 2e-3)
        if isinstance(network, msm.Msm):
            plain = msm.run(network, some[0], reconstruct=False)
            np.testing.assert_allclose(found["points"], plain.landmarks.numpy(), atol=0.01)
            rebuilt = after_the_graph(network, found)
            np.testing.assert_allclose(rebuilt, reading.points.numpy(), atol=0.01)
        else:
            np.testing.assert_allclose(found["points"], reading.points.numpy(), atol=0.01)
        assert np.abs(found["points"] - config.image_size / 2).max() < config.image_size
        np.testing.assert_allclose(found["scores"], reading.scores.numpy(), atol=1e-4)


def after_the_graph(network, found) -> np.ndarray:
    """What chapter and docstring say: the rest of MSM's reading, from what its graph gives."""
    config = network.config
    trust = msm.reliable(found["w"], str(config.landmarks), config.outline, config.inner, config.floor,
                         config.relative)
    frame = msm.to_frame(torch.from_numpy(found["preliminary"]).double(), config.image_size, config.margin).numpy()
    rebuilt = network.dictionary.reconstruct(frame, trust, config.k, config.ridge, keep=config.keep)
    straight = msm.from_frame(torch.from_numpy(rebuilt), config.image_size, config.margin)
    return move(straight, torch.from_numpy(found["theta"]).double(), config.image_size).numpy()


def test_batch_is_left_open_and_the_file_says_how_it_is_used(network, session):
    for one in (*session.get_inputs(), *session.get_outputs()):
        assert one.shape[0] == "batch" and all(isinstance(side, int) for side in one.shape[1:])
    size = network.config.image_size
    assert session.get_inputs()[0].shape == ["batch", network.config.in_channels, size, size]
    about = session.get_modelmeta()
    facts = about.custom_metadata_map
    assert facts["architecture"] == type(network).__name__ and json.loads(facts["config"])["image_size"] == size
    assert facts["input_range"] == "[-0.5, 0.5]" and facts["margin"] == "0.3"
    assert "crop_matrix" in about.description


def test_a_file_is_exported_by_its_path_too_and_the_network_stays_as_it_was(model, tmp_path):
    pytest.importorskip("onnxscript")
    saved = zoo.save(model, tmp_path / "a.safetensors", half=False)
    model.train()
    one, other = zoo.export(saved, tmp_path / "a.onnx"), zoo.export(model, tmp_path / "b.onnx")
    assert model.training and model.hourglasses[0].training
    assert one.read_bytes() == other.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.onnx", "a.safetensors", "b.onnx"]


def test_what_cannot_be_exported_is_refused(model, tmp_path):
    for name in ("a.pt", "a", "a.onnx.txt"):
        with pytest.raises(ValueError, match="path must end in .onnx"):
            zoo.export(model, tmp_path / name)
    with pytest.raises(ValueError, match="format must be one of"):
        zoo.export(model, tmp_path / "a.onnx", "coreml")
    with pytest.raises(ValueError, match="model must have config, inputs, read"):
        zoo.export(nn.Conv2d(1, 1, 1), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="model must be one of"):
        zoo.export("nobody", tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="takes words"):
        example(SimpleNamespace(config=TINY, inputs=("image", "words"), parameters=model.parameters))
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r'pip install "facealign-lite\[onnx\]"'):
        zoo.export(model, tmp_path / "a.onnx")


def test_a_full_disk_leaves_the_old_file(model, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    path = tmp_path / "a.onnx"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="cannot write"):
        zoo.export(model, path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


# ---- PyTorch's own graphs ------------------------------------------------------------------------------------------

def tensors(outputs) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_network_answers_as_the_plain_one(network, inputs, backend):
    torch._dynamo.reset()
    compiled = torch.compile(network, backend=backend)
    with torch.no_grad():
        found, wanted = tensors(compiled(*inputs)), tensors(network(*inputs))
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)


def test_an_exported_program_answers_as_the_network_and_leaves_it_unharmed(network, inputs):
    """Constants that are kept for the next call must not be the stand-ins without numbers that a tracer computes by."""
    nets.losses._kept.cache_clear()
    with torch.no_grad():
        program = torch.export.export(network, inputs)
        found, wanted = tensors(program.module()(*inputs)), tensors(network(*inputs))
        points = network.read(network(*inputs)).points
    for one, other in zip(found, wanted, strict=True):
        assert type(other) is Tensor
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)
    assert torch.isfinite(points).all()


def test_align_takes_a_compiled_network(network):
    torch._dynamo.reset()
    sample = FACES[0]
    box = box_of(sample.landmarks)
    wanted = align(sample.image, box, network)
    found = align(sample.image, box, torch.compile(network, backend="eager"))
    np.testing.assert_allclose(found.landmarks, wanted.landmarks, atol=1e-3)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
