"""A folder to look at: contact sheets, the clips as animations, and an HTML page that shows them.

The page needs nothing but the files beside it: no network, no script.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from videofib.files import replacing
from videofib.printable import printable
from videofib.report.browse.clips import BrowsedVideo, Clip
from videofib.report.browse.contact_sheet import Row, contact_sheet, outlined, save_animation, save_picture

_SHEET_ROWS = 30  # of one contact sheet


def write_folder(
    folder: Path, videos: Sequence[BrowsedVideo], *, title: str, notes: Sequence[str], class_names: Sequence[str] | None
) -> Path:
    """Write ``index.html``, ``sheet_1.png`` and so on, and ``clips/``; returns the page's path.

    Args:
        title: heading of the page.
        notes: paragraphs below it, as plain text.
        class_names: by label; by default ``class 3``.

    Raises:
        OSError: the folder cannot be written to.
    """
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    rows = [row for video in videos for row in _rows(video, class_names)]
    sheets: list[str] = []
    for start in range(0, len(rows), _SHEET_ROWS):
        sheets.append(f"sheet_{len(sheets) + 1}.png")
        save_picture(folder / sheets[-1], contact_sheet(rows[start : start + _SHEET_ROWS]))
    sections = []
    for number, video in enumerate(videos, 1):
        figures = []
        for rank, clip in enumerate(video.clips, 1):
            name = f"clips/video{number:03d}_clip{rank:02d}"  # not the video's own name, which may be hostile
            save_animation(folder / f"{name}.webp", clip.frames)
            save_picture(folder / f"{name}_still.webp", Image.fromarray(clip.frames[0]))
            save_picture(folder / f"{name}_whole.webp", Image.fromarray(outlined(clip.full_frame, clip.box)))
            figures.append(_figure(name, clip, class_name(video, class_names)))
        sections.append(_section(number, video, class_name(video, class_names), figures))
    page = folder / "index.html"
    with replacing(page) as partial:
        partial.write_text(_page(title, notes, videos, sheets, sections), encoding="utf-8")
    return page


def class_name(video: BrowsedVideo, class_names: Sequence[str] | None) -> str:
    """The name of the class of a video, or of its classes."""
    return ", ".join(class_names[label] if class_names else f"class {label}" for label in video.record.classes)


def frames_text(clip: Clip) -> str:
    """The frames of a clip: ``frames 3 7 11 of 95``; of many, the first and the last."""
    indices = list(map(str, clip.indices))
    listed = " ".join(indices) if len(indices) <= 16 else f"{indices[0]} to {indices[-1]} ({len(indices)} frames)"
    return f"frames {listed} of {clip.video_length}"


def crop_text(clip: Clip) -> str:
    """The crop: ``crop 112 x 112 at (20, 8) of 170 x 128, mirrored``; width x height, from the left and top."""
    top, left, height, width = clip.box
    full = f"{clip.full_frame.shape[1]} x {clip.full_frame.shape[0]}"
    return f"crop {width} x {height} at ({left}, {top}) of {full}" + (", mirrored" if clip.mirrored else "")


def _rows(video: BrowsedVideo, class_names: Sequence[str] | None) -> list[Row]:
    name = f"{class_name(video, class_names)}: {video.record.video_id}"
    if video.reason:
        return [Row(name, alarm=f"cannot be read: {video.reason}")]
    return [
        Row(
            name,
            f"{clip.title}: {crop_text(clip)}",
            [outlined(clip.full_frame, clip.box), *clip.frames],
            ["full frame", *(f"frame {index}" for index in clip.indices)],
        )
        for clip in video.clips
    ]


def _figure(name: str, clip: Clip, label: str) -> str:
    height, width = clip.frames.shape[1:3]
    about = escape(printable(f"{label}, {clip.title}"))
    full_height, full_width = clip.full_frame.shape[:2]
    return f"""<li><figure>
<img class="moving" src="{name}.webp" width="{width}" height="{height}" loading="lazy" alt="{about}, moving">
<img class="still" src="{name}_still.webp" width="{width}" height="{height}" loading="lazy" alt="{about}, first frame">
<img src="{name}_whole.webp" width="{full_width}" height="{full_height}" loading="lazy"
 alt="{about}, full first frame with the crop outlined">
<figcaption><strong>{escape(clip.title)}</strong><br>{escape(frames_text(clip))}<br>{escape(crop_text(clip))}</figcaption>
</figure></li>"""


def _section(number: int, video: BrowsedVideo, label: str, figures: Sequence[str]) -> str:
    if video.reason:
        content = f'<p class="alarm"><strong>Cannot be read:</strong> {escape(printable(video.reason))}</p>'
    else:
        content = '<ul class="clips">\n' + "\n".join(figures) + "\n</ul>"
    return f"""<section aria-labelledby="video{number}">
<h2 id="video{number}">{escape(printable(label))}</h2>
<p class="id">{escape(printable(video.record.video_id))}</p>
{content}
</section>"""


def _page(
    title: str, notes: Sequence[str], videos: Sequence[BrowsedVideo], sheets: Sequence[str], sections: Sequence[str]
) -> str:
    links = ", ".join(f'<a href="{sheet}">{sheet}</a>' for sheet in sheets)
    paragraphs = "\n".join(f"<p>{escape(printable(note))}</p>" for note in notes)
    broken = [
        f'<li><a href="#video{number}">{escape(printable(video.record.video_id))}</a></li>'
        for number, video in enumerate(videos, 1)
        if video.reason
    ]
    if broken:
        paragraphs += (
            f'\n<p class="alarm">Videos that cannot be read: {len(broken)}</p>\n<ul>' + "".join(broken) + "</ul>"
        )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(printable(title))}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(printable(title))}</h1>
{paragraphs}
<p>Contact sheets: {links}</p>
<fieldset>
<legend>Clips</legend>
<label><input type="radio" name="motion" checked> system setting</label>
<label><input type="radio" name="motion" id="moving"> moving</label>
<label><input type="radio" name="motion" id="still"> still</label>
</fieldset>
{chr(10).join(sections)}
</main>
</body>
</html>
"""


_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --pale: #555; --paper: #fff; --line: #ccc; --alarm: #a40000; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #eee; --pale: #b5b5b5; --paper: #16181b; --line: #444; --alarm: #ff9a8f; }
  a { color: #9cc4ff; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 80rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.15rem; margin: 0; }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
fieldset { border: 1px solid var(--line); border-radius: .4rem; margin: 0 0 1rem; padding: .25rem .75rem .5rem; }
label { display: inline-block; padding: .35rem 1rem .35rem 0; }
.id { margin: 0 0 .75rem; color: var(--pale); font-size: .875rem; }
.alarm { color: var(--alarm); }
.clips { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 9rem), 1fr)); }
@media (min-width: 48rem) { .clips { grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); } }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; margin-bottom: .25rem; background: var(--line); }
figcaption { font-size: .8125rem; color: var(--pale); line-height: 1.4; }
figcaption strong { color: var(--ink); }
.still { display: none; }
@media (prefers-reduced-motion: reduce) { .moving { display: none; } .still { display: block; } }
body:has(#moving:checked) .moving, body:has(#still:checked) .still { display: block; }
body:has(#moving:checked) .still, body:has(#still:checked) .moving { display: none; }
"""
