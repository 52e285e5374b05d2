"""Which videos there are: list files, folders of classes, manifests and tar shards, local or remote."""
