"""From a posed head to pixels: the camera, and the exact landmarks, anchors and contours it sees.

Head axes: x to the person's left, y up, z out of the face. Camera axes: x right, y up, z towards the viewer, so that
what is seen has z < 0. Pixels: 0-based centres, (x, y), y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..geometry import resample
from ..markups import ANCHORS, CONTOURS
from .parts import Parts, smoothstep
from .scene import Scene

BROW_SAMPLES = 25        # points of a dense brow contour; every sixth is a landmark
OUTER_CORNERS = (36, 45)
TOUCHING_LIPS = ((61, 67), (62, 66), (63, 65))  # inner lips: pressed together the meshes cross, lips do not
# where along its side of the outline each jaw landmark sits, from the eye's height (0) to the chin (1): means over
# annotated photos, frontal, and both sides of faces turned by about 24 degrees
JAW_ARCS = np.array([0, 0.128, 0.248, 0.363, 0.492, 0.617, 0.720, 0.841])
JAW_ARCS_NEAR = np.array([0, 0.117, 0.229, 0.336, 0.460, 0.589, 0.715, 0.855])
JAW_ARCS_FAR = np.array([0, 0.145, 0.273, 0.404, 0.549, 0.676, 0.763, 0.846])
JAW_ARCS_TURNED = 0.4    # sine of those 24 degrees
JAW_START = 0.02         # of the eye corners' distance below them
JAW_SMOOTHING = 8        # passes; sections are 5 degrees apart, the edges of the mesh coarser
BROW_SMOOTHING = 6       # passes over a dense brow: deep frowns fold the skin under it
BROW_LIFT = 0.65         # half brows: annotators follow the upper half of a brow, not its middle
JAW_FORWARD = 0.22       # head units, times the sine of the yaw: how far before the jaw's back edge it is drawn
JAW_START_AWAY = 0.12    # more on the far side, times the sine of the yaw
EYE_HEIGHT, MOUTH_HEIGHT = 7.33, 6.62  # head units, on the neutral head


@dataclass(frozen=True)
class View:
    """A camera looking at one face: ``pixel = focal * plane + center``, plane = (x / -z, -y / -z)."""

    rotation: np.ndarray     # (3, 3) head to camera axes
    origin: np.ndarray       # (3,) head point on the optical axis
    distance: float
    focal: float             # pixels
    center: np.ndarray       # (2,) pixel of the optical axis
    size: int                # the image is square

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) head points to camera axes."""
        camera = (points - self.origin) @ self.rotation.T
        camera[..., 2] -= self.distance
        return camera

    def to_pixels(self, camera: np.ndarray) -> np.ndarray:
        """(..., 3) camera points to (..., 2) pixels."""
        return self.focal * plane(camera) + self.center

    def resized(self, factor: int) -> View:
        """The same view on an image ``factor`` times as large."""
        return View(self.rotation, self.origin, self.distance, self.focal * factor,
                    (self.center + 0.5) * factor - 0.5, self.size * factor)


def plane(camera: np.ndarray) -> np.ndarray:
    """Perspective division: (..., 3) camera points to the (..., 2) plane at distance one, y down."""
    return camera[..., :2] * [1, -1] / -camera[..., 2:]


@dataclass(frozen=True)
class Annotation:
    """What a view shows, in 3-D camera coordinates where a depth exists, and in pixels."""

    landmarks: np.ndarray            # (68, 2)
    depths: np.ndarray               # (68,) distance along the optical axis, for visibility
    anchors: np.ndarray              # (12, 2)
    contours: dict[str, np.ndarray]  # 13 polylines (M, 2)


def shape(parts: Parts, scene: Scene) -> np.ndarray:
    """The deformed head, (V, 3) float32: morph targets, then the face's proportions drawn freely around the eyes."""
    head = parts.head
    vertices = head.morph(scene.weights)
    side = np.abs(head.neutral[:, 0])
    ramp = np.clip((side - 0.33) / 0.35, 0, 1) ** 1.2 * parts.body
    vertices[:, 0] += np.sign(head.neutral[:, 0]) * scene.widen * ramp
    low = smoothstep(head.neutral[:, 1], MOUTH_HEIGHT + 0.1, MOUTH_HEIGHT - 0.4) * parts.in_front
    vertices[:, 0] *= 1 + scene.broaden * low
    vertices[:, 1] -= scene.lengthen * np.clip(EYE_HEIGHT - head.neutral[:, 1], 0, 1.2) * parts.in_face
    vertices[:, 1] -= scene.chin * low
    return vertices


