"""What each mode of context parallelism sends, and the choice between them.

With n = (P+N)/R tokens a process, C = H·D and rows of one head D numbers wide, each process sends about

    mode    forward                                    backward
    heads   4 n C (R-1)/R        q, k, v, then out     as much
    ring    2 n C (R-1)          k, v                  4 n C (R-1)     k, v and their gradients in 32 bits or more
    halo    2 D a row            k, v that others see  as much         gradients of these rows

The functions count exactly, as :mod:`heads`, :mod:`ring` and :mod:`halo` send: bytes to other processes, of one layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from videofib.attention.context.group import token_counts
from videofib.attention.context.halo_kernels import HALO_BACKENDS
from videofib.attention.context.heads import check_heads, split_heads
from videofib.attention.context.plan import halo_rows
from videofib.attention.support import Support


@dataclass(frozen=True)
class Traffic:
    """Bytes that each process sends: forward, and in the backward pass."""

    forward: tuple[int, ...]
    backward: tuple[int, ...]

    @property
    def most(self) -> int:
        """Of the process that sends most, in both passes."""
        return max(map(sum, zip(self.forward, self.backward, strict=True)))


def heads_traffic(
    support: Support, processes: int, *, head_dim: int, batch: int = 1, itemsize: int = 4, masking: str = "exclude"
) -> Traffic:
    """Of the exchange of tokens for heads and back.

    Args:
        support: for H heads and all P+N tokens.
        processes: R.
        head_dim, batch: D and B.
        itemsize: bytes of a number of q, k and v.
        masking: makes no difference.

    Raises:
        ValueError: fewer heads than processes.
    """
    each, total = itemsize * head_dim * batch, support.num_prefix_tokens + support.num_tokens
    sizes = list(zip(token_counts(total, processes), map(len, split_heads(support, processes)), strict=True))
    to_heads = [n * (support.num_heads - h) * each for n, h in sizes]
    to_tokens = [(total - n) * h * each for n, h in sizes]
    return Traffic(
        tuple(3 * a + b for a, b in zip(to_heads, to_tokens, strict=True)),
        tuple(a + 3 * b for a, b in zip(to_heads, to_tokens, strict=True)),
    )


def ring_traffic(
    support: Support, processes: int, *, head_dim: int, batch: int = 1, itemsize: int = 4, masking: str = "exclude"
) -> Traffic:
    """Of the ring; arguments as of :func:`heads_traffic`, but the number of processes is not limited."""
    each, total = 2 * support.num_heads * head_dim * batch, support.num_prefix_tokens + support.num_tokens
    counts = token_counts(total, processes)
    blocks = [(total - counts[(rank + 1) % processes]) * each * itemsize for rank in range(processes)]
    gradients = [(total - count) * each * max(itemsize, 4) for count in counts]
    if processes == 1:
        return Traffic((0,), (0,))
    return Traffic(tuple(blocks), tuple(map(sum, zip(blocks, gradients, strict=True))))


def halo_traffic(
    support: Support, processes: int, *, head_dim: int, batch: int = 1, itemsize: int = 4, masking: str = "exclude"
) -> Traffic:
    """Of the halo; arguments as of :func:`ring_traffic`, and the masking, as ``zero_logit`` needs sums of values."""
    wide, of_token = max(itemsize, 4), support.num_heads * batch
    sent = halo_rows(support, processes)
    left, prefix = support.num_prefix_tokens, []
    for count in token_counts(support.num_prefix_tokens + support.num_tokens, processes):
        prefix.append(min(count, left))
        left -= prefix[-1]
    forward, backward = [], []
    for rank, own in enumerate(prefix):
        others, sums = processes - 1, (processes - 1) * of_token * head_dim * wide * (masking == "zero_logit")
        theirs = (support.num_prefix_tokens - own) * of_token * wide
        forward.append(
            2 * sum(sent[rank]) * batch * head_dim * itemsize
            + own * others * of_token * head_dim * itemsize  # prefix queries
            + theirs * (head_dim + 1)  # their outputs and logs of denominators
            + sums
        )
        backward.append(
            2 * sum(row[rank] for row in sent) * batch * head_dim * itemsize
            + own * others * of_token * (head_dim + 2) * wide  # gradients, and two numbers, of prefix tokens' outputs
            + theirs * head_dim  # gradients of their queries
            + sums
        )
    return Traffic(tuple(forward), tuple(backward))


TRAFFIC: dict[str, Callable[..., Traffic]] = {"heads": heads_traffic, "ring": ring_traffic, "halo": halo_traffic}


def check_mode(mode: str, support: Support, processes: int, backend: str = "auto") -> None:
    """Raise ValueError where a mode cannot serve a support, or a backend of :func:`sparse_attention` not the mode.

    ``auto`` finds a mode that serves, but where processes are more than heads the backend must compute a halo.
    """
    if mode == "ring" and not support.is_dense:
        raise ValueError(
            "mode 'ring' of context parallelism is for dense attention, and passes all keys of a sparse one for "
            f"the few that are used; set mode 'halo', 'heads' or 'auto', got {support}"
        )
    if mode == "halo" and support.is_dense:
        raise ValueError(
            f"mode 'halo' of context parallelism is for sparse attention, and of a dense one every process needs all "
            f"keys; set mode 'ring', 'heads' or 'auto', got {support}"
        )
    if mode == "heads":
        check_heads(support.num_heads, processes)
    takes_halo = mode == "halo" or (mode == "auto" and processes > support.num_heads and not support.is_dense)
    if takes_halo and backend not in HALO_BACKENDS:
        raise ValueError(
            f"backend {backend!r} computes no halo, which {processes} processes are to exchange for the "
            f"{support.num_heads} heads of attention; set backend 'auto', or mode 'heads' and at most as many processes"
        )


@lru_cache(maxsize=256)
def choose_mode(
    support: Support,
    processes: int,
    *,
    head_dim: int,
    itemsize: int = 4,
    masking: str = "exclude",
    fast_halo: bool = True,
) -> str:
    """The mode whose process with most to send sends least, forward and backward, as ``auto`` takes it.

    Args:
        support, processes, head_dim, itemsize, masking: see :func:`heads_traffic`.
        fast_halo: whether a compiled kernel computes what a halo collects; if not, it is for more processes than heads.
    """
    other = "ring" if support.is_dense else "halo"
    if processes > support.num_heads:
        return other
    modes = ["heads"] if other == "halo" and not fast_halo else ["heads", other]
    sizes = {"head_dim": head_dim, "itemsize": itemsize, "masking": masking}
    return min(modes, key=lambda mode: TRAFFIC[mode](support, processes, **sizes).most)
