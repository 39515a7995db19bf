"""The multistage model behind the front door: a weights file of three stages, a rough box, the command line."""

import json

import numpy as np
import pytest
import torch
from skimage import data
from test_msm_network import BOOK, TINY, Sure
from test_msm_stgan import poses

from facealign_lite import align as front
from facealign_lite import geometry, msm, zoo
from facealign_lite.__main__ import main
from facealign_lite.align import align
from facealign_lite.data import crop_matrix

PHOTO = np.ascontiguousarray(data.astronaut())
BOX = (170, 60, 280, 200)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return msm.Msm.assemble(msm.Generator(), msm.HeatNet(TINY), BOOK)


def test_a_weights_file_holds_all_three_stages(model, tmp_path):
    path = zoo.save(model, tmp_path / "msm.safetensors", half=False)
    found, _ = zoo.read(path)
    assert type(found) is msm.Msm and found.config == model.config
    assert torch.equal(found.exemplars, model.exemplars)
    ours, theirs = (align(PHOTO, BOX, one, "cpu") for one in (path, model))
    np.testing.assert_array_equal(ours.landmarks, theirs.landmarks)
    assert ours.landmarks.shape == (68, 2) and ours.scores.max() == 1 and ours.box.tolist() == list(BOX)


def test_half_precision_moves_exemplars_less_than_a_tenth_of_a_pixel(model, tmp_path):
    found, _ = zoo.read(zoo.save(model, tmp_path / "msm.safetensors"))
    assert (found.exemplars - model.exemplars).abs().max() < 0.1


@pytest.mark.parametrize("box", [BOX, (150, 90, 310, 190)])
def test_a_turned_crop_is_undone_down_to_the_photo(model, box):
    """Networks that know the answer: landmarks come back to the photo through theta and the crop."""
    theta = poses(1, seed=8)
    straight = msm.from_frame(torch.from_numpy(BOOK.exemplars[:1]), 128)
    with torch.no_grad():
        model.generator.last.bias.copy_(theta.flatten())
    model.hourglass = Sure(straight)
    true = geometry.transform(msm.move(straight, theta.double(), 128)[0].numpy(),
                              geometry.invert(crop_matrix(box, 128, front.MARGIN)))
    seen, _ = front.rebuild(front.grey(PHOTO), box, model, reconstruct=False)
    assert np.linalg.norm(seen - true, axis=1).max() < 0.1
    rebuilt, _ = front.rebuild(front.grey(PHOTO), box, model)
    np.testing.assert_array_equal(align(PHOTO, box, model, "cpu").landmarks, rebuilt)


def test_the_hourglass_finds_the_face(model):
    found = align(PHOTO, model=model, device="cpu")
    np.testing.assert_array_equal(found.box, front.find(front.grey(PHOTO), zoo.load("hourglass", "cpu")))


def test_the_command_line(model, tmp_path):
    weights, photo = zoo.save(model, tmp_path / "msm.safetensors"), tmp_path / "a.png"
    front.cv2.imwrite(str(photo), PHOTO[..., ::-1])
    arguments = [str(photo), "--box", *map(str, BOX), "--model", str(weights), "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "o.png"), "--json", str(tmp_path / "o.json")]) == 0
    told = json.loads((tmp_path / "o.json").read_text())
    assert np.shape(told["landmarks"]) == (68, 2) and front.load_image(tmp_path / "o.png").shape == PHOTO.shape
