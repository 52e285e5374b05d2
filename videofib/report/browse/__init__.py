"""A data set as the model sees it: its clips, contact sheets, and a page to look at."""
