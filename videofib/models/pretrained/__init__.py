"""Load the weights of other projects, and write ours in their layouts."""
