"""Data sets and loaders on real files: determinism, division over processes, and unreadable videos."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import videofib.data.clips.dataset
from videofib.config import ConfigError, load_config
from videofib.data.clips.dataset import MAX_DRAWS, ClipDataset, ClipSpec, ViewDataset, read_clips
from videofib.data.clips.transforms import TrainTransform, ViewTransform
from videofib.data.lists.manifest import ManifestError, ManifestRow, write_list, write_manifest
from videofib.data.lists.record import VideoRecord
from videofib.data.loading.loader import VideoLoader
from videofib.data.samplers import EpochSampler, shuffled
from videofib.data.sampling import clip_indices, train_start
from videofib.data.video.decode import probe, read_frames
from videofib.data.video.pyav_reader import open_in_order
from videofib.prep.encode import write_video
from videofib.run.loaders import build_eval_loader, build_train_loader

PIXELS = {"mean": [0.0] * 3, "std": [1 / 255] * 3}  # normalised values are the pixels' own
TRAIN = TrainTransform(32, [32, 40], flip=True, **PIXELS)
EVERY_FRAME = ClipSpec(num_frames=4, sampling_rate=2, target_fps=25)


def grey_video(path, count, step=4):
    """Frame i is grey of value step * i."""
    write_video(path, [np.full((48, 64, 3), min(step * i, 255), np.uint8) for i in range(count)], 25)
    return VideoRecord(str(path), 0, path.name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve short videos with train, val and test lists and a manifest."""
    root = tmp_path_factory.mktemp("data")
    names = [f"v {i}.mp4" for i in range(12)]
    rows = []
    for label, name in enumerate(names):
        grey_video(root / name, 10 + label)
        size = (root / name).stat().st_size
        rows.append(
            ManifestRow(name, label % 3, "train", num_frames=10 + label, fps=25.0, random_access=True, size=size)
        )
    for split in ("train", "val", "test"):
        write_list(root / f"{split}.csv", [(row.path, row.label) for row in rows])
    write_manifest(root / "manifest.parquet", rows)
    return root


def config(folder, *overrides):
    settings = {
        "DATA.PATH_TO_DATA_DIR": folder,
        "DATA.NUM_FRAMES": 4,
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TRAIN_JITTER_SCALES": [32, 40],
        "DATA.TEST_CROP_SIZE": 32,
        "TRAIN.BATCH_SIZE": 4,
        "TEST.BATCH_SIZE": 12,
        "TEST.NUM_ENSEMBLE_VIEWS": 2,
        "DATA_LOADER.NUM_WORKERS": 0,
    }
    if "uniform" not in overrides:
        settings["DATA.SAMPLING_RATE"] = 2
    pairs = [str(part) for item in settings.items() for part in item]
    return load_config(None, [*pairs, *map(str, overrides)])


def batches(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return list(loader)


EVERYTHING = [
    *["AUG.ENABLE", True, "AUG.RE_PROB", 0.5, "AUG.NUM_SAMPLE", 2, "AUG.COLOR_JITTER", 0.4, "AUG.AA_TYPE", "augmix"],
    *["DATA.SAMPLING", "uniform", "DATA.TRAIN_JITTER_SCALES_RELATIVE", [0.08, 1.0]],
    *["DATA.TRAIN_JITTER_ASPECT_RELATIVE", [0.75, 1.3333]],
]


@pytest.mark.parametrize(
    ("augmented", "views"),
    [(["AUG.ENABLE", True, "AUG.RE_PROB", 0.5], 1), (EVERYTHING, 2)],
    ids=["usual", "everything"],
)
def test_training_batches_do_not_depend_on_the_number_of_workers(folder, augmented, views):
    alone = build_train_loader(config(folder, *augmented))
    helped = build_train_loader(config(folder, *augmented, "DATA_LOADER.NUM_WORKERS", 2))
    for epoch in (0, 1, 0):  # and not on what was read before
        for one, other in zip(batches(alone, epoch), batches(helped, epoch), strict=True):
            assert one["views"].shape == (4, views, 3, 4, 32, 32)
            assert torch.equal(one["views"], other["views"])
            assert torch.equal(one["indices"], other["indices"])
            assert torch.equal(one["labels"], one["indices"] % 3)
    first, second = batches(alone, 0), batches(alone, 1)
    assert not torch.equal(first[0]["views"], second[0]["views"])


def test_the_config_reaches_the_training_transform(folder):
    read = build_train_loader(config(folder, *EVERYTHING)).dataset.read
    transform = read.transform
    assert (read.num_views, read.spec.sampling) == (2, "uniform")
    assert (transform.relative_areas, transform.relative_aspects) == ((0.08, 1.0), (0.75, 1.3333))
    assert (transform.color_strength, type(transform.augment).__name__) == (0.4, "AugMix")
    assert build_eval_loader(config(folder, *EVERYTHING), "val").dataset.read.spec.sampling == "uniform"
    off = config(folder, *EVERYTHING)
    off.defrost()
    off.AUG.ENABLE = False
    read = build_train_loader(off).dataset.read
    assert (read.num_views, read.transform.color_strength, read.transform.augment) == (2, 0.0, None)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "AUG.AA_TYPE",
            "v0",
            "the AUG keys do not describe an augmentation: .*'v0'; "
            "expected rand-m<0 to 10>-n<operations>, trivial or augmix",
        ),
        ("AUG.RE_MODE", "noise", "AUG.RE_MODE is noise on the command line; it must be one of pixel, const, rand"),
    ],
)
def test_an_unknown_augmentation_is_a_config_error(folder, key, value, message):
    with pytest.raises(ConfigError, match=message):
        build_train_loader(config(folder, "AUG.ENABLE", True, key, value))


