"""From a video file to the requested frames."""
