"""Draw the support of each attention head: which tokens attend to which.

    python tools/draw_support.py --num-heads 12 --num-tokens 196 --out docs/support.png

Needs matplotlib (extra [dev]).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from videofib.attention import Support
from videofib.attention.wythoff import VARIANTS


def draw(support: Support, out: Path) -> None:
    """One panel for each head: queries down, keys across, dark where the head attends."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(6, support.num_heads)
    rows = -(-support.num_heads // columns)
    figure = Figure(figsize=(2.1 * columns, 2.45 * rows + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"Fibottention on {support.num_tokens} tokens and a class token: {support.density():.2%} of the patch pairs, "
        f"{support.coverage():.0%} seen by at least one head",
        fontsize=11,
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for head, mask in enumerate(support.to_mask().numpy()):
        axes[head].imshow(mask, cmap="Blues", vmin=0, vmax=1, interpolation="antialiased", interpolation_stage="rgba")
        offsets = " ".join(map(str, support.offsets[head]))
        axes[head].set_title(f"head {head + 1}\n{offsets}", fontsize=8)
    figure.savefig(out, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-heads", type=int, default=12)
    parser.add_argument("--num-tokens", type=int, default=196, help="without the class token")
    parser.add_argument("--variant", choices=VARIANTS, default="wythoff")
    parser.add_argument("--out", type=Path, required=True, help="picture to write, .png or .svg")
    args = parser.parse_args(argv)
    draw(Support.fibottention(args.num_heads, args.num_tokens, variant=args.variant), args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
