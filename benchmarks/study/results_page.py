"""RESULTS.md: what a study found, and how it was made."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from benchmarks.study.curves import FRACTIONS, Groups, final_dice, seconds_an_iteration, time_to_reach
from benchmarks.study.description import Study
from benchmarks.study.folders import planning_arguments
from benchmarks.study.hypotheses import hypotheses_section
from benchmarks.study.records import Record
from benchmarks.study.repeats import dice_of_repeats, spread_of
from nnunet_xattnres.commands.compare.report import markdown_table
from nnunet_xattnres.commands.compare.statistics import NOT_NORMAL, TOO_FEW, OverRepeats, over_repeats
from nnunet_xattnres.commands.compare.table import Row

CONVERGED = 0.01  # Dice that a longer training may change and still count as converged
RESULT = ("Dice", "range of repeats", "difference", "95% over repeats", "95% over cases")


def results_page(study: Study, groups: Groups, rows: Mapping[str, Sequence[Row]], others: Sequence[str] = ()) -> str:
    """The text of RESULTS.md.

    Args:
        groups: the records by schedule and trainer.
        rows: compare's table for each schedule that has one.
        others: the names of trainings that have a record, and that the study no longer has.
    """
    records = [record for by_trainer in groups.values() for found in by_trainer.values() for record in found]
    pages = ", ".join(f"[{schedule}]({schedule}/comparison.md)" for schedule in rows) or "not yet"
    parts = [
        f"# {study.name}",
        *_about(study, records, others),
        *hypotheses_section(study, groups),
        "## Dice",
        markdown_table(("schedule", "trainer", "repeats", *RESULT), _dice(study, groups, rows)),
        "Dice: the mean over labels, cases and repeats, ± the standard deviation between repeats. The difference is to "
        f"{study.trainers[0]}. Its interval over repeats (95%, Welch's t) says whether other trainings would show it, "
        "the one over cases (95%, bootstrap) whether other cases would. (?): the interval over repeats may mislead, "
        f"for {TOO_FEW}, or {NOT_NORMAL}; look at the range of the repeats, too. Labels, p-values and costs: {pages}.",
        *_convergence(study, groups),
        "## Learning curves",
        "![Dice on patches of the validation cases against iterations and minutes](curves.png)",
        "Every training thin, the mean of the repeats thick. The Dice is the one that nnU-Net estimates after every "
        "epoch on random patches of the validation cases, here as the mean of three epochs.",
        "### Time to reach the plain network's end",
        markdown_table(*_reached(study, groups)),
        f"The first epoch at which the curve reaches 90%, 95% and 99% of the end of {study.trainers[0]}'s on the same "
        "schedule (the mean of its repeats): iterations, the median over the trainings and their range, and minutes. A "
        "training that does not get there counts as the last to do so; where there are such, the cell says how many do "
        "get there. Minutes, here and in the picture, are iterations times the duration of one, in seconds, "
        f"{_speeds(groups)}: the median over the trainings (and their range), each the median over its epochs. The "
        "machine has had other work at times, so that they are rough.",
        *_routing(groups),
        "## How it was made",
        *_how(study, records),
    ]
    return "\n\n".join(parts) + "\n"


def result_of(row: Row) -> list[str]:
    """The cells of ``RESULT``."""
    cells = _value(row.value, row.spread, row.repeats_range)
    if row.difference is None:
        return [*cells, "", "", ""]
    repeats = "" if row.over_repeats is None else _over(row.over_repeats)
    return [*cells, f"{row.difference.mean:+.3f}", repeats, _interval(row.difference.low, row.difference.high)]


def _value(value: float, spread: float | None, between: tuple[float, float] | None) -> list[str]:
    """The first two cells of ``RESULT``."""
    deviation = "" if spread is None else f" ± {spread:.3f}"
    return [f"{value:.3f}{deviation}", "" if between is None else "{:.3f} to {:.3f}".format(*between)]


def _over(repeats: OverRepeats) -> str:
    """The interval over repeats, marked where it may mislead; empty where there is none."""
    return _interval(repeats.low, repeats.high) + (" (?)" if repeats.doubt else "")


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:+.3f} to {high:+.3f}"


def _dice(study: Study, groups: Groups, rows: Mapping[str, Sequence[Row]]) -> list[list[str]]:
    lines = []
    for schedule, by_trainer in groups.items():
        for row in rows.get(schedule, ()):
            if row.is_mean:
                lines.append([schedule, row.model, str(len(row.repeats)), *result_of(row)])
        if len(study.trainers_of(schedule)) == 1:  # the first alone, which is compared with nothing
            values = dice_of_repeats(study, by_trainer[study.trainers[0]])
            if values:
                spread, between = (spread_of(values), (min(values), max(values))) if len(values) > 1 else (None, None)
                cells = [*_value(mean(values), spread, between), "", "", ""]
                lines.append([schedule, study.trainers[0], str(len(values)), *cells])
    return lines


def _convergence(study: Study, groups: Groups) -> list[str]:
    """What the longer trainings of the first trainer alone change, a paragraph for each schedule of them."""
    plain, found = study.trainers[0], []
    dice = {name: dice_of_repeats(study, by_trainer.get(plain, ())) for name, by_trainer in groups.items()}
    alone = {name for name in groups if len(study.trainers_of(name)) == 1}
    for name in groups:
        for longer in alone if name not in alone else ():
            if dice[name] and dice[longer] and study.iterations(longer) > study.iterations(name):
                values, more = dice[name], dice[longer]
                change, over = mean(more) - mean(values), over_repeats(values, more)
                interval = f" (95% over repeats, Welch's t: {_over(over)})" if _over(over) else ""
                found.append(
                    f"**Converged?** {plain}'s Dice is {mean(more):.3f} after {study.iterations(longer):,} iterations "
                    f"(repeats: {len(more)}) and {mean(values):.3f} after {study.iterations(name):,} (repeats: "
                    f"{len(values)}), a change of {change:+.3f}{interval}. By our rule, a change of less than "
                    f"{CONVERGED}, its training has {'' if abs(change) < CONVERGED else 'not '}converged after "
                    f"{study.iterations(name):,} iterations{_how_sure(change, over)}. The other trainers have not been "
                    "trained for longer."
                )
    return found


def _how_sure(change: float, over: OverRepeats) -> str:
    """Whether the interval leaves the other answer open, too."""
    low, high = (-math.inf, math.inf) if over.missing else (over.low, over.high)
    largest, smallest = max(-low, high), max(low, -high)  # the changes in the interval, whatever their direction
    sure = largest < CONVERGED if abs(change) < CONVERGED else smallest >= CONVERGED
    return "" if sure else "; so few repeats leave the other answer open, too"


def _about(study: Study, records: Sequence[Record], others: Sequence[str]) -> list[str]:
    n_all, first = len(study.trainings()), records[0]
    cases = f"{first.facts['training_cases']} training and {len(first.dice)} validation cases a fold"
    folds = f"fold{'s' if len(study.folds) > 1 else ''} {', '.join(map(str, study.folds))}"
    parts = [f"{study.dataset}, {study.configuration}; {folds}, {cases}."]
    if study.rotate_folds:
        parts.append(
            "The folds rotate: each repeat of every trainer is trained on one of them, the next repeat on the next. So "
            "the standard deviation and the interval over repeats hold the differences between folds, too."
        )
    if len(records) < n_all:
        parts.append(f"**Not complete: {len(records)} of {n_all} trainings.**")
    if others:
        parts.append(f"**Not shown**, for the study's file no longer has them: {', '.join(others)}.")
    return [*parts, f"**What is smaller than nnU-Net would have it.** {study.cut_down.strip()}"]


def _reached(study: Study, groups: Groups) -> tuple[list[str], list[list[str]]]:
    _, speed = seconds_an_iteration(groups)
    head = ["schedule", "trainer", "end of the curve", *(f"to {fraction:.0%}" for fraction in FRACTIONS)]
    lines = []
    for schedule, by_trainer in groups.items():
        plain = by_trainer.get(study.trainers[0])
        for trainer, records in by_trainer.items() if plain else ():
            targets = [fraction * final_dice(plain) for fraction in FRACTIONS]
            seconds = median(speed[trainer]) if trainer in speed else None
            cells = [_when(records, target, seconds) for target in targets]
            lines.append([schedule, trainer, f"{final_dice(records):.3f}", *cells])
    return head, lines


def _when(records: Sequence[Record], target: float, seconds: float | None) -> str:
    """Of some trainings; ``seconds`` of an iteration, where they are known."""
    iterations = time_to_reach(records, target)
    there = [n for n in iterations if n < math.inf]
    if not there:
        return "not reached"
    all_there = len(there) == len(iterations)
    some = "" if all_there else f" ({len(there)} of {len(iterations)})"
    middle = median(iterations)
    if middle == math.inf:
        return f"not reached in the median{some}"
    between = f" ({min(there):.0f} to {f'{max(there):.0f}' if all_there else 'never'})" if len(iterations) > 1 else ""
    minutes = f" / {middle * seconds / 60:.1f} min" if seconds is not None else ""
    return f"{middle:.0f}{between}{minutes}{some}"


def _speeds(groups: Groups) -> str:
    processor, speed = seconds_an_iteration(groups)
    cells = (f"{name} {median(found):.2f} ({min(found):.2f} to {max(found):.2f})" for name, found in speed.items())
    return f"on {processor}: {', '.join(cells)}"


def _routing(groups: Groups) -> list[str]:
    """What each decoder stage's read weighs most at the end, against uniform weights."""
    lines = []
    for schedule, by_trainer in groups.items():
        for trainer, records in by_trainer.items():
            reads = [_last_weights(record) for record in records if record.routing]
            cells = []
            for read in (name for name in (reads[0] if reads else ()) if name.startswith("d")):
                sources = reads[0][read]
                ratios = {s: mean(weights[read][s] for weights in reads) * len(sources) for s in sources}
                top = max(ratios, key=lambda source: ratios[source])
                cells.append(f"{read}: {top} {ratios[top]:.2f}")
            if cells:
                lines.append([schedule, trainer, ", ".join(cells), _scales(records)])
    if not lines:
        return []
    return [
        "### Do the weights leave the uniform start?",
        markdown_table(("schedule", "trainer", "source with the largest mean weight", "read beside skip"), lines),
        "For each decoder stage, in the last epoch, the mean over the repeats; 1.00 is the weight that all sources "
        "have at the start. The whole course is in `trainings.jsonl`. Read beside skip: the root mean square "
        "of the read over that of the skip, in the trained network on four validation cases.",
    ]


