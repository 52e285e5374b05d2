"""Videos within other files: the same frames, counts and errors as from a file of their own."""

import pickle
import tarfile

import numpy as np
import pytest

from videofib.data.errors import DecodeError, FrameIndexError
from videofib.data.source import ByteRange
from videofib.data.video.decode import estimate, probe, random_access_is_right, read_frames

NAMES = ("codec_h264.mp4", "codec_mpeg4_xvid.avi", "codec_vp9.webm", "codec_mpeg2.mpg", "fragmented.mp4", "text.avi")


@pytest.fixture(scope="module")
def shard(shared_data, tmp_path_factory):
    """A tar of real videos whose own name looks like a protocol; the byte range of each member."""
    path = tmp_path_factory.mktemp("shard") / "http:,,: a.tar"
    with tarfile.open(path, "w") as tar:
        for name in NAMES:
            tar.add(shared_data / "hostile" / name, name)
    with tarfile.open(path) as tar:
        return {member.name: ByteRange(str(path), member.offset_data, member.size) for member in tar}


@pytest.mark.parametrize("name", NAMES[:-1])
@pytest.mark.parametrize("backend", ["auto", "pyav", "decord"])
def test_a_member_of_a_tar_reads_like_its_own_file(shared_data, shard, name, backend):
    path, part = shared_data / "hostile" / name, shard[name]
    assert probe(part) == probe(path)
    assert estimate(part) == estimate(path)
    proven = random_access_is_right(path)
    assert random_access_is_right(part) == proven
    indices = [29, 0, 13]
    frames = read_frames(path, indices, backend=backend, random_access=proven)
    assert np.array_equal(read_frames(part, indices, backend=backend, random_access=proven), frames)


def test_errors_name_the_file_and_the_range(shard):
    part = shard["codec_h264.mp4"]
    name = f"{part.path}[{part.start}:{part.start + part.size}]"
    for backend in ("auto", "pyav", "decord"):
        with pytest.raises(FrameIndexError) as caught:
            read_frames(part, [40], backend=backend)
        assert str(caught.value).startswith(f"{name}: frame 40 was requested")
    with pytest.raises(DecodeError) as caught:
        probe(shard["text.avi"])
    assert str(caught.value).startswith(f"{shard['text.avi']}: cannot be opened as video")
    beginning = ByteRange(part.path, part.start, part.size // 3)
    with pytest.raises(DecodeError) as caught:
        estimate(beginning)
    assert str(caught.value).startswith(f"{beginning}: ")


@pytest.mark.parametrize("start", [0, 5])
def test_a_range_must_lie_within_its_file(shard, tmp_path, start):
    size = shard["text.avi"].size
    (tmp_path / "a.tar").write_bytes(bytes(size))
    for part in (ByteRange(str(tmp_path / "a.tar"), start, size + 1), ByteRange(str(tmp_path / "a.tar"), start, 0)):
        for backend in ("auto", "decord"):
            with pytest.raises(DecodeError, match=rf"a\.tar\[{start}:\d+\]: the file has the bytes 0:{size}"):
                read_frames(part, [0], backend=backend)
    with pytest.raises(DecodeError, match=r"b\.tar\[0:9\]: no such file"):
        probe(ByteRange(str(tmp_path / "b.tar"), 0, 9))


def test_ranges_travel_between_processes_and_compare(shard):
    part = shard["codec_h264.mp4"]
    assert pickle.loads(pickle.dumps(part)) == part
    assert len({part, ByteRange(part.path, part.start, part.size)}) == 1
