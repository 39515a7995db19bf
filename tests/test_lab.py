"""The lab's controls without a browser: what each of them changes, and that the notebook with it runs."""

import io

import cv2
import nbformat
import numpy as np
import pytest
import torch

from book.executed import ROOT
from facealign_lite import lab, zoo
from facealign_lite.align import prepared
from facealign_lite.data import box_of
from facealign_lite.synthetic import SyntheticFaces


@pytest.fixture(scope="module")
def face():
    return SyntheticFaces(10, 128, 4)[2]


@pytest.fixture(scope="module")
def shown():
    return lab.Lab(models=("hourglass",))


def test_the_cover_has_its_share_and_place():
    picture = np.zeros((100, 120, 3), np.uint8)
    box = (20, 10, 100, 90)
    for share in (0.0, 0.25, 1.0):
        assert (lab.covered(picture, box, share) == 128).all(-1).sum() == pytest.approx(share * 6400, abs=1)
    rows, columns = np.nonzero((lab.covered(picture, box, 0.25, (0, 1)) == 128).all(-1))
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (20, 60, 50, 90)
    assert not picture.any()
    for share, place in ((1.5, (0, 0)), (0.1, (0, 2)), (0.1, 0.5)):
        with pytest.raises(ValueError, match="share and place must lie in"):
            lab.covered(picture, box, share, place)


@pytest.mark.parametrize("name", zoo.names())
def test_every_network_can_be_looked_into(face, name):
    seen = lab.see(face.image, box_of(face.landmarks), prepared(name, "cpu"))
    assert (seen.contours is not None) == (name == "acenet")
    assert len(seen.landmarks) == (12 if name == "acenet" else 68) and 0 < seen.score <= 1
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
    assert sizes[2, 1][1] == 2 * sizes[1, 1][1] and sizes[1, 2][0] == 2 * sizes[1, 1][0]
    for answers, views in (({}, ("answer",)), ({"a": seen}, ()), ({"a": seen}, ("map",))):
        with pytest.raises(ValueError, match="answers and views must not be empty"):
            lab.drawn(face.image, box, answers, views)


def test_the_controls_move_box_cover_and_networks(shown):
    before, picture = shown.box.copy(), shown.shown.value
    side = (before[2:] - before[:2]).max()
    shown.x.value = 0.1
    assert shown.box == pytest.approx(before + [0.1 * side, 0, 0.1 * side, 0]) and shown.shown.value != picture
    shown.x.value, shown.scale.value = 0.0, 1.2
    assert np.ptp(shown.box[::2]) == pytest.approx(1.2 * np.ptp(before[::2]))
    shown.scale.value, picture = 1.0, shown.shown.value
    shown.share.value = 0.4
    assert shown.shown.value != picture
    shown.share.value = 0.0
    shown.models.value = ()
    assert shown.told.value.startswith("Choose at least one")
    shown.models.value = ("hourglass", "acenet")
    assert list(shown.answers()) == ["acenet", "hourglass"] or set(shown.answers()) == {"acenet", "hourglass"}
    shown.models.value = ("hourglass",)


def test_a_photo_comes_by_path_or_upload_and_what_is_wrong_is_told(shown, tmp_path):
    from skimage import data

    photo = data.astronaut()
    path = tmp_path / "astronaut.png"
    cv2.imwrite(str(path), photo[..., ::-1])
    shown.path.value = str(path)
    assert shown.picture.shape == photo.shape and shown.true is None and shown.told.value == ""
    left, top, right, bottom = shown.box
    assert 150 < left < right < 300 and 50 < top < bottom < 250                       # her face
    blank = io.BytesIO(cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes())
    shown._try(blank)
    assert shown.told.value.startswith("No face: ") and shown.picture.shape == photo.shape
    shown.path.value = str(tmp_path / "none.png")
    assert shown.told.value.startswith("No face: ")
    shown.path.value = ""
    assert shown.true is not None and shown.picture.shape == (lab.SIZE, lab.SIZE, 3)


@pytest.mark.notebook
def test_the_labs_notebook_runs(tmp_path):
    import papermill

    done = papermill.execute_notebook(ROOT / "notebooks" / "lab.ipynb", tmp_path / "lab.ipynb", cwd=ROOT / "notebooks",
                                      kernel_name="python3", progress_bar=False)
    shown = [out for cell in done.cells if cell.cell_type == "code" for out in cell.outputs]
    assert any("application/vnd.jupyter.widget-view+json" in out.get("data", {}) for out in shown)
    source = nbformat.read(ROOT / "notebooks" / "lab.ipynb", 4)
    assert not any(cell.get("outputs") for cell in source.cells)
