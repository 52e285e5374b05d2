"""Files of features: what is written is read, whatever the names and shapes; others are refused in one line."""

import json
import zipfile

import numpy as np
import pyarrow.parquet
import pytest

from videofib.metrics.features import Features, FeaturesError, read_all, read_features, write_features

ABOUT = {"weights": "abc", "kind": "pooled", "block": -1, "views": [1, 1]}
NAMES = ["a b.mp4", "caf\udce9.mp4", "back\\slash.mp4", "https://example.org/ü.mp4", "\x1b[2J.mp4"]


def features(shape=(3,), rows=5, seed=0):
    values = np.random.default_rng(seed).normal(size=(rows, *shape)).astype(np.float32)
    errors = ["", "", "cannot be read", "", ""][:rows]
    values[[bool(error) for error in errors]] = np.nan
    return Features(NAMES[:rows], values, np.array([0, 7, -1, 2**40, -1][:rows]), errors, ABOUT)


def cut(found, *rows):
    return Features(found.videos[slice(*rows)], found.values[slice(*rows)], found.labels[slice(*rows)],
                    found.errors[slice(*rows)], found.about)  # fmt: skip


@pytest.fixture(params=[".parquet", ".npz"])
def file(request, tmp_path):
    return tmp_path / f"out{request.param}"


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 3)])
def test_what_is_written_is_read(shape, file):
    written = features(shape)
    write_features(file, [cut(written, 0, 2), cut(written, 2, 3), cut(written, 3, 5)], shape, ABOUT)
    found = read_features(file)
    assert (found.videos, found.errors) == (list(written.videos), list(written.errors))
    np.testing.assert_array_equal(found.values, written.values)
    np.testing.assert_array_equal(found.labels, written.labels)
    assert {name: found.about[name] for name in ABOUT} == ABOUT
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_no_videos(file):
    write_features(file, [], (4,), ABOUT)
    assert read_features(file).values.shape == (0, 4)


def test_other_programs_read_them(tmp_path):
    written = features((2, 3))
    write_features(tmp_path / "a.parquet", [cut(written, 0, 3), cut(written, 3, 5)], (2, 3), ABOUT)
    source = pyarrow.parquet.ParquetFile(tmp_path / "a.parquet")
    table = source.read()
    assert source.num_row_groups == 2
    assert str(table.schema.field("features").type) == "fixed_size_list<element: float>[6]"
    assert table["features"][1].as_py() == written.values[1].reshape(-1).tolist()
    assert (table["features"][2].as_py(), table["label"][2].as_py(), table["error"][0].as_py()) == (None, None, None)
    assert json.loads(table.schema.metadata[b"videofib"])["shape"] == [2, 3]
    write_features(tmp_path / "a.npz", [written], (2, 3), ABOUT)
    arrays = np.load(tmp_path / "a.npz", allow_pickle=False)
    np.testing.assert_array_equal(arrays["features"], written.values)
    assert arrays["video"][0] == "a b.mp4"
    assert json.loads(str(arrays["about"]))["kind"] == "pooled"


def test_several_files_are_read_together(file):
    other = file.with_name(f"b{file.suffix}")
    written = features()
    write_features(file, [cut(written, 0, 2)], (3,), ABOUT)
    write_features(other, [cut(written, 2, 5)], (3,), ABOUT)
    found = read_all([file, other])
    assert found.videos == list(written.videos)
    np.testing.assert_array_equal(found.values, written.values)
    for name, value in {"weights": "other", "kind": "frames", "block": 2, "views": [3, 1]}.items():
        write_features(other, [written], (3,), {**ABOUT, name: value})
        for call in (lambda: read_all([file, other]), lambda: read_all([other], like=read_features(file))):
            with pytest.raises(FeaturesError, match=f"has features of other {name} than the files before"):
                call()


def test_a_damaged_file_is_refused(file):
    write_features(file, [features()], (3,), ABOUT)
    whole = file.read_bytes()
    contents = [whole[: len(whole) // 2], b"", b"PK", b"PAR1" * 9]
    at = whole.find(features().values[0].tobytes()) + 2
    contents += [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]] if at > 2 else []
    for content in contents:
        file.write_bytes(content)
        with pytest.raises(FeaturesError, match="is damaged or not a") as caught:
            read_features(file)
        assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(FeaturesError, match="no file of features at"):
        read_features(file)


def test_another_parquet_file_is_refused(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"video": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(FeaturesError, match="is not a file of features: videofib did not write it"):
        read_features(tmp_path / "a.parquet")
    for about, message in [({}, "lacks 'shape'"), ({"shape": [3]}, "lacks "), ({"shape": [0]}, "of the shape")]:
        table = pyarrow.table({"video": ["a"]}).replace_schema_metadata({b"videofib": json.dumps(about)})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(FeaturesError, match=message):
            read_features(tmp_path / "a.parquet")


def arrays_of(**changed):
    plain = {"features": np.zeros((1, 3), np.float32), "video": np.array(["a"]), "error": np.array([""]),
             "label": np.array([1]), "about": np.array(json.dumps({"shape": [3]}))}  # fmt: skip
    return {**plain, **changed}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"video": np.array(["a"], object)}, "has video.npy of object"),
        ({"features": np.zeros((2, 3), np.float32)}, "has columns of the shapes"),
        ({"features": np.zeros((1, 3), np.float64)}, "of another type"),
        ({"features": np.full((1, 3), np.inf, np.float32)}, "not finite"),
        ({"label": np.array([-2])}, "of another type"),
        ({"about": np.array("[" * 100_000)}, "is not a file of features"),
        ({"about": np.array("3")}, "is not a file of features"),
    ],
)
def test_another_npz_is_refused(changed, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays_of(**changed))
    with pytest.raises(FeaturesError, match=message):
        read_features(tmp_path / "a.npz")


def test_an_npz_cannot_claim_more_memory_than_it_has_bytes(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **arrays_of())
    with pytest.raises(FeaturesError, match="compressed"):
        read_features(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("features.npy", "w") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**40, 3)}
        np.lib.format.write_array_header_1_0(stream, header)
    with pytest.raises(FeaturesError, match=r"has features.npy of float32 \(1099511627776, 3\), which its"):
        read_features(tmp_path / "a.npz")
