"""A face followed: the filter against its formulas, tracking on rendered faces, videos in and out of files."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from torch import nn

from facealign_lite import detection, geometry, metrics, tracking, zoo
from facealign_lite.__main__ import main
from facealign_lite.data import box_of, crop_matrix, upright_matrix
from facealign_lite.nets import Reading
from facealign_lite.synthetic import SyntheticFaces, render_face
from facealign_lite.tracking import OneEuro, Video, smoothed, track

FPS = 30.0


HOW = OneEuro()


def run(points, how=HOW, fps=FPS, size=100.0):
    """Smoothed points (T, K, 2) of points (T, K, 2)."""
    motion, out = None, []
    for i, frame in enumerate(points):
        motion = smoothed(motion, frame, i / fps, size, how)
        out.append(motion.points)
    return np.stack(out)


def walk(frames=40, points=5, seed=0):
    return np.random.default_rng(seed).normal(0, 3, (frames, points, 2)).cumsum(0)


# ---- the filter ----------------------------------------------------------------------------------------------------

def test_what_stands_still_stays_where_it_is():
    there = np.repeat(walk(1), 20, 0)
    np.testing.assert_array_equal(run(there), there)


def test_the_first_value_is_taken_as_it_is():
    np.testing.assert_array_equal(run(walk(1)), walk(1))


def one_euro(values, how, fps, size):
    """One landmark, step by step, in the words of the paper."""
    def alpha(cutoff):
        tau = 1 / (2 * np.pi * cutoff)
        return 1 / (1 + tau * fps)
    x_hat, dx_hat, last, out = values[0], np.zeros(2), values[0], [values[0]]
    for x in values[1:]:
        a = alpha(how.speed_cutoff)
        dx_hat = a * ((x - last) * fps) + (1 - a) * dx_hat
        a = alpha(how.min_cutoff + how.beta * np.hypot(*dx_hat) / size)
        x_hat, last = a * x + (1 - a) * x_hat, x
        out.append(x_hat)
    return np.stack(out)


@pytest.mark.parametrize("how", [HOW, OneEuro(0.7, 3.0, 2.0)])
def test_every_landmark_goes_through_its_own_filter(how):
    points = walk()
    wanted = np.stack([one_euro(points[:, k], how, 24.0, 80.0) for k in range(points.shape[1])], 1)
    np.testing.assert_allclose(run(points, how, 24.0, 80.0), wanted, atol=1e-9)


def test_without_beta_it_is_a_plain_low_pass():
    r = 2 * np.pi * 1.5 / FPS
    a, points = r / (1 + r), walk()
    wanted = lfilter([a], [1, a - 1], points, axis=0, zi=(1 - a) * points[None, 0])[0]
    np.testing.assert_allclose(run(points, OneEuro(1.5, 0.0)), wanted, atol=1e-9)


def test_a_step_is_approached_by_the_same_share_every_frame():
    step = np.ones((20, 1, 2))
    step[0] = 0
    left = 1 - run(step, OneEuro(1.0, 0.0))[:, 0, 0]
    r = 2 * np.pi / FPS
    np.testing.assert_allclose(left, (1 / (1 + r)) ** np.arange(20), atol=1e-12)
    assert (run(step, OneEuro(1.0, 20.0), size=1.0)[1:, 0, 0] > 1 - left[1:]).all()      # speed opens the filter


@pytest.mark.parametrize("speed", [20.0, 200.0])
def test_a_steady_motion_is_behind_by_its_speed_over_the_cutoff(speed):
    how, size = OneEuro(1.0, 20.0), 100.0
    there = np.arange(200)[:, None, None] / FPS * speed * np.array([0.6, -0.8])
    apart = np.linalg.norm(there - run(there, how, size=size), axis=-1)[-1, 0]
    assert apart == pytest.approx(speed / (2 * np.pi * (how.min_cutoff + how.beta * speed / size)), rel=1e-6)
    assert apart < size / (2 * np.pi * how.beta)


def test_moving_turning_and_enlarging_everything_changes_nothing_else():
    points, map_ = walk(), geometry.similarity(3.0, 0.7, (500.0, -40.0))
    np.testing.assert_allclose(run(geometry.transform(points, map_), size=300.0),
                               geometry.transform(run(points, size=100.0), map_), atol=1e-9)


def test_the_frame_rate_counts_in_second_order_only():
    """Half a second after a step, at 60 to 480 frames a second: the error halves as the rate doubles."""
    wanted, errors = 1 - np.exp(-2 * np.pi * 0.5), []
    for fps in (60, 120, 240, 480):
        step = np.ones((fps // 2 + 1, 1, 2))
        step[0] = 0
        errors.append(wanted - run(step, OneEuro(1.0, 0.0), fps)[-1, 0, 0])
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2, atol=0.1)
    assert abs(errors[-1]) < 0.002
    # the whole filter, on a motion that both rates see
    t = np.arange(481) / 480
    moves = 40 * np.stack([np.sin(5 * t), np.cos(3 * t)], 1)[:, None]
    assert np.abs(run(moves[::4], fps=120)[-1] - run(moves[::2], fps=240)[-1]).max() < 0.3


@pytest.mark.parametrize("wrong", [{"points": np.zeros((4, 2))}, {"points": np.zeros(6)}, {"seconds": 1.0},
                                   {"seconds": np.nan}, {"size": 0.0}, {"size": np.inf},
                                   {"points": np.full((3, 2), np.nan)}, {"seconds": 1e299}, {"size": 4e-299},
                                   {"seconds": 1 + 1e-12}])
def test_bad_steps_are_refused(wrong):
    before = smoothed(None, np.zeros((3, 2)), 1.0, 10.0)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        smoothed(before, **({"points": np.zeros((3, 2)), "seconds": 2.0, "size": 10.0} | wrong))


@pytest.mark.parametrize("wrong", [{"min_cutoff": 0}, {"beta": -1.0}, {"speed_cutoff": np.nan}, {"beta": np.inf},
                                   {"beta": 2e301}])
def test_bad_filters_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OneEuro(**wrong)
    assert OneEuro(beta=0).beta == 0
    assert type(OneEuro(speed_cutoff=np.float32(1)).speed_cutoff) is float      # or the sums would be of that precision


# ---- following -----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def network():
    return zoo.load("hourglass", "cpu")


@pytest.fixture(scope="module")
def scene():
    return replace(SyntheticFaces(8, seed=1804).scene(0), yaw=0.0, pitch=0.0, roll=0.0, fill=0.4, shift=(0.0, 0.0))


@pytest.fixture(scope="module")
def face(scene):
    return render_face(scene, 192)


def canvas(face, place, size=(240, 320)):
    """The face's picture somewhere on a grey one, and its landmarks there."""
    picture = np.full((*size, 3), 120, np.uint8)
    matrix = np.array([[0.7, 0, place[0]], [0, 0.7, place[1]]])
    return cv2.warpAffine(face.image, matrix, size[::-1], picture, cv2.INTER_AREA, cv2.BORDER_TRANSPARENT), (
        geometry.transform(face.landmarks, matrix))


