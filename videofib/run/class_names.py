"""What the classes of a run are called: in its data set, in the checkpoint that it uses, and whether the two agree.

A model's outputs are the classes that its checkpoint names. A data set that names its own is compared by name: the
labels of a test are mapped to the checkpoint's order, and classes that it does not know are refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode

from videofib.checkpoint.file import CheckpointError
from videofib.classes import ClassesError, positions, shown
from videofib.config import ConfigError
from videofib.data.lists.classes_file import CLASSES_NAME
from videofib.data.lists.manifest import ManifestError
from videofib.data.lists.records import Records
from videofib.data.lists.remote import is_remote
from videofib.data.lists.shard_index import has_shards, shard_class_names
from videofib.data.lists.splits import names_classes, split_class_names
from videofib.distributed import processes
from videofib.models.pretrained.weight_files import Weights, read_weights
from videofib.run.lists import list_options

logger = logging.getLogger(__name__)


def data_class_names(cfg: CfgNode, split: str) -> list[str] | None:
    """The names that a split gives to its labels, None where it gives none; there may be more or fewer than outputs.

    Raises:
        ManifestError: ``classes.txt`` cannot be used.
    """
    if has_shards(cfg.DATA.PATH_TO_DATA_DIR, split):
        return shard_class_names(cfg.DATA.PATH_TO_DATA_DIR)
    return split_class_names(cfg.DATA.PATH_TO_DATA_DIR, split, **list_options(cfg))


def shown_class_names(cfg: CfgNode, split: str, records: Records) -> list[str] | None:
    """The names that a split gives to its own labels, whatever classes a model has; None where it gives none.

    Raises:
        ManifestError: ``classes.txt`` cannot be used, or has no name for a label.
    """
    names = data_class_names(cfg, split)
    if names is not None:
        _check_labels(split, records, names)
    return names


def read_class_names(cfg: CfgNode, split: str) -> list[str] | None:
    """The names that a split gives to the classes of the config's model; None where it gives none.

    Raises:
        ManifestError: ``classes.txt`` cannot be used.
        ConfigError: MODEL.NUM_CLASSES is another number.
    """
    names = data_class_names(cfg, split)
    if names is not None and len(names) != cfg.MODEL.NUM_CLASSES:
        raise ConfigError(
            f"{_where(cfg)} names {len(names)} classes, but MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}; they are "
            f"{shown(names)}"
        )
    return names


def class_names_to_train(cfg: CfgNode) -> list[str] | None:
    """The names of the classes of a model to train: those of the train split, or of the teacher where none is read.

    Raises:
        ManifestError, ConfigError: as ``read_class_names``.
        CheckpointError: the teacher's weights name another number of classes than MODEL.NUM_CLASSES.
    """
    if cfg.DISTILL.DATA_FREE == "none":
        return read_class_names(cfg, "train")
    weights = read_weights(cfg.DISTILL.CHECKPOINT, cfg.DISTILL.CHECKPOINT_PART)
    return None if weights.classes is None else tested_class_names(cfg, weights)


def trained_class_names(cfg: CfgNode) -> list[str] | None:
    """The same as ``class_names_to_train``.

    Where only the val split names its classes, they cannot be compared, and a warning says so.

    Raises:
        ManifestError, ConfigError, CheckpointError: likewise.
    """
    names = class_names_to_train(cfg)
    if (
        names is None
        and cfg.DISTILL.DATA_FREE == "none"
        and data_class_names(cfg, "val") is not None
        and processes.is_main()
    ):
        logger.warning(
            "in %s the val split names its classes by its folders, and the train split does not, so they cannot be "
            "compared; name the classes of the lists in %s",
            cfg.DATA.PATH_TO_DATA_DIR,
            CLASSES_NAME,
        )
    return names


def tested_class_names(cfg: CfgNode, weights: Weights) -> list[str] | None:
    """The names of the classes of a model to test: those that its weights have, else those of the test split.

    Where only the test split names its classes, they cannot be compared, and a warning says so.

    Raises:
        ManifestError: ``classes.txt`` cannot be used.
        CheckpointError: the weights name another number of classes than MODEL.NUM_CLASSES.
        ConfigError: they name none, and the test split another number.
    """
    if weights.classes is None:
        names = read_class_names(cfg, "test")
        if names is not None and processes.is_main():
            logger.warning(
                "%s does not name its classes, so they cannot be compared with those of %s: its first is taken to be "
                "%r, and so on",
                weights.name,
                _where(cfg),
                names[0],
            )
        return names
    if len(weights.classes) != cfg.MODEL.NUM_CLASSES:
        raise CheckpointError(
            f"{weights.name} has {len(weights.classes)} classes, {shown(weights.classes)}, but MODEL.NUM_CLASSES is "
            f"{cfg.MODEL.NUM_CLASSES}; set it to {len(weights.classes)}"
        )
    return list(weights.classes)


def with_labels_of(cfg: CfgNode, split: str, records: Records, classes: Sequence[str] | None) -> Records:
    """The records of a split, their labels mapped by name to positions in ``classes``; as they are without names.

    So are records without labels, and those of a list that names classes itself, which is read with ``classes``.

    Where only ``classes`` are known, they cannot be compared, and a warning says so.

    Raises:
        ManifestError: ``classes.txt`` cannot be used, or has no name for a label.
        ConfigError: the split has classes that are not among these.
    """
    if not records.has_labels:
        return records
    if classes is None or _names_its_classes(cfg, split):  # read with these names
        return records
    names = data_class_names(cfg, split)
    if names is None:
        if processes.is_main():
            logger.warning(
                "the %s split in %s does not name its classes, so they cannot be compared with the model's: label 0 is "
                "taken to be %r, and so on; write them into %s",
                split,
                cfg.DATA.PATH_TO_DATA_DIR,
                classes[0],
                CLASSES_NAME,
            )
        return records
    try:
        label_of = positions(names, classes)
    except ClassesError as error:
        raise ConfigError(
            f"the {split} split has classes that the model does not: in {_where(cfg)}, {error}; give them the model's "
            "names, or leave them out of the data set"
        ) from error
    if label_of == list(range(len(classes))):
        return records
    _check_labels(split, records, names)
    if processes.is_main():
        logger.info("labels of the %s split are mapped by name to the model's %d classes", split, len(classes))
    return records.with_labels(label_of)


def warn_of_absent_classes(cfg: CfgNode, class_names: Sequence[str] | None, splits: Sequence[Records]) -> None:
    """Warn where no names say how many classes there are, and the lists have no video of some."""
    if class_names is not None or not processes.is_main():
        return
    present = set(np.unique(np.concatenate([records.classes for records in splits])).tolist())
    if missing := sorted(set(range(cfg.MODEL.NUM_CLASSES)) - present):
        logger.warning(
            "MODEL.NUM_CLASSES is %d, but %s videos of %d classes, labels %d to %d: none of "
            "label %d%s; set it to the number of classes, or name all of them in %s",
            cfg.MODEL.NUM_CLASSES,
            "the train and val lists have" if len(splits) > 1 else "the train list has",
            len(present),
            min(present),
            max(present),
            missing[0],
            f" and {len(missing) - 1} others" if len(missing) > 1 else "",
            CLASSES_NAME,
        )


def _check_labels(split: str, records: Records, names: Sequence[str]) -> None:
    label, row = records.highest_label()
    if label >= len(names):
        raise ManifestError(
            f"the {split} split has label {label} ({records[row].video_id}), but its {len(names)} classes are "
            f"{shown(names)}"
        )


def _names_its_classes(cfg: CfgNode, split: str) -> bool:
    """Whether the rows of a split's list have names of classes as labels."""
    folder = cfg.DATA.PATH_TO_DATA_DIR
    return not has_shards(folder, split) and bool(names_classes(folder, split, **list_options(cfg)))


def _where(cfg: CfgNode) -> str:
    """What names the classes of the data set, for a message: its file, or the folder that has one for each."""
    folder, file = cfg.DATA.PATH_TO_DATA_DIR, f"{cfg.DATA.PATH_TO_DATA_DIR}/{CLASSES_NAME}"
    if is_remote(folder) or Path(file).is_file():
        return file
    return names_classes(folder, "train", **list_options(cfg)) or folder
