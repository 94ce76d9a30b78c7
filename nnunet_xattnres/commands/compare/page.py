"""The page of a comparison: one HTML file that needs no other, to read on any screen and to print."""

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_xattnres.commands.compare.cases import cases_file
from nnunet_xattnres.commands.compare.curves import PANELS, curves_of, figure_of_curves, window
from nnunet_xattnres.commands.compare.models import Model
from nnunet_xattnres.commands.compare.pairing import case_means
from nnunet_xattnres.commands.compare.picture import figure_of
from nnunet_xattnres.commands.compare.published import (
    EMPTY_HEAD,
    TITLE,
    WHAT_DIFFERS,
    empty_masks,
    side_by_side,
)
from nnunet_xattnres.commands.compare.report import (
    COST_HEAD,
    ONLY,
    cells,
    cost_lines,
    doubts,
    head,
    left_out,
    method,
    without_empty,
)
from nnunet_xattnres.commands.compare.summary import summary
from nnunet_xattnres.commands.compare.table import Comparison, Row, rows_of
from nnunet_xattnres.common.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONG = 15  # lines: a longer table is folded
_STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem }
body { color: #222; background: #fff }
h1 { font-size: 1.6rem; line-height: 1.2 } h2 { font-size: 1.25rem; line-height: 1.3; margin-top: 2.2rem }
h3 { font-size: 1em; margin: 1rem 0 .3rem; break-after: avoid }
h1, h2, p, li, summary, figcaption { overflow-wrap: anywhere; max-width: 50rem }
.notes { border-left: 4px solid #c80; background: #fff7e8; padding: .5rem 1rem; max-width: 48rem }
.notes ul { margin: .3rem 0; padding-left: 1.2rem }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; margin: .8rem 0 }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .55rem; text-align: right }
thead th { vertical-align: bottom; border-bottom: 2px solid #888 }
th:first-child { text-align: left; overflow-wrap: anywhere; min-width: 6rem }
tbody th { font-weight: normal } tr.mean > * { border-top: 2px solid #888; font-weight: bold }
figure { margin: 1rem 0 } img { display: block; max-width: 100%; width: 50rem; height: auto }
figcaption, .small { font-size: .85rem; color: #555 }
summary { cursor: pointer; color: #05a }
@media screen and (max-width: 60rem) { /* a line of a table becomes a list: nothing is cut */
  table, tbody { display: block } thead { display: none }
  tr { display: block; border-bottom: 2px solid #bbb; padding: .4rem 0 } tr.mean > * { border-top: 0 }
  tbody th { display: block; border: 0; font-weight: bold }
  td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem .55rem }
  td::before { content: attr(data-name); color: #555; text-align: left } td:empty { display: none }
}
@page { size: A4; margin: 15mm 14mm }
@media print {
  body { font-size: 10pt; max-width: none; padding: 0 } h1 { font-size: 16pt } h2 { font-size: 12pt }
  figcaption, .small { font-size: 8.5pt }
  h1, h2, summary, figure { break-after: avoid } p, li { orphans: 3; widows: 3 }
  figure, tr, .notes, .short table { break-inside: avoid } thead { display: table-header-group }
  img { width: 120mm; max-height: 200mm; object-fit: contain; object-position: left }
  table { font-size: 7.5pt } th, td { padding: .15rem .3rem } th:first-child { min-width: 27mm }
  summary { list-style: none; color: inherit }
  details::details-content { content-visibility: visible; block-size: auto }
}
"""


def write_html(comparison: Comparison, rows: Sequence[Row], path: Path, title: str) -> None:
    """Write the page."""
    body = "\n".join(_parts(comparison, rows, title))
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
    write_text(page, path)


def _parts(comparison: Comparison, rows: Sequence[Row], title: str) -> Iterator[str]:
    first, *others = comparison.models
    yield f"<h1>{escape(title)}</h1>"
    yield "<h2>In short</h2>"
    for one in comparison.each():
        if comparison.further:
            yield f"<h3>{escape(one.measure.title)}</h3>"
        points = (f"<li><b>{escape(verdict)}.</b> {escape(text)}</li>" for verdict, text in summary(one, rows))
        yield f"<ul>{''.join(points)}</ul>"
    if len(others) > 1:
        yield "<p>Each is compared by itself: nothing is corrected for how many are compared.</p>"
    if comparison.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in comparison.notes)
        yield f'<div class="notes"><b>Be careful</b><ul>{notes}</ul></div>'
    for one in comparison.each():
        for model in others:
            name = f"{one.measure.title}: " if comparison.further else ""
            yield f"<h2>{escape(f'{name}{model.name} against {first.name}')}</h2>"
            yield _figure(figure_of(one, rows, [model]), _caption(one, model))
            yield _labels(one, rows, model)
            yield _cases(one, model)
    yield from _published(comparison, rows)
    yield from _curves(comparison)
    cost = cost_lines(comparison)
    if cost:
        yield f"<h2>Cost</h2>{_table(COST_HEAD, cost)}"
    yield f'<h2>How the numbers were made</h2><p class="small">{escape(method(comparison))}</p>'
    yield "".join(f'<p class="small">{escape(text)}</p>' for text in (*doubts(rows), *left_out(rows)))
    lines = [
        (run.folder.name, model.name, ", ".join(run.folds), str(len(run.dice)))
        for model in comparison.models
        for run in model.runs
    ]
    yield f"<h2>What was compared</h2>{_folded(('folder', 'model', 'folds', 'cases'), lines, 'folders')}"


def _caption(comparison: Comparison, model: Model) -> str:
    side = "left" if comparison.measure.less_is_better else "right"
    return (
        f"{comparison.measure.title} of {model.name} minus that of {comparison.models[0].name}. Each point a case, on "
        f"the {side} where {model.name} is better; the diamond the mean difference, with its 95% interval over "
        "the cases."
    )


def _labels(comparison: Comparison, rows: Sequence[Row], model: Model) -> str:
    """A line for each label, and one for their mean."""
    before, after = (rows_of(comparison, rows, of) for of in (comparison.models[0], model))
    _, label, value, spread, between, *others = head(comparison.measure)
    lines = []
    for old, row in zip(map(cells, before), map(cells, after), strict=True):
        lines.append([row[1], old[2], old[4], *row[2:]])
    names = (label, f"{value} before", f"{between} before", value, spread, between, *others)
    of_table, lines = without_empty(names, lines)
    return _folded(of_table, lines, "lines: the labels and their mean", mean_last=True)


def _published(comparison: Comparison, rows: Sequence[Row]) -> Iterator[str]:
    if comparison.published:
        yield f"<h2>{TITLE}</h2><p>{escape(WHAT_DIFFERS)}</p>"
        table, lines = side_by_side(comparison, rows)
        yield _folded(table, lines, "lines: the models, their labels and the mean of these")
        empty = empty_masks(comparison)
        if empty:
            yield _folded(EMPTY_HEAD, empty, "masks of which one is empty, or both")


def _curves(comparison: Comparison) -> Iterator[str]:
    figure = figure_of_curves(comparison.models)
    if figure is None:
        return
    curves = [curve for model in comparison.models for curve in curves_of(model)]
    n = window(max(map(len, curves)))
    smoothed = f", over up to {n} epochs around each" if n > 1 else ""
    caption = (
        f"From nnU-Net's logs: {', '.join(PANELS.values())} of each training (thin) and the mean of a model's (thick"
        f"{smoothed}), for the epochs that all of its trainings have. The pseudo Dice is nnU-Net's, on patches of the "
        f"validation cases."
    )
    yield f"<h2>Learning curves</h2>{_figure(figure, caption)}"


def _cases(comparison: Comparison, model: Model) -> str:
    """A line for each case: the mean over its labels."""
    measure = comparison.measure
    pairs, labels = comparison.pairs(model), list(comparison.labels.values())
    before, after = (case_means(comparison.values(of)[:, pairs.in_mean]) for of in (comparison.models[0], model))
    only_first, only_this = (
        [", ".join(compress(labels, of_case)) for of_case in of] for of in (pairs.only_first, pairs.only_other)
    )
    values = [map(measure.number, before), map(measure.number, after), map(measure.signed, pairs.differences[:, -1])]
    lines = list(zip(comparison.cases, *values, only_first, only_this, strict=True))
    of_table = ("case", f"{measure.title} before", measure.title, "difference", *ONLY)
    what = f"cases: the mean over their labels (each label is in {cases_file(measure.key)})"
    return _folded(*without_empty(of_table, lines), what)


def _figure(figure: "Figure", caption: str) -> str:
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=130)
        data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _folded(head: Sequence[str], lines: Sequence[Sequence[str]], what: str, mean_last: bool = False) -> str:
    fold = "" if len(lines) > LONG else ' open class="short"'
    table = _table(head, lines, mean_last)
    return f"<details{fold}><summary>{len(lines)} {what}</summary>{table}</details>"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], mean_last: bool = False) -> str:
    """The first cell of a line is its heading."""
    of_head = "".join(f'<th scope="col">{escape(name).replace("/", "/<wbr>")}</th>' for name in head)
    body = []
    for i, (name, *rest) in enumerate(lines):
        of_line = "".join(f'<td data-name="{escape(n)}">{escape(c)}</td>' for n, c in zip(head[1:], rest, strict=True))
        kind = ' class="mean"' if mean_last and i == len(lines) - 1 else ""
        body.append(f'<tr{kind}><th scope="row">{escape(name)}</th>{of_line}</tr>')
    return f"<table><thead><tr>{of_head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
