"""Whatever is written for whichever key: a value that the key accepts, or one line that names it."""

import pytest

from videofib.config import KEYS, ConfigError
from videofib.config.declare import Refused
from videofib.config.settings import load_config

ABSURD = (
    *("", " ", "~", "None", "null", "none", "auto", "true", "False", "-1", "-0.1", "0", "1", "1.0", "1e1", "5", "010"),
    *("29.97", "2024", "1e400", "-1e400", "inf", "nan", "1" + "0" * 30, "9" * 5000, "0x10", "1_0", "\u0663", "1+2j"),
    *("[]", "[1]", "[1, 2]", "[a, b, c]", "[0.1, 0.2, 0.3, 0.4]", "[~]", "[[1], [2]]", "[inf, nan]", "[" * 500, "{}"),
    *("!!python/object/apply:os.getcwd []", "&a [*a]", "a\nb", "\x1b[2J", "\u2028", "a\0b", "\udcff", "2024-01-01"),
    *(None, True, False, -1, 10**30, 1.5, float("nan"), float("inf"), [], [None], [[]], {}, {"a": 1}, b"x", 1j),
    ["1"] * 5000,
)


@pytest.mark.parametrize("name", KEYS)
def test_a_key_accepts_a_value_of_its_type_or_reports_it_in_a_line(name):
    key, default = KEYS[name], KEYS[name].read(KEYS[name].default)
    for written in ABSURD:
        try:
            value = key.read(written)
        except Refused:
            with pytest.raises(ConfigError) as error:
                load_config(None, [name, written])
            message = str(error.value)
            assert name in message
            assert len(message.splitlines()) == 1, repr(message)
            assert len(message) < 500
            continue
        assert type(value) is type(default), (written, value)
        assert key.read(value) == value  # as it is in a dumped config
        message = ""
        try:
            load_config(None, [name, written])
        except ConfigError as error:  # of a combination, which may be that of other keys
            message = str(error)
        assert len(message.splitlines()) <= 1, repr(message)
