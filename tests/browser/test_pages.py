"""The built book in a real browser: it asks no other server, raises no errors, and its figures move."""

import functools
import http.server
import re
import threading

import pytest

from book import assets
from book.executed import ROOT

HTML = ROOT / "_build" / "html"
CHAPTERS = [f"notebooks/{page.name}" for page in sorted((HTML / "notebooks").glob("*.html"))]
PAGES = [*(f"book/{page.name}" for page in sorted((HTML / "book").glob("*.html"))), *CHAPTERS]
# The theme's sphinx-thebe declares a name twice where code is not live; nothing uses it.
KNOWN = re.compile(r"Identifier '\w+' has already been declared")
VIEWS = "script[type='application/vnd.jupyter.widget-view+json']"

pytestmark = pytest.mark.book
needs_scripts = pytest.mark.skipif(not assets.present(), reason="the book was built without the scripts npm fetches")


@pytest.fixture(scope="module")
def homes():
    """Where the book lies, by scheme."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    handler = functools.partial(Quiet, directory=str(HTML))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"http": f"http://127.0.0.1:{server.server_port}/", "file": HTML.as_uri() + "/"}
        server.shutdown()


@pytest.fixture
def visit(browser):
    """Load a page to its end: visit(url) -> (page, addresses it asked for, what went wrong)."""
    opened = []

    def load(url, **settings):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **settings)
        opened.append(context)
        page, asked, faults = context.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
        page.on("response", lambda a: faults.append(f"{a.status}: {a.url}") if a.status >= 400 else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda words: faults.append(words.text) if words.type == "error" else None)
        page.goto(url, wait_until="networkidle")
        return page, asked, [fault for fault in faults if not KNOWN.search(fault)]

    yield load
    for context in opened:
        context.close()


@needs_scripts
@pytest.mark.parametrize("scheme", ["http", "file"])
@pytest.mark.parametrize("name", PAGES)
def test_no_request_leaves_the_book_and_nothing_fails(visit, homes, scheme, name):
    page, asked, faults = visit(homes[scheme] + name)
    leaving = [url for url in asked if not url.startswith((homes[scheme], "data:", "blob:"))]
    assert len(asked) > 5 and leaving == [] and faults == []
    if "mjx-container" in page.content() or page.locator(".math").count():
        page.locator("mjx-container svg").first.wait_for(state="attached", timeout=20_000)


@needs_scripts
@pytest.mark.parametrize("name", CHAPTERS)
def test_every_figure_is_drawn_and_the_first_moves(visit, homes, name):
    """Without any kernel: as many figures as the notebook has, and a slider or button that changes what is seen."""
    page, _, _ = visit(homes["http"] + name)
    wanted = page.locator(VIEWS).count()
    assert wanted, "each chapter has something to move"
    page.wait_for_function("n => document.querySelectorAll('.fk').length === n", arg=wanted, timeout=30_000)
    figure = page.locator(".fk").first
    figure.scroll_into_view_if_needed()
    look = """f => f.innerText + [...f.querySelectorAll("canvas")].map(c => c.toDataURL())
                   + [...f.querySelectorAll("svg")].map(s => s.innerHTML)"""
    page.wait_for_timeout(300)
    before = figure.evaluate(look)
    slider = figure.locator("input[type=range], [role=slider]").first
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowLeft"):
        slider.press(key)
        page.wait_for_timeout(100)
        if figure.evaluate(look) != before:
            return
    raise AssertionError("no key changed the figure")


@needs_scripts
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_readers_theme(visit, homes, scheme):
    page, _, _ = visit(homes["http"] + PAGES[0], color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3
    assert (brightness < 80) == (scheme == "dark"), ground


@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_a_phone(visit, homes, name):
    page, _, _ = visit(homes["http"] + name)
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
