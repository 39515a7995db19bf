"""What a plain rule makes a link of, and what it leaves alone."""

import re

import pytest
from docutils import nodes
from sphinx import addnodes

from book import links


def told(text, page="notebooks/04_contourness", seen=None):
    """The links of a text as (what is shown, where it leads), and the text put together again."""
    parts = list(links.linked(text, page, set() if seen is None else seen))
    found = [(part.astext(), part["reftarget"]) for part in parts if isinstance(part, addnodes.pending_xref)]
    shown = "".join(part.astext() for part in parts if not isinstance(part, (addnodes.index, nodes.target)))
    assert shown == text
    return found


@pytest.mark.parametrize("text, wanted", [
    ("as chapter 9 says", [("chapter 9", "/notebooks/09_bali_fields")]),
    ("see chapters 01 and 03.", [("chapters 01", "/notebooks/01_heatmaps_and_metrics"),
                                 ("03", "/notebooks/03_hourglass_baseline")]),
    ("Chapter 12b and chapter\n12", [("Chapter 12b", "/notebooks/12b_does_the_reference_help"),
                                     ("chapter\n12", "/notebooks/12_the_transformer_with_a_memory")]),
    ("this is chapter 04, of 17 chapters", []),
    ("chapter 77 there is none", []),
    ("C7 but not C77 or C", [("C7", "row-c7")]),
    ("claim C10a and C10.", [("C10a", "row-c10a"), ("C10", "row-c10")]),
    ("TAB-3, MSM-A2 and ACE-S3.4, not TAB-33", [("TAB-3", "row-tab-3"), ("MSM-A2", "row-msm-a2"),
                                               ("ACE-S3.4", "row-ace-s3.4")]),
    ("by Eq. 24 and 25,", [("Eq. 24", "row-ace-24"), ("25", "row-ace-25")]),
    ("SCPAN's Eq. 3 and MSM (Eq. 12) and Eq. 99", [("SCPAN's Eq. 3", "row-scpan-3"), ("Eq. 12", "row-msm-12")]),
])
def test_numbers_and_ids_lead_to_what_they_name(text, wanted):
    assert told(text) == wanted


def test_an_equation_is_of_the_paper_that_the_chapter_is_about():
    assert told("Eq. 5", "notebooks/10_calibrating_oneself") == [("Eq. 5", "row-scpan-5")]
    assert told("Eq. 5", "notebooks/03_hourglass_baseline") == []                   # about none


def test_a_term_is_a_link_where_a_page_has_it_first():
    seen = set()
    assert told("one heatmap or two heatmaps", seen=seen) == [("heatmap", "heatmap")] and seen == {"heatmap"}
    assert told("more heatmaps", seen=seen) == []
    assert told("boundary heatmaps") == [("boundary heatmaps", "boundary heatmap")]     # the longer one
    assert told("NMEs and NME") == [("NME", "NME")]
    assert told("a heatmap", "book/glossary") == []
    index = [part for part in links.linked("a twin", "book/intro", set()) if isinstance(part, addnodes.index)]
    assert [entry[:2] for entry in index[0]["entries"]] == [("single", "twin")]


def test_what_is_code_or_a_title_or_a_link_is_left_alone():
    class App:
        class env:
            docname = "notebooks/05_learning_contours_from_points"

    page = nodes.section()
    for kind in (nodes.title, nodes.literal, nodes.reference, nodes.math):
        holder = nodes.paragraph()
        holder += kind("", nodes.Text("chapter 4, C1"))
        page += holder
    page += nodes.paragraph("", nodes.Text("chapter 4, C1"))
    links.link(App, page)
    assert [x.parent is page.children[-1] for x in page.findall(addnodes.pending_xref)] == [True, True]


def test_every_known_id_is_found_by_its_pattern():
    known = links.known()
    assert {"C1", "C10d"} <= known["claims"] and {"ACE-1", "RHT-10", "MSM-A1"} <= known["equations"]
    for name in known["claims"] | known["equations"]:
        assert links.pattern(False).fullmatch(name), name
    assert all(re.search(r"[a-zA-Z]", term) for term in known["terms"]) and len(known["terms"]) > 30
