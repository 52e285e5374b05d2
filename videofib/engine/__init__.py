"""Training and evaluation, by plain arguments; nothing here reads the config."""
