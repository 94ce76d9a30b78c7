"""A page: one HTML file that needs no other, to read on any screen and to print."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nnunet_xattnres.common.files import replacing


def write_page(path: Path, title: str, parts: Iterable[str]) -> None:
    """Write the page: its title, which is its heading too, and the HTML of its parts."""
    style, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style.replace('BAR', _gradient())}</style></head>"
    )
    # a name of a file may hold bytes that are no UTF-8
    with replacing(path) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{head}<body><h1>{escape(title)}</h1>\n")
        file.writelines(f"{part}\n" for part in parts)
        file.write(f"<script>{script}</script></body></html>\n")


def about(facts: Mapping[str, str]) -> str:
    """A table of names and what they are."""
    rows = (f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in facts.items())
    return f'<table class="about">{"".join(rows)}</table>'


def heading(title: str, text: str = "") -> str:
    return f"<h2>{escape(title)}</h2>" + (f"<p>{escape(text)}</p>" if text else "")


def kept(*parts: str) -> str:
    """Parts that stay on one sheet of paper, such as a heading and what it is of."""
    return f'<div class="keep">{"".join(parts)}</div>'


def chart(file: Path, text: str) -> str:
    """A picture within the page."""
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<img class="chart" alt="{escape(text)}" src="data:image/png;base64,{data}">'


def folded(title: str, content: str, *, kind: str = "table") -> str:
    return f'<details class="{kind}"><summary>{escape(title)}</summary>{content}</details>'


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same names, which become the head."""
    numbers = {name for name, value in rows[0].items() if isinstance(value, float | int)}

    def line(tag: str, cells: Mapping[str, str]) -> str:
        marked = ((' class="n"' if name in numbers else "", text) for name, text in cells.items())
        return f"<tr>{''.join(f'<{tag}{kind}>{escape(text)}</{tag}>' for kind, text in marked)}</tr>"

    head = line("th", {name: name.replace("_", " ") for name in rows[0]})
    body = "".join(line("td", {name: _cell(value) for name, value in row.items()}) for row in rows)
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def legend(colors: Mapping[str, str]) -> str:
    """Names with their colours."""
    marks = (f'<li><i style="background:{color}"></i>{escape(name)}</li>' for name, color in colors.items())
    return f'<ul class="legend">{"".join(marks)}</ul>'


def _gradient() -> str:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return ", ".join(to_hex(colormaps["inferno"](i / 8)) for i in range(9))


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
