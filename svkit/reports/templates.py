"""Renders the templates of this package; every value is escaped, so that none acts as markup."""

import base64
import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from svkit.reports.tables import escape, to_markdown


def _unbroken(cell: str) -> str:
    """Keep an interval in its brackets, and a threshold with its scale, on one line."""
    return re.sub(r"\([^()]*\)|^(score|LLR) \S+$", lambda part: part[0].replace(" ", "\u00a0"), cell)


def _environment(*, is_markdown: bool) -> Environment:
    made = Environment(
        loader=PackageLoader("svkit.reports", ""),
        autoescape=not is_markdown,  # for markdown, `finalize` escapes all that is not marked as safe
        finalize=(lambda value: value if isinstance(value, Markup) else escape(str(value))) if is_markdown else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    made.filters["markdown"] = lambda table: Markup(to_markdown(table))
    made.filters["base64"] = lambda text: base64.b64encode(text.encode()).decode()
    made.filters["unbroken"] = _unbroken
    return made


_PAGE, _MARKDOWN = _environment(is_markdown=False), _environment(is_markdown=True)


def render(template: str, **values: object) -> str:
    """Render a template, `NAME.html.j2` or `NAME.md.j2`."""
    return (_PAGE if ".html." in template else _MARKDOWN).get_template(template).render(values)
