"""Export a model: one file or folder that computes what the model does, where videofib is not installed.

videofib export --model runs/mine --to onnx --out model.onnx
videofib export --model runs/mine --to pt2 --out model.pt2
videofib export --model owner/model --to aoti --out model.pt2
videofib export --model FOLDER --to huggingface --out FOLDER

FROM is a run's folder, a checkpoint, a folder of save_pretrained, motion_xxs, which comes with videofib, or owner/model
on the Hugging Face Hub. onnx, pt2 and aoti take clips (batch, 3, T, H, W) of the size of the model's tests, in any
batch, and give logits (batch, classes); sparse attention stays sparse. onnx runs in onnxruntime; pt2 in
torch.export.load; aoti, compiled for the CPU of this machine, in torch._inductor.aoti_load_package. Each holds the
classes, how a video becomes the input and how logits become scores, as JSON. huggingface is a folder for transformers,
whose pipeline("video-classification") then reads videos in the same way as videofib.

What was written is loaded and compared with the model on random clips, and the largest difference printed; a file that
differs is not kept. An existing file is replaced, a folder that holds anything is not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from videofib.parser import Parser
from videofib.printable import printable
from videofib.run.export_formats import EXPORT_FORMATS
from videofib.run.video_options import add_model_options, check_pairs, errors_in_one_line, load_model
from videofib.signals import sigint_deferred


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    with sigint_deferred():
        from videofib.run.exporting import check_output, clip_shape, export

    with errors_in_one_line():
        check_output(args.to, args.out)
        saved = load_model(args)
        shape = " x ".join(map(str, clip_shape(saved)))
        parameters = sum(parameter.numel() for parameter in saved.model.parameters())
        print(f"loaded {printable(saved.name)}: {parameters:,} parameters, clips of {shape}", flush=True)
        print(f"exporting {EXPORT_FORMATS[args.to].what} ...", flush=True)
        written = export(saved, args.to, args.out)
    found = written.difference
    print(f"largest difference from the model: {found.largest:.2g}, where its largest logit is {found.logit:.3g}")
    print(f"wrote {printable(written.path)} ({written.size / 1e6:.1f} MB)")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("videofib export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", required=True, choices=tuple(EXPORT_FORMATS), help="what to write")
    parser.add_argument("--out", required=True, metavar="PATH", help="the file, .onnx or .pt2, or the folder")
    parser.add_argument("--classes", metavar="FILE", help="names of the classes, one a line, where the model has none")
    add_model_options(parser)
    args = parser.parse_args(argv)
    check_pairs(parser, args)
    return args
