"""Figures: what is drawn lies where it should, and every function returns its Axes."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from facealign_lite import markups, metrics, plots

IMAGE = np.zeros((40, 60, 3), np.uint8)
POINTS = np.random.default_rng(0).uniform(2, 38, (68, 2))


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_parts_have_their_colours():
    colours = plots.part_colours()
    groups = markups.get("68").groups
    assert len(colours) == 68 and set(colours) == set(plots.PARTS.values())
    assert all(colours[i] == colour for part, colour in plots.PARTS.items() for i in groups[part])
    assert plots.part_colours(5) == [plots.BLUE] * 5


def test_part_colours_differ_for_colour_blind_readers():
    """Machado's deuteranopia matrix (2009, severity 1): the five parts stay apart by more than a shade."""
    blind = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    seen = np.array([blind @ to_rgb(colour) for colour in plots.PARTS.values()])
    apart = np.linalg.norm(seen[:, None] - seen, axis=-1) + np.eye(len(seen))
    assert apart.min() > 0.12


def test_show_draws_points_contours_and_box():
    visible = np.arange(68) % 3 > 0
    ax = plots.show(IMAGE, POINTS, {"lid": POINTS[:9], "lip": POINTS[9:20]}, visible, (3, 4, 30, 33), title="a face")
    full, hollow = ax.collections
    np.testing.assert_allclose(full.get_offsets(), POINTS[visible])
    np.testing.assert_allclose(hollow.get_offsets(), POINTS[~visible])
    np.testing.assert_allclose(ax.lines[0].get_xydata(), POINTS[:9])
    assert len(ax.lines) == 3 and ax.get_title() == "a face"
    assert ax.get_xlim() == (-0.5, 59.5) and ax.get_ylim() == (39.5, -0.5)


def test_what_a_network_gives_is_drawn():
    torch = pytest.importorskip("torch")
    points = torch.tensor(POINTS, dtype=torch.bfloat16, requires_grad=True)
    lines = {"chin_boundary": points[:9]}
    wanted = points.detach().double().numpy()
    full, = plots.show(torch.tensor(IMAGE), points, lines, box=points[:2].flatten().sort().values).collections
    np.testing.assert_allclose(full.get_offsets(), wanted)
    np.testing.assert_allclose(plots.contours(IMAGE, lines, points[:12]).lines[0].get_xydata(), wanted[:9])
    assert plots.heatmap(IMAGE, torch.rand(68, 8, 8, requires_grad=True)) is not None
    assert plots.sheet([torch.tensor(IMAGE)], [points], [lines]) is not None
    errors = {"net": torch.rand(5, 68, requires_grad=True)}
    heights = [bar.get_height() for bar in plots.part_errors(errors).patches]
    assert heights == [bar.get_height() for bar in plots.part_errors({"net": errors["net"].detach()}).patches]
    assert plots.ced({"net": errors["net"].mean(1)}) is not None


@pytest.mark.parametrize("call, word", [
    (lambda: plots.part_errors({"a": np.zeros((3, 68))}, "98"), "98"), (lambda: plots.part_errors({"a": [1.0]}), "68"),
    (lambda: plots.part_errors({"a": np.full((3, 68), np.nan)}), "finite"),
    (lambda: plots.sheet([IMAGE], columns=0), "columns"), (lambda: plots.sheet(["text"]), "image"),
    (lambda: plots.show(IMAGE[:0]), "image"), (lambda: plots.show(None), "image"),
    (lambda: plots.show(IMAGE, box=(1, 2)), "box"), (lambda: plots.show(IMAGE, contours={"a": [1, 2]}), "contours"),
    (lambda: plots.heatmap(IMAGE, np.full((2, 3, 3), np.nan)), "heatmaps"),
    (lambda: plots.heatmap(IMAGE, np.zeros((0, 3, 3))), "heatmaps"), (lambda: plots.ced({"a": []}), "errors"),
    (lambda: plots.ced({"a": [0.1]}, np.inf), "limit"), (lambda: plots.show(IMAGE, POINTS + 1j), "landmarks"),
])
def test_what_cannot_be_drawn_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()
    assert not plt.get_fignums() or plt.gcf().axes


def test_show_draws_on_the_axes_given():
    ax = plt.subplots()[1]
    assert plots.show(IMAGE[..., 0], ax=ax) is ax


def test_contours_lie_where_they_are_and_anchors_on_top():
    lines = {name: POINTS[5 * i:5 * i + 5] for i, name in enumerate(markups.CONTOURS)}
    ax = plots.contours(IMAGE, lines, POINTS[:12], title="a face")
    assert [line.get_label() for line in ax.lines] == list(lines)
    for line, points in zip(ax.lines, lines.values(), strict=True):
        np.testing.assert_allclose(line.get_xydata(), points)
    np.testing.assert_allclose(ax.collections[0].get_offsets(), POINTS[:12])
    assert ax.collections[0].zorder > max(line.zorder for line in ax.lines) and ax.get_ylim() == (39.5, -0.5)
    ax.figure.canvas.draw()
    ax = plots.contours(IMAGE[..., 0], {"chin_boundary": POINTS[:2]}, ax=plt.subplots()[1])
    assert len(ax.lines) == 1 and not ax.collections


