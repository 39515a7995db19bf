"""The interactive figures without a browser: what Python packs, what it refuses, the scripts' formulas run by node."""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from facealign_lite import contours, geometry, heatmaps, metrics, msm, rht, scpan, tab, widgets

NODE = shutil.which("node") or shutil.which("node", path=Path(sys.executable).parent)
needs_node = pytest.mark.skipif(NODE is None, reason="no node on the path: formulas are checked in the browser only")
SCRIPTS = ("codec", "ced", "face", "overlay", "steps", "bali", "pair", "contour weakloss", "contour contourness",
           "reference", "exemplars", "contour extraction", "boundary", "scene")


def run(name, expression):
    """The value of a JavaScript expression inside a figure's module, through node."""
    module = widgets.script(*name.split()) + f"\nconsole.log(JSON.stringify({expression}));"
    command = [NODE, "--input-type=module", "-"]
    done = subprocess.run(command, input=module, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- what Python packs ------------------------------------------------------------------------------------------

@given(st.lists(hnp.arrays(st.sampled_from([np.float32, np.uint8, np.int32]),
                           hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)), max_size=4))
@settings(max_examples=50, deadline=None)
def test_packed_arrays_come_back(values):
    layout, data = widgets.pack({str(i): value for i, value in enumerate(values)})
    for i, value in enumerate(values):
        entry = layout[str(i)]
        part = data[entry["offset"]:entry["offset"] + entry["size"]]
        np.testing.assert_array_equal(np.frombuffer(part, entry["dtype"]).reshape(entry["shape"]), value)


