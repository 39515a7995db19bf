"""The front door: geometry with a network whose answer is known, faces with the shipped one, and bad input."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from torch import nn

from facealign_lite import acenet, contours, detection, geometry, heatmaps, looks, markups, metrics, scpan, zoo
from facealign_lite.align import Alignment, align, align_all, align_many
from facealign_lite.data import box_of, crop_matrix, mirrored, upright_matrix
from facealign_lite.looks import in_eval_mode, look_twice, predict
from facealign_lite.nets import Reading, StackedHourglass, fold_mirrored, folded
from facealign_lite.synthetic import SyntheticFaces

ASTRONAUT = (176.0, 78.0, 276.0, 190.0)       # her face, brows to chin, with room
FLIP = list(markups.get("68").flip)


class Fixed(nn.Module):
    """A network that answers the same points, pixels of its maps, whatever it sees."""

    inputs = ("image",)
    read = StackedHourglass.read

    def __init__(self, points, channels=1):
        super().__init__()
        self.config = SimpleNamespace(image_size=128, in_channels=channels, reading="soft_argmax")
        self.weight = nn.Parameter(torch.zeros(1))
        y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
        u, v = torch.tensor(points, dtype=torch.float32).T[..., None, None]
        self.logits = -((x - u) ** 2 + (y - v) ** 2) / 2            # softmax: a Gaussian, its mean (u, v)

    def forward(self, images):
        assert images.shape[1:] == (self.config.in_channels, 128, 128)
        return [self.logits.expand(len(images), -1, 32, 32)]


@pytest.fixture(scope="module")
def network():
    return zoo.load("hourglass", "cpu")


@pytest.fixture(scope="module")
def astronaut():
    return data.astronaut()


@pytest.fixture(scope="module")
def found(astronaut):
    return align(astronaut, ASTRONAUT, device="cpu")


@pytest.mark.parametrize("height, width", [(640, 1), (1, 640), (5000, 1), (1, 5000), (16, 640), (400, 4000), (1, 1),
                                           (3, 2)])
def test_a_strip_is_searched_and_costs_little(monkeypatch, height, width):
    """113,322 crops went through the network for a picture of 640 x 1, and 5000 x 1 was an error of OpenCV."""
    looks = 0

    def count(picture, matrices, network):
        nonlocal looks
        looks += len(matrices)
        return predict(picture, matrices, network)
    monkeypatch.setattr(detection, "predict", count)
    with pytest.raises(ValueError, match=f"no face was found in the image of {width} x {height}"):
        detection.find(np.zeros((height, width), np.uint8), Fixed(np.zeros((68, 2))))
    assert looks <= 5 * detection.JUDGED


def test_crop_points_come_back_in_image_pixels():
    points = np.random.default_rng(0).uniform(8, 23, (68, 2))
    plain = crop_matrix((20, 30, 80, 110), 128, angle=0.4)
    mirror = mirrored(plain, 128)
    landmarks, scores = predict(np.zeros((150, 140), np.uint8), np.stack([plain, mirror]), Fixed(points))
    in_crop = (points + 0.5) * 4 - 0.5
    np.testing.assert_allclose(geometry.transform(landmarks[0], plain), in_crop, atol=0.02)
    # in the mirror the network names the left eye right: the names are put back, the place is where it lay
    np.testing.assert_allclose(geometry.transform(landmarks[1], mirror)[FLIP], in_crop, atol=0.02)
    assert (scores > 0.4).all() and (scores <= 1).all()


@settings(max_examples=30, deadline=None)
@given(st.floats(-3.1, 3.1), st.floats(5, 300), st.integers(0, 99))
def test_upright_crop_levels_the_eyes_and_centres_the_face(angle, side, seed):
    face = np.random.default_rng(seed).uniform(0, 1, (68, 2))
    face[36], face[45] = (0.2, 0.3), (0.8, 0.3)
    points = geometry.transform(face * side, geometry.similarity(1.0, angle, (40.0, -7.0)))
    seen = geometry.transform(points, upright_matrix(points, 128, margin=0.25))
    assert seen[36][1] == pytest.approx(seen[45][1], abs=1e-6) and seen[36][0] < seen[45][0]
    left, top, right, bottom = box_of(seen)
    assert max(right - left, bottom - top) == pytest.approx(128 / 1.25)
    np.testing.assert_allclose([(left + right) / 2, (top + bottom) / 2], 63.5, atol=1e-6)


def test_the_astronaut_has_her_face(found):
    points = found.landmarks
    assert points.shape == (68, 2) and found.scores.shape == (68,) and (found.scores > 0.15).all()
    assert points.dtype == np.float64 and found.anchors is None and found.contours is None
    right_eye, left_eye = points[36:42].mean(0), points[42:48].mean(0)
    mouth, nose, chin = points[48:68].mean(0), points[30], points[8]
    for part, place in ((right_eye, (204, 101)), (left_eye, (248, 103)), (nose, (225, 127)), (mouth, (223, 145))):
        assert np.linalg.norm(part - place) < 4
    assert mouth[1] < chin[1] < 200 and found.box.tolist() == list(ASTRONAUT)


def test_her_face_is_found(astronaut, found):
    alone = align(astronaut, device="cpu")
    assert np.linalg.norm(alone.landmarks - found.landmarks, axis=1).mean() < 4
    assert np.abs(alone.box - box_of(alone.landmarks)).max() < 10


@pytest.mark.parametrize("change", ["tight", "turned", "small"])
def test_her_face_is_found_when_it_is(astronaut, found, network, change):
    picture, move = astronaut, np.eye(2, 3)
    if change == "tight":
        left, top, right, bottom = 165, 60, 290, 205
        picture, move = astronaut[top:bottom, left:right], np.array([[1.0, 0, -left], [0, 1, -top]])
    if change == "turned":
        move = cv2.getRotationMatrix2D((226, 130), 40, 1.0)
        picture = cv2.warpAffine(astronaut, move, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    if change == "small":
        picture = np.pad(astronaut[::2, ::2], ((0, 150), (150, 0), (0, 0)), mode="edge")
        move = np.array([[0.5, 0, 150], [0, 0.5, 0]])
    there = geometry.transform(found.landmarks, move)
    moved = align(picture, model=network)
    side = np.ptp(there, axis=0).max()
    assert np.linalg.norm(moved.landmarks - there, axis=1).mean() < 0.06 * side


def test_the_box_may_be_loose_and_shifted(astronaut, found, network):
    left, top, right, bottom = box_of(found.landmarks)
    side = max(right - left, bottom - top)
    for loose, dx, dy in ((1.0, 0, 0), (1.2, 0, 0), (1.1, 0.08, -0.05)):
        centre, half = ((left + right) / 2 + dx * side, (top + bottom) / 2 + dy * side), loose * side / 2
        again = align(astronaut, (centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half), network)
        assert np.linalg.norm(again.landmarks - found.landmarks, axis=1).mean() < 0.03 * side


def test_a_mirrored_photo_has_mirrored_landmarks(astronaut, found, network):
    left, top, right, bottom = ASTRONAUT
    mirror = align(astronaut[:, ::-1], (511 - right, top, 511 - left, bottom), network).landmarks[FLIP]
    mirror[:, 0] = 511 - mirror[:, 0]
    assert np.abs(mirror - found.landmarks).max() < 2


def test_every_kind_of_image(astronaut, found, network, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(astronaut).save(path)
    one_channel = np.asarray(Image.fromarray(astronaut).convert("L"))
    alpha = np.dstack([astronaut, np.full(astronaut.shape[:2], 255, np.uint8)])
    for image in (path, str(path), Image.fromarray(astronaut), one_channel, alpha, astronaut.astype(np.uint16) * 257):
        points = align(image, ASTRONAUT, network).landmarks
        assert np.abs(points - found.landmarks).max() < 1


def test_no_face_no_answer(network):
    rng = np.random.default_rng(0)
    for picture in (rng.integers(0, 256, (80, 80, 3), np.uint8), np.zeros((3, 5), np.uint8)):
        with pytest.raises(ValueError, match="no face was found .* give its box"):
            align(picture, model=network)


def test_faceness_is_higher_on_a_face(astronaut, network, monkeypatch):
    monkeypatch.setattr(detection, "FACE", -1.0)

    def judged(picture, box):
        faces = detection.judge(picture, np.array([box], float), np.zeros(1), np.ones(1), network)
        return faces[0].faceness if faces else 0.0
    assert judged(astronaut, ASTRONAUT) > detection.SURE > 0.2 > judged(data.coffee(), (100, 100, 250, 250))


# ---- several faces, many pictures -----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def pair(astronaut):
    """Her face twice over a plain wall, the right one 0.6 times as large, and where the boxes lie."""
    face = astronaut[40:240, 130:330]
    picture = np.full((220, 420, 3), 90, np.uint8)
    picture[10:210, 10:210] = face
    picture[50:170, 260:380] = cv2.resize(face, (120, 120), interpolation=cv2.INTER_AREA)
    shift, box = np.array([130, 40, 130, 40]), np.array(ASTRONAUT)
    return picture, np.array([box - shift + 10, (box - shift + 0.5) * 0.6 - 0.5 + [260, 50, 260, 50]])


def test_every_face_largest_first(pair, network):
    picture, boxes = pair
    faces = align_all(picture, device="cpu")
    assert len(faces) == 2 and all(face.faces == 2 for face in faces)
    for face, box in zip(faces, boxes):
        assert np.abs((face.box - box).reshape(2, 2).mean(0)).max() < 0.15 * (box[2] - box[0])
    np.testing.assert_allclose((faces[1].landmarks - faces[1].landmarks.mean(0)) / 0.6,
                               faces[0].landmarks - faces[0].landmarks.mean(0), atol=5)
    first = align(picture, device="cpu")                           # the larger one, whichever is more face-like
    np.testing.assert_array_equal(first.box, faces[0].box)
    # two faces are read in one batch, which rounds otherwise
    assert np.abs(first.landmarks - faces[0].landmarks).max() < 5e-3 and first.faces == 2
    assert [len(align_all(picture, **most, device="cpu")) for most in ({"max_faces": 1}, {"min_size": 80.0})] == [1, 1]
    assert align_all(picture, max_faces=1, device="cpu")[0].faces == 2
    assert align(picture, boxes[1], network).faces is None
    assert align_all(data.coffee(), device="cpu") == []


@pytest.mark.parametrize("wrong", [{"max_faces": 0}, {"max_faces": 1.5}, {"min_size": 0}, {"min_size": np.nan},
                                   {"min_size": "small"}])
def test_bad_limits(pair, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        align_all(pair[0], **wrong, device="cpu")


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turned_by_quarters_she_is_found(astronaut, found, network, quarters):
    picture = np.rot90(astronaut, quarters)
    turned = align(picture, model=network)
    points = geometry.transform(turned.landmarks, detection._unturned(quarters, 512, 512))
    assert np.linalg.norm(points - found.landmarks, axis=1).mean() < 4
    assert turned.scores.mean() > 0.9 * found.scores.mean()


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_pixels_of_a_turned_picture_are_told_where_they_were(quarters):
    picture = np.arange(15).reshape(3, 5)
    turned = np.rot90(picture, quarters)
    back = detection._unturned(quarters, 3, 5)
    for y, x in np.ndindex(turned.shape):
        column, row = geometry.transform(np.array([[x, y]], float), back)[0].astype(int)
        assert picture[row, column] == turned[y, x]


def test_low_scores_are_said_where_the_given_box_holds_a_face_on_its_side(astronaut, found, network):
    left, top, right, bottom = ASTRONAUT
    aside = align(np.ascontiguousarray(np.rot90(astronaut)), (top, 511 - right, bottom, 511 - left), network)
    assert aside.scores.mean() < 0.75 * found.scores.mean()


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_a_network_of_another_precision_is_shown_its_own(astronaut, kind):
    wanted = align(astronaut, ASTRONAUT, zoo.load("hourglass", "cpu"), looks=1)
    found = align(astronaut, ASTRONAUT, zoo.load("hourglass", "cpu").to(kind), looks=1)
    assert np.linalg.norm(found.landmarks - wanted.landmarks, axis=1).mean() < (1e-3 if kind == torch.float64 else 1)


def test_anchors_tell_no_pose():
    points = np.zeros((12, 2))
    with pytest.raises(ValueError, match="got one of anchors"):
        Alignment(points, np.ones(12), np.array([0.0, 0, 9, 9]), anchors=points).pose()


def test_distinct_against_a_plain_double_loop():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 60, (40, 2))
    boxes, scores = np.hstack([corner, corner + rng.uniform(5, 40, (40, 2))]), rng.uniform(0, 1, 40)
    kept = []
    for i in sorted(range(40), key=lambda i: -scores[i]):
        def share(j, i=i):
            low, high = np.maximum(boxes[i, :2], boxes[j, :2]), np.minimum(boxes[i, 2:], boxes[j, 2:])
            common = np.prod(np.maximum(high - low, 0))
            return common / (np.prod(boxes[i, 2:] - boxes[i, :2]) + np.prod(boxes[j, 2:] - boxes[j, :2]) - common)
        if all(share(j) <= 0.3 for j in kept):
            kept.append(i)
    assert detection.distinct(boxes, scores, 0.3).tolist() == kept and 1 < len(kept) < 40


def test_many_are_as_one_by_one(pair, astronaut, network, tmp_path):
    """Convolutions of a batch round differently, so the second crop moves by 1e-5 pixels, and OpenCV takes its pixels
        from places rounded to 1/32: 1.4e-3 pixels were seen in a face of 110, 1e-4 in a score."""
    images = [astronaut, tmp_path / "absent.png", pair[0], np.zeros((40, 40), np.uint8), astronaut[..., 0], "text.txt"]
    boxes = [ASTRONAUT, None, pair[1][1], None, None, None]
    many = list(align_many(images, boxes, batch_size=4, model=network))
    for image, box, result in zip(images, boxes, many):
        try:
            one = align(image, box, network)
        except (ValueError, OSError) as error:
            assert type(result) is type(error) and str(result) == str(error)
        else:
            assert np.abs(result.landmarks - one.landmarks).max() < 5e-3 and result.faces == one.faces
            np.testing.assert_array_equal(result.box, one.box)
            np.testing.assert_allclose(result.scores, one.scores, atol=5e-4)
    assert [isinstance(result, Exception) for result in many] == [False, True, False, True, False, True]


def test_many_in_the_same_crops_are_the_same(astronaut, network, monkeypatch):
    """Where the second look is at the first crop, no pixel differs, and the points agree to a ten-thousandth."""
    monkeypatch.setattr(looks, "upright", lambda reading, size: None)
    images = [astronaut, astronaut[:300, :400], astronaut[..., 0]]
    for image, many in zip(images, align_many(images, [ASTRONAUT] * 3, model=network)):
        one = align(image, ASTRONAUT, network)
        assert np.abs(many.landmarks - one.landmarks).max() < 1e-4
        np.testing.assert_allclose(many.scores, one.scores, atol=1e-5)


@pytest.mark.parametrize("name", ["acenet", "msm", "rht"])
def test_many_with_every_kind_of_reading(name, astronaut):
    images, boxes = [astronaut, astronaut[:, ::-1]], [ASTRONAUT, (235, 78, 335, 190)]
    for image, box, many in zip(images, boxes, align_many(images, boxes, model=name, device="cpu")):
        one = align(image, box, name, "cpu")
        assert np.abs(many.landmarks - one.landmarks).max() < 0.01
        assert (many.contours is None) == (one.contours is None)
        for key in one.contours or {}:
            assert np.abs(many.contours[key][[0, -1]] - one.contours[key][[0, -1]]).max() < 0.05


def test_a_batch_is_one_forward_pass_for_each_look(astronaut):
    calls = []

    class Counted(Fixed):
        def forward(self, images):
            calls.append(len(images))
            return super().forward(images)
    results = list(align_many([astronaut] * 5, [ASTRONAUT] * 5, batch_size=3, model=Counted(np.full((68, 2), 9.0))))
    assert len(results) == 5 and calls == [3, 6, 2, 4]


def test_bad_batches(astronaut, network):
    for wrong in ({"batch_size": 0}, {"batch_size": 2.5}, {"boxes": [ASTRONAUT] * 2}, {"model": "nobody"}):
        with pytest.raises(ValueError):                              # at once, before anything is asked for
            align_many([astronaut], **{"model": network} | wrong)
    for count in (0, 2):
        with pytest.raises(ValueError, match="boxes must be as many as images"):
            list(align_many(iter([astronaut]), iter([ASTRONAUT] * count), model=network))
    assert list(align_many([], model=network)) == []


# ---- any network that says how it is read ---------------------------------------------------------------------------

def test_a_network_keeps_its_mode_part_by_part(astronaut):
    network = Fixed(np.random.default_rng(0).uniform(8, 23, (68, 2)))
    network.frozen, network.other = nn.Dropout(), nn.Dropout()
    network.train().frozen.eval()
    align(astronaut, ASTRONAUT, network, "cpu")
    with pytest.raises(RuntimeError), in_eval_mode(network):
        assert not network.training and not network.other.training
        raise RuntimeError
    assert network.training and network.other.training and not network.frozen.training
    align(astronaut, ASTRONAUT, network.eval(), "cpu")
    assert not network.training and not network.other.training


class Telling(Fixed):
    """Tells more than points: what it saw, and how it straightened each crop, here by the crop's place in the batch."""

    def forward(self, images):
        assert not self.training
        self.seen = len(images)
        return super().forward(images)

    def read(self, outputs, mirrored=False):
        count = len(outputs[-1])
        reading = StackedHourglass.read(self, outputs)
        reading = Reading(reading.points, reading.scores, reliable=torch.arange(68).expand(count, -1) % 3 > 0,
                          theta=torch.arange(count)[:, None, None] + torch.eye(2, 3))
        return fold_mirrored(reading, 128, FLIP) if mirrored else reading


