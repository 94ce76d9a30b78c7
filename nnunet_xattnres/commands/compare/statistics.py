"""Paired comparison of two models over the same cases."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from nnunet_xattnres.commands.compare.pairing import Array, Pairs

N_RESAMPLES, SEED, LEVEL = 10_000, 0, 0.95
ENOUGH_REPEATS = 5  # for Welch's t: fewer cannot show whether their distribution has one hump
TOO_FEW = f"there are fewer than {ENOUGH_REPEATS} repeats of one of the two"
NOT_NORMAL = "the repeats of one of the two are far from a normal distribution (Shapiro and Wilk, p < 0.05)"
COPIES = "all repeats of one of the two have the same value, as if they were copies"
TOO_FEW_FOR_AN_INTERVAL = "that takes two repeats of both at least"
NO_VALUE = "a repeat of one of the two has no value"


@dataclass(frozen=True)
class Difference:
    """A model against the first one, for one label, or for the mean over the labels.

    Attributes:
        mean: of the differences over the cases in which every run of both has a value.
        low, high: a 95% interval from a bootstrap over the cases (percentiles; 10,000 resamples, seeded).
        p: of Wilcoxon's signed-rank test; 1 when no case differs.
        p_holm: the same after Holm's correction over the labels; NaN for the mean over labels.
        better, equal, worse: numbers of cases.
        left_out: cases in which a run of one of the two, or of both, has no value.
        only_first, only_this: of those the ones in which more runs of the first model have a value, or of this one; of
            single runs: in which it alone has one. For the mean over the labels, their sum over the labels.
    """

    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    better: int
    equal: int
    worse: int
    left_out: int
    only_first: int
    only_this: int


@dataclass(frozen=True)
class OverRepeats:
    """The difference between two models, from the repeats of both.

    Attributes:
        low, high: its 95% interval, by Welch's t; NaN where there is none.
        doubt: in words, why this interval may mislead; empty where nothing speaks against it.
        missing: in words, why there is no interval; empty where there is one.
    """

    low: float
    high: float
    doubt: str = ""
    missing: str = ""


def compare_paired(pairs: Pairs, direction: int = 1) -> list[Difference]:
    """One difference for each label and, last, one for the mean over the labels.

    Args:
        direction: 1 where more is better, -1 where less is.
    """
    *columns, per_case = pairs.differences.T
    only = list(zip(pairs.only_first.sum(axis=0), pairs.only_other.sum(axis=0), strict=True))
    labels = [_difference(c, c[:, None], direction, n) for c, n in zip(columns, only, strict=True)]
    corrected = holm([d.p for d in labels])
    labels = [replace(d, p_holm=p) for d, p in zip(labels, corrected, strict=True)]
    in_mean = np.column_stack(columns)[:, pairs.in_mean]
    return [*labels, _difference(per_case, in_mean, direction, np.sum(only, axis=0))]


def over_repeats(first: Sequence[float], other: Sequence[float]) -> OverRepeats:
    """The difference between the repeats of two models, with what speaks against its interval.

    Welch's t takes values that are distributed normally. Too few cannot show whether they are (fewer than
    ``ENOUGH_REPEATS``); of more, Shapiro and Wilk's test says so at 5%. Repeats of nnU-Net's are never all the same.

    S. S. Shapiro and M. B. Wilk, An analysis of variance test for normality, Biometrika 52 (1965) 591-611.

    Args:
        first, other: a value for each repeat, NaN where it has none.
    """
    interval = welch_interval(first, other)
    if interval is None:
        missing = TOO_FEW_FOR_AN_INTERVAL if min(len(first), len(other)) < 2 else NO_VALUE
        return OverRepeats(math.nan, math.nan, missing=missing)
    return OverRepeats(*interval, _doubt(first, other))


def _doubt(*samples: Sequence[float]) -> str:
    if min(map(len, samples)) < ENOUGH_REPEATS:
        return TOO_FEW
    if any(len(set(values)) == 1 for values in samples):
        return COPIES
    if any(stats.shapiro(values).pvalue < 1 - LEVEL for values in samples):
        return NOT_NORMAL
    return ""


def welch_interval(first: Sequence[float], other: Sequence[float]) -> tuple[float, float] | None:
    """The 95% interval of the difference of two means whose variances need not be the same.

    B. L. Welch, The generalization of "Student's" problem when several different population variances are involved,
    Biometrika 34 (1947) 28-35; its approximate degrees of freedom are those of Satterthwaite (1946).

    Args:
        first, other: a value for each repeat.

    Returns:
        None where either has fewer than two values, or one that is NaN; the difference itself, twice, where no value
        differs from the others of its kind.
    """
    if min(len(first), len(other)) < 2 or np.isnan([*first, *other]).any():
        return None
    difference = float(np.mean(other) - np.mean(first))
    a, b = (float(np.var(values, ddof=1)) / len(values) for values in (first, other))
    if a + b == 0:
        return difference, difference
    freedom = (a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(other) - 1))
    low, high = stats.t.interval(LEVEL, freedom, loc=difference, scale=math.sqrt(a + b))
    return float(low), float(high)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction; NaN stays NaN and does not count."""
    order = sorted((i for i, value in enumerate(p) if not math.isnan(value)), key=lambda i: p[i])
    corrected, running = [math.nan] * len(p), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p[i]))
        corrected[i] = running
    return corrected


def _difference(per_case: Array, columns: Array, direction: int, only: Sequence[int]) -> Difference:
    """``per_case``: the differences to count and to test; ``columns``: what is resampled, (cases, labels).

    ``only``: in how many pairs of case and label only the first has a value, and only the other.
    """
    there = per_case[~np.isnan(per_case)]
    low, high = _interval(columns[~np.isnan(columns).all(axis=1)])
    return Difference(
        mean=float(_statistic(*columns.T)) if there.size else math.nan,
        low=low,
        high=high,
        p=_wilcoxon(there),
        p_holm=math.nan,
        better=int((direction * there > 0).sum()),
        equal=int((there == 0).sum()),
        worse=int((direction * there < 0).sum()),
        left_out=int(np.isnan(per_case).sum()),
        only_first=int(only[0]),
        only_this=int(only[1]),
    )


def _statistic(*columns: Array, axis: int = -1) -> Array:
    """The mean over the labels of the means over the cases that have a difference."""
    with np.errstate(all="ignore"):
        means = [np.nansum(c, axis=axis) / (~np.isnan(c)).sum(axis=axis) for c in columns]
        return np.nanmean(means, axis=0)  # a resample may have no case with a rare label


def _interval(columns: Array) -> tuple[float, float]:
    if len(columns) < 2:
        return math.nan, math.nan
    found = stats.bootstrap(
        tuple(columns.T),
        _statistic,
        paired=True,
        vectorized=True,
        n_resamples=N_RESAMPLES,
        batch=1000,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def _wilcoxon(differences: Array) -> float:
    if differences.size == 0:
        return math.nan
    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0
