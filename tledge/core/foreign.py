"""Files of unknown origin in libraries of others: whatever a library raises over one is one line about the file."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tledge.core.errors import TledgeError

_REASON_CHARACTERS = 160
# What TensorFlow sets before what it says.
_OPERATION = re.compile(r"^\{\{[^{}]*\}\}")
_PACKAGE = Path(__file__).parents[1]
_WRONG_CALL = re.compile(
    r"\(\) (missing \d+ required|got an unexpected keyword|got multiple values|takes \d+ positional)"
    r"|^module '.*' has no attribute"
)


@contextmanager
def foreign(refusal: Callable[[str], TledgeError]) -> Iterator[None]:
    """Run code of a library on a file of unknown origin.

    What it may raise over a damaged one is documented nowhere and changes between releases (an undecodable name, a
    missing buffer, an assertion), so all of it is taken for a refusal. Errors of tledge, a missing package, what the
    system refuses of a file that it names, and mistakes in tledge's own code stay as they are.

    Args:
        refusal: makes the error from a reason in a few words.

    Raises:
        TledgeError: that of `refusal`.
    """
    try:
        yield
    except Exception as error:
        if is_refusal(error):
            raise refusal(reason_of(error)) from error
        raise


def is_refusal(error: Exception) -> bool:
    """Whether an exception says that a library does not like a file."""
    if isinstance(error, OSError) and error.filename is not None:
        return False
    return not isinstance(error, TledgeError | ImportError) and not _is_own_mistake(error)


def _is_own_mistake(error: Exception) -> bool:
    """Whether no content of a file can be behind an exception: an unknown name, or a call that does not fit, in tledge.

    Other errors that begin in tledge's code may come of what a library found in the file.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not frames or not Path(frames[-1].f_code.co_filename).is_relative_to(_PACKAGE):
        return False
    wrong_call = isinstance(error, TypeError | AttributeError) and _WRONG_CALL.search(str(error))
    return isinstance(error, NameError) or bool(wrong_call)


def reason_of(error: BaseException) -> str:
    """The first line of what a library says, of bearable length."""
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    said = _OPERATION.sub("", str(error)).strip()
    return (said or type(error).__name__).splitlines()[0][:_REASON_CHARACTERS]
