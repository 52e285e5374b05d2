"""The page of all keys, ``docs/config.md``: ``python -m videofib.config.keys_page`` prints it."""

from __future__ import annotations

from collections.abc import Iterator

from videofib.config.declare import MAX_INTEGER, Key
from videofib.config.defaults import KEYS, SECTIONS

_INTRO = f"""\
# Configuration keys

Made from the declarations in [videofib/config/defaults.py](../videofib/config/defaults.py) by
`python -m videofib.config.keys_page > docs/config.md`; a test compares the two.

A run's config is the defaults below, changed by its YAML file and then by `KEY VALUE` or `KEY=VALUE` on the command
line. `--cfg` takes a path, or the name of a file in `configs/`, such as `UCF101/TimeSformer_joint_8x8_224`; an existing
file comes first. `_BASE_: other.yaml`, or a list of such files, names files that a file changes in turn, by the same
rule; relative paths start at its own folder:

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
The message names the key, the file and line, and what is accepted; mistakes of files and the command line are reported
together.

So is a key that is changed but has no effect, such as `ATTENTION.JOINT fibottention` with divided attention; the
message says which keys are read instead. If the choice comes later than the key, such as `AUG.ENABLE False` on the
command line over a file that sets `AUG.COLOR_JITTER`, the key returns to its default, and the log reports it. The log
also names the keys on the command line that only a stage reads which does not run. What reads which key is a table in
[videofib/config/effect.py](../videofib/config/effect.py).

## Files of PySlowFast and TimeSformer

YAML files of [PySlowFast](https://github.com/facebookresearch/SlowFast),
[TimeSformer](https://github.com/facebookresearch/TimeSformer) and Fibottention's release load as they are. A key that
only they have, and a value in their spelling, is understood in any file:

- **Translated** is what has a counterpart: `MODEL.MODEL_NAME vit_base_patch16_224`, `MODEL.ARCH slowfast`,
  `TRAIN.DATASET ssv2` (`DATA.SAMPLING uniform`), `AUG.AA_TYPE rand-m7-n4-mstd0.5-inc1`,
  `TIMESFORMER.PRETRAINED_MODEL` and others.
- **Ignored** is what only arranges the same thing in another way, or is about another model. One line of the log names
  every such key with the reason. In such a file, a key of ours without effect is a line, too, not an error.
- **Refused** is what would change the network, the loss or the updates and cannot be done here, such as
  `RESNET.DEPTH 101` with SlowFast.

The command line accepts keys and values of this page only. Two differences remain: `TRAIN.BATCH_SIZE` is the total over
all machines, and no weights are downloaded, so that TimeSformer starts from random weights unless
`TRAIN.CHECKPOINT_FILE_PATH` is set. The tables are in [videofib/config/foreign.py](../videofib/config/foreign.py).
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
