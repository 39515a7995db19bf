"""The built pages, read as files: pictures have words, links lead somewhere, scripts and styles are the book's own."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import yaml
from PIL import Image

from book import build
from book.executed import ROOT

HTML = ROOT / "_build" / "html"
PAGES = sorted(page for folder in ("book", "notebooks") for page in (HTML / folder).glob("*.html"))

pytestmark = pytest.mark.book
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


class Tags(HTMLParser):
    """All start tags of a page as (name, attributes), and all its anchors."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)
        self.anchors = {a.get("id") or a.get("name") for _, a in self.found} - {None}

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, {name: value or "" for name, value in attributes}))

    def named(self, *names):
        return [attributes for tag, attributes in self.found if tag in names]


def test_the_book_is_built_from_what_is_here():
    assert build.is_built(), "`make book` builds it"


def test_every_page_of_the_contents_is_there():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    names = [contents["root"], *(chapter["file"] for part in contents["parts"] for chapter in part["chapters"])]
    assert sorted(page.relative_to(HTML).with_suffix("").as_posix() for page in PAGES) == sorted(names)
    assert contents["root"] in (HTML / "index.html").read_text()


@EACH_PAGE
def test_pictures_have_words(page):
    for image in Tags(page.read_text()).named("img"):
        alt = image.get("alt", "").strip()
        assert alt and "_images/" not in alt, image        # the builder's own words are the file's path


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent.name == "notebooks"], ids=lambda page: page.stem)
def test_drawn_pictures_have_no_ground_and_fit_light_and_dark(page):
    """The ground of what matplotlib drew is clear, and what is opaque in its outermost rows is no black or white."""
    names = [t["src"] for t in Tags(page.read_text()).named("img") if "shown" in t.get("class", "")]
    assert names
    for name in names:
        picture = Image.open((page.parent / name).resolve())
        if picture.mode == "RGBA":                           # JPEG and RGB are photos
            alpha = np.asarray(picture)[..., 3]
            assert (alpha[[0, -1]] == 0).mean() > 0.5, name


@EACH_PAGE
def test_scripts_styles_and_pictures_are_the_books_own(page):
    tags = Tags(page.read_text())
    loaded = [t.get("src", "") for t in tags.named("script", "img", "iframe", "source", "video", "audio")]
    loaded += [t.get("href", "") for t in tags.named("link") if "canonical" not in t.get("rel", "")]
    assert len(loaded) > 5
    assert [url for url in loaded if re.match(r"(https?:)?//", url)] == []


@EACH_PAGE
def test_links_lead_somewhere(page):
    tags, lost = Tags(page.read_text()), []
    for link in tags.named("a"):
        parts = urlsplit(link.get("href", ""))
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        anchors = tags.anchors if target == page else None
        if not target.is_file():
            lost.append(link["href"])
        elif parts.fragment and target.suffix == ".html":
            anchors = anchors or Tags(target.read_text()).anchors
            if unquote(parts.fragment) not in anchors:
                lost.append(link["href"])
    assert lost == []


@EACH_PAGE
def test_a_page_links_what_it_names(page):
    """Some pages name no chapter, no claim and no equation; the chapters about papers do, and use the field's words."""
    links = [t.get("href", "") for t in Tags(page.read_text()).named("a")]
    if re.match(r"(0[4-9]|1[0-5])", page.stem):
        assert any("ledger_equations.html#row-" in link for link in links)
    if page.parent.name == "notebooks":
        assert any("glossary.html#term-" in link for link in links)
    if page.stem in ("glossary", "how_to_read"):
        assert "../genindex.html" in links


@EACH_PAGE
def test_nothing_failed_silently(page):
    text = page.read_text()
    assert "Traceback (most recent call last)" not in text
    assert not re.search(r"\{(eq|ref|cite|doc|numref|term)(:[a-z]+)?\}`", text), "a role that was never read"


@EACH_PAGE
def test_tables_are_tables(page):
    # MyST-NB reads a cell's Markdown as CommonMark unless told otherwise, which leaves a table's pipes standing
    text = re.sub(r"<(pre|script)\b.*?</\1>", "", page.read_text(), flags=re.S)
    assert re.findall(r"\|\s*:?-+:?\s*\||<p>\s*\|[^<]*", text) == []
