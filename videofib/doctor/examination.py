"""All that ``videofib doctor`` examines, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from videofib.doctor.backends import backends, compile_ahead
from videofib.doctor.caches import caches
from videofib.doctor.devices import devices
from videofib.doctor.finding import Finding, reason, unavailable
from videofib.doctor.packages import packages
from videofib.doctor.readers import readers


def examine(compile_for: Sequence[int] = ()) -> Iterator[Finding]:
    """Each finding as soon as it is made.

    Args:
        compile_for: head dimensions for which the CPU kernel is compiled.
    """
    parts: tuple[tuple[str, Callable[[], Iterable[Finding]]], ...] = (
        ("packages", packages),
        ("devices", devices),
        ("readers", readers),
        ("kernels", lambda: compile_ahead(compile_for)),  # before the backends, which would compile one unmeasured
        ("backends", backends),
        ("caches", caches),
    )
    for name, part in parts:
        try:
            yield from part()
        except Exception as error:  # such as a package that this part needs and that does not import
            yield unavailable(name, reason(error), needed=True)
