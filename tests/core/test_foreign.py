"""What a library raises over a file is the file's fault; a mistake in tledge's own code is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tledge.core.errors import ArtefactError
from tledge.core.foreign import foreign
from tledge.runtimes import litert

HERE, LIBRARY = litert.__file__, str(Path(pytest.__file__))


def raised(code: str, file: str) -> type[BaseException]:
    """What comes out of `foreign` where a function in that file does something."""
    names: dict[str, object] = {}
    exec(compile(f"def call():\n    {code}\n", file, "exec"), names)
    call = names["call"]
    assert callable(call)
    try:
        with foreign(ArtefactError):
            call()
    except Exception as error:  # noqa: BLE001 - which one it is is the answer
        return type(error)
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("return opend", NameError),
        ("sorted()", ArtefactError),  # said by a library, which may have got it from the file
        ("(lambda a: a)()", TypeError),
        ("(lambda a: a)(1, b=2)", TypeError),
        ("import os; os.opend", AttributeError),
        ("None.shape", ArtefactError),
        ("None[0]", ArtefactError),
        ("{}['layers']", ArtefactError),
        ("raise ValueError('no model')", ArtefactError),
    ],
)
def test_mistakes_of_tledge_are_not_blamed_on_a_file(code: str, error: type[Exception]) -> None:
    assert raised(code, HERE) is error
    assert raised(code, LIBRARY) is ArtefactError
