"""The lab's controls without a browser: what each of them changes, and that the notebook with it runs."""

import io
from dataclasses import replace
from datetime import datetime, timezone

import cv2
import nbformat
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from book.executed import ROOT
from facealign_lite import lab, metrics, zoo
from facealign_lite.align import prepared
from facealign_lite.data import box_of
from facealign_lite.synthetic import SyntheticFaces


@pytest.fixture(scope="module")
def face():
    return SyntheticFaces(10, 128, 4)[2]


@pytest.fixture(scope="module")
def shown():
    return lab.Lab(models=("hourglass",))


def test_the_cover_hides_its_pixels():
    picture = np.zeros((100, 120, 3), np.uint8)
    assert lab.covered(picture, []) is picture
    rows, columns = np.nonzero((lab.covered(picture, (19.5, 49.5, 59.5, 89.5)) == 128).all(-1))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (20, 59, 50, 89) and len(rows) == 40 * 40
    assert (lab.covered(picture, (-50, -50, 500, 500)) == 128).all() and not picture.any()
    for cover in ((1, 2, 3), (10, 10, 5, 20), (0, 0, np.nan, 5)):
        with pytest.raises(ValueError, match="cover must be empty or"):
            lab.covered(picture, cover)


@pytest.mark.parametrize("name", zoo.names())
def test_every_network_can_be_looked_into(face, name):
    seen = lab.see(face.image, box_of(face.landmarks), prepared(name, "cpu"))
    assert (seen.contours is not None) == name.startswith("acenet")
    assert len(seen.landmarks) == (12 if name.startswith("acenet") else 68) and 0 < seen.score <= 1
    size = prepared(name, "cpu").config.image_size
    assert seen.crop.shape == (size, size) and seen.crop.dtype == np.uint8
    assert 0 <= seen.heat.min() and seen.heat.max() == pytest.approx(1, abs=1e-6)


def test_maps_are_found_in_whatever_a_network_gives():
    a, b = torch.zeros(1, 2, 4, 4), torch.ones(1, 3, 4, 4)
    assert [t.shape[1] for t in lab._tensors({"x": [a, (torch.zeros(1, 6), b)], "y": None})] == [2, 3]


def test_a_png_has_a_row_a_view_and_a_column_a_network(face):
    box = box_of(face.landmarks)
    seen = lab.see(face.image, box, prepared("hourglass", "cpu"))
    sizes = {}
    for columns, views in ((1, ("answer",)), (2, ("answer",)), (1, ("answer", "heat"))):
        png = lab.drawn(face.image, box, dict(zip("ab", columns * [seen])), views, face.landmarks)
        sizes[columns, len(views)] = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    ground = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)[..., 3]
    assert (ground[0] == 0).all() and (ground == 255).mean() > 0.5                # clear around the pictures
    assert sizes[2, 1][1] == 2 * sizes[1, 1][1] and sizes[1, 2][0] == 2 * sizes[1, 1][0]
    for answers, views in (({}, ("answer",)), ({"a": seen}, ()), ({"a": seen}, ("map",))):
        with pytest.raises(ValueError, match="answers and views must not be empty"):
            lab.drawn(face.image, box, answers, views)


def test_box_cover_and_networks_change_the_answer(shown):
    before, picture = list(shown.scene.box), shown.shown.value
    shown.scene.box = [side + 9.0 for side in before]
    moved = shown.shown.value
    assert moved != picture
    shown.scene.cover = [before[0], (before[1] + before[3]) / 2, *before[2:]]
    assert shown.shown.value != moved
    hidden = lab.covered(shown.picture, shown.scene.cover)
    assert shown.answers()["hourglass"].score == lab.see(hidden, shown.scene.box, prepared("hourglass", "cpu")).score
    shown.reset.click()
    assert shown.scene.box == before and shown.scene.cover == [] and shown.shown.value == picture
    shown.models["hourglass"].value = False
    assert shown.told.value.startswith("Choose at least one")
    shown.models["acenet"].value = shown.models["hourglass"].value = True
    assert set(shown.answers()) == {"acenet", "hourglass"}
    shown.models["acenet"].value = False
    assert shown.shown.value == picture
    shown.scene.box = [1000.0, 1000.0, 1100.0, 1100.0]
    assert "centre on the image" in shown.told.value
    shown.reset.click()


