"""Figures put together for a phone, and numbers that a page keeps on one line."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from book import narrow, spaces


@pytest.fixture
def drawn(tmp_path):
    """A figure of some panels as a chapter's, on a transparent ground: drawn(columns, size, **settings) -> picture."""
    def draw(columns, size=(10, 3), names="", **settings):
        figure, axes = plt.subplots(1, columns, figsize=size, squeeze=False, layout="tight", **settings)
        for k, ax in enumerate(axes[0]):
            ax.plot([0, 1], [k, 1])
            ax.set_title(f"panel {k}")
        axes[0, 0].set_ylabel(names)
        figure.savefig(tmp_path / "figure.png", dpi=100, transparent=True)
        plt.close(figure)
        return Image.open(tmp_path / "figure.png")
    return draw


def colours(picture):
    """How many pixels of each opaque colour a picture has."""
    flat = np.asarray(picture.convert("RGBA")).reshape(-1, 4)
    found, count = np.unique(flat[flat[:, 3] == 255], axis=0, return_counts=True)
    return {tuple(map(int, colour)): int(n) for colour, n in zip(found, count, strict=True)}


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_each_panel_is_found_with_its_own_scale(drawn, columns):
    picture = drawn(columns)
    seen = np.asarray(picture)[..., 3] > narrow.FAINT
    found = narrow.panels(seen)
    assert len(found) == columns
    assert all(a.right + narrow.GUTTER <= b.left for a, b in zip(found, found[1:], strict=False))
    assert sum(seen[:, one.left:one.right].sum() for one in found) == seen.sum()         # nothing is left out
    assert all(one.left + 10 < one.plot[0] < one.plot[1] <= one.right for one in found)  # numbers stand before a plot


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_a_stacked_figure_fits_a_phone_and_has_all_that_was_seen(drawn, columns):
    picture = drawn(columns)
    small = narrow.stacked(picture, 0.688)
    assert small.width * 0.688 <= narrow.PHONE < picture.width * 0.688
    assert colours(small) == colours(picture)
    assert round(0.688 * small.width) <= narrow.width(small, 0.688) <= small.width


def test_rows_are_as_few_as_there_is_room_for_and_even():
    edges = [narrow.Panel(left, left + 90, (left, left + 90)) for left in (0, 100, 200, 300)]
    assert [len(row) for row in narrow._rows(edges, 300)] == [2, 2]
    assert [len(row) for row in narrow._rows(edges, 200)] == [2, 2]
    assert [len(row) for row in narrow._rows(edges, 100)] == [1, 1, 1, 1]
    assert [len(row) for row in narrow._rows(edges, 50)] == [1, 1, 1, 1]                  # wider than the room
    assert [len(row) for row in narrow._rows(edges[:3], 200)] == [2, 1]


def test_the_numbers_of_a_shared_axis_stand_before_each_row(drawn):
    picture = drawn(3, sharey=True, names="a name")
    small = narrow.stacked(picture, 0.688)
    found = narrow.panels(np.asarray(picture)[..., 3] > narrow.FAINT)
    head = found[0].plot[0] - found[0].left
    assert narrow._shared(found) == head > 20
    rows = np.asarray(small.convert("RGBA"))[..., 3] > narrow.FAINT
    above, below = narrow.runs(rows.any(1), narrow.BETWEEN - 2)[:2]
    written = [rows[up:down, :head - 5].sum() for up, down in (above, below)]
    assert written[0] > 100 and written[1] == written[0]


def test_a_figure_of_one_panel_or_one_that_fits_stays_as_it_is(drawn):
    assert narrow.stacked(drawn(1), 0.688) is None
    assert narrow.stacked(drawn(2, (3.5, 2)), 0.8) is None
    assert narrow.stacked(Image.new("RGBA", (900, 300)), 0.7) is None                     # nothing is seen
    assert narrow.stacked(Image.new("RGB", (900, 300)), 0.7) is None                      # a photo


def test_a_key_below_all_panels_stays_below_them(drawn, tmp_path):
    figure, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
    for ax in axes:
        ax.plot([0, 1], label="one")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center")
    figure.savefig(tmp_path / "figure.png", dpi=100, transparent=True)
    plt.close(figure)
    picture = Image.open(tmp_path / "figure.png")
    small = narrow.stacked(picture, 0.688)
    assert small.width < 0.6 * picture.width
    assert colours(small) == colours(picture)


@pytest.mark.parametrize("words, kept", [
    ("8.52 ± 0.23 of 95 % and", "8.52_±_0.23 of 95_% and"),
    ("<td>-0.60 [-1.14, +0.05]</td>", "<td>-0.60 [-1.14,_+0.05]</td>"),
    ("32 x 32 x 3, 64 × 64", "32_x_32_x_3, 64_×_64"),
    ("two [1, 2, 3] % of", "two [1, 2, 3] % of"),
    ('<img alt="5 % of"/>', '<img alt="5 % of"/>'),
    ("<pre>5 % 2 ± 1</pre> 5 %", "<pre>5 % 2 ± 1</pre> 5_%"),
    ('<span class="math notranslate">2 x 3</span>', '<span class="math notranslate">2 x 3</span>'),
    (r'(<span class="math">\(a &lt; 2\)</span>),',
     r'(<span class="held"><span class="math">\(a &lt; 2\)</span>),</span>'),
    (r'<span class="math">\(a\)</span> is', r'<span class="math">\(a\)</span> is'),
    ("<p>5 %</p><script>a = 5 % 3</script>", "<p>5_%</p><script>a = 5 % 3</script>"),
])
def test_numbers_stay_on_one_line(words, kept):
    assert spaces.unbroken(words) == kept.replace("_", "\xa0")
    assert spaces.unbroken(kept.replace("_", "\xa0")) == kept.replace("_", "\xa0")        # and once is enough
