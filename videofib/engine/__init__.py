"""Training and evaluation: the stories (train, evaluate), and run, which tells them from a config."""