def test_picture_keeps_colours_and_size():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30], image[:, 30:] = (200, 60, 20), (20, 60, 200)
    back = cv2.imdecode(np.frombuffer(widgets.picture(image), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert back.shape == image.shape
    np.testing.assert_allclose(back[20, [10, 50]], image[20, [10, 50]], atol=4)
    grey = cv2.imdecode(np.frombuffer(widgets.picture(np.full((8, 8), 0.5)), np.uint8), cv2.IMREAD_UNCHANGED)
    assert grey.shape == (8, 8) and abs(int(grey[4, 4]) - 128) <= 1


def test_heatmaps_are_scaled_to_their_own_maximum():
    maps = np.stack([np.eye(4) * 0.2, np.eye(4)[::-1] * 7, np.zeros((4, 4))])
    figure = widgets.OverlayFigure(np.zeros((8, 8), np.uint8), np.ones((3, 2)), maps)
    entry = figure.arrays["heatmaps"]
    packed = np.frombuffer(figure.data[entry["offset"]:entry["offset"] + entry["size"]], np.uint8).reshape(3, 4, 4)
    np.testing.assert_array_equal(packed, 255 * (maps > 0))


def test_overlay_maps_cover_the_image_by_default():
    figure = widgets.OverlayFigure(np.zeros((60, 80), np.uint8), np.ones((1, 2)), np.ones((1, 15, 40)))
    (sx, _, tx), (_, sy, ty) = figure.options["to_map"]
    assert [sx * -0.5 + tx, sx * 79.5 + tx] == [-0.5, 39.5]         # the outer edges of image and map coincide
    assert [sy * -0.5 + ty, sy * 59.5 + ty] == [-0.5, 14.5]


def test_polylines_of_different_lengths_are_filled_with_nan():
    stacked = widgets._stack([np.ones((2, 2)), np.ones((4, 2)), np.empty((0, 2))])
    assert stacked.shape == (3, 4, 2)
    assert [np.isfinite(row).all(1).sum() for row in stacked] == [2, 4, 0]


def test_landmarks_are_named_by_their_narrowest_group():
    groups = widgets._groups("68", 68)
    sizes = [len(group["indices"]) for group in groups]
    assert sizes == sorted(sizes) and set().union(*(group["indices"] for group in groups)) == set(range(68))
    assert widgets._groups("68", 5) == [] and widgets._groups("no such markup", 68) == []


def test_state_is_plain_json_and_bytes():
    figure = widgets.CedFigure({"ours": [0.02, 0.05]})
    json.dumps([figure.options, figure.arrays], allow_nan=False)
    assert isinstance(figure.data, bytes)


# ---- what it refuses --------------------------------------------------------------------------------------------

GREY, POINT, MAP = np.zeros((8, 8), np.uint8), np.ones((1, 2)), np.ones((1, 4, 4))


TRUTH = np.random.default_rng(6).uniform(10, 118, (68, 2))
BOOK = msm.ShapeDictionary(TRUTH + np.random.default_rng(7).normal(0, 4, (30, 68, 2)).astype(np.float32))


@pytest.mark.parametrize("wrong, words", [
    (lambda: widgets.picture(np.zeros((0, 4), np.uint8)), "image must be"),
    (lambda: widgets.picture(np.zeros((4, 4, 4), np.uint8)), r"\(4, 4, 4\)"),
    (lambda: widgets.picture(np.zeros((4, 4), np.int64)), "int64"),
    (lambda: widgets.CodecFigure(shape="circle"), "shape .*circle"),
    (lambda: widgets.CodecFigure(sigma=0), "sigma .*0"),
    (lambda: widgets.CodecFigure(heatmap_size=63), "heatmap_size .*63"),
    (lambda: widgets.CodecFigure(GREY, point=(9, 3)), "point .*8 x 8"),
    (lambda: widgets.CedFigure({}), "errors"),
    (lambda: widgets.CedFigure({"ours": []}), "errors.*ours"),
    (lambda: widgets.CedFigure({"ours": [0.1, np.nan]}), "errors.*ours.*finite"),
    (lambda: widgets.CedFigure({"ours": [-0.1]}), "errors.*ours.*>= 0"),
    (lambda: widgets.CedFigure({"a": {"ours": [0.1]}, "b": {"peer": [0.1]}}), "same methods"),
    (lambda: widgets.CedFigure({"ours": [0.1]}, limit=0.3), "limit .*0.3"),
    (lambda: widgets.FaceFigure([], np.zeros((0, 1, 2)), []), "frames"),
    (lambda: widgets.FaceFigure([GREY, GREY[:4]], np.zeros((2, 1, 2)), [0, 1]), "one size"),
    (lambda: widgets.FaceFigure([GREY], np.zeros((1, 2)), [0]), r"landmarks must .* \(1, any, 2\), got \(1, 2\)"),
    (lambda: widgets.FaceFigure([GREY], POINT[None], [0], [[True, True]]), "visibility"),
    (lambda: widgets.FaceFigure([GREY], POINT[None], [0], contours={"chin": []}), "contours.*chin"),
    (lambda: widgets.FaceFigure([GREY], POINT[None], [0], occluding=["chin"]), "occluding"),
    (lambda: widgets.FaceFigure([GREY], POINT[None], [0], start=1), "start .*1"),
    (lambda: widgets.OverlayFigure(GREY, POINT, np.ones((2, 4, 4))), "heatmaps"),
    (lambda: widgets.OverlayFigure(GREY, POINT * np.nan, MAP), "finite"),
    (lambda: widgets.OverlayFigure(GREY, POINT, MAP, scores=[1, 2]), "scores"),
    (lambda: widgets.OverlayFigure(GREY, POINT, MAP, matrix=np.zeros((2, 3))), "invertible"),
    (lambda: widgets.OverlayFigure(GREY, POINT, MAP, start=1), "start"),
    (lambda: widgets.WeakLossFigure([[1, 1]], (20, 20)), "landmarks.*2 to 6"),
    (lambda: widgets.WeakLossFigure([[1, 1], [30, 2]], (20, 20)), "inside the 20 x 20"),
    (lambda: widgets.WeakLossFigure([[1, 1], [5, 5], [1, 1]], (20, 20)), "open chain"),
    (lambda: widgets.WeakLossFigure([[1, 1], [5, 5]], (20, 200)), "size .*200"),
    (lambda: widgets.WeakLossFigure([[1, 1], [5, 5]], (20, 20), reach=9), "reach .*9"),
    (lambda: widgets.StepsFigure([], [], np.zeros((0, 0, 1, 2)), [(0, 1)]), "steps and images"),
    (lambda: widgets.StepsFigure([GREY], [5, 5], np.zeros((2, 1, 1, 2)), [(0, 1)]), "ascend"),
    (lambda: widgets.StepsFigure([GREY], [0], np.zeros((1, 2, 1, 2)), [(0, 1)]), "predictions"),
    (lambda: widgets.StepsFigure([GREY], [0], np.zeros((1, 1, 1, 2)), [(0, 0)]), "positive"),
    (lambda: widgets.StepsFigure([GREY], [0], np.zeros((1, 1, 1, 2)), [(0, 1)], truth=np.zeros((1, 2, 2))), "truth"),
    (lambda: widgets.PairFigure(np.zeros((8, 9), np.uint8), np.ones((68, 2))), "square.*9 x 8"),
    (lambda: widgets.PairFigure(np.zeros((8, 8), np.uint8), np.ones((67, 2))), r"landmarks .*\(67, 2\)"),
    (lambda: widgets.PairFigure(np.zeros((8, 8), np.uint8), np.full((68, 2), np.nan)), "landmarks"),
    (lambda: widgets.PairFigure(np.zeros((8, 8), np.uint8), np.ones((68, 2)), nose=68), "nose .*68"),
    (lambda: widgets.BaliFigure(np.ones((1, 2)), (8, 8)), "points .*1"),
    (lambda: widgets.BaliFigure(np.ones((2, 3)), (8, 8)), r"points .*\(2, 3\)"),
    (lambda: widgets.BaliFigure([[1, 1], [8, 3]], (9, 8)), "points .*8 x 9"),
    (lambda: widgets.BaliFigure([[1, 1], [np.nan, 3]], (9, 8)), "points"),
    (lambda: widgets.BaliFigure([[1, 1], [2, 3]], (9, 80)), "size .*80"),
    (lambda: widgets.BaliFigure([[1, 1], [2, 3]], (9, 8), sigma=9), "sigma .*9"),
    (lambda: widgets.BaliFigure([[1, 1], [2, 3]], (9, 8), start=2), "start .*2"),
    (lambda: widgets.BoundaryFigure(np.ones((1, 2)), (8, 8)), "points .*1"),
    (lambda: widgets.BoundaryFigure([[1, 1], [8, 3]], (9, 8)), "points .*8 x 9"),
    (lambda: widgets.BoundaryFigure([[1, 1], [2, 3]], (9, 80)), "size .*80"),
    (lambda: widgets.BoundaryFigure([[1, 1], [2, 3]], (9, 8), sigma=0), "sigma .*0"),
    (lambda: widgets.ReferenceFigure(GREY, GREY, MAP, np.ones((1, 4, 5)), rht.correlate), "query and key .*4, 5"),
    (lambda: widgets.ReferenceFigure(GREY, GREY, MAP[0], MAP, rht.correlate), r"query .*\(4, 4\)"),
    (lambda: widgets.ReferenceFigure(GREY, GREY, MAP, MAP * np.nan, rht.correlate), "finite"),
    (lambda: widgets.ReferenceFigure(GREY, GREY, MAP, MAP, rht.correlate, place=(4, 0)), "place .*4 x 4"),
    (lambda: widgets.ReferenceFigure(GREY, GREY, MAP, MAP, rht.correlate, patch=2), "patch .*2"),
    (lambda: widgets.ExemplarFigure(BOOK.exemplars, TRUTH[:5]), r"truth .*\(68, 2\)"),
    (lambda: widgets.ExemplarFigure(BOOK.exemplars, TRUTH * np.nan), "truth .*finite"),
    (lambda: widgets.ExemplarFigure(BOOK.exemplars[:, :5], TRUTH), "68 landmarks.*of 5"),
    (lambda: widgets.ExemplarFigure(BOOK.exemplars, TRUTH, k=31), "k .*31"),
    (lambda: widgets.ExemplarFigure(BOOK.exemplars, TRUTH, k=5, ridge=0), "ridge .*0"),
    (lambda: widgets.ExemplarFigure(BOOK.exemplars, TRUTH, k=5, hand=(200, 3)), "hand .*128 x 128"),
])
def test_refuses_nonsense(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


# ---- the scripts ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_ask_nobody_for_anything(name):
    text = widgets.script(*name.split())
    assert not re.search(r"\bfetch\(|XMLHttpRequest|\bimport\b|@import|eval\(", text)
    assert re.findall(r"https?://\S+?(?=\")", text) == ["http://www.w3.org/2000/svg"]      # a name, not an address
    assert "</script" not in text and "<!--" not in text                                  # it is embedded in a page
    assert text.count("export default") == 1


METHODS = ("argmax", "quarter", "center_of_mass", "dark")


@needs_node
@pytest.mark.parametrize("shape", widgets.SHAPES)
def test_codec_script_is_the_library(shape):
    width, height, sigmas = 31, 20, (0.5, 1.5, 4.0)
    points = np.random.default_rng(0).uniform(-0.5, [width - 0.5, height - 0.5], (12, 2))
    points = np.vstack([points, [[0, 0], [width - 1, height - 1], [-0.5, 7.3], [15.25, 19.5], [9.5, 9.5]]])
    maps, found = run("codec", f"""(() => {{
      const size = [{width}, {height}], points = {points.tolist()};
      const maps = {list(sigmas)}.map((sigma) => points.map((p) => encode(p, ...size, sigma, "{shape}")));
      const found = {list(METHODS)}.map((method) => maps.map((row) => row.map((m) => DECODERS[method](m, ...size))));
      return [maps.map((row) => row.map((m) => [...m])), found];
    }})()""")
    expected = np.stack([heatmaps.encode(points, (height, width), sigma, shape) for sigma in sigmas])
    np.testing.assert_allclose(np.reshape(maps, expected.shape), expected, atol=1e-9)
    for method, places in zip(METHODS, found):
        np.testing.assert_allclose(places, heatmaps.decode(expected, method), atol=1e-6, err_msg=method)


@needs_node
def test_codec_script_decodes_noise_like_the_library():
    maps = np.random.default_rng(1).random((20, 9, 13)) - 0.3  # negative heat, peaks at borders
    maps[0], maps[1], maps[2] = 0, 1, -1  # flat ones
    listed = maps.reshape(20, -1).tolist()
    found = run("codec", f"{list(METHODS)}.map((method) => {listed}.map((m) => DECODERS[method](m, 13, 9)))")
    for method, places in zip(METHODS, found):
        np.testing.assert_allclose(places, heatmaps.decode(maps, method), atol=1e-6, err_msg=method)


@needs_node
def test_ced_script_is_the_library():
    errors = np.sort(np.random.default_rng(2).lognormal(np.log(0.06), 0.6, 200))
    errors[50:60] = 0.08  # ties, one of them at the limit
    errors.sort()
    limits = (0.01, 0.08, 0.5)
    listed = errors.tolist()
    rows = run("ced", f"{list(limits)}.map((limit) => [failureRate({listed}, limit), auc({listed}, limit)])")
    for limit, (fr, area) in zip(limits, rows):
        assert fr == pytest.approx(metrics.failure_rate(errors, limit), abs=1e-12)
        assert area == pytest.approx(metrics.auc(errors, limit), abs=1e-9)


@needs_node
def test_ticks_are_round_and_inside():
    narrow, wide, powers = run("ced", "[ticks(0, 0.2, 8), ticks(0, 1, 5), decades(0.5, 30)]")
    assert narrow == pytest.approx([0, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2])
    assert wide == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert powers == [0.5, 1, 2, 5, 10, 20]


@needs_node
@pytest.mark.parametrize("degrees, scale, mirror", [(25, 0.8, True), (-60, 0.5, False), (0, 1, True)])
def test_pair_script_moves_and_compares_like_the_library(degrees, scale, mirror):
    points = np.random.default_rng(5).uniform(2, 29, (4, 2))
    linear = scpan.linear_map(*(torch.tensor([v], dtype=torch.float64) for v in (np.deg2rad(degrees), scale)),
                              torch.tensor([mirror]))
    wanted = scpan.move_points(torch.from_numpy(points)[None], linear, 32, range(4))[0]
    twin = points[::-1]
    heat = heatmaps.encode(points, 32, 1.5 * scale), heatmaps.encode(twin.copy(), 32, 1.5)
    mean = scpan.js_divergence(*map(torch.from_numpy, heat)).mean()
    script = f"linearMap({degrees}, {scale}, {str(mirror).lower()})"
    moved, found = run("pair", f"[movePoints({points.tolist()}, {script}, 32), meanDivergence({points.tolist()}, "
                               f"{twin.tolist()}, {1.5 * scale}, 1.5, 32)]")
    np.testing.assert_allclose(moved, wanted, atol=1e-6)
    assert found == pytest.approx(float(mean), abs=1e-9)


@needs_node
@pytest.mark.parametrize("reading", ["gaussian", "printed"])
def test_bali_script_is_the_librarys_field(reading):
    random = np.random.default_rng(3)
    for count in (2, 3, 9):
        points = np.cumsum(random.uniform(0.5, 5, (count, 2)) * [1, random.choice([-1, 1])], 0) + [-1, 12]
        chain, setting = (tuple(range(count)),), {"radius": 3, "sigma": 1.2, "reading": reading}
        wanted = scpan.bali_field(points, chain, (20, 25), **setting)
        line, found = run("bali", f"[curve({points.tolist()}), baliField({points.tolist()}, 25, 20, {setting})]")
        np.testing.assert_allclose(line, scpan.curves(points, chain)[0], atol=1e-9)
        np.testing.assert_allclose(np.reshape(found["confidence"], (20, 25)), wanted.confidence[0], atol=1e-9)
        vectors = np.reshape([found["u"], found["v"]], (2, 20, 25))
        np.testing.assert_allclose(vectors, wanted.offsets[0], atol=1e-9)
        np.testing.assert_array_equal(np.reshape(found["owner"], (20, 25)) >= 0, wanted.mask[0])
    twice = [[3, 4], [3, 4], [9, 4]]
    np.testing.assert_allclose(run("bali", f"curve({twice})"), scpan.curves(np.array(twice), [(0, 1, 2)])[0], atol=1e-9)


@needs_node
@pytest.mark.parametrize("reach", [None, 1.5])
def test_bali_script_votes_like_the_library(reach):
    random = np.random.default_rng(4)
    heat = random.random((12, 1, 9, 13)) - 0.3
    heat[0], heat[1], heat[2] = 0, 1, -1                            # flat ones
    offsets = random.uniform(-3, 3, (12, 1, 2, 9, 13))
    for radius in (0, 2, 4):
        wanted = scpan.decode_bali(torch.from_numpy(heat), torch.from_numpy(offsets), radius, reach)[:, 0]
        rows = [[h.ravel().tolist(), *o.reshape(2, -1).tolist()] for h, o in zip(heat[:, 0], offsets[:, 0])]
        last = "Infinity" if reach is None else reach
        found = run("bali", f"{rows}.map(([h, u, v]) => vote(h, u, v, 13, 9, {radius}, {last}).point)")
        np.testing.assert_allclose(found, wanted, atol=1e-9)


@needs_node
def test_bali_heat_has_its_peak_at_the_landmark():
    peak, rough, flat = (np.reshape(h, (15, 21)) for h in run(
        "bali", '["peak", "rough", "flat"].map((kind) => heatOf([8.3, 6.6], 21, 15, kind))'))
    np.testing.assert_allclose(peak, heatmaps.encode(np.array([[8.3, 6.6]]), (15, 21), 1.5)[0], atol=1e-12)
    assert (0.3 * peak <= rough).all() and (rough <= peak).all() and (rough / peak).std() > 0.1
    assert np.unravel_index(flat.argmax(), flat.shape) == (7, 8) and flat.min() > 0.8


# ---- ExemplarFigure ---------------------------------------------------------------------------------------------

@needs_node
def test_exemplar_script_is_the_dictionary():
    rng = np.random.default_rng(8)
    shapes = (TRUTH + rng.normal(0, 4, (7, 68, 2))) @ [[1.1, 0.6], [-0.6, 1.1]] + [30, -9]
    seen = rng.random((7, 68)) < 0.5
    seen[0], seen[1], seen[2], seen[3] = False, np.arange(68) == 3, np.arange(68) < 2, True    # none, one, two, all
    exemplars = [row.ravel().tolist() for row in BOOK.exemplars]
    rows = [[shape.ravel().tolist(), mask.tolist()] for shape, mask in zip(shapes, seen)]
    for k, ridge in ((30, 60.0), (8, 60.0), (1, 0.1), (30, 1e5)):
        call = f"reconstruct(book, meanShape(book), s, v, {k}, {ridge})"
        found = run("exemplars", f"((book) => {json.dumps(rows)}.map(([s, v]) => [...{call}.shape]))({exemplars})")
        wanted = BOOK.reconstruct(shapes, seen, k, ridge)
        np.testing.assert_allclose(np.reshape(found, wanted.shape), wanted, atol=1e-6)


@needs_node
def test_exemplar_script_lays_the_exemplars_on_the_face_and_mixes_them():
    shape = TRUTH @ [[0.3, 1.2], [-1.2, 0.3]] + [5, 90]
    book = [row.ravel().tolist() for row in BOOK.exemplars]
    call = f"reconstruct({book}, meanShape({book}), {shape.ravel().tolist()}, Array(68).fill(true), 5, 60)"
    parts = "(({ near, alpha, shape }) => [near.map((one) => [...one]), alpha, [...shape]])"
    near, alpha, found = run("exemplars", f"{parts}({call})")
    near = np.reshape(near, (5, 68, 2))
    off = np.linalg.norm(near - shape, axis=(1, 2))
    assert (np.diff(off) >= 0).all() and off[0] < 1.5 * np.sqrt(68 * 2) * 4 * np.hypot(0.3, 1.2)
    # mixed in the frame; on the face, what the coefficients lack of one is filled with the frame's corner
    corner = geometry.procrustes(BOOK.exemplars.mean(0), shape)[:, 2]
    mixed = np.einsum("n,nkd->kd", alpha, near) + (1 - np.sum(alpha)) * corner
    np.testing.assert_allclose(mixed, np.reshape(found, (68, 2)), atol=1e-6)


# ---- WeakLossFigure ---------------------------------------------------------------------------------------------

@needs_node
def test_weak_loss_script_is_the_library():
    from facealign_lite import acenet
    rng = np.random.default_rng(4)
    width, height = 40, 32
    chain = np.array([[5.2, 20.1], [15.7, 12.4], [25.3, 14.0], [34.6, 22.9]])
    bent = np.vstack([chain[0], (chain[:-1] + chain[1:])[0] / 2 + [0, -3], chain[1:] + rng.normal(0, 0.7, (3, 2))])
    for sigma, reach in ((2.0, 6.0), (2.0, 3.0), (3.0, 4.0)):
        heat = contours.encode(torch.from_numpy(bent)[None], (height, width), sigma)
        noisy = heat + 0.2 * torch.from_numpy(rng.normal(size=heat.shape))
        score, orientation = contours.contourness(noisy, sigma)
        on = torch.tensor([False, True, True, False])
        line = torch.from_numpy(chain)[None]
        wanted = [acenet.landmark_loss(score, line, on), acenet.line_loss(score, line, reach),
                  acenet.far_loss(noisy, line, reach, 50.0),
                  acenet.full_loss(contours.encode(line, (height, width), sigma), noisy, 50.0)]
        flat = noisy.reshape(-1).tolist()
        found = run("contour weakloss", f"""(() => {{
          const size = [{width}, {height}], chain = {chain.tolist()}, noisy = {flat}, far = distances(chain, ...size);
          const {{ score, orientation }} = contourness(noisy, ...size, {sigma});
          return [[...contourHeat({bent.tolist()}, ...size, {sigma})], [...score], [...orientation],
            [landmarkLoss((p) => sample(score, ...size, p), chain),
             lineLoss((p) => sample(score, ...size, p), chain, {reach}).loss,
             farLoss(noisy, far, {reach}, 50), fullLoss(contourHeat(chain, ...size, {sigma}), noisy, 50)]];
        }})()""")
        np.testing.assert_allclose(found[0], heat.reshape(-1), atol=1e-9)
        np.testing.assert_allclose(found[1], score.reshape(-1), atol=1e-9)
        turn = (np.array(found[2]) - orientation.reshape(-1).numpy() + np.pi / 2) % np.pi - np.pi / 2
        assert np.abs(turn).max() < 1e-6
        np.testing.assert_allclose(found[3], [value.item() for value in wanted], atol=1e-9)


@needs_node
def test_a_score_at_a_place_is_that_of_the_map_moved_there():
    """On pixel centres it is the score itself; between them, an exact contour through the place scores in full."""
    heat = torch.from_numpy(np.random.default_rng(5).random((20, 24)))
    places = [[9, 8], [1, 2], [23, 19]]
    score, _ = contours.contourness(heat, 2.0)
    found = run("contour weakloss", f"{places}.map((p) => scoreAt({heat.reshape(-1).tolist()}, 24, 20, 2, p))")
    np.testing.assert_allclose(found, [score[y, x] for x, y in places], atol=1e-6)
    line = "contourHeat([[-9, 4.4], [40, 16.65]], 24, 20, 2)"           # slope 1/4
    exact, read = run("contour weakloss", f"""[scoreAt({line}, 24, 20, 2, [11.4, 9.5]),
        sample(contourness({line}, 24, 20, 2).score, 24, 20, [11.4, 9.5])]""")
    assert exact > 4.85 > 4.3 > read


@needs_node
def test_the_bent_contour_goes_through_its_rings():
    rings = [[3.0, 4.0], [9.5, 2.0], [12.0, 11.0], [20.0, 6.0]]
    line = np.array(run("contour weakloss", f"smoothCurve({rings}, 8)"))
    np.testing.assert_allclose(line[::8], rings, atol=1e-12)
    straight = np.array(run("contour weakloss", "smoothCurve([[0, 0], [2, 1], [4, 2], [6, 3]])"))
    np.testing.assert_allclose(straight[:, 1], straight[:, 0] / 2, atol=1e-12)


@needs_node
@pytest.mark.parametrize("patch", [1, 3, 5])
def test_reference_script_matches_like_the_library(patch):
    rng = np.random.default_rng(patch)
    query, key = rng.normal(size=(2, 3, 6, 8)).astype(np.float32)
    query[:, :3, :3] = 0                                            # a corner without features
    confidence, index = rht.correlate(*(torch.from_numpy(f.astype(float))[None] for f in (query, key)), patch)
    listed = [f"{{ data: {f.ravel().tolist()}, shape: [3, 6, 8] }}" for f in (query, key)]
    found = np.array(run("reference", f"Array.from({{ length: 48 }}, (_, i) => "
                                      f"[...similarities({listed[0]}, {listed[1]}, i, {patch})])"))
    np.testing.assert_allclose(found.max(1), confidence.flatten(), atol=1e-9)
    sure = confidence.flatten().numpy() != 0
    assert sure.sum() >= 39 and (found.argmax(1) == index[0].numpy())[sure].all()


@needs_node
def test_reference_script_finds_the_winner_and_a_rival_elsewhere():
    assert run("reference", "best([0, 9, 8, 1, 7, 2], 3, 1.2)") == {"first": 1, "second": 5}


@needs_node
@pytest.mark.parametrize("sigma, degrees, pixel", [(2, 30, (20, 20)), (1.5, 0, (12, 20)), (3, 123, (0, 39))])
def test_contourness_script_is_the_library(sigma, degrees, pixel):
    x, y = np.meshgrid(*[np.arange(41.0) - 20] * 2)
    angle = np.deg2rad(degrees)
    line = np.maximum(0, 1 - 2 * (y * np.cos(angle) - x * np.sin(angle) - 0.3) ** 2 / sigma**2)
    noisy = line + np.random.default_rng(7).normal(0, 0.2, line.shape)
    theta = np.linspace(0, np.pi, 361)
    drawn, loose, cut = run("contour contourness", f"""(() => {{
      const noisy = {noisy.reshape(-1).tolist()}, at = {list(pixel)};
      const sweep = (cut) => {theta.tolist()}.map((angle) => match(noisy, 41, {sigma}, at, angle, cut));
      return [[...lineHeat(41, {angle}, 0.3, {sigma})], sweep(false), sweep(true)];
    }})()""")
    np.testing.assert_allclose(drawn, line.ravel(), atol=1e-9)
    score, orientation = (part[pixel[1], pixel[0]].item() for part in
                          contours.contourness(torch.from_numpy(noisy), sigma))
    assert max(loose) == pytest.approx(score, abs=2e-3) and max(loose) < score + 1e-6
    assert abs((theta[np.argmax(loose)] - orientation + np.pi / 2) % np.pi - np.pi / 2) < np.pi / 360
    reach = int(2 * sigma)                                           # Eq. 6 as printed, raised by that of an ideal line
    i, j = np.meshgrid(*[np.arange(-reach, reach + 1)] * 2)
    g = np.exp(-(i**2 + j**2) / sigma**2)
    heat = np.pad(noisy.clip(0), reach)[pixel[1]:pixel[1] + 2 * reach + 1, pixel[0]:pixel[0] + 2 * reach + 1]
    ideal = (g * np.maximum(0, 1 - 2 * j**2 / sigma**2) ** 2).sum()
    for k in (0, 50, 200):
        template = np.maximum(0, 1 - 2 * (j * np.cos(theta[k]) - i * np.sin(theta[k])) ** 2 / sigma**2)
        assert cut[k] == pytest.approx(ideal - (g * (heat - template) ** 2).sum(), abs=1e-9)


@needs_node
def test_the_noise_of_the_contourness_figure_is_noise():
    noise = np.array(run("contour contourness", "[...steadyNoise(1681)]"))
    assert abs(noise.mean()) < 0.1 and 0.9 < noise.std() < 1.1
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.1


@pytest.mark.parametrize("wrong, word", [({"angle": 181}, "angle"), ({"angle": float("nan")}, "angle"),
                                         ({"sigma": 0}, "sigma"), ({"sigma": 2.2}, "sigma")])
def test_contourness_figure_refuses(wrong, word):
    with pytest.raises(ValueError, match=word):
        widgets.ContournessFigure(**wrong)


# ---- ExtractionFigure -------------------------------------------------------------------------------------------

@needs_node
@pytest.mark.parametrize("sigma, low, high", [(2.0, 0.2, 0.4), (3.0, 0.2, 0.4), (3.0, 0.1, 0.8), (1.5, 0.3, 0.3)])
def test_extraction_script_is_the_library(sigma, low, high):
    rng, t = np.random.default_rng(5), np.linspace(0, 2 * np.pi, 90)
    circle = [14, 13] + 8 * np.stack([np.cos(t), np.sin(t)], 1)
    wave = np.stack([t * 6, 22 + 3 * np.sin(t)], 1)                  # leaves the map to the right
    heat = contours.encode([circle, wave], (30, 36), 2.0).numpy().max(0) + rng.normal(0, 0.08, (30, 36))
    heat[10:16, 20:24] = 0
    found = run("contour extraction", f"extract({heat.ravel().tolist()}, 36, 30, {sigma}, {low}, {high}).curves")
    expected = contours.extract(torch.from_numpy(heat), sigma, low, high)
    assert len(found) == len(expected) > 0
    for one, wanted in zip(found, expected):
        np.testing.assert_allclose(one, wanted, atol=1e-9)


@needs_node
def test_the_damage_of_the_extraction_figure():
    heat = np.zeros((21, 25))
    heat[10, 12] = 1
    noise = np.random.default_rng(0).normal(size=heat.shape)
    soft, holed, noisy = (np.reshape(part, heat.shape) for part in run("contour extraction", f"""(() => {{
      const heat = {heat.ravel().tolist()}, noise = {noise.ravel().tolist()};
      return [[1.5, 0, 0], [1.5, 4, 0], [0, 0, 0.3]].map(([blur, hole, level]) =>
        [...damage(heat, noise, 25, 21, {{ blur, hole, level }}, [12, 10])]);
    }})()"""))
    y, x = np.mgrid[:21, :25]
    far = np.hypot(x - 12, y - 10)
    assert soft.sum() == pytest.approx(1) and (soft * (x - 12) ** 2).sum() == pytest.approx(1.5**2, rel=0.03)
    assert (holed[far < 2] == 0).all() and (holed[far >= 2] == soft[far >= 2]).all()
    np.testing.assert_allclose(noisy, heat + 0.3 * noise, atol=1e-12)


@pytest.mark.parametrize("wrong, word", [
    ({"heatmap": np.zeros((8, 97))}, "heatmap"), ({"heatmap": np.full((8, 8), np.nan)}, "heatmap"),
    ({"truth": np.zeros((1, 2))}, "truth"), ({"sigma": 2.2}, "sigma"), ({"low": 0.5}, "low"), ({"noise": 1}, "noise")])
def test_extraction_figure_refuses(wrong, word):
    with pytest.raises(ValueError, match=word):
        widgets.ExtractionFigure(**{"heatmap": np.zeros((8, 8)), "truth": np.ones((2, 2))} | wrong)


@needs_node
@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_boundary_figure_draws_the_lines_and_maps_of_the_library(count):
    points = np.random.default_rng(count).uniform(1, 12, (count, 2))
    got = run("boundary", f"smoothLine({points.tolist()}, 16)")
    line = tab.smooth(torch.from_numpy(points), 16)
    np.testing.assert_allclose(got, line, atol=1e-9)
    heat = run("boundary", f"heatOfLine({line.tolist()}, 16, 13, 1.5, false)")
    distance = contours.distances(line, (13, 16), 4.5)
    wanted = torch.where(distance < 4.499, torch.exp(-distance.square() / 4.5), 0)
    near = (distance < 4.4) | (distance > 4.499)
    np.testing.assert_allclose(np.reshape(heat, (13, 16))[near], wanted[near], atol=1e-6)
    pixels = np.floor(line.numpy() + 0.5)
    x, y = np.meshgrid(np.arange(16), np.arange(13))
    d = np.hypot(x[..., None] - pixels[:, 0], y[..., None] - pixels[:, 1]).min(-1)
    snapped = run("boundary", f"heatOfLine({line.tolist()}, 16, 13, 1.5, true)")
    np.testing.assert_allclose(np.reshape(snapped, (13, 16)), np.where(d < 4.5, np.exp(-d**2 / 4.5), 0), atol=1e-9)


@needs_node
def test_the_straighten_script_is_the_library():
    rng, size = np.random.default_rng(4), 96
    for _ in range(3):
        one, other = (np.column_stack([np.eye(2) + rng.normal(0, 0.2, (2, 2)), rng.normal(0, 0.3, 2)]) for _ in "ab")
        theta, target = (torch.from_numpy(x)[None] for x in (one, other))
        named = f"{one.tolist()}, {other.tolist()}"
        np.testing.assert_allclose(run("straighten", f"pixelMap({one.tolist()}, {size})"),
                                   msm.pixel_map(theta, size)[0], atol=1e-9)
        left = run("straighten", f"residual({named}, 0.3)")
        np.testing.assert_allclose([left["rotation"], left["scale"], left["shift"]],
                                   [value.item() for value in msm.pose_residual(theta, target, 0.3)], atol=1e-9)
        losses = run("straighten", f"lossesOf({named}, {size})")
        assert losses["parameters"] == pytest.approx(msm.parameter_loss(theta, target).item())
        apart = (msm.grid(theta, size) - msm.grid(target, size)) * size / 2
        assert losses["grid"] == pytest.approx(apart.square().sum(-1).mean().sqrt().item(), rel=1e-3)
        frame = run("straighten", f"frameOf(thetaOf({{x: 40, y: 50, angle: -0.7, scale: 1.2}}, {size}), {size})")
        assert frame == pytest.approx({"x": 40, "y": 50, "angle": -0.7, "scale": 1.2})


@pytest.mark.parametrize("wrong, word", [
    ((np.zeros((8, 9)), np.eye(2, 3)), "square.*9 x 8"), ((GREY, np.eye(3)), "target"),
    ((GREY, np.zeros((2, 3))), "target.*invertible"), ((GREY, np.eye(2, 3), np.eye(2, 3) * np.nan), "theta.*finite"),
    ((GREY, np.eye(2, 3), None, -1.0), "margin")])
def test_straighten_figure_refuses(wrong, word):
    with pytest.raises(ValueError, match=word):
        widgets.StraightenFigure(*wrong)
