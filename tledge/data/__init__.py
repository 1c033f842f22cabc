"""Images on disk: list them, decode them once, split them.

`decode.decode` is not re-exported: its name would hide its module.
"""

from __future__ import annotations

from tledge.core.arrays import BUDGET_BYTES
from tledge.data.decode import RESIZE_METHOD, open_rgb, resize
from tledge.data.listing import ImageFile, Listing
from tledge.data.pixels import LoadedImages, PixelStore, load_images
from tledge.data.scan import list_images
from tledge.data.split import Split, SplitRow, data_fingerprint, split_images, stratified_sample
from tledge.data.tree import IMAGE_SUFFIXES

__all__ = [
    "BUDGET_BYTES",
    "IMAGE_SUFFIXES",
    "RESIZE_METHOD",
    "ImageFile",
    "Listing",
    "LoadedImages",
    "PixelStore",
    "Split",
    "SplitRow",
    "data_fingerprint",
    "list_images",
    "load_images",
    "open_rgb",
    "resize",
    "split_images",
    "stratified_sample",
]
