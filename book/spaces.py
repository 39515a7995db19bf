"""What a page never breaks: 3.4 ± 0.2, [3.1, 3.6], 95 % and 64 × 64, and a formula and the full stop behind it."""

import re

LEFT = re.compile(r'<(script|style|pre|code|svg|title|textarea)\b.*?</\1>|<(span|div) class="math\b.*?</\2>', re.S)
TAG = re.compile(r"(<[^>]*>)")
NUMBER = r"[-−+]?\d[\d.,]*[%°]?"
TOGETHER = re.compile(rf"(?<=\d) %(?!\w)|(?<=[\d%]) (?=±)|(?<=±) (?=\d)|(?<=\d) (?=[x×] \d)|(?<=\d [x×]) (?=\d)"
                      rf"|\[{NUMBER}, {NUMBER}\]")
STOP = re.compile(r'(?<!<span class="held">)(<span class="math\b[^>]*>[^<]*</span>[.,;:!?)]+)')


def unbroken(html: str) -> str:
    """A page with no-break spaces where a line must not end; code, formulas and what is in tags are left alone.

    A browser may end a line behind a formula, before its full stop: both are put into one box, ``held``.
    """
    html, out, at = STOP.sub(r'<span class="held">\1</span>', html), [], 0
    for kept in LEFT.finditer(html):
        out += [_words(html[at:kept.start()]), kept[0]]
        at = kept.end()
    return "".join([*out, _words(html[at:])])


def _words(html: str) -> str:
    return "".join(part if part.startswith("<") else TOGETHER.sub(lambda found: found[0].replace(" ", "\xa0"), part)
                   for part in TAG.split(html))
