"""What labels mean, and how predictions are scored."""
