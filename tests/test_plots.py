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


def labels(figure):
    """Sizes in points of all that is written, as drawn."""
    figure.canvas.draw()
    return [text.get_fontsize() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


@pytest.fixture
def page():
    with matplotlib.rc_context({"figure.hooks": ["facealign_lite.plots:for_the_page"]}):
        yield


@pytest.mark.parametrize("wide", [4, 8, 15])
@pytest.mark.parametrize("dpi", [72, 110])
def test_a_page_can_show_every_label(page, wide, dpi):
    """Fitted into the column, no label is smaller than 9 pixels, however it was asked for."""
    figure, axes = plt.subplots(1, 3, figsize=(wide, 3), dpi=dpi)
    axes[0].plot([1, 2], label="a line")
    axes[0].legend(fontsize="x-small")
    axes[1].set_xlabel("an axis", fontsize=5)
    axes[2].text(0.5, 0.5, "a word", fontsize=4)
    shrunk = min(1, plots.COLUMN / (wide * dpi))
    assert min(labels(figure)) * dpi / 72 * shrunk >= 9


def test_a_page_shows_ink_on_no_ground(page):
    """Nothing is black or white beside a picture; what lies over a picture stays as it was drawn."""
    figure, (plot, image) = plt.subplots(1, 2)
    [line] = plot.plot([1, 2], color="k")
    [red] = plot.plot([2, 1], color="red")
    band = plot.axvspan(0, 1, color="0.9")
    dots = plot.scatter([1], [2], c=["black"])
    image.imshow(IMAGE)
    [over] = image.plot([1, 2], color="black")
    image.set_title("title", color="black")
    figure.canvas.draw()
    assert figure.get_facecolor()[3] == 0 and plot.get_facecolor()[3] == 0
    ink = to_rgb(plots.INK)
    assert to_rgb(line.get_color()) == ink and tuple(dots.get_facecolor()[0][:3]) == ink
    assert red.get_color() == "red" and over.get_color() == "black"
    assert band.get_facecolor()[3] < 0.2 and to_rgb(image.title.get_color()) == ink
    assert to_rgb(plot.xaxis.get_ticklabels()[0].get_color()) == ink
    around = {name: (max(1.05, level + 0.05) if name == "white" else level + 0.05)
              for name, level in (("white", 1.0), ("dark", 0.0089))}
    level = ((ink[0] + 0.055) / 1.055) ** 2.4 + 0.05
    assert around["white"] / level > 4 and level / around["dark"] > 4


def test_a_wide_title_is_broken(page):
    figure, axes = plt.subplots(1, 4, figsize=(8, 2))
    axes[0].set_title("a title that is a good deal wider than its plot")
    axes[1].set_title("short")
    figure.canvas.draw()
    assert "\n" in axes[0].get_title() and axes[1].get_title() == "short"


@pytest.mark.parametrize("layout", ["tight", "constrained", None])
def test_the_name_of_an_axis_is_no_longer_than_its_plot(page, layout):
    figure, axes = plt.subplots(1, 2, figsize=(8, 2), layout=layout)
    axes[0].set(xlabel="short", ylabel="a name that is a good deal longer than its axis")
    axes[1].set(xlabel="a name that is a good deal longer than the axis below which it stands on this page")
    figure.canvas.draw()
    assert axes[0].get_xlabel() == "short"
    assert "\n" in axes[0].get_ylabel() and "\n" in axes[1].get_xlabel()
    for words in (axes[0].yaxis.label, axes[1].xaxis.label):
        box = words.get_window_extent()
        assert box.x0 >= 0 or layout is None, "it stays on the figure"


def test_a_logarithmic_axis_has_plain_numbers(page):
    figure, axes = plt.subplots(1, 3)
    for ax, high in zip(axes, (9, 900, 9e6), strict=True):
        ax.plot([1, 2], [3, high])
        ax.set_yscale("log")
    figure.canvas.draw()
    written = [{t.get_text() for which in ("major", "minor") for t in ax.get_yticklabels(which=which)} - {""}
               for ax in axes]
    assert {"4", "6"} <= written[0] and {"10", "100"} <= written[1]
    assert not any("$" in word for some in written[:2] for word in some)
    assert all("$" in word for word in written[2])


def test_the_notebooks_are_drawn_for_the_page():
    rc = matplotlib.rc_params_from_file("notebooks/matplotlibrc", use_default_template=False)
    assert list(rc["figure.hooks"]) == ["facealign_lite.plots:for_the_page"]


def test_a_layout_that_does_not_fit_is_no_warning(page, recwarn):
    figure, axes = plt.subplots(1, 6, figsize=(3, 0.6))
    for ax in axes:
        ax.set_ylabel("an axis with a name")
    figure.tight_layout()
    figure.canvas.draw()
    assert [str(one.message) for one in recwarn if "layout" in str(one.message)] == []
