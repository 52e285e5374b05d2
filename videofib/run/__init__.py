"""What the commands do with a config: the only package, beside report/read, that reads it."""
