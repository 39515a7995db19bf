"""The scripts that decide claims: what they measure, on a few faces."""
import importlib
import json
import sys
import types

import numpy as np
import pytest
import torch

from experiments import __main__ as command
from experiments import acenet as acenet_claims
from experiments import acenet_shares, scpan, scpan_photos, scpan_shares, tab
from experiments import msm as msm_claims
from facealign_lite import geometry, records
from facealign_lite.data import save_packed
from facealign_lite.synthetic import SyntheticFaces
from facealign_lite.training import complete, learning_rate


@pytest.fixture(scope="module")
def faces():
    domain = acenet_claims.Domain(acenet_claims.REAL, 4, 96, 5)
    return [domain[i] for i in range(4)]


def test_the_truth_itself_has_no_error(faces):
    found = acenet_claims.score(lambda i: (faces[i].anchors, faces[i].contours), faces)
    assert found["nme_ac"] < 1e-9 and found["back"] < 1e-9 and found["found"] == 1 and found["auc"] > 1 - 1e-6


def test_the_truth_has_as_many_landmarks_as_helen_without_brows(faces):
    anchors, on, length = acenet_claims.truth(faces[0])
    assert len(anchors) + sum(map(len, on.values())) == 194 - 40
    assert length == pytest.approx(np.linalg.norm(faces[0].landmarks[36] - faces[0].landmarks[45]))


def test_lines_through_more_landmarks_and_bent_ones_are_better(faces):
    def error(markup, degree):
        def read(i):
            points = faces[i].landmarks
            return acenet_claims.through(acenet_claims.markups.convert(points, "68", markup), markup, degree)
        return acenet_claims.score(read, faces)["nme_ac"]
    assert 0 < error("68", 2) < error("68", 1) < error("36", 1)
    assert error("36", 2) < error("36", 1)


def test_what_straight_lines_cut_off_is_seen_from_both_sides(faces):
    """The corners of a chain lie on the truth, what is between them does not."""
    back = [acenet_claims.score(lambda i, markup=markup: acenet_claims.through(acenet_claims.markups.convert(
        faces[i].landmarks, "68", markup), markup), faces)["back"] for markup in ("68", "36")]
    assert 1e-3 < back[0] < back[1] / 2


def test_the_annotator_errs_alike_in_landmarks_that_are_near_and_has_habits(faces):
    def error(seed, i, **of):
        """In eye distances, along the face's own axes."""
        right, left = faces[i].landmarks[[36, 45]]
        axes = np.array([left - right, [right[1] - left[1], left[0] - right[0]]]) / np.linalg.norm(left - right) ** 2
        clicked = acenet_shares.Annotated(faces, seed, **of)[i].landmarks
        return (clicked - acenet_shares.brows_amid(faces[i])) @ axes.T
    hands = np.array([error(seed, 0, habit=0) for seed in range(300)])                   # (S, 68, 2)
    assert np.array_equal(hands[3], error(3, 0, habit=0)) and not np.array_equal(hands[3], error(3, 1, habit=0))
    assert hands.std(0).mean() == pytest.approx(acenet_shares.HAND, rel=0.05)
    assert abs(hands.mean(0)).max() < 5 * acenet_shares.HAND / 300**0.5
    correlation = np.corrcoef(hands[:, :, 0].T)
    apart = np.linalg.norm(faces[0].landmarks[:, None] - faces[0].landmarks, axis=-1)
    apart /= apart[36, 45]
    wanted = np.exp(-apart**2 / (2 * acenet_shares.ALONG**2))
    assert abs(correlation - wanted).max() < 0.3                                          # 5 standard errors
    assert correlation[37, 38] > 0.5 > abs(correlation[37, 57])                          # of one lid; of lid and lip
    # one annotator's habit is nearly the same on another face, of another shape; another annotator's is another
    habit, elsewhere, others = (error(seed, i, hand=0) for seed, i in ((5, 0), (5, 1), (6, 0)))
    assert 2 * abs(habit - elsewhere).mean() < abs(habit).mean() < abs(habit - others).mean()
    # without both the landmarks are the truth
    assert abs(error(5, 0, hand=0, habit=0)).max() < 1e-12


