"""Samples, images, crops, augmentation and packs: pixels and landmarks must move together."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from facealign_lite import geometry, markups
from facealign_lite.data import (
    CONTOUR_POINTS,
    Augmentation,
    Crops,
    PackedFaces,
    Sample,
    box_of,
    check_box,
    crop,
    crop_matrix,
    flip,
    load_image,
    samples,
    save_packed,
    write_atomic,
)
from facealign_lite.data.files import same_file, sweep

STILL = Augmentation(rotation=0, scale=(1, 1), shift=0, flip=0, outlier=0, gamma=0, contrast=(1, 1), brightness=0,
                     noise=0, colour=0, inversion=0, light=0, blur=0, motion=0, low_resolution=0, jpeg=0, occluder=0)
MOVING = replace(STILL, rotation=40, scale=(0.8, 1.3), shift=0.06, flip=0.5, outlier=0.1)


def toy_points(rng=None, size=96):
    rng = rng or np.random.default_rng(0)
    return rng.uniform(0.25 * size, 0.75 * size, (68, 2))


def toy_sample(seed=0, size=96, colour=True, contours=False):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (size, size, 3) if colour else (size, size), np.uint8)
    landmarks, seen = toy_points(rng, size), rng.random(68) < 0.8
    known = {"anchors": rng.uniform(0, size, (12, 2)),
             "contours": {name: rng.uniform(0, size, (5 + i, 2)) for i, name in enumerate(markups.CONTOURS)}}
    return Sample(cv2.GaussianBlur(image, (0, 0), 2), landmarks, seen, tags={"n": seed}, **(known if contours else {}))


# Images

RGB = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)


@pytest.mark.parametrize("source, wanted", [
    (RGB, RGB), (RGB[..., 0], RGB[..., 0]), (RGB[..., :1], RGB[..., 0]),
    (RGB.astype(np.uint16) * 257, RGB), (RGB / 255, RGB), (RGB.astype(np.float32) / 255, RGB),
    (RGB > 99, (RGB > 99) * np.uint8(255)),
    (np.dstack([RGB, np.full((5, 7), 255, np.uint8)]), RGB),
    (np.dstack([RGB, np.zeros((5, 7), np.uint8)]), np.full_like(RGB, 255)),
    (Image.fromarray(RGB), RGB), (Image.fromarray(RGB[..., 0]), RGB[..., 0]),
    (Image.fromarray(RGB).convert("RGBA"), RGB),
    (Image.fromarray(RGB[..., 0].astype(np.uint16) * 257), RGB[..., 0]),
])
def test_every_form_of_image_becomes_the_same_bytes(source, wanted):
    seen = load_image(source)
    assert seen.dtype == np.uint8 and seen.flags.c_contiguous
    np.testing.assert_array_equal(seen, wanted)


@pytest.mark.parametrize("pixels", [
    RGB, RGB[..., 0], RGB.astype(np.uint16) * 257, np.dstack([RGB, np.full((5, 7), 255, np.uint8)]),
], ids=["rgb", "grey", "16 bit", "rgba"])
def test_files_come_back_in_rgb_order(tmp_path, pixels):
    path = tmp_path / "a.png"
    order = [2, 1, 0, 3][:pixels.shape[-1]]
    cv2.imwrite(str(path), pixels[..., order] if pixels.ndim == 3 else pixels)
    np.testing.assert_array_equal(load_image(path), load_image(pixels))
    np.testing.assert_array_equal(load_image(str(path)), load_image(pixels))


def test_photos_are_turned_upright(tmp_path):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 255                                   # bright on the right as stored
    exif = Image.Exif()
    exif[0x0112] = 6                                       # "turn clockwise to view": bright below
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    upright = load_image(tmp_path / "a.jpg")
    assert upright.shape == (32, 16, 3) and upright[20:].mean() > 250 and upright[:12].mean() < 5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind, options", [("JPEG", {"quality": 100}), ("PNG", {}), ("WEBP", {"lossless": True}),
                                           ("TIFF", {})])
def test_every_way_of_holding_the_camera(tmp_path, kind, options, orientation):
    """By path and as PIL image as Pillow itself turns it."""
    y, x = np.mgrid[:20, :32]
    pixels, exif = np.dstack([x * 7, y * 10, x + y]).astype(np.uint8), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a", kind, exif=exif, **options)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a"))).astype(int)
    assert wanted.shape == ((20, 32, 3) if orientation < 5 else (32, 20, 3))
    np.testing.assert_allclose(load_image(tmp_path / "a"), wanted, atol=0 if kind != "JPEG" else 4)
    np.testing.assert_array_equal(load_image(Image.open(tmp_path / "a")), wanted)


def test_a_note_behind_the_pixels_counts_too(tmp_path):
    pixels, exif = np.arange(40, dtype=np.uint8).reshape(5, 8), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    data = (tmp_path / "a.png").read_bytes()
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at:at + 4], "big")
    last = data.index(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(data[:at] + data[end:last] + data[at:end] + data[last:])
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), np.rot90(pixels, -1))


GREY = RGB[..., 0]
MASKED = Image.fromarray(np.where(GREY > 99, GREY, 3).astype(np.uint8))


@pytest.mark.parametrize("source, wanted", [
    (Image.fromarray(GREY.astype(np.int32) * 257), GREY), (Image.fromarray(GREY.astype(np.int32)), GREY),      # I
    (Image.fromarray(GREY.astype(np.float32) / 255), GREY),                                                    # F
    (Image.frombytes("I;16B", (7, 5), (GREY.astype(">u2") * 257).tobytes()), GREY),
    (Image.fromarray(RGB).convert("CMYK"), RGB), (Image.fromarray(GREY > 99), (GREY > 99) * np.uint8(255)),
    (Image.fromarray(GREY).convert("P"), np.repeat(GREY[..., None], 3, -1)),
    (Image.fromarray(GREY).convert("LA"), np.repeat(GREY[..., None], 3, -1)),
    (GREY.astype(">u2") * 257, GREY), (torch.tensor(RGB), RGB), (torch.tensor(GREY / 255, requires_grad=True), GREY),
], ids=range(11))
def test_more_forms_of_image(source, wanted):
    np.testing.assert_array_equal(load_image(source), wanted)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_transparent_colour_is_white(tmp_path, mode):
    image = MASKED.convert(mode)
    key = image.getpixel(tuple(np.argwhere(GREY <= 99)[0][::-1].tolist()))
    image.info["transparency"] = key
    wanted = np.where(GREY > 99, GREY, 255)
    image.save(tmp_path / "a.png")
    for source in (image, Image.open(tmp_path / "a.png"), tmp_path / "a.png"):
        seen = load_image(source)
        np.testing.assert_array_equal(seen if seen.ndim == 2 else seen[..., 0], wanted)


@pytest.mark.parametrize("image", [Image.fromarray(np.full((4, 4), v, k)) for v, k in (
    (-1, np.int32), (70000, np.int32), (1.5, np.float32), (np.nan, np.float32))],
                         ids=lambda image: f"{image.mode}-{image.getpixel((0, 0))}")
def test_pictures_of_other_ranges_are_refused(image):
    with pytest.raises(ValueError, match="image"):
        load_image(image)


def bomb(width, height):
    """A PNG of one bit a pixel, all black."""
    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    pixels = zlib.compress(bytes(height * (1 + (width + 7) // 8)), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("width, height, word", [(20000, 20000, "pixels"), (40000, 1, "side"), (9, 40000, "side"),
                                                 (1 << 31, 1, "a.png")])
def test_bombs_are_refused_before_they_are_decoded(tmp_path, monkeypatch, width, height, word):
    (tmp_path / "a.png").write_bytes(bomb(width, height) if width < 1 << 20 else bomb(9, 9).replace(
        b"IHDR\0\0\0\x09", b"IHDR\x80\0\0\0"))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=f"a.png.*{word}|{word}"):
        load_image(tmp_path / "a.png")
    if width < 1 << 20:
        with pytest.raises(ValueError, match=word):
            load_image(Image.open(tmp_path / "a.png") if width * height < 10**8 else np.broadcast_to(
                np.uint8(0), (height, width)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_pipes_and_devices_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(OSError, match=f"ordinary file.*{name}"):
            load_image(tmp_path / name)


def test_files_that_are_too_long_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "MAX_BYTES", 1000)
    (tmp_path / "a.png").write_bytes(bytes(1001))
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(1 << 40)                             # a terabyte of nothing: not a byte of it is read
    with pytest.raises(ValueError, match="sparse.png must be an image of at most"):
        load_image(tmp_path / "sparse.png")
    with pytest.raises(ValueError, match="a.png must be an image of at most 1000 bytes"):
        load_image(tmp_path / "a.png")


def test_large_pictures_are_changed_strip_by_strip(monkeypatch):
    deep = np.random.default_rng(0).integers(0, 65536, (50, 40, 4), np.uint16)
    whole = load_image(deep)
    monkeypatch.setattr(samples, "STRIP", 333)
    np.testing.assert_array_equal(load_image(deep), whole)


@pytest.mark.parametrize("source", [None, object(), np.zeros((4, 4), complex), [["a"]], 3, [], torch.zeros(3, 5, 5),
                                    np.zeros((4, 4), object), "a\0.png"],
                         ids=lambda source: type(source).__name__)
def test_what_is_no_image_is_refused(source):
    with pytest.raises(ValueError):
        load_image(source)


@pytest.mark.parametrize("several", [["a.png", "b.png"], [RGB, RGB], [RGB, RGB[:3]], (Image.fromarray(RGB),) * 2,
                                     np.stack([RGB, RGB])], ids=range(5))
def test_whoever_gives_several_images_is_told_who_takes_them(several):
    with pytest.raises(ValueError, match="align_many takes several"):
        load_image(several)


def test_rows_of_numbers_are_an_image():
    np.testing.assert_array_equal(load_image([[0.0, 1.0], [1.0, 0.0]]), [[0, 255], [255, 0]])
    np.testing.assert_array_equal(load_image((RGB / 255).tolist()), RGB)
    np.testing.assert_array_equal(load_image(list(RGB)), RGB)


@pytest.mark.parametrize("start, words", [
    (b"\0\0\0\x18ftypheic", "HEIC.*JPEG"), (b"\0\0\0\x18ftypmif1", "HEIC"), (b"\0\0\0\x18ftypisom", "a video"),
    (b"RIFF\0\0\0\0AVI LIST", "a video"), (b"\x1aE\xdf\xa3", "a video"), (b"\0\0\0\x18ftypavif", r"bytes\)$")])
def test_what_is_taken_for_a_photo_often_is_told_what_it_is(tmp_path, start, words):
    (tmp_path / "a.jpg").write_bytes(start + bytes(100))
    with pytest.raises(ValueError, match=words):
        load_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("source", [np.zeros((0, 4)), np.zeros(4, np.uint8), np.zeros((4, 4, 2), np.uint8),
                                    np.zeros((4, 4), np.int64), np.full((4, 4), np.nan), np.full((4, 4), 1.5),
                                    np.zeros((1 << 15, 1), np.uint8), np.zeros((2, 3, 4, 3), np.uint8)])
def test_images_of_no_known_form_are_refused(source):
    with pytest.raises(ValueError, match="image"):
        load_image(source)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    for name in ("empty.png", "text.png"):
        with pytest.raises(ValueError, match=name):
            load_image(tmp_path / name)
    with pytest.raises(OSError, match="missing.png"):
        load_image(tmp_path / "missing.png")
    with pytest.raises(OSError):
        load_image(tmp_path)


# Samples and boxes

def test_a_sample_takes_the_box_of_its_landmarks():
    points = toy_points()
    np.testing.assert_array_equal(Sample(RGB, points).box, np.r_[points.min(0), points.max(0)])
    assert Sample(RGB).box is None


@pytest.mark.parametrize("kind", [
    {"landmarks": np.zeros((67, 2))}, {"landmarks": np.full((68, 2), np.nan)}, {"landmarks": np.zeros((68, 2))},
    {"visibility": np.ones(3)}, {"markup": "67"}, {"box": (1, 2, 3)}, {"box": (0, 0, 0, 5)}, {"box": (3, 0, 1, 5)},
    {"box": (0, 0, np.inf, 5)}, {"anchors": np.zeros((10, 2))}, {"contours": {"chin_boundary": np.zeros((3, 2))}},
    *({"landmarks": np.full((68, 2), bad), "box": (0, 0, 5, 5)} for bad in (np.nan, np.inf, 1j)),
    {"visibility": np.full(68, np.nan)},
    {"anchors": np.full((12, 2), np.nan)}, {"anchors": [["a", "b"]] * 12}, {"contours": 5}, {"image": None},
    {"contours": dict.fromkeys(markups.CONTOURS, "text")}, {"contours": dict.fromkeys(markups.CONTOURS, [[1, 2]])},
    {"contours": dict.fromkeys(markups.CONTOURS, [[1, 2], [np.nan, 3]])},
], ids=lambda kind: next(iter(kind)))
def test_a_sample_refuses_nonsense(kind):
    with pytest.raises(ValueError):
        Sample(**({"image": RGB} | kind))


def test_a_sample_takes_tensors():
    points, seen = torch.tensor(toy_points(), requires_grad=True), torch.arange(68) % 2
    sample = Sample(torch.tensor(RGB), points, seen, torch.tensor([0, 0, 9, 9]))
    np.testing.assert_array_equal(sample.landmarks, toy_points())
    np.testing.assert_array_equal(sample.visibility, np.arange(68) % 2 == 1)
    assert sample.box.dtype == np.float64 and Crops([sample], 16)[0]["landmarks"].shape == (68, 2)


def test_boxes_name_the_bad_landmark():
    points = toy_points()
    points[5, 1] = np.nan
    with pytest.raises(ValueError, match=r"\[5\]"):
        box_of(points)
    with pytest.raises(ValueError, match=r"\(0, 2\)"):
        box_of(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="left < right"):
        check_box((4, 4, 4, 8))


# Crops

BOXES = st.tuples(st.floats(-50, 50), st.floats(-50, 50), st.floats(1, 200), st.floats(1, 200)).map(
    lambda b: np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]]))


@given(BOXES, st.integers(8, 300), st.floats(0, 1), st.floats(-3, 3), st.floats(0.3, 3), st.floats(-0.3, 0.3))
def test_the_square_around_the_box_fills_the_crop(box, size, margin, angle, scale, shift):
    matrix = crop_matrix(box, size, margin, angle, (shift, -shift), scale)
    side = max(box[2] - box[0], box[3] - box[1]) * (1 + margin) * scale
    centre = (box[:2] + box[2:]) / 2 + np.array([shift, -shift]) * side
    across = side / 2 * np.array([np.cos(angle), -np.sin(angle)])               # turns into the crop's x direction
    down = side / 2 * np.array([np.sin(angle), np.cos(angle)])
    corners = centre + np.array([-across - down, across - down, across + down])
    wanted = np.array([[-0.5, -0.5], [size - 0.5, -0.5], [size - 0.5, size - 0.5]])
    np.testing.assert_allclose(geometry.transform(corners, matrix), wanted, atol=1e-6 * size)


@pytest.mark.parametrize("kind", [{"size": 0}, {"margin": -1}, {"scale": 0}, {"box": (0, 0, 0, 1)}, {"margin": np.inf},
                                  {"scale": np.inf}, {"angle": np.nan}, {"shift": (np.inf, 0)}, {"shift": (1, 2, 3)},
                                  {"size": np.nan}, {"box": (0, 0, 1e200, 1e200)}, {"scale": 1e-300}], ids=str)
def test_crop_matrix_refuses_nonsense(kind):
    with pytest.raises(ValueError):
        crop_matrix(**({"box": (0, 0, 9, 9), "size": 32} | kind))


@settings(max_examples=40, deadline=None)
@given(st.floats(-3, 3), st.floats(0.2, 12), st.booleans())
def test_a_crop_pixel_shows_the_image_at_its_own_place(angle, scale, turned):
    """On an image whose colour is its coordinate, enlarged, reduced or averaged down."""
    y, x = np.mgrid[:240, :260].astype(np.float32)
    image, size = np.dstack([x, y, x + y]), 32
    matrix = crop_matrix((110, 100, 130, 120), size, 0, angle if turned else 0, scale=scale)
    seen = crop(image, matrix, size)
    q = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1)
    p = geometry.transform(q.reshape(-1, 2), geometry.invert(matrix)).reshape(size, size, 2)
    inside = ((p > scale) & (p < np.array([259, 239]) - scale)).all(-1)         # away from the replicated border
    assert inside.any()
    np.testing.assert_allclose(seen[inside][:, :2], p[inside], atol=0.06 * max(1, scale))


def test_reduction_averages_fine_texture_away():
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    seen = crop(checks, crop_matrix((0, 0, 511, 511), 32, 0), 32)
    assert np.abs(seen[2:-2, 2:-2].astype(int) - 127).max() <= 2


def test_beyond_the_border_the_image_is_continued():
    image = np.full((20, 20), 77, np.uint8)
    assert (crop(image, crop_matrix((-60, -60, 5, 5), 16), 16) == 77).all()
    assert (crop(image, crop_matrix((900, 900, 2000, 2000), 16), 16) == 77).all()   # wholly outside, averaged down
    with pytest.raises(ValueError, match="invertible"):
        crop(image, np.zeros((2, 3)), 16)


def test_a_landmark_far_away_costs_no_memory():
    """One typing error in a list makes a box of ten million pixels: the whole picture is then a fraction of a pixel."""
    y, x = np.mgrid[:30, :50]
    image = np.dstack([x * 5, y * 8, x + y]).astype(np.uint8)
    for far in (1e3, 1e5, 1e7):
        seen = crop(image, crop_matrix((0, 0, far, far), 16, 0), 16)
        assert seen.shape == (16, 16, 3)
        np.testing.assert_allclose(seen.reshape(-1, 3), np.tile(image.mean((0, 1)), (256, 1)), atol=1)
    for shape in ((1, 3000), (3000, 1)):
        assert (crop(np.full(shape, 9, np.uint8), crop_matrix((0, 0, 1e6, 1e6), 16, 0), 16) == 9).all()
    points = toy_points()
    points[3] = 1e7, 20
    assert np.isfinite(Crops([Sample(image, points)], 32)[0]["image"]).all()


@pytest.mark.parametrize("kind", [
    {"size": 0}, {"size": -3}, {"size": 1.5}, {"size": 1 << 15}, {"size": np.nan}, {"size": "9"}, {"size": None},
    {"matrix": np.full((2, 3), np.nan)}, {"matrix": np.array([[1, 0, np.inf], [0, 1, 0]])}, {"matrix": np.eye(2)},
    {"image": np.zeros((0, 4), np.uint8)}, {"image": np.zeros((4, 4), np.int64)}, {"image": np.zeros((4, 4), bool)},
    {"image": None}, {"image": np.zeros(4, np.uint8)}, {"image": np.zeros((4, 4, 9), np.uint8)}, {"image": [[1j]]},
], ids=str)
def test_crop_refuses_nonsense(kind):
    with pytest.raises(ValueError, match="size|matrix|image"):
        crop(**({"image": np.zeros((9, 9), np.uint8), "matrix": np.eye(2, 3), "size": 8} | kind))


def test_crop_takes_whole_numbers_and_tensors():
    image = np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)
    wanted = crop(image, np.eye(2, 3), 8)
    for size in (8.0, np.int64(8), np.float32(8)):
        np.testing.assert_array_equal(crop(image, np.eye(2, 3), size), wanted)
    np.testing.assert_array_equal(crop(torch.tensor(image), torch.eye(2, 3, requires_grad=True), 8), wanted)


@given(st.integers(0, 99))
def test_two_flips_are_none(seed):
    sample = toy_sample(seed, 24)
    image, points = flip(*flip(sample.image, sample.landmarks))
    np.testing.assert_array_equal(image, sample.image)
    np.testing.assert_allclose(points, sample.landmarks, atol=1e-9)


def test_a_flip_renames_sides():
    points = toy_points()
    mirrored = flip(RGB, points)[1]
    np.testing.assert_allclose(mirrored[0], [6 - points[16, 0], points[16, 1]])
    np.testing.assert_allclose(mirrored[36], [6 - points[45, 0], points[45, 1]])
    with pytest.raises(ValueError, match="98"):
        flip(RGB, points, "98")


def test_landmarks_follow_the_pixels_through_every_placement():
    """One bright dot is landmark 3; whatever the crop, the dot is under the landmark, or under 13 once mirrored."""
    size, points = 192, toy_points(size=192)
    points[3] = 80, 110
    image = np.zeros((size, size), np.uint8)
    image[110, 80] = 255
    image = cv2.normalize(cv2.GaussianBlur(image, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    crops, mirrored, seen = Crops([Sample(image, points)], 128, MOVING), 0, 0
    assert markups.get("68").flip[3] == 13
    for epoch in range(60):
        item = crops.at(epoch, 0)
        heat = item["image"][0].numpy().astype(np.float64) + 0.5
        y, x = np.mgrid[:128, :128]
        dot = np.array([(heat * x).sum(), (heat * y).sum()]) / heat.sum()
        flipped = np.linalg.det(item["matrix"][:, :2].numpy()) < 0
        mirrored += flipped
        mark = item["landmarks"][13 if flipped else 3].numpy()
        if ((mark > 14) & (mark < 113)).all():                                  # the whole dot is in the crop
            np.testing.assert_allclose(dot, mark, atol=0.15)
            seen += 1
        back = geometry.transform(item["landmarks"].numpy().astype(float), geometry.invert(item["matrix"].numpy()))
        order = list(markups.get("68").flip) if flipped else slice(None)
        np.testing.assert_allclose(back[order], points, atol=1e-3)
    assert 15 < mirrored < 45 and seen > 30


def test_anchors_and_contours_follow_through_every_placement():
    """Taken back through the crop's matrix, they are the sample's own; mirrored, right and left have changed places."""
    sample, mirrored = toy_sample(2, contours=True), 0
    lines = np.stack([geometry.resample(line, CONTOUR_POINTS) for line in sample.contours.values()])
    crops = Crops([sample], 64, MOVING)
    for epoch in range(20):
        item = crops.at(epoch, 0)
        flipped = np.linalg.det(item["matrix"][:, :2].numpy()) < 0
        mirrored += flipped
        back = geometry.invert(item["matrix"].numpy())
        names = [name.replace("right", "?").replace("left", "right").replace("?", "left") if flipped else name
                 for name in markups.CONTOURS]
        for line, name in zip(item["contours"].numpy(), names):
            np.testing.assert_allclose(geometry.transform(line.astype(float), back),
                                       lines[markups.CONTOURS.index(name)], atol=1e-3)
        order = list(markups.ANCHOR_FLIP) if flipped else slice(None)
        np.testing.assert_allclose(geometry.transform(item["anchors"].numpy().astype(float), back)[order],
                                   sample.anchors, atol=1e-3)
        assert item["anchors"].dtype == item["contours"].dtype == torch.float32
    assert 3 < mirrored < 17
    assert not {"anchors", "contours"} & set(Crops([toy_sample()], 64)[0])


def test_plain_crops_are_centred_and_unchanged():
    sample = toy_sample(3)
    item = Crops([sample], 64)[0]
    wanted = crop(cv2.cvtColor(sample.image, cv2.COLOR_RGB2GRAY), crop_matrix(sample.box, 64), 64)
    np.testing.assert_allclose((item["image"][0].numpy() + 0.5) * 255, wanted, atol=2)
    np.testing.assert_array_equal(item["visibility"].numpy(), sample.visibility)
    assert item["index"] == 0 and item["image"].shape == (1, 64, 64)
    assert Crops([sample], 64, colour=True)[0]["image"].shape == (3, 64, 64)
    assert Crops([toy_sample(colour=False)], 64, Augmentation(), colour=True)[0]["image"].shape == (3, 64, 64)


def test_a_crop_depends_on_seed_epoch_and_index_alone():
    samples = [toy_sample(i, 48) for i in range(6)]
    make = lambda seed: Crops(samples, 48, Augmentation(), seed)  # noqa: E731
    one = make(5)
    forward = [one.at(2, i)["image"].numpy() for i in range(6)]
    again = make(5)
    for i in reversed(range(6)):
        np.testing.assert_array_equal(again.at(2, i)["image"].numpy(), forward[i])
    assert not np.array_equal(one.at(3, 0)["image"].numpy(), forward[0])
    assert not np.array_equal(make(6).at(2, 0)["image"].numpy(), forward[0])
    here = [b["image"].numpy() for b in DataLoader(one, 2)]
    elsewhere = [b["image"].numpy() for b in DataLoader(make(5), 2, num_workers=1)]
    np.testing.assert_array_equal(here, elsewhere)


def test_crops_refuse_nonsense():
    with pytest.raises(ValueError, match="empty"):
        Crops([])
    with pytest.raises(ValueError, match=r"samples\[0\].*box"):
        Crops([Sample(RGB)])[0]
    with pytest.raises(IndexError):
        Crops([toy_sample()])[1]
    unlabelled = Crops([Sample(RGB, box=(1, 1, 4, 4))], 16)[0]
    assert unlabelled["landmarks"].isnan().all()


# Augmentation

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([32, 64, 128]), st.booleans())
def test_photometry_stays_an_image(seed, colour, size, with_other):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (size, size, 3) if colour else (size, size), np.uint8)
    before = image.copy()
    seen = Augmentation(occluder=1, jpeg=0.5, motion=0.5).photometry(image, rng, image[::-1] if with_other else None)
    assert seen.shape == image.shape and seen.dtype == np.float32
    assert seen.min() >= 0 and seen.max() <= 1                                  # also false for NaN
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("kind", [{"scale": (1.2, 1.0)}, {"scale": (0, 1)}, {"scale": 1.0}, {"scale": (1, np.inf)},
                                  {"rotation": np.nan}, {"shift": np.inf}, {"noise": -1}, {"colour": 5}, {"flip": -1},
                                  {"blur": 7}, {"gamma": "1"}, {"jpeg": None}], ids=str)
def test_augmentations_that_cannot_be(kind):
    """A gain below zero, of "colour" above 1, has no power: such crops would be NaN."""
    with pytest.raises(ValueError, match=next(iter(kind))):
        Augmentation(**kind)


def test_no_augmentation_changes_nothing():
    rng, image = np.random.default_rng(0), toy_sample().image
    np.testing.assert_allclose(STILL.photometry(image, rng), image / 255, atol=1e-6)
    assert STILL.placement(rng)[:2] == (0, 1) and not STILL.placement(rng)[3]


@pytest.mark.parametrize("kind", ["gamma", "brightness", "noise", "colour", "inversion", "light", "blur", "motion",
                                  "low_resolution", "jpeg", "occluder"])
def test_every_effect_has_an_effect(kind):
    image = toy_sample().image
    changed = [replace(STILL, **{kind: 0.9}).photometry(image, np.random.default_rng(i)) for i in range(8)]
    assert max(np.abs(c - image / 255).mean() for c in changed) > 2e-3


def test_placements_are_drawn_as_stated():
    rng = np.random.default_rng(0)
    angle, scale, shift, mirrored = zip(*(Augmentation(outlier=0).placement(rng) for _ in range(4000)), strict=True)
    assert np.abs(angle).max() <= np.deg2rad(30) and np.std(angle) == pytest.approx(np.deg2rad(30) / 3**0.5, rel=0.05)
    assert 0.85 <= min(scale) < 0.86 and 1.29 < max(scale) <= 1.3
    assert np.std(shift) == pytest.approx(0.05, rel=0.05) and np.mean(mirrored) == pytest.approx(0.5, abs=0.03)
    wild = [Augmentation(outlier=1).placement(rng) for _ in range(1000)]
    assert np.std([w[2] for w in wild]) == pytest.approx(0.15, rel=0.1) and max(w[1] for w in wild) > 1.4


def test_light_and_occluders_reach_other_pictures():
    """A piece of the other picture is pasted as it is."""
    image, other = np.zeros((64, 64), np.uint8), np.full((64, 64), 128, np.uint8)
    only = replace(STILL, occluder=1)
    seen = [only.photometry(image, np.random.default_rng(i), other) for i in range(40)]
    assert any(np.isclose(s, 128 / 255, atol=1e-6).sum() > 50 for s in seen)


# Packs and files

def test_a_pack_gives_back_what_was_saved(tmp_path):
    samples = [toy_sample(i, 40) for i in range(5)]
    pack = save_packed(tmp_path / "pack", samples)
    assert len(pack) == 5 and isinstance(pack, PackedFaces)
    for wanted, seen in zip(samples, pack, strict=True):
        for name in ("image", "landmarks", "visibility", "box"):
            np.testing.assert_array_equal(getattr(seen, name), getattr(wanted, name))
        assert (seen.markup, seen.tags) == (wanted.markup, wanted.tags)
    for epoch in range(3):
        a, b = (Crops(faces, 32, Augmentation()).at(epoch, 3)["image"] for faces in (pack, samples))
        np.testing.assert_array_equal(a, b)
    assert len(save_packed(tmp_path / "pack", samples[:2])) == 2                # replaced
    assert sorted(os.listdir(tmp_path)) == ["pack"]


def test_a_pack_keeps_contours_where_every_sample_has_them(tmp_path):
    samples = [toy_sample(i, 40, contours=True) for i in range(3)]
    pack = save_packed(tmp_path / "pack", samples, workers=1)
    for wanted, seen in zip(samples, pack, strict=True):
        np.testing.assert_array_equal(seen.anchors, wanted.anchors)
        assert list(seen.contours) == list(markups.CONTOURS)
        for name, line in seen.contours.items():
            assert line.shape == (CONTOUR_POINTS, 2)
            np.testing.assert_allclose(line, geometry.resample(wanted.contours[name], CONTOUR_POINTS), atol=1e-4)
    np.testing.assert_array_equal(Crops(pack, 32)[1]["contours"], Crops(samples, 32)[1]["contours"])
    again = save_packed(tmp_path / "again", pack)                    # equal arcs of equal arcs would shorten corners
    np.testing.assert_array_equal(again.contours, pack.contours)
    some = save_packed(tmp_path / "some", [*samples, toy_sample(9, 40)])
    assert some.contours is None and some[0].contours is None and some[0].anchors is None


def test_processes_render_the_same_pack(tmp_path):
    samples = [toy_sample(i, 40) for i in range(4)]
    one, two = save_packed(tmp_path / "one", samples), save_packed(tmp_path / "two", samples, workers=1, progress=True)
    np.testing.assert_array_equal(one.images, two.images)
    np.testing.assert_array_equal(one.landmarks, two.landmarks)


def test_an_unfinished_pack_is_not_one(tmp_path):
    with pytest.raises(ValueError, match="empty"):
        save_packed(tmp_path / "pack", [])
    with pytest.raises(ValueError, match=r"samples\[1\]"):
        save_packed(tmp_path / "pack", [toy_sample(0, 40), toy_sample(1, 41)])
    assert os.listdir(tmp_path) == []
    (tmp_path / "pack").mkdir()
    with pytest.raises(OSError, match="pack.json"):
        PackedFaces(tmp_path / "pack")
    (tmp_path / "pack" / "pack.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="99"):
        PackedFaces(tmp_path / "pack")


def put(folder, name, content):
    """Another array in a pack, or another pack.json."""
    if name == "pack.json":
        (folder / name).write_text(content)
    elif isinstance(content, bytes):
        (folder / f"{name}.npy").write_bytes(content)
    else:
        np.save(folder / f"{name}.npy", content)


HUGE = b"\x93NUMPY\x01\x00v\x00" + (
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1000000000, 1000000000), }".ljust(118))


@pytest.mark.parametrize("name, content", [
    ("pack.json", "[]"), ("pack.json", "3"), ("pack.json", "[" * 9999), ("pack.json", "no"), ("pack.json", "\0"),
    ("pack.json", '{"format": 1}'), ("pack.json", '{"format": 1, "markup": "68", "tags": [1, 2], "contours": false}'),
    ("pack.json", '{"format": 1, "markup": "9", "tags": [{}, {}], "contours": false}'),
    ("pack.json", '{"format": 1, "markup": [], "tags": [{}, {}], "contours": false}'),
    ("pack.json", '{"format": 1, "markup": "68", "tags": [{}], "contours": false}'),
    ("landmarks", b""), ("landmarks", b"\x93NUMPY\x01\x00"), ("landmarks", np.zeros((2, 68, 2), np.float32)),
    ("landmarks", np.full((2, 68, 2), np.nan)), ("landmarks", np.zeros((3, 68, 2))), ("boxes", np.zeros((2, 5))),
    ("visibility", np.zeros((2, 68))), ("images", np.zeros((2, 8), np.uint8)), ("images", HUGE),
    ("images", np.zeros((1, 8, 8), np.uint8)), ("images", np.zeros((2, 8, 8, 4), np.uint8)),
    ("anchors", np.full((2, 12, 2), np.inf)),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_damaged_pack_is_refused_when_it_is_opened(tmp_path, name, content):
    save_packed(tmp_path / "pack", [toy_sample(i, 40, contours=True) for i in range(2)])
    put(tmp_path / "pack", name, content)
    with pytest.raises(ValueError, match="pack|markup"):
        PackedFaces(tmp_path / "pack")
    if name != "pack.json":
        (tmp_path / "pack" / f"{name}.npy").unlink()
        with pytest.raises(OSError, match=f"{name}.npy is missing"):
            PackedFaces(tmp_path / "pack")


def test_only_a_pack_is_replaced(tmp_path):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter1.tex").write_text("years of work")
    for prepare in (lambda: None, lambda: (thesis / "pack.json").touch()):      # also beside the files of a pack
        prepare()
        with pytest.raises(OSError, match="thesis.*chapter1"):
            save_packed(thesis, [toy_sample()])
    (tmp_path / "file").write_text("a file")
    with pytest.raises(OSError, match="file"):
        save_packed(tmp_path / "file", [toy_sample()])
    (tmp_path / ".new.old").mkdir()
    (tmp_path / ".new.old" / "mine.txt").touch()                                # where the old pack would be put
    with pytest.raises(OSError, match="new.old.*mine"):
        save_packed(tmp_path / "new", [toy_sample()])
    assert (thesis / "chapter1.tex").read_text() == "years of work" and (tmp_path / "file").read_text() == "a file"
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    assert len(save_packed(tmp_path / "link", [toy_sample()])) == 1             # the link stays one
    assert (tmp_path / "link").is_symlink() and len(PackedFaces(tmp_path / "empty")) == 1
    assert not list(tmp_path.glob(".*partial"))


def test_what_long_dead_runs_left_is_swept_away(tmp_path):
    for name, age in (("0123456789abcdef", 2 * 86400), ("fedcba9876543210", 60), ("mine", 2 * 86400)):
        images = tmp_path / f".pack.{name}.partial" / "images.npy"
        images.parent.mkdir()
        images.touch()
        os.utime(images, (time.time() - age,) * 2)
    save_packed(tmp_path / "pack", [toy_sample()])
    assert sorted(os.listdir(tmp_path)) == [".pack.fedcba9876543210.partial", ".pack.mine.partial", "pack"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_whoever_is_killed_while_a_pack_is_replaced_leaves_a_whole_one(tmp_path):
    """Killed before the first change of a name or file, before the second, ... until none is left to be killed at."""
    old, new, path = [toy_sample(1, 40)], [toy_sample(2, 40), toy_sample(3, 40)], tmp_path / "pack"
    for moment in range(1, 60):
        save_packed(path, old)
        if (pid := os.fork()) == 0:
            left = moment

            def hook(event, arguments):
                nonlocal left
                if event in {"os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link"}:
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
            sys.addaudithook(hook)
            save_packed(path, new)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        faces = PackedFaces(path)                                               # the old or the new one, whole
        wanted = old if len(faces) == 1 else new
        assert [face.tags["n"] for face in faces] == [sample.tags["n"] for sample in wanted]
        assert len(faces) == 2 or code != 0
        for one, other in zip(faces, wanted, strict=True):
            np.testing.assert_array_equal(one.image, other.image)
        if code == 0:
            break
    assert code == 0 and moment > 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_that_write_one_pack_leave_a_whole_one(tmp_path):
    """Each has a pack of its own length, all of one face; what is read is one of them, never parts of two."""
    ours = [[toy_sample(k, 40)] * (k + 1) for k in range(3)]
    for _ in range(12):
        children = []
        for mine in ours:
            if (pid := os.fork()) == 0:
                code = 1
                try:
                    for _ in range(3):
                        save_packed(tmp_path / "pack", mine)
                        faces = PackedFaces(tmp_path / "pack")
                        assert {face.tags["n"] for face in faces} == {len(faces) - 1}
                        assert all(np.array_equal(f.landmarks, ours[len(faces) - 1][0].landmarks) for f in faces)
                    code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
        assert os.listdir(tmp_path) == ["pack"]


def test_room_for_images_is_taken_as_they_come(tmp_path):
    """Not all at once in a sparse file: whoever maps that and finds the disk full is killed by the system."""
    sizes = []

    class Watched(list):
        def __getitem__(self, i):
            sizes.append(sum(file.stat().st_size for file in tmp_path.rglob("images.npy")))
            return super().__getitem__(i)
    save_packed(tmp_path / "pack", Watched(toy_sample(i, 200) for i in range(4)))
    assert sizes[0] < 200 * 200 * 3 and sizes[-1] > 2 * 200 * 200 * 3


FULL = """
import errno, os, sys
from pathlib import Path
from facealign_lite.data import PackedFaces, save_packed
sys.path.insert(0, sys.argv[2])
import test_data
place = Path(sys.argv[1])
save_packed(place / "pack", [test_data.toy_sample(0, 200)])
try:
    save_packed(place / "pack", [test_data.toy_sample(0, 200)] * 20)
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    assert os.listdir(place) == ["pack"] and len(PackedFaces(place / "pack")) == 1
    print("refused")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small disk")
