"""docs/commands.md is what the commands print, and has each of them."""

import os
import re
from pathlib import Path

import pytest

from tools.commands_page import commands_page, main
from videofib.cli import COMMANDS
from videofib.commands.prep import AFTERWARDS, DATA_SETS

ROOT = Path(__file__).parents[2]


def words(text):
    """Without what differs between versions of Python: where argparse breaks lines."""
    return text.split()


def test_the_page_is_current(capsys):
    main([])
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert words(page) == words(capsys.readouterr().out), "run: python tools/commands_page.py > docs/commands.md"


def test_each_command_has_a_section_with_its_usage():
    page = commands_page()
    names = [*COMMANDS, *(f"prep {name}" for name in DATA_SETS | AFTERWARDS)]
    for name in names:
        section = re.search(rf"^##+ videofib {name}\n\n```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1]
        assert section.startswith(f"usage: videofib {name} ") or name == "prep", section
        assert "--help" in section
    assert page.count("\n```text\n") == len(names)


@pytest.mark.parametrize("columns", [None, "40"])
def test_the_page_does_not_depend_on_the_terminal(columns, monkeypatch):
    page = commands_page()
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    assert commands_page() == page
    assert os.environ.get("COLUMNS") == columns
    assert max(map(len, page.splitlines())) < 160