def test_the_annotator_clicks_brows_where_the_contours_run(faces):
    for face in faces:
        points = acenet_shares.brows_amid(face)
        assert np.array_equal(np.delete(points, range(17, 27), 0), np.delete(face.landmarks, range(17, 27), 0))
        for name, rows in acenet_shares.BROWS.items():
            of = np.linalg.norm(np.subtract(*face.landmarks[[36, 45]]))
            assert geometry.distance_to_polyline(points[list(rows)], face.contours[name]).max() < 1e-6 * of
            # in the order of the landmarks
            assert np.linalg.norm(points[list(rows)] - face.landmarks[list(rows)], axis=1).max() < 0.2 * of


def test_a_contour_is_as_free_as_the_papers():
    def free(config):
        return (config.reach - config.sigma / 2**0.5) / config.heatmap_size
    assert free(acenet_claims.config(acenet_shares.BUDGETS["lite"])) == pytest.approx(
        free(acenet_claims.acenet.PAPER), rel=0.02)
    assert free(acenet_claims.config(acenet_claims.BUDGETS["lite"])) < 0.75 * free(acenet_claims.acenet.PAPER)


def test_the_domains_share_no_face_and_differ_in_shape():
    real, synthetic = (acenet_claims.Domain(look, 3, 64, 5) for look in (acenet_claims.REAL, acenet_claims.SYNTHETIC))
    assert real.scene(0).weights != synthetic.scene(0).weights
    scene = synthetic.scene(1)
    assert scene.widen == scene.broaden == scene.chin == scene.lengthen == 0
    assert not any(abs(scene.weights.get(name, 0)) > 1e-9 for name in acenet_claims.PROPORTIONS
                   if name not in acenet_claims.SyntheticFaces(3, 64, 1005, synthetic.style).scene(1).weights)
    assert (np.abs(np.diff(synthetic[0].image.astype(float), axis=0)).mean()
            < np.abs(np.diff(real[0].image.astype(float), axis=0)).mean())      # the smooth look has less texture


def test_the_test_faces_are_nobodys_training_faces():
    seeds = [(look.name, seed) for look, _, seed in acenet_claims.SETS.values()]
    assert len(set(seeds)) == len(seeds)


def test_tab_arms_share_the_boundary_part_and_report_what_table_8_has(tmp_path, monkeypatch):
    small = tab.replace(tab.tab.LITE, image_size=32, channels=8, depth=3, widths=(4, 4, 4, 4))
    monkeypatch.setattr(tab.tab, "LITE", small)
    budget = {"boundary_steps": 2, "landmark_steps": 1, "lr": 1e-3, "landmark_lr": 1e-3, "batch_size": 2, "amp": "off"}
    faces = save_packed(tmp_path / "faces", SyntheticFaces(3, 48, 2))
    monkeypatch.setattr(tab, "pack", lambda folder, name, budget: faces)
    seen = [complete(tab.arm(budget, "cpu", scales=scales, fusion=t)(0, tmp_path / name))
            for name, scales, t in (("a", "multi", 2), ("b", "single", 0))]
    assert seen[0]["boundary_mse"] == seen[1]["boundary_mse"] > 0 and seen[0]["nme"] != seen[1]["nme"]
    assert [p.name for p in tmp_path.glob("tab-boundaries-*")] == ["tab-boundaries-vgg-0"]
    assert 0 <= seen[0]["overlap"] <= 1 and len(seen[0]["overlap_of_each"]) == 16 and seen[0]["subsets"]
    assert seen[0]["parameters"] > seen[1]["parameters"] > seen[0]["stem_parameters"]


