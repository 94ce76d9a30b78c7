"""The table of what every way from the encoder to the decoder costs, in docs/skip-designs.md.

    nnunet-xattnres profile -d 4 -c 3d_fullres -device cpu --batch 2 -o benchmarks/results/designs-3d.json -tr ...
    nnunet-xattnres profile -d 120 -c 2d -device cpu --batch 2 -o benchmarks/results/designs-2d.json -tr ...
    python -m benchmarks.cost.designs_table

Every figure is from those files of `profile`, for the trainers of the page's own table (-tr). On a busy computer take
no time: `--rounds 0`; the table then has no column for it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnunet_xattnres.common.files import read_json, write_text

ROOT = Path(__file__).resolve().parents[2]
PAGE, RESULTS = ROOT / "docs" / "skip-designs.md", ROOT / "benchmarks" / "results"
START, END = "<!-- written by python -m benchmarks.cost.designs_table -->", "<!-- end -->"
COLUMNS = {  # of a row of profile's: the head, what it is multiplied by, how it is written
    "parameters": ("parameters", 1e-6, "{:.3g} M"),
    "multiply_adds": ("multiply-adds", 1e-9, "{:.3g} G"),
    "seconds": ("time of a step", 1, "{:.3g} s"),
    "memory": ("memory of a step", 2**-20, "{:.0f} MiB"),
}


def written(page: str, results: Iterable[dict[str, Any]]) -> str:
    """The page with the tables of these files of ``profile`` in the place of those that it has."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    tables = "\n\n".join(map(table, results))
    return f"{before}{START}\n{tables}\n{END}{after}"


def table(result: dict[str, Any]) -> str:
    """One file of ``profile`` as Markdown: the plain network in numbers, the others as multiples of it.

    What is not known of the plain network has no column: a time that was taken on a busy computer is made null.
    """
    plain, *others = (row for row in result["rows"] if row["parameters"] is not None)
    columns = {name: column for name, column in COLUMNS.items() if plain[name] is not None}
    lines = [
        f"{result['dataset']}, {result['plans']}, {result['configuration']}, batch {result['batch']}; "
        f"{result['machine']}, torch {result['torch']}:",
        "",
        f"| trainer | {' | '.join(head for head, *_ in columns.values())} |",
        f"|---|{'---|' * len(columns)}",
        _line(plain, {name: text.format(plain[name] * scale) for name, (_, scale, text) in columns.items()}),
        *(_line(row, {name: _ratio(row[f"{name}_ratio"]) for name in columns}) for row in others),
    ]
    return "\n".join(lines)


def _line(row: dict[str, Any], cells: dict[str, str]) -> str:
    return f"| `{row['trainer']}` | {' | '.join(cells.values())} |"


def _ratio(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    page = written(PAGE.read_text(encoding="utf-8"), map(read_json, sorted(RESULTS.glob("designs-*.json"))))
    write_text(page, PAGE)
