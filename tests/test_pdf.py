"""The book as one page for paper: every link leads within it or out of the book, and nothing is lost."""

import pytest
from bs4 import BeautifulSoup

from book import pdf


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
    names = ["book/intro", "notebooks/01_x"]
    whole = BeautifulSoup(pdf.whole(names, built), "html.parser")
    assert [article["id"] for article in whole.find_all("article")] == ["book-intro", "notebooks-01_x"]
    assert "menu" not in whole.get_text() and "folded" in whole.get_text()
    links = [a["href"] for a in whole.find_all("a")]
    assert links == ["#notebooks-01_x--a", "#book-intro--a", "https://example.org/", "../genindex.html", "#book-intro"]
    assert {link[1:] for link in links if link.startswith("#")} <= {tag["id"] for tag in whole.find_all(id=True)}
    assert whole.find("details").has_attr("open")


def test_the_order_is_that_of_the_contents():
    names = pdf.contents()
    assert names[0] == "book/intro" and len(names) == len(set(names)) > 20
    assert [n for n in names if n.startswith("notebooks/")] == sorted(n for n in names if n.startswith("notebooks/"))