@pytest.fixture
def tab_budget(tmp_path, monkeypatch):
    small = tab.replace(tab.tab.LITE, image_size=64, channels=8, depth=3, widths=(4, 4, 4, 4))
    monkeypatch.setattr(tab.tab, "LITE", small)
    faces = save_packed(tmp_path / "faces", SyntheticFaces(3, tab.FACE_SIZE, tab.FACE_SEED))
    monkeypatch.setattr(tab, "pack", lambda folder, name, budget: faces)
    return {"boundary_steps": 4, "landmark_steps": 4, "lr": 1e-3, "landmark_lr": 1e-3, "batch_size": 2, "amp": "off"}


@pytest.mark.parametrize("name", ["plain", "free", "free_low", "coordinates", "last", "one_stack", "lines98",
                                  "vgg_small"])
def test_every_rival_of_tab_runs_and_takes_as_many_steps_in_all(tab_budget, tmp_path, monkeypatch, name):
    taken, whole = [], tab.steps
    monkeypatch.setattr(tab, "steps", lambda *args, **more: taken.append(args[3].steps) or whole(*args, **more))
    found = complete(tab.arms(tab_budget, "cpu")[name](0, tmp_path / name))
    assert sum(taken) == 8 and np.isfinite(found["nme"]) and len(found["errors"]) == 3
    assert ("overlap" in found) == (name not in ("plain", "free", "free_low"))  # these have no lines


def test_an_arm_looked_at_on_its_way_ends_as_the_one_that_was_not(tab_budget, tmp_path):
    arms = tab.arms(tab_budget, "cpu")
    early, usual = (complete(arms[name](0, tmp_path / name)) for name in ("early2", "vgg"))
    assert early["errors"].tolist() == usual["errors"].tolist()
    assert early["nme_1"] == pytest.approx(np.mean(early["errors_1"])) and early["nme_1"] != early["nme_2"]
    going = arms["early2"](1, tmp_path / "stopped")
    for _ in range(6):                                                          # four of stage one, two of stage two
        next(going)
    going.close()
    assert complete(arms["early2"](1, tmp_path / "stopped"))["nme_1"] > 0       # seen before it was stopped


def test_the_rivals_of_tab_differ_from_it_in_what_they_say():
    count = tab.tab.nn.Module.parameters
    size = lambda model: sum(p.numel() for p in count(model))                   # noqa: E731
    whole = tab.tab.TAB()
    head = tab.Coordinates(tab.tab.SCBE(), tab.tab.LITE)
    decoder = size(whole.balt.up) + size(whole.balt.head)
    assert size(head.squeeze) + size(head.matrix) == pytest.approx(decoder, rel=0.15)
    stems = {kind: size(tab.Boundaries(kind).build().stem) for kind in ("vgg", "vgg_small", "resnet", "hourglass")}
    assert stems["resnet"] <= stems["vgg_small"] <= stems["hourglass"] < stems["vgg"] / 2
    first, second = tab.Boundaries(), tab.Boundaries(every_stack=False)
    batch = {"image": torch.zeros(1, 1, 128, 128), "landmarks": torch.rand(1, 68, 2) * 128}
    outputs = first.build()(batch["image"])
    assert first.loss()(outputs, batch) > second.loss()(outputs, batch) > 0
    alone = ([outputs[0][-1]], outputs[1])
    assert second.loss()(outputs, batch) == first.loss()(alone, batch)


def test_coordinates_are_read_where_they_were_taught():
    model = tab.Coordinates(tab.tab.SCBE(), tab.tab.LITE)
    points = torch.rand(2, 68, 2) * 120
    batch = {"image": torch.zeros(2, 1, 128, 128), "landmarks": points}
    maps = tab.heatmaps.to_heatmap(points, (128, 128), (64, 64))
    assert model.loss(maps, batch) == 0 and torch.allclose(model.read(maps).points, points, atol=1e-4)


def test_the_denser_faces_are_the_same_pictures(tab_budget, tmp_path):
    faces = tab.pack(tmp_path, "train", tab_budget)
    dense = tab.Denser(faces)
    for i in range(3):
        assert np.array_equal(dense[i].image, faces[i].image) and np.array_equal(dense[i].box, faces[i].box)
        fewer = tab.tab.markups.convert(dense[i].landmarks, "98", "68")
        assert np.abs(fewer[:17] - faces[i].landmarks[:17]).max() < 1e-6       # the jaw is the same


