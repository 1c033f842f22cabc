"""Whatever a template shows of a file can be seen and is no markup."""

from __future__ import annotations

import pytest

from tests.core.test_escaping import NAMES, UNSEEN
from tledge.reporting.html.render import _environment


@pytest.mark.parametrize("name", NAMES)
def test_nothing_from_a_file_changes_how_a_page_looks(name: str) -> None:
    page = _environment().from_string("<b title='{{ name }}'>{{ name }} {{ name|upper }}</b>").render(name=name)
    assert not UNSEEN.search(page)
    assert "<script" not in page.lower()
    assert page.count("'") == 2


def test_lines_and_markup_stay_as_they_are() -> None:
    shown = _environment().from_string("{{ text }}{{ figure|safe }}{{ number }}")
    assert shown.render(text="a\nb", figure="<svg>\t</svg>", number=3) == "a\nb<svg>\t</svg>3"
