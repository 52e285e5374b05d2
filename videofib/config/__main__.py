"""``python -m videofib.config`` prints the reference page of all keys."""

from videofib.config.reference import reference_page

if __name__ == "__main__":
    print(reference_page(), end="")
