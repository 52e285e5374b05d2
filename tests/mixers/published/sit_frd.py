"""SiT's loss of feature recalibration distillation (``losses.py``), with its parts and gradients."""

import torch

from tests.mixers.published.case import Case
from videofib.engine.recalibration import Recalibration

SYSTEMS = ("sit_frd",)
TOLERANCE = 5e-6


def check(case: Case) -> None:
    found = {
        name: torch.from_numpy(case.arrays[f"__{name}"])
        for name in ("student_logits", "teacher_logits", "student_tokens", "teacher_tokens", "labels")
    }
    student = {name: found[name].requires_grad_() for name in ("student_logits", "student_tokens")}
    args = case.config["args"]
    assert args["base"] == "cross entropy"
    objective = Recalibration(
        torch.nn.CrossEntropyLoss(),
        lambda clips: (found["teacher_logits"], list(found["teacher_tokens"])),
        token_weight=args["lambda_token"],
        logit_weight=args["lambda_logits"],
        temperature=args["tau"],
    )
    outcome = objective(
        lambda clips, recover: (student["student_logits"], list(student["student_tokens"])),
        torch.zeros(0),
        found["labels"],
        {},
    )
    outcome.loss.backward()
    parts = {
        "output": outcome.loss,
        "loss_cls": torch.nn.functional.cross_entropy(student["student_logits"], found["labels"]),
        "loss_token": args["lambda_token"] * outcome.parts["token_loss"],
        "loss_logits": args["lambda_logits"] * outcome.parts["teacher_loss"],
    }
    for name, value in {**parts, **{f"grad_{name}": tensor.grad for name, tensor in student.items()}}.items():
        expected = torch.as_tensor(case.arrays[f"__{name}"])
        assert value.shape == expected.shape
        assert float((value.detach() - expected).abs().max() / expected.abs().max()) <= TOLERANCE, name
