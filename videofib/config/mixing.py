"""Keys that choose how TimeSformer's blocks mix their tokens, and what is known of the mixers without building them.

``videofib.mixers`` has the mixers themselves, and takes seconds to import; tests compare this table with it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from fvcore.common.config import CfgNode

from videofib.config.declare import Key, Refused, as_number
from videofib.config.yaml_reader import BadYaml, Quoted, read_list, read_mapping

MIXERS = (
    *("none", "dense", "fibottention", "afno", "axial_time", "bigbird", "bixt", "cross_diagonal", "dape", "diffuser"),
    *("dilated", "efficient", "fcvit", "grid_window", "linformer", "lisa", "lit", "natten", "nystrom", "performer"),
    *("random", "rsa", "semanir", "shared", "shunted", "sparse_fixed", "strided", "topk", "tost", "window", "xcit"),
)
_ON_LINES = (  # attention over pairs of a line of tokens
    *("bigbird", "cross_diagonal", "diffuser", "dilated", "random", "shared", "sparse_fixed", "strided", "window"),
)


def _all_but(*names: str) -> tuple[str, ...]:
    return tuple(name for name in MIXERS if name not in ("none", *names))


READ_BY = {  # keys that not every mixer reads -> those that do
    "TIMESFORMER.TOKEN_ORDER": ("fibottention", *_ON_LINES, "dape", "linformer", "nystrom"),
    "TIMESFORMER.NUM_HEADS": _all_but("afno", "fcvit"),
    "TIMESFORMER.QKV_BIAS": _all_but("afno", "fcvit", "rsa"),
    "TIMESFORMER.QK_NORM": _all_but("afno", "fcvit", "lisa", "rsa"),
    "TIMESFORMER.ATTN_DROP_RATE": _all_but("afno", "fcvit", "lisa", "rsa"),
    "ATTENTION.BACKEND": ("fibottention", *_ON_LINES, "axial_time", "grid_window", "natten"),
}
OVER_SUPPORTS = (  # mixers whose tokens processes share by what TRAIN.CONTEXT_PARALLEL_MODE says
    *("dense", "fibottention", "diffuser", "dilated", "shared", "strided", "window"),
)
KINDS = {  # of attention, that each TIMESFORMER.ATTENTION_TYPE has
    "divided_space_time": ("SPACE", "TIME"),
    "joint_space_time": ("JOINT",),
    "space_only": ("SPACE",),
}
_REST = "dense"  # of blocks that are not named
_PART = re.compile(r"(?:(first|last) +(\d{1,4}) *: *)?(\w+)", re.ASCII)


def mixers_in(written: str) -> list[str]:
    """The mixers that a value of ATTENTION.SPACE, TIME or JOINT names, each once."""
    parts = list(_parts(written))
    rest = [_REST] if all(where for where, _, _ in parts) else []
    return list(dict.fromkeys([name for _, _, name in parts] + rest))


def mixers_used(cfg: CfgNode) -> list[str]:
    """The mixers of the model that a config describes, each once."""
    kinds = KINDS[cfg.TIMESFORMER.ATTENTION_TYPE]
    return list(dict.fromkeys(name for kind in kinds for name in mixers_in(cfg.ATTENTION[kind])))


def readers_of(key: str) -> str:
    """The mixers that read a key, in words."""
    others = [name for name in MIXERS if name not in READ_BY[key]]
    few = len(READ_BY[key]) <= len(others)
    return " or ".join(READ_BY[key]) if few else f"a mixer other than {', '.join(others)}"


def mixers_of_blocks(key: str, written: str, depth: int) -> str | list[str]:
    """What a value of ``key`` says of a model of ``depth`` blocks: one name for all, or one for each.

    Raises:
        ValueError: it is about more blocks, or fewer, than the model has.
    """
    parts = list(_parts(written))
    if all(not where for where, _, _ in parts):
        names = [name for _, _, name in parts]
        if len(names) not in (1, depth):
            raise ValueError(f"{key} {written} names the mixers of {len(names)} blocks, and the model has {depth}")
        return names[0] if len(names) == 1 else names
    rest = next((name for where, _, name in parts if not where), _REST)
    counts = {where: (count, name) for where, count, name in parts if where}
    (first, front), (last, back) = (counts.get(where, (0, rest)) for where in ("first", "last"))
    if first + last > depth:
        raise ValueError(f"{key} {written} names the mixers of {first + last} blocks, and the model has {depth}")
    return [front] * first + [rest] * (depth - first - last) + [back] * last


def _parts(written: str) -> Iterator[tuple[str, int, str]]:
    """(``first``, ``last`` or nothing, number of blocks, name) of each part; of no part where it has another form."""
    for part in written.split(","):
        if match := _PART.fullmatch(part.strip()):
            yield match[1] or "", int(match[2] or 0), match[3]


@dataclass(frozen=True)
class _Mixers(Key):
    """A name; names of all blocks, with commas; or ``first K: NAME, last K: NAME, NAME`` in any order."""

    @property
    def _accepted(self) -> str:
        parts = "`first 4: none, fibottention`"
        return f"one of {', '.join(MIXERS)}; a list with one for each block; or parts such as {parts}"

    def _parse(self, written: object) -> str:
        if isinstance(written, str) and written.strip().startswith("["):
            try:
                written = read_list(written)
            except BadYaml as error:
                raise Refused(self.accepted) from error
        if isinstance(written, list | tuple) and all(isinstance(name, str) for name in written):
            if any(":" in name for name in written):
                raise Refused(self.accepted)
            written = ", ".join(written)
        if not isinstance(written, str):
            raise Refused(self.accepted)
        parts = list(_parts(written))
        if not parts or len(parts) != written.count(",") + 1:
            raise Refused(self.accepted)
        for _, _, name in parts:
            if name not in MIXERS:
                near = difflib.get_close_matches(name, MIXERS, n=1)
                raise Refused(self.accepted + (f"; did you mean {near[0]}?" if near else ""))
        places = [where for where, _, _ in parts]
        if any(places) and len(set(places)) < len(places):
            raise Refused(self.accepted)  # such as two parts for the first blocks
        return ", ".join(f"{where} {count}: {name}" if where else name for where, count, name in parts)


@dataclass(frozen=True)
class Options(Key):
    """A mapping: the name of a mixer -> its options, names of arguments -> values.

    Which options a mixer has, and their types, its constructor says when the model is built.
    """

    off_value: ClassVar[dict] = {}
    _accepted = "a mapping such as {xcit: {local: True}}, mixers to their options"

    def _parse(self, written: object) -> CfgNode:
        if isinstance(written, str):
            try:
                written = read_mapping(written)
            except BadYaml as error:
                raise Refused(self.accepted) from error
        if not isinstance(written, Mapping):
            raise Refused(self.accepted)
        found = CfgNode()
        for name, options in written.items():
            if name not in MIXERS:
                near = difflib.get_close_matches(str(name), MIXERS, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; mixers: {', '.join(MIXERS)}"
                raise Refused(f"{self._accepted}, and {str(name)[:60]!r} is no mixer{hint}")
            if not isinstance(options, Mapping) or not all(str(option).isidentifier() for option in options):
                raise Refused(self.accepted)  # {w_min:3}, without a space, is a name in YAML
            found[name] = CfgNode({str(option): self._plain(value) for option, value in options.items()})
        return found

    def _plain(self, written: object) -> object:
        """A number, True, False, None, text or a list of these, as it is written in YAML."""
        if isinstance(written, list | tuple):
            return [self._plain(entry) for entry in written]
        if written is None or isinstance(written, bool | Quoted):
            return str(written) if isinstance(written, Quoted) else written
        number = as_number(written)
        if number is not None:
            return number
        if not isinstance(written, str) or "\0" in written:
            raise Refused(self.accepted)
        return {"true": True, "false": False, "none": None, "null": None, "~": None}.get(written.lower(), written)


def merged(before: Mapping[str, Mapping], later: Mapping[str, Mapping]) -> CfgNode:
    """Options of two sources: the later one decides; an empty mapping clears them."""
    names = dict.fromkeys([*before, *later]) if later else {}
    return CfgNode({name: CfgNode({**before.get(name, {}), **later.get(name, {})}) for name in names})


def mixers_of(default: str, *, about: str) -> Key:
    """The mixers of a kind of attention."""
    return _Mixers(default, about=about)


def options_of_mixers(*, about: str) -> Key:
    """A mapping from mixers to their options."""
    return Options({}, about=about, off="the defaults")
