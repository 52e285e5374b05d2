"""Learning without labels: objectives, with the modules that they train, for the trainer of ``engine/train.py``."""
