"""The book as one page for paper: every link leads within it or out of the book, and nothing is lost."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from bs4 import BeautifulSoup

from book import pdf
from book.executed import ROOT


@pytest.fixture
def built(tmp_path):
    pages = {"book/intro": '<p id="a">Intro <a href="../notebooks/01_x.html#a">there</a> <a href="#a">here</a>'
                           '<a href="https://example.org/">out</a> <a href="../genindex.html">index</a></p>',
             "notebooks/01_x": '<p id="a">One <a href="../book/intro.html">back</a></p><details>folded</details>'}
    for name, text in pages.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.html").write_text(f'<main>menu<article class="bd-article">{text}</article></main>')
    return tmp_path


def test_pages_become_one_with_links_inside(built):
    names = {"book/intro": "", "notebooks/01_x": ""}
    whole = BeautifulSoup(pdf.whole(names, built), "html.parser")
    assert [article["id"] for article in whole.find_all("article")] == ["book-intro", "notebooks-01_x"]
    assert "menu" not in whole.get_text() and "folded" in whole.get_text()
    links = [a["href"] for a in whole.find_all("a")]
    assert links == ["#notebooks-01_x--a", "#book-intro--a", "https://example.org/", "../genindex.html", "#book-intro"]
    assert {link[1:] for link in links if link.startswith("#")} <= {tag["id"] for tag in whole.find_all(id=True)}
    assert whole.find("details").has_attr("open")


def test_the_order_is_that_of_the_contents():
    titles = pdf.contents()
    names = list(titles)
    assert titles["notebooks/12b_does_the_reference_help"].startswith("12b. ") and titles["book/intro"] == ""
    assert names[0] == "book/intro" and len(names) == len(set(names)) > 20
    assert [n for n in names if n.startswith("notebooks/")] == sorted(n for n in names if n.startswith("notebooks/"))


def test_a_heading_is_once_in_the_outline_and_nothing_is_moved():
    before = (b"<< /Title (One\\(1\\)One\\(1\\)) /Dest 3 >> /Title (Bye bye) /Title () /Title (aa"
              b") /Title (\xfe\xff\x00A\x03\xb1\x00A\x03\xb1) >>")
    after = pdf.named_once(before)
    assert len(after) == len(before) and after.index(b"/Dest") == before.index(b"/Dest")
    assert re.findall(rb"/Title \(((?:\\.|[^()\\])*)\)", after) == [b"One\\(1\\)", b"Bye bye", b"", b"a",
                                                                   b"\xfe\xff\x00A\x03\xb1"]


FORMULAS = pdf.HTML / "_static" / "lib" / "mathjax-tex-svg.js"       # where npm fetched it
LONG = "An unbroken line of words that is by far too long for the width of a sheet of paper. " * 3
TOY = {
    "book/a": f"<h1>First</h1><p>Words.</p><pre>{LONG}</pre><div class='math'>\\[ {'+'.join(90 * ['x^2'])} \\]</div>"
              "<p><a href='../notebooks/b.html'>on</a></p>",
    "notebooks/b": "<h1>Second</h1><img loading='lazy' src='../red.png' style='width: 3000px'>"
                   f"<table><tr>{''.join(f'<td>column{i}</td>' for i in range(30))}</tr></table>"
                   "<div id='your-photo'><p>This figure needs JavaScript.</p></div>"
                   f"<details><p>{'hint ' * 2000}</p></details>",
}


@pytest.fixture
def toy(tmp_path):
    """Two pages with what does not fit a sheet: a line of code, a formula, a picture, a table."""
    cv2.imwrite(str(tmp_path / "red.png"), np.full((40, 300, 3), (0, 0, 255), np.uint8))
    shutil.copytree(ROOT / "book" / "_static", tmp_path / "_static")
    if FORMULAS.exists():
        (tmp_path / "_static" / "lib").mkdir()
        shutil.copy(FORMULAS, tmp_path / "_static" / "lib")
    for name, text in TOY.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.html").write_text(f'<article class="bd-article">{text}</article>')
    page = tmp_path / "print" / "book.html"
    page.parent.mkdir()
    page.write_text(pdf.whole({"book/a": "", "notebooks/b": "7. The second"}, tmp_path))
    return page


def apart(call, *arguments):
    """In a thread of its own: the browser of other tests may still run in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *arguments).result()


@pytest.mark.browser
@pytest.mark.skipif(pdf.chromium() is None, reason="no Chromium on the path, which prints")
def test_a_toy_book_is_printed_whole(toy, tmp_path):
    apart(pdf.write, toy, tmp_path / "toy.pdf")
    printed = (tmp_path / "toy.pdf").read_bytes()
    assert printed.startswith(b"%PDF") and printed.rstrip().endswith(b"%%EOF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 3            # one and, with the hint unfolded, two
    assert re.findall(rb"/Title \((.+?)\)", printed)[-2:] == [b"First", b"7. The second"]        # its outline
    assert len(re.findall(rb"/Subtype\s*/Image", printed)) >= 1 and b"/Subtype /Link" in printed


@pytest.mark.browser
@pytest.mark.skipif(pdf.chromium() is None, reason="no Chromium on the path, which prints")
def test_what_is_wider_than_the_paper_is_made_smaller(toy):
    def measured():
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=pdf.chromium(), args=["--no-sandbox", "--disable-gpu"])
            sheet = pdf.open_sheet(browser, toy)
            wide = sheet.evaluate("document.body.clientWidth")
            found = sheet.evaluate("""[...document.querySelectorAll("pre, img, table, mjx-container svg, h1, p")]
                .map(e => [e.tagName, e.getBoundingClientRect().right])""")
            browser.close()
        return wide, found
    wide, found = apart(measured)
    assert {"PRE", "IMG", "TABLE", "H1", "P"} | ({"svg"} if FORMULAS.exists() else set()) == {name for name, _ in found}
    assert [one for one in found if one[1] > wide + 1] == []
    assert "This figure needs JavaScript" not in toy.read_text() and toy.read_text().count(pdf.MOVES) == 1