def test_what_else_a_network_has_to_say_comes_through(astronaut):
    points = np.random.default_rng(0).uniform(8, 23, (68, 2))
    network = Telling(points).train()
    told = align(astronaut, ASTRONAUT, network, "cpu")
    assert network.seen == 2                                        # the second look: upright, and in the mirror
    np.testing.assert_array_equal(told.reliable, np.arange(68) % 3 > 0)
    np.testing.assert_array_equal(told.theta, np.eye(2, 3))
    plain = align(astronaut, ASTRONAUT, Fixed(points), "cpu")
    assert plain.reliable is None and plain.theta is None and told.landmarks.dtype == np.float64


@pytest.mark.parametrize("degrees, size, stays", [(0, 1.0, True), (-27, 1.0, True), (0, 1.4, True), (31, 1.0, False),
                                                  (0, 2.2, False), (25, 1.5, False)])
def test_who_straightens_crops_itself_moves_on_only_from_a_poor_one(astronaut, degrees, size, stays):
    """The second look is at the upright crop of the face just read, but for a network that tells its theta."""
    face = np.stack(np.meshgrid([-0.5, 0.5], np.linspace(-1, 1, 34)), -1).reshape(68, 2)
    face[36], face[45] = (-0.4, -0.5), (0.4, -0.5)
    face = face / 1.3 / size                                        # at size 1 as large as in the upright crop
    points = 15.5 + 16 * geometry.transform(face, geometry.similarity(1.0, np.deg2rad(degrees)))
    rough = crop_matrix(ASTRONAUT, 128)
    upright = geometry.compose(upright_matrix((points + 0.5) * 4 - 0.5, 128), rough)
    told, plain = (look_twice(astronaut, ASTRONAUT, kind(points))[1] for kind in (Telling, Fixed))
    np.testing.assert_allclose(told, rough if stays else upright, atol=0.05)
    np.testing.assert_allclose(plain, upright, atol=0.05)