def error(seen, truth):
    """Mean, in eye distances."""
    return metrics.nme(seen.face.landmarks[None], truth[None], "inter_ocular", "68")


def test_a_face_that_turns_and_moves_is_followed(scene, network):
    shots = [render_face(replace(scene, yaw=20 * np.sin(t), roll=10 * np.sin(t), shift=(0.15 * np.sin(t), t / 20)), 192)
             for t in np.linspace(0, 2, 12)]
    for smooth in (True, False):
        seen = list(track([shot.image for shot in shots], network, smooth=smooth, fps=12.0))
        assert [one.index for one in seen] == list(range(12))
        assert [one.detected for one in seen] == [True] + [False] * 11
        np.testing.assert_allclose([one.seconds for one in seen], np.arange(12) / 12)
        assert max(error(one, shot.landmarks) for one, shot in zip(seen, shots)) < 0.08
        for one in seen:
            np.testing.assert_array_equal(one.face.box, box_of(one.face.landmarks))


def test_a_face_that_jumps_is_found_again_in_that_frame(face, network):
    frames = [canvas(face, place) for place in [(10, 10)] * 3 + [(170, 90)] * 3]
    seen = list(track([picture for picture, _ in frames], network))
    assert [one.detected for one in seen] == [True, False, False, True, False, False]
    assert max(error(one, truth) for one, (_, truth) in zip(seen, frames)) < 0.1


def test_without_a_face_there_is_none(network, monkeypatch):
    """It is looked for every ``retry`` seconds."""
    asked, blank = [], np.full((240, 320, 3), 120, np.uint8)

    def nothing(picture, network):
        asked.append(1)
        raise ValueError("no face was found")
    monkeypatch.setattr(tracking, "find", nothing)
    seen = list(track([blank] * 80, network, fps=10.0, retry=0.19))
    assert all(one.face is None and not one.detected for one in seen) and len(seen) == 80
    assert len(asked) == 40                        # every other frame


