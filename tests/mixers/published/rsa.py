"""RSA, the predecessor of LiSA by the same first author."""

from einops import rearrange

from tests.mixers.published import Case, Result
from videofib.mixers import LayerSpec
from videofib.mixers.rsa import RelationalSelfAttention

SYSTEMS = ("lisa_predecessor_rsa",)


def compute(case: Case) -> Result:
    options = case.config["args"]
    grid = t, h, w = tuple(case.config["grid"])
    mixer = RelationalSelfAttention(
        LayerSpec(dim=options["d_out"], num_heads=options["nh"], num_prefix_tokens=0, grid=grid, order="h w t"),
        patterns=options["dd"],
        kernel=tuple(options["kernel_size"]),
        key_dim=options["dk"],
        kernel_type=options["kernel_type"],
        feat_type=options["feat_type"],
    )
    mixer.load_state_dict(case.state)
    tokens = rearrange(case.inputs["input"], "b c t h w -> b (h w t) c")
    y, _ = mixer(tokens, grid, None)
    output = rearrange(y, "b (h w t) c -> b c t h w", t=t, h=h, w=w)
    return Result({"output": output}, dict(mixer.named_parameters()))