def test_a_grey_picture_is_shown_to_a_network_of_colours(astronaut):
    points = np.linspace(5, 25, 136).reshape(68, 2)
    np.testing.assert_allclose(align(astronaut[..., 0], ASTRONAUT, Fixed(points, 3), "cpu").landmarks,
                               align(astronaut, ASTRONAUT, Fixed(points), "cpu").landmarks, atol=1e-9)


def test_eyes_in_one_point_leave_the_crop_of_the_box(astronaut):
    network = Fixed(np.full((68, 2), 20.0))
    in_crop = geometry.transform(align(astronaut, ASTRONAUT, network, "cpu").landmarks, crop_matrix(ASTRONAUT, 128))
    # read at 20.5 * 4 - 0.5 = 81.5 and, in the mirror, at 127 - 81.5
    np.testing.assert_allclose(in_crop, np.tile([63.5, 81.5], (68, 1)), atol=0.02)


def test_who_does_not_say_how_it_is_read_is_refused(astronaut):
    with pytest.raises(ValueError, match="Conv2d has no config and no inputs and no read"):
        align(astronaut, ASTRONAUT, nn.Conv2d(1, 68, 3))
    network = Fixed(np.zeros((68, 2)))
    network.inputs = ("image", "reference")
    with pytest.raises(ValueError, match="Fixed has no lend"):
        align(astronaut, ASTRONAUT, network)


