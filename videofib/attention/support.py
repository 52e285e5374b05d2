"""Support: which (query, key) pairs each attention head may use.

With P prefix tokens (class token) in front of N patch tokens, the mask of one head is

            P     N
         +---+---------+
       P | 1 |    1    |      prefix tokens see all and are seen by all;
         +---+---------+      patches j and k see each other where |j - k| is an offset:
         |   | \\ \\   \\  |      two diagonals for each offset, one for offset 0.
       N | 1 |  \\ \\   \\ |
         |   | \\ \\ \\   \\|
         +---+---------+
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from videofib.attention.diagonals import Diagonals
from videofib.attention.wythoff import fibottention_offsets

HEAD_ORDERS = ("none", "per_layer", "first_layer")


@dataclass(frozen=True)
class Segment:
    """A piece of one diagonal: query ``query + i`` sees key ``key + i`` for 0 ≤ i < length (patch indices)."""

    query: int
    key: int
    length: int


@dataclass(frozen=True)
class Support(Diagonals):
    """The allowed pairs of every head. Immutable and hashable; equal supports compare equal.

    Attributes:
        offsets: for each head the sorted distances at which patch tokens see each other.
        num_tokens: N, prefix tokens not counted.
        num_prefix_tokens: P, tokens in front that see all and are seen by all.
        is_dense: whether every head sees all pairs.
        code: the support as text, for graphs, which hold no objects; see :meth:`from_code`.
    """

    offsets: tuple[Sequence[int], ...]
    num_tokens: int
    num_prefix_tokens: int = 1
    is_dense: bool = field(init=False, repr=False, compare=False)
    code: str = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        rows = tuple(row if isinstance(row, range) else tuple(row) for row in self.offsets)
        object.__setattr__(self, "offsets", rows)
        if not rows:
            raise ValueError("a support needs at least one head, got no offsets")
        if self.num_tokens < 1 or self.num_prefix_tokens < 0:
            raise ValueError(
                f"need num_tokens >= 1 and num_prefix_tokens >= 0, "
                f"got num_tokens={self.num_tokens}, num_prefix_tokens={self.num_prefix_tokens}"
            )
        for head, row in enumerate(rows):
            if not isinstance(row, range) and (list(row) != sorted(set(row)) or min(row, default=0) < 0):
                raise ValueError(f"offsets must be sorted, unique and not negative, got {row} for head {head}")
        every = range(self.num_tokens)
        is_dense = all(row == every or (len(row) == len(every) and row == tuple(every)) for row in rows)
        object.__setattr__(self, "is_dense", is_dense)
        texts = "all" if is_dense else "; ".join(" ".join(map(str, row)) for row in rows)
        object.__setattr__(
            self, "code", f"{len(rows)} heads, {self.num_prefix_tokens} + {self.num_tokens} tokens: {texts}"
        )

    @classmethod
    def fibottention(
        cls,
        num_heads: int,
        num_tokens: int,
        *,
        w_min: int = 5,
        w_max: int | None = None,
        variant: str = "wythoff",
        num_prefix_tokens: int = 1,
        head_order: str = "none",
        layer_index: int = 0,
    ) -> Support:
        """Fibottention's support (arXiv 2406.19391); see :func:`fibottention_offsets` for the first arguments.

        Args:
            head_order: ``none`` gives head i row i of the Wythoff array; ``per_layer`` permutes the rows by a
                shuffle seeded with ``layer_index``, as the released code intends; ``first_layer`` uses layer 0's
                order in all layers, as the released image model does in training.
            layer_index: the transformer block, from 0; used by ``per_layer`` only.

        Raises:
            ValueError: an argument out of range; the message shows it.
        """
        if head_order not in HEAD_ORDERS:
            raise ValueError(f"unknown head_order {head_order!r}; known: {', '.join(HEAD_ORDERS)}")
        rows = fibottention_offsets(num_heads, num_tokens, w_min, w_max, variant)
        if head_order != "none":
            random.Random(layer_index if head_order == "per_layer" else 0).shuffle(rows)
        return cls(tuple(rows), num_tokens, num_prefix_tokens)

    @classmethod
    def dense(cls, num_heads: int, num_tokens: int, *, num_prefix_tokens: int = 1) -> Support:
        """Every token sees every token."""
        return cls((range(num_tokens),) * num_heads, num_tokens, num_prefix_tokens)

    @property
    def num_heads(self) -> int:
        return len(self.offsets)

    @staticmethod
    @lru_cache(maxsize=256)
    def from_code(code: str) -> Support:
        """The support that :attr:`code` describes, such as ``3 heads, 1 + 196 tokens: 1 2 3 5; 4 7; 6 10``: prefix
        and patch tokens, then each head's offsets.

        Raises:
            ValueError: text of another form.
        """
        found = re.fullmatch(r"(\d+) heads, (\d+) \+ (\d+) tokens: (all|[\d; ]*)", code)
        if not found:
            raise ValueError(f"not the code of a support: {code!r}")
        heads, num_prefix_tokens, num_tokens = map(int, found.groups()[:3])
        if found[4] == "all":
            return Support.dense(heads, num_tokens, num_prefix_tokens=num_prefix_tokens)
        rows = tuple(tuple(map(int, row.split())) for row in found[4].split(";"))
        return Support(rows, num_tokens, num_prefix_tokens)

    def for_heads(self, heads: range) -> Support:
        """The support of some heads (0-based), over the same tokens."""
        return Support(self.offsets[heads.start : heads.stop], self.num_tokens, self.num_prefix_tokens)

    def segments(self, head: int) -> list[Segment]:
        """The diagonals of ``head`` (0-based) as segments: together they are its patch pairs, each exactly once.

        A query that no offset reaches, which happens only in the middle of a sequence shorter than twice the
        smallest offset, sees itself if there is no prefix token: softmax needs one key.
        """
        n, row = self.num_tokens, self.offsets[head]
        found = []
        for offset in row:
            if offset >= n:
                break
            found.append(Segment(offset, 0, n - offset))
            if offset:
                found.append(Segment(0, offset, n - offset))
        if self.num_prefix_tokens == 0:
            smallest = min(row, default=n)
            start, stop = max(n - smallest, 0), min(smallest, n)
            if start < stop:
                found.append(Segment(start, start, stop - start))
        return found

    def to_mask(self, device: torch.device | None = None) -> torch.Tensor:
        """The dense mask on a device: bool, (H, P+N, P+N), True where query (row) may attend to key (column)."""
        p, n = self.num_prefix_tokens, self.num_tokens
        mask = torch.zeros(self.num_heads, p + n, p + n, dtype=torch.bool, device=device)
        mask[:, :p] = True
        mask[:, :, :p] = True
        for head in range(self.num_heads):
            for s in self.segments(head):
                i = torch.arange(s.length, device=device)
                mask[head, p + s.query + i, p + s.key + i] = True
        return mask

    def num_pairs(self, include_prefix: bool = True) -> int:
        """Allowed pairs, summed over heads."""
        if self.is_dense:
            patch_pairs = self.num_heads * self.num_tokens**2
        else:
            patch_pairs = sum(s.length for head in range(self.num_heads) for s in self.segments(head))
        p = self.num_prefix_tokens if include_prefix else 0
        return patch_pairs + self.num_heads * p * (p + 2 * self.num_tokens)

    def density(self, include_prefix: bool = False) -> float:
        """Allowed pairs / all pairs, of patch tokens only (the paper's figure) or including prefix tokens."""
        side = self.num_tokens + (self.num_prefix_tokens if include_prefix else 0)
        return self.num_pairs(include_prefix) / (self.num_heads * side**2)

    def coverage(self) -> float:
        """The fraction of patch pairs that at least one head sees."""
        union = sorted(set().union(*self.offsets)) if not self.is_dense else range(self.num_tokens)
        return Support((union,), self.num_tokens, self.num_prefix_tokens).density()

    def overlap(self) -> torch.Tensor:
        """Offsets that two heads have in common: int64, (H, H); the diagonal counts each head's offsets."""
        rows = [set(row) for row in self.offsets]
        return torch.tensor([[len(a & b) for b in rows] for a in rows])

    def __repr__(self) -> str:
        if self.is_dense:
            pattern = "dense"
        else:
            pattern = f"density={self.density():.2%}, offsets=({'; '.join(map(_short, self.offsets))})"
        return (
            f"Support(num_heads={self.num_heads}, num_tokens={self.num_tokens}, "
            f"num_prefix_tokens={self.num_prefix_tokens}, {pattern})"
        )


def _short(row: Iterable[int]) -> str:
    row = list(row)
    return " ".join(map(str, row if len(row) <= 6 else [*row[:5], "…", row[-1]]))
