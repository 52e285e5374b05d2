"""What scores say beyond accuracy: which classes are taken for which, and of which mistakes the model is surest.

N videos, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from videofib.metrics.accuracy import bootstrap_interval, confusion_matrix, topk_correct


@dataclass(frozen=True)
class Judged:
    """The scores of a test.

    Attributes:
        ids, paths: names and files of the videos (N).
        truth: bool (N, K), the classes of each video.
        scores: float32 (N, K); nan for a video that could not be read.
        class_names: K names.
        several: a video may be of several classes.
        probabilities: scores are probabilities, and so may be told in percent.
    """

    ids: Sequence[str]
    paths: Sequence[str]
    truth: np.ndarray
    scores: np.ndarray
    class_names: Sequence[str]
    several: bool
    probabilities: bool

    @property
    def readable(self) -> np.ndarray:
        """Which videos could be read, bool (N)."""
        return np.isfinite(self.scores).all(axis=1)


@dataclass(frozen=True)
class Mistake:
    """A video, by its position, for which a class that it is not of scores high."""

    position: int
    said: int
    score: float


def right(judged: Judged) -> np.ndarray:
    """Of videos of one class: whether the best class is the true one, bool (N); no unreadable video is right."""
    own = np.where(judged.truth, judged.scores, -np.inf).max(axis=1)
    others = np.where(judged.truth, -np.inf, judged.scores).max(axis=1)
    return judged.readable & (own > others)  # a tie is wrong, as in the figures


def intervals(judged: Judged | None, results: dict) -> dict[str, list[float] | None]:
    """The 95 % interval of top-5 accuracy, which the results of a test do not tell; none where videos have several."""
    if judged is None or judged.several:
        return {}
    labels = torch.from_numpy(judged.truth.argmax(axis=1))
    found = topk_correct(torch.from_numpy(judged.scores), labels, 5) & torch.from_numpy(judged.readable)
    excluded = results.get("num_videos") == int(judged.readable.sum())
    return {"top5_acc_interval": bootstrap_interval(found[judged.readable] if excluded else found)}


def confusion(judged: Judged) -> torch.Tensor:
    """How many readable videos of each class (rows) are taken for each class: int64 (K, K). One class a video."""
    truth, scores = (torch.from_numpy(values[judged.readable]) for values in (judged.truth, judged.scores))
    return confusion_matrix(scores.argmax(dim=1), truth.int().argmax(dim=1), len(judged.class_names))


def surest_mistakes(judged: Judged, most: int) -> list[Mistake]:
    """The mistakes whose wrong class scores highest; each video is there once."""
    wrong_scores = np.where(judged.truth, -np.inf, judged.scores)
    said = wrong_scores.argmax(axis=1)
    score = wrong_scores.max(axis=1)
    wrong = judged.readable if judged.several else judged.readable & ~right(judged)
    order = np.argsort(-score, kind="stable")
    order = order[(wrong & np.isfinite(score))[order]]
    return [Mistake(int(n), int(said[n]), float(score[n])) for n in order[:most]]


def paired(first: Judged, second: Judged) -> dict[str, float | int | list[float]]:
    """Two models on the same videos, of one class each: who is right where the other is wrong.

    Returns:
        ``videos`` they share, ``first_only`` and ``second_only`` right, ``difference`` of top-1 accuracy (second less
        first) and its 95 % bootstrap ``interval``, in percent points, and ``p_value`` of McNemar's exact test (1947):
        how likely so uneven counts are if both were equally good.
    """
    place = {name: position for position, name in enumerate(second.ids)}
    pairs = [(n, place[name]) for n, name in enumerate(first.ids) if name in place]
    if not pairs:
        return {"videos": 0}
    of_first, of_second = map(list, zip(*pairs, strict=True))
    one, other = right(first)[of_first], right(second)[of_second]
    first_only, second_only = int((one & ~other).sum()), int((other & ~one).sum())
    count = len(pairs)
    shares = np.array([first_only, second_only, count - first_only - second_only]) / count
    drawn = np.random.default_rng(0).multinomial(count, shares, size=10_000)  # videos drawn with replacement
    differences = 100.0 * (drawn[:, 1] - drawn[:, 0]) / count
    return {
        "videos": count,
        "first_only": first_only,
        "second_only": second_only,
        "difference": 100.0 * (second_only - first_only) / count,
        "interval": np.percentile(differences, [2.5, 97.5]).tolist(),
        "p_value": sign_test(first_only, second_only),
    }


def sign_test(one: int, other: int) -> float:
    """How likely it is that ``one`` + ``other`` throws of a coin fall as unevenly as this, or more so."""
    throws = one + other
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, throws + 1)))])  # of factorials
    ways = logs[throws] - logs[: min(one, other) + 1] - logs[throws - np.arange(min(one, other) + 1)]
    return float(min(1.0, 2.0 * np.exp(ways - throws * np.log(2)).sum()))
