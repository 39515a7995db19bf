"""What the page "Your own photo" computes with: graphs answer as networks do, and missing ones are not covered up."""

import base64
import gzip
import json
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from book import browser_models
from facealign_lite import zoo
from facealign_lite.nets import blazeface


def parts(script):
    """What a script puts into window.yourPhoto."""
    head, tail = "window.yourPhoto = Object.assign(window.yourPhoto ?? {}, ", ");\n"
    assert script.startswith(head) and script.endswith(tail)
    return json.loads(script[len(head):-len(tail)])


def unpacked(text):
    return gzip.decompress(base64.b64decode(text))


def test_bytes_are_packed_the_same_each_time():
    data = bytes(range(256)) * 40
    assert unpacked(browser_models.packed(data)) == data
    assert browser_models.packed(data) == browser_models.packed(data)
    assert parts(browser_models.script({"a": {"b": [1, 2]}})) == {"a": {"b": [1, 2]}}


def test_the_page_gets_the_librarys_numbers():
    settings = json.loads(json.dumps(browser_models.settings()))
    assert settings["margin"] == 0.3 and settings["size"] == 128 and settings["eyes"] == [[36], [45]]
    assert sorted(settings["flip"]) == list(range(68)) and len(settings["contours"]) == 13
    assert zoo.load("hourglass", "cpu").config.image_size == zoo.load("acenet", "cpu").config.image_size == 128


def test_the_kit_is_a_plain_script():
    kit = browser_models.kit()
    assert "\nexport " not in kit and "return { clamp, " in kit


def test_networks_that_cannot_be_written_are_not_left_from_before(tmp_path, monkeypatch):
    networks, mark = tmp_path / "networks.js", tmp_path / "networks.sha256"
    for name, value in (("FOLDER", tmp_path), ("NETWORKS", networks), ("CONTOURS", tmp_path / "contours.js"),
                        ("MARK", mark)):
        monkeypatch.setattr(browser_models, name, value)
    networks.write_text("old")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stderr="no onnxscript"))
    assert "no onnxscript" in browser_models.write()
    assert not networks.exists() and (tmp_path / "kit.js").exists()
    for file in (networks, tmp_path / "contours.js"):
        file.write_text("new")
    mark.write_text(browser_models.made_of())
    assert browser_models.write() is None and networks.read_text() == "new"


# ---- the graphs of the built book ----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def sessions():
    if not browser_models.is_fresh():
        pytest.skip("`make book` writes the networks")
    runtime = pytest.importorskip("onnxruntime")
    written = {**parts(browser_models.NETWORKS.read_text())["networks"],
               **parts(browser_models.CONTOURS.read_text())}
    return {name: runtime.InferenceSession(unpacked(written[name]), providers=["CPUExecutionProvider"])
            for name in browser_models.GRAPHS}


@pytest.mark.book
@pytest.mark.parametrize("height, width", [(128, 128), (144, 640), (512, 256)])
def test_the_face_finder_answers_as_the_network(sessions, height, width):
    images = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = sessions["finder"].run(None, {"image": images.numpy()})
    for one, other in zip(found, blazeface.load("cpu")(images), strict=True):
        assert one.shape == tuple(other.shape)
        np.testing.assert_allclose(one, other.numpy(), atol=1e-3)


@pytest.mark.book
@pytest.mark.parametrize("name, model", [("hourglass", "hourglass"), ("contours", "acenet")])
@pytest.mark.parametrize("count", [1, 3])
def test_maps_are_those_of_the_network(sessions, name, model, count):
    images = torch.rand(count, 1, 128, 128, generator=torch.Generator().manual_seed(0)) - 0.5
    (found,) = sessions[name].run(None, {"image": images.numpy()})
    with torch.inference_mode():
        wanted = zoo.load(model, "cpu")(images)[-1]
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-3)
