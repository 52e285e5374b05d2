"""The configuration: every key with its default and what it accepts, and how files and the command line change it."""

from videofib.config.declare import ConfigError
from videofib.config.defaults import KEYS, MAPPINGS, SECTIONS
from videofib.config.effect import idle_in
from videofib.config.mixing import mixers_of_blocks
from videofib.config.settings import (
    default_config,
    differences,
    known_keys,
    load_config,
    overridden_keys,
    saved_config,
    value_of,
)

__all__ = [
    "KEYS",
    "MAPPINGS",
    "SECTIONS",
    "ConfigError",
    "default_config",
    "differences",
    "idle_in",
    "known_keys",
    "load_config",
    "mixers_of_blocks",
    "overridden_keys",
    "saved_config",
    "value_of",
]
