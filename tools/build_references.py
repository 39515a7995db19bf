"""The faces that RHT may borrow from when nobody gives it one: ``python tools/build_references.py``.

Renders faces, groups their landmarks by K-means, keeps the face nearest each centre, and writes grey crops and
landmarks to ``facealign_lite/assets/references.npz`` and what was done to ``results/reference_bank.json``.
"""

import time

import numpy as np
from scipy.cluster.vq import kmeans2

from facealign_lite import rht
from facealign_lite.records import commit, describe_device, write_record
from facealign_lite.rht.references import COMPARED, SHIPPED, as_picture
from facealign_lite.synthetic import Style, SyntheticFaces

RENDERED, KEPT, SEED = 600, 36, 41
# upright, as the crops of a second look are, and with nothing in front of what may be borrowed
CLEAN = Style(roll=10, pitch=20, mask=0, occluder=0, glasses=0, blur=0, hard_light=0)


def main() -> None:
    """Render, choose, write."""
    start = time.time()
    faces = SyntheticFaces(RENDERED, 160, SEED, CLEAN)
    samples = [faces[i] for i in range(RENDERED)]
    drawn = rht.References.of(samples, COMPARED)
    shapes = drawn.landmarks.numpy().astype(np.float64)
    flat = shapes.reshape(RENDERED, -1)
    centres, _ = kmeans2(flat, KEPT, seed=SEED, minit="++")
    kept = sorted({int(np.square(flat - centre).sum(1).argmin()) for centre in centres})
    yaws = [round(float(samples[i].pose[0])) for i in kept]
    np.savez_compressed(SHIPPED, images=np.stack([as_picture(drawn.images[i]) for i in kept]),
                        landmarks=shapes[kept].astype(np.float32))
    write_record("reference_bank", {
        "what": f"faces nearest the centres of {KEPT} groups of landmarks, grey crops of {COMPARED} pixels",
        "data": f"SyntheticFaces({RENDERED}, seed={SEED}), nearly upright; no occluders, glasses, blur or hard light",
        "seeds": [SEED], "budget": {"rendered": RENDERED, "groups": KEPT}, "commit": commit(),
        "device": describe_device("cpu"), "seconds": round(time.time() - start, 1),
        "figures": {"faces": len(kept), "kilobytes": round(SHIPPED.stat().st_size / 1000, 1), "yaws": sorted(yaws)}})


if __name__ == "__main__":
    main()
