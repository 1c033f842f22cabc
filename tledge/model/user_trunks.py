"""Trunks that users registered under a name: a copy of the 13 convolutions with its digest, in their data folder."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from tledge.core.dependencies import require
from tledge.core.errors import WeightsError
from tledge.core.files import write_bytes
from tledge.core.records import UNNUMBERED, Document, read_record, write_record
from tledge.core.user_folders import data_folder
from tledge.model.weight_files import Tensor

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class UserTrunk(Document, frozen=True, kw_only=True):
    """A registered trunk: `digest` is the SHA-256 of its 26 tensors, `origin` the file it came from.

    `notes` say what people should know about that file, as far as its copy does not show it.
    """

    UPGRADES = UNNUMBERED
    REMEDY: ClassVar[str] = "remove it and add the trunk again"

    name: str
    digest: str
    origin: str
    added: str
    domain: str
    licence: str
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The copy of its tensors."""
        return _folder() / f"{self.name}.h5"


def user_trunks() -> tuple[UserTrunk, ...]:
    """Every registered trunk, sorted by name.

    Raises:
        WeightsError: an entry is damaged.
    """
    return tuple(_read(path) for path in sorted(_folder().glob("[!.]*.json")))


def find_user_trunk(name: str) -> UserTrunk | None:
    """The trunk registered under a name, None if there is none.

    Raises:
        WeightsError: its entry is damaged.
    """
    path = _folder() / f"{name}.json"
    return _read(path) if _NAME.fullmatch(name) and path.is_file() else None


def require_trunk_name(name: str) -> None:
    """Check a name for a new trunk.

    Raises:
        WeightsError: it could be mistaken for a file, or cannot be a file's name.
    """
    if not _NAME.fullmatch(name):
        raise WeightsError(
            f"expected a name of small letters, digits, - and _ (at most 64), but got {name!r}; choose another"
        )


def keep_trunk(
    name: str,
    tensors: Mapping[str, tuple[Tensor, Tensor]],
    digest: str,
    origin: Path,
    *,
    domain: str,
    licence: str,
    notes: tuple[str, ...] = (),
) -> UserTrunk:
    """Write a trunk into the user's data folder; its entry comes last, so an interrupted copy is none."""
    h5py = require("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for layer, (kernel, bias) in tensors.items():
            file.create_dataset(f"{layer}/kernel", data=kernel)
            file.create_dataset(f"{layer}/bias", data=bias)
    added = datetime.now(UTC).isoformat(timespec="seconds")
    trunk = UserTrunk(
        name=name,
        digest=digest,
        origin=str(origin.absolute()),
        added=added,
        domain=domain,
        licence=licence,
        notes=notes,
    )
    write_bytes(trunk.path, buffer.getvalue())
    write_record(_folder() / f"{name}.json", trunk)
    return trunk


def forget_trunk(trunk: UserTrunk) -> None:
    """Remove a registered trunk."""
    (_folder() / f"{trunk.name}.json").unlink()
    trunk.path.unlink(missing_ok=True)


def _folder() -> Path:
    return data_folder() / "weights"


def _read(path: Path) -> UserTrunk:
    return read_record(path, UserTrunk, WeightsError)