def test_loading_leaves_the_global_generators_alone(folder):
    loader = build_train_loader(config(folder, "AUG.ENABLE", True))
    torch.manual_seed(3)
    random.seed(3)
    state = torch.get_rng_state(), random.getstate()
    batches(loader, 0)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_evaluation_covers_each_video_exactly_once(folder, split, world_size):
    cfg = config(folder, "TEST.BATCH_SIZE", 30)
    views = 6 if split == "test" else 1
    seen = Counter()
    for rank in range(world_size):
        loader = build_eval_loader(cfg, split, rank, world_size)
        assert len(loader.dataset.records) == 12
        for batch in loader:
            assert batch["views"].shape[1:] == (views, 3, 4, 32, 32)
            assert len(batch["views"]) <= max(1, 30 // world_size // views)
            assert torch.equal(batch["labels"], batch["indices"] % 3)
            seen.update(batch["indices"].tolist())
    assert seen == Counter(range(12))


def test_an_evaluation_loader_can_be_restricted_to_some_videos(folder):
    loaders = [build_eval_loader(config(folder), "val", rank, 2) for rank in range(2)]
    for loader in loaders:
        loader.restrict([0, 3, 4, 9, 11])
    seen = [[index for batch in loader for index in batch["indices"].tolist()] for loader in loaders]
    assert seen == [[0, 4, 11], [3, 9]]


def test_validation_sees_the_middle_clip_and_testing_the_full_video(tmp_path):
    records = [grey_video(tmp_path / "a.mp4", 40)]
    transform = ViewTransform(32, 32, 1, **PIXELS)
    item = ViewDataset(records, EVERY_FRAME, transform, 1)[0]  # clip of 8, middle start 16: 16, 18, 20, 23
    assert (item["views"][0, 0, :, 0, 0] / 4).round().tolist() == [16, 18, 20, 23]
    item = ViewDataset(records, EVERY_FRAME, transform, 3)[0]
    assert (item["views"][:, 0, :, 0, 0] / 4).round()[:, [0, 3]].tolist() == [[0, 7], [16, 23], [32, 39]]


def test_published_starts_are_for_testing_alone(folder, tmp_path):
    record = grey_video(tmp_path / "a.mp4", 40)
    transform = ViewTransform(32, 32, 1, **PIXELS)
    published = replace(EVERY_FRAME, view_starts="published")  # clips of 8, so delta is 32

    def seen(spec, count):
        views = ViewDataset([record], spec, transform, count)[0]["views"]
        return (views[:, 0, :, 0, 0] / 4).round().int().tolist()

    assert seen(published, 1) == [[0, 2, 4, 7]]
    assert seen(published, 2) == [[0, 2, 4, 7], [16, 18, 20, 23]]
    assert seen(EVERY_FRAME, 2) == [[0, 2, 4, 7], [32, 34, 36, 39]]
    assert seen(replace(published, sampling="uniform"), 2) == [[5, 15, 24, 34]] * 2
    cfg = config(folder, "TEST.VIEW_STARTS", "published")
    starts = {split: build_eval_loader(cfg, split).dataset.read.spec.view_starts for split in ("val", "test")}
    assert starts == {"val": "spread", "test": "published"}


def test_uniform_sampling_covers_the_video_whatever_its_frame_rate(tmp_path):
    records = [grey_video(tmp_path / "a.mp4", 40)]
    transform = ViewTransform(32, 32, 1, **PIXELS)

    def seen(views):
        return (views[:, 0, :, 0, 0] / 4).round().int().tolist()

    for rate, fps in [(2, 25), (32, 60)]:
        spec = ClipSpec(4, rate, fps, sampling="uniform")
        assert seen(ViewDataset(records, spec, transform, 1)[0]["views"]) == [[5, 15, 25, 35]]
        assert seen(ViewDataset(records, spec, transform, 2)[0]["views"]) == [[2, 12, 22, 32], [7, 17, 27, 37]]
        drawn = [clip for epoch in range(20) for clip in seen(ClipDataset(records, spec, TRAIN)[epoch, 0]["views"])]
        assert all([index // 10 for index in clip] == [0, 1, 2, 3] for clip in drawn)
        assert len(set(map(tuple, drawn))) > 15
    with pytest.raises(ValueError, match="unknown sampling 'sparse'; it must be one of dense, uniform"):
        ClipSpec(4, 2, 25, sampling="sparse")


def test_a_default_item_is_one_clip_and_one_view_drawn_in_turn(tmp_path):
    record = grey_video(tmp_path / "a.mp4", 40)
    frames = read_frames(record.path, range(40))
    for epoch in range(10):
        rng = random.Random(f"5/{epoch}/0")
        indices = clip_indices(train_start(40, 8, rng), 8, 4, 40)
        expected = TRAIN(frames[indices], rng)
        assert torch.equal(ClipDataset([record], EVERY_FRAME, TRAIN, seed=5)[epoch, 0]["views"], expected[None])


def test_repeated_views_are_other_clips_and_crops_from_one_reading(tmp_path, monkeypatch):
    record = grey_video(tmp_path / "a.mp4", 40)
    readings = []

    def counting(path, indices, **options):
        readings.append(list(indices))
        return read_frames(path, indices, **options)

    monkeypatch.setattr(videofib.data.clips.dataset, "read_frames", counting)
    frames = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "noise.mp4", frames, 25)
    noise = VideoRecord(str(tmp_path / "noise.mp4"), 1, "noise.mp4")
    dataset = ClipDataset([record, noise], EVERY_FRAME, TRAIN, num_views=3)
    item = dataset[0, 0]
    assert item["views"].shape == (3, 3, 4, 32, 32)
    starts = (item["views"][:, 0, 0, 0, 0] / 4).round().tolist()
    assert len(set(starts)) == 3
    assert len(readings) == 1
    assert readings[0] == sorted(set(readings[0]))
    views = dataset[0, 1]["views"]
    assert not any(torch.equal(views[a], views[b]) for a, b in [(0, 1), (0, 2), (1, 2)])
    assert torch.equal(ClipDataset([record, noise], EVERY_FRAME, TRAIN, num_views=3)[0, 1]["views"], views)


def test_large_videos_are_scaled_down_as_the_config_says(folder, monkeypatch):
    sizes = []

    def watching(source, indices, **options):
        frames = read_frames(source, indices, **options)
        sizes.append(frames.shape[1:3])
        return frames

    monkeypatch.setattr(videofib.data.clips.dataset, "read_frames", watching)
    for short_side, size in [(0, (48, 64)), (36, (36, 48)), (99, (48, 64))]:
        dataset = build_train_loader(config(folder, "DATA.READ_SHORT_SIDE", short_side)).dataset
        assert dataset[0, 0]["views"].shape == (1, 3, 4, 32, 32)
        assert sizes.pop() == size


def test_a_video_shorter_than_the_clip_repeats_its_last_frame(tmp_path):
    records = [grey_video(tmp_path / "a.mp4", 3, step=40)]
    view = ClipDataset(records, EVERY_FRAME, TRAIN)[0, 0]["views"][0]  # 0, 2.3, 4.7, 7 of 3 frames
    assert (view[0, :, 0, 0] / 40).round().tolist() == [0, 2, 2, 2]


def test_videos_that_cannot_be_read_are_replaced_and_named(tmp_path):
    good = grey_video(tmp_path / "good.mp4", 10)
    (tmp_path / "bad.mp4").write_text("<html>404</html>")
    bad = VideoRecord(str(tmp_path / "bad.mp4"), 1, "bad.mp4")
    gone = VideoRecord(str(tmp_path / "gone.mp4"), 2, "gone.mp4")
    long = VideoRecord(str(tmp_path / ("a" * 300 + ".mp4")), 3, "long.mp4")  # which is no "no such file" to the system
    dataset = ClipDataset([good, bad, gone, long], EVERY_FRAME, TRAIN)
    assert [record.seems_there() for record in dataset.records] == [True, True, False, False]
    for index, name, reason in [
        (1, "bad.mp4", "cannot be opened"),
        (2, "gone.mp4", "no such file"),
        (3, "long.mp4", "File name too long"),
    ]:
        item = dataset[0, index]
        assert (item["index"], item["label"]) == (0, 0)
        assert item["failures"][0][0] == name
        assert reason in item["failures"][0][1]
    (batch,) = VideoLoader(dataset, [(0, 0), (0, 1)], 2)
    assert batch["indices"].tolist() == [0, 0]
    assert {name for name, _ in batch["failures"]} <= {"bad.mp4", "gone.mp4", "long.mp4"}

    views = ViewDataset([bad, good], EVERY_FRAME, ViewTransform(32, 32, 3, **PIXELS), 2)
    (batch,) = VideoLoader(views, [0, 1], 2)
    assert batch["views"].shape == (2, 6, 3, 4, 32, 32)
    assert batch["views"][0].abs().sum() == 0
    assert batch["views"][1].abs().sum() > 0
    assert [name for name, _ in batch["failures"]] == ["bad.mp4"]
    assert batch["labels"].tolist() == [1, 0]


def test_a_data_set_without_readable_videos_stops_with_their_names(tmp_path):
    records = [VideoRecord(str(tmp_path / f"{i}.mp4"), 0, f"{i}.mp4") for i in range(3)]
    with pytest.raises(RuntimeError, match=rf"{MAX_DRAWS} videos .*\n.*/\d\.mp4: no such file"):
        ClipDataset(records, EVERY_FRAME, TRAIN)[0, 0]


@pytest.mark.parametrize("name", ["vfr_ms.mp4", "vfr_ms.mkv", "native_var_fps_video.mp4"])
@pytest.mark.parametrize("prepared", [False, True])
def test_clips_of_a_variable_rate_follow_the_clock(shared_data, name, prepared):
    path = str(shared_data / "hostile" / name)
    with open_in_order(path) as reader:
        shown = [(frame.time, reader.to_rgb(frame)) for frame in reader.frames()]
    info = probe(path)
    assert info.variable_rate
    known = {"num_frames": info.num_frames, "fps": info.fps, "variable_rate": True} if prepared else {}
    spec = ClipSpec(5, 1, 1, sampling="uniform")
    ((_, frames, (clip,)),) = read_clips(
        VideoRecord(path, 0, name, **known), spec, lambda length, fps: spec.view_clips(length, fps, 1)
    )
    start, end = shown[0][0], shown[-1][0]
    step = (end - start) / (len(shown) - 1)
    for index, position in zip(spec.view_clips(len(shown), 1, 1)[0], clip, strict=True):
        moment = start + (index + 0.5) * step
        expected = [image for time, image in shown if time <= moment][-1]
        assert np.array_equal(frames[position], expected)


def test_a_replaced_file_is_counted_again(tmp_path):
    size = Path(grey_video(tmp_path / "a.mp4", 40).path).stat().st_size
    grey_video(tmp_path / "a.mp4", 12)
    record = VideoRecord(str(tmp_path / "a.mp4"), 0, "a.mp4", num_frames=40, fps=25.0, random_access=True, size=size)
    item = ViewDataset([record], EVERY_FRAME, ViewTransform(32, 32, 1, **PIXELS), 2)[0]
    assert (item["views"][1, 0, :, 0, 0] / 4).round().tolist() == [4, 6, 8, 11]  # the last 8 of 12
    assert item["failures"] == []


def test_a_manifest_with_too_many_frames_is_corrected_with_a_warning(tmp_path):
    grey_video(tmp_path / "a.mp4", 12)
    record = VideoRecord(str(tmp_path / "a.mp4"), 0, "a.mp4", num_frames=40, fps=25.0)
    with pytest.warns(RuntimeWarning, match=r"a\.mp4: 12 frames decode, not 40; clips are taken from those"):
        item = ViewDataset([record], EVERY_FRAME, ViewTransform(32, 32, 1, **PIXELS), 2)[0]
    assert (item["views"][1, 0, :, 0, 0] / 4).round().tolist() == [4, 6, 8, 11]


def test_videos_drawn_instead_of_an_unreadable_one_differ_and_can_be_drawn_again(tmp_path):
    records = [VideoRecord(str(tmp_path / f"{i}.mp4"), 0, f"{i}.mp4") for i in range(50)]
    dataset = ClipDataset(records, EVERY_FRAME, TRAIN)
    drawn = {key: list(dataset.candidates(key)) for key in [(0, 7), (0, 8), (1, 7), (0, 7, 1)]}
    for key, candidates in drawn.items():
        assert candidates[0][0] == key[1]
        assert len(candidates) == MAX_DRAWS
        assert len({seed for _, seed in candidates}) == MAX_DRAWS
        assert candidates == list(dataset.candidates(key))
    others = {tuple(index for index, _ in candidates[1:]) for candidates in drawn.values()}
    assert len(others) == len(drawn)


def hostile_records(shared_data):
    paths = sorted(p for p in (shared_data / "hostile").rglob("*.*") if p.name != ".keep")
    return [VideoRecord(str(path), 0, path.name) for path in paths]


def readable(record):
    try:
        return probe(record.path).num_frames > 0
    except RuntimeError:
        return False


def test_every_hostile_file_trains_and_tests_or_is_named(shared_data):
    records = hostile_records(shared_data)
    spec = ClipSpec(num_frames=4, sampling_rate=8, target_fps=30)
    good = {record.video_id for record in records if readable(record)}
    assert len(records) - len(good) == 12  # no readable video is lost
    training = ClipDataset(records, spec, TRAIN)
    testing = ViewDataset(records, spec, ViewTransform(32, 32, 1, **PIXELS), 2)
    for index, record in enumerate(records):
        item = training[0, index]
        assert item["views"].shape == (1, 3, 4, 32, 32)
        assert (item["index"] == index and not item["failures"]) == (record.video_id in good), item["failures"]
        item = testing[index]
        assert item["views"].shape == (2, 3, 4, 32, 32)
        assert [name for name, _ in item["failures"]] == ([] if record.video_id in good else [record.video_id])


def test_hostile_files_do_not_stop_workers(shared_data):
    records = hostile_records(shared_data)
    dataset = ClipDataset(records, ClipSpec(num_frames=2, sampling_rate=8, target_fps=30), TRAIN)
    sampler = EpochSampler(shuffled(len(records), 0), 8)
    found = list(VideoLoader(dataset, sampler, 8, num_workers=2, time_limit=60))
    assert len(found) == len(records) // 8
    assert sum(len(batch["failures"]) for batch in found) > 0


@pytest.mark.parametrize("sampler", ["class_balanced", "length_bucketed"])
def test_the_config_chooses_the_order_of_videos(folder, sampler, tmp_path):
    loader = build_train_loader(config(folder, "DATA_LOADER.SAMPLER", sampler, "TRAIN.BATCH_SIZE", 3))
    for labels, indices in [(batch["labels"], batch["indices"]) for batch in loader]:
        if sampler == "class_balanced":
            assert sorted(labels.tolist()) == [0, 1, 2]
        else:
            assert max(indices) - min(indices) == 2  # video i has 10 + i frames
    (tmp_path / "train.csv").write_text("".join(f"{folder}/v {i}.mp4 0\n" for i in range(12)))
    if sampler == "length_bucketed":
        with pytest.raises(ConfigError, match="the number of frames of each video, which is unknown for 12 of them"):
            build_train_loader(config(tmp_path, "DATA_LOADER.SAMPLER", sampler))


def test_splits_that_cannot_work_are_refused(folder, tmp_path):
    with pytest.raises(ManifestError, match=r"has 12 videos, fewer than one batch; TRAIN\.BATCH_SIZE is 16"):
        build_train_loader(config(folder, "TRAIN.BATCH_SIZE", 16))
    with pytest.raises(ManifestError, match="neither the list file"):
        build_eval_loader(config(tmp_path), "val")
