"""Several processes that train or test one model."""