def _scales(records: Sequence[Record]) -> str:
    """Of each decoder stage's read, where it was measured; the mean over the repeats."""
    found = [record.facts["read_scale"] for record in records if record.facts.get("read_scale")]
    names = [name for name in (found[0] if found else ()) if name.startswith("d")]
    return ", ".join(f"{name} {mean(scales[name] for scales in found):.2f}" for name in names)


def _last_weights(record: Record) -> dict[str, dict[str, float]]:
    last = max(int(row["epoch"]) for row in record.routing)
    weights: dict[str, dict[str, float]] = {}
    for row in record.routing:
        if int(row["epoch"]) == last:
            weights.setdefault(row["read"], {})[row["source"]] = float(row["mean_weight"])
    return weights


def _how(study: Study, records: Sequence[Record]) -> list[str]:
    commands = ["nnUNetv2_plan_and_preprocess " + " ".join(planning_arguments(study))]
    commands += dict.fromkeys(record.facts["command"] for record in records)
    if len(commands) > 3:
        commands[2:-1] = [f"# ... {len(commands) - 3} more: trainings.jsonl"]
    machines = dict.fromkeys(machine for record in records for machine in _machines(record))
    hours = sum(record.usual_epoch * len(record.facts["curve"]) for record in records) / 3600
    again = f"python -m benchmarks.study run benchmarks/study/{study.name}.yaml --raw RAW --work WORK"
    compare = f"nnunet-xattnres compare --cases benchmarks/study/results/{study.name}/SCHEDULE/cases.csv -o OUT"
    return [
        f"`{again}` runs, among others,",
        "```bash\n" + "\n".join(commands) + "\n```",
        f"with the plans `StudyPlans_SCHEDULE_repN`: nnU-Net's with {_changes(study)}. {len(records)} trainings of "
        f"{hours:.1f} hours in all, on",
        "\n".join(f"- {machine}" for machine in machines),
        f"`{compare}` computes the tables again from the Dice of every case.",
    ]


def _changes(study: Study) -> str:
    return ", ".join(f"{key} {value}" for key, value in (study.plans or {}).items()) or "no change but the schedule"


def _machines(record: Record) -> list[str]:
    """On which a training began and went on, where that was noted; else on which its record was written."""
    starts = record.facts.get("starts")
    if not starts:
        return [f"{_machine(record.facts['machine'])} (noted after the training)"]
    return [f"{_machine(start)}, threads of a training: {start['threads']}" for start in starts]


def _machine(machine: Mapping[str, Any]) -> str:
    on = machine["gpu"] or machine["cpu"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "nnunetv2", "nnunet-xattnres"))
    return f"{on}; {machine['system']}, Python {machine['python']}, {versions}, commit {machine['commit']}"
