"""Two samples of a few values each: the tests that a study may declare. All are two-sided; no value may be NaN."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev

from scipy import stats

from nnunet_xattnres.commands.compare.statistics import over_repeats


@dataclass(frozen=True)
class Found:
    """How a sample differs from another.

    Attributes:
        effect: how much larger its values are; for the spread, how many times.
        low, high: the effect's 95% interval; NaN where there is none.
        p: of the test; NaN where the values are too few for it, or none differs from another.
        doubt: in words, why the interval and p may mislead; empty where nothing speaks against them.
    """

    effect: float
    low: float
    high: float
    p: float
    doubt: str = ""


NOTHING = Found(math.nan, math.nan, math.nan, math.nan)


def mann_whitney(sample: Sequence[float], against: Sequence[float]) -> Found:
    """Mann and Whitney's U, with Hodges and Lehmann's shift: the median of all differences between the two.

    p is exact where no two values are the same; else it is that of the normal approximation, corrected for ties. The
    ends of the interval are two of the differences, by the exact distribution of U; ties make it wider than it need be.

    J. L. Hodges and E. L. Lehmann, Estimates of location based on rank tests, Ann. Math. Statist. 34 (1963) 598-611.
    """
    differences = sorted(a - b for a in sample for b in against)
    rank = rank_of_the_low_end(len(sample), len(against))
    low, high = (differences[rank - 1], differences[-rank]) if rank else (math.nan, math.nan)
    values = [*sample, *against]
    if len(set(values)) == 1:
        return Found(median(differences), low, high, math.nan)
    method = "exact" if len(set(values)) == len(values) else "asymptotic"
    return Found(median(differences), low, high, float(stats.mannwhitneyu(sample, against, method=method).pvalue))


def welch(sample: Sequence[float], against: Sequence[float]) -> Found:
    """Welch's t, with the difference of the means."""
    effect = mean(sample) - mean(against)
    found = over_repeats(against, sample)
    same = len(set(sample)) == len(set(against)) == 1
    p = math.nan if same else float(stats.ttest_ind(sample, against, equal_var=False).pvalue)
    return Found(effect, found.low, found.high, p, found.doubt)


def brown_forsythe(sample: Sequence[float], against: Sequence[float]) -> Found:
    """Brown and Forsythe's test of equal spread (Levene's, from the medians), with the ratio of the deviations.

    M. B. Brown and A. B. Forsythe, Robust tests for the equality of variances, J. Am. Stat. Assoc. 69 (1974) 364-367.
    """
    if (
        min(len(sample), len(against)) < 3 or len(set(sample)) == len(set(against)) == 1
    ):  # two are as far from their median
        return NOTHING
    ratio = stdev(sample) / stdev(against) if len(set(against)) > 1 else math.inf
    return Found(ratio, math.nan, math.nan, float(stats.levene(sample, against, center="median").pvalue))


def rank_of_the_low_end(n: int, m: int) -> int:
    """Which of the n x m sorted differences, counted from 1, is the low end of the 95% interval; 0 for too few values.

    With k the largest such that P(U < k) is 2.5% at most under no shift, it is the k-th.
    """
    below, total = 0, math.comb(n + m, n)
    for u, ways in enumerate(_ways(n, m)):
        below += ways
        if 40 * below > total:
            return u
    raise AssertionError("all ways together are the total")


def _ways(n: int, m: int) -> list[int]:
    """In how many orders of two samples U is 0, 1, ..., n x m: the coefficients of Gauss' binomial."""
    ways = [1] + [0] * (n * m)
    for i in range(1, m + 1):
        for u in range(n * m, n + i - 1, -1):  # times 1 - q^(n + i)
            ways[u] -= ways[u - n - i]
        for u in range(i, n * m + 1):  # by 1 - q^i
            ways[u] += ways[u - i]
    return ways
