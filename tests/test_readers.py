"""Every reader on a fixture that this file writes, and on every way to damage it."""

import sys

import cv2
import h5py
import numpy as np
import pytest
from scipy.io import savemat

from facealign_lite import data
from facealign_lite.data import (
    inventory,
    inventory_table,
    load_image,
    read_300vw,
    read_300w,
    read_aflw,
    read_aflw2000,
    read_cofw,
    read_cofw68,
    read_csv,
    read_helen,
    read_images,
    read_pts,
    read_wflw,
)

RNG = np.random.default_rng(0)


def points(count):
    return RNG.uniform(5, 60, (count, 2)).round(3)


def picture(path, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((size, size, 3), 99, np.uint8))


def pts_text(landmarks, version="version: 1", end="}"):
    return "\n".join([version, f"n_points:  {len(landmarks)}", "{", *(f"{x} {y}" for x, y in landmarks + 1), end, ""])


def check(sample, landmarks, markup):
    np.testing.assert_allclose(sample.landmarks, landmarks, atol=1e-6)
    np.testing.assert_allclose(sample.box, [*landmarks.min(0), *landmarks.max(0)], atol=1e-6)
    assert sample.markup == markup and load_image(sample.image).shape[:2] == (8, 8)


def test_300w(tmp_path):
    first, second = points(68), points(68)
    for name, landmarks, end in (("afw/one", first, ".jpg"), ("ibug/two", second, ".png")):
        picture(tmp_path / f"{name}{end}")
        (tmp_path / f"{name}.pts").write_text(pts_text(landmarks))
    one, two = read_300w(tmp_path)
    check(one, first, "68")
    check(two, second, "68")
    assert (one.tags["set"], two.tags["set"]) == ("afw", "ibug")


def test_300w_as_published_is_split_as_in_the_papers(tmp_path):
    """One face in every folder that the two archives unpack to."""
    splits = {"train": ["afw", "helen/trainset", "lfpw/trainset"], "common": ["helen/testset", "lfpw/testset"],
              "challenging": ["ibug"], "private": ["300W/01_Indoor", "300W/02_Outdoor"], None: ["other/testset"]}
    for place in sum(splits.values(), []):
        picture(tmp_path / place / "a.png")
        (tmp_path / place / "a.pts").write_text(pts_text(points(68)))
    samples = read_300w(tmp_path)
    for split, places in splits.items():
        found = [s.image.parent.relative_to(tmp_path).as_posix() for s in samples if s.tags.get("split") == split]
        assert sorted(found) == sorted(places)
    alone, = read_300w(tmp_path / "ibug")                                       # from inside, too
    assert alone.tags == {"set": "ibug", "split": "challenging"}


