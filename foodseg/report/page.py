"""Pages of a single file, without external ones: a template of `report/templates`, and the style that all pages share.

    html = render_page("evaluation.html.j2", title="foodmix test")

A module of its own because the page of an evaluation and that of a sweep are made in different packages, with this.
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
