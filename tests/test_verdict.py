"""Verdicts: the interval covers what it should, the rule has no favourite, and nonsense is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments.verdict import FAILS, HOLDS, OPEN, SHARE, Verdict, together, verdict


def simulated(rng, gain, seeds=3, faces=100, between_seeds=0.1, between_faces=1.0, own=0.5):
    """Errors of two arms (S, N) whose true mean difference is ``gain``."""
    hard = rng.gamma(2, 2, faces)
    d = (gain + rng.normal(0, between_seeds, (seeds, 1)) + rng.normal(0, between_faces, faces)
         + rng.normal(0, own, (seeds, faces)))
    return hard + np.zeros_like(d), hard + d


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [(1.0, 0.0, 0.01), (0.3, 3.0, 3.0), (0.0, 3.0, 0.5), (0.1, 0.0, 3.0)], ids=str)
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds, spread):
    """At least 95 %, as far as so many experiments can tell: 1 in 10,000 would fall below the bound by chance."""
    rng, experiments, covered = np.random.default_rng(5), 400, 0
    for _ in range(experiments):
        found = verdict(*simulated(rng, 0.7, seeds, 100, *spread))
        covered += found.low <= 0.7 <= found.high
    assert covered >= stats.binom.ppf(1e-4, experiments, 0.95)


def test_the_variance_is_that_of_a_bootstrap_over_both():
    """Brute force: seeds and faces drawn anew, the same faces for all seeds, enlarged for their small numbers."""
    rng = np.random.default_rng(1)
    better, worse = simulated(rng, 1.0, seeds=4, faces=60, between_seeds=0.5, between_faces=3, own=0.1)
    d, draws = worse - better, 20_000
    rows, columns = rng.integers(4, size=(draws, 4)), rng.integers(60, size=(draws, 60))
    by_seed, by_face = d.mean(1)[rows].mean(1).var() * 4 / 3, d.mean(0)[columns].mean(1).var() * 60 / 59
    both = np.mean([d[i][:, j].mean() for i, j in zip(rows, columns)]), np.var([d[i][:, j].mean() for i, j in
                                                                                 zip(rows, columns)])
    assert both == pytest.approx((d.mean(), by_seed * 3 / 4 + by_face * 59 / 60), rel=0.03)
    freedom = (by_seed + by_face)**2 / (by_seed**2 / 3 + by_face**2 / 59)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(by_seed + by_face)
    found = verdict(better, worse)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.03)
    assert found.difference == pytest.approx(d.mean()) and (found.seeds, found.faces) == (4, 60)


def test_three_seeds_without_faces_give_students_interval():
    found = verdict([0, 0, 0], [1, 2, 3])
    half = stats.t.ppf(0.975, 2) * 1 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half)) and found.faces == 1


def test_known_cases():
    rng = np.random.default_rng(2)
    sure = simulated(rng, 5.0)
    assert verdict(*sure).says == verdict(*sure, effect=100.0).says == HOLDS     # small beside the paper's, but sure
    better, worse = simulated(rng, 0.0, seeds=20, faces=2000)
    none = better, worse - (worse - better).mean()                 # no difference at all in the mean
    assert verdict(*none, effect=5.0).says == FAILS                # refutes a gain of 2.5, half of the paper's
    assert verdict(*none, effect=0.01).says == OPEN                # a gain of 0.005 would not have been seen
    assert verdict(*none).says == OPEN                             # without a figure it could always be smaller still
    assert verdict(*none, allowed=1.0).says == HOLDS               # level
    loss = simulated(rng, -5.0)
    assert verdict(*loss).says == verdict(*loss, allowed=1.0).says == FAILS
    assert verdict(*loss, allowed=50.0).says == HOLDS
    assert verdict([1, 1], [1, 1], effect=1.0).says == FAILS and verdict([1, 1], [1, 1]).says == OPEN
    assert str(verdict(*sure)) == HOLDS


def test_one_seed_cannot_tell_unless_nothing_was_trained():
    better, worse = simulated(np.random.default_rng(3), 100.0, seeds=1)
    found = verdict(better, worse, effect=1.0)
    assert found.says == OPEN and (found.low, found.high) == (-math.inf, math.inf) and found.seeds_needed is None
    drawn = verdict(better, worse, effect=1.0, trained=False)
    assert drawn.says == HOLDS and drawn.high < 101
    twice = verdict(np.repeat(better, 3, 0), np.repeat(worse, 3, 0), trained=False)
    assert (twice.low, twice.high) == pytest.approx((drawn.low, drawn.high))         # the same three times is no more


arms = st.integers(0, 2**32 - 1).map(lambda seed: simulated(
    np.random.default_rng(seed), np.random.default_rng(seed).normal(0, 2), faces=20))


@settings(max_examples=60, deadline=None)
@given(arms, st.floats(-100, 100), st.floats(0.01, 5))
def test_what_is_added_to_both_does_not_matter_and_units_do_not(pair, shift, effect):
    better, worse = pair
    one, moved = verdict(better, worse, effect), verdict(better + shift, worse + shift, effect)
    assert moved.says == one.says and (moved.low, moved.high) == pytest.approx((one.low, one.high), abs=1e-9)
    scaled = verdict(100 * better, 100 * worse, 100 * effect)
    assert scaled.says == one.says and (scaled.low, scaled.high) == pytest.approx((100 * one.low, 100 * one.high))
    assert scaled.seeds_needed == one.seeds_needed


@settings(max_examples=60, deadline=None)
@given(arms, st.floats(0.01, 5))
def test_the_rule_has_no_favourite(pair, effect):
    better, worse = pair
    one, other = verdict(better, worse, effect), verdict(worse, better, effect)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
    if one.says == HOLDS:
        assert other.says == FAILS
    if other.says == HOLDS:
        assert one.says == FAILS
    bare, turned = verdict(better, worse), verdict(worse, better)
    assert (bare.says, turned.says) in {(HOLDS, FAILS), (FAILS, HOLDS), (OPEN, OPEN)}
    assert (one.says == HOLDS) == (bare.says == HOLDS)                               # the effect decides no gain away


@settings(max_examples=30, deadline=None)
@given(arms, st.integers(0, 2**16))
def test_the_order_of_faces_and_seeds_does_not_matter(pair, seed):
    better, worse = pair
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(3), rng.permutation(20)
    one, other = verdict(better, worse), verdict(better[rows][:, columns], worse[rows][:, columns])
    assert (other.low, other.high) == pytest.approx((one.low, one.high)) and other.says == one.says


def test_as_many_seeds_as_are_said_to_be_needed_have_the_power():
    """Seen from a pilot of many seeds, the number is right: with it 80 % of experiments find the effect."""
    rng, spread = np.random.default_rng(4), {"faces": 200, "between_seeds": 1.0, "between_faces": 0.5, "own": 1.0}
    needed = verdict(*simulated(rng, 1.0, seeds=300, **spread), effect=1.0).seeds_needed
    assert 8 <= needed <= 12                                       # (1.96 + 0.84)^2 * 1.0 = 7.85, and two for Student
    experiments, seen = 300, 0
    for _ in range(experiments):
        seen += verdict(*simulated(rng, 1.0, seeds=needed, **spread)).says == HOLDS
    assert stats.binom.ppf(1e-4, experiments, 0.77) <= seen <= stats.binom.ppf(1 - 1e-4, experiments, 0.87)


def test_no_number_of_seeds_helps_where_faces_are_too_few():
    better, worse = simulated(np.random.default_rng(6), 0.1, seeds=5, faces=10, between_faces=20)
    assert verdict(better, worse, effect=0.1).seeds_needed is None
    assert verdict(better, worse, effect=1000.0).seeds_needed in (2, 3)
    assert verdict([1.0, 2.0], [1.0, 2.0]).seeds_needed is None                       # no difference: none to be found


def test_a_claim_of_several_comparisons():
    def said(*words):
        return together([Verdict(word, 0, 0, 0, 0, 0, 3, 1, None) for word in words])
    assert said(HOLDS, HOLDS) == HOLDS and said(HOLDS, OPEN) == OPEN and said(HOLDS, OPEN, FAILS) == FAILS
    with pytest.raises(ValueError, match="empty"):
        together([])
    rng = np.random.default_rng(8)
    found = [simulated(rng, gain, seeds=5) for gain in (5.0, -0.4)]
    loose, strict = ([verdict(*pair, level=level) for pair in found] for level in (0.95, 1 - 1e-9))
    assert [one.says for one in loose] == [HOLDS, FAILS] and strict[1].says == OPEN
    assert together(loose) == FAILS and together(loose, strict) == OPEN
    with pytest.raises(ValueError, match="as many"):
        together(loose, strict[:1])


@pytest.mark.parametrize("words", [
    {"better": []}, {"better": [[]]}, {"better": np.zeros((2, 2, 2))}, {"better": [[1, 2], [3]]},
    {"better": ["a", "b"]}, {"better": [1, float("nan")]}, {"worse": [1, float("inf")]}, {"worse": [1, 2, 3]},
    {"better": None},
    {"effect": 0}, {"effect": -1}, {"effect": float("nan")}, {"effect": float("inf")}, {"allowed": -1},
    {"allowed": float("nan")}, {"allowed": 1, "effect": 1}, {"level": 0}, {"level": 1},
    {"trained": False}], ids=str)
def test_nonsense_is_refused(words):
    with pytest.raises(ValueError):
        verdict(**{"better": [1.0, 2.0], "worse": [2.0, 3.0]} | words)


def test_the_share_is_what_the_docstring_says():
    assert SHARE == 0.5 and "half of the paper's effect" in verdict.__doc__
