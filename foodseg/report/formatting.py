"""Numbers and names as every report writes them.

A module of its own because the Markdown reports and `html_page` use it, and Markdown needs no Jinja.
"""


def percent(value: float | None) -> str:
    """Returns a share in [0, 1] as percent with one decimal, `-` for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def markdown_cell(text: str) -> str:
    """Returns `text` fit for a cell of a Markdown table: class and subset names come from the user's files."""
    return text.replace("|", "\\|").replace("\n", " ")
