"""List files that are read as columns hold the records, and raise the errors, of the parser that reads line by line."""

import random

import pytest

from tests.data.lists import reference
from videofib.data.errors import ManifestError
from videofib.data.lists.layout import recognised
from videofib.data.lists.manifest import read_list, write_list
from videofib.data.lists.splits import load_split
from videofib.data.lists.text_list import has_several_classes, list_rows, read_text_list

# pieces of lines: ends of paths, separators, labels, line ends, and bytes that are none of these
PIECES = [
    *(
        b"a.mp4",
        b"b c.mp4",
        b"d,e.avi",
        b'"q"',
        b"'",
        b"clip_0001",
        b"0001",
        b"12",
        b"x/y//z",
        b"./r.webm",
        b"#",
        b"-1",
    ),
    *("ünï.mp4".encode(), "東".encode(), "٣".encode(), b"\xe9", b"\xc3", b"\xef\xbb\xbf", "\u2028".encode()),
    *("\xa0".encode(), b"\x85", b"\xc2\x85"),
    *(b" ", b" ", b" ", b"  ", b"\t", b",", b";", b", ", b"\x0b", b"\x1c", b"\x1f"),
    *(
        b"0",
        b"3",
        b"7",
        b"3,7",
        b"3,3",
        b"3,x",
        b"0007",
        b"999999999999999999",
        b"1234567890123456789",
        b"4611686018427387903",
    ),
    *(b"\n", b"\n", b"\n", b"\r\n", b"\r", b"\n\n", b"\n   \n"),
]


def outcome(read, *args, **options):
    """The records, or the message of the error."""
    try:
        return list(read(*args, **options))
    except ManifestError as error:
        return str(error)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("separator", [" ", ",", "\t", ", ", ";", "1", "é"])
def test_random_lines_are_read_as_one_by_one(separator, multi_label, tmp_path):
    """Many files are refused at their first line; so half of them consist of lines that are mostly good."""
    rng, file, good = random.Random(f"{separator}{multi_label}"), tmp_path / "l.csv", 0
    (tmp_path / "a.mp4 0").touch()
    for turn in range(500):
        if turn % 2:
            content = b"".join(rng.choices(PIECES, k=rng.randrange(1, 12)))
        else:
            paths = [b"".join(rng.choices(PIECES[:22], k=rng.randrange(1, 4))) for _ in range(rng.randrange(1, 5))]
            ends = rng.choice([(b"\n",), (b"\r\n",), (b"\n", b"\r\n", b"\r", b"\n\n", b" \n")])
            content = b"".join(
                path + separator.encode() + str(rng.randrange(30)).encode() + rng.choice(ends) for path in paths
            )
        file.write_bytes(content)
        options = {"separator": separator, "multi_label": multi_label}
        expected = outcome(reference.read_list, file, **options)
        if layout := recognised(file, separator):  # only where plain reading finds no label, or a file in quotes
            assert isinstance(expected, str) or (not layout.names and b'"' in content), content
            continue
        assert outcome(read_list, file, **options) == expected, content
        good += isinstance(expected, list)
    assert good > 30 or (multi_label and separator == ",")


def test_long_lists_of_plain_and_odd_lines_keep_order_labels_and_line_numbers(tmp_path):
    rng, file = random.Random(0), tmp_path / "l.csv"
    lines = []
    for number in range(3000):
        labels = ",".join(map(str, rng.sample(range(400), rng.choice([1, 1, 2, 5]))))
        lines.append(f"class {number % 7}/clip {number}.mp4 {labels}{rng.choice(['', '', '  '])}\n")
        lines += ["\n"] * (number % 11 == 0)
    file.write_text("".join(lines))
    expected = reference.read_list(file, multi_label=True)
    found = read_list(file, multi_label=True)
    assert found == expected
    assert [found[row] for row in (0, -1, 1234)] == [expected[row] for row in (0, -1, 1234)]
    assert found.labels.tolist() == [record.label for record in expected]
    assert found.classes.tolist() == [label for record in expected for label in record.labels]
    highest = max(expected, key=lambda record: max(record.classes))
    label, row = found.highest_label()
    assert (label, expected[row]) == (max(highest.classes), highest)
    renamed = found.with_labels([(7 * label) % 401 for label in range(400)])
    assert [record.labels for record in renamed] == [tuple((7 * i) % 401 for i in r.labels) for r in expected]
    assert renamed[5].path == expected[5].path
    assert has_several_classes(file)
    listed = read_text_list(file, " ", multi_label=True)
    assert listed.lines.tolist() == [number for number, _ in reference.lines(file)]


def test_the_first_line_that_is_wrong_is_reported_whatever_is_wrong_with_later_ones(tmp_path):
    file = tmp_path / "l.csv"
    for text in ["a 0\na 1\nb x\n", "a 0\nb x\na 1\n", "a 0\na x\n", "a 0\na\n", "b 0\na 0\na 1\nb 1\n"]:
        file.write_text(text)
        assert outcome(read_list, file) == outcome(reference.read_list, file), text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.mp4 0\nb\0.mp4 1\n", ":2: has a NUL byte"),
        ("a.mp4 0\nb.mp4 1\n".encode("utf-16"), ":1: has a NUL byte"),
        (b"a.mp4 0\nb.mp4 1" + b"0" * 30 + b"\n", ":2: label '10000.*0' is too large for a class index"),
        (b"a.mp4 4611686018427387904\n", ":1: label '4611686018427387904' is too large"),
        (b"a.mp4 " + b"9" * 10_000 + b"\n", r":1: label '9+'\.\.\. \(10000 characters\) is too large"),
        (b"a.mp4 0\n" + b"x" * (3 << 20), ":2: a line of 3145728 bytes"),
        (b"x" * 5000 + b".mp4 0 3\n", r":1: 'x+'\.\.\. \(\d+ characters\) is not a file; if 0 is a label"),
    ],
)
def test_lists_that_are_no_text_or_absurd_are_refused_in_one_line(content, message, tmp_path):
    file = tmp_path / "l.csv"
    file.write_bytes(content)
    with pytest.raises(ManifestError, match=f"^{file}{message}") as caught:
        read_list(file)
    assert len(str(caught.value)) < 800


def test_rows_before_a_line_that_is_wrong_are_given_first(tmp_path):
    file, rows = tmp_path / "l.csv", []
    file.write_text("a 0\na 1\nb x\nc 0\n")
    with pytest.raises(ManifestError, match=r"l\.csv:3: label 'x'"):
        rows.extend(list_rows(file))
    assert rows == [(1, "a", 0), (2, "a", 1)]


def test_slices_and_forked_readers_see_the_same_records(tmp_path):
    write_list(tmp_path / "train.csv", [(f"{i}.mp4", i % 5) for i in range(50)])
    records = load_split(tmp_path, "train")
    assert records[:3] == [records[0], records[1], records[2]]
    assert records[-2:] == list(records)[-2:]
    with pytest.raises(IndexError):
        records[50]
