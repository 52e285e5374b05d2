"""Which mixer each block has, and with which options: what files and the command line may say, and what it means."""

import pytest

from videofib.config import ConfigError, load_config, mixers_of_blocks
from videofib.config.mixing import mixers_in
from videofib.run.models import build_model

JOINT = ("TIMESFORMER.ATTENTION_TYPE", "joint_space_time")
SMALL = ("TIMESFORMER.EMBED_DIM", "8", "TIMESFORMER.DEPTH", "3", "TIMESFORMER.NUM_HEADS", "2")


def refusal(*words, file=None):
    with pytest.raises(ConfigError) as caught:
        load_config(file, [*JOINT, *words])
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("dense", "dense"),
        ("first 2: none", ["none", "none", "dense", "dense"]),
        ("first 3: none,fibottention", ["none", "none", "none", "fibottention"]),
        ("fibottention, first 1 :none, last 2:dense", ["none", "fibottention", "dense", "dense"]),
        ("last 1: fibottention", ["dense", "dense", "dense", "fibottention"]),
        ("[none, dense, dense, fibottention]", ["none", "dense", "dense", "fibottention"]),
        ("none,dense,dense,fibottention", ["none", "dense", "dense", "fibottention"]),
        (["none", "dense", "dense", "fibottention"], ["none", "dense", "dense", "fibottention"]),
        ("first 4: fibottention", ["fibottention"] * 4),
        (["fibottention"], "fibottention"),
    ],
)
def test_names_of_blocks(written, names):
    value = load_config(None, [*JOINT, "ATTENTION.JOINT", written, "FIBOTTENTION.W_MIN", "5"]).ATTENTION.JOINT
    assert mixers_of_blocks("ATTENTION.JOINT", value, 4) == names
    assert set(mixers_in(value)) >= set([names] if isinstance(names, str) else names)
    again = load_config(None, [*JOINT, "ATTENTION.JOINT", value])
    assert value == again.ATTENTION.JOINT  # as in a dumped config


def test_a_file_may_have_a_list(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("ATTENTION:\n  JOINT: [none, fibottention, dense]\n")
    cfg = load_config(file, [*JOINT, *SMALL])
    (tmp_path / "dumped.yaml").write_text(cfg.dump())
    assert load_config(tmp_path / "dumped.yaml") == cfg
    assert build_model(cfg).attention_settings()["joint"] == ["none", "fibottention", "dense"]


@pytest.mark.parametrize(
    "written",
    [
        *("first 2: dense, first 1: none", "first 2: none: dense", "first 2: none, dense, none", "dense,,none"),
        *("first: none", "first -1: none", "middle 2: none", ""),
    ],
)
def test_other_forms_are_refused(written):
    assert "must be one of none, dense" in refusal("ATTENTION.JOINT", written)


def test_the_nearest_name_is_suggested():
    assert refusal("ATTENTION.JOINT", "first 2: none, fibotention").endswith("; did you mean fibottention?")


@pytest.mark.parametrize(
    ("written", "count"), [("none, dense", 2), ("first 4: none", 4), ("first 2: none, last 2: fibottention", 4)]
)
def test_a_number_of_blocks_that_is_not_the_depth_is_refused(written, count):
    cfg = load_config(None, [*JOINT, *SMALL, "ATTENTION.JOINT", written])
    message = rf"^ATTENTION\.JOINT {written} names the mixers of {count} blocks, and the model has 3$"
    with pytest.raises(ValueError, match=message):
        build_model(cfg)


# ---- options


@pytest.mark.parametrize(
    "words",
    [
        ["ATTENTION.OPTIONS", "{fibottention: {w_min: 3, w_max: ~, masking: zero_logit}}"],
        ["ATTENTION.OPTIONS={fibottention: {w_min: 0x3, w_max: None, masking: 'zero_logit'}}"],
        [*("ATTENTION.OPTIONS.fibottention.w_min", 3, "ATTENTION.OPTIONS.fibottention.w_max", "None"),
         "ATTENTION.OPTIONS.fibottention.masking=zero_logit"],
    ],
)  # fmt: skip
def test_options_on_the_command_line(words):
    cfg = load_config(None, [*JOINT, "ATTENTION.JOINT", "fibottention", *words])
    assert cfg.ATTENTION.OPTIONS == {"fibottention": {"w_min": 3, "w_max": None, "masking": "zero_logit"}}


def test_options_of_files_and_the_command_line_add_up(tmp_path):
    base, file = tmp_path / "base.yaml", tmp_path / "a.yaml"
    base.write_text("ATTENTION: {JOINT: fibottention, OPTIONS: {fibottention: {w_min: 3, masking: zero_logit}}}")
    file.write_text("_BASE_: base.yaml\nATTENTION:\n  OPTIONS:\n    fibottention:\n      w_min: 4\n")
    assert load_config(file, JOINT).ATTENTION.OPTIONS == {"fibottention": {"w_min": 4, "masking": "zero_logit"}}
    words = [*JOINT, *SMALL, "ATTENTION.OPTIONS.fibottention.head_order", "per_layer"]
    cfg = load_config(file, words)
    expected = {"w_min": 4, "masking": "zero_logit", "head_order": "per_layer"}
    assert dict(cfg.ATTENTION.OPTIONS) == {"fibottention": expected}
    (tmp_path / "dumped.yaml").write_text(cfg.dump())
    assert load_config(tmp_path / "dumped.yaml") == cfg
    assert expected.items() <= build_model(cfg).attention_settings().items()
    assert load_config(file, [*JOINT, "ATTENTION.OPTIONS", "{}"]).ATTENTION.OPTIONS == {}


@pytest.mark.parametrize("written", ["3", "{fibottention: 3}", "[fibottention]", "{fibottention: {w_min: {a: 1}}}",
                                     "{fibottention: [3]}", "{3: {w_min: 3}}", "{fibottention: {w_min:3}}",
                                     "{fibotention: {w_min: 3}}"])  # fmt: skip
def test_what_is_no_mapping_of_options_is_refused(written):
    assert "must be a mapping such as" in refusal("ATTENTION.JOINT", "fibottention", "ATTENTION.OPTIONS", written)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("w_mim: 3", r"has no option 'w_mim' \(got w_mim=3\); did you mean 'w_min'\?; its options: w_min, w_max"),
        ("w_min: few", "the option 'w_min' of mixer 'fibottention' must be int, got w_min='few'"),
        ("w_min: true", "must be int, got w_min=True"),
        ("w_max: 2.5", r"must be int \| None, got w_max=2.5"),
        ("w_min: 0", r"w_min"),  # of the right type, but out of range: the constructor's own words
    ],
)
def test_options_are_checked_against_the_constructor(options, message):
    cfg = load_config(None, [*JOINT, "ATTENTION.JOINT", "fibottention", "ATTENTION.OPTIONS",
                             f"{{fibottention: {{{options}}}}}"])  # fmt: skip
    with pytest.raises(ValueError, match=message):
        build_model(cfg)
