"""From a video file to the frames asked for."""