def test_a_face_that_comes_back_is_found_by_the_next_quick_search(face, network):
    blank, shown = np.full((240, 320, 3), 120, np.uint8), canvas(face, (90, 60))[0]
    seen = list(track([shown] * 2 + [blank] * 4 + [shown] * 4, network, fps=10.0, retry=0.35))
    # lost and searched for at 0.2, again at 0.6, when it is there
    assert [one.face is not None for one in seen] == [True] * 2 + [False] * 4 + [True] * 4
    assert [one.detected for one in seen] == [True] + [False] * 5 + [True] + [False] * 3


def test_a_face_that_leaves_the_picture_is_lost(face, network, monkeypatch):
    frames = [canvas(face, (120 + 20 * i, 60))[0] for i in range(11)]
    where = detection.Finding(box_of(canvas(face, (120, 60))[1]), 1.0)                  # it was
    monkeypatch.setattr(tracking, "find", lambda picture, network: where)
    seen = [one.face is not None for one in track(frames, network)]
    assert seen[:4] == [True] * 4 and seen[-2:] == [False] * 2


def test_noise_on_a_still_face_is_calmed(face, network):
    rng = np.random.default_rng(0)
    frames = [np.clip(face.image + rng.normal(0, 6, face.image.shape), 0, 255).astype(np.uint8) for _ in range(30)]
    raw, calm = (np.stack([one.face.landmarks for one in track(frames, network, smooth=smooth)]) for smooth in
                 (False, True))
    np.testing.assert_array_equal(raw[0], calm[0])

    def jitter(points):
        return np.sqrt((np.diff(points[10:], axis=0) ** 2).mean())
    assert 0 < jitter(calm) < jitter(raw) / 3
    outside = run(raw, size=tracking.face_size(upright_matrix(raw[0], 96), 96))
    np.testing.assert_allclose(calm, outside, atol=0.05)         # the same, but for the size of each frame's face
    given = [one.face.landmarks for one in track(frames[:8], network, smooth=OneEuro(1e9, 0.0))]
    np.testing.assert_allclose(given, raw[:8], atol=1e-6)


class Middle(nn.Module):
    """Reads every landmark in one pixel of crops of 64, with words of its own."""

    inputs = ("image",)

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(image_size=64, in_channels=3)
        self.weight, self.part = nn.Parameter(torch.zeros(1)), nn.Dropout()

    def forward(self, images):
        assert images.shape == (1, 3, 64, 64) and not self.training
        return images

    def read(self, outputs, mirrored=False):
        anchors = torch.full((1, 12, 2), 31.5) + torch.arange(12.0)[None, :, None] / 10
        return Reading(torch.zeros(1, 68, 2), torch.ones(1, 68), anchors=anchors,
                       contours=[{"nose_ridge": np.array([[-0.5, -0.5], [63.5, 63.5]])}])


def test_another_network_reads_the_upright_crop_in_its_own_size(face, network):
    other = Middle().train()
    other.part.eval()
    seen, = track([face.image], other, "cpu")
    assert other.training and not other.part.training
    assert seen.face.landmarks.shape == (12, 2) and (seen.face.anchors == seen.face.landmarks).all()
    # the crop's middle is that of the box, its corners those of the face with room
    left, top, right, bottom = box_of(face.landmarks)
    assert np.abs(seen.face.landmarks[0] - [(left + right) / 2, (top + bottom) / 2]).max() < 4
    whole = geometry.invert(upright_matrix(face.landmarks, 64))
    corners = geometry.transform([[-0.5, -0.5], [63.5, 63.5]], whole)
    np.testing.assert_allclose(seen.face.contours["nose_ridge"], corners, atol=8)
    np.testing.assert_array_equal(seen.face.box[:2], seen.face.contours["nose_ridge"].min(0))


def test_contours_are_followed_too(face):
    seen = list(track([face.image] * 2, "acenet", "cpu"))
    assert all(one.face.anchors.shape == (12, 2) and len(one.face.contours) > 9 for one in seen)
    assert np.linalg.norm(seen[1].face.anchors - face.anchors, axis=1).mean() < 0.1 * np.ptp(face.landmarks[:, 0])


