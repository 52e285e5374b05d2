"""Every mixer equals its published code: outputs and gradients of the golden files of ``VIDEOFIB_GOLDEN``.

Each file was made by running published code on random weights; its ``__config`` names the code and the arguments.
"""

import importlib
import os
import pkgutil
from pathlib import Path

import pytest
import torch

from tests.mixers import published
from tests.mixers.published import load

GOLDEN = Path(os.environ.get("VIDEOFIB_GOLDEN") or Path(__file__).parents[3] / "shared" / "family" / "golden")
FILES = sorted(GOLDEN.glob("*.npz"))
SYSTEMS = {
    system: module
    for info in pkgutil.iter_modules(published.__path__)
    if info.name != "case"
    for module in [importlib.import_module(f"tests.mixers.published.{info.name}")]
    for system in module.SYSTEMS
}
LATER = {  # what changes more than how one block mixes its tokens
    "lavit": "LaViT: attention of earlier layers",
    "m3vit": "M3ViT: experts",
    "selfpatch": "SelfPatch: a loss of pre-training",
    "skipat": "SkipAt: attention of earlier layers",
}


def longest_prefix(name, known):
    return max((prefix for prefix in known if name == prefix or name.startswith(f"{prefix}_")), key=len, default=None)


def relative(found, expected):
    """The largest difference over the largest number expected."""
    expected = torch.as_tensor(expected)
    assert found.shape == expected.shape
    return float((found.detach() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


@pytest.mark.skipif(not FILES, reason=f"no golden files in {GOLDEN}; set VIDEOFIB_GOLDEN")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_outputs_and_gradients_are_those_of_the_published_code(path):
    system = longest_prefix(path.stem, [*SYSTEMS, *LATER])
    if system in LATER:
        pytest.skip(f"not a mixer: {LATER[system]}")
    assert system, f"no module of tests/mixers/published computes {path.name}"
    case = load(path)
    if hasattr(SYSTEMS[system], "check"):
        SYSTEMS[system].check(case)
        return
    result = SYSTEMS[system].compute(case)
    published_outputs = {name[2:]: array for name, array in case.arrays.items() if name.startswith("__output")}
    assert result.outputs.keys() == published_outputs.keys()
    errors = {name: relative(result.outputs[name], array) for name, array in published_outputs.items()}
    weights = {
        name: case.arrays["__w" + name.removeprefix("output")]
        for name in published_outputs
        if "__w" + name.removeprefix("output") in case.arrays
    }
    if weights:
        sum((result.outputs[name] * torch.from_numpy(weight)).sum() for name, weight in weights.items()).backward()
    for name, tensor in case.inputs.items():
        if f"__grad_{name}" in case.arrays:
            errors[f"gradient of {name}"] = relative(tensor.grad, case.arrays[f"__grad_{name}"])
    for name, parameter in result.parameters.items():
        if f"grad.{name}" in case.arrays:
            errors[f"gradient of {name}"] = relative(parameter.grad, case.arrays[f"grad.{name}"])
    assert max(errors.values()) <= result.tolerance, errors
