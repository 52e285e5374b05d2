"""How the pages of docs/, which are written to be read on GitHub, become a site; MkDocs calls the functions ``on_…``.

- The navigation is the index in docs/README.md: a section for each heading, an entry for each item of its lists that
  begins with a link. A page that is in the index is in the site's navigation, and a test holds that all are.
- Pages outside docs/ that the documentation links to are pages of the site, too (``OUTSIDE``), and so are notebooks.
- Links to other files of the source, which the site does not have, become their text.
- Pages of the Python interface are made from docstrings (``API``).
"""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[1]
INDEX = "README.md"  # in docs
OUTSIDE = {  # in the repository -> in the site
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": INDEX,  # the site has one front page
    "videofib/mixers/README.md": "mixers.md",
}
API = {  # page -> what it describes; of a module, everything public
    "videofib": ("videofib.load", "videofib.create_model", "videofib.list_models", "videofib.run.saved_model"),
    "attention": (
        "videofib.attention.Support",
        "videofib.attention.sparse_attention",
        "videofib.attention.SelfAttention",
        "videofib.attention.wythoff",
        "videofib.attention.context.attention",
        "videofib.attention.context.group",
        "videofib.attention.context.traffic",
    ),
    "mixers": ("videofib.mixers.mixer", "videofib.mixers.build"),
    "models": (
        "videofib.models.TimeSformer",
        "videofib.models.profiling",
        "videofib.models.pretrained.load",
        "videofib.models.pretrained.export",
    ),
    "data": (
        "videofib.data.lists.record",
        "videofib.data.lists.manifest",
        "videofib.data.source",
        "videofib.data.sampling",
        "videofib.data.samplers",
        "videofib.data.video.decode",
        "videofib.data.clips.dataset",
        "videofib.data.clips.transforms",
        "videofib.data.loading.loader",
    ),
    "metrics": (
        "videofib.metrics.accuracy",
        "videofib.metrics.tasks",
        "videofib.metrics.scores",
        "videofib.metrics.intervals",
        "videofib.metrics.features",
        "videofib.metrics.probe",
    ),
    "engine": ("videofib.engine.train", "videofib.engine.evaluate"),
    "checkpoint": ("videofib.checkpoint.manager", "videofib.checkpoint.file"),
}
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>~?")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Headings have the anchors that GitHub gives them; the navigation is read."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    config.nav = [{"Home": INDEX}, *navigation((ROOT / "docs" / INDEX).read_text(encoding="utf-8"))]
    config.nav.append({"Python": [{name: f"api/{name}.md"} for name in API]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not Markdown files of docs/."""
    pages = {inside: (ROOT / name).read_text(encoding="utf-8") for name, inside in OUTSIDE.items() if inside != INDEX}
    pages |= {f"api/{name}.md": api_page(name, objects) for name, objects in API.items()}
    for notebook in (ROOT / "docs").rglob("*.ipynb"):
        if ".ipynb_checkpoints" not in notebook.parts:
            name = notebook.relative_to(ROOT / "docs").with_suffix(".md").as_posix()
            pages[name] = notebook_page(json.loads(notebook.read_text(encoding="utf-8")), notebook.name)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Let links lead to the site's pages."""
    return site_links(markdown, page.file.src_uri)


def on_page_content(html: str, **_: object) -> str:
    """Docstrings name functions as Sphinx does, :func:`name`, which Markdown does not know; empty headers are cells."""
    return _ROLE.sub("<code>", html).replace("<th></th>", "<td></td>")


def navigation(index: str) -> list[dict]:
    """The sections of the index, in MkDocs' form: [{section: [{title: page}, …]}, …]."""
    sections: list[dict] = []
    for line in index.splitlines():
        if heading := re.match(r"## (.+)", line):
            sections.append({heading[1]: []})
        elif sections and (item := re.match(rf"- {_LINK.pattern}", line)):
            page, _, _ = _in_site(item[2], INDEX)
            next(iter(sections[-1].values())).append({item[1]: page})
    return [section for section in sections if any(section.values())]


def api_page(name: str, objects: tuple[str, ...]) -> str:
    """The page about a part of the package, which mkdocstrings fills."""
    return "\n".join([f"# {name}", "", *(f"::: {each}\n" for each in objects)])


def notebook_page(notebook: dict, name: str) -> str:
    """A notebook as Markdown: its texts, its code, and those outputs that are text or pictures."""
    lines = [f'[Download the notebook]({name} "{name}"){{ download }}', ""]
    first, *cells = notebook["cells"]
    lines = [_text(first), "", *lines]
    for cell in cells:
        if cell["cell_type"] == "markdown":
            lines += [_text(cell), ""]
        elif _text(cell):
            lines += [*_fenced(_text(cell), "bash" if _text(cell).startswith("%%bash") else "python")]
            lines += [line for output in cell.get("outputs", ()) for line in _output(output)]
    return "\n".join(lines) + "\n"


def _text(cell: dict) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def _fenced(text: str, language: str) -> Iterator[str]:
    yield from (f"````{language}", re.sub(r"^%%bash.*\n", "", text).rstrip("\n"), "````", "")


def _output(output: dict) -> Iterator[str]:
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        yield from (f'<img alt="What the code above draws" src="data:image/png;base64,{picture}">', "")
    elif text := "".join(data.get("text/plain", "")):
        yield from _fenced(text, "text")


def site_links(markdown: str, page: str) -> str:
    """The text of a page (its path in the site's source) with links that lead to pages of the site, or none."""
    pieces = re.split(r"(^ *(`{3,})[^\n]*\n.*?^ *\2 *$)", markdown, flags=re.MULTILINE | re.DOTALL)
    # the texts between, then the fenced block and its fence
    return "".join(
        _LINK.sub(lambda link: _site_link(link, page), piece) if number % 3 == 0 else piece
        for number, piece in enumerate(pieces)
        if number % 3 != 2
    )


def _site_link(link: re.Match, page: str) -> str:
    text, target = link.groups()
    if target.startswith(("http://", "https://", "#", "mailto:")):
        return link[0]
    inside, anchor, is_page = _in_site(target, page)
    if not is_page:
        return text
    return f"[{text}]({posixpath.relpath(inside, posixpath.dirname(page) or '.')}{anchor})"


def _in_site(target: str, page: str) -> tuple[str, str, bool]:
    """Where a link of a page leads: a path in the site's source, ``#…`` or nothing, and whether the site has it."""
    path, hash_sign, anchor = target.partition("#")
    in_repository = {inside: name for name, inside in OUTSIDE.items() if inside != INDEX}.get(page, f"docs/{page}")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository), path))
    inside = OUTSIDE.get(path, path.removeprefix("docs/"))
    if inside.endswith(".ipynb"):
        inside = inside.removesuffix(".ipynb") + ".md"
    return inside, hash_sign + anchor, path in OUTSIDE or path.startswith("docs/")