@pytest.fixture
def scpan_budget(tmp_path, monkeypatch):
    small = scpan.replace(scpan.scpan.LITE, channels=8, depth=1, stem=(4, 4, 8))
    monkeypatch.setattr(scpan.scpan, "LITE", small)
    monkeypatch.setattr(scpan, "FEW", 2)
    faces = save_packed(tmp_path / "faces", SyntheticFaces(4, 48, 2))
    monkeypatch.setattr(scpan, "pack", lambda folder, name, budget: faces)
    return scpan.BUDGETS["lite"] | {"image_size": 32, "steps": 2, "lr": 1e-3, "pairs_a_step": 2, "amp": "off"}


def test_scpan_arms_differ_in_what_they_say_they_do(scpan_budget, tmp_path):
    found = {}
    for name, some in {"shn": (scpan.SHN, scpan.uncalibrated()), "scpan": ()}.items():
        (tmp_path / name).mkdir()
        found[name] = complete(scpan.arm(scpan_budget, "cpu", *some)(0, tmp_path / name))
        assert np.isfinite(found[name]["nme"]) and len(found[name]["errors"]) == 4 and found[name]["subsets"]
        assert found[name]["errors_unvoted"].mean() == pytest.approx(found[name]["nme_unvoted"], abs=1e-5)
    assert found["shn"]["nme"] != found["scpan"]["nme"] != found["scpan"]["nme_unvoted"]
    assert found["shn"]["parameters"] != found["scpan"]["parameters"]


