"""The command line: a picture and a file out, or one line and exit code 2."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from skimage import data

from facealign_lite import __main__ as cli
from facealign_lite import acenet, markups, zoo
from facealign_lite.__main__ import main, overlay, stems
from facealign_lite.align import Alignment
from facealign_lite.data.readers import read_pts

BOX = ["--box", "176", "78", "276", "190"]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    cv2.imwrite(str(path), data.astronaut()[..., ::-1])
    return path


def failed(capsys, *arguments):
    assert main([str(a) for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("facealign_lite: ") and "Traceback" not in err
    return err


def test_draws_68_points_on_the_astronaut(photo, tmp_path, capsys):
    out, told = tmp_path / "overlay.png", tmp_path / "out.json"
    assert main([str(photo), "--out", str(out), "--json", str(told), "--device", "cpu"]) == 0
    drawn, found = cv2.imread(str(out))[..., ::-1], json.loads(told.read_text())
    points = np.array(found["landmarks"])
    assert drawn.shape == (512, 512, 3) and points.shape == (68, 2) and len(found["scores"]) == 68
    changed = (drawn != data.astronaut()).any(-1)
    rows, columns = np.round(points).astype(int).T[::-1]
    assert changed[rows, columns].all()                                    # a dot on every landmark,
    far = np.min(np.hypot(*(np.argwhere(changed)[:, ::-1, None] - points.T[None]).transpose(1, 0, 2)), axis=1)
    assert far.max() < 5                                                   # and nothing elsewhere
    left, top, right, bottom = found["box"]
    assert 150 < left < 205 and 60 < top < 110 and 245 < right < 300 and 160 < bottom < 205
    assert "wrote" in capsys.readouterr().out
    pose = found["pose"]                                                   # she looks at us, her head upright
    assert set(pose) == {"yaw", "pitch", "roll"} and abs(pose["yaw"]) < 15 and abs(pose["roll"]) < 10


def test_contours_are_drawn_and_written(photo, tmp_path):
    torch.manual_seed(0)
    weights = zoo.save(acenet.AceNet(acenet.AceConfig(widths=(2, 2, 2), depth=1)), tmp_path / "ace.safetensors")
    out, told = tmp_path / "overlay.png", tmp_path / "out.json"
    assert main([str(photo), *BOX, "--model", str(weights), "--out", str(out), "--json", str(told)]) == 0
    found = json.loads(told.read_text())
    assert found["pose"] is None                                           # anchors tell none
    assert list(found["anchors"]) == list(markups.ANCHORS) and set(found["contours"]) <= set(markups.CONTOURS)
    assert np.array(found["landmarks"]).tolist() == list(found["anchors"].values()) and len(found["scores"]) == 12
    assert all(np.isfinite(line).all() and np.shape(line)[1] == 2 for line in found["contours"].values())
    assert out.exists()


def test_a_low_score_is_said(capsys):
    sure = Alignment(np.zeros((68, 2)), np.full(68, 0.31), np.array([0.0, 0, 9, 9]))
    unsure = replace(sure, scores=np.full(68, 0.29))
    assert "low" not in cli._line(Path("a.png"), [sure])
    assert cli._line(Path("a.png"), [sure, unsure]).endswith("mean score 0.29: low, the landmarks may be wrong")


def test_every_contour_is_drawn_in_its_part_of_the_picture():
    lines = {name: np.array([[20.0, 10 + 15 * i], [180.0, 10 + 15 * i]]) for i, name in enumerate(markups.CONTOURS)}
    anchors = np.column_stack([np.full(12, 195.0), 5 + 16 * np.arange(12)])
    box = np.array([0.0, 0, 199, 199])
    drawn = overlay(np.full((200, 200, 3), 90, np.uint8), Alignment(anchors, np.ones(12), box, anchors, lines))
    middle = drawn[10:200:15, 100].astype(int)
    assert (np.abs(middle - 90).max(1) > 30).all()                         # a line where each contour lies,
    assert (drawn[:, 5:15] == 90).all() and (drawn[2::15, 100] == 90).all()      # and nothing elsewhere
    assert len({tuple(colour) for colour in middle}) == 5                  # chin, brows, nose, eyes, mouth
    assert (drawn[np.arange(5, 190, 16), 195] == 255).all()


@pytest.mark.parametrize("name", ["absent.jpg", "half.bmp", "crc.png"])
def test_one_line_and_no_traceback_from_the_shell(tmp_path, name):
    """Nor do libraries add lines of their own, as libpng does."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    whole = cv2.imencode(".png", noise)[1].tobytes()
    (tmp_path / "crc.png").write_bytes(whole[:5000] + b"damage" + whole[5006:])
    cv2.imwrite(str(tmp_path / "half.bmp"), np.zeros((60, 60, 3), np.uint8))
    os.truncate(tmp_path / "half.bmp", 5000)
    done = subprocess.run([sys.executable, "-m", "facealign_lite", str(tmp_path / name)],
                          capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and name in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_what_stdout_cannot_take_is_told_with_what_was_written(photo, tmp_path):
    out = tmp_path / "a.json"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "facealign_lite", str(photo), *BOX, "--json", str(out)], text=True,
                              stdout=full, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 1 and json.loads(out.read_text())["landmarks"]
    assert done.stderr.count("\n") == 1 and f"wrote {out}; stdout takes nothing" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_many_photos_are_done_though_stdout_takes_nothing(photo, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes(photo.read_bytes())
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "facealign_lite", str(tmp_path / "in"), "--format", "pts", "--out",
                               str(tmp_path / "out")], text=True, stdout=full, stderr=subprocess.PIPE,
                              env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 1 and "stdout takes nothing" in done.stderr
    assert sorted(os.listdir(tmp_path / "out")) == ["a.pts", "b.pts"]