def test_a_weights_file_that_has_changed_is_read_anew(astronaut, network, tmp_path, monkeypatch):
    path = zoo.save(network, tmp_path / "net.safetensors")
    before = align(astronaut, ASTRONAUT, path, "cpu").landmarks
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(align(astronaut, ASTRONAUT, "net.safetensors", "cpu").landmarks, before)
    other = StackedHourglass(network.config)
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        other.heads[-1].weight.copy_(network.heads[-1].weight[FLIP])          # another network of the same size
        other.heads[-1].bias.copy_(network.heads[-1].bias[FLIP])
    zoo.save(other, path)
    again = align(astronaut, ASTRONAUT, path, "cpu").landmarks
    assert np.abs(again - before).max() > 20
    other = folded(other).to(memory_format=torch.channels_last)                 # as align prepares it
    np.testing.assert_array_equal(again, align(astronaut, ASTRONAUT, other, "cpu").landmarks)


# ---- anchors and contours -------------------------------------------------------------------------------------------

SLANT = np.array([[0.7, 0.3, 0.0], [-0.3, 0.7, 76.5]])    # place -> red and green; slanted, so that roundings differ
RULER = np.full((256, 256, 3), 255.0)
RULER[..., :2] = geometry.transform(np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1), SLANT)
RULER[[0, -1]], RULER[:, [0, -1]] = 0, 0                      # a frame, repeated beyond the picture
RULER = np.round(RULER).astype(np.uint8)