def test_a_pack_on_a_full_disk_is_an_error_and_no_crash(tmp_path):
    (tmp_path / "full.py").write_text(FULL)
    mount = "mount -t tmpfs -o size=1m tmpfs \"$1\" || exit 77; exec \"$2\" \"$3\" \"$1\" \"$4\""
    (tmp_path / "disk").mkdir()
    here = Path(__file__).parent
    done = subprocess.run(["unshare", "-rm", "sh", "-c", mount, "sh", str(tmp_path / "disk"), sys.executable,
                           str(tmp_path / "full.py"), str(here)], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(here.parent)})
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this system does not let its users mount a disk of their own")
    assert done.stdout == "refused\n", (done.returncode, done.stderr)


def test_files_are_written_to_where_a_link_points(tmp_path):
    (tmp_path / "real.json").write_bytes(b"old")
    (tmp_path / "real.json").chmod(0o600)
    (tmp_path / "link.json").symlink_to("real.json")
    (tmp_path / "dangling").symlink_to("new.json")
    write_atomic(tmp_path / "link.json", b"new")
    write_atomic(tmp_path / "dangling", b"new")
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "dangling").is_symlink()
    assert (tmp_path / "real.json").read_bytes() == (tmp_path / "new.json").read_bytes() == b"new"
    assert (tmp_path / "real.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="cannot write"):
        write_atomic(tmp_path / "a", b"")
    write_atomic(tmp_path / ("x" * 255), b"a long name")
    assert len(os.listdir(tmp_path)) == 7


def test_new_files_have_the_permissions_that_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_pipes_devices_and_folders_are_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "folder", "link"):
        with pytest.raises(OSError, match=f"cannot write .*{name}"):
            write_atomic(tmp_path / name, b"x")
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode) and (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "pipe"]


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(handle):
        raise KeyboardInterrupt
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a", b"new")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("samples", [{"a": 1}, "text", {1, 2}])
def test_only_a_sequence_of_samples_is_packed(tmp_path, samples):
    with pytest.raises(ValueError, match="samples must be a sequence"):
        save_packed(tmp_path / "pack", samples)
    assert os.listdir(tmp_path) == []


def test_only_what_a_killed_writer_left_is_swept_away(tmp_path):
    names = [".a.json.0123456789abcdef", "a.json", ".a.json", ".a.json.mine", ".b.json.0123456789abcdef",
             ".aa.json.0123456789abcdef", ".a.json.0123456789abcdef.txt"]
    for name in names:
        (tmp_path / name).write_text("")
    sweep(tmp_path / "a.json")
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])


def test_one_file_by_two_names(tmp_path):
    (tmp_path / "photo.png").touch()
    (tmp_path / "soft").symlink_to("photo.png")
    os.link(tmp_path / "photo.png", tmp_path / "hard")
    (tmp_path / "folder").mkdir()
    for name in ("photo.png", "soft", "hard", "folder/../photo.png", "PHOTO.png"):
        assert same_file(tmp_path / "photo.png", tmp_path / name)
    assert same_file(tmp_path / "new.json", tmp_path / "NEW.json")              # one file on many a disk
    assert not same_file(tmp_path / "photo.png", tmp_path / "other.png")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "a.json"
    write_atomic(path, b"old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="a.json.*No space left") as caught:
        write_atomic(path, b"new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["a.json"]
