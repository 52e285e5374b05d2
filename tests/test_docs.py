"""The documentation names pages, commands and keys that exist."""

import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

from videofib.cli import COMMANDS
from videofib.config import known_keys
from videofib.config.foreign import meaning

ROOT = Path(__file__).parents[1]
PAGES = sorted({ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")})
KEYS_OF_TIMESFORMER = {"TRAIN.FINETUNE", "TIMESFORMER.PRETRAINED_MODEL"}  # of its own code, which a page describes


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_and_keys_exist(page):
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"(?:^|`)videofib ([a-z]+)\b", text, re.MULTILINE)) <= set(COMMANDS)
    keys = set(re.findall(r"\b[A-Z]{2,}\.[A-Z][A-Z0-9_]+\b", text))
    assert {key for key in keys - set(known_keys()) - KEYS_OF_TIMESFORMER if not meaning(key)} == set()


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    files = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb")]
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in files} - {"README.md"}
    assert {page for page in pages if f"]({page})" not in index} == set()


def test_files_named_in_the_architecture_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", text)
    assert {name for name in named if not any((root / name).is_file() for root in (ROOT, ROOT / "videofib"))} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_names_in_the_package_exist(page):
    text = page.read_text(encoding="utf-8")
    if page.name == "CHANGELOG.md":  # its table of moved modules: before, now
        text = " ".join(line.split("|")[2] for line in text.splitlines() if line.startswith("| `videofib."))
    for name in set(re.findall(r"\bvideofib(?:\.[A-Za-z_]\w*)+", text)) - {"videofib.git"}:
        resolve_name(name)
