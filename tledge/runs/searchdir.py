"""Where `optimize --goal` keeps its candidates: a directory beside the run that it makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tledge.core.errors import RunError
from tledge.runs.rundir import RunDir


@dataclass(frozen=True)
class SearchDir:
    """Where a search for a run keeps its candidates, each a whole run, and their numbers; it may be deleted.

    `data` is where the images of all of them are, if not where their manifests say.
    """

    path: Path
    data: Path | None = None

    @property
    def numbers(self) -> Path:
        """What is known of every candidate; its presence marks the directory as a search's."""
        return RunDir(self.path).search

    def candidate(self, name: str) -> RunDir:
        """The run of a candidate."""
        return RunDir(self.path / name, self.data)


def search_of(out: Path, data: Path | None = None) -> SearchDir:
    """The candidates of a search for a run: a directory beside it.

    Raises:
        RunError: something else is there.
    """
    search = SearchDir(out.absolute().with_name(f"{out.absolute().name}.search"), data)
    path = search.path
    # What a process left that was killed while it wrote its first numbers is hidden.
    if path.exists() and not search.numbers.is_file() and not (path.is_dir() and not [*path.glob("[!.]*")]):
        raise RunError(f"expected a place for candidates, but {path} is no search; choose another --out or move it")
    return search
