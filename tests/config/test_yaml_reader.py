"""YAML within bounds: what is written, with line numbers, and one line where it cannot be read."""

import time
import tracemalloc

import pytest

from videofib.config.yaml_reader import MAX_CHARACTERS, MAX_NODES, BadYaml, Quoted, read_entries, read_list

# 341 characters that yaml.safe_load makes 9 ** 10 references of
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefghi", "bcdefghij", strict=True)
)


def test_entries_are_text_with_full_keys_and_lines():
    text = (
        "# note\nRNG_SEED: 010\nSOLVER:\n  BASE_LR: 1e-4  # small\n  STEPS: [0, 11]\nOUTPUT_DIR: 2024-01-01\nE: ~\nF:"
    )
    assert read_entries(text) == [
        ("RNG_SEED", "010", 2),
        ("SOLVER.BASE_LR", "1e-4", 4),
        ("SOLVER.STEPS", ["0", "11"], 5),
        ("OUTPUT_DIR", "2024-01-01", 6),
        ("E", None, 7),
        ("F", None, 8),
    ]


@pytest.mark.parametrize("written", ["'None'", '"None"', "|-\n  None", ">-\n  None"])
def test_quotes_are_taken_off_and_remembered(written):
    ((_, value, _),) = read_entries(f"A: {written}")
    assert value == "None"
    assert isinstance(value, Quoted)


def test_aliases_and_merge_keys_work():
    text = "A: &a {X: 1, Y: 2}\nB: &b [3]\nC:\n  <<: *a\n  Y: 4\n  Z: *b\nD: {<<: [*a, {Y: 5, W: 6}]}\n"
    entries = {key: value for key, value, _ in read_entries(text)}
    assert entries == {
        **{"A.X": "1", "A.Y": "2", "B": ["3"]},
        **{"C.X": "1", "C.Y": "4", "C.Z": ["3"]},
        **{"D.X": "1", "D.Y": "2", "D.W": "6"},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("# only a note\n", "it is empty"),
        ("just words", "expected sections and keys, got text"),
        ("- a\n- b\n", "expected sections and keys, got a list"),
        ("SOLVER: [", "line 1: while parsing a flow node, expected the node content, but found '<stream end>'"),
        ("A: 1\n B: 2\n", "line 2: mapping values are not allowed here"),
        ("A: 1\n---\nA: 2\n", "line 2: expected a single document in the stream, but found another document"),
        ("A: 1\nB: \x07\n", "line 2: the character U+0007 is not allowed"),
        ("A: !!python/object/apply:os.getcwd []", "line 1: the tag !!python/object/apply:os.getcwd is not allowed"),
        ("A: 1\nB: !!set {a}\n", "line 2: the tag !!set is not allowed"),
        ("A: 1\nB: 2\nA: 3\n", "A appears twice, on lines 1 and 3"),
        ("S:\n  A: 1\nT:\n  A: 1\nS:\n  B: 2\n", "S appears twice, on lines 1 and 5"),
        ("S:\n  A: 1\n  B: 2\n  A: 1\n", "S.A appears twice, on lines 2 and 4"),
        ("S:\n  A: 1\nS.A: 2\n", "S.A appears twice, on lines 2 and 3"),
        ("? [a]\n: 1\n", "line 1: expected the name of a key, got a list"),
        ("A: &a [*a]\n", "line 1: nested deeper than 10 levels"),
        ("A: &a {B: *a}\n", "line 1: nested deeper than 10 levels"),
        ("A: &a {<<: *a}\n", "line 1: nested deeper than 10 levels"),
        ("A: " + "[" * 5000, "line 1: nested deeper than 10 levels"),
        ("A:\n" + "".join(" " * n + "A:\n" for n in range(1, 40)), "line 10: nested deeper than 10 levels"),
        (
            "A: &a0 [1]\n" + "".join(f"A{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 3000)),
            "line 1: nested deeper than 10 levels",
        ),
        ("A: {<<: [1]}", "line 1: << merges sections, got text"),
        (f"A: [{'1,' * MAX_NODES}]", "line 1: more than 10000 entries, counting what aliases repeat"),
        ("A: " + "x" * MAX_CHARACTERS, "it has more than 262144 characters"),
        (BOMB, "line 1: more than 10000 entries, counting what aliases repeat"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_what_cannot_be_read_is_one_line(text, message):
    with pytest.raises(BadYaml) as error:
        read_entries(text)
    assert str(error.value) == message


@pytest.mark.parametrize("shape", ["list", "merge"])
def test_a_bomb_costs_neither_memory_nor_time(shape):
    text = BOMB
    if shape == "merge":
        text = "a: &a {k: v}\n" + "".join(
            f"{after}: &{after} {{<<: [{','.join([f'*{before}'] * 9)}], {after}: 1}}\n"
            for before, after in zip("abcdefghi", "bcdefghij", strict=True)
        )
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(BadYaml):
        read_entries(text)
    assert time.process_time() - start < 5
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("text", ["[0, 11]", "(0, 11)", "0,11", " [ 0,11 ] ", "['0', \"11\"]"])
def test_lists_of_the_command_line(text):
    assert read_list(text) == ["0", "11"]


@pytest.mark.parametrize("text", ["", "0", "{a: b}", "[0", "a: b", "[*a]", "[0]]", "[0] 1"])
def test_what_is_not_a_list(text):
    with pytest.raises(BadYaml):
        read_list(text)