class Oracle(acenet.AceNet):
    """An ACE network that knows a face on ``RULER``, whose colours tell where a pixel lies, and draws it on any crop.

    In a mirrored crop it takes the left eye for the right one, as any network would. ``crops`` are those it has seen.
    """

    def __init__(self, anchors, lines, lost=()):
        super().__init__(acenet.AceConfig(in_channels=3, widths=(2, 2, 2), depth=1))
        self.anchors, self.lines, self.lost, self.crops = anchors, lines, lost, []

    def forward(self, images):
        colours = np.round((images.permute(0, 2, 3, 1).numpy() + 0.5) * 255)
        return [torch.stack([self.draw(one) for one in colours]).float()]

    def draw(self, colours):
        there = colours[..., 2] == 255
        y, x = np.nonzero(there)
        place = geometry.transform(colours[there][:, :2], geometry.invert(SLANT))
        place = np.column_stack([place, np.ones(len(x))])
        matrix = np.linalg.lstsq(place, np.column_stack([x, y]), rcond=None)[0].T
        self.crops.append(matrix)
        points = [heatmaps.to_heatmap(geometry.transform(one, matrix), 128, 64) for one in (self.anchors, *self.lines)]
        dots = heatmaps.encode(points[0], 64, 2.0, "parabola")
        maps = np.concatenate([dots, contours.encode(points[1:], 64, 2.0).numpy()])
        if np.linalg.det(matrix[:, :2]) < 0:
            maps = maps[[*markups.ANCHOR_FLIP, *(12 + i for i in markups.CONTOUR_FLIP)]]
        maps[[12 + markups.CONTOURS.index(name) for name in self.lost]] = 0
        return torch.from_numpy(maps)


