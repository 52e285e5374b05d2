"""``videofib configs``: the names of all configs with what they are, and the text of one."""

import pytest

from videofib.cli import main
from videofib.config.named import named_configs

NAME = "UCF101/TimeSformer_joint_fibottention_8x8_224"


def test_every_config_is_listed_with_what_it_is_and_what_to_expect(capsys):
    main(["configs"])
    listed = capsys.readouterr().out.splitlines()
    names = [line for line in listed if not line.startswith(" ")]
    assert names == list(named_configs())
    at = listed.index(NAME)
    assert listed[at + 1 : at + 3] == [
        "  UCF101, 8 frames of 224 px; joint attention, Fibottention.",
        "  Expected: accuracy and cost not measured.",
    ]


def test_a_named_config_is_printed_as_it_is(capsys):
    main(["configs", NAME])
    assert capsys.readouterr().out == named_configs()[NAME].read_text(encoding="utf-8")


def test_an_unknown_name_is_refused_in_one_line_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as refused:
        main(["configs", NAME.replace("joint", "joined")])
    assert NAME in str(refused.value)
    assert "\n" not in str(refused.value)
    assert capsys.readouterr().out == ""
