"""TAB's tables on photos, run on a few faces in the folders that the sets are published in."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat
from test_readers import picture, pts_text

from experiments import tab_photos
from facealign_lite import records, tab
from facealign_lite.training import learning_rate

RNG = np.random.default_rng(3)
SMALL = {"image_size": 64, "channels": 8, "depth": 3, "widths": (4, 4, 4, 4)}


def face(count):
    return RNG.uniform(12, 52, (count, 2)).round(2)


def wflw(folder):
    for part, count in (("train", 3), ("test", 2)):
        lines = []
        for i in range(count):
            picture(folder / "WFLW_images" / f"{part}{i}.jpg", 64)
            lines.append(" ".join(map(str, face(98).ravel())) + f" 1 1 60 60 {i} 0 0 0 1 0 {part}{i}.jpg")
        table = folder / "WFLW_annotations/list_98pt_rect_attr_train_test" / f"list_98pt_rect_attr_{part}.txt"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text("\n".join(lines))


def w300(folder):
    for k, place in enumerate(("afw", "helen/trainset", "helen/testset", "lfpw/testset", "ibug", "300W/01_Indoor")):
        picture(folder / place / f"{k}.png", 64)
        (folder / place / f"{k}.pts").write_text(pts_text(face(68)))


def cofw(folder):
    folder.mkdir(parents=True)
    for part, end in (("train", "Tr"), ("test", "T")):
        with h5py.File(folder / f"COFW_{part}_color.mat", "w") as file:
            file[f"phis{end}"] = np.stack([np.concatenate([face(29).T.ravel() + 1, np.zeros(29)]) for _ in range(2)]).T
            file[f"bboxes{end}"] = np.array([[5, 5, 50, 50]] * 2, np.float64).T
            grey = np.full((64, 64), 99, np.uint8)
            file[f"Is{end}"] = np.array([[file.create_dataset(f"#refs#/{i}", data=grey).ref for i in range(2)]],
                                        h5py.ref_dtype)
    (folder / "COFW68_Data" / "test_annotations").mkdir(parents=True)
    savemat(folder / "COFW68_Data" / "cofw68_test_bboxes.mat", {"bboxes": np.array([[5.0, 5, 50, 50]] * 2)})
    savemat(folder / "COFW68_Data" / "test_annotations" / "1_points.mat",
            {"Points": face(68) + 1, "Occ": np.zeros((68, 1), np.uint8)})


def aflw(folder):
    count = 20_002                                                              # the test begins at 20,000
    picture(folder / "images" / "0.jpg", 64)
    names = np.empty((count, 1), object)
    names[:, 0] = "0.jpg"
    mask = np.ones((count, 19))
    mask[-1, 0] = 0
    savemat(folder / "AFLWinfo_release.mat", {
        "bbox": np.tile([5.0, 61, 5, 61], (count, 1)), "data": RNG.uniform(12, 52, (count, 38)), "nameList": names,
        "mask_new": mask, "ra": np.arange(1, count + 1)[None]})


def poses(folder):
    for place, name, variable in (("300w_lp/AFW", "a_1", "pt2d"), ("300w_lp/HELEN", "b_0", "pt2d"),
                                  ("aflw2000", "image1", "pt3d_68"), ("aflw2000", "image2", "pt3d_68")):
        picture(folder / place / f"{name}.jpg", 64)
        rows = 2 if variable == "pt2d" else 3
        savemat(folder / place / f"{name}.mat", {variable: np.vstack([face(68).T + 1, np.zeros((1, 68))])[:rows],
                                                 "Pose_Para": np.array([[0, 1.2 if name == "image2" else 0.1, 0]])})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", str(tmp_path / "sets"))
    monkeypatch.setattr(tab, "LITE", replace(tab.LITE, **SMALL))
    return tmp_path / "sets"


def run(names, where, **more):
    few = {"boundary_steps": 2, "landmark_steps": 2, "batch_size": 2, "amp": "off"}
    budget = tab_photos.BUDGETS["lite"] | few | more
    arms = tab_photos.arms(budget, "cpu")
    found = records.run_arms("p", {name: arms[name] for name in names}, [0], tab_photos.WHAT, tab_photos.data(budget),
                             budget, where, where / "work", "cpu")
    return {record["arm"]: record["figures"] for record in found.values()}


def test_every_table_has_its_rows(folder, tmp_path):
    wflw(folder / "wflw"), w300(folder / "300w"), cofw(folder / "cofw"), poses(folder)
    found = run(["wflw", "300w_own", "300w", "cofw", "aflw2000", "fusion0"], tmp_path)
    assert set(found["wflw"]["rows"]) == {"all", "pose", "occlusion"}           # the subsets that have faces
    assert found["wflw"]["rows"]["all"]["images"] == 2 and found["wflw"]["rows"]["pose"]["images"] == 1
    assert set(found["300w"]["rows"]) == {"challenging_inter_ocular", "challenging_inter_pupil", "common_inter_ocular",
                                          "common_inter_pupil", "full_inter_ocular", "full_inter_pupil", "private",
                                          "cofw68"}
    assert found["300w"]["rows"]["full_inter_ocular"]["images"] == 3            # 2 common and 1 challenging
    assert (found["300w"]["train"], found["300w"]["train_boundaries"]) == (2, 3)        # boundaries of WFLW
    assert (found["300w_own"]["train"], found["300w_own"]["train_boundaries"]) == (2, 2)
    assert found["300w"]["nme"] != found["300w_own"]["nme"] != found["fusion0"]["nme"]
    assert set(found["aflw2000"]["rows"]) == {"all", "0-30", "60-90"} and found["cofw"]["rows"]["all"]["images"] == 2
    assert all(one["stem"] == "random" for one in found.values())


def test_aflw_is_divided_by_the_given_box(folder, tmp_path, monkeypatch):
    wflw(folder / "wflw"), aflw(folder / "aflw")
    read = tab_photos.SETS["AFLW train"]
    monkeypatch.setitem(tab_photos.SETS, "AFLW train", (*read[:2], lambda place: read[2](place)[:3]))
    rows = run(["aflw"], tmp_path)["aflw"]["rows"]
    assert {name: one["images"] for name, one in rows.items()} == {"full": 2, "frontal": 1}
    test = tab_photos.photos(folder, "AFLW test")
    model = tab.TAB(replace(tab.LITE, landmarks=19))
    torch.manual_seed(0)
    given = tab_photos.evaluate(model, test, "given_box")
    wanted = np.linalg.norm(given.predicted - given.target, axis=-1).mean(1) / 56       # a box of 56 x 56
    np.testing.assert_allclose(given.errors, wanted)


def test_the_papers_run_is_the_papers(monkeypatch):
    config = tab_photos.TAB_PAPER
    rates = [learning_rate(config, step) for step in (0, 37_499, 37_500, 56_249, 56_250, 65_624)]
    np.testing.assert_allclose(rates, [1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])     # 80 and 120 of 140 epochs
    assert (config.optimizer, config.weight_decay) == ("adam", 0)
    assert config.steps == 140 * 7500 // config.batch_size
    budget = tab_photos.BUDGETS["gpu"]
    own = tab_photos.settings(budget, "cpu", 0, "landmark", "x", 3148)
    assert own.steps == 140 * 3148 // 16 and own.milestones == config.milestones and own.lr == 1e-4
    network = tab_photos.network(budget, 68)
    assert network == replace(tab.PAPER, landmarks=68) and network.reading == "center_of_mass"
    assert (tab_photos.AUGMENTATION.rotation, tab_photos.AUGMENTATION.scale) == (60, (0.75, 1.25))
    assert (tab_photos.AUGMENTATION.flip, tab_photos.AUGMENTATION.occluder) == (0.5, 0.5)


def test_a_stem_of_the_papers_size_takes_weights_that_lie_there(folder, tmp_path, monkeypatch):
    from safetensors.torch import save_file
    w300(folder / "300w")
    small = replace(tab.PAPER, channels=256, stacks=1, image_size=64, depth=3, widths=(4, 4, 4, 4), unit="residual")
    monkeypatch.setattr(tab, "PAPER", small)
    monkeypatch.setattr(tab_photos, "w300_tests", lambda root: {"all": (tab_photos.part(
        tab_photos.photos(root, "300-W"), "challenging"), "box")})
    torch.manual_seed(5)
    weights = tab.stem(small).body.state_dict()
    (folder / "weights").mkdir()
    save_file(weights, folder / "weights" / "vgg16_bn.safetensors")
    budget = {"network": "paper", "epochs": 1, "boundary_steps": 1, "landmark_steps": 1, "batch_size": 2}
    found = run(["300w_own"], tmp_path, **budget)
    assert found["300w_own"]["stem"] == "ImageNet"


def test_a_set_that_lacks_a_part_is_named(folder):
    picture(folder / "300w" / "somewhere" / "a.png", 64)
    (folder / "300w" / "somewhere" / "a.pts").write_text(pts_text(face(68)))
    with pytest.raises(ValueError, match="300w must hold faces of train"):
        tab_photos.part(tab_photos.photos(folder, "300-W"), "train")
    assert tab_photos.data({}) == "photos of 300-W"
