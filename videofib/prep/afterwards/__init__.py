"""One module for each command of a prepared folder."""
