"""Annotated faces, crops and augmentation."""

from facealign_lite import opencv  # noqa: F401    what is imported here is used in forked workers

from .augmentation import Augmentation
from .batches import BatchedCrops, Further, Halves
from .crops import (
    MARGIN,
    Crops,
    crop,
    crop_matrix,
    flip,
    grey,
    level_matrix,
    mirrored,
    turned,
    upright_matrix,
)
from .files import write_atomic
from .packed import PackedFaces, save_packed
from .readers import (
    extract_frames,
    inventory,
    inventory_table,
    read_300vw,
    read_300w,
    read_aflw,
    read_aflw2000,
    read_cofw,
    read_cofw68,
    read_csv,
    read_helen,
    read_images,
    read_pts,
    read_wflw,
)
from .samples import CONTOUR_POINTS, Sample, box_of, check_box, load_image

__all__ = [
    "CONTOUR_POINTS", "MARGIN", "Augmentation", "BatchedCrops", "Crops", "Further", "Halves", "PackedFaces",
    "Sample", "box_of", "check_box", "crop", "crop_matrix", "extract_frames", "flip", "grey", "inventory",
    "inventory_table", "level_matrix", "load_image", "mirrored", "read_300vw", "read_300w", "read_aflw",
    "read_aflw2000", "read_cofw", "read_cofw68", "read_csv", "read_helen", "read_images", "read_pts", "read_wflw",
    "save_packed", "turned", "upright_matrix", "write_atomic",
]
