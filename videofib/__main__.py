"""``python -m videofib`` is ``videofib``."""

from videofib.cli import main

if __name__ == "__main__":
    main()
