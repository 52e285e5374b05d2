"""The page of all keys, ``docs/config.md``: ``python -m videofib.config.keys_page`` prints it."""

from __future__ import annotations

from collections.abc import Iterator

from videofib.config.declare import MAX_INTEGER, Key
from videofib.config.defaults import KEYS, SECTIONS

_INTRO = f"""\
# Configuration keys

Made from the declarations in [videofib/config/defaults.py](../videofib/config/defaults.py) by
`python -m videofib.config.keys_page > docs/config.md`; a test compares the two.

A run's config is the defaults below, changed by its YAML file (`--cfg FILE`) and then by `KEY VALUE` or `KEY=VALUE` on
the command line. `_BASE_: other.yaml`, or a list of such files, names files that a file changes in turn; the paths
start at its own folder:

```yaml
_BASE_: ../Kinetics/TimeSformer_joint_fibottention_8x32_224.yaml
DATA:
  PATH_TO_DATA_DIR: data/diving48
SOLVER:
  BASE_LR: 1e-3
```

- **True** and **False** may be written in any case, and as yes, no, on or off.
- **Integers** may be written as `8`, `1e1` or `1_000`, up to {MAX_INTEGER}; **numbers** are finite. `010` is an error,
  because YAML reads it as 8.
- **Text** is what is written: `OUTPUT_DIR 2024` is a folder of that name.
- **Lists** are written `[0, 11, 14]`; on the command line they need quotes where they have spaces.
- **Off.** The value that turns a key off depends on its kind alone: 0 for numbers, `''` for text, `[]` for lists,
  `none` for choices. `~` and `None` stand for that value. Keys that can be off have it in the table, with its meaning.

Unknown keys, values that a key does not accept, and values that contradict each other are errors before a run begins.
The message names the key, the file and line, and what is accepted.

So is a key that is changed but has no effect, such as `ATTENTION.JOINT fibottention` with divided attention; the
message says which keys are read instead. If the choice comes later than the key, such as `AUG.ENABLE False` on the
command line over a file that sets `AUG.COLOR_JITTER`, the key returns to its default, and the log reports it. The log
also names the keys on the command line that only a stage reads which does not run. What reads which key is a table in
[videofib/config/effect.py](../videofib/config/effect.py).
"""


def keys_page() -> str:
    """The page, in Markdown."""
    return "\n".join([_INTRO, *(line for name in SECTIONS for line in _section(name))])


def _section(name: str) -> Iterator[str]:
    yield f"## {name or 'At the top'}"
    yield ""
    yield SECTIONS[name]
    yield ""
    yield "| key | default | accepted | unit | meaning |"
    yield "|---|---|---|---|---|"
    for full_name, key in KEYS.items():
        if full_name.rpartition(".")[0] == name:
            yield f"| `{full_name}` | `{_default(key)}` | {key.accepted} | {key.unit} | {key.about} |"
    yield ""


def _default(key: Key) -> str:
    value = key.default
    return value if isinstance(value, str) and value.strip() else repr(value)


if __name__ == "__main__":
    print(keys_page(), end="")
