"""What figures allow to be said: does one way of doing it err less than another?

Compared are errors of the same faces by trainings with the same seeds, so that what is hard for both cancels. S seeds,
N faces.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
SHARE = 0.5                # of the paper's effect; a gain that is surely below it is not the paper's gain
POWER = 0.8


@dataclass(frozen=True)
class Verdict:
    """Of one comparison; all in the units of the errors, positive where the claim is right."""

    says: str                             # "holds", "does not hold" or "cannot be told"
    difference: float                     # mean error of the worse minus that of the better
    low: float                            # 95 % interval of it; infinite where one seed cannot tell
    high: float
    floor: float                          # it holds above this ...
    ceiling: float                        # ... and does not where the interval ends below this
    seeds: int
    faces: int                            # 1: no errors of single faces were at hand
    seeds_needed: int | None              # for 80 % power; None if no number of seeds would do on these faces

    def __str__(self) -> str:
        return self.says


def verdict(better: ArrayLike, worse: ArrayLike, effect: float | None = None, allowed: float = 0.0,
            trained: bool = True, level: float = 0.95) -> Verdict:
    """Whether ``better`` errs less than ``worse``, by an interval of the mean paired difference d = worse - better.

    The rule:

    - *holds* if the whole interval is above zero: that there is no gain, or a loss, is refuted;
    - *does not hold* if the whole interval is below half of the paper's effect, with zero in it or above it: that there
      is a gain such as the paper's is refuted (half of it: our data and networks are others, so the same gain to the
      letter would be too much to ask). Without a figure of the paper: if the whole interval is below zero;
    - *cannot be told* otherwise: both a gain like the paper's and none at all agree with what was seen.

    A surely positive gain holds, however small; how small the interval tells. So the first two are statements that a
    wrong claim, or a right one, would lead to in 2.5 % of all experiments, and an experiment that is too small leads to
    the third. The rule has no favourite: exchange the two, and *holds* becomes *does not hold*.

    Claims that two are level ("nearly as good") have ``allowed``, the loss that still counts as level, in the place of
    zero: *holds* if the whole interval is above -allowed, *does not hold* if it is below.

    The interval is that of a bootstrap over both, seeds and faces drawn anew with replacement, the same faces for all
    seeds. Nothing needs be drawn for it: the mean of n values drawn from n varies by sum (x - mean)^2 / n^2, here times
    n / (n - 1), since few are drawn from few. The two variances are summed, and the interval is Student's, with
    Satterthwaite's degrees of freedom; percentiles of draws would be too narrow by far, for of three seeds there are
    ten different draws. What is peculiar to one face in one training counts in both variances, so the interval errs on
    the wide side. Satterthwaite's degrees of freedom are estimated, which errs on the narrow side where few seeds vary
    somewhat more than faces do: of simulated normal differences 6 % end beyond one end of it with two seeds, 4 % with
    three, 3 % with five, in the place of 2.5. With one seed, how much trainings differ is unknown: the interval is
    infinite and nothing can be told, unless neither side was ``trained``; then faces alone vary.

    Args:
        better, worse: (S, N) errors of faces, or (S,) means where no more is known; then differences between faces
            stay out of the interval.
        effect: the paper's difference, in the units of the errors; > 0.
        allowed: loss that counts as level, >= 0; not with ``effect``.
        trained: whether seeds made any difference; if not, they are averaged.
        level: of the interval.

    Returns:
        the verdict, and the seeds that would be needed: the smallest n, to 2 %, with
        (t_97.5 + t_80)^2 (between-seed variance / n + between-face variance) <= target^2, t being Student's quantiles
        with n - 1 degrees of freedom, the target the effect, or what is allowed, or the difference seen.

    Raises:
        ValueError: if shapes differ or are no (S, N), a value is not finite, effect, allowed or level are out of range,
            or there is nothing to take an interval of (untrained, one face).
    """
    better, worse = _table(better, "better"), _table(worse, "worse")
    if better.shape != worse.shape:
        raise ValueError(f"better and worse must have one shape, got {better.shape} and {worse.shape}")
    if effect is not None and not (0 < effect < math.inf):
        raise ValueError(f"effect must be positive, got {effect}")
    if not 0 <= allowed < math.inf or (allowed and effect is not None):
        raise ValueError(f"allowed must be at least 0, and 0 with an effect, got {allowed} with effect {effect}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    d = worse - better                                                                   # (S, N)
    if not trained:
        d = d.mean(0, keepdims=True)
    (count, faces), mean = d.shape, float(d.mean())
    if not trained and faces == 1:
        raise ValueError("faces must be at least 2 where nothing was trained, got 1")
    by_seed, by_face = _variance(d.mean(1)), _variance(d.mean(0))
    if trained and count == 1:
        half = math.inf
    else:
        total = by_seed + by_face
        # nu = (a + b)^2 / (a^2 / (S - 1) + b^2 / (N - 1))
        lost = by_seed**2 / max(count - 1, 1) + by_face**2 / max(faces - 1, 1)
        half = float(stats.t.ppf((1 + level) / 2, total**2 / lost)) * math.sqrt(total) if lost > 0 else 0.0
    low, high, floor = mean - half, mean + half, -allowed
    ceiling = floor if effect is None else SHARE * effect
    says = HOLDS if low > floor else FAILS if high < ceiling else OPEN
    needed = _needed(d, by_seed, by_face, effect or allowed or abs(mean), level) if trained else 1
    return Verdict(says, mean, low, high, floor, ceiling, len(better), faces, needed)


def together(verdicts: Sequence[Verdict], strict: Sequence[Verdict] | None = None) -> str:
    """A claim of several comparisons: it holds if all do, it does not if one does not.

    Args:
        verdicts: of the comparisons, k of them.
        strict: the same at the level 1 - 0.05 / k. Of many comparisons one fails by chance sooner or later, so that one
            fails must be seen at this level (Bonferroni); that all hold need not.

    Raises:
        ValueError: if there are none, or not as many strict ones.
    """
    strict = verdicts if strict is None else strict
    if not verdicts or len(strict) != len(verdicts):
        raise ValueError(f"verdicts must not be empty and as many as strict, got {len(verdicts)} and {len(strict)}")
    if all(one.says == HOLDS for one in verdicts):
        return HOLDS
    return FAILS if any(one.says == FAILS for one in strict) else OPEN


def _table(errors: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        table: Any = np.asarray(errors, np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} must be (S, N) numbers: {error}") from error
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2 or 0 in table.shape or not np.isfinite(table).all():
        raise ValueError(f"{name} must be (S, N) or (S,), not empty and finite, got {table.shape}")
    return table


def _variance(values: NDArray) -> float:
    """Variance of the mean of values (n,), 0 of one."""
    # sum (x - mean)^2 / n^2 * n / (n - 1)
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else 0.0


def _needed(d: NDArray, by_seed: float, by_face: float, target: float, level: float) -> int | None:
    """Seeds for 80 % power; None if the faces alone leave too much, or one seed says nothing of the spread."""
    count, faces = d.shape
    if count == 1 or target == 0:
        return None
    own = d - d.mean(1, keepdims=True) - d.mean(0) + d.mean()                  # peculiar to a face in a training
    own_variance = np.square(own).sum() / ((count - 1) * max(faces - 1, 1)) / faces      # of a seed's mean
    shared = max(0.0, by_face - own_variance / count) if faces > 1 else 0.0    # what more seeds do not lessen
    lessened = by_seed * count + own_variance
    wanted = (target / (stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(POWER))) ** 2
    if wanted <= shared:
        return None
    n = max(2, math.ceil(lessened / (wanted - shared)))                        # by the normal approximation; with few
    while (stats.t.ppf((1 + level) / 2, n - 1) + stats.t.ppf(POWER, n - 1)) ** 2 * (lessened / n + shared) > target**2:
        n += max(1, n // 50)                                                   # seeds, some more
    return n
