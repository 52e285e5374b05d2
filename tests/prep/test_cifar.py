"""CIFAR's binary archives. Those here are synthetic: the official layout and names, a few random pictures."""

import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from videofib.prep import cifar
from videofib.prep.cifar import is_cifar, read_cifar
from videofib.prep.items import PrepareError

TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
HUNDRED = [f"class{number}" for number in range(100)]


def records(rng, count, classes, coarse=False):
    """(bytes of a file, labels, pictures (N, 32, 32, 3))."""
    labels = rng.integers(0, classes, count, dtype=np.uint8)
    pictures = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    parts = []
    for label, picture in zip(labels, pictures, strict=True):
        planes = [picture[:, :, channel].tobytes() for channel in range(3)]  # red, green, blue, each row by row
        parts.append(bytes([7] * coarse) + bytes([label]) + b"".join(planes))
    return b"".join(parts), labels, pictures


def official(version, counts=(4, 3), seed=0):
    """name in the archive -> content, and (labels, pictures) of each file of pictures by its name."""
    rng = np.random.default_rng(seed)
    if version == 10:
        files = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
        folder, names, classes = "cifar-10-batches-bin", ("batches.meta.txt", TEN), 10
    else:
        files, folder, names, classes = (
            ["train.bin", "test.bin"],
            "cifar-100-binary",
            ("fine_label_names.txt", HUNDRED),
            100,
        )
    contents, truth = {}, {}
    for file in files:
        count = counts[file.startswith("test")]
        content, *truth[file] = records(rng, count, classes, coarse=version == 100)
        contents[f"{folder}/{file}"] = content
    contents[f"{folder}/{names[0]}"] = ("\n".join(names[1]) + "\n\n").encode()
    contents[f"{folder}/readme.html"] = b"<html></html>"
    return contents, truth


def archive(path, contents):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("version", [10, 100])
def test_pictures_and_labels_are_those_of_the_archive(version, tmp_path):
    contents, truth = official(version)
    found = read_cifar(archive(tmp_path / "a.tar.gz", contents))
    assert found.classes == (TEN if version == 10 else HUNDRED)
    labels, pictures = (np.concatenate([value[part] for value in truth.values()]) for part in (0, 1))
    assert [item.label for item in found.items] == labels.tolist()
    assert np.array_equal(np.stack([item.raw for item in found.items]), pictures)
    train = sum(len(value[0]) for name, value in truth.items() if not name.startswith("test"))
    assert [item.splits for item in found.items] == [("train",)] * train + [("test",)] * 3
    assert found.items[0].name == "train_00000.png"
    assert len({item.name for item in found.items}) == len(found.items)
    assert found.notes["counts_unlike_the_official"] == [
        f"train: {train}, officially 50000",
        "test: 3, officially 10000",
    ]


def test_the_order_of_an_archive_does_not_matter_and_a_folder_is_as_good(tmp_path):
    contents, _ = official(10)
    one = read_cifar(archive(tmp_path / "a.tar.gz", contents))
    other = read_cifar(archive(tmp_path / "b.tar.gz", dict(reversed(contents.items()))))
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    folder = tmp_path / "cifar-10-batches-bin"
    assert is_cifar(folder)
    assert is_cifar(tmp_path / "a.tar.gz")
    assert not is_cifar(tmp_path)
    for found in (other, read_cifar(folder)):
        for a, b in zip(one.items, found.items, strict=True):
            assert (a.name, a.label, a.splits) == (b.name, b.label, b.splits)
            assert np.array_equal(a.raw, b.raw)


class Boom:
    def __reduce__(self):
        return (os.system, ("touch /tmp/videofib-was-unpickled",))


@pytest.mark.parametrize(
    ("names", "instead"),
    [
        (["cifar-10-batches-py/data_batch_1", "cifar-10-batches-py/batches.meta"], r"cifar-10-binary\.tar\.gz"),
        (["cifar-100-python/train", "cifar-100-python/meta"], r"cifar-100-binary\.tar\.gz"),
    ],
)
def test_pickles_are_not_opened_and_the_binary_version_is_named(names, instead, tmp_path):
    contents = {name: pickle.dumps(Boom()) for name in names}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    folder = (tmp_path / names[0]).parent
    assert is_cifar(folder)
    for path in (archive(tmp_path / "cifar-python.tar.gz", contents), folder):
        with pytest.raises(PrepareError, match=rf"version for Python, whose pickles .* binary version, {instead}"):
            read_cifar(path)
    assert not os.path.exists("/tmp/videofib-was-unpickled")  # noqa: PTH110


