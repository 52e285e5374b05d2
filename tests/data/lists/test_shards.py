"""Shards contain the same videos as the files they were made of, from a folder or a URL, for WebDataset too."""

import itertools
import json
import math
import tarfile

import numpy as np
import pytest
import torch
from pyarrow import parquet

from tests.data.clips.test_dataset import config
from videofib import cli
from videofib.config import ConfigError
from videofib.data.errors import ManifestError
from videofib.data.lists.manifest import ManifestRow, read_list, write_list, write_manifest
from videofib.data.lists.parquet import to_values, typed_columns, write_columns
from videofib.data.lists.shard_index import COLUMNS, LABELS, read_shards
from videofib.prep.encode import write_video
from videofib.run.loaders import build_eval_loader, build_train_loader
from videofib.run.training import train_from_config


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Twelve videos of noise in a prepared folder."""
    root = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    rows = [ManifestRow(f"videos/v {i}.mp4", i % 3, "train", num_frames=10 + i, fps=25.0) for i in range(12)]
    for row in rows:
        write_video(root / row.path, rng.integers(0, 256, (row.num_frames, 48, 64, 3), dtype=np.uint8), 25)
    for split in ("train", "val"):
        write_list(root / f"{split}.csv", [(row.path, row.label) for row in rows])
    write_manifest(root / "manifest.parquet", rows)
    (root / "classes.txt").write_text("a\nb\nc\n")
    return root


@pytest.fixture(scope="module")
def shards(files, tmp_path_factory):
    """The same in shards of a few videos each, by the command."""
    out = tmp_path_factory.mktemp("shards")
    cli.main(["prep", "shards", str(files), "--out", str(out), "--shard-bytes", "150000"])
    return out


def views(cfg):
    """{video id: its view} of the val split, which nothing random touches."""
    loader = build_eval_loader(cfg, "val")
    found = {}
    for batch in loader:
        assert batch["failures"] == []
        for index, view in zip(batch["indices"].tolist(), batch["views"].clone(), strict=True):
            found[loader.dataset.records[index].video_id] = view
    loader.close()
    return found


def test_webdataset_finds_videos_labels_and_facts_by_name(files, shards):
    tars = sorted(shards.glob("train-*.tar"))
    assert len(tars) > 2
    seen = {}
    for path in tars:
        with tarfile.open(path) as tar:
            names = tar.getnames()
            for key in sorted({name.split(".")[0] for name in names}):
                assert [name for name in names if name.split(".")[0] == key] == [
                    f"{key}.mp4",
                    f"{key}.cls",
                    f"{key}.json",
                ]
                facts = json.load(tar.extractfile(f"{key}.json"))
                label = int(tar.extractfile(f"{key}.cls").read())
                seen[facts["video_id"]] = label
                assert tar.extractfile(f"{key}.mp4").read() == (files / facts["video_id"]).read_bytes()
    assert seen == {f"videos/v {i}.mp4": i % 3 for i in range(12)}
    assert (shards / "classes.txt").read_bytes() == (files / "classes.txt").read_bytes()


def test_packing_again_gives_the_same_bytes(files, shards, tmp_path):
    cli.main(["prep", "shards", str(files), "--out", f"file://{tmp_path}/again", "--shard-bytes", "150000"])
    names = sorted(path.name for path in shards.iterdir())
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == names
    assert all((tmp_path / "again" / name).read_bytes() == (shards / name).read_bytes() for name in names)


def test_packing_into_fewer_shards_leaves_none_of_the_old_ones(files, tmp_path):
    for size, count in [("150000", 3), ("100000000", 1)]:
        cli.main(["prep", "shards", str(files), "--out", str(tmp_path), "--shard-bytes", size])
        assert len(list(tmp_path.glob("val-*.tar"))) == count
        assert len(read_shards(tmp_path, "val")) == 12


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_the_loader_reads_the_same_from_shards_and_urls(files, shards, scheme, workers):
    expected = views(config(files))
    found = views(config(f"{scheme}{shards}", "DATA_LOADER.NUM_WORKERS", workers))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_few_shards_are_read_at_a_time(files, shards):
    loader = build_train_loader(config(shards, "DATA_LOADER.SHARD_WINDOW", 1, "TRAIN.BATCH_SIZE", 1))
    records = loader.dataset.records
    order = [records[index].path.path for _, index, _ in loader.sampler]
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert changes == len(set(order)) - 1
    with pytest.raises(ConfigError, match=r"DATA_LOADER\.SHARD_WINDOW needs shards"):
        build_train_loader(config(files, "DATA_LOADER.SHARD_WINDOW", 1))


def test_a_shard_that_is_cut_short_costs_its_last_videos(shards, tmp_path):
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = tmp_path / "val-000001.tar"
    victim.write_bytes(victim.read_bytes()[:40000])
    for scheme in ("", "file://"):
        loader = build_eval_loader(config(f"{scheme}{tmp_path}"), "val")
        failures = [failure for batch in loader for failure in batch["failures"]]
        assert failures
        assert all(f"{scheme}{victim}[" in reason for _, reason in failures), failures


@pytest.mark.parametrize(
    ("column", "value"), [("shard", "../../etc/x.tar"), ("start", -1), ("size", 0), ("label", -1), ("shard", "a.zip")]
)
def test_an_index_that_leads_out_of_its_folder_is_refused(shards, tmp_path, column, value):
    columns = to_values(typed_columns(shards / "train.parquet", COLUMNS))
    columns[column][0] = value
    write_columns(tmp_path / "train.parquet", columns, COLUMNS)
    with pytest.raises(ManifestError, match=r"train\.parquet: row 1: 'videos/v \d+\.mp4' cannot be"):
        read_shards(tmp_path, "train")


HUGE = 2**62


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": math.nan}, r"row 3: .* cannot have \d+ frames at nan a second; pack it again"),
        ({"fps": math.inf}, r"row 3: .* cannot have \d+ frames at inf a second"),
        ({"fps": -25.0}, r"row 3: .* cannot have \d+ frames at -25.0 a second"),
        ({"num_frames": -1}, r"row 3: .* cannot have -1 frames"),
        ({"num_frames": HUGE}, r"row 3: .* cannot have 4611686018427387904 frames"),
        ({"start": HUGE}, r"row 3: .* cannot be \d+ bytes of '.*' from 4611686018427387904"),
        ({"size": HUGE}, r"row 3: .* cannot be 4611686018427387904 bytes"),
        ({"start": 2**63 - 1, "size": 2**63 - 1}, r"row 3: .* cannot be 9223372036854775807 bytes"),
        ({"label": HUGE}, r"row 3: .* with label=4611686018427387904"),
        ({"shard": "a\0.tar"}, r"row 3: .* cannot be \d+ bytes of 'a.x00\.tar'"),
    ],
)
def test_facts_that_no_packing_writes_are_refused_with_the_row(shards, tmp_path, change, message):
    columns = to_values(typed_columns(shards / "train.parquet", COLUMNS))
    for name, value in change.items():
        columns[name][2] = value
    write_columns(tmp_path / "train.parquet", columns, COLUMNS)
    with pytest.raises(ManifestError, match=rf"train\.parquet: {message}"):
        read_shards(tmp_path, "train")


def test_videos_that_overlap_or_occur_twice_are_refused_with_both_rows(shards, tmp_path):
    intact = to_values(typed_columns(shards / "train.parquet", COLUMNS))
    columns = {name: list(values) for name, values in intact.items()}
    columns["start"][1] = columns["start"][0] + columns["size"][0] - 1
    write_columns(tmp_path / "train.parquet", columns, COLUMNS)
    with pytest.raises(ManifestError, match=r"\(row 1\) and .* \(row 2\) overlap in 'train-000000\.tar'"):
        read_shards(tmp_path, "train")
    columns = {name: list(values) for name, values in intact.items()}
    columns["video_id"][4] = columns["video_id"][2]
    write_columns(tmp_path / "train.parquet", columns, COLUMNS)
    with pytest.raises(ManifestError, match=r"train\.parquet: row 5: .* is already in row 3; pack it again"):
        read_shards(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["fps"]), "lacks the columns fps"),
        (lambda table: table.append_column("size", table["size"]), "the column size occurs twice"),
        (lambda table: table.set_column(1, "start", table["start"].cast("int32")), "the column start holds int32"),
        (lambda table: table.set_column(6, "fps", [[None] * len(table)]), "the column fps holds null"),
        (lambda table: table.slice(0, 0), "lists no videos"),
    ],
)
def test_an_index_of_other_columns_is_refused(shards, tmp_path, change, message):
    parquet.write_table(change(parquet.read_table(shards / "train.parquet")), tmp_path / "train.parquet")
    with pytest.raises(ManifestError, match=rf"train\.parquet.* {message}"):
        read_shards(tmp_path, "train")


SMALL_MODEL = {
    "TIMESFORMER.ATTENTION_TYPE": "joint_space_time",
    "TIMESFORMER.EMBED_DIM": 24,
    "TIMESFORMER.DEPTH": 1,
    "TIMESFORMER.NUM_HEADS": 2,
    "MODEL.NUM_CLASSES": 4,
    "SOLVER.MAX_EPOCH": 1,
    "SOLVER.WARMUP_EPOCHS": 0.0,
    "OUTPUT_DIR": "{out}",
}


def test_shards_carry_several_classes_of_a_video_and_a_run_trains_on_them(files, tmp_path):
    """Every other video has class 3 beside its own."""
    rows = read_list(files / "train.csv")
    lines = [f"{files}/{row.video_id} {row.label}{',3' if i % 2 else ''}\n" for i, row in enumerate(rows)]
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text("".join(lines))
    cli.main(["prep", "shards", str(tmp_path), "--out", str(tmp_path / "shards"), "--shard-bytes", "150000"])

    model = [str(part).format(out=tmp_path / "run") for item in SMALL_MODEL.items() for part in item]
    several = [*model, "MODEL.LOSS_FUNC", "bce_logit"]
    expected, found = (
        {record.video_id: record.classes for record in build_train_loader(config(folder, *several)).dataset.records}
        for folder in (tmp_path, tmp_path / "shards")
    )
    assert found == expected
    assert {len(classes) for classes in found.values()} == {1, 2}
    (batch, *_) = build_train_loader(config(tmp_path / "shards", *several))
    assert batch["labels"].shape == (4, 4)

    for path in (tmp_path / "shards").glob("train-*.tar"):
        with tarfile.open(path) as tar:
            facts = [json.load(tar.extractfile(name)) for name in tar.getnames() if name.endswith(".json")]
            assert all(tuple(fact["labels"]) == expected[fact["video_id"]] for fact in facts)
            assert not [name for name in tar.getnames() if name.endswith(".cls")]  # which holds one class index

    train_from_config(config(tmp_path / "shards", *several), stop=lambda: False)
    (saved,) = (tmp_path / "run/checkpoints").glob("*.pyth")
    assert saved.name == "checkpoint_epoch_00001.pyth"
    with pytest.raises(ManifestError, match=r"train\.parquet: row \d+: '.*v \d+\.mp4' has the labels \d,3; .* bce"):
        build_train_loader(config(tmp_path / "shards"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("1,2", r"has label=0, but the labels 1,2"),
        ("0,x", r"of '0,x': label 'x' is not a class index"),
        ("0,0", r"'0,0' names a class twice"),
    ],
)
def test_labels_of_an_index_that_contradict_each_other_are_refused(shards, tmp_path, labels, message):
    columns = to_values(typed_columns(shards / "train.parquet", COLUMNS))
    texts = [str(label) for label in columns["label"]]
    texts[columns["label"].index(0)] = labels
    write_columns(tmp_path / "train.parquet", {**columns, "labels": texts}, COLUMNS | LABELS)
    with pytest.raises(ManifestError, match=rf"train\.parquet: row \d+: 'videos/v \d+\.mp4'.* {message}"):
        read_shards(tmp_path, "train", multi_label=True)


def test_missing_files_and_unknown_protocols_are_reported(files, tmp_path, capsys):
    with pytest.raises(
        ManifestError, match=r"no index of shards: file://.*/train\.parquet cannot be fetched: FileNotFound"
    ):
        build_train_loader(config(f"file://{tmp_path}"))
    with pytest.raises(
        ManifestError, match=r"unknown://x/train\.parquet cannot be fetched: ValueError: Protocol not known"
    ):
        build_train_loader(config("unknown://x"))
    for folder, message in [(tmp_path, "has none of train.csv"), (files, "cannot be written")]:
        with pytest.raises(SystemExit):
            cli.main(["prep", "shards", str(folder), "--out", "unknown://x"])
        assert message in capsys.readouterr().err
