"""How pages are written: HTML, charts, numbers and their style."""
