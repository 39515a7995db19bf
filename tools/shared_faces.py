"""The rendered faces that the claims of several papers train and are tested on."""

from pathlib import Path

from facealign_lite.data import PackedFaces, save_packed
from facealign_lite.evaluation import benchmark
from facealign_lite.synthetic import SyntheticFaces

FACES, FACE_SIZE, FACE_SEED, TEST_FACES = 3000, 160, 2, 600


def pack(folder: Path, name: str) -> PackedFaces:
    """"train" or "test" faces, rendered by the first arm that asks for them, read by all others."""
    count = FACES if name == "train" else TEST_FACES
    path = folder / (f"faces{FACE_SEED}_{FACE_SIZE}_{FACES}" if name == "train" else f"benchmark_{FACE_SIZE}_{count}")
    try:
        return PackedFaces(path)
    except OSError:
        faces = SyntheticFaces(FACES, FACE_SIZE, FACE_SEED) if name == "train" else benchmark(FACE_SIZE, count)
        return save_packed(path, faces, workers=2, progress=True)
