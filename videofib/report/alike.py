"""Whether runs were tested alike: on the same videos, with the same classes, in the same views.

Figures of unlike tests may differ though the models do not, so a comparison names whatever is unlike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from videofib.classes import difference, same_name
from videofib.report.figures import is_unlabelled
from videofib.report.markup.numbers import number
from videofib.report.read import Run
from videofib.report.scored_videos import ScoredVideos

_DIGITS = 12  # of a digest, shown


class _Test(NamedTuple):
    name: str
    results: dict
    scored: ScoredVideos | None
    data: object  # the folder of its lists


def unlike_tests(runs: Sequence[Run], scored: Sequence[ScoredVideos | None]) -> list[str]:
    """What differs between the first test and each other one, a sentence each; runs without a test are left out."""
    tests = [
        _Test(run.name, run.results, videos, run.config.get("DATA.PATH_TO_DATA_DIR"))
        for run, videos in zip(runs, scored, strict=True)
        if run.results is not None
    ]
    return [sentence for other in tests[1:] for rule in _RULES for sentence in rule(tests[0], other)]


def _task(one: _Test, other: _Test) -> Iterator[str]:
    if without := [test.name for test in (one, other) if is_unlabelled(test.results)]:
        yield f"no labels: {' and '.join(without)} tested videos without labels, which nothing measures"
        return
    several = ["mAP" in test.results for test in (one, other)]
    if several[0] != several[1]:
        figures = ["mean average precision" if is_several else "accuracy" for is_several in several]
        yield f"another task: {one.name} is measured by {figures[0]}, {other.name} by {figures[1]}"


def _videos(one: _Test, other: _Test) -> Iterator[str]:
    if one.scored is None or other.scored is None:
        yield from _videos_by_digest(one, other)
        return
    ids = [set(test.scored.ids) for test in (one, other)]
    alone = [
        f"{number(len(own - others))} in {test.name} alone, such as {min(own - others)}"
        for test, own, others in ((one, ids[0], ids[1]), (other, ids[1], ids[0]))
        if own - others
    ]
    if alone:
        lists = f"; their lists are in {one.data} and {other.data}" if one.data != other.data else ""
        yield f"other test videos: {'; '.join(alone)}; {number(len(ids[0] & ids[1]))} in both{lists}"


def _videos_by_digest(one: _Test, other: _Test) -> Iterator[str]:
    digests = [test.results.get("videos_sha256") for test in (one, other)]
    if None in digests:
        without = " and ".join(test.name for test in (one, other) if test.scored is None)
        yield f"whether {one.name} and {other.name} were tested on the same videos is unknown: no scores of {without}"
    elif digests[0] != digests[1]:
        shown = [str(digest)[:_DIGITS] for digest in digests]
        yield f"other test videos or classes: videos_sha256 {shown[0]}… of {one.name}, {shown[1]}… of {other.name}"


def _counts(one: _Test, other: _Test) -> Iterator[str]:
    counted = [number(test.results.get("num_videos")) for test in (one, other)]
    if counted[0] != counted[1]:
        yield f"other numbers of videos counted: {counted[0]} in {one.name}, {counted[1]} in {other.name}"
    failed = [{str(entry.get("video")) for entry in test.results.get("skipped") or []} for test in (one, other)]
    for test, own, others in ((one, failed[0], failed[1]), (other, failed[1], failed[0])):
        if own - others:
            count = _counted(len(own - others), "video")
            yield f"{count} could not be read in {test.name} alone, such as {min(own - others)}"


def _classes(one: _Test, other: _Test) -> Iterator[str]:
    """Other numbers, names or orders of classes, or other classes of a video."""
    if one.scored is None or other.scored is None:
        return
    names = [test.scored.class_names for test in (one, other)]
    if len(names[0]) != len(names[1]):
        yield f"other numbers of classes: {len(names[0])} in {one.name}, {len(names[1])} in {other.name}"
    elif one.scored.named and other.scored.named and difference(names[0], names[1]):
        what = "another order" if set(map(same_name, names[0])) == set(map(same_name, names[1])) else "other names"
        label = next(k for k, (a, b) in enumerate(zip(*names, strict=True)) if same_name(a) != same_name(b))
        first, second = (f"{named[label]} in {test.name}" for named, test in zip(names, (one, other), strict=True))
        yield f"the classes have {what}: class {label} is {first}, {second}"
    if changed := relabelled(one.scored, other.scored):
        video, first, second = changed[0]
        common = len(set(one.scored.ids) & set(other.scored.ids))
        yield (
            f"other classes of {number(len(changed))} of the {_counted(common, 'video')} in both: {video} is of class "
            f"{first} in {one.name}, {second} in {other.name}"
        )


def relabelled(first: ScoredVideos, second: ScoredVideos) -> list[tuple[str, str, str]]:
    """The videos of both tests that have other classes in the second: name, classes in the first, in the second.

    Classes are compared by name where both tests name theirs, and otherwise by number.
    """
    row_of = {name: row for row, name in enumerate(second.ids)}
    named = first.named and second.named
    common = [
        (name, _classes_of(first, row, named), _classes_of(second, row_of[name], named))
        for row, name in enumerate(first.ids)
        if name in row_of
    ]
    return [found for found in common if same_name(found[1]) != same_name(found[2])]


def _classes_of(scored: ScoredVideos, row: int, named: bool) -> str:
    """The classes of a video, by their names or numbers, as text."""
    labels = np.flatnonzero(scored.truth[row]).tolist()
    return ", ".join(sorted(scored.class_names[label] for label in labels) if named else map(str, labels)) or "none"


def _views(one: _Test, other: _Test) -> Iterator[str]:
    described = [_described_views(test) for test in (one, other)]
    if described[0] != described[1]:
        yield f"other views: {described[0]} in {one.name}, {described[1]} in {other.name}"


def _described_views(test: _Test) -> str:
    """``10 clips × 3 crops``, and how the clips start where that is not as usual."""
    views, crops = test.results.get("num_views"), test.results.get("num_crops")
    if crops is None and test.scored is not None:
        crops = test.scored.num_crops  # results of earlier versions do not have it
    starts = test.results.get("view_starts", "spread")
    rest = "" if starts == "spread" else f", TEST.VIEW_STARTS {starts}"
    if not (views and crops):
        return (_counted(views, "view") if views else "an unknown number of views") + rest
    return f"{_counted(views // crops, 'clip')} × {_counted(crops, 'crop')}{rest}"


def _precisions(one: _Test, other: _Test) -> Iterator[str]:
    first, second = (test.results.get("precision", "fp32") for test in (one, other))  # earlier versions lack it
    if first != second:
        yield f"other precisions: {first} in {one.name}, {second} in {other.name}"


def _counted(count: int, noun: str) -> str:
    return f"{number(count)} {noun}{'s' * (count != 1)}"


_RULES: tuple[Callable[[_Test, _Test], Iterator[str]], ...] = (
    *(_task, _videos, _counts, _classes, _views, _precisions),
)