def test_bad_pictures(tmp_path, capsys):
    assert "absent.png" in failed(capsys, tmp_path / "absent.png")
    for payload in (b"", b"text", b"\xff\xd8\xff\xe0" + bytes(30)):
        (tmp_path / "a.jpg").write_bytes(payload)
        assert "a.jpg" in failed(capsys, tmp_path / "a.jpg", "--out", tmp_path / "o.png")
    (tmp_path / "empty").mkdir()
    assert "got none" in failed(capsys, tmp_path / "empty") and not (tmp_path / "o.png").exists()


def test_no_face(tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "plain.png"), np.full((50, 70), 120, np.uint8))
    assert "no face was found" in failed(capsys, tmp_path / "plain.png", "--out", tmp_path / "o.png")
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize("arguments", [
    [], ["--box", "1", "2", "3"], ["--box", "a", "b", "c", "d"], ["--nonsense"], ["--box", "5", "5", "5", "9"],
    ["--box", "9000", "5", "9100", "90"], ["--box", "nan", "5", "9", "9"], [*BOX, "--model", "nobody"],
    [*BOX, "--model", "absent.safetensors"], [*BOX, "--device", "abacus"], [*BOX, "--out", "o.jpg"],
    [*BOX, "--device", "meta"], [*BOX, "--device", "hpu"], [*BOX, "--device", "privateuseone"],
])
def test_bad_arguments(photo, capsys, arguments):
    assert failed(capsys, *([photo, *arguments] if arguments else []))


