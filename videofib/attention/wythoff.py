"""Which diagonals each attention head looks along: integers only, no tensors.

Fibottention (arXiv 2406.19391, section 3) gives head i the offsets of a generalised Fibonacci sequence that starts
with the i-th row of the Wythoff array. Every positive integer occurs in that array exactly once, so no two heads of
the standard variant share an offset:

    head 1   1  2  3  5  8 13 ...
    head 2   4  7 11 18 29 47 ...
    head 3   6 10 16 26 42 68 ...
    head 4   9 15 24 39 63 ...
"""

from math import isqrt

VARIANTS = ("wythoff", "modified", "modified_early")


def floor_phi(n: int) -> int:
    """floor(n φ) for the golden ratio φ = (1 + √5)/2, exact for any n ≥ 0."""
    return (n + isqrt(5 * n * n)) // 2


def wythoff_row(head: int) -> tuple[int, int]:
    """The first two entries (a, b) of the Wythoff array's row ``head`` = 1, 2, ... (section 3, eq. for a_i, b_i).

    a = floor(floor(iφ) φ) and b = floor(floor(iφ) φ²), where floor(nφ²) = floor(nφ) + n.
    """
    n = floor_phi(head)
    a = floor_phi(n)
    return a, a + n


def window(head: int, num_heads: int, w_min: int, w_max: int) -> int:
    """The largest offset head ``head`` may use: windows grow linearly from w_min (head 1) to w_max (head h).

    Computed in double precision, with the operations in the order of the authors' released code, so that rounding
    is the same. A single head takes w_max.
    """
    if num_heads == 1:
        return w_max
    return w_min + int((w_max - w_min) / (num_heads - 1) * (head - 1))


def fibonacci(a: int, b: int, limit: int) -> list[int]:
    """a, b, a + b, ... while not above ``limit``."""
    sequence = []
    while a <= limit:
        sequence.append(a)
        a, b = b, a + b
    return sequence


def fibottention_offsets(
    num_heads: int, num_tokens: int, w_min: int = 5, w_max: int | None = None, variant: str = "wythoff"
) -> list[list[int]]:
    """The offsets of every head: tokens j and k see each other where |j - k| is one of them.

    Args:
        num_heads: h ≥ 1.
        num_tokens: N ≥ 1, prefix (class) tokens not counted.
        w_min: window of the first head, ≥ 1.
        w_max: window of the last head; by default N // 3, as in the paper.
        variant: ``wythoff``; or ``modified``, whose rows begin two steps further left in the recurrence, at
            (i - 1, floor(iφ)), and so include the self pair in head 1; or ``modified_early``, as earlier versions of
            the released code extended the rows: head 1 is unchanged, and the two new entries and the first old one
            are kept whatever the window.

    Returns:
        For each head one sorted list without duplicates. A row's first entry is kept even above the window, so that
        no head is empty.

    Raises:
        ValueError: an argument out of range; the message shows it.
    """
    if num_heads < 1 or num_tokens < 1:
        raise ValueError(f"need at least one head and one token, got num_heads={num_heads}, num_tokens={num_tokens}")
    if w_min < 1:
        raise ValueError(f"w_min must be at least 1, got w_min={w_min}")
    if w_max is not None and w_max < w_min:
        raise ValueError(f"w_max must not be below w_min, got w_min={w_min}, w_max={w_max}")
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
    if w_max is None:
        w_max = num_tokens // 3
    rows = []
    for head in range(1, num_heads + 1):
        a, b = wythoff_row(head)
        limit = window(head, num_heads, w_min, w_max)
        if variant == "modified":
            kept, offsets = {head - 1}, fibonacci(head - 1, floor_phi(head), limit)
        else:
            kept, offsets = {a}, fibonacci(a, b, limit)
        if variant == "modified_early" and head > 1:
            kept |= {head - 1, floor_phi(head)}
        rows.append(sorted(kept.union(offsets)))
    return rows
