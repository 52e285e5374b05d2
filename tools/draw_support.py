"""Draw which pairs of tokens each attention head computes.

    python tools/draw_support.py --num-heads 12 --num-tokens 196 --out docs/support.png
    python tools/draw_support.py --idea --out docs/idea.png

``--idea`` draws the README's picture: dense attention beside heads of Fibottention, and the patches of a clip that one
patch attends to. Needs matplotlib (extra [dev]).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from videofib.attention import Support
from videofib.attention.wythoff import VARIANTS
from videofib.files import replacing
from videofib.report.markup.numbers import percent

# of the README's picture
CLIP = (8, 14, 14)  # frames, rows and columns of patches
QUERY = (3, 6, 7)  # the frame, row and column of the attending patch
MASK_TOKENS = 96  # few enough for single diagonals to be visible
SHOWN_HEADS = (0, 1, 2)


def draw(support: Support, out: Path) -> None:
    """One panel a head: query down, key across, dark where the head attends."""
    columns = min(6, support.num_heads)
    rows = -(-support.num_heads // columns)
    figure = _figure(2.1 * columns, 2.45 * rows + 0.7)
    figure.suptitle(
        f"Fibottention on {support.num_tokens} tokens and a class token: {support.density():.2%} of the patch pairs, "
        f"{percent(100 * support.coverage())} seen by at least one head",
        fontsize=11,
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for head, mask in enumerate(support.to_mask().numpy()):
        axes[head].imshow(mask, cmap="Blues", vmin=0, vmax=1, interpolation="antialiased", interpolation_stage="rgba")
        offsets = " ".join(map(str, support.offsets[head]))
        axes[head].set_title(f"head {head + 1}\n{offsets}", fontsize=8)
    with replacing(out) as partial:
        figure.savefig(partial, dpi=110, format=out.suffix[1:])


def draw_idea(out: Path, num_heads: int = 12) -> None:
    """Above, the masks of dense attention and of some heads; below, the patches that one patch attends to, by head."""
    figure = _figure(11, 4.9)
    above, below = figure.subfigures(2, 1, height_ratios=(1.45, 1))
    _draw_masks(above, num_heads)
    _draw_clip(below, num_heads)
    with replacing(out) as partial:
        figure.savefig(partial, dpi=110, format=out.suffix[1:])


def _draw_masks(figure, num_heads: int) -> None:
    support = Support.fibottention(num_heads, MASK_TOKENS, num_prefix_tokens=0)
    masks = support.to_mask().numpy()
    panels = [("dense attention", np.ones_like(masks[0]), "Greys")]
    for head in SHOWN_HEADS:
        offsets = ", ".join(map(str, support.offsets[head]))
        panels.append((f"Fibottention, head {head + 1}\ndistances {offsets}", masks[head], "Blues"))
    panels.append((f"its {num_heads} heads together", masks.any(0), "Blues"))
    for ax, (title, mask, colours) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        ax.imshow(mask, cmap=colours, vmin=0, vmax=1.25, interpolation="nearest")
        ax.set_title(title, fontsize=9)
        ax.set_xlabel(f"{mask.mean():.1%} of the pairs", fontsize=9)
        ax.set_xticks([], [])
        ax.set_yticks([], [])


def _draw_clip(figure, num_heads: int) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    frames, rows, columns = CLIP
    support = Support.fibottention(num_heads, frames * rows * columns, num_prefix_tokens=0)
    order = np.arange(support.num_tokens).reshape(rows, columns, frames).transpose(2, 0, 1)  # as in hwt
    query = order[QUERY]
    seen = np.zeros(CLIP, dtype=int)  # 0: by no head, 1: the query, 2 and above: the head
    for head, offsets in enumerate(support.offsets):
        for offset in offsets:
            seen[np.abs(order - query) == offset] = head + 2
    seen[QUERY] = 1
    colours = ListedColormap([(0.94, 0.94, 0.94), (0, 0, 0), *colormaps["turbo"](np.linspace(0.05, 0.95, num_heads))])
    total = int((seen > 1).sum())
    figure.suptitle(
        f"the patches that the black patch in frame {QUERY[0] + 1} attends to, coloured by head: "
        f"{total} of the clip's {support.num_tokens:,}",
        fontsize=9,
    )
    for frame, ax in enumerate(figure.subplots(1, frames)):
        ax.imshow(seen[frame], cmap=colours, vmin=0, vmax=num_heads + 1, interpolation="nearest")
        ax.set_xticks(np.arange(columns) - 0.5, [])
        ax.set_yticks(np.arange(rows) - 0.5, [])
        ax.grid(color="white", linewidth=0.6)
        ax.tick_params(length=0)
        ax.set_xlabel(f"frame {frame + 1}", fontsize=8)


def _figure(width: float, height: float):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-heads", type=int, default=12)
    parser.add_argument("--num-tokens", type=int, default=196, help="without the class token")
    parser.add_argument("--variant", choices=VARIANTS, default="wythoff")
    parser.add_argument("--idea", action="store_true", help="draw the README's picture, whose sizes are fixed")
    parser.add_argument("--out", type=Path, required=True, help="the picture, .png or .svg")
    args = parser.parse_args(argv)
    if args.idea:
        draw_idea(args.out)
    else:
        draw(Support.fibottention(args.num_heads, args.num_tokens, variant=args.variant), args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