def on_ruler(face, angle=0.0, mirror=False):
    """Anchors and contours of a face in the middle of ``RULER``, turned by an angle, or in a mirror."""
    lines = list(face.contours.values())
    by = geometry.similarity(1.2, angle)
    by[:, 2] = 127.5 - by[:, :2] @ (box_of(np.concatenate(lines)).reshape(2, 2).mean(0))
    anchors, lines = geometry.transform(face.anchors, by), [geometry.transform(line, by) for line in lines]
    if mirror:
        anchors, *lines = (points * [-1, 1] + [255, 0] for points in (anchors, *lines))
        anchors, lines = anchors[list(markups.ANCHOR_FLIP)], [lines[i] for i in markups.CONTOUR_FLIP]
    return anchors, lines


@pytest.fixture(scope="module")
def rendered():
    return SyntheticFaces(20, 128, seed=1)[1]


class Voter(scpan.Scpan):
    """A SCPAN that knows 68 landmarks on ``RULER`` and answers with their maps and fields in any crop.

    In a mirrored crop it takes left for right, as any network would.
    """

    def __init__(self, landmarks):
        super().__init__(scpan.ScpanConfig(in_channels=3, channels=8, stages=1, depth=1, stem=(4, 4, 8)))
        self.landmarks = landmarks

    def forward(self, images):
        crops = []
        for colours in np.round((images.permute(0, 2, 3, 1).numpy() + 0.5) * 255):
            there = colours[..., 2] == 255
            y, x = np.nonzero(there)
            place = geometry.transform(colours[there][:, :2], geometry.invert(SLANT))
            place = np.column_stack([place, np.ones(len(x))])
            matrix = np.linalg.lstsq(place, np.column_stack([x, y]), rcond=None)[0].T
            points = geometry.transform(self.landmarks, matrix)
            crops.append(points[FLIP] if np.linalg.det(matrix[:, :2]) < 0 else points)
        return scpan.truth(torch.from_numpy(np.stack(crops)), 128, (64,), self.config.boundaries).maps


@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_votes_of_a_scpan_come_back_in_image_pixels(rendered, angle):
    by = geometry.similarity(1.2, angle)
    by[:, 2] = 127.5 - by[:, :2] @ (box_of(rendered.landmarks).reshape(2, 2).mean(0))
    truth = geometry.transform(rendered.landmarks, by)
    found = align(RULER, box_of(truth), Voter(truth), "cpu")
    error = np.linalg.norm(found.landmarks - truth, axis=1)
    # perfect fields where landmarks are as close as those of lids and lips: see chapter 9
    assert error.mean() < 0.5 and error.max() < 3
    assert ((found.scores > 0.3) & (found.scores < 0.7)).all() and found.anchors is None