def test_unlabelled_faces_of_semi_scpan_have_no_labels_and_no_face_twice(scpan_budget, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(scpan, "steps", lambda model, pairs, *rest, **more: iter(seen.append(pairs) or ()))
    complete(scpan.arms(scpan_budget, "cpu")["semi"](0, tmp_path))
    few, many = seen[0].parts
    assert [int(i) for i in few.samples.indices] == [0, 1] and list(many.samples.indices) == [2, 3]
    assert seen[0][1]["landmarks"].isnan().all()


def test_shares_of_the_map_read_a_network_four_ways_and_with_either_half_true(scpan_budget, tmp_path, monkeypatch):
    faces = scpan.pack(tmp_path, "train", scpan_budget)
    monkeypatch.setattr(scpan_shares, "pack", lambda folder, name, budget: faces)
    monkeypatch.setattr(scpan_shares, "CONFIG", scpan_shares.replace(
        scpan_shares.CONFIG, channels=8, depth=1, stem=(4, 8, 8)))
    budget = scpan_shares.BUDGETS["lite"] | {"steps": 2, "pairs_a_step": 2, "amp": "off"}
    found = {name: complete(scpan_shares.arms(budget, "cpu")[name](0, tmp_path / name)) for name in ("shn", "scpan")}
    for figures in found.values():
        for way in scpan_shares.READINGS:
            assert np.mean(figures[f"errors_{way}"]) == pytest.approx(figures[f"nme_{way}"], abs=1e-5)
        assert figures["nme"] == pytest.approx(figures["nme_votes"]) and figures["subsets"]
    plain, whole = found["shn"], found["scpan"]
    assert plain["nme_window"] == plain["nme_votes"] == plain["nme_printed"] and "oracle" not in plain
    oracle = whole["oracle"]
    assert oracle["learnt field, learnt heat"] == {way: whole[f"nme_{way}"] for way in ("votes", "printed")}
    assert oracle["true field, true heat"]["votes"] < 0.02 < oracle["true field, learnt heat"]["votes"]
    assert oracle["learnt field, true heat"]["printed"] < 0.1


def test_oracles_of_perfect_answers_are_perfect(scpan_budget, tmp_path):
    """A network that says the truth: all arrows are explained, and what is learnt is as good as what is true."""
    config = scpan.replace(scpan_shares.CONFIG.scaled(64), **scpan_shares.SMALL)
    faces = scpan.pack(tmp_path, "train", scpan_budget)
    crops = scpan_shares.Crops(faces, 64)
    points = torch.stack([crops[i]["landmarks"] for i in range(len(crops))])

    class Perfect(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = config

        def forward(self, images):
            on_map = scpan_shares.heatmaps.to_heatmap(points, 64, 32)
            field, _ = scpan.scpan.fields.vectors(on_map, config.boundaries, 32, config.square)
            return scpan.scpan.Maps([scpan_shares.heatmaps.encode(on_map, 32, config.sigma)], [], field)

    found = scpan_shares.measure(Perfect(), faces)
    assert found["arrows"] == {"all": 1, "near": 1}
    assert len({tuple(row.values()) for row in found["oracle"].values()}) == 1
    assert found["nme_votes"] < found["nme_printed"] < 0.03


def test_the_papers_training_is_the_papers():
    config = scpan.TrainConfig(scpan.PAPER["steps"], lr=scpan.PAPER["lr"],
                               **{name: scpan.PAPER[name] for name in scpan.SETTINGS})
    rates = {step: learning_rate(config, step) for step in (0, 9_999, 10_000, 40_000, 100_000, 199_999)}
    assert [rates[s] / 2.5e-4 for s in rates] == pytest.approx([1, 1, 1 / 5, 1 / 10, 1 / 20, 1 / 20])
    network = scpan.lite(scpan.PAPER)
    assert network == scpan.scpan.PAPER and network.stages == 4
    assert (network.square, network.window, network.reach, network.heatmap_size) == (5, 3, None, 128)
    assert set(scpan_photos.arms(scpan.PAPER)) >= {"table_shn", "table_bali", "table_scpa", "table_scpan"}


def test_a_row_of_table_1_learns_from_labelled_photos(scpan_budget, tmp_path, monkeypatch):
    faces = [scpan.pack(tmp_path, "train", scpan_budget)[i] for i in range(4)]
    monkeypatch.setattr(scpan_photos, "photos", lambda folder: (faces[:3], faces[3:]))
    found = complete(scpan_photos.arms(scpan_budget, "cpu")["table_scpan"](0, tmp_path / "run"))
    assert len(found["errors"]) == 1 and np.isfinite(found["nme"])


@pytest.mark.parametrize("hidden", [0, 0.4])
def test_msm_hides_what_it_says_and_measures_where_the_faces_are(faces, hidden):
    test, plain = msm_claims.rough(faces, hidden), msm_claims.rough(faces, 0)
    assert torch.equal(test.landmarks, plain.landmarks) and (test.visible <= plain.visible).all()
    changed = (test.images != plain.images).any(1).float().flatten(1).mean(1)          # share of each crop
    box = np.ptp(test.landmarks.numpy(), axis=1).prod(1) / msm_claims.SIZE**2
    assert np.allclose(changed, hidden * box, rtol=0.2, atol=1e-3)
    mean = torch.from_numpy(msm_claims.msm.mean_face(test.landmarks.numpy()))
    theta = msm_claims.stgan.true_theta(test.landmarks.double(), mean, msm_claims.SIZE)
    matrix = msm_claims.stgan.pixel_map(theta, msm_claims.SIZE)
    straight = torch.linalg.solve(matrix[..., :2], (test.landmarks.double() - matrix[:, None, :, 2]).mT).mT
    scores = np.where(np.arange(68) % 3 > 0, 1.0, 0.0) * np.ones((len(faces), 1))
    found, rule = msm_claims.Answer(straight.numpy(), {0.75: scores}, theta), msm_claims.PAPER_RULE
    assert msm_claims.errors(found, test).max() < 1e-9 and msm_claims.pose(theta, theta)["rotation"] < 1e-6
    assert msm_claims.right(found, test).all() and (msm_claims.trusted(found, rule) == scores).all()
    book = msm_claims.msm.ShapeDictionary(msm_claims.msm.canonical(test.landmarks.numpy()))
    again = msm_claims.rebuilt(found, book, scores == 1, keep=True)
    moved = np.linalg.norm(again.points - found.points, axis=-1)
    assert moved[:, scores[0] == 1].max() < 1e-9 < moved[:, scores[0] == 0].max()


def test_msm_judges_scores_by_what_was_in_sight():
    visible, generator = np.arange(68) % 4 > 0, np.random.default_rng(0)
    visible = np.stack([visible, np.roll(visible, 1)])
    said = msm_claims.judgement(visible, visible)
    assert said["precision"] == said["recall"] == said["J"] == 1 and said["reliable"] == said["visible"] == 0.75
    assert msm_claims.judgement(np.ones_like(visible), visible)["J"] == 0
    assert msm_claims.judgement(~visible, visible)["J"] == -1
    scores = generator.uniform(0.1, 1, visible.shape)
    one, other = (scores / scores.max(1, keepdims=True))[visible], (scores / scores.max(1, keepdims=True))[~visible]
    pairs = (one[:, None] > other).mean() + (one[:, None] == other).mean() / 2       # of all pairs, by counting
    assert msm_claims.rank(3 * scores, visible) == pytest.approx(pairs)


# ---- budgets, and the command line ---------------------------------------------------------------------------------

@pytest.mark.parametrize("name", command.PAPERS)
def test_a_paper_has_both_budgets_and_a_gpu_trains_ten_times_as_long(name):
    paper = importlib.import_module(f"experiments.{name}")
    lite, gpu = (paper.BUDGETS[key] for key in ("lite", "gpu"))
    assert isinstance(paper.WHAT, str) and set(paper.BUDGETS) == set(paper.SEEDS) == {"lite", "gpu"}
    assert all(gpu[key] >= 10 * lite[key] for key in lite if "steps" in key) and any("steps" in key for key in lite)
    assert set(lite) <= set(gpu) and gpu.get("image_size", 0) >= lite.get("image_size", 0)
    assert len(paper.SEEDS["gpu"]) >= 5 and len(set(paper.SEEDS["gpu"])) == len(paper.SEEDS["gpu"])
    assert list(paper.arms(lite)) == list(paper.arms(gpu))


@pytest.mark.parametrize("name", sorted({*command.PAPERS} - {"acenet_photos", "tab_photos", "msm_photos"}))
def test_the_lite_budget_is_the_one_of_the_records(name):
    """So that a record of before is read, and not run again."""
    paper = importlib.import_module(f"experiments.{name}")
    budget, seen = json.loads(json.dumps(paper.BUDGETS["lite"])), 0
    for arm in paper.arms(budget):
        for record in records.read_seeds(f"{name}-{arm}"):
            seen += 1
            assert record["budget"] == budget and record["what"] == paper.WHAT
            assert name.endswith("_photos") or record["data"] == paper.data(budget)
    assert seen or name in ("hourglass", "rht_places")               # which have not been run at this budget


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A paper with two arms and no training, and nothing of the repository's touched."""
    paper = types.ModuleType("experiments.toy")
    paper.WHAT, paper.SEEDS = "toy", {"lite": [4], "gpu": [4, 5]}
    paper.BUDGETS = {"lite": {"steps": 1}, "gpu": {"steps": 10}}
    paper.data = lambda budget: "none"
    paper.arms = lambda budget, device="auto": {
        "one": lambda seed, folder: {"nme": seed / 100, "words": "no number"},
        "other": lambda seed, folder: {"nme": budget["steps"], "device": device}}
    monkeypatch.setitem(sys.modules, "experiments.toy", paper)
    monkeypatch.setattr(command, "PAPERS", (*command.PAPERS, "toy"))
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(records, "WORK", tmp_path / "work")
    return paper


def test_the_command_line_runs_a_papers_arms(toy, tmp_path, capsys):
    assert command.main(["toy", "one"]) == 0
    assert capsys.readouterr().out == "toy-one-4 nme 0.04\n"
    assert command.main(["toy", "--budget", "gpu", "--device", "cpu", "--seeds", "5", "--seconds", "60"]) == 0
    assert capsys.readouterr().out == "gpu-toy-one-5 nme 0.05\ngpu-toy-other-5 nme 10\n"
    assert records.read_record("gpu-toy-other-5", tmp_path / "results")["figures"]["device"] == "cpu"
    assert sorted(p.name for p in (tmp_path / "results").iterdir()) == [
        "gpu-toy-one-5.json", "gpu-toy-other-5.json", "toy-one-4.json"]
    assert sorted(p.name for p in (tmp_path / "work").iterdir()) == ["gpu", "lite"]


def test_one_file_comes_out_and_is_collected(toy, tmp_path, monkeypatch, capsys):
    out = tmp_path / "records.jsonl"
    assert command.main(["toy", "--budget", "gpu", "--out", str(out)]) == 0
    names = [f"gpu-toy-{arm}-{seed}" for seed in (4, 5) for arm in ("one", "other")]
    assert [json.loads(line)["name"] for line in out.read_text().splitlines()] == names
    monkeypatch.setattr(records, "RESULTS", tmp_path / "home")
    capsys.readouterr()
    assert command.main(["collect", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"new: {name}" for name in names]
    assert [p.stem for p in sorted((tmp_path / "home").iterdir())] == sorted(names)
    assert command.main(["collect", str(out)]) == 0 and "nothing new" in capsys.readouterr().out
    for words in (["collect"], ["collect", str(tmp_path / "none")], ["collect", __file__]):
        assert command.main(words) == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_what_is_finished_is_in_the_file_though_the_next_arm_dies(toy, tmp_path):
    def dies(seed, folder):
        raise RuntimeError("out of memory")
    good = toy.arms
    toy.arms = lambda budget, device="auto": {"one": good(budget)["one"], "other": dies}
    with pytest.raises(RuntimeError, match="out of memory"):
        command.main(["toy", "--out", str(tmp_path / "lines")])
    assert [json.loads(line)["name"] for line in (tmp_path / "lines").read_text().splitlines()] == ["toy-one-4"]


def test_the_command_line_says_in_one_line_what_is_wrong(toy, tmp_path, capsys):
    assert command.main(["toy", "one", "none", "nor"]) == 2             # nothing is run before all names are known
    assert "none nor" in capsys.readouterr().err and not (tmp_path / "results").exists()
    for words in ([], ["nobody"], ["toy", "--budget", "much"], ["toy", "--seconds", "long"]):
        assert command.main(words) == 2
        assert "usage" in capsys.readouterr().err
    assert command.main(["toy", "--budget", "paper"]) == 2
    assert capsys.readouterr().err == "error: budget of toy must be one of lite gpu, got paper\n"
    assert command.main(["toy", "--seconds", "-1"]) == 2
    assert capsys.readouterr().err == "error: seconds must be positive, got -1.0\n"
    toy.data = lambda budget: open("no such photos")
    assert command.main(["toy"]) == 2
    assert "no such photos" in capsys.readouterr().err
    toy.data = lambda budget: "none"
    (tmp_path / "results").mkdir()
    for text in ("{", "null", "3"):
        (tmp_path / "results" / "toy-one-4.json").write_text(text)
        assert command.main(["toy"]) == 2
        assert "toy-one-4.json" in (said := capsys.readouterr().err) and len(said.splitlines()) == 1


@pytest.mark.parametrize("name", ["acenet_photos", "tab_photos", "msm_photos"])
def test_photos_must_be_named(monkeypatch, capsys, name):
    monkeypatch.delenv("DATA", raising=False)
    assert command.main([name]) == 2
    assert "DATA=folder" in capsys.readouterr().err


def test_ace_net_learns_at_the_papers_size_with_the_papers_lengths():
    lite, gpu = (acenet_claims.two_domains(acenet_claims.BUDGETS[name]) for name in ("lite", "gpu"))
    assert (gpu["config"].heatmap_size, gpu["config"].sigma, gpu["config"].reach) == (128, 2, 6)
    assert (lite["config"].heatmap_size, lite["config"].reach) == (64, 3)
    assert (lite["layout"], gpu["layout"]) == ("in_turn", "halves")                # as Crops and BatchedCrops have it
