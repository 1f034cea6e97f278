"""Pages of one file that loads nothing: a template of the package, and the style that all pages share.

html = render_page("foodseg.eval", "report.html.j2", title="foodmix test")
"""

from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from foodseg.eval.report import percent


def render_page(package: str, template: str, **values: Any) -> str:
    """Returns the page; everything in `values` is escaped unless it is Markup. `style` and `percent` are there too."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = percent
    style = Markup(files("foodseg.eval").joinpath("page.css").read_text(encoding="utf-8"))
    text = files(package).joinpath(template).read_text(encoding="utf-8")
    return environment.from_string(text).render(style=style, **values)