def look(parts: Parts, scene: Scene, vertices: np.ndarray, size: int) -> tuple[View, Annotation]:
    """Place the camera so that the landmark box fills the scene's share of the image, and annotate the view."""
    head = parts.head
    inner = head.points(vertices, head.landmarks68_ids[17:], head.landmarks68_weights[17:])
    origin = 0.5 * inner[10:31].mean(0) + 0.5 * inner[31:].mean(0) - [0, 0, 0.4]
    unit = View(scene.rotation, origin, scene.distance, 1.0, np.zeros(2), size)
    flat = _annotate(parts, scene, vertices, unit)

    low, high = flat.landmarks.min(0), flat.landmarks.max(0)
    focal = scene.fill * size / (high - low).max()
    center = (size - 1) / 2 + np.array(scene.shift) * size - focal * (low + high) / 2
    view = View(scene.rotation, origin, scene.distance, focal, center, size)
    return view, Annotation(flat.landmarks * focal + center, flat.depths, flat.anchors * focal + center,
                            {name: c * focal + center for name, c in flat.contours.items()})


def _annotate(parts: Parts, scene: Scene, vertices: np.ndarray, view: View) -> Annotation:
    """Landmarks, anchors and contours on the plane of the camera."""
    head = parts.head
    camera = view.to_camera(vertices)
    points = head.points(camera, head.landmarks68_ids, head.landmarks68_weights)         # (68, 3)
    curve = scene.brow.curve(BROW_SAMPLES)
    brow, other = (_carried(parts, curve * [side, 1], camera) for side in (1, -1))
    lifted = curve + [0, BROW_LIFT * scene.brow.thickness]
    points[22:27], points[17:22] = (_carried(parts, lifted * [side, 1], camera)[::6] for side in (1, -1))
    points[17:22] = points[17:22][::-1]                          # both brows run from image left to right
    for upper, lower in TOUCHING_LIPS:
        if (points[upper] - points[lower]) @ view.rotation[:, 1] < 0:
            points[[upper, lower]] = points[[upper, lower]].mean(0)
    flat = plane(points)
    jaw = visible_jaw(parts, scene, vertices, view, corners=flat[list(OUTER_CORNERS)])
    flat[:17] = jaw_landmarks(jaw, scene.yaw)

    contours = {name: plane(head.points(camera, *head.contour(name))) for name in CONTOURS}
    contours["right_eyebrow_center_line"], contours["left_eyebrow_center_line"] = plane(other[::-1]), plane(brow)
    contours["chin_boundary"] = np.concatenate(jaw)
    anchors = plane(head.points(camera, head.anchors_ids, head.anchors_weights))
    iris = plane(view.to_camera(iris_centers(parts, scene, vertices)))
    anchors[ANCHORS.index("right_iris_center")], anchors[ANCHORS.index("left_iris_center")] = iris
    return Annotation(flat, -points[:, 2], anchors, contours)


def landmarks98(parts: Parts, scene: Scene, vertices: np.ndarray, view: View, truth: Annotation) -> np.ndarray:
    """(98, 2) pixels: the landmarks of the "98" markup on the face that ``truth`` annotates with 68.

    The jaw has each of the 17 points and one halfway along the outline to the next; a brow has its upper and its lower
    edge, where 68 landmarks have one line between; the other landmarks are vertices of the mesh or between them.
    """
    head, camera = parts.head, view.to_camera(vertices)
    points = head.points(camera, head.landmarks98_ids, head.landmarks98_weights)         # (98, 3)
    for upper, lower in ((89, 95), (90, 94), (91, 93)):          # inner lips pressed together, see TOUCHING_LIPS
        if (points[upper] - points[lower]) @ view.rotation[:, 1] < 0:
            points[[upper, lower]] = points[[upper, lower]].mean(0)
    curve, edge = scene.brow.curve(BROW_SAMPLES), np.array([0, BROW_LIFT * scene.brow.thickness])
    for side, upper, lower in ((1, slice(42, 47), slice(47, 51)), (-1, slice(33, 38), slice(38, 42))):
        middle, lifted = (_carried(parts, (curve + k * edge) * [side, 1], camera)[::6] for k in (0, 1))
        half = (lifted - middle) / BROW_LIFT                     # the edges themselves may leave the brow's region
        above, below = middle + half, middle - half
        if side == 1:                                            # drawn from the inner end; numbered left to right
            points[upper], points[lower] = above, below[-2::-1]
        else:
            points[upper], points[lower] = above[::-1], below[:-1]
    flat = view.to_pixels(points)
    flat[0:33:2] = truth.landmarks[:17]
    outline = resample(truth.contours["chin_boundary"], 2049)
    at = np.linalg.norm(outline[None] - truth.landmarks[:17, None], axis=-1).argmin(1)   # along it, in steps
    flat[1:33:2] = outline[((at[:-1] + at[1:]) / 2).round().astype(int)]
    flat[96:98] = truth.anchors[[ANCHORS.index("right_iris_center"), ANCHORS.index("left_iris_center")]]
    return flat


