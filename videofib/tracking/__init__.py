"""What a run leaves for its reader: log lines, figures, and a record of the environment."""
