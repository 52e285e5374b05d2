"""SelfPatch's head and loss (``main_selfpatch.py``, ``selfpatch_vision_transformer.py`` of alinlab/SelfPatch)."""

import torch

from tests.mixers.published.case import Case, Result
from videofib.pretraining.dino_loss import DinoLoss
from videofib.pretraining.patch_head import PatchHead

SYSTEMS = ("selfpatch",)
CENTERS = {"center": "__center_after", "patch_center": "__patch_center_after"}


def compute(case: Case) -> Result:
    return {"SelfPatchHead": head, "DINOLoss": loss}[case.config["module"]](case)


def head(case: Case) -> Result:
    config = case.config
    model = PatchHead(
        config["in_dim"],
        config["num_heads"],
        top_k=config["k_num"],
        norm_eps=config.get("norm_eps", 1e-6),
        wrap=True,  # as released: a corner borders on the opposite ones
    )
    model.load_state_dict(case.state)
    grid = (1, *config["grid"])
    outputs = {}
    for name, is_teacher in (("output", True), ("output_student", False)):
        c, patches = model(case.inputs["input"], grid, is_teacher=is_teacher)
        outputs[name] = torch.cat((c[:, None], patches), dim=1)
    return Result(outputs, dict(model.named_parameters()))


def loss(case: Case) -> Result:
    config = case.config
    model = DinoLoss(
        config["out_dim"],
        config["out_dim_selfpatch"],
        student_temp=config["student_temp"],
        teacher_temp=config["teacher_temp"],
        warmup_teacher_temp=config["warmup_teacher_temp"],
        warmup_epochs=config["warmup_teacher_temp_epochs"],
        center_momentum=config["center_momentum"],
        patch_weight=config["patch_weight"],
    )
    for name in CENTERS:
        model.get_buffer(name).copy_(case.state[name].flatten())
    given = {
        (who, kind): views(case, who, kind, config["ncrops"]) for who in ("student", "teacher")
        for kind in ("class", "patch")
    }  # fmt: skip
    found = model(
        [view[:, 0] for view in given["student", "class"]],
        [view[:, 0] for view in given["teacher", "class"]],
        given["student", "patch"],
        given["teacher", "patch"],
        epoch=config["epoch"],
    )
    for name, published in (*CENTERS.items(), ("class_loss", "__class_loss"), ("patch_loss", "__patch_loss")):
        ours = found[name] if name in found else model.get_buffer(name)
        expected = torch.from_numpy(case.arrays[published]).view_as(ours)
        torch.testing.assert_close(ours, expected, rtol=5e-6, atol=1e-7)
    return Result({"output": found["loss"].reshape(case.arrays["__output"].shape)})


def views(case: Case, who: str, kind: str, count: int) -> list[torch.Tensor]:
    """The scores of each view: two global ones, then the local ones."""
    sizes = {"global": 2, "local": count - 2}
    arrays = {where: torch.from_numpy(case.arrays[f"__{who}_{where}_{kind}"]) for where in sizes if sizes[where]}
    return [view for where, array in arrays.items() for view in array.chunk(sizes[where])]
