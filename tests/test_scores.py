"""Scores of every network tell a face from what is none."""

import cv2
import numpy as np
import pytest
from skimage import data

from facealign_lite import looks, zoo
from facealign_lite.synthetic import SyntheticFaces

SIZE = 160
BOX = np.array([30.0, 30.0, 130.0, 130.0])
MARGIN = 0.08            # between the middle one of the faces and the surest other picture


def not_faces():
    """Black, grey and white squares, white noise, noise as coarse as a face's parts, and bricks."""
    rng = np.random.default_rng(0)
    flat = [np.full((SIZE, SIZE, 3), value, np.uint8) for value in (0, 128, 255)]
    noise = rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    soft = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 6)
    soft = np.clip((soft - soft.mean()) * 6 + 128, 0, 255).astype(np.uint8)
    return [*flat, noise, soft, np.repeat(data.brick()[100:100 + SIZE, 100:100 + SIZE, None], 3, 2)]


@pytest.mark.parametrize("name", zoo.names())
def test_faces_score_higher_than_what_is_none(name):
    network = zoo.load(name, "cpu")
    faces = [(face.image, face.box) for face in SyntheticFaces(4, SIZE, seed=6)]
    faces.append((data.astronaut(), np.array([176.0, 78.0, 276.0, 190.0])))
    sure = [float(looks.look_twice(picture, box, network)[0].scores.mean()) for picture, box in faces]
    other = [float(looks.look_twice(picture, BOX, network)[0].scores.mean()) for picture in not_faces()]
    # the least sure of RHT's faces, a half hidden one, is hardly above the surest noise: 0.48 and 0.46
    assert np.median(sure) > max(other) + MARGIN and min(sure) > max(other[:3]) + MARGIN
