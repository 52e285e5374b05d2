"""From files and the command line to a config: settings, each with where it was written, over the defaults."""

from __future__ import annotations

import ast
import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from fvcore.common.config import CfgNode

from videofib.config.declare import ConfigError, Refused, Setting
from videofib.config.defaults import KEYS, MAPPINGS, SECTIONS
from videofib.config.effect import reset_unread
from videofib.config.foreign import meaning, translate
from videofib.config.mixing import merged
from videofib.config.named import find_config
from videofib.config.rules import check_rules
from videofib.config.yaml_reader import BadYaml, Quoted, read_entries, read_mapping

logger = logging.getLogger(__name__)

BASE = "_BASE_"
_MODEL = "MODEL.MODEL_NAME"
_BRACKETS = {"[": "]", "{": "}"}
_SHOWN = 60  # characters of a value in a message
_NEAR = 0.775  # of two names, from 0 to 1: above it one may be meant for the other


def default_config() -> CfgNode:
    """A fresh copy of the defaults, free to change."""
    cfg = CfgNode()
    for name, key in KEYS.items():
        *sections, last = name.split(".")
        node = cfg
        for section in sections:
            node = node.setdefault(section, CfgNode())
        node[last] = key.read(key.default)
    return cfg


def load_config(
    path: str | Path | None = None, overrides: Sequence[object] = (), *, notes: list[str] | None = None
) -> CfgNode:
    """Defaults, then the YAML file (and the files its ``_BASE_`` names), then ``KEY VALUE`` pairs.

    Args:
        path: a YAML file, or the name of a config that comes with videofib; None for the defaults alone.
        overrides: ``["SOLVER.BASE_LR", "0.1", ...]`` or ``["SOLVER.BASE_LR=0.1", ...]``, as they come from the command
            line.
        notes: gets a line for each key that was returned to its default, see ``effect.py``; by default they are logged.

    Returns:
        A frozen config.

    Raises:
        ConfigError: a file that cannot be read, unknown keys (the nearest known one is named), a value that its key
            does not accept, a key without a value, values that contradict each other, or a key that is changed and
            has no effect.
    """
    files = _file_settings(find_config(path)) if path is not None else []
    return _settled(files, overrides, notes)


def saved_config(
    text: str, source: str, overrides: Sequence[object] = (), *, notes: list[str] | None = None
) -> CfgNode:
    """The config kept in a saved model (``cfg.dump()``'s text), then ``KEY VALUE`` pairs.

    Keys that another version knew and this one does not are left out, with a note.

    Args:
        source: the saved model, for messages; the text may be anybody's.
        overrides, notes: as for ``load_config``.

    Raises:
        ConfigError: not a config, or as for ``load_config``.
    """
    try:
        entries = [(key, written) for key, written, _ in read_entries(text, MAPPINGS)]
    except BadYaml as error:
        raise ConfigError(f"the config kept in {source} cannot be read: {error}") from error
    found = [] if notes is None else notes
    if unknown := [key for key, _ in entries if key not in KEYS and key not in SECTIONS]:
        found.append(
            f"this version does not know these keys of the config of {source}: {', '.join(map(_show, unknown))}"
        )
    kept = [Setting(key, written, f"in the config of {source}") for key, written in entries if key in KEYS]
    cfg = _settled([kept], overrides, found)
    for note in found if notes is None else ():
        logger.warning("%s", note)
    return cfg


def _settled(files: Sequence[list[Setting]], overrides: Sequence[object], notes: list[str] | None) -> CfgNode:
    """The defaults, changed by the settings of files and then of a command line, checked and frozen."""
    cfg, written, foreign = default_config(), {}, set()
    found: list[str] = []
    faults: list[str] = []
    for order, settings in enumerate([*files, _word_settings(overrides)]):
        if order < len(files):
            settings, read, refused = translate(settings, cfg.MODEL.MODEL_NAME if _MODEL in written else None)
            found += read
            faults += refused
        own = {setting.key for setting in settings}
        foreign = foreign | own if order < len(files) and read else foreign - own
        faults += _unknown(settings)
        for setting in settings:
            if setting.key in KEYS:
                faults += _assign(cfg, setting)
                written[setting.key] = order
                if setting.key in MAPPINGS and isinstance(setting.written, Mapping):
                    written |= {f"{setting.key}.{name}": order for name in setting.written}
    if faults:
        raise ConfigError("; ".join(faults))
    check_rules(cfg)
    found += reset_unread(cfg, written, foreign)
    if notes is not None:
        notes += found
    for note in found if notes is None else ():
        logger.warning("%s", note)
    cfg.freeze()
    return cfg


def overridden_keys(overrides: Sequence[object]) -> list[str]:
    """The keys that ``KEY VALUE`` pairs set, as ``load_config`` takes them."""
    return [setting.key for setting in _word_settings(overrides)]


def differences(before: str, cfg: CfgNode, sections: Sequence[str] = ()) -> list[str]:
    """What changed between an earlier config (``cfg.dump()``'s text) and this one: ``["SOLVER.BASE_LR 0.1 -> 0.2"]``.

    Args:
        sections: looks at these alone (``"SOLVER"``); by default at all keys.

    Raises:
        ConfigError: ``before`` is not a config; it comes from a checkpoint, which may be anybody's.
    """
    try:
        earlier = {key: written for key, written, _ in read_entries(before, MAPPINGS)} if before.strip() else {}
    except BadYaml as error:
        raise ConfigError(f"the config kept in the checkpoint cannot be read: {error}") from error
    changed = []
    for name, key in KEYS.items():
        if name in earlier and (not sections or name.split(".")[0] in sections):
            try:
                then = key.read(earlier[name])
            except Refused:
                then = _show(earlier[name])
            if then != value_of(cfg, name):
                changed.append(f"{name} {then} -> {value_of(cfg, name)}")
    return changed


