"""Which videos a data set has: list files, folders of classes, manifests and tar shards, local or remote."""
