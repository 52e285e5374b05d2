"""Local patch interaction against loops over patches and their neighbours."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from videofib.models.local_interaction import LocalPatchInteraction, inflate_kernel

GRID = (3, 2, 4)


def built(**options):
    torch.manual_seed(0)
    return LocalPatchInteraction(5, **{"order": "h w t", "num_prefix_tokens": 2} | options).double()


def slow_convolution(conv, x, kernel):
    """(t, h, w, D) -> the same, with zeros around."""
    out = torch.zeros_like(x)
    weight = conv.weight.reshape(5, *kernel)
    for place in itertools.product(*map(range, x.shape[:3])):
        total = conv.bias
        for step in itertools.product(*map(range, kernel)):
            near = [p + s - size // 2 for p, s, size in zip(place, step, kernel, strict=True)]
            if all(0 <= n < size for n, size in zip(near, x.shape[:3], strict=True)):
                total = total + weight[(slice(None), *step)] * x[tuple(near)]
        out[place] = total
    return out


def slow(module, clips, kernel, norm):
    """(B, t, h, w, D) -> the same; in training, with statistics of the batch."""
    hidden = F.gelu(torch.stack([slow_convolution(module.conv1, clip, kernel) for clip in clips]))
    if norm == "batch":
        mean, variance = hidden.mean((0, 1, 2, 3)), hidden.var((0, 1, 2, 3), unbiased=False)
        hidden = (hidden - mean) / (variance + 1e-5).sqrt() * module.bn.weight + module.bn.bias
    if norm == "layer":
        mean, variance = hidden.mean(-1, keepdim=True), hidden.var(-1, unbiased=False, keepdim=True)
        hidden = (hidden - mean) / (variance + 1e-5).sqrt() * module.bn.weight + module.bn.bias
    return torch.stack([slow_convolution(module.conv2, clip, kernel) for clip in hidden])


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 1, 1), (3, 3, 3), (1, 1, 5)], ids=str)
@pytest.mark.parametrize("order", ["h w t", "t h w"])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_outputs_and_gradients_are_those_of_loops(kernel, order, norm):
    module, (t, h, w) = built(order=order, kernel=kernel, norm=norm).train(), GRID
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    x, weight = torch.randn(2, 26, 5, dtype=torch.float64, requires_grad=True), torch.randn(2, 26, 5).double()
    clips = rearrange(x[:, 2:], f"b ({order}) d -> b t h w d", t=t, h=h, w=w)
    expected = rearrange(slow(module, clips, kernel, norm), f"b t h w d -> b ({order}) d")
    expected = torch.cat((torch.zeros(2, 2, 5, dtype=torch.float64), expected), dim=1)
    found = module(x, GRID)
    torch.testing.assert_close(found, expected)
    tensors = [x, *module.parameters()]
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), tensors) for y in (found, expected)))


def test_an_inflated_kernel_sees_single_frames_at_first():
    frames, clips = built().eval(), built(kernel=(3, 3, 3)).eval()
    state = frames.state_dict()
    for name in ("conv1.weight", "conv2.weight"):
        state[name] = inflate_kernel(state[name], 3)
    clips.load_state_dict(state)
    x = torch.randn(2, 26, 5, dtype=torch.float64)
    torch.testing.assert_close(clips(x, GRID), frames(x, GRID))


def test_what_has_no_centre_or_no_meaning_is_refused():
    with pytest.raises(ValueError, match=r"got kernel=\(2, 3, 3\)"):
        built(kernel=(2, 3, 3))
    with pytest.raises(ValueError, match="got length=2"):
        inflate_kernel(torch.ones(5, 1, 3, 3), 2)
    with pytest.raises(ValueError, match="unknown norm 'bach'; did you mean 'batch'"):
        built(norm="bach")