def _carried(parts: Parts, curve: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """A curve drawn on the neutral brow region, carried along and freed of the folds of deep frowns."""
    return smooth(parts.on_brow(curve, vertices), BROW_SMOOTHING)


# ---- the chin: an occluding contour ---------------------------------------------------------------------------------

def visible_jaw(parts: Parts, scene: Scene, vertices: np.ndarray, view: View,
                corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The outline of jaw and chin that this view shows: two polylines (M, 2), image left then right, chin shared.

    Half planes through a point inside the jaw cut the face in sections, one each few degrees from ear to ear. On each
    section the outline is where the projection reaches farthest outwards: there the line of sight only touches the
    skin. Annotators let the outline start a little below the outer eye corners, and lower on the side that is turned
    away, where the cheek bone hides what follows.

    Args:
        corners: (2, 2) outer eye corners, right and left, on the camera's plane.
    """
    head = parts.head
    nose = head.landmarks68_ids[33], head.landmarks68_weights[33]
    moved = head.points(vertices, *nose) - head.points(head.neutral, *nose)
    inside = plane(view.to_camera(head.jaw_center + 0.7 * moved))
    camera = view.to_camera(parts.jaw_crossings(vertices))                     # (S, 3), all sections one after another
    flat = plane(camera)
    # outward direction of each section in the image: its angle on the neutral face, turned by the roll
    angle = head.jaw_angles + np.deg2rad(scene.roll)
    outward = np.stack([np.cos(angle), -np.sin(angle)], axis=1)                # (A, 2), image y down
    reach = ((flat - inside) * outward[parts.section]).sum(1)
    # annotators do not follow the side turned to the camera all the way back along the jaw bone
    side = np.cos(head.jaw_angles)[parts.section]                              # < 0: the person's right
    below_ear = np.clip(-1.5 * np.sin(head.jaw_angles), 0, 1)[parts.section]
    near = JAW_FORWARD * np.clip(np.sin(np.deg2rad(scene.yaw)) * -side, 0, None) * below_ear
    reach[parts.depth_in_section < near] = -np.inf
    outermost = [start + int(reach[start:stop].argmax()) for start, stop in zip(head.jaw_offsets, head.jaw_offsets[1:])]
    outline = flat[outermost]
    outline = smooth(outline, JAW_SMOOTHING)

    roll = np.deg2rad(scene.roll)
    down = np.array([np.sin(roll), np.cos(roll)])
    middle = len(outline) // 2
    across = np.linalg.norm(corners[1] - corners[0])
    turned = np.sin(np.deg2rad(scene.yaw))
    sides = []
    right, left = outline[:middle + 1], outline[middle:][::-1]
    for side, corner, away in ((right, corners[0], -turned), (left, corners[1], turned)):
        corner = corner + across * (JAW_START + JAW_START_AWAY * max(0.0, away)) * down
        below = np.flatnonzero((side - corner) @ down > 0)
        start = below[0] if len(below) else 0
        if start > 0:                                                          # cut exactly at the corner's height
            h0, h1 = (side[start - 1] - corner) @ down, (side[start] - corner) @ down
            cut = side[start - 1] + (side[start] - side[start - 1]) * (-h0 / (h1 - h0))
            side = np.concatenate([cut[None], side[start:]])
        sides.append(side)
    return sides[0], sides[1][::-1]


def smooth(curve: np.ndarray, passes: int) -> np.ndarray:
    """A polyline (n, 2) or (n, 3) with each inner point averaged with its neighbours, ``passes`` times."""
    for _ in range(passes):
        curve = np.concatenate([curve[:1], 0.25 * curve[:-2] + 0.5 * curve[1:-1] + 0.25 * curve[2:], curve[-1:]])
    return curve


def jaw_landmarks(jaw: tuple[np.ndarray, np.ndarray], yaw: float) -> np.ndarray:
    """(17, 2): nine points down each side of the outline, the chin shared, spaced as annotators space them."""
    turned = np.clip(np.sin(np.deg2rad(yaw)) / JAW_ARCS_TURNED, -1, 1)
    points = []
    for side, away in ((jaw[0], -turned), (jaw[1][::-1], turned)):
        arcs = JAW_ARCS + abs(away) * ((JAW_ARCS_FAR if away > 0 else JAW_ARCS_NEAR) - JAW_ARCS)
        dense = resample(side, 257)
        at = np.append(arcs, 1.0) * 256
        points.append(np.stack([np.interp(at, np.arange(257), dense[:, k]) for k in (0, 1)], axis=1))
    return np.concatenate([points[0], points[1][-2::-1]])


# ---- eyes ------------------------------------------------------------------------------------------------------------

def gaze_direction(scene: Scene) -> np.ndarray:
    """Unit vector in head axes."""
    yaw, pitch = np.deg2rad(scene.gaze)
    return np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])


def iris_centers(parts: Parts, scene: Scene, vertices: np.ndarray) -> np.ndarray:
    """(2, 3): where the gaze leaves the right and the left eyeball."""
    out = []
    for ids in (parts.head.right_eye_vertices, parts.head.left_eye_vertices):
        center = vertices[ids].mean(0)
        out.append(center + np.linalg.norm(vertices[ids] - center, axis=1).mean() * gaze_direction(scene))
    return np.array(out)
