"""From video files to batches: manifests, decoding, sampling, transforms, data sets, loaders."""