@pytest.mark.parametrize("offset", [0.0, 0.05, 0.3])
def test_how_far_a_crop_has_moved_is_in_its_sides(offset):
    assert tracking.moved(geometry.similarity(1.0, 0.0, (128 * offset, 0.0)), 128) == pytest.approx(offset)
    # enlarged about its middle by 1 + 2 d every corner moves by d along both axes
    about = geometry.compose(geometry.similarity(1.0, 0.0, (63.5, 63.5)), geometry.compose(
        geometry.similarity(1 + 2 * offset), geometry.similarity(1.0, 0.0, (-63.5, -63.5))))
    assert tracking.moved(about, 128) == pytest.approx(offset * 2**0.5)


@pytest.mark.parametrize("angle", [0.0, 0.6, -2.0])
def test_the_size_of_a_face_is_that_of_its_upright_box(face, angle):
    points = geometry.transform(face.landmarks, geometry.similarity(2.0, angle))
    level = geometry.similarity(1.0, -np.arctan2(*(points[45] - points[36])[::-1]))
    side = np.ptp(geometry.transform(points, level), axis=0).max()
    assert tracking.face_size(upright_matrix(points, 96), 96) == pytest.approx(side, rel=1e-9)


def test_a_crop_of_something_else_is_not_settled_in(face, network):
    picture, points = canvas(face, (150, 80))
    assert tracking.settle(picture, crop_matrix((0, 0, 80, 80), 128), network) is None
    settled = tracking.settle(picture, crop_matrix(box_of(points), 128), network)
    assert tracking.moved(geometry.compose(settled.following, geometry.invert(settled.matrix)), 128) < tracking.SETTLED


def test_frames_are_taken_one_at_a_time_and_given_back(face, network):
    taken, closed = [], []

    def frames():
        try:
            for i in range(100):
                taken.append(i)
                yield face.image
        finally:
            closed.append(True)
    following = track(frames(), network)
    assert taken == [] and next(following).index == 0 and next(following).index == 1 and taken == [0, 1]
    following.close()
    assert closed == [True] and list(following) == []
    track(frames(), network).close()                             # before it has begun
    assert list(track([], network)) == []


@pytest.mark.parametrize("frames", [None, 3.0, True, np.zeros((9, 9)), np.zeros((9, 9, 3), np.uint8), b"clip", {}])
def test_what_is_no_video_is_refused_at_once(frames):
    with pytest.raises(ValueError, match="frames|source"):
        track(frames, device="cpu")


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"fps": np.nan}, {"fps": "x"}, {"retry": -1}, {"retry": np.inf},
                                   {"smooth": 1.0}, {"smooth": None}, {"model": "nobody"}, {"device": "abacus"}])
