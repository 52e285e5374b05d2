"""One module a data set: what its official files list, and the command that prepares it."""
