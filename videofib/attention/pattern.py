"""Pattern: any set of (query, key) pairs for each head, where :class:`Support`'s diagonals are not enough.

The pairs of a head are lists of keys, one list a query, one after the other ("CSR"). S = P+N tokens, P prefix tokens in
front; E pairs are stored, and heads that see the same pairs share them:

    rowptr   (H, S+1)   the keys of head h's query i are  cols[rowptr[h, i] : rowptr[h, i+1]],  in rising order
    cols     (E,)

and the same pairs by key, for gradients: the queries of key j are ``queries[keyptr[h, j] : keyptr[h, j+1]]``, and
``positions`` says where each such pair lies among head h's pairs by query, counted from ``rowptr[h, 0]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from videofib.attention.support import Support


class Pattern:
    """The allowed pairs of every head. Immutable and hashable; equal patterns compare equal.

    Args:
        pairs: for each head the patch pairs as numbers query · N + key, int64, on the CPU, in any order. A query
            without keys sees itself if there is no prefix token: softmax needs one key.
        num_tokens: N, prefix tokens not counted.
        num_prefix_tokens: P, tokens in front that see all and are seen by all.

    Raises:
        ValueError: no head, no tokens, pairs of other tokens.
    """

    rowptr: Tensor
    cols: Tensor
    keyptr: Tensor
    queries: Tensor
    positions: Tensor

    def __init__(self, pairs: Sequence[Tensor], num_tokens: int, num_prefix_tokens: int = 1):
        if not pairs or num_tokens < 1 or num_prefix_tokens < 0:
            raise ValueError(
                f"need at least one head, num_tokens >= 1 and num_prefix_tokens >= 0, got {len(pairs)} heads, "
                f"num_tokens={num_tokens}, num_prefix_tokens={num_prefix_tokens}"
            )
        given = {id(numbers): numbers for numbers in pairs}  # heads often share one tensor
        for numbers in given.values():
            if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < num_tokens**2:
                raise ValueError(f"there are pairs of other tokens than 0 .. {num_tokens - 1}")
        self.num_tokens, self.num_prefix_tokens, self.num_heads = num_tokens, num_prefix_tokens, len(pairs)
        full = {i: _with_prefix(x.unique(), num_tokens, num_prefix_tokens) for i, x in given.items()}
        distinct, heads = _distinct([full[id(x)] for x in pairs])
        total = num_tokens + num_prefix_tokens
        tables = pair_tables(distinct, heads, total, total)
        self.rowptr, self.cols, self.keyptr, self.queries, self.positions = tables
        self._num_pairs = int((self.rowptr[:, -1] - self.rowptr[:, 0]).sum())
        self._hash = hash((num_tokens, num_prefix_tokens, len(pairs), self._num_pairs, int(self.cols.sum())))

    @classmethod
    def from_mask(cls, mask: Tensor, num_prefix_tokens: int = 1) -> Pattern:
        """From the patch pairs (H, N, N), True where query (row) may attend to key (column)."""
        return cls([head.flatten().nonzero().flatten() for head in mask.cpu()], mask.shape[-1], num_prefix_tokens)

    @classmethod
    def from_support(cls, support: Support) -> Pattern:
        """The same pairs as a support's."""
        p = support.num_prefix_tokens
        return cls.from_mask(support.to_mask(torch.device("cpu"))[:, p:, p:], p)

    def to_mask(self, device: torch.device | None = None) -> Tensor:
        """The dense mask on a device: bool, (H, P+N, P+N), True where query (row) may attend to key (column)."""
        total = self.num_prefix_tokens + self.num_tokens
        mask = torch.zeros(self.num_heads, total**2, dtype=torch.bool, device="cpu")
        for head in range(self.num_heads):
            mask[head, self.pair_numbers(head)] = True
        return mask.view(self.num_heads, total, total).to(device or "cpu")

    def pair_numbers(self, head: int) -> Tensor:
        """The pairs of a head, of all S tokens: query · S + key, in rising order."""
        rowptr = self.rowptr[head]
        queries = torch.arange(len(rowptr) - 1, device="cpu").repeat_interleave(rowptr.diff())
        return queries * (len(rowptr) - 1) + self.cols[rowptr[0] : rowptr[-1]]

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """``rowptr`` and ``cols`` on a device; copies are kept."""
        return (self.rowptr, self.cols) if device.type == "cpu" else _copied(self, device)

    def num_pairs(self, include_prefix: bool = True) -> int:
        """Allowed pairs, summed over heads."""
        p = self.num_prefix_tokens
        return self._num_pairs - (0 if include_prefix else self.num_heads * p * (p + 2 * self.num_tokens))

    def density(self, include_prefix: bool = False) -> float:
        """Allowed pairs / all pairs, of patch tokens only or including prefix tokens."""
        side = self.num_tokens + (self.num_prefix_tokens if include_prefix else 0)
        return self.num_pairs(include_prefix) / (self.num_heads * side**2)

    def __deepcopy__(self, memo: dict) -> Pattern:
        return self  # never changed, and large

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pattern):
            return NotImplemented
        return (
            (self.num_tokens, self.num_prefix_tokens) == (other.num_tokens, other.num_prefix_tokens)
            and torch.equal(self.rowptr, other.rowptr)
            and torch.equal(self.cols, other.cols)
        )

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return (
            f"Pattern(num_heads={self.num_heads}, num_tokens={self.num_tokens}, "
            f"num_prefix_tokens={self.num_prefix_tokens}, density={self.density():.2%})"
        )


