"""Cases of two regions: which baselines count for which follow-up, and what a session keeps of each."""

from dataclasses import dataclass

import pytest
from helpers.bright_lesions import BOX, BrightIsLesion, baseline, followup

from lesionclick.budget import Budget
from lesionclick.longitudinal import session as longitudinal
from lesionclick.longitudinal.case import LongitudinalCase
from lesionclick.longitudinal.session import LongitudinalSession


@dataclass
class Overlaps:
    """An alignment that is known by its overlap alone."""

    overlap: float
    kind: str = "affine"
    complete: bool = True


@pytest.mark.parametrize(
    ("overlaps", "chosen"),
    [
        # each row is a follow-up's, and the first takes both; what remains for the second is the best that it overlaps
        ([[0.9, 0.3], [0.5, 0.0]], [["primary", "secondary"], ["primary"]]),
        ([[0.9, 0.3], [0.2, 0.25]], [["primary", "secondary"], ["secondary"]]),
        # too little to be the same part of the body: its own region's
        ([[0.9, 0.3], [0.14, 0.0]], [["primary", "secondary"], ["secondary"]]),
        ([[0.9, 0.3], [0.15, 0.0]], [["primary", "secondary"], ["primary"]]),
    ],
)
def test_a_followup_that_is_no_baselines_best_takes_what_shows_it(overlaps, chosen, monkeypatch):
    befores = baseline(BOX), baseline(BOX, region="secondary")
    afters = followup(BOX), followup(BOX, region="secondary")

    def register(before, after, _budget):
        row = next(n for n, one in enumerate(afters) if one.ct is after)
        return Overlaps(overlaps[row][next(n for n, one in enumerate(befores) if one.ct is before)])

    monkeypatch.setattr(longitudinal, "register", register)
    rows = longitudinal.align(LongitudinalCase(befores, afters), Budget())
    assert [[one.region for one, _ in row] for row in rows] == chosen


def test_a_point_that_is_added_in_one_region_leaves_those_of_the_other():
    case = LongitudinalCase((baseline(BOX),), (followup(BOX, points={1: (1, 2, 3)}), followup(BOX, region="secondary")))
    session = LongitudinalSession(BrightIsLesion(), case)
    session.add("secondary", 4, (5, 6, 7))
    session.add("primary", 2, (8, 9, 10))
    assert session.points == {"primary": {1: (1, 2, 3), 2: (8, 9, 10)}, "secondary": {4: (5, 6, 7)}}


def test_scans_are_registered_again_where_the_time_was_short_for_one_of_them(monkeypatch):
    made = []

    def register(*_):
        made.append(Overlaps(0.9, complete=len(made) != 1))  # the second is not
        return made[-1]

    monkeypatch.setattr(longitudinal, "register", register)
    session = LongitudinalSession(
        BrightIsLesion(), LongitudinalCase((baseline(BOX),), (followup(BOX), followup(BOX, region="secondary")))
    )
    assert [len(made) for _ in range(3) if session.sources()] == [2, 4, 4]
