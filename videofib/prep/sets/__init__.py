"""One module a data set: it reads the official annotations and has the command that prepares the data set."""