def value_of(cfg: CfgNode, key: str) -> object:
    """The value at a full key name, such as ``SOLVER.BASE_LR``."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def known_keys() -> list[str]:
    """All full key names (``SOLVER.BASE_LR``), in order of declaration."""
    return list(KEYS)


def _file_settings(path: Path, inheriting: Sequence[Path] = ()) -> list[list[Setting]]:
    """The settings of a file, behind those of its bases; ``inheriting`` are the files that led to this one."""
    chain = [*inheriting, path.resolve()]
    files, own = [], []
    try:
        for key, written, line in read_entries(path.read_bytes().decode(), MAPPINGS):
            if key == BASE:
                for base in _bases(path, written, line):
                    if base.resolve() in chain:
                        raise BadYaml(f"line {line}: {BASE} leads in a circle, back to {base}")
                    files += _file_settings(base, chain)
            elif written is not None or key not in SECTIONS:  # an empty section sets nothing
                own.append(Setting(key, written, f"in {path}", line))
    except (OSError, UnicodeDecodeError, BadYaml) as error:
        raise ConfigError(f"{path} is not a config file: {' '.join(str(error).split())}") from error
    return [*files, own]


def _bases(path: Path, written: object, line: int) -> list[Path]:
    """The files that ``_BASE_`` in a file names; relative paths start at the file's folder."""
    names = written if isinstance(written, list) else [written]
    if not all(isinstance(name, str) for name in names):
        raise BadYaml(f"line {line}: {BASE} must be a path or a list of paths")
    try:
        return [find_config(name, path.parent) for name in names]
    except ConfigError as error:
        raise BadYaml(f"line {line}: {BASE}: {error}") from error


def _word_settings(words: Sequence[object]) -> list[Setting]:
    """The settings of a command line's words: ``KEY VALUE`` or ``KEY=VALUE``."""
    settings, rest = [], iter(words)
    for word in rest:
        key, assigned, value = str(word).partition("=")
        if not assigned:
            try:
                value = next(rest)
            except StopIteration:
                raise ConfigError(f"{key} has no value on the command line; write pairs KEY VALUE") from None
        if isinstance(value, str):
            if value[:1] in _BRACKETS and not value.endswith(_BRACKETS[value[0]]):
                raise ConfigError(f"{key} is {_show(value)} on the command line; put quotes around the list")
            value = _unquoted(value)
        settings.append(_within(Setting(key, value, "on the command line")))
    return settings


def _within(setting: Setting) -> Setting:
    """The mapping that ``ATTENTION.OPTIONS.xcit.local True`` and ``ATTENTION.OPTIONS {xcit: …}`` stand for."""
    for key in MAPPINGS:
        if setting.key == key and isinstance(setting.written, str):
            try:
                return setting._replace(written=read_mapping(setting.written))
            except BadYaml:
                return setting  # which the key refuses
        name, _, option = setting.key.removeprefix(f"{key}.").partition(".")
        if setting.key.startswith(f"{key}.") and option:
            return setting._replace(key=key, written={name: {option: setting.written}})
    return setting


def _unquoted(word: str) -> str:
    """A word without quotes of Python's around it, as in ``"'None'"``, which the shell leaves on."""
    if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"":
        try:
            inner = ast.literal_eval(word)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return word
        return Quoted(inner) if isinstance(inner, str) else word
    return word


def _unknown(settings: Sequence[Setting]) -> list[str]:
    """Words on all unknown keys of one source, if there are any."""
    unknown = [setting for setting in settings if setting.key not in KEYS]
    if len(unknown) == 1:
        (setting,) = unknown
        return [f"unknown key {_show(setting.key)} {setting.where}; {_hint(setting.key)}"]
    if unknown:
        listed = "; ".join(
            f"{_show(key)} ({f'line {line}, ' if line else ''}{_hint(key)})" for key, _, _, line in unknown
        )
        return [f"{len(unknown)} unknown keys {unknown[0].source}: {listed}"]
    return []


def _hint(key: str) -> str:
    if key in SECTIONS:
        return "it is a section, whose keys stand below it"
    if theirs := meaning(key):
        return f"it is {theirs}"
    spellings = {name.rpartition(".")[2]: name for name in KEYS} | {name: name for name in KEYS}
    for wanted in (key.upper(), key.upper().rpartition(".")[2]):
        if near := difflib.get_close_matches(wanted, spellings, n=1, cutoff=_NEAR):
            return f"the nearest known key is {spellings[near[0]]}"
    return "no known key is near"


def _assign(cfg: CfgNode, setting: Setting) -> list[str]:
    """Set a key; returns words on a value that it does not accept."""
    key = KEYS[setting.key]
    try:
        value = key.read(setting.written)
    except Refused as refused:
        shown = _show(setting.written)
        return [f"{setting.key} is {shown} {setting.where}; it must be {refused}"]
    *sections, last = setting.key.split(".")
    node = cfg
    for section in sections:
        node = node[section]
    node[last] = merged(node[last], value) if setting.key in MAPPINGS else value
    return []


def _show(written: object) -> str:
    """What was written, in one short line."""
    if isinstance(written, list):
        return _shortened(f"[{', '.join(map(_show, written))}]")
    if isinstance(written, Mapping):
        return _shortened(f"{{{', '.join(f'{name}: {_show(value)}' for name, value in written.items())}}}")
    return _shortened(written if isinstance(written, str) and re.fullmatch(r"[!-~]+", written) else repr(written))


def _shortened(words: str) -> str:
    return words if len(words) <= _SHOWN else f"{words[: _SHOWN - 3]}..."
