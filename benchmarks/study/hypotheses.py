"""What came out of a study's hypotheses, for RESULTS.md."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median

from benchmarks.study.curves import Groups, final_dice, time_to_reach
from benchmarks.study.declared import Hypothesis
from benchmarks.study.description import Study
from benchmarks.study.records import Record
from benchmarks.study.repeats import complete_repeats, dice_of, spread_of
from benchmarks.study.two_samples import NOTHING, Found, brown_forsythe, mann_whitney, welch
from nnunet_xattnres.commands.compare.report import markdown_table
from nnunet_xattnres.commands.compare.statistics import holm

TESTS = {
    "mann_whitney": (mann_whitney, "Mann-Whitney"),
    "welch": (welch, "Welch"),
    "brown_forsythe": (brown_forsythe, "Brown-Forsythe"),
}
WORDS = {"final_dice": "Dice", "iterations_to_90": "iterations to 90%", "spread": "spread of the Dice"}
HEAD = ("claim", "schedule", "outcome", "trainer", "against", "difference (95%)", "test", "p", "p (Holm)")


@dataclass(frozen=True)
class Outcome:
    """A hypothesis after the trainings.

    Attributes:
        values: of every repeat that there is, of the hypothesis' trainer and of the one that it is compared with.
        lacking: in words, which repeats there are not yet; empty when all are there.
        found: by the test; None while repeats are lacking.
        p_holm: after Holm's correction over all hypotheses, those without an answer counted with a p of 1.
    """

    hypothesis: Hypothesis
    values: tuple[Sequence[float], Sequence[float]]
    lacking: str
    found: Found | None
    p_holm: float = math.nan


def outcomes(study: Study, groups: Groups) -> list[Outcome]:
    """What came out of each hypothesis.

    None is tested before all of its trainings are there: to look earlier and go on would be another test.
    """
    found = [_outcome(study, groups.get(h.schedule, {}), h) for h in study.hypotheses]
    p = [1.0 if o.found is None or math.isnan(o.found.p) else o.found.p for o in found]
    return [o if o.found is None else replace(o, p_holm=q) for o, q in zip(found, holm(p), strict=True)]


def _outcome(study: Study, by_trainer: Mapping[str, Sequence[Record]], hypothesis: Hypothesis) -> Outcome:
    schedule, plain = study.schedules[hypothesis.schedule], study.trainers[0]
    asked = [hypothesis.trainer, hypothesis.against]
    if hypothesis.outcome == "iterations_to_90":
        asked.append(plain)
    repeats = {trainer: complete_repeats(study, by_trainer.get(trainer, ())) for trainer in asked}
    lacking = ", ".join(
        f"{len(found)} of {schedule.n_repeats(trainer)} repeats of {trainer}"
        for trainer, found in repeats.items()
        if len(found) < schedule.n_repeats(trainer)
    )
    if hypothesis.outcome != "iterations_to_90":
        values = {trainer: [dice_of(repeat) for repeat in found] for trainer, found in repeats.items()}
    elif repeats[plain]:
        target = 0.9 * final_dice([record for repeat in repeats[plain] for record in repeat])
        values = {t: [_iterations_to(target, repeat) for repeat in found] for t, found in repeats.items()}
    else:
        values = {trainer: [] for trainer in asked}
    pair = values[hypothesis.trainer], values[hypothesis.against]
    if lacking:
        return Outcome(hypothesis, pair, lacking, None)
    # a repeat has no Dice if a label is in none of its masks, predicted or true
    found = NOTHING if any(map(math.isnan, [*pair[0], *pair[1]])) else TESTS[hypothesis.test][0](*pair)
    return Outcome(hypothesis, pair, lacking, found)


def _iterations_to(target: float, repeat: Sequence[Record]) -> float:
    """The mean over the folds; one iteration more than there are for a training that does not get there."""
    return mean(min(time_to_reach([record], target)[0], record.curve[0][-1] + 1) for record in repeat)


def hypotheses_section(study: Study, groups: Groups) -> list[str]:
    """The paragraphs on what was declared and what came out; none for a study without hypotheses."""
    if not study.hypotheses:
        return []
    return [
        "## What was declared, and what came out",
        markdown_table(HEAD, [_cells(outcome) for outcome in outcomes(study, groups)]),
        "The hypotheses were written down before the first training. No test is made before all of its trainings are "
        f"there. The tests are two-sided; p (Holm) is corrected for all {len(study.hypotheses)}. Dice: of the "
        "validation cases, the mean of the repeats ± the standard deviation between them. Iterations to 90%: of the "
        f"end of {study.trainers[0]}'s curve on the same schedule, the median; a training that does not get there "
        "counts with one iteration more than it has. Mann-Whitney: the difference is the median of all differences "
        "between two repeats (Hodges-Lehmann), its interval from the order of these differences. Welch: the difference "
        "of the means; (?) as in the next table. Brown-Forsythe: how many times the other's standard deviation.",
    ]


def _cells(outcome: Outcome) -> list[str]:
    hypothesis, found = outcome.hypothesis, outcome.found
    start = [hypothesis.words.strip(), hypothesis.schedule, WORDS[hypothesis.outcome]]
    names = (hypothesis.trainer, hypothesis.against)
    start += [
        f"{name}: {_values(hypothesis.outcome, values)}" if values else name
        for name, values in zip(names, outcome.values, strict=True)
    ]
    test = TESTS[hypothesis.test][1]
    if found is None:
        return [*start, f"not yet: {outcome.lacking}", test, "", ""]
    return [*start, _effect(hypothesis.outcome, found), test, _p(found.p), _p(outcome.p_holm)]


def _values(outcome: str, values: Sequence[float]) -> str:
    if outcome == "iterations_to_90":
        return f"{median(values):.0f}"
    return f"{mean(values):.3f}" + (f" ± {spread_of(values):.3f}" if len(values) > 1 else "")


def _effect(outcome: str, found: Found) -> str:
    if outcome == "spread":
        return f"{found.effect:.2f} times"
    form = "+.0f" if outcome == "iterations_to_90" else "+.3f"
    interval = "no interval" if math.isnan(found.low) else f"{found.low:{form}} to {found.high:{form}}"
    return f"{found.effect:{form}} ({interval})" + (" (?)" if found.doubt else "")


def _p(p: float) -> str:
    return "n/a" if math.isnan(p) else "<0.0001" if p < 1e-4 else f"{p:.4f}"
