"""From a template and what it shows to one HTML file: the one place that escapes for HTML, jinja2's autoescape.

Autoescape leaves characters that change how a line looks; `visible` takes those, line by line.
"""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from tledge import __version__
from tledge.core.escaping import visible

if TYPE_CHECKING:
    from jinja2 import Environment

# A number or what stands for none, with its interval, unit, second number or mark.
_NUMERIC = re.compile(r"[+−-]?\d[\d.,]*(e[+-]\d+)?( ?[x°])?( ?\(.*\)| / \d+| to .*|–[\d.,]+)?( \[\w+\])?|–| ?")


def render(template: str, content: dict[str, Any]) -> str:
    """The page: style and script inside, and a policy that lets it load nothing and run no other script.

    Args:
        template: its name in `templates/`.
        content: what the template calls for.
    """
    environment = _environment()
    script = environment.get_template("page.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        **content, script=script, script_digest=digest, tledge_version=__version__
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tledge.reporting.html"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["numeric"] = lambda text: _NUMERIC.fullmatch(text) is not None
    environment.filters["moment"] = _moment
    return environment


def _shown(value: Any) -> Any:
    # What is markup already, style, script and figures, is made here.
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "\n".join(map(visible, value.split("\n")))


def _moment(created: str) -> str:
    """A time as runs keep it, for people."""
    try:
        return f"{datetime.fromisoformat(created).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return created