def test_profiles_of_menpo_are_a_set_of_their_own(tmp_path):
    front, side = points(68), points(39)
    for name, landmarks in (("aflw__face_1", front), ("aflw__face_2", side)):
        picture(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.pts").write_text(pts_text(landmarks))
    for markup, landmarks in (("68", front), ("39", side)):
        with pytest.warns(UserWarning, match="skipped 1 other files"):
            sample, = read_300w(tmp_path, markup)
        check(sample, landmarks, markup)


@pytest.mark.parametrize("damage, line", [
    (lambda t: t.replace("n_points", "points"), "line 1"), (lambda t: "", "line 1"),
    (lambda t: t.replace("}", ""), "line 71"), (lambda t: "\n".join(t.splitlines()[:50] + ["}"]), "line 51"),
    (lambda t: t.replace(t.splitlines()[9], "1.0"), "line 10"),
    (lambda t: t.replace(t.splitlines()[9], "1 nan"), "line 10"),
    (lambda t: t.replace(t.splitlines()[9], "1 two"), "line 10"),
], ids=["head", "empty", "end", "short file", "short line", "nan", "word"])
def test_a_damaged_pts_is_named_with_its_line(tmp_path, damage, line):
    path = tmp_path / "face.pts"
    path.write_text(damage(pts_text(points(68))))
    with pytest.raises(ValueError, match=f"face.pts, {line}:"):
        read_pts(path)


def test_a_pts_of_no_points_has_two_columns(tmp_path):
    (tmp_path / "a.pts").write_text(pts_text(np.zeros((0, 2))))
    assert read_pts(tmp_path / "a.pts").shape == (0, 2)


def test_pts_of_another_markup_or_without_image_are_named(tmp_path):
    picture(tmp_path / "face.png")
    (tmp_path / "face.pts").write_text(pts_text(points(39)))
    with pytest.raises(ValueError, match="68 points.*skipped.*face.pts"):
        read_300w(tmp_path)
    (tmp_path / "face.png").unlink()
    (tmp_path / "face.pts").write_text(pts_text(points(68)))
    with pytest.raises(ValueError, match="face.pts.*no image"):
        read_300w(tmp_path)


def test_300vw_and_its_frames(tmp_path):
    landmarks = points(68)
    annotation = tmp_path / "001" / "annot" / "000001.pts"
    annotation.parent.mkdir(parents=True)
    annotation.write_text(pts_text(landmarks))
    with pytest.raises(ValueError, match="extract_frames"):
        read_300vw(tmp_path)
    writer = cv2.VideoWriter(str(tmp_path / "vid.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 64))
    for level in (0, 120, 240):
        writer.write(np.full((64, 64, 3), level, np.uint8))
    writer.release()
    assert data.extract_frames(tmp_path / "vid.avi", tmp_path / "001" / "frames") == 3
    assert load_image(tmp_path / "001" / "frames" / "000002.png").mean() == pytest.approx(120, abs=4)
    sample, = read_300vw(tmp_path)
    np.testing.assert_allclose(sample.landmarks, landmarks, atol=1e-6)
    assert sample.tags == {"video": "001", "frame": 1}
    with pytest.raises(ValueError, match="none.avi"):
        data.extract_frames(tmp_path / "none.avi", tmp_path / "f")


def wflw(tmp_path, landmarks, flags="1 0 0 1 0 1", name="4--Dancing/a b.jpg", extra=""):
    picture(tmp_path / "images" / "4--Dancing" / "a b.jpg")
    numbers = " ".join(map(str, landmarks.ravel()))
    (tmp_path / "list.txt").write_text(f"{numbers} 1 2 30 40 {flags} {name}{extra}\n\n")
    return tmp_path / "list.txt", tmp_path / "images"


def test_wflw(tmp_path):
    landmarks = points(98)
    sample, = read_wflw(*wflw(tmp_path, landmarks))
    check(sample, landmarks, "98")
    assert sample.tags == {"pose": True, "expression": False, "illumination": False, "make_up": True,
                           "occlusion": False, "blur": True, "given_box": (1, 2, 30, 40)}


@pytest.mark.parametrize("kind, seen", [({"flags": "1 0 0"}, "words|numbers"), ({"flags": "1 0 0 x 0 1"}, "numbers"),
                                        ({"name": "gone.jpg"}, "no image"), ({"extra": "\n1 2 3"}, "line 2")])
def test_a_damaged_wflw_line_is_named(tmp_path, kind, seen):
    with pytest.raises(ValueError, match=f"list.txt, line [12].*({seen})|list.txt, {seen}"):
        read_wflw(*wflw(tmp_path, points(98), **kind))


def test_helen(tmp_path):
    landmarks = points(194)
    picture(tmp_path / "images" / "123_1.jpg")
    annotation = tmp_path / "annotation" / "1.txt"
    annotation.parent.mkdir()
    lines = ["123_1", *(f"{x} , {y}" for x, y in landmarks)]
    annotation.write_text("\n".join(lines))
    sample, = read_helen(annotation.parent, tmp_path / "images")
    check(sample, landmarks, "194")
    for damaged, seen in ((lines[:-1], "194"), ([*lines[:5], "3 4", *lines[6:]], "line 6"),
                          (["gone", *lines[1:]], "gone"), ([], "194|no image")):
        annotation.write_text("\n".join(damaged))
        with pytest.raises(ValueError, match=f"1.txt.*({seen})"):
            read_helen(annotation.parent, tmp_path / "images")


def test_csv(tmp_path):
    landmarks = points(68)
    picture(tmp_path / "images" / "a.png")
    head = ["image", "identity", *(f"{c}{i}" for i in range(68) for c in "xy")]
    row = ["a.png", "Someone", *map(str, landmarks.ravel())]
    table = tmp_path / "val.csv"
    table.write_text("\n".join(map(",".join, [head, row])))
    sample, = read_csv(table)
    check(sample, landmarks, "68")
    assert sample.tags == {"identity": "Someone"}
    for damaged, seen in (([head, row[:-1]], "line 2"), ([head, ["a.png", "S", "nan", *row[3:]]], "line 2"),
                          ([head, ["b.png", *row[1:]]], "line 2.*no image"), ([head[1:], row[1:]], "line 1"),
                          ([head[:-2], row[:-2]], "no markup of 67"), ([head], "none"), ([], "line 1")):
        table.write_text("\n".join(map(",".join, damaged)))
        with pytest.raises(ValueError, match=f"val.csv.*{seen}"):
            read_csv(table)
    table.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match=r"val\.csv"):
        read_csv(table)


def cofw(path, landmarks, hidden, end, boxes=((3, 4, 20, 30), (1, 1, 9, 9))):
    """As MATLAB saves it: arrays transposed, images behind references."""
    with h5py.File(path, "w") as file:
        if boxes is not None:
            file[f"bboxes{end}"] = np.array(boxes, np.float64).T
        table = np.concatenate([landmarks[:, 0] + 1, landmarks[:, 1] + 1, hidden])
        file[f"phis{end}"] = np.stack([table, table + 0]).T
        images = [np.full((8, 8), 99, np.uint8), np.arange(96, dtype=np.uint8).reshape(3, 4, 8)]
        file[f"Is{end}"] = np.array([[file.create_dataset(f"#refs#/{i}", data=image).ref
                                      for i, image in enumerate(images)]], h5py.ref_dtype)


def test_cofw(tmp_path):
    landmarks, hidden = points(29), RNG.integers(0, 2, 29)
    cofw(tmp_path / "COFW_test.mat", landmarks, hidden, "T")
    grey, colour = read_cofw(tmp_path / "COFW_test.mat")
    check(grey, landmarks, "29")
    np.testing.assert_array_equal(grey.visibility, hidden == 0)
    assert colour.image.shape == (8, 4, 3) and colour.image[3, 1].tolist() == [11, 43, 75]      # [c, x, y] as saved
    # x, y, width, height from 1 as published
    assert (grey.tags["given_box"], colour.tags["given_box"]) == ((2, 3, 22, 33), (0, 0, 9, 9))
    cofw(tmp_path / "COFW_test_color.mat", landmarks, hidden, "T", None)
    assert read_cofw(tmp_path / "COFW_test_color.mat")[0].tags == {}
    for boxes in ([(1, 2, 3, 4)], [(1, 2, 3), (1, 2, 3)], [(1, 2, 3, np.nan)] * 2):
        cofw(tmp_path / "COFW_test_color.mat", landmarks, hidden, "T", boxes)
        with pytest.raises(ValueError, match="COFW_test_color.mat.*bboxesT"):
            read_cofw(tmp_path / "COFW_test_color.mat")
    with pytest.raises(ValueError, match="phisTr"):
        read_cofw(tmp_path / "COFW_test.mat", "train")
    with pytest.raises(ValueError, match="part"):
        read_cofw(tmp_path / "COFW_test.mat", "val")
    cofw(tmp_path / "COFW_train.mat", landmarks * np.nan, hidden, "Tr")
    with pytest.raises(ValueError, match="COFW_train.mat.*face 1"):
        read_cofw(tmp_path / "COFW_train.mat", "train")
    (tmp_path / "COFW_test.mat").write_bytes(b"not HDF5")
    with pytest.raises(ValueError, match="COFW_test.mat"):
        read_cofw(tmp_path / "COFW_test.mat")


def cofw68(tmp_path, faces, boxes=((3, 4, 20, 30), (1, 1, 9, 9)), hidden=None):
    """The published folder, beside COFW's own file."""
    cofw(tmp_path / "COFW_test_color.mat", points(29), np.zeros(29), "T")
    (tmp_path / "COFW68_Data" / "test_annotations").mkdir(parents=True, exist_ok=True)
    savemat(tmp_path / "COFW68_Data" / "cofw68_test_bboxes.mat", {"bboxes": np.array(boxes, np.float64)})
    for number, landmarks in faces.items():
        occluded = np.arange(68) % 3 == 0 if hidden is None else hidden
        savemat(tmp_path / "COFW68_Data" / "test_annotations" / f"{number}_points.mat",
                {"Points": landmarks + 1, "Occ": np.asarray(occluded, np.uint8).reshape(-1, 1)})
    return tmp_path / "COFW68_Data", tmp_path / "COFW_test_color.mat"


def test_cofw68(tmp_path):
    first, second = points(68), points(68)
    where = cofw68(tmp_path, {2: second, 1: first})
    one, two = read_cofw68(*where)
    check(one, first, "68")
    np.testing.assert_allclose(two.landmarks, second, atol=1e-6)
    assert two.image.shape == (8, 4, 3) and one.tags["given_box"] == (2, 3, 22, 33)
    np.testing.assert_array_equal(one.visibility, np.arange(68) % 3 > 0)
    (where[0] / "test_annotations" / "notes.mat").touch()
    with pytest.warns(UserWarning, match="skipped 1 other files.*notes.mat"):
        assert len(read_cofw68(*where)) == 2


@pytest.mark.parametrize("change, seen", [
    ({"faces": {3: np.ones((68, 2))}}, "3_points.mat: wanted a face from 1 to 2"),
    ({"faces": {0: np.ones((68, 2))}}, "0_points.mat: wanted a face from 1 to 2"),
    ({"faces": {1: np.ones((67, 2))}}, "1_points.mat: wanted 68 finite points"),
    ({"faces": {1: np.full((68, 2), np.nan)}}, "1_points.mat: wanted 68 finite points"),
    ({"faces": {1: np.ones((68, 2))}, "hidden": [1] * 67}, "1_points.mat: wanted Occ"),
    ({"faces": {1: np.ones((68, 2))}, "hidden": [2] * 68}, "1_points.mat: wanted Occ"),
    ({"faces": {1: np.ones((68, 2))}, "boxes": [(1, 2, 3)]}, "bboxes.mat: wanted"), ({"faces": {}}, "got none")])
def test_damaged_cofw68_files_are_named(tmp_path, change, seen):
    with pytest.raises(ValueError, match=seen):
        read_cofw68(*cofw68(tmp_path, **change))


def test_cofw_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "COFW_test.mat").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        read_cofw(tmp_path / "COFW_test.mat")


def aflw(tmp_path, table, count=3, **change):
    names = np.empty((count, 1), object)
    for i in range(count):
        picture(tmp_path / "images" / f"{i}.jpg")
        names[i, 0] = f"{i}.jpg"
    content = {"bbox": np.tile([1.0, 31, 2, 42], (count, 1)), "data": table, "nameList": names,
               "mask_new": np.array([[1.0] * 19, [0.0] + [1.0] * 18, [1.0] * 19]), "ra": np.array([[3, 1, 2]])} | change
    savemat(tmp_path / "AFLWinfo_release.mat", {k: v for k, v in content.items() if v is not None})
    return tmp_path / "AFLWinfo_release.mat", tmp_path / "images"


def test_aflw(tmp_path):
    faces = [points(19) for _ in range(3)]
    table = np.stack([f.T.ravel() + 1 for f in faces])
    where = aflw(tmp_path, table)
    samples = read_aflw(*where, "train")
    for sample, index in zip(samples, (2, 0, 1), strict=True):                  # in the order of the permutation
        check(sample, faces[index], "19")
        assert sample.tags["given_box"] == (0, 1, 30, 41) and sample.image.name == f"{index}.jpg"
    assert not samples[2].visibility[0] and samples[2].visibility[1:].all()
    assert len(read_aflw(*where, "train", frontal=True)) == 2
    with pytest.raises(ValueError, match="none"):
        read_aflw(*where, "test")                                               # it begins at 20,000
    with pytest.raises(ValueError, match="part"):
        read_aflw(*where, "val")
    with pytest.raises(ValueError, match="nameList"):
        read_aflw(*aflw(tmp_path, table, nameList=None), "train")
    table[1, 3] = np.nan
    with pytest.raises(ValueError, match="face 2"):
        read_aflw(*aflw(tmp_path, table), "train")
    (tmp_path / "images" / "0.jpg").unlink()
    with pytest.raises(ValueError, match=r"face 2|no image .*0\.jpg"):
        read_aflw(where[0], where[1], "train")


@pytest.mark.parametrize("name, rows", [("pt3d_68", 3), ("pt2d", 2)])
def test_aflw2000(tmp_path, name, rows):
    landmarks = points(68)
    picture(tmp_path / "image00001.jpg")
    savemat(tmp_path / "image00001.mat", {name: np.vstack([landmarks.T + 1, np.zeros((1, 68))])[:rows]})
    check(read_aflw2000(tmp_path)[0], landmarks, "68")
    savemat(tmp_path / "image00001.mat", {"other": 1})
    with pytest.raises(ValueError, match="pt3d_68 .*skipped.*image00001.mat"):
        read_aflw2000(tmp_path)
    (tmp_path / "image00001.mat").write_bytes(b"MATLAB?" * 40)
    with pytest.raises(ValueError, match="image00001.mat"):
        read_aflw2000(tmp_path)


def test_300w_lp_takes_the_landmarks_of_the_turned_picture(tmp_path):
    """Beside the picture lie those of the photo before it was turned."""
    before, after, other = points(68), points(68), points(68)
    for name in ("AFW/a_3.jpg", "AFW/b_0.jpg", "AFW_Flip/a_3.jpg", "AFW_Flip/b_0.jpg"):
        picture(tmp_path / name)
        savemat(tmp_path / name.replace(".jpg", ".mat"), {"pt2d": before.T + 1, "Pose_Para": np.zeros((1, 7))})
    for name, own in (("AFW/a_3", after), ("AFW/b_0", other)):
        (tmp_path / "landmarks" / name).parent.mkdir(parents=True, exist_ok=True)
        savemat(tmp_path / "landmarks" / f"{name}_pts.mat", {"pts_2d": own + 1, "pts_3d": own})
    (tmp_path / "Code").mkdir()
    savemat(tmp_path / "Code" / "Model.mat", {"w": np.zeros((3, 3))})
    (tmp_path / "Code" / "Other.mat").write_bytes(b"\x89HDF")
    # 61,225 faces are published, and as many mirror images in folders of their own, which are left out
    with pytest.warns(UserWarning, match="skipped 4 other files, .*AFW_Flip"):
        samples = read_aflw2000(tmp_path)
    for sample, wanted in zip(samples, (after, other), strict=True):
        check(sample, wanted, "68")
        assert sample.tags == {"variable": "pts_2d", "angles": (0, 0, 0), "yaw": "0-30"}
    with pytest.warns(UserWarning, match="skipped 2 other files, .*Model.mat"):
        samples = read_aflw2000(tmp_path, flipped=True)
    flip = list(data.readers.markups.get("68").flip)
    for sample, wanted in zip(samples[2:], (after, other), strict=True):        # pictures are 8 pixels wide
        check(sample, (wanted * [-1, 1] + [7, 0])[flip], "68")


@pytest.mark.parametrize("yaw, word", [(0, "0-30"), (-30, "0-30"), (31, "30-60"), (-75.5, "60-90"), (97, "over 90")])
def test_aflw2000_says_how_far_a_face_is_turned(tmp_path, yaw, word):
    picture(tmp_path / "image00001.jpg")
    pose = np.radians([[10.0, yaw, -5]]).repeat(1, 0)
    table = {"pt3d_68": np.vstack([points(68).T + 1, np.zeros((1, 68))])}
    savemat(tmp_path / "image00001.mat", table | {"Pose_Para": np.hstack([pose, [[1, 2, 3, 4]]])})
    sample, = read_aflw2000(tmp_path)
    assert sample.tags == {"variable": "pt3d_68", "angles": (10, yaw, -5), "yaw": word}
    for damaged in (np.zeros((1, 2)), np.full((1, 7), np.nan)):
        savemat(tmp_path / "image00001.mat", table | {"Pose_Para": damaged})
        with pytest.raises(ValueError, match="image00001.mat: wanted Pose_Para"):
            read_aflw2000(tmp_path)


@pytest.mark.parametrize("end", [".JPEG", ".Jpg", ".webp", ".tif", ".TIFF", ".BmP"])
def test_pictures_with_any_ending(tmp_path, end):
    picture(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / f"a{end}")
    (tmp_path / "a.pts").write_text(pts_text(points(68)))
    sample, = read_300w(tmp_path)
    assert sample.image.name == f"a{end}" and [s.image for s in read_images(tmp_path)] == [sample.image]


def test_what_belongs_to_something_else_is_skipped_and_counted(tmp_path):
    """A Mac's notes, and Menpo's profile faces of 39 points, among files that are right."""
    for name, count in (("a", 68), ("b", 68), ("side", 39)):
        picture(tmp_path / "300w" / f"{name}.jpg")
        (tmp_path / "300w" / f"{name}.pts").write_text(pts_text(points(count)))
    for name in ("300w/._a.pts", "300w/__MACOSX/c.pts", "helen/annotation/._1.txt", "celeba/._a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    picture(tmp_path / "celeba" / "a.png")
    picture(tmp_path / "helen" / "images" / "a.jpg")
    (tmp_path / "helen" / "annotation" / "1.txt").write_text(
        "\n".join(["a", *(f"{x} , {y}" for x, y in points(194))]))
    with pytest.warns(UserWarning, match="skipped 3 other files"):
        assert len(read_300w(tmp_path / "300w")) == 2
    with pytest.warns(UserWarning, match="skipped 1 other files"):
        assert len(read_images(tmp_path / "celeba")) == 1
    rows = {row["set"]: row for row in inventory(tmp_path)}
    assert rows["300-W"]["faces"] == 2 and "skipped 3" in rows["300-W"]["missing"]
    assert rows["HELEN"]["faces"] == 1 and "skipped 1" in rows["HELEN"]["missing"]
    (tmp_path / "300w" / "b.pts").write_text("version: 1")                      # this is ours, and broken
    with pytest.raises(ValueError, match="b.pts, line 1"):
        read_300w(tmp_path / "300w")


def csv_table(folder, names, end="\n"):
    head = ["image", *(f"{c}{i}" for i in range(68) for c in "xy")]
    rows = [[name, *map(str, points(68).ravel())] for name in names]
    (folder / "val.csv").write_text("\n".join(map(",".join, [head, *rows])) + end, encoding="utf-8")
    return folder / "val.csv"


def test_blank_lines_of_a_table(tmp_path):
    picture(tmp_path / "images" / "a.png")
    assert len(read_csv(csv_table(tmp_path, ["a.png", "a.png"], "\n\n  \n" + "," * 136 + "\n"))) == 2
    with pytest.raises(ValueError, match="val.csv, line 5: wanted 137"):
        read_csv(csv_table(tmp_path, ["a.png", "a.png"], "\n\na.png,1\n"))
    with pytest.raises(ValueError, match="val.csv, line 2: .*field larger"):
        read_csv(csv_table(tmp_path, ["a" * 200_000]))


@pytest.mark.parametrize("name", ["../secret.png", "/SECRET", "link.png", "folder/../../secret.png", "out/secret.png",
                                  "a" * 5000, "", "..", "a\0b"])
def test_lists_name_pictures_of_their_own_folder(tmp_path, name):
    picture(tmp_path / "secret.png")
    picture(tmp_path / "images" / "folder" / "a.png")
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "images" / "out").symlink_to(tmp_path)
    name = str(tmp_path / "secret.png") if name == "/SECRET" else name
    with pytest.raises(ValueError, match="line [12].*(leads out|no image)|no image"):
        read_csv(csv_table(tmp_path, [name]))
    if name:
        with pytest.raises(ValueError, match="list.txt, line 1.*(leads out|no image)"):
            read_wflw(*wflw(tmp_path, points(98), name=name))
    (tmp_path / "alias").symlink_to(tmp_path / "images")                         # the folder itself may be a link
    assert len(read_csv(csv_table(tmp_path, ["folder/../folder/a"]), tmp_path / "alias")) == 1


def external(file, place, way):
    """A data set whose pixels lie in another file of the disk."""
    secret = place / "secret.bin"
    secret.write_bytes(bytes(64))
    if way == "storage":
        return file.create_dataset("evil", (8, 8), np.uint8, external=[(str(secret), 0, 64)])
    with h5py.File(place / "other.h5", "w") as other:
        other["pixels"] = np.zeros((8, 8), np.uint8)
    layout = h5py.VirtualLayout((8, 8), np.uint8)
    layout[:] = h5py.VirtualSource(str(place / "other.h5"), "pixels", (8, 8))
    return file.create_virtual_dataset("evil", layout)


@pytest.mark.parametrize("way", ["storage", "virtual"])
def test_cofw_reads_no_other_files(tmp_path, way):
    path = tmp_path / "COFW_test.mat"
    cofw(path, points(29), np.zeros(29), "T")
    with h5py.File(path, "a") as file:
        file["IsT"][0, 1] = external(file, tmp_path, way).ref
    with pytest.raises(ValueError, match="COFW_test.mat.*lie in the file itself"):
        read_cofw(path)
    cofw(path, points(29), np.zeros(29), "T")
    with h5py.File(path, "a") as file, h5py.File(tmp_path / "table.h5", "w") as other:
        other["phisT"] = file["phisT"][()]
        del file["phisT"]
        file["phisT"] = h5py.ExternalLink(str(tmp_path / "table.h5"), "phisT")
    with pytest.raises(ValueError, match="COFW_test.mat.*lie in the file itself"):
        read_cofw(path)


@pytest.mark.parametrize("change", [
    lambda f: f.__delitem__("IsT"), lambda f: f["IsT"].__setitem__((0, 1), h5py.Reference()),
    lambda f: f["IsT"].__setitem__((0, 1), f.create_group("g").ref),
    lambda f: f["IsT"].__setitem__((0, 1), f.create_dataset("d", (1 << 20, 1 << 20), "u1", chunks=(9, 9)).ref),
    lambda f: f["IsT"].__setitem__((0, 1), f.create_dataset("d", data="text").ref),
    lambda f: (f.__delitem__("IsT"), f.__setitem__("IsT", np.zeros((1, 2)))),
    lambda f: (f.__delitem__("phisT"), f.create_group("phisT")),
    lambda f: (f.__delitem__("phisT"), f.__setitem__("phisT", np.zeros((87, 9)))),
], ids=range(8))
def test_damaged_cofw_files_are_named(tmp_path, change):
    path = tmp_path / "COFW_test.mat"
    cofw(path, points(29), np.zeros(29), "T")
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(ValueError, match="COFW_test.mat"):
        read_cofw(path)


@pytest.mark.parametrize("change", [
    {"ra": np.array([[0, 1, 2]])}, {"ra": np.array([[9, 1, 2]])}, {"ra": np.array([[1, 1, 2]])}, {"ra": "text"},
    {"bbox": np.full((3, 4), np.nan)}, {"bbox": np.zeros((3, 3))}, {"mask_new": np.zeros((2, 19))},
    {"nameList": np.zeros((3, 1))}, {"data": np.zeros((3, 38)) + 1j},
], ids=lambda change: next(iter(change)))
def test_damaged_aflw_files_are_named(tmp_path, change):
    with pytest.raises(ValueError, match="AFLWinfo_release.mat"):
        read_aflw(*aflw(tmp_path, RNG.uniform(1, 9, (3, 38)), **change), "train")


def test_unlabelled_images(tmp_path):
    picture(tmp_path / "b" / "2.jpg")
    picture(tmp_path / "1.png")
    samples = read_images(tmp_path)
    assert [s.image.name for s in samples] == ["1.png", "2.jpg"] and samples[0].landmarks is None


@pytest.mark.parametrize("read", [read_300w, read_300vw, read_aflw2000, read_images, read_csv, read_pts, read_cofw,
                                  lambda p: read_wflw(p, p), lambda p: read_helen(p, p), lambda p: read_aflw(p, p),
                                  lambda p: read_cofw68(p, p)])
def test_what_is_missing_is_named(tmp_path, read):
    with pytest.raises(OSError, match="nowhere"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("read", [read_300w, read_300vw, read_aflw2000, read_images])
def test_an_empty_folder_is_no_data_set(tmp_path, read):
    with pytest.raises(ValueError, match="none"):
        read(tmp_path)


def test_the_inventory_lists_what_is_there_and_what_is_not(tmp_path):
    wflw(tmp_path / "wflw", points(98))
    (tmp_path / "wflw" / "list.txt").rename(tmp_path / "wflw" / "test.txt")
    picture(tmp_path / "celeba" / "a.jpg")
    (tmp_path / "300w").mkdir()
    (tmp_path / "300w" / "bad.pts").write_text("no")
    rows = {row["set"]: row for row in inventory(tmp_path)}
    assert {name for name, row in rows.items() if row["faces"]} == {"WFLW test", "CelebA"}
    assert "list_98pt_rect_attr_train.txt and WFLW_images/" in rows["WFLW train"]["missing"]
    assert "bad.pts, line 1" in rows["300-W"]["missing"] and "AFLWinfo_release.mat" in rows["AFLW train"]["missing"]
    lines = inventory_table(list(rows.values())).splitlines()
    assert len(lines) == len(rows) + 1 and "WFLW test" in lines[list(rows).index("WFLW test") + 1]


def test_the_inventory_knows_the_published_names(tmp_path):
    table, images = wflw(tmp_path / "wflw", points(98))
    for part in ("train", "test"):
        path = tmp_path / "wflw" / "WFLW_annotations" / "list_98pt_rect_attr_train_test" / \
            f"list_98pt_rect_attr_{part}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(table.read_bytes())
    images.rename(tmp_path / "wflw" / "WFLW_images")
    table.unlink()
    (tmp_path / "cofw").mkdir()
    cofw68(tmp_path / "cofw", {1: points(68)})
    cofw(tmp_path / "cofw" / "COFW_train_color.mat", points(29), np.zeros(29), "Tr")
    picture(tmp_path / "300w_lp" / "AFW" / "a_1.jpg")
    savemat(tmp_path / "300w_lp" / "AFW" / "a_1.mat", {"pt2d": points(68).T})
    rows = {row["set"]: row["faces"] for row in inventory(tmp_path) if row["faces"]}
    assert rows == {"WFLW train": 1, "WFLW test": 1, "COFW train": 2, "COFW test": 2, "COFW-68": 1, "300W-LP": 1}
