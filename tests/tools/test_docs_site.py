"""The site of the documentation: its navigation and links, and that it builds and loads nothing from elsewhere."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("material", reason="the site is built by mkdocs-material, of the extra [docs]")

from tools import docs_site

ROOT = Path(__file__).parents[2]


def test_the_navigation_is_the_index():
    index = """# Title

[not](an_entry.md) and

## First

Text.

- [A page](a.md): what it is
- [Notebook](notebooks/b.ipynb)
  continued [no](entry.md)

## Empty

## Second

- [Contributing](../CONTRIBUTING.md)
- [Mixers](../videofib/mixers/README.md): their `table`
"""
    assert docs_site.navigation(index) == [
        {"First": [{"A page": "a.md"}, {"Notebook": "notebooks/b.md"}]},
        {"Second": [{"Contributing": "contributing.md"}, {"Mixers": "mixers.md"}]},
    ]


@pytest.mark.parametrize(
    ("page", "text", "in_site"),
    [
        ("config.md", "[data](data.md#drills)", "[data](data.md#drills)"),
        ("fidelity/fibottention.md", "[speed](../performance.md)", "[speed](../performance.md)"),
        ("architecture.md", "[change](../CONTRIBUTING.md#tests)", "[change](contributing.md#tests)"),
        ("contributing.md", "[built](docs/architecture.md)", "[built](architecture.md)"),
        ("contributing.md", "[one](videofib/mixers/README.md#adding-one)", "[one](mixers.md#adding-one)"),
        ("mixers.md", "[f](../../docs/fidelity/fibottention.md)", "[f](fidelity/fibottention.md)"),
        ("mixers.md", "[table.py](table.py)", "table.py"),
        ("config.md", "[defaults.py](../videofib/config/defaults.py)", "defaults.py"),
        ("tutorials/own_folder.md", "[start](../../README.md)", "[start](../README.md)"),
        ("README.md", "[n](notebooks/a.ipynb)", "[n](notebooks/a.md)"),
        ("config.md", "![picture](idea.png) [w](https://x.org/a.md) [h](#here)", None),
        ("config.md", "a\n\n```\n[x](../setup.cfg)\n```\n\n[x](../setup.cfg)", "a\n\n```\n[x](../setup.cfg)\n```\n\nx"),
        ("config.md", "1. a\n\n    ````md\n    ```\n    [x](../a)\n    ```\n    ````\n\n[`x`](../a)", "…`x`"),
    ],
)
def test_links_lead_to_pages_of_the_site(page, text, in_site):
    in_site = text if in_site is None else in_site.replace("…", text.rpartition("[`")[0])
    assert docs_site.site_links(text, page) == in_site


def test_a_notebook_becomes_a_page():
    cells = [
        {"cell_type": "markdown", "source": ["# A title\n", "text"]},
        {"cell_type": "code", "source": "%%bash -e\nls", "outputs": [{"text": ["a\n", "b\n"]}]},
        {"cell_type": "code", "source": "", "outputs": []},
        {
            "cell_type": "code",
            "source": ["draw()"],
            "outputs": [{"data": {"image/png": "iVBO\nRw0=", "text/plain": ["<Figure>"]}}],
        },
    ]
    page = docs_site.notebook_page({"cells": cells}, "a.ipynb")
    assert page.startswith("# A title\ntext\n\n[Download the notebook](a.ipynb")
    assert "````bash\nls\n````\n\n````text\na\nb\n````\n" in page
    assert (
        '````python\ndraw()\n````\n\n<img alt="What the code above draws" src="data:image/png;base64,iVBORw0=">\n'
        in page
    )


def test_roles_and_empty_headers_do_not_reach_readers():
    html = "see :func:<code>~videofib.load</code>, <code>x</code><table><tr><th></th><th>a</th></tr></table>"
    shown = "see <code>videofib.load</code>, <code>x</code><table><tr><td></td><th>a</th></tr></table>"
    assert docs_site.on_page_content(html) == shown


class Loaded(HTMLParser):
    """What a browser loads for a page by itself: attributes of tags that are no links to follow."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster") or (name == "href" and tag == "link"):
                self.found.append(value)


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {file.relative_to(tmp_path).as_posix(): file.read_text("utf-8") for file in tmp_path.rglob("*.html")}
    sources = {file.relative_to(ROOT / "docs").with_suffix(".html") for file in (ROOT / "docs").rglob("*.md")}
    sources |= {file.relative_to(ROOT / "docs").with_suffix(".html") for file in (ROOT / "docs").rglob("*.ipynb")}
    assert {file.as_posix() for file in sources} - {"README.html"} <= set(pages)
    loaded = {address for page in pages.values() for address in Loaded(page).found}
    assert {address for address in loaded if re.match(r"(\w+:)?//", address)} == set()
    styles = "".join(file.read_text("utf-8") for file in tmp_path.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import )[\"']?(?:\w+:)?//[^)]*", styles) == []
    assert not [name for name, page in pages.items() if 'class="mermaid"' in page]  # the theme would load its script
    for name in docs_site.API:
        assert f'href="api/{name}.html"' in pages["index.html"]
    assert "sparse_attention(" in re.sub("<[^>]*>", "", pages["api/attention.html"])
    assert not re.search(r":(?:func|class|meth|mod|data|attr):", "".join(pages[f"api/{n}.html"] for n in docs_site.API))
    index = json.loads((tmp_path / "search/search_index.json").read_text("utf-8"))
    assert any(entry["location"].startswith("api/attention.html#videofib.attention.Support") for entry in index["docs"])