def broken(kind):
    contents, _ = official(10)
    batch, names = "cifar-10-batches-bin/data_batch_3.bin", "cifar-10-batches-bin/batches.meta.txt"
    if kind == "absent":
        del contents[batch]
    elif kind == "cut":
        contents[batch] = contents[batch][:-1]
    elif kind == "empty":
        contents[batch] = b""
    elif kind == "label":
        contents[batch] = contents[batch][:3073] + bytes([10]) + contents[batch][3074:]
    elif kind == "few names":
        contents[names] = b"cat\ndog\n"
    elif kind == "same names":
        contents[names] = b"cat\n" * 10
    elif kind == "huge names":
        contents[names] = b"cat\n" * 50_000
    elif kind == "twice":
        contents["../../" + batch.rpartition("/")[2]] = contents[batch]
    elif kind == "other":
        contents = {"cifar-10-batches-mat/data_batch_1.mat": b"MATLAB"}
    return contents


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("absent", r"lacks data_batch_3\.bin"),
        ("cut", r"data_batch_3\.bin has 12291 bytes, which are not pictures of 3073 each"),
        ("empty", r"data_batch_3\.bin has 0 bytes"),
        ("label", r"data_batch_3\.bin: picture 1 has label 10 of 10 classes"),
        ("few names", r"batches\.meta\.txt names 2 classes, not 10"),
        ("same names", r"the classes in batches\.meta\.txt"),
        ("huge names", "too large for names"),
        ("twice", r"has data_batch_3\.bin twice"),
        ("other", r"no binary version of CIFAR \(cifar-10-binary\.tar\.gz, cifar-100-binary\.tar\.gz\)"),
    ],
)
def test_what_is_wrong_with_an_archive_is_one_line(kind, message, tmp_path):
    with pytest.raises(PrepareError, match=message) as caught:
        read_cifar(archive(tmp_path / "a.tar.gz", broken(kind)))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_link_is_no_file_of_pictures(tmp_path):
    contents, _ = official(10)
    archive(tmp_path / "a.tar.gz", contents)
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar, tarfile.open(tmp_path / "a.tar.gz") as old:
        for member in old:
            if member.name.endswith("data_batch_3.bin"):
                member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0
            tar.addfile(member, old.extractfile(member) if member.isreg() else None)
    with pytest.raises(PrepareError, match=r"lacks data_batch_3\.bin"):
        read_cifar(tmp_path / "b.tar.gz")


def test_archives_that_are_damaged_or_none(tmp_path):
    content = archive(tmp_path / "a.tar.gz", official(10)[0]).read_bytes()
    os.mkfifo(tmp_path / "pipe.tar.gz")
    for name, data in (
        ("cut", content[: len(content) // 2]),
        ("flipped", content[:5000] + bytes([content[5000] ^ 255]) + content[5001:]),
        ("text", b"no archive"),
        ("empty", b""),
        ("gzip", gzip.compress(b"no tar" * 400)),
    ):
        (tmp_path / f"{name}.tar.gz").write_bytes(data)
        with pytest.raises(
            PrepareError, match=rf"{name}\.tar\.gz (cannot be read as a \.tar\.gz|is no binary version)"
        ):
            read_cifar(tmp_path / f"{name}.tar.gz")
    with pytest.raises(PrepareError, match="is not a file"):
        read_cifar(tmp_path / "pipe.tar.gz")


def test_a_small_archive_that_unpacks_to_more_than_cifar_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "_MOST_BYTES", 1 << 20)
    contents = {"cifar-10-batches-bin/more.bin": bytes(8 << 20), **official(10)[0]}
    path = archive(tmp_path / "a.tar.gz", contents)
    assert path.stat().st_size < 200_000
    with pytest.raises(PrepareError, match="unpacks to more than 1,048,576 bytes"):
        read_cifar(path)
