"""How each published system's golden file is computed with our modules; one file a system, found by its prefix.

A module ``tests/mixers/published/<name>.py`` has ``SYSTEMS``, the prefixes of the files that it computes, and one of ::

    compute(case) -> Result     the harness compares outputs and gradients with what the file holds
    check(case) -> None         for files of another kind, such as masks: it compares by itself

Nothing in them depends on a file's name beyond the prefix: sizes and options come from the file's own ``__config``.
"""

from tests.mixers.published.case import Case, Result, load

__all__ = ["Case", "Result", "load"]
