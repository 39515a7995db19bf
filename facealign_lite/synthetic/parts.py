"""What the renderer derives from the head asset once: normals, masks, materials, the sections of the jaw."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import Delaunay

from .head import Head, load

SKIN, EYE, TEETH, TONGUE, LASHES, HAIR, CAP = range(7)


@dataclass(frozen=True, eq=False)
class Parts:
    """Views on one head; V vertices, F triangles, S crossings of the jaw's sections with mesh edges."""

    head: Head
    body: np.ndarray             # (V,) bool: skin
    ear: np.ndarray              # (V,) bool
    in_face: np.ndarray          # (V,) 0..1: one on the face and in the mouth, fading towards ears and neck
    in_front: np.ndarray         # (V,) 0..1: one on chin and mouth, zero on ears and neck
    body_triangles: np.ndarray   # (F', 3)
    material: np.ndarray         # (F,) of each triangle
    gather: csr_matrix           # (V, F): sums the triangles around a vertex
    section: np.ndarray          # (S,) which section a crossing belongs to
    depth_in_section: np.ndarray # (S,) how far before the hindmost crossing of its section each lies; inf for the first
    brow_net: Delaunay           # the brow region seen from the front

    def normals(self, vertices: np.ndarray) -> np.ndarray:
        """(V, 3) unit normals, the area-weighted mean of the triangles around each vertex."""
        a, b, c = (vertices[self.head.triangles[:, k]] for k in range(3))
        normal = self.gather @ np.cross(b - a, c - a)
        return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)

    def jaw_crossings(self, vertices: np.ndarray) -> np.ndarray:
        """(S, 3) where the sections of the jaw cross the deformed mesh."""
        first, second = self.head.jaw_edges.T
        u = self.head.jaw_fractions[:, None]
        return vertices[first] * (1 - u) + vertices[second] * u

    def on_brow(self, xy: np.ndarray, vertices: np.ndarray) -> np.ndarray:
        """Points drawn on the neutral frontal brow region, (n, 2), carried to deformed or posed vertices: (n, 3)."""
        triangle = self.brow_net.find_simplex(xy)
        if (triangle < 0).any():
            raise ValueError(f"xy: {int((triangle < 0).sum())} points lie outside the brow region")
        frame = self.brow_net.transform[triangle]
        first = np.einsum("nij,nj->ni", frame[:, :2], xy - frame[:, 2])
        weights = np.column_stack([first, 1 - first.sum(1)])
        return self.head.points(vertices, self.head.brow_vertices[self.brow_net.simplices[triangle]], weights)


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 at ``low``, 1 at ``high``, with flat ends; falls where low > high."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


@cache
def parts() -> Parts:
    """The parts of the shipped head."""
    head = load()
    count, names = len(head.vertices), np.array(head.group_names)[head.group]
    body_triangles = head.triangles[names == "body"]
    body = np.zeros(count, bool)
    body[body_triangles] = True
    material = np.zeros(len(head.triangles), np.uint8)
    for part, value in (("eye", EYE), ("teeth", TEETH), ("tongue", TONGUE), ("lash", LASHES)):
        material[np.char.find(names, part) >= 0] = value
    rows = head.triangles.ravel()
    gather = csr_matrix((np.ones(len(rows), np.float32), (rows, np.repeat(np.arange(len(head.triangles)), 3))),
                        shape=(count, len(head.triangles)))
    ears = [t for t, name in enumerate(head.target_names) if name.startswith("ears/") and
            any(kind in name for kind in ("scale", "wing", "flap"))]
    ear = np.abs(head.targets[ears]).max((0, 2)) > 0.03
    section = np.repeat(np.arange(len(head.jaw_angles)), np.diff(head.jaw_offsets))
    in_face = smoothstep(head.neutral[:, 2], -0.1, 0.4).astype(np.float32)
    u = head.jaw_fractions
    z = head.neutral[head.jaw_edges[:, 0], 2] * (1 - u) + head.neutral[head.jaw_edges[:, 1], 2] * u
    depth_in_section = z - np.minimum.reduceat(z, head.jaw_offsets[:-1])[section]
    depth_in_section[head.jaw_offsets[:-1]] = np.inf
    in_front = smoothstep(head.neutral[:, 2], 0.1, 1.0).astype(np.float32) * body
    return Parts(head, body, ear, in_face, in_front, body_triangles, material, gather, section, depth_in_section,
                 Delaunay(head.neutral[head.brow_vertices, :2]))