def test_a_mirrored_crop_of_a_scpan_swaps_sides(rendered):
    by = geometry.similarity(1.2, 0.0)
    by[:, 2] = 127.5 - by[:, :2] @ (box_of(rendered.landmarks).reshape(2, 2).mean(0))
    truth = geometry.transform(rendered.landmarks, by)
    plain = crop_matrix(box_of(truth), 128)
    landmarks, _ = predict(RULER, np.stack([plain, mirrored(plain, 128)]), Voter(truth))
    assert np.linalg.norm(landmarks - truth, axis=-1).mean() < 0.5
    assert np.linalg.norm(landmarks[1][FLIP] - truth, axis=-1).mean() > 20


@pytest.mark.parametrize("angle", [0.0, 0.5, -1.2])
def test_exact_maps_give_the_contours_back(rendered, angle):
    anchors, lines = on_ruler(rendered, angle)
    box = box_of(np.concatenate(lines))
    oracle = Oracle(anchors, lines)
    found = align(RULER, box, oracle)                           # half a heatmap pixel is an image pixel
    assert found.anchors is found.landmarks and found.anchors.shape == (12, 2) and found.scores.shape == (12,)
    assert np.linalg.norm(found.anchors - anchors, axis=1).max() < 0.5 and 0.7 < found.scores.min()
    assert found.scores.max() <= 1 and found.box.tolist() == box.tolist()
    assert list(found.contours) == list(markups.CONTOURS)
    for line, true in zip(found.contours.values(), lines):
        there, back = geometry.distance_to_polyline(line, true), geometry.distance_to_polyline(true, line)
        assert max(there.mean(), back.mean()) < 0.25 and max(there.max(), back.max()) < 1
    upright, mirror = oracle.crops[1:]                          # the second look: level eyes, the face in the middle
    eyes = geometry.transform(anchors[:4].reshape(2, 2, 2).mean(1), upright)
    assert abs(eyes[0, 1] - eyes[1, 1]) < 0.5 and eyes[0, 0] < eyes[1, 0]
    left, top, right, bottom = box_of(geometry.transform(np.concatenate(lines), upright))
    assert max(right - left, bottom - top) == pytest.approx(128 / 1.3, abs=1)
    np.testing.assert_allclose(mirror, [[-1], [1]] * upright + [[0, 0, 127], [0, 0, 0]], atol=0.05)


def test_a_mirrored_crop_of_an_ace_network_swaps_anchors(rendered):
    anchors, lines = on_ruler(rendered)
    plain = crop_matrix(box_of(np.concatenate(lines)), 128)
    found, scores = predict(RULER, np.stack([plain, mirrored(plain, 128)]), Oracle(anchors, lines))
    assert np.linalg.norm(found - anchors, axis=-1).max() < 0.5 and scores.shape == (2, 12)


def test_a_mirrored_face_has_mirrored_contours(rendered):
    one, other = (align(RULER, box_of(np.concatenate(lines)), Oracle(anchors, lines))
                  for anchors, lines in (on_ruler(rendered, 0.5), on_ruler(rendered, 0.5, mirror=True)))
    np.testing.assert_allclose(other.anchors[list(markups.ANCHOR_FLIP)] * [-1, 1] + [255, 0], one.anchors, atol=0.15)
    for i, name in enumerate(markups.CONTOURS):
        line = other.contours[markups.CONTOURS[markups.CONTOUR_FLIP[i]]] * [-1, 1] + [255, 0]
        assert geometry.distance_to_polyline(line, one.contours[name]).max() < 0.25


def test_a_contour_that_is_not_seen_is_left_out(rendered):
    anchors, lines = on_ruler(rendered)
    found = align(RULER, box_of(np.concatenate(lines)), Oracle(anchors, lines, lost=["chin_boundary", "nose_ridge"]))
    assert set(markups.CONTOURS) - set(found.contours) == {"chin_boundary", "nose_ridge"}
    assert np.linalg.norm(found.anchors - anchors, axis=1).max() < 0.5


def test_a_network_that_sees_nothing_says_so():
    nothing = Oracle(np.full((12, 2), -1e4), [np.full((2, 2), -1e4)] * 13)
    found = align(RULER, (60, 60, 190, 190), nothing)
    assert found.contours == {} and (found.scores == 0).all() and np.isfinite(found.anchors).all()


