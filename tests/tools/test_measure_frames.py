"""The comparison of video backends: what it counts, on videos of which each is a case of its own."""

import shutil

import pytest

from tools import measure_frames


def test_each_kind_of_finding_is_counted_and_named(shared_data, tmp_path, capsys, monkeypatch):
    samples = shared_data / "samples"
    shutil.copy(shared_data / "hostile/codec_h264.mp4", tmp_path / "same.mp4")
    shutil.copy(shared_data / "hostile/codec_h264.ts", tmp_path / "decord fails.ts")
    shutil.copy(samples / "ucf101/BaseballPitch/v_BaseballPitch_g01_c03.avi", tmp_path / "placeholder.avi")
    (tmp_path / "broken.mp4").write_text("<html>404</html>")
    (tmp_path / "notes.txt").write_text("no video")
    monkeypatch.setattr("sys.argv", ["measure_frames.py", str(tmp_path), "--frames", "9"])
    measure_frames.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 files, of which PyAV reads 3 in order"
    table = {line[:16].strip(): line[16:].split() for line in lines[2:5]}
    assert table["auto"] == ["3", "0", "27", "0", "-", "0.000/255"]
    assert table["decord in order"] == ["2", "1", "18", "0", "-", "0.000/255"]
    assert f"  {tmp_path}/placeholder.avi: 104 frames instead of 103" in lines
    assert f"  {tmp_path}/broken.mp4: cannot be opened as video: Invalid data found when processing input" in lines
    assert any(line.startswith(f"  {tmp_path}/decord fails.ts: decord cannot") for line in lines)


def test_frames_that_seeking_alone_makes_wrong_are_told_from_those_wrong_in_order_too(shared_data):
    seeks_wrong = shared_data / "hostile/misseek/h264_in_avi_v_Lunges_g02_c01.avi"
    other_colours = shared_data / "hostile/native_h264_10bits.mp4"
    findings, _ = measure_frames.compare([seeks_wrong], 8, ["decord seeking"])
    assert findings["decord seeking"].by_seeking == findings["decord seeking"].wrong > 0
    findings, _ = measure_frames.compare([other_colours], 8, ["decord seeking"])
    assert (findings["decord seeking"].by_seeking, findings["decord seeking"].wrong) == (0, 8)


def test_wrong_frames_are_found(shared_data):
    found = measure_frames.Findings()
    path = shared_data / "hostile/codec_h264.mp4"
    right, wrong = measure_frames.read_frames(path, [8, 9])
    measure_frames.examine(path, 10, {8: right, 9: wrong // 2}, {"backend": "auto"}, found)
    assert (found.read, found.other_count, found.frames, found.wrong) == (1, 1, 2, 1)
    assert found.worst > measure_frames.WRONG
    assert found.notes[0].startswith(f"{path}: 32 frames instead of 10; 1 of 2 frames wrong, by up to ")


def test_a_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["measure_frames.py", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="none is not a folder"):
        measure_frames.main()


@pytest.mark.parametrize(
    ("count", "spread", "expected"),
    [(3, 8, [0, 1, 2]), (10, 0, [*range(10)]), (10, 4, [0, 3, 6, 9]), (10, 1, [0])],
)
def test_the_chosen_frames_are_spread_from_first_to_last(count, spread, expected):
    assert measure_frames.chosen(count, spread) == expected
