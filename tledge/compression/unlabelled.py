"""Pictures without labels: what a small net learns the original's answers from, beside a run's own images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tledge.compression.study import MOST_PICTURES
from tledge.core.errors import DataError
from tledge.core.progress import Progress, say
from tledge.core.types import Json
from tledge.data.listing import ImageFile, Listing
from tledge.data.names import shown
from tledge.data.pixels import PixelStore, load_images
from tledge.data.resizers import resizer_of
from tledge.data.split import SplitRow, data_fingerprint
from tledge.runs.images import distinct_pictures
from tledge.runs.manifest import Manifest, read_split
from tledge.runs.rundir import RunDir


@dataclass(frozen=True)
class UnlabelledPictures:
    """Decoded at a run's input size; `fingerprint` is that of their files, `folder` where they are."""

    folder: Path
    pixels: PixelStore
    fingerprint: str

    def record(self) -> Json:
        """For a manifest."""
        return {"unlabelled": {"images": len(self.pixels), "fingerprint": self.fingerprint}}


def unlabelled_pictures(folder: Path, run: RunDir, manifest: Manifest, progress: Progress) -> UnlabelledPictures:
    """Pictures of a folder and of the folders in it, whatever they show.

    Left out, and counted in a line that is said, are the run's own images, since its test images must not be learned
    from; further copies of a picture; what cannot be read; and those beyond `MOST_PICTURES`, chosen by their digests,
    so of every folder within and the same ones each time.

    Args:
        folder: the folder.
        run: that learns from them.
        manifest: its manifest.
        progress: called with (what is going on, pictures decoded, pictures in all).

    Raises:
        DataError: no such folder, or none is left.
        RunError: the run's list of images is damaged.
    """
    first, copies = distinct_pictures(folder)
    known = {row.sha256 for row in read_split(run)}
    others = [path for digest, path in sorted(first.items()) if digest not in known]
    files = tuple(ImageFile(path, "", None) for path in others[:MOST_PICTURES])
    listing = Listing(folder, (), files, ())
    resizer, told = resizer_of(manifest.resize), partial(progress, "decoding unlabelled pictures")
    loaded = load_images(listing, manifest.image_size_px, skip_unreadable=True, resizer=resizer, progress=told)
    left_out = [
        f"{count:,} {what}"
        for count, what in (
            (len(first) - len(others), "of the run's own"),
            (copies, "copy" if copies == 1 else "copies"),
            (len(loaded.unreadable), "unreadable"),
            (len(others) - len(files), f"beyond {MOST_PICTURES:,}"),
        )
        if count
    ]
    without = f"; left out: {', '.join(left_out)}" if left_out else ""
    if not loaded.files:
        raise DataError(
            f"expected pictures to learn from in {shown(folder)}, but none is left{without}; give a folder of others"
        )
    say(f"unlabelled: {len(loaded.files):,} pictures in {shown(folder)}{without}")
    rows = [SplitRow(file.path, "", "train", digest) for file, digest in zip(loaded.files, loaded.sha256, strict=True)]
    return UnlabelledPictures(folder, loaded.pixels, data_fingerprint(rows))