def test_bad_arguments_are_refused_at_once(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        track([], **wrong)


def test_a_bad_frame_is_named(face, network):
    seen = track([face.image, np.zeros((3, 3, 7))], network)
    next(seen)
    with pytest.raises(ValueError, match=r"frames\[1\]"):
        next(seen)


# ---- files ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def clip(face, tmp_path_factory):
    """Eight frames of 25 a second, the first two blank."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25.0, (320, 240))
    for i in range(8):
        picture = canvas(face, (60 + 4 * i, 50), (240, 320))[0] if i > 1 else np.full((240, 320, 3), 120, np.uint8)
        writer.write(np.ascontiguousarray(picture[..., ::-1]))
    writer.release()
    return path


def test_a_file_is_followed_by_its_own_clock(face, clip, network):
    seen = list(track(clip, network, retry=0))
    np.testing.assert_allclose([one.seconds for one in seen], np.arange(8) / 25, atol=1e-6)
    assert [one.detected for one in seen] == [False, False, True] + [False] * 5
    assert all(error(one, canvas(face, (60 + 4 * i, 50))[1]) < 0.1 for i, one in enumerate(seen) if i > 1)


def test_a_video_is_let_go_of(clip, network):
    video = Video(clip)
    assert video.count == 8 and video.fps == 25 and not video.camera
    following = track(video, network)
    next(following)
    following.close()
    assert not video._capture.isOpened()
    seconds, picture = next(iter(Video(str(clip))))
    assert seconds == 0 and picture.shape == (240, 320, 3) and picture.dtype == np.uint8


def test_colours_are_red_green_and_blue(tmp_path):
    path = tmp_path / "red.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (64, 48))
    writer.write(np.full((48, 64, 3), (0, 0, 200), np.uint8))
    writer.release()
    (_, picture), = Video(path)
    assert (picture[..., 0] > 150).all() and (picture[..., 1:] < 60).all()


def test_what_cannot_be_read(clip, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "half.mp4").write_bytes(clip.read_bytes()[:600])
    for name in ("text.mp4", "empty.mp4", "half.mp4"):
        with pytest.raises(ValueError, match=name):
            list(track(tmp_path / name, device="cpu"))
    for wrong in (tmp_path / "absent.mp4", tmp_path, "http://example.org/clip.mp4"):
        with pytest.raises(OSError, match=os.path.basename(wrong)):
            track(wrong, device="cpu")
    with pytest.raises(OSError, match="camera 987"):
        track(987, device="cpu")
    with pytest.raises(ValueError, match="camera"):
        track(-1, device="cpu")


# ---- the command line ----------------------------------------------------------------------------------------------

def test_a_video_is_annotated(face, clip, tmp_path, capsys):
    out, told = tmp_path / "new" / "annotated.mp4", tmp_path / "lines.jsonl"
    assert main(["--video", str(clip), "--out", str(out), "--json", str(told), "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "8 frames" in said.out and str(out) in said.out and said.err == ""     # no bar: there is no terminal
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(8)) and lines[0]["face"] is None and lines[7]["face"]
    assert sum(line["detected"] for line in lines) == 1 and lines[7]["seconds"] == pytest.approx(7 / 25)
    before, after = ([picture for _, picture in Video(path)] for path in (clip, out))
    assert len(after) == 8 and after[0].shape == before[0].shape and Video(out).fps == 25
    x, y = np.round(np.transpose(lines[7]["face"]["landmarks"])).astype(int)
    changed = np.abs(after[7].astype(int) - before[7]).max(-1)
    assert np.median(changed[y, x]) > 40 and np.median(changed) < 8
    assert np.abs(after[0].astype(int) - before[0]).mean() < 4                          # nothing drawn on a blank one
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["annotated.mp4", "lines.jsonl", "new"]


@pytest.mark.parametrize("options, word", [
    (["--video", "clip.mp4", "--out", "clip.mp4"], "another file"),
    (["--video", "clip.mp4", "--out", "l.mp4"], "another file"),
    (["--video", "clip.mp4", "--json", "clip.mp4"], "another file"),
    (["--video", "clip.mp4", "--out", "a.avi"], ".mp4"), (["--video", "absent.mp4", "--out", "a.mp4"], "absent.mp4"),
    (["--video", "text.mp4", "--out", "a.mp4"], "text.mp4"),
    (["--video", "clip.mp4", "photo.png"], "not both"), ([], "must be given"), (["photo.png", "--raw"], "--raw"),
    (["--video", "clip.mp4", "--box", "1", "1", "9", "9"], "--box"), (["--video", "987"], "camera 987"),
    (["--video", "clip.mp4", "--json", "folder"], "folder"), (["--video", "clip.mp4", "--model", "nobody"], "nobody"),
    (["--video", "clip.mp4", "--out", "text.mp4/a.mp4"], "a.mp4"),
], ids=" ".join)
def test_what_the_command_line_refuses(clip, tmp_path, monkeypatch, capsys, options, word):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "l.mp4").symlink_to("clip.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "folder").mkdir()
    before = {path.name: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()}
    assert main(options) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and word in said.err
    assert {path.name: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()} == before


def test_nothing_half_is_left_behind(clip, tmp_path, monkeypatch):
    def broken(*arguments, **options):
        yield next(iter(Video(clip)))[1], tracking.Tracked(0, 0.0, None, False)
        raise KeyboardInterrupt
    monkeypatch.setattr("facealign_lite.__main__.follow", broken)
    (tmp_path / "old.mp4").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        main(["--video", str(clip), "--out", str(tmp_path / "old.mp4"), "--json", str(tmp_path / "l.jsonl")])
    assert [path.name for path in tmp_path.iterdir()] == ["old.mp4"] and (tmp_path / "old.mp4").read_bytes() == b"old"


def test_a_camera_ends_with_ctrl_c_and_keeps_what_it_saw(clip, tmp_path, monkeypatch):
    class Camera(Video):
        def __init__(self, source):
            super().__init__(clip)
            assert source == 3
            self.camera = True

    def interrupted(video, *arguments, **options):
        for i, (seconds, picture) in enumerate(video):
            if i == 4:
                raise KeyboardInterrupt
            yield picture, tracking.Tracked(i, seconds, None, False)
    monkeypatch.setattr("facealign_lite.__main__.Video", Camera)
    monkeypatch.setattr("facealign_lite.__main__.follow", interrupted)
    assert main(["--video", "3", "--out", str(tmp_path / "a.mp4"), "--json", str(tmp_path / "a.jsonl")]) == 0
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 4 and Video(tmp_path / "a.mp4").count == 4
