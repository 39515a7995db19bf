"""Face alignment, re-derived: a small library and the book that explains it.

Start at ``facealign_lite.align.align``: an image in, landmarks out.
"""

__version__ = "0.1.0"