def test_a_file_that_cannot_be_written(photo, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "o.png" in failed(capsys, photo, *BOX, "--out", tmp_path / "file" / "o.png")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text("0123456789.-einfa", max_size=6), min_size=4, max_size=4))
def test_any_box_text_ends_in_0_or_2(photo, capsys, words):
    assert main([str(photo), "--box", *words, "--device", "cpu"]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("options", [
    ["--out", "photo.png"], ["--json", "photo.png"], ["--out", "folder/../photo.png"], ["--json", "soft"],
    ["--out", "hard.png"], ["--json", "PHOTO.png"], ["--out", "new.png", "--json", "new.png"],
    ["--out", "new.png", "--json", "NEW.PNG"], ["--json", "weights.safetensors", "--model", "weights.safetensors"],
], ids=" ".join)
def test_nothing_that_is_read_is_written_over(photo, tmp_path, capsys, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(photo.read_bytes())
    (tmp_path / "weights.safetensors").write_bytes((zoo.FOLDER / "hourglass.safetensors").read_bytes())
    (tmp_path / "folder").mkdir()
    (tmp_path / "soft").symlink_to("photo.png")
    os.link("photo.png", "hard.png")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert "another file" in failed(capsys, "photo.png", *BOX, *options)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_console_that_lacks_the_letters_shows_their_numbers(photo, tmp_path):
    name = tmp_path / "łódź 顔.png"
    name.write_bytes(photo.read_bytes())
    for encoding in ("ascii", "cp1252"):
        done = subprocess.run([sys.executable, "-m", "facealign_lite", str(name), *BOX, "--device", "cpu"],
                              capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "0",
                                                                     "PYTHONIOENCODING": encoding})
        assert done.returncode == 0 and done.stderr == b"" and rb"\u9854.png: box" in done.stdout


def test_grey_pictures_and_points_outside_are_drawn():
    points = np.linspace(-20, 60, 136).reshape(68, 2)
    picture = np.zeros((40, 50), np.uint8)
    drawn = overlay(picture, Alignment(points, np.ones(68), np.array([0, 0, 9, 9.0])))
    assert drawn.shape == (40, 50, 3) and drawn.any() and not picture.any()


# ---- many photos ----------------------------------------------------------------------------------------------------

@pytest.fixture
def album(photo, tmp_path):
    """A folder of two photos, the second of two faces, of one that is broken, and of a text."""
    folder = tmp_path / "album"
    folder.mkdir()
    one = cv2.imread(str(photo))[40:240, 130:330]
    cv2.imwrite(str(folder / "a.png"), one)
    cv2.imwrite(str(folder / "b.png"), np.hstack([one, one[:, ::-1]]))
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    return folder


def run(*arguments):
    return main([str(a) for a in (*arguments, "--device", "cpu")])


def test_a_bad_photo_is_named_and_the_others_are_done(album, tmp_path, capsys):
    out, drawn = tmp_path / "faces.jsonl", tmp_path / "drawn"
    assert run(album, "--format", "jsonl", "--out", out, "--overlays", drawn) == 1
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and "broken.jpg" in told.err and told.out.count("\n") == 2
    assert all(line.endswith(f", wrote {drawn / name}.png") for line, name in zip(told.out.splitlines(), "ab"))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(os.path.basename(row["image"]), row["face"], row["faces"]) for row in rows] == [("a.png", 0, 1),
                                                                                            ("b.png", 0, 2)]
    assert sorted(path.name for path in drawn.iterdir()) == ["a.png", "b.png"]
    assert (cv2.imread(str(drawn / "a.png")) != cv2.imread(str(album / "a.png"))).any()


def test_every_face_in_every_format(album, tmp_path, capsys):
    photos = [album / "a.png", str(album / "b*.png")]                              # a file and a glob
    for form in ("json", "jsonl", "csv"):
        assert run(*photos, "--all", "--format", form, "--out", tmp_path / f"x.{form}") == 0
    assert run(*photos, "--all", "--format", "pts", "--out", tmp_path / "pts") == 0
    rows = json.loads((tmp_path / "x.json").read_text())
    assert [row["face"] for row in rows] == [0, 0, 1] and {row["faces"] for row in rows[1:]} == {2}
    assert [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()] == rows
    lines = list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
    assert sorted(path.name for path in (tmp_path / "pts").iterdir()) == ["a.pts", "b.pts", "b_1.pts"]
    for row, line, name in zip(rows, lines, ("a", "b", "b_1")):
        points = np.array([[float(line[f"{axis}{i}"]) for axis in "xy"] for i in range(68)])
        np.testing.assert_allclose(points, row["landmarks"], atol=6e-4)
        np.testing.assert_allclose(read_pts(tmp_path / "pts" / f"{name}.pts"), row["landmarks"], atol=6e-5)
    capsys.readouterr()
    assert run(*photos, "--format", "json") == 0                                   # printed where there is no --out
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_nothing_of_many_is_written_over(album, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in album.iterdir()}
    os.link(album / "a.png", tmp_path / "hard.csv")
    for options in (["--overlays", album], ["--out", album], ["--format", "csv", "--out", album / "A.PNG"],
                    ["--format", "csv", "--out", tmp_path / "hard.csv"], ["--format", "pts"],
                    ["--overlays", tmp_path / "hard.csv"], ["--json", tmp_path / "x.json"], [*BOX],
                    ["--out", tmp_path / "x", "--overlays", tmp_path / "y"], ["--model", "nobody"]):
        failed(capsys, album, *options)
    assert {path.name: path.read_bytes() for path in album.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["album", "hard.csv"]


def test_names_of_what_is_written():
    assert stems([Path("x/a.png"), Path("x/A.jpg"), Path("y/b.png")]) == ["a_png", "A_jpg", "b"]
