"""A data set as the model sees it: clips with all that was drawn for them, contact sheets, a page."""
