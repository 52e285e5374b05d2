"""The reconstruction of LiSA: files of our own equations, which show that both agree, and no fidelity to the paper."""

from tests.mixers.published import Case, Result
from videofib.mixers import LayerSpec
from videofib.mixers.lisa import ReconstructedLisa

SYSTEMS = ("lisa_reconstruction",)


def compute(case: Case) -> Result:
    options = case.config["args"]
    grid = (1, 1, *case.config["grid"])[-3:]
    layer = LayerSpec(
        dim=options["dim"],
        num_heads=options["num_heads"],
        num_prefix_tokens=0,
        grid=grid,
        order="t h w",
        qkv_bias="qkv.bias" in case.state,
    )
    mixer = ReconstructedLisa(layer, patterns=options["num_patterns"])
    shapes = {name: parameter.shape for name, parameter in mixer.named_parameters()}
    mixer.load_state_dict({name: tensor.reshape(shapes[name]) for name, tensor in case.state.items()})
    y, _ = mixer(case.inputs["input"], grid, None)
    alike = {name: own for name, own in mixer.named_parameters() if own.shape == case.state[name].shape}
    return Result({"output": y}, alike)