@pytest.mark.parametrize("name", sorted(set(zoo.names()) - {"acenet", "acenet_weak", "hourglass"}))
def test_shipped_networks_agree_on_her_face(name, astronaut, found):
    other = align(astronaut, ASTRONAUT, model=name, device="cpu")
    assert metrics.nme(other.landmarks[None], found.landmarks[None], "inter_ocular", "68") < 0.08


def test_the_hourglass_finds_the_face_for_an_ace_network(astronaut, network):
    torch.manual_seed(0)
    untrained = acenet.AceNet(acenet.AceConfig(widths=(2, 2, 2), depth=1))
    found = align(astronaut, model=untrained, device="cpu")
    finder = folded(zoo.load("hourglass", "cpu")).to(memory_format=torch.channels_last)    # as align prepares it
    np.testing.assert_array_equal(found.box, detection.find(astronaut, finder).box)
    assert found.anchors.shape == (12, 2) and set(found.contours) <= set(markups.CONTOURS)


@pytest.mark.parametrize("box", [
    (10, 10, 10, 50), (50, 10, 10, 50), (10, 50, 60, 50), (10, 10, np.nan, 50), (10, 10, np.inf, 50), (1, 2, 3),
    (600, 10, 700, 90), (-90, -90, -10, -10), (30, 30, 30.5, 30.5), (-1e6, -1e6, 1e6, 1e6), "none",
])
def test_bad_boxes(astronaut, box):
    with pytest.raises(ValueError):
        align(astronaut, box, model=Fixed(np.zeros((68, 2))))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=4, max_size=4))
def test_any_box_gives_finite_points_or_a_value_error(box):
    picture, model = np.zeros((40, 60), np.uint8), Fixed(np.linspace(5, 25, 136).reshape(68, 2))
    try:
        points = align(picture, box, model).landmarks
    except ValueError as error:
        assert "box" in str(error)
    else:
        assert np.isfinite(points).all()


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(0, 4), st.integers(0, 4)), st.sampled_from([(), (1,), (2,), (3,), (4,), (5,)]),
       st.sampled_from([np.uint8, np.uint16, np.int64, np.float32, bool, complex]))
def test_any_array_is_aligned_or_refused(size, channels, kind):
    image, model = np.zeros((*size, *channels), kind), Fixed(np.linspace(5, 25, 136).reshape(68, 2))
    readable = min(size) > 0 and channels in ((), (1,), (3,), (4,)) and kind not in (np.int64, complex)
    if readable:
        assert align(image, (-1, -1, 4, 4) if min(size) > 1 else (-1, -1, 1, 1), model).landmarks.shape == (68, 2)
    else:
        with pytest.raises(ValueError, match="image"):
            align(image, (-1, -1, 4, 4), model)


def test_bad_files_models_and_devices(tmp_path):
    with pytest.raises(OSError, match="absent.png"):
        align(tmp_path / "absent.png")
    for payload in (b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(40)):
        (tmp_path / "a.png").write_bytes(payload)
        with pytest.raises(ValueError, match="a.png"):
            align(tmp_path / "a.png")
    with pytest.raises(ValueError, match="model"):
        align(np.zeros((9, 9), np.uint8), (1, 1, 8, 8), model="nobody")
    with pytest.raises(ValueError, match="device"):
        align(np.zeros((9, 9), np.uint8), (1, 1, 8, 8), device="abacus")


def test_one_look_is_that_in_the_box(astronaut, network):
    """As told by hand: one crop, read by itself, back through its matrix."""
    one = align(astronaut, ASTRONAUT, network, looks=1)
    matrix = crop_matrix(np.array(ASTRONAUT), 128)
    points, scores = predict(astronaut, matrix[None], network)
    np.testing.assert_allclose(one.landmarks, points[0], atol=1e-3)
    np.testing.assert_allclose(one.scores, scores[0], atol=1e-4)
    two = align(astronaut, ASTRONAUT, network)
    assert 0.05 < np.linalg.norm(one.landmarks - two.landmarks, axis=1).mean() < 5
    for number in (0, 3, True, "2", None, 1.5):
        with pytest.raises(ValueError, match="looks must be 1 or 2"):
            align(astronaut, ASTRONAUT, network, looks=number)


def test_a_network_that_is_loaded_by_name_reads_what_the_given_one_does(astronaut, network, found):
    """The layout of its weights differs, and with it the order of sums: 0.0025 pixel at most was seen."""
    given = align(astronaut, ASTRONAUT, network)
    np.testing.assert_allclose(found.landmarks, given.landmarks, atol=0.01)