def test_the_error_is_that_of_the_true_landmarks(shown):
    found = lab.see(shown.picture, shown.face_box, prepared("hourglass", "cpu"))
    error = 100 * metrics.nme(found.landmarks, shown.true)[0]
    assert f"hourglass {error:.1f}." in shown.told.value and f"hourglass {error:.1f}." in shown.shown.value
    assert "acenet none" in lab._words({"acenet": replace(found, landmarks=found.landmarks[:12])}, shown.true)
    assert lab._words({"a": found}, None) == f"Mean scores: a {found.score:.2f}."


def test_names_are_checked_at_the_door():
    with pytest.raises(ValueError, match="models must be of .*hourglass.*, got .*resnet"):
        lab.Lab(models=("resnet",))


def encoded(picture):
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def upload(shown, picture):
    shown.upload.value = ({"name": "a.png", "type": "image/png", "size": 1, "content": memoryview(picture),
                           "last_modified": datetime.now(timezone.utc)},)


def test_a_photo_comes_in_four_ways(shown, tmp_path):
    photo = data.astronaut()
    path = tmp_path / "astronaut.png"
    path.write_bytes(encoded(photo))
    for bring in (shown.sample.click, lambda: setattr(shown.path, "value", str(path)),
                  lambda: upload(shown, encoded(photo)), lambda: upload(shown, encoded(photo)),      # the same again
                  lambda: shown.scene.set_state({"photo": memoryview(encoded(photo))})):
        shown.rendered.click()
        assert shown.true is not None and shown.picture.shape == (lab.SIZE, lab.SIZE, 3)
        bring()
        assert (shown.picture == photo).all() and shown.true is None and shown.told.value.startswith("Mean scores")
        left, top, right, bottom = shown.scene.box
        assert 150 < left < right < 300 and 50 < top < bottom < 250                   # her face
        assert shown.scene.size == [512, 512] and shown.upload.value == ()


def test_after_a_photo_another_face_is_the_one_from_before_and_then_the_next(shown):
    shown.sample.click()
    number = shown.number.value
    shown.rendered.click()
    assert shown.number.value == number and shown.true is not None
    shown.rendered.click()
    assert shown.number.value == number + 1


def test_a_large_photo_is_made_small_and_stands_upright(shown):
    note = Image.Exif()
    note[0x112] = 6                                 # to be turned by 90 degrees with the clock
    file = io.BytesIO()
    tall = cv2.resize(data.astronaut(), (1400, 1600))
    Image.fromarray(np.rot90(tall).copy()).save(file, "JPEG", exif=note)
    upload(shown, file.getvalue())
    assert shown.picture.shape == (640, 560, 3)
    assert np.abs(shown.picture.astype(float) - cv2.resize(tall, (560, 640), interpolation=cv2.INTER_AREA)).mean() < 4


def test_what_is_near_the_face_lies_on_the_picture_and_holds_the_box():
    assert lab._near((100, 100, 140, 150), (512, 400)) == [45, 50, 195, 200]
    assert lab._near((0, 10, 40, 60), (512, 90)) == [0, 0, 150, 90]
    left, top, right, bottom = lab._near((470, 300, 530, 380), (512, 400))
    assert (right, bottom) == (512, 400) and left < 470 and top < 300 and (left, top) == (272, 160)


def test_without_a_face_the_reader_is_given_a_box(shown):
    upload(shown, encoded(np.full((100, 200, 3), 90, np.uint8)))
    assert shown.scene.box == [50, 25, 150, 75] and "No face was found. Drag the yellow box" in shown.told.value
    assert shown.scene.near == [0, 0, 200, 100]


def test_what_is_wrong_with_a_file_is_told_and_the_picture_stays(shown, tmp_path):
    shown.sample.click()
    upload(shown, b"no picture")
    assert shown.told.value.startswith("This file could not be read as a picture.")
    shown.path.value = str(tmp_path / "none.png")
    assert shown.told.value.startswith("No photo: ") and "none.png" in shown.told.value
    assert shown.picture.shape == (512, 512, 3)


@pytest.mark.notebook
def test_the_labs_notebook_runs(tmp_path):
    import papermill

    done = papermill.execute_notebook(ROOT / "notebooks" / "lab.ipynb", tmp_path / "lab.ipynb", cwd=ROOT / "notebooks",
                                      kernel_name="python3", progress_bar=False)
    shown = [out for cell in done.cells if cell.cell_type == "code" for out in cell.outputs]
    assert any("application/vnd.jupyter.widget-view+json" in out.get("data", {}) for out in shown)
    source = nbformat.read(ROOT / "notebooks" / "lab.ipynb", 4)
    assert not any(cell.get("outputs") for cell in source.cells)
