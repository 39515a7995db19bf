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
        found = verdict(*simulated(rng, 0.7, seeds, 100, *spread), draws=400)
        covered += found.low <= 0.7 <= found.high
    assert covered >= stats.binom.ppf(1e-4, experiments, 0.95)


def test_with_much_data_the_interval_is_that_of_the_formula():
    rng = np.random.default_rng(1)
    better, worse = simulated(rng, 1.0, seeds=400, faces=400, between_seeds=2, between_faces=2, own=0.1)
    d = worse - better
    width = 2 * 1.96 * math.sqrt(d.mean(1).var(ddof=1) / 400 + d.mean(0).var(ddof=1) / 400)
    found = verdict(better, worse)
    assert found.high - found.low == pytest.approx(width, rel=0.05)
    assert found.difference == pytest.approx(d.mean()) and (found.seeds, found.faces) == (400, 400)


def test_three_seeds_without_faces_give_students_interval():
    found = verdict([0, 0, 0], [1, 2, 3], draws=100_000)
    half = stats.t.ppf(0.975, 2) * 1 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), rel=0.01) and found.faces == 1


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
    one, moved = verdict(better, worse, effect, draws=200), verdict(better + shift, worse + shift, effect, draws=200)
    assert moved.says == one.says and (moved.low, moved.high) == pytest.approx((one.low, one.high), abs=1e-9)
    scaled = verdict(100 * better, 100 * worse, 100 * effect, draws=200)
    assert scaled.says == one.says and (scaled.low, scaled.high) == pytest.approx((100 * one.low, 100 * one.high))
    assert scaled.seeds_needed == one.seeds_needed


@settings(max_examples=60, deadline=None)
@given(arms, st.floats(0.01, 5))
def test_the_rule_has_no_favourite(pair, effect):
    better, worse = pair
    one, other = verdict(better, worse, effect, draws=200), verdict(worse, better, effect, draws=200)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
    if one.says == HOLDS:
        assert other.says == FAILS
    if other.says == HOLDS:
        assert one.says == FAILS
    bare, turned = verdict(better, worse, draws=200), verdict(worse, better, draws=200)
    assert (bare.says, turned.says) in {(HOLDS, FAILS), (FAILS, HOLDS), (OPEN, OPEN)}
    assert (one.says == HOLDS) == (bare.says == HOLDS)                               # the effect decides no gain away


@settings(max_examples=30, deadline=None)
@given(arms, st.integers(0, 2**16))
def test_neither_the_order_of_faces_and_seeds_nor_the_draws_matter_much(pair, seed):
    better, worse = pair
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(3), rng.permutation(20)
    one, other = verdict(better, worse), verdict(better[rows][:, columns], worse[rows][:, columns], seed=seed)
    assert other.high - other.low == pytest.approx(one.high - one.low, rel=0.25)
    assert verdict(better, worse) == one                                             # and twice the same is the same


def test_as_many_seeds_as_are_said_to_be_needed_have_the_power():
    """Seen from a pilot of many seeds, the number is right: with it 80 % of experiments find the effect."""
    rng, spread = np.random.default_rng(4), {"faces": 200, "between_seeds": 1.0, "between_faces": 0.5, "own": 1.0}
    needed = verdict(*simulated(rng, 1.0, seeds=300, **spread), effect=1.0).seeds_needed
    assert 6 <= needed <= 10                                       # (1.96 + 0.84)^2 * 1.0 = 7.85
    experiments, seen = 300, 0
    for _ in range(experiments):
        seen += verdict(*simulated(rng, 1.0, seeds=needed, **spread), draws=200).says == HOLDS
    # Student's interval of so few seeds is wider than the normal one, so somewhat less than 80 %
    assert stats.binom.ppf(1e-4, experiments, 0.68) <= seen <= stats.binom.ppf(1 - 1e-4, experiments, 0.88)


def test_no_number_of_seeds_helps_where_faces_are_too_few():
    better, worse = simulated(np.random.default_rng(6), 0.1, seeds=5, faces=10, between_faces=20)
    assert verdict(better, worse, effect=0.1).seeds_needed is None
    assert verdict(better, worse, effect=1000.0).seeds_needed == 2
    assert verdict([1.0, 2.0], [1.0, 2.0]).seeds_needed is None                       # no difference: none to be found


def test_a_claim_of_several_comparisons():
    def said(*words):
        return together([Verdict(word, 0, 0, 0, 0, 0, 3, 1, None) for word in words])
    assert said(HOLDS, HOLDS) == HOLDS and said(HOLDS, OPEN) == OPEN and said(HOLDS, OPEN, FAILS) == FAILS
    with pytest.raises(ValueError, match="empty"):
        together([])


@pytest.mark.parametrize("words", [
    {"better": []}, {"better": [[]]}, {"better": np.zeros((2, 2, 2))}, {"better": [[1, 2], [3]]},
    {"better": ["a", "b"]}, {"better": [1, float("nan")]}, {"worse": [1, float("inf")]}, {"worse": [1, 2, 3]},
    {"better": None},
    {"effect": 0}, {"effect": -1}, {"effect": float("nan")}, {"effect": float("inf")}, {"allowed": -1},
    {"allowed": float("nan")}, {"allowed": 1, "effect": 1}, {"level": 0}, {"level": 1}, {"draws": 10},
    {"trained": False}], ids=str)
def test_nonsense_is_refused(words):
    with pytest.raises(ValueError):
        verdict(**{"better": [1.0, 2.0], "worse": [2.0, 3.0]} | words)


def test_the_share_is_what_the_docstring_says():
    assert SHARE == 0.5 and "half of the paper's effect" in verdict.__doc__