def test_contours_that_meet_have_two_colours_and_stand_out():
    colours = plots.contour_colours()
    assert set(colours) == set(markups.CONTOURS)
    for upper in (name for name in colours if "upper" in name):
        assert colours[upper] != colours[upper.replace("upper", "lower")]
    for i, name in enumerate(markups.CONTOURS):
        assert colours[name] == colours[markups.CONTOURS[markups.CONTOUR_FLIP[i]]]
    # on their black rim, every one at WCAG's ratio for graphics, 3 to 1
    linear = np.array([to_rgb(colour) for colour in colours.values()])
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    assert ((linear @ [0.2126, 0.7152, 0.0722] + 0.05) / 0.05).min() > 3


@pytest.mark.parametrize("lines, anchors, word", [
    ({"chin": POINTS}, None, "chin"), ({"chin_boundary": POINTS[0]}, None, "contours"), ({}, POINTS.T, "anchors")])
def test_unfit_contours_are_refused(lines, anchors, word):
    with pytest.raises(ValueError, match=word):
        plots.contours(IMAGE, lines, anchors)


def test_sheet_scales_points_with_their_tiles():
    images = [np.zeros((40, 40), np.uint8), np.zeros((20, 20, 3), np.uint8), np.zeros((40, 20), np.uint8)]
    corners = [np.array([[-0.5, -0.5], [w - 0.5, h - 0.5]]) for h, w in ((40, 40), (20, 20), (40, 20))]
    ax = plots.sheet(images, corners, columns=2, size=80, contours=[{"c": c} for c in corners], titles=["a", "b", "c"])
    drawn = [c.get_offsets() for c in ax.collections]
    np.testing.assert_allclose(drawn[0], [[-0.5, -0.5], [79.5, 79.5]])
    np.testing.assert_allclose(drawn[1], [[79.5, -0.5], [159.5, 79.5]])
    np.testing.assert_allclose(drawn[2], [[-0.5, 79.5], [39.5, 159.5]])
    assert len(ax.images) == 3 and ax.get_xlim() == (-0.5, 159.5)


def test_heatmap_is_opaque_at_its_peak():
    maps = np.zeros((2, 8, 8))
    maps[0, 2, 3], maps[1, 5, 6] = 4.0, 0.5
    over = plots.heatmap(IMAGE, maps, [plots.BLUE, plots.VERMILION]).images[1].get_array()
    np.testing.assert_allclose(over[2, 3], [*to_rgb(plots.BLUE), 0.85])
    np.testing.assert_allclose(over[5, 6], [*to_rgb(plots.VERMILION), 0.85])
    assert over[0, 0, 3] == 0


def test_ced_is_the_share_below():
    errors = np.array([0.02, 0.04, 0.06, 0.3])
    ax = plots.ced({"ours": errors, "theirs": errors / 2})
    x, y = ax.lines[0].get_data()
    for at, share in ((1.0, 0), (2.5, 25), (5.0, 50), (10.0, 75)):
        assert y[np.argmin(abs(x - at))] == share
    assert f"{metrics.auc(errors, 0.1):.3f}" in ax.get_legend().get_texts()[0].get_text()


def test_part_errors_are_means_of_the_parts():
    errors = np.random.default_rng(1).uniform(0, 0.1, (7, 68))
    ax = plots.part_errors({"raw": errors, "adapted": errors / 2})
    heights = [bar.get_height() for bar in ax.containers[0]]
    groups = markups.get("68").groups
    np.testing.assert_allclose(heights, [100 * errors[:, list(groups[part])].mean() for part in plots.PARTS])
    assert [label.get_text() for label in ax.get_xticklabels()] == list(plots.PARTS)


def test_every_figure_is_an_axes():
    for ax in (plots.show(IMAGE), plots.sheet([IMAGE]), plots.heatmap(IMAGE, np.ones((1, 4, 4))),
               plots.ced({"a": [0.1]}), plots.part_errors({"a": np.ones((1, 68))})):
        assert isinstance(ax, Axes)
        ax.figure.canvas.draw()


@pytest.mark.parametrize("call", [
    lambda: plots.show(np.zeros(5)), lambda: plots.show(IMAGE, np.zeros((68, 3))),
    lambda: plots.show(IMAGE, POINTS, visibility=[True]), lambda: plots.sheet([]),
    lambda: plots.sheet([IMAGE], [POINTS, POINTS]), lambda: plots.heatmap(IMAGE, np.zeros((4, 4))),
    lambda: plots.part_errors({"a": np.ones((1, 68))}, markup="67"),
])
def test_bad_input(call):
    with pytest.raises(ValueError):
        call()
