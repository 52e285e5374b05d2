"""SkipAt: its network alone, and whole models (``vit_skipat.py`` of Qualcomm-AI-research/skip-attention)."""

import torch

from tests.mixers.published.case import Case, Result
from videofib.models import TimeSformer
from videofib.models.pretrained import layouts
from videofib.models.pretrained.load import load_pretrained
from videofib.models.pretrained.skipat import to_blocks
from videofib.models.skip_attention import SkipNetwork

SYSTEMS = ("skipat",)
SKIPPED = (3, 4, 5, 6, 7, 8)  # where the arguments name none


def compute(case: Case) -> Result:
    return model(case) if "patch_embed.proj.weight" in case.state else network(case)


def network(case: Case) -> Result:
    args, x = case.config["args"], case.inputs["input"]
    height, width = case.config["grid"]
    ours = SkipNetwork(args.get("dim", 32), ratio=args.get("hidden_dim", 128) / args.get("dim", 32))
    renamed = {name: f"blocks.0.skip.{name}" for name in case.state}
    theirs = to_blocks({f"param_1.{name}": value for name, value in case.state.items()}, [0])
    ours.load_state_dict({name.removeprefix("blocks.0.skip."): value for name, value in theirs.items()})
    own = dict(ours.named_parameters())
    parameters = {
        name: own[our_name.removeprefix("blocks.0.skip.")] for name, our_name in zip(renamed, theirs, strict=True)
    }
    return Result({"output": ours(x, (1, height, width))}, parameters)


def model(case: Case) -> Result:
    args, image = case.config["args"], case.inputs["input"]
    skipped = tuple(args.get("skip_indices", SKIPPED))
    ours = TimeSformer(
        img_size=tuple(image.shape[2:]),
        num_frames=1,
        attention_type="space_only",
        norm_eps=case.config.get("norm_eps", 1e-6),
        drop_path_rate=0.0,
        skip_attention={"blocks": skipped, "source": "released"},
        **{
            name: args[name]
            for name in ("patch_size", "num_classes", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias")
            if name in args
        },
    ).eval()
    report = load_pretrained(ours, case.state, strict=True)
    assert report.layout == layouts.SKIPAT
    assert not [name for name in ours.state_dict() if name not in report.loaded]
    outputs = ours.blocks.outputs(ours.embed(image[:, :, None]), (1, *ours.grid[1:]), range(len(ours.blocks)))
    for index, tokens in outputs.kept.items():
        if f"__block{index}.tokens" in case.arrays:
            torch.testing.assert_close(
                tokens, torch.as_tensor(case.arrays[f"__block{index}.tokens"]), rtol=5e-6, atol=5e-6
            )
    own, where = dict(ours.named_parameters()), layouts.to_ours(dict(case.state))[1]
    names = {id(tensor): name for name, tensor in to_blocks(where, skipped).items()}
    parameters = {
        theirs: own[names[id(tensor)]] for theirs, tensor in case.state.items() if names.get(id(tensor)) in own
    }
    return Result({"output": ours(image[:, :, None])}, parameters)
