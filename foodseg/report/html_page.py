"""Renders an HTML report as one file that loads no other: a template of `report/templates` with the common style.

    html = render_page("evaluation.html.j2", title="foodmix test")

A module of its own because `eval` and `tune` both render such a page, and neither imports the other.
"""

from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from foodseg.report.formatting import percent


def render_page(template: str, **values: Any) -> str:
    """Returns the page; everything in `values` is escaped unless it is Markup. `style` and `percent` are there too."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = percent
    templates = files("foodseg.report") / "templates"
    style = Markup((templates / "page.css").read_text(encoding="utf-8"))
    text = (templates / template).read_text(encoding="utf-8")
    return environment.from_string(text).render(style=style, **values)
