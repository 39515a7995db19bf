"""The head asset: a MakeHuman head (CC0) with its morph targets and every landmark, anchor and contour as mesh points.

A mesh point is barycentric: three vertex ids and three weights that sum to one, so it follows every morph and pose.
Axes of the neutral head: x to the person's left (image right), y up, z out of the face; one unit is a decimetre.
`tools/build_head.py` writes the file; this module reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

ASSET = Path(__file__).parent.parent / "assets" / "head.npz"


@dataclass(frozen=True, eq=False)
class Head:
    """The head mesh and what is marked on it. V vertices, F triangles, T morph targets.

    Chains (contours, boundaries) are concatenated: chain i is rows offsets[i] to offsets[i + 1]; `contour` and
    `boundary` cut one out by name. "right" is the person's right (image left), x < 0.
    """

    vertices: np.ndarray  # (V, 3) float32, MakeHuman's base mesh
    neutral: np.ndarray  # (V, 3) float32, the mean of the six young adults (three origins, two genders)
    triangles: np.ndarray  # (F, 3) int32
    group: np.ndarray  # (F,) uint8, index into group_names
    group_names: tuple[str, ...]
    uv: np.ndarray  # (V, 2) float32
    targets: np.ndarray  # (T, V, 3) float32, displacement at weight one
    target_names: tuple[str, ...]
    mirror: np.ndarray  # (V,) int32, the vertex at (-x, y, z)
    lips: np.ndarray  # (V,) float32 in [0, 1]
    eyelids: np.ndarray  # (V,) float32 in [0, 1]
    inside_mouth: np.ndarray  # (V,) float32 in [0, 1]
    ambient_occlusion: np.ndarray  # (V,) float32 in [0, 1], 1 = open sky
    right_eye_vertices: np.ndarray  # (E,) int32, the eyeball; its mean is the centre the gaze turns about
    left_eye_vertices: np.ndarray  # (E,) int32
    landmarks68_ids: np.ndarray  # (68, 3) int32; the jaw (0-16) is nominal: the visible outline depends on the view
    landmarks68_weights: np.ndarray  # (68, 3) float32
    landmarks98_ids: np.ndarray  # (98, 3) int32; the jaw (0-32) is nominal
    landmarks98_weights: np.ndarray  # (98, 3) float32
    anchors_ids: np.ndarray  # (12, 3) int32, in the order of anchors_names; iris centres are the eyeballs' poles
    anchors_weights: np.ndarray  # (12, 3) float32
    anchors_names: tuple[str, ...]
    contours_ids: np.ndarray  # (P, 3) int32
    contours_weights: np.ndarray  # (P, 3) float32
    contours_offsets: np.ndarray  # (14,) int32
    contours_names: tuple[str, ...]
    boundaries_ids: np.ndarray  # (Q, 3) int32
    boundaries_weights: np.ndarray  # (Q, 3) float32
    boundaries_offsets: np.ndarray  # (16,) int32
    boundaries_names: tuple[str, ...]
    jaw_center: np.ndarray  # (3,) float32, the half planes of the jaw start at the z axis through it
    jaw_angles: (
        np.ndarray
    )  # (N,) float32 radians in the frontal plane, counter-clockwise from +x: right ear to left ear
    jaw_edges: np.ndarray  # (S, 2) int32, where the section at each angle crosses mesh edges, front to back
    jaw_fractions: np.ndarray  # (S,) float32, crossing = (1 - u) * first + u * second
    jaw_offsets: np.ndarray  # (N + 1,) int32
    brow_vertices: np.ndarray  # (W,) int32, skin around both brows, for placing a drawn brow on the surface
    credit: str

    @staticmethod
    def points(vertices: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Mesh points on given vertex positions. vertices (V, D), ids (..., 3), weights (..., 3) -> (..., D)."""
        return (vertices[ids] * weights[..., None]).sum(-2)

    def contour(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n, 3) and weights (n, 3) of one of ACE-Net's 13 contours. Raises ValueError for an unknown name."""
        return self._chain("contours", name)

    def boundary(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n, 3) and weights (n, 3) of one of TAB's 15 boundaries. Raises ValueError for an unknown name."""
        return self._chain("boundaries", name)

    def _chain(self, kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        names = getattr(self, f"{kind}_names")
        if name not in names:
            raise ValueError(f"name: seen {name!r}, wanted one of {', '.join(names)}")
        start, end = getattr(self, f"{kind}_offsets")[names.index(name) :][:2]
        return getattr(self, f"{kind}_ids")[start:end], getattr(self, f"{kind}_weights")[start:end]

    def jaw_path(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Edges (n, 2) and fractions (n,) of the section at jaw_angles[i], front to back."""
        start, end = self.jaw_offsets[i : i + 2]
        return self.jaw_edges[start:end], self.jaw_fractions[start:end]

    def morph(self, weights: Mapping[str, float]) -> np.ndarray:
        """Base vertices plus weighted targets, (V, 3) float32. Raises ValueError for an unknown target name."""
        unknown = sorted(set(weights) - set(self.target_names))
        if unknown:
            raise ValueError(f"weights: seen the target names {unknown}, wanted names from Head.target_names")
        w = np.array([weights.get(name, 0.0) for name in self.target_names], np.float32)
        (active,) = np.nonzero(w)
        # v = v_0 + Σ_t w_t d_t
        return self.vertices + np.tensordot(w[active], self.targets[active], 1)


@cache
def load(path: Path = ASSET) -> Head:
    """The head asset as read-only arrays, read once per process. Raises OSError if the file is missing."""
    if not Path(path).is_file():
        raise OSError(f"head asset {path} is missing: run tools/build_head.py")
    with np.load(path) as file:
        fields = {name: file[name] for name in file.files}
    fields["targets"] = fields["targets"].astype(np.float32)
    for name, value in fields.items():
        value.flags.writeable = False
        if value.dtype.kind == "U":
            fields[name] = str(value) if value.ndim == 0 else tuple(value.tolist())
    return Head(**fields)
