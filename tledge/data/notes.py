"""What a person should be told about images that were not used."""

from __future__ import annotations

from tledge.data.pixels import LoadedImages
from tledge.data.scan import Listing
from tledge.data.split import Split


def what_was_left_out(listing: Listing, images: LoadedImages, split: Split) -> tuple[str, ...]:
    """One sentence for each reason for which files were passed over."""
    parts = (
        ("no image of a class, ignored", listing.ignored),
        ("unreadable, skipped", tuple(f"{path} ({reason})" for path, reason in images.unreadable)),
        ("duplicate, dropped", split.dropped),
    )
    return tuple(f"{len(names)} {what}: {', '.join(names)}" for what, names in parts if names)
