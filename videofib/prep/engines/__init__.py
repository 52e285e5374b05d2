"""What runs the work of a preparation: a pool of local processes, or Ray."""
