"""The built book in a real browser: it asks no other server, raises no errors, and its figures move."""

import re

import pytest

from book import assets, figures, pages
from book.executed import ROOT

HTML = ROOT / "_build" / "html"
CHAPTERS = [f"notebooks/{page.name}" for page in sorted((HTML / "notebooks").glob("*.html"))]
PROSE = [f"book/{page.name}" for page in sorted((HTML / "book").glob("*.html"))]
PAGES = [*PROSE, *CHAPTERS]
LOOK = """f => f.innerText + [...f.querySelectorAll("canvas")].map(c => c.toDataURL())
                + [...f.querySelectorAll("svg")].map(s => s.innerHTML)"""
# Elements that leave the column and cannot be pushed into it: no box between them and the column scrolls.
OUTSIDE = """() => {
  const column = document.querySelector(".bd-article");
  const right = column.getBoundingClientRect().right, out = [];
  const scrolls = e => {
    for (; e && e !== column; e = e.parentElement)
      if (["auto", "scroll"].includes(getComputedStyle(e).overflowX)) return true;
    return false;
  };
  for (const e of column.querySelectorAll("*")) {
    const box = e.getBoundingClientRect();
    if (!box.width || !box.height || e.parentElement.closest("svg, mjx-container")) continue;
    if (box.right > right + 1 && !scrolls(e.parentElement)) out.push(`${e.tagName} ${Math.round(box.right - right)}`);
  }
  return out;
}"""
# Code that is shown, outside outputs and folded cells, and needs a scroll bar all the same.
LONG = """() => [...document.querySelectorAll(".bd-article pre")]
    .filter(e => !e.closest(".cell_output, details, .solution") && e.getBoundingClientRect().height)
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText.slice(0, 60))"""
# Code that is shown, outside folded cells and solutions, as a share of the page's height.
SHARE = """() => {
  const height = e => e.innerText.trim() ? e.getBoundingClientRect().height : 0;
  const cells = [...document.querySelectorAll(".bd-article .cell_input")]
      .filter(e => !e.closest("details:not([open])"));
  return cells.reduce((sum, e) => sum + height(e), 0) / document.querySelector(".bd-article").scrollHeight;
}"""
# Pictures of a chapter: their figure, caption, size of one pixel of theirs on the page, and how wide they and the box
# that holds them are.
FIGURES = """() => [...document.querySelectorAll(".bd-article .cell_output img")].map(e => {
  const figure = e.closest("figure.numbered"), said = figure?.querySelector("figcaption");
  return {over: figure ? figure.scrollWidth - figure.clientWidth : 0,
          alt: e.alt, id: figure?.id ?? "", said: (said?.innerText ?? "").replaceAll("\u00a0", " "),
          natural: e.naturalWidth, own: parseFloat(e.style.width),
          shown: e.getBoundingClientRect().width, ground: getComputedStyle(e).backgroundColor,
          filter: getComputedStyle(e).filter};
})"""
# Boxes outside pictures and pressed buttons that are lighter than middle grey, which is a white slab in the dark.
SLABS = """() => [...document.querySelectorAll(".bd-article *")].filter(e => {
  const box = e.getBoundingClientRect(), shade = getComputedStyle(e).backgroundColor.match(/[\\d.]+/g).map(Number);
  if (box.width < 150 || box.height < 20 || e.closest("svg, label")) return false;
  return (shade[3] ?? 1) > 0.5 && Math.max(...shade.slice(0, 3)) > 160;
}).map(e => `${e.tagName} ${e.className} ${e.innerText.slice(0, 40)}`)"""
# Words that are shown in letters of less than 9 pixels. Formulas set their own indices.
SMALL = """() => [...document.querySelectorAll(".bd-article *")].filter(e => {
  if (e.closest("mjx-container") || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) return false;
  const box = e.getBoundingClientRect();
  if (!box.width || !box.height) return false;
  const { a, b, c, d } = e.getScreenCTM?.() ?? new DOMMatrix();                     // what an SVG scales and turns
  return Math.sqrt(Math.abs(a * d - b * c)) * parseFloat(getComputedStyle(e).fontSize) < 9;
}).map(e => e.tagName + " " + e.textContent.slice(0, 40))"""
# What stands bright on a dark page: boxes of some size, with a light ground.
SLABS = """() => [...document.querySelectorAll(".bd-article *")].filter(e => {
  const box = e.getBoundingClientRect(), ground = getComputedStyle(e).backgroundColor.match(/[\\d.]+/g).map(Number);
  return box.width > 60 && box.height > 30 && (ground[3] ?? 1) > 0.5 && Math.min(...ground.slice(0, 3)) > 180;
}).map(e => `${e.tagName} ${e.className}`)"""
VIEWS = "script[type='application/vnd.jupyter.widget-view+json']"

pytestmark = pytest.mark.book
needs_scripts = pytest.mark.skipif(not assets.present(), reason="the book was built without the scripts npm fetches")


@pytest.fixture
def visit(browser):
    """Load a page to its end: visit(url) -> (page, addresses it asked for, what went wrong)."""
    opened = []

    def load(url, **settings):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **settings)
        opened.append(context)
        context.set_default_timeout(60_000)
        page, asked, faults = context.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
        page.on("response", lambda a: faults.append(f"{a.status}: {a.url}") if a.status >= 400 else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda words: faults.append(f"{words.text} {words.location['url']}") if words.type == "error"
                else None)
        page.goto(url, wait_until="networkidle")
        return page, asked, faults

    yield load
    for context in opened:
        context.close()


