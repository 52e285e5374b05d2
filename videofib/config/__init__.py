"""The configuration: every key with its default and what it accepts, and how files and the command line change it."""
