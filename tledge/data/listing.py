"""Images of a data folder with their classes, and what is said of them: the result of a scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tledge.core.types import SUBSETS, Subset
from tledge.data.names import counted, listed, same_name, shown


@dataclass(frozen=True)
class ImageFile:
    """One image: `path` is relative to the data root with forward slashes; `subset` is None unless the data says."""

    path: str
    label: str
    subset: Subset | None


@dataclass(frozen=True)
class Listing:
    """All images of a data folder, sorted by path; `ignored` names what is there but is no image of a class.

    `root` is where the files are: another folder than was asked for, if that held arrays or nothing but one folder
    around the others. `form` says in words how the classes are told, `notes` which images are left out and why.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[ImageFile, ...]
    ignored: tuple[str, ...]
    form: str = ""
    notes: tuple[str, ...] = ()

    @property
    def understood(self) -> str:
        """What was understood, as one line for a person to read before anything slow."""
        counts = Counter(file.subset for file in self.files)
        parts = [f"{counts[subset]:,} {subset}" for subset in SUBSETS if counts[subset]]
        free = [f"{counts[None]:,}"] if counts[None] else []
        images = f"{' + '.join((*parts, *free))} image{'' if len(self.files) == 1 else 's'}"
        said = f"{images} of {len(self.classes)} classes ({listed(self.classes)}) in {shown(self.root)}: {self.form}"
        return "; ".join((said, *self.notes))

    def called(self, names: Sequence[str]) -> Listing:
        """The same images with the classes spelled as in `names` where they are the same in Unicode's normal form."""
        spelled = {label: same_name(label, names) or label for label in self.classes}
        files = tuple(replace(file, label=spelled[file.label]) for file in self.files)
        return replace(self, classes=tuple(sorted(set(spelled.values()))), files=files)


@dataclass
class Found:
    """What a way of telling classes has found so far."""

    form: str
    files: list[ImageFile] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, count: int, why: str) -> None:
        """Note images that are not taken, if there are any."""
        if count:
            self.notes.append(f"left out {counted(count, 'image')} {why}")
