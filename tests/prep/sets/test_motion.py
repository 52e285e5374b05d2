"""The motion data set: the movement is right, and nothing but the movement depends on the class."""

import hashlib

import numpy as np
import pytest

from tests.commands import call
from videofib.commands.prep import main
from videofib.data.video.decode import probe
from videofib.prep import motion
from videofib.prep.motion import (
    CLASSES,
    FPS,
    NUM_FRAMES,
    MotionClip,
    MotionSet,
    coordinates,
    list_clips,
    render,
    write_motion,
)

SMALL = MotionSet(train_per_class=2, test_per_class=1, size=32)
X, Y, ANGLE, SIZE = range(4)


def all_coordinates(label, count=400):
    return np.stack([coordinates(MotionClip(label, 1 + i // 4, 1 + i % 4), seed=0) for i in range(count)])


def steps(phase):
    """Movement from frame to frame on a circle of length 1, (..., T - 1, 4)."""
    return (np.diff(phase, axis=-2) + 0.5) % 1 - 0.5


def sprite_mask(frames, background):
    return np.abs(frames.astype(int) - background).sum(-1) > 40


def background_of(group, settings):
    """The median over time of moving variants: every pixel is free most of the time."""
    moving = [render(MotionClip(label, group, c), settings) for label in ("MoveLeft", "MoveDown") for c in (1, 2, 3, 4)]
    return np.median(np.concatenate(moving), axis=0)


@pytest.mark.parametrize("label", CLASSES)
def test_only_the_coordinate_of_the_class_changes_and_in_its_direction(label):
    axis, direction = CLASSES[label]
    moved = steps(all_coordinates(label, count=40))
    others = [other for other in range(4) if other != axis]
    assert np.abs(moved[..., others]).max() < 1e-12
    speed = direction * moved[..., axis] * NUM_FRAMES
    slowest, fastest = (motion.CYCLES, motion.CYCLES, motion.TURNS, motion.GROWTH)[axis]
    assert slowest - 1e-9 <= speed.min() <= speed.max() <= fastest + 1e-9
    assert speed.mean(axis=1).std() > 0.05  # speeds differ from clip to clip


@pytest.mark.parametrize("time", [0, 23, NUM_FRAMES - 1])
def test_position_and_angle_do_not_depend_on_the_class_at_any_moment(time):
    for label in CLASSES:
        now = all_coordinates(label)[:, time]  # 400 draws: the mean's standard error is 0.014
        assert now[:, :SIZE].mean(0) == pytest.approx([0.5] * 3, abs=0.06), label
        assert now[:, :SIZE].std(0) == pytest.approx([12**-0.5] * 3, abs=0.03), label
        assert np.abs(np.corrcoef(now.T) - np.eye(4)).max() < 0.2, label


def test_size_at_a_random_moment_does_not_depend_on_the_class():
    quantiles = [np.quantile(all_coordinates(label)[..., SIZE], [0.05, 0.25, 0.5, 0.75, 0.95]) for label in CLASSES]
    assert np.ptp(quantiles, axis=0).max() < 0.05
    assert all_coordinates("Grow")[..., SIZE].min() >= 0
    assert all_coordinates("Grow")[..., SIZE].max() <= 1


def test_the_middle_frames_of_all_classes_are_one_picture_but_for_size_and_others_are_not():
    middle = NUM_FRAMES // 2
    steady = [render(MotionClip(label, 3, 2), SMALL) for label, (axis, _) in CLASSES.items() if axis != SIZE]
    grow, shrink = (render(MotionClip(label, 3, 2), SMALL) for label in ("Grow", "Shrink"))
    for clip, other in [(grow, shrink), *((clip, steady[0]) for clip in steady[1:])]:
        assert np.array_equal(clip[middle], other[middle])
        assert np.abs(clip[0].astype(int) - other[0]).mean() > 1


def test_pictures_have_the_same_sprite_size_and_position_in_every_class():
    settings, moments = MotionSet(size=32), [0, 12, 25, 37, 49]
    clip_numbers = [(group, number) for group in range(1, 13) for number in (1, 2, 3, 4)]
    backgrounds = {group: background_of(group, settings) for group in range(1, 13)}
    area, centre = {}, {}
    for label in CLASSES:
        clips = [(group, render(MotionClip(label, group, number), settings)[moments]) for group, number in clip_numbers]
        masks = np.stack([sprite_mask(frames, backgrounds[group]) for group, frames in clips])  # (clips, moments, H, W)
        area[label] = masks.mean((1, 2, 3))
        centre[label] = masks.mean((0, 1, 3)), masks.mean((0, 1, 2))
    noise = np.std(area["MoveUp"]) * (2 / len(clip_numbers)) ** 0.5
    means = [values.mean() for values in area.values()]
    assert max(means) - min(means) < 4 * noise  # the range of eight means of one distribution is about 2.8 noise
    for rows, columns in centre.values():  # no class keeps to one part of the frame
        assert rows.max() < 2.5 * rows.mean()
        assert columns.max() < 2.5 * columns.mean()


def test_played_backwards_a_clip_is_one_of_the_opposite_class():
    for label, opposite in [("Grow", "Shrink"), ("MoveLeft", "MoveRight"), ("MoveUp", "MoveDown")]:
        axis, _ = CLASSES[label]
        backwards = steps(all_coordinates(label)[:, ::-1])[..., axis].mean(1)
        assert np.sort(backwards) == pytest.approx(np.sort(steps(all_coordinates(opposite))[..., axis].mean(1)))


def test_growing_sprites_grow_in_the_pictures():
    settings, background = MotionSet(), background_of(5, MotionSet())
    for label, sign in [("Grow", 1), ("Shrink", -1)]:
        for number in (1, 2, 3, 4):
            area = sprite_mask(render(MotionClip(label, 5, number), settings), background).sum((1, 2))
            assert (sign * np.diff(area[::5])).min() > 0


def test_moving_sprites_move_on_the_torus_as_the_name_says():
    settings, background = MotionSet(), background_of(5, MotionSet())
    for label, vector in [("MoveRight", (1, 0)), ("MoveLeft", (-1, 0)), ("MoveDown", (0, 1)), ("MoveUp", (0, -1))]:
        masks = sprite_mask(render(MotionClip(label, 5, 1), settings), background).astype(float)  # (T, H, W)
        rows, columns = (np.exp(2j * np.pi * np.arange(side) / side) for side in settings.shape)
        x, y = np.angle(masks.sum(1) @ columns), np.angle(masks.sum(2) @ rows)  # circular means
        moved = np.array([np.unwrap(phase)[-1] - phase[0] for phase in (x, y)]) / (2 * np.pi)
        assert moved @ vector > 0.45, label
        assert np.abs(moved[1 - np.argmax(np.abs(vector))]) < 0.05, label


def test_rotation_turns_the_picture_the_way_the_name_says():
    settings = MotionSet()
    shape = np.array(settings.shape)
    rows, columns = (np.arange(side) - side // 2 for side in shape)
    near = np.hypot(*np.meshgrid(columns, rows)) < 10
    angles = np.radians(np.arange(-60, 61, 5))
    for label, sign in [("RotateClockwise", 1), ("RotateCounterclockwise", -1)]:
        for number in (1, 2, 3, 4):
            clip = MotionClip(label, 5, number)
            centre = (coordinates(clip, 0)[0, 1::-1] * shape).round().astype(int)
            frames = np.roll(render(clip, settings), shape // 2 - centre, (1, 2)).astype(float)
            before, after = frames[0], frames[4]  # 0.08 to 0.12 turns apart: 29 to 43 degrees
            errors = [np.abs(turned(before, angle) - after)[near].mean() for angle in angles]
            best = angles[int(np.argmin(errors))]
            assert np.radians(25) <= sign * best <= np.radians(50), (label, number)


def turned(image, angle):
    """Nearest-pixel rotation about the centre; rows run down, so a positive angle is clockwise to the eye."""
    height, width = image.shape[:2]
    dx, dy = np.meshgrid(np.arange(width) - width // 2, np.arange(height) - height // 2)
    column = np.rint(np.cos(angle) * dx + np.sin(angle) * dy).astype(int) + width // 2
    row = np.rint(np.cos(angle) * dy - np.sin(angle) * dx).astype(int) + height // 2
    return image[row.clip(0, height - 1), column.clip(0, width - 1)]


def test_training_and_test_groups_are_disjoint_and_sizes_right():
    train, test = list_clips(MotionSet(train_per_class=10, test_per_class=6))
    assert (len(train), len(test)) == (80, 48)
    assert len({clip.path for clip in train + test}) == 128
    assert not {clip.group for clip in train} & {clip.group for clip in test}


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_files_are_deterministic_and_running_again_restores_them(tmp_path, capsys):
    write_motion(tmp_path / "a", SMALL, jobs=2)
    write_motion(tmp_path / "b", SMALL, jobs=1)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    info = probe(tmp_path / "a/videos/Grow/v_Grow_g01_c01.mp4")
    assert (info.num_frames, info.fps, info.width, info.height) == (NUM_FRAMES, FPS, 36, 32)

    complete = digest(tmp_path / "a")
    untouched = (tmp_path / "a/videos/Grow/v_Grow_g01_c01.mp4").stat().st_mtime_ns
    (tmp_path / "a/videos/Shrink/v_Shrink_g02_c01.mp4").unlink()
    (tmp_path / "a/annotations/testlist01.txt").unlink()
    (tmp_path / "a/videos/Grow/.0123.partial").write_bytes(b"half")
    capsys.readouterr()
    write_motion(tmp_path / "a", SMALL, jobs=1)
    assert "(1 written now)" in capsys.readouterr().out
    assert digest(tmp_path / "a") == complete
    assert (tmp_path / "a/videos/Grow/v_Grow_g01_c01.mp4").stat().st_mtime_ns == untouched


def test_annotations_are_like_the_official_ones(tmp_path):
    write_motion(tmp_path, SMALL, jobs=1)
    assert (tmp_path / "annotations/classInd.txt").read_bytes().startswith(b"1 Grow\r\n2 MoveDown\r\n")
    train = (tmp_path / "annotations/trainlist01.txt").read_bytes()
    test = (tmp_path / "annotations/testlist01.txt").read_bytes()
    assert b"Shrink/v_Shrink_g02_c02.mp4 8\r\n" in train
    assert b"Shrink/v_Shrink_g01_c01.mp4\r\n" in test
    assert (train.count(b"\r\n"), test.count(b"\r\n")) == (16, 8)


def test_other_settings_do_not_mix_into_a_folder(tmp_path):
    write_motion(tmp_path, SMALL, jobs=1)
    result = call(main, ["motion", "--out", tmp_path, "--size", "34"])
    assert result.returncode == 1
    assert "choose another --out" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("bad", [{"size": 33}, {"size": 2}, {"train_per_class": 0}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match="got"):
        MotionSet(**bad)
