"""The small detector: what it is made of, and that it sees a face wherever and at whatever size it is meant to."""

import numpy as np
import pytest
import torch
from skimage import data

from facealign_lite.nets import blazeface

EYES = np.array([(204.0, 101.0), (248.0, 103.0)])           # of the astronaut, the person's right one first


def seen(picture):
    images = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
    scores, boxes, points = (values[0].numpy() for values in blazeface.load()(images))
    return scores.max(), boxes[scores.argmax()], points[scores.argmax()]


def test_anchors_and_shapes():
    scores, boxes, points = blazeface.load()(torch.zeros(2, 3, 128, 160))
    count = 16 * 20 * 2 + 8 * 10 * 6
    assert scores.shape == (2, count) and boxes.shape == (2, count, 4) and points.shape == (2, count, 6, 2)
    assert sum(p.numel() for p in blazeface.load().parameters()) < 110_000
    assert blazeface.WEIGHTS.stat().st_size < 250_000


@pytest.mark.parametrize("shift", [(0, 0), (48, 16), (7, 90)])
def test_a_face_is_seen_where_it_lies(shift):
    x, y = shift
    picture = np.zeros((384, 384, 3), np.uint8)
    face = data.astronaut()[20:220, 100:350]
    picture[y:y + 200, x:x + 250] = face
    score, box, points = seen(picture)
    there = EYES - (100, 20) + shift
    assert score > 0.8 and np.abs(points[:2] - there).max() < 5
    assert (box[:2] < there.min(0)).all() and (box[2:] > there.max(0)).all()
    assert np.ptp(box[::2]) == pytest.approx(np.ptp(box[1::2]), abs=0.5)             # square


def test_no_face_no_score():
    for picture in (np.zeros((128, 128, 3), np.uint8), data.coffee()[:384, :592]):
        assert seen(picture)[0] < 0.6                                                # what is left, the judge refuses
