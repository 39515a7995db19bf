"""Annotated faces, crops and augmentation."""

from .augmentation import Augmentation
from .crops import Crops, crop, crop_matrix, flip, grey
from .files import write_atomic
from .packed import PackedFaces, save_packed
from .samples import Sample, box_of, check_box, load_image

__all__ = [
    "Augmentation", "Crops", "PackedFaces", "Sample", "box_of", "check_box", "crop", "crop_matrix", "flip", "grey",
    "load_image", "save_packed", "write_atomic",
]