@needs_scripts
@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_no_other_server_nothing_fails_and_nothing_leaves_its_column(visit, homes, name):
    page, asked, faults = visit(homes["http"] + name)
    leaving = [url for url in asked if not url.startswith((homes["http"], "data:", "blob:"))]
    assert len(asked) > 5 and leaving == [] and faults == []
    if page.locator(".math").count():
        page.locator("mjx-container svg").first.wait_for(state="attached")
        assert page.locator("[data-mml-node=merror], [data-mjx-error]").count() == 0     # formulas that fail
    page.wait_for_function(f"({OUTSIDE})().length === 0", timeout=15_000)            # once formulas and figures stand
    assert page.evaluate(LONG) == []
    assert page.evaluate(SHARE) < 0.2
    for theme, width in (("light", 1280), ("dark", 1280), ("dark", 390), ("light", 390)):      # 390: a phone
        page.emulate_media(color_scheme=theme)
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
        page.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=width, timeout=15_000)
        page.wait_for_function(f"({OUTSIDE})().length === 0", timeout=15_000)
        assert page.evaluate(SMALL) == [], (theme, width)
        assert theme == "light" or page.evaluate(SLABS) == [], width
    assert faults == []


@pytest.mark.parametrize("name", PROSE)
def test_a_page_without_figures_opens_from_the_disk(visit, homes, name):
    """Chapters are opened from the disk below."""
    page, asked, faults = visit(homes["file"] + name)
    assert [url for url in asked if not url.startswith((homes["file"], "data:", "blob:"))] == [] and faults == []
    if assets.present() and page.locator(".math").count():
        page.locator("mjx-container svg").first.wait_for(state="attached")


@needs_scripts
@pytest.mark.parametrize("name", CHAPTERS)
def test_every_figure_is_drawn_and_moves(visit, homes, name):
    """From the disk, without a server or a kernel: as many figures as the notebook has, and a key that changes each."""
    page, asked, faults = visit(homes["file"] + name)
    wanted = page.locator(VIEWS).count()
    assert wanted, "each chapter has something to move"
    page.wait_for_function("n => document.querySelectorAll('.fk').length === n", arg=wanted)
    still = [number for number in range(wanted) if not moves(page.locator(".fk").nth(number))]
    assert still == [], "no key changed these figures"
    assert [url for url in asked if not url.startswith((homes["file"], "data:", "blob:"))] == [] and faults == []


def moves(figure):
    """Whether one of three keys changes what a figure shows."""
    figure.scroll_into_view_if_needed()
    slider = figure.locator("input[type=range], [role=slider]").first
    slider.wait_for()
    figure.page.wait_for_timeout(500)
    before = figure.evaluate(LOOK)
    for key in ("ArrowRight", "ArrowLeft", "ArrowLeft"):
        slider.press(key)
        figure.page.wait_for_timeout(300)
        if figure.evaluate(LOOK) != before:
            return True
    return False


@needs_scripts
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_book_follows_the_readers_theme(visit, homes, scheme):
    page, _, _ = visit(homes["http"] + PAGES[0], color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3
    assert (brightness < 80) == (scheme == "dark"), ground


@needs_scripts
@pytest.mark.parametrize("name", CHAPTERS)
def test_every_picture_is_a_numbered_figure_whose_labels_can_be_read(visit, homes, name):
    """Labels are drawn so that they have 9 pixels where a picture is COLUMN wide, or at its own size if it is smaller
    (tests/test_plots.py); so what is measured here is how wide the pictures are shown."""
    page, _, _ = visit(homes["file"] + name, color_scheme="dark")
    chapter = pages.chapter(ROOT / name).removeprefix("0")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")      # solutions
        page.evaluate("document.querySelectorAll('.toggle-hidden').forEach(e => e.classList.remove('toggle-hidden'))")
        assert page.evaluate(SLABS) == []
        found = page.evaluate(FIGURES)
        assert len(found) > 2
        assert (width == 390) == any(one["natural"] != one["own"] for one in found)        # panels below each other
        for number, one in enumerate(found, 1):
            assert one["id"] == f"figure-{chapter}-{number}"
            assert one["said"].startswith(f"Figure {chapter}.{number}. {figures.sentence(one['alt'])}")
            # a phone shows another picture, drawn as large, with the panels below each other
            assert one["shown"] + 1 >= figures.least(one["own"]) * one["natural"], one
            assert width < 1280 or one["over"] <= 1, one                  # whole, without a scroll bar
            # no white slab in the dark
            assert one["ground"] == "rgba(0, 0, 0, 0)" and one["filter"] == "none"


@needs_scripts
def test_a_click_or_a_key_enlarges_a_figure_and_escape_ends_it(visit, homes):
    page, _, faults = visit(homes["file"] + CHAPTERS[0])
    picture, box = page.locator("figure.numbered img").first, page.locator("dialog.enlarged")
    small = picture.bounding_box()["width"]
    for start in (picture.click, lambda: picture.press("Enter")):
        assert not box.is_visible()
        start()
        box.wait_for(state="visible")
        assert box.locator("img").bounding_box()["width"] > 1.2 * small
        assert box.locator("img").get_attribute("alt") == picture.get_attribute("alt")
        page.keyboard.press("Escape")
        box.wait_for(state="hidden")
    assert faults == []


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_the_search_finds_pages_and_shows_the_words_around(visit, homes, scheme):
    page, _, faults = visit(f"{homes[scheme]}search.html?q=contourness")
    page.locator("#search-results li").first.wait_for()
    page.locator("#search-results p.context").first.wait_for()
    assert page.locator("#search-results li").count() >= 3
    assert any("contourness" in words.lower() for words in page.locator("#search-results p.context").all_inner_texts())
    assert faults == []