def pair_tables(distinct: list[Tensor], heads: list[int], num_queries: int, num_keys: int) -> tuple[Tensor, ...]:
    """``rowptr``, ``cols``, ``keyptr``, ``queries`` and ``positions`` of pairs of so many queries and keys.

    Args:
        distinct: sorted pairs, as numbers query · num_keys + key.
        heads: for each head, which of them it sees.
    """
    starts = torch.tensor([0, *map(len, distinct)], device="cpu").cumsum(0)
    rows = torch.arange(num_queries + 1, device="cpu") * num_keys
    columns = torch.arange(num_keys + 1, device="cpu") * num_queries
    transposed = [(x % num_keys * num_queries + x // num_keys).sort() for x in distinct]
    return (
        torch.stack([torch.searchsorted(distinct[i], rows) + starts[i] for i in heads]),
        torch.cat([x % num_keys for x in distinct]),
        torch.stack([torch.searchsorted(transposed[i].values, columns) + starts[i] for i in heads]),
        torch.cat([x.values % num_queries for x in transposed]),
        torch.cat([x.indices for x in transposed]),
    )


@lru_cache(maxsize=64)
def _copied(pattern: Pattern, device: torch.device) -> tuple[Tensor, Tensor]:
    with _disable_current_modes():  # a copy without numbers must not outlive the pass that is traced
        return pattern.rowptr.to(device), pattern.cols.to(device)


def _with_prefix(pairs: Tensor, n: int, p: int) -> Tensor:
    """The sorted pairs of N patches -> those of all P+N tokens."""
    if not p:
        alone = torch.ones(n, dtype=torch.bool, device="cpu")
        alone[pairs // n] = False
        return torch.cat((pairs, alone.nonzero().flatten() * (n + 1))).sort().values
    total = p + n
    tokens = torch.arange(total, device="cpu")
    sees_all = tokens[:p, None] * total + tokens
    seen_by_all = tokens[p:, None] * total + tokens[:p]
    patches = (pairs // n + p) * total + pairs % n + p
    return torch.cat((sees_all.flatten(), seen_by_all.flatten(), patches)).sort().values


def _distinct(tensors: list[Tensor]) -> tuple[list[Tensor], list[int]]:
    """The tensors without repetitions, and for each given one its index among them."""
    distinct: list[Tensor] = []
    indices = []
    for x in tensors:
        index = next((i for i, known in enumerate(distinct) if known is x or torch.equal(known, x)), len(distinct))
        if index == len(distinct):
            distinct.append(x)
        indices.append(index)
    return distinct, indices
