"""YAML from anyone, as text with line numbers: within bounds, without surprises.

``yaml.safe_load`` is safe from code only: a file of 345 bytes can hold lists of lists of aliases that fill the memory,
a key that stands twice silently counts once, and ``010`` is 8. Here nothing is converted: a scalar stays the text that
was written, and the key that it is for decides what it means (``declare.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import yaml

MAX_CHARACTERS = 256 * 1024  # a config with every key has 6,000
MAX_DEPTH = 10
MAX_NODES = 10_000  # scalars, lists and sections, each counted as often as aliases repeat it

_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
_SCALARS = ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")
_TAGS = {f"tag:yaml.org,2002:{name}" for name in (*_SCALARS, "seq", "map")}


class BadYaml(ValueError):
    """Text that cannot be read; the message names the line and the reason, not the file."""


class Quoted(str):
    """Text that stood in quotes, which are taken off: ``'None'`` is a name, while ``None`` is no value."""


def read_entries(text: str, mappings: Collection[str] = ()) -> list[tuple[str, object, int]]:
    """The entries of sections: (full key, what is written, line counted from 1), in order.

    What is written is a text (``Quoted`` where it stood in quotes), None for ``~`` and nothing, or a list of these; of
    the keys in ``mappings``, a dict of these. An empty section is an entry of its own, with None. Anchors, aliases and
    merge keys (``<<``) work.

    Raises:
        BadYaml: it is not sections and keys, a key stands twice, or it exceeds a bound.
    """
    root = _compose(text)
    if root is None:
        raise BadYaml("it is empty")
    if not isinstance(root, yaml.MappingNode):
        raise BadYaml(f"expected sections and keys, got {_what(root)}")
    return list(_Walk(mappings).entries(root))


def read_list(text: str) -> list:
    """A list as the command line has it: ``[0, 11, 14]``; also ``(0, 11, 14)`` and ``0,11,14``.

    Raises:
        BadYaml: it is something else, or exceeds a bound.
    """
    text = text.strip()
    if text.startswith("(") and text.endswith(")"):
        text = f"[{text[1:-1]}]"
    elif not text.startswith("[") and "," in text:
        text = f"[{text}]"
    root = _compose(text)
    if not isinstance(root, yaml.SequenceNode):
        raise BadYaml("expected a list")
    return _Walk().written(root)


def read_mapping(text: str) -> dict:
    """A mapping as the command line has it: ``{a: 1, b: {c: [1, 2]}}``; what is written, as of ``read_entries``.

    Raises:
        BadYaml: it is something else, or exceeds a bound.
    """
    root = _compose(text)
    if not isinstance(root, yaml.MappingNode):
        raise BadYaml("expected a mapping")
    found = _Walk().written(root)
    assert isinstance(found, dict)
    return found


class _Loader(yaml.SafeLoader):
    """Makes nodes, not values, and no deeper than MAX_DEPTH."""

    depth = 0

    def compose_node(self, parent, index):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise BadYaml(_too_deep(self.peek_event().start_mark.line + 1))
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _compose(text: str) -> yaml.Node | None:
    if len(text) > MAX_CHARACTERS:
        raise BadYaml(f"it has more than {MAX_CHARACTERS} characters")
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise BadYaml(where + ", ".join(filter(None, (error.context, error.problem)))) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise BadYaml(f"line {line}: the character U+{error.character:04X} is not allowed") from error


class _Walk:
    """Turns nodes into what is written. It counts them, and how deep it is: aliases make few nodes many, and deep."""

    def __init__(self, mappings: Collection[str] = ()) -> None:
        self.mappings = mappings
        self.visited = self.depth = 0
        self.lines: dict[str, int] = {}  # of full keys and sections

    def entries(self, section: yaml.MappingNode, prefix: str = "") -> Iterator[tuple[str, object, int]]:
        with self._inside(section):
            for name, (line, node) in self._pairs(section, prefix).items():
                key = prefix + name
                if key in self.lines:
                    raise BadYaml(_twice(key, self.lines[key], line))
                self.lines[key] = line
                if isinstance(node, yaml.MappingNode) and key not in self.mappings:
                    yield from self.entries(node, f"{key}.")
                else:
                    yield key, self.written(node), line

    def written(self, node: yaml.Node) -> object:
        with self._inside(node):
            if isinstance(node, yaml.ScalarNode):
                if node.tag == _NULL:
                    return None
                return Quoted(node.value) if node.style else node.value
            if isinstance(node, yaml.SequenceNode):
                return [self.written(entry) for entry in node.value]
            return {name: self.written(value) for name, (_, value) in self._pairs(node).items()}

    def _pairs(self, section: yaml.MappingNode, prefix: str = "") -> dict[str, tuple[int, yaml.Node]]:
        """name -> (line, node) of one level. What ``<<`` merges in gives way to what stands here."""
        own: dict[str, tuple[int, yaml.Node]] = {}
        merged: dict[str, tuple[int, yaml.Node]] = {}
        for key, node in section.value:
            line = key.start_mark.line + 1
            if key.tag == _MERGE:
                for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
                    if not isinstance(source, yaml.MappingNode):
                        raise BadYaml(f"line {line}: << merges sections, got {_what(source)}")
                    with self._inside(source):
                        merged = {**self._pairs(source, prefix), **merged}
            elif not isinstance(key, yaml.ScalarNode):
                raise BadYaml(f"line {line}: expected the name of a key, got {_what(key)}")
            elif key.value in own:
                raise BadYaml(_twice(prefix + key.value, own[key.value][0], line))
            else:
                own[key.value] = (line, node)
        return {**merged, **own}

    @contextmanager
    def _inside(self, node: yaml.Node) -> Iterator[None]:
        self.visited += 1
        self.depth += 1
        line = node.start_mark.line + 1
        if self.depth > MAX_DEPTH:
            raise BadYaml(_too_deep(line))
        if self.visited > MAX_NODES:
            raise BadYaml(f"line {line}: more than {MAX_NODES} entries, counting what aliases repeat")
        if node.tag not in _TAGS:
            raise BadYaml(f"line {line}: the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not allowed")
        yield
        self.depth -= 1


def _too_deep(line: int) -> str:
    return f"line {line}: nested deeper than {MAX_DEPTH} levels"


def _twice(key: str, first: int, second: int) -> str:
    return f"{key} appears twice, on lines {first} and {second}"


def _what(node: yaml.Node) -> str:
    return {"scalar": "text", "sequence": "a list", "mapping": "a section"}[node.id]
