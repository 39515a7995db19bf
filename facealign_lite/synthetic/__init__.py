"""Free 3-D faces with exact ground truth: the embedded default data."""

from .faces import Face, SyntheticFaces, denser, render_face
from .scene import Scene, Style

__all__ = ["Face", "Scene", "Style", "SyntheticFaces", "denser", "render_face"]
