"""The configuration: every key with its default and what it accepts, and how files and the command line change it."""

from videofib.config.checks import ConfigError, value_of
from videofib.config.defaults import default_config, differences, known_keys, load_config

__all__ = ["ConfigError", "default_config", "differences", "known_keys", "load_config", "value_of"]
