"""What stands on the page of an inspection, section by section."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from nnunet_xattnres.commands.inspect.drawing import network_svg, stages_text
from nnunet_xattnres.commands.inspect.pictures import draw_knockout, draw_routing
from nnunet_xattnres.commands.inspect.routing import ALL, strongest_of
from nnunet_xattnres.commands.inspect.truth import MEAN
from nnunet_xattnres.pages.page import about, chart, folded, heading, kept, legend, table
from nnunet_xattnres.reads.history import source_names, with_reads

Rows = list[dict[str, Any]]
_ROWS = 1000  # of a table on the page at most


def summary_section(
    identity: Mapping[str, str],
    command: str,
    images: Sequence[Path],
    cases: Sequence[str],
    device: str,
    dice: Rows,
) -> str:
    """What was looked at."""
    named = ", ".join(cases[:5]) + (", ..." if len(cases) > 5 else "")
    facts = {
        "model": f"{identity['trainer']}, plans {identity['plans']}, configuration {identity['configuration']}, "
        + ", ".join(name for name in identity if name.startswith("fold_")),
        "date": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}, on {device}",
        "command": command,
        "images": f"{len(cases)} from {images[0].parent.resolve()}: {named}",
        "Dice": "; ".join(
            f"{row['name'] or 'mean over the labels'} {row['dice']:.4f}"
            for row in dice
            if len(dice) < 8 or not row["name"]
        ),
    }
    return about({name: text for name, text in facts.items() if text})


def network_section(network: Any, routing: Rows) -> str:
    """What e1 and d3 are."""
    sources, network = source_names(network), with_reads(network)
    if not hasattr(network, "history_stages"):
        return _reads_section(sources, getattr(network, "unseen", ""))
    stages = network.history_stages
    drawing = network_svg(stages, strongest_of(routing))
    text = (
        "The stages in the order computed, from the left to the right, with the number of channels; blue ones read. "
        "From each of those an orange line leads to the source that weighs most in it."
    )
    drawn = f'<div class="wide">{drawing}</div><p>{text}</p>'
    return kept(heading("The network", stages_text(stages, sources)), drawn)


def _reads_section(sources: Mapping[str, Sequence[str]], unseen: str) -> str:
    """What a network reads that keeps no history."""
    text = "The reads in the order computed. Each takes a sum of maps of its size, its sources, each with a weight."
    listed = table([{"read": read, "its sources": ", ".join(names)} for read, names in sources.items()])
    return kept(heading("The network", text), listed) + (f"<p>Not shown: {escape(unseen)}</p>" if unseen else "")


def routing_section(rows: Rows, out: Path, each_label: bool) -> str:
    """The weights: over everything, and within each label. Draws routing.png and, if asked for, one of each label."""
    everywhere = [row for row in rows if row["region"] == ALL]
    within = [row for row in rows if row["region"] != ALL]
    draw_routing(everywhere, out / "routing.png", "Mean weight of each source in each read")
    text = (
        "The mean over all positions of all images, each counted by nnU-Net's Gaussian. Uniform is the weight that "
        "the sources of a read have where all weigh the same, as before a training they do in reads of the history."
    )
    picture = chart(out / "routing.png", "Mean weight of each source in each read")
    parts = [kept(heading("What is read", text), picture)]
    labels = dict.fromkeys((row["region"], row["name"]) for row in within)
    for region, name in labels if each_label else ():
        path = out / picture_of_label(region, name)
        title = f"Mean weight of each source in each read, within {name}"
        draw_routing([row for row in within if row["region"] == region], path, title)
        parts.append(folded(f"Within {name}", chart(path, title), kind="label"))
    parts.append(folded("The weights in numbers (entropies are in nats)", table(everywhere)))
    if 0 < len(within) <= _ROWS:
        parts.append(folded("The weights within each label, in numbers", table(within)))
    elif within:
        parts.append(f"<p>The weights within each label: routing.csv has the {len(within)} lines.</p>")
    return "".join(parts)


def cases_section(cases: Sequence[str], n_cases: int, colors: Mapping[str, str], means: Rows, dice: Rows) -> str:
    """The images, all or the first of many, and against the truth the Dice of all."""
    which = "Every image" if len(cases) == n_cases else f"The first {len(cases)} of {n_cases} images"
    text = (
        f"{which} and the mask that was predicted, slice by slice, smaller than in the files. At first you see the "
        "slice with the most foreground."
    )
    if len(cases) < n_cases:
        text += " The folder predictions has the masks of all images, and the tables and numbers are of all."
    parts = [heading("The images", text), legend(colors), *cases]
    if means:
        text = "The mean over the cases in which the prediction or the truth has the label."
        rows = [row | {"name": row["name"] or "the mean over the labels"} for row in means]
        parts.append(kept(heading("Dice", text), table(rows)))
        if len(dice) <= _ROWS:
            parts.append(folded("The Dice of each case", table(dice)))
        else:
            parts.append(f"<p>The Dice of each case: dice.csv has the {len(dice)} lines.</p>")
    return "".join(parts)


def knockout_section(rows: Rows, out: Path) -> str:
    """What the sources are good for. Draws knockout.png."""
    draw_knockout(
        [row for row in rows if row["label"] == MEAN], out / "knockout.png", "Change of the mean Dice without a source"
    )
    text = (
        "A source is taken out of one read; the softmax is over the others. The weight of a source and this can differ."
    )
    if any(row["only_with"] or row["only_without"] for row in rows):
        text += (
            " No mean has the cases in which only one of the two predictions has a label that is not in the truth. "
            "Only with, only without: in how many the prediction with the source has it, and in how many the one "
            "without. The mean over the labels has their sum."
        )
    numbers = folded("The knockout in numbers: means over the cases", table(rows))
    picture = chart(out / "knockout.png", "Change of the mean Dice")
    return kept(heading("What the sources are good for", text), picture) + numbers


def files_section(identity: Mapping[str, str]) -> str:
    """By what it was computed."""
    return heading("Files and versions") + folded("The model's files and what computed", about(identity), kind="files")


def picture_of_label(region: str, name: str) -> str:
    """The file of a label or region: its numbers, which no other has, and its name as far as a file can have it."""
    numbers = "-".join(re.findall(r"\d+", region))
    return f"routing_{numbers}_{''.join(c if c.isalnum() or c in '-_' else '_' for c in name[:40])}.png"
