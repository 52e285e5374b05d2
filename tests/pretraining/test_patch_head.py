"""SelfPatch's head equals a loop over patches that computes each neighbourhood by itself, forward and gradient."""

import pytest
import torch
import torch.nn.functional as F

from videofib.pretraining.neighbours import NONE, neighbour_table
from videofib.pretraining.patch_head import PatchHead


def slow_read(head, c, keys):
    """A class token (D,) reads tokens (n, D) through the blocks: the paper's class attention, written out."""
    for block in head.cls_blocks:
        u = block.norm1(torch.cat((c[None], keys)))
        heads, width = block.attn.num_heads, u.shape[1] // block.attn.num_heads
        q, k, v = block.attn.q(u[0]), block.attn.k(u), block.attn.v(u)
        read = []
        for i in range(heads):
            own = slice(i * width, (i + 1) * width)
            weights = (k[:, own] @ q[own] / width**0.5).softmax(0)
            read.append(weights @ v[:, own])
        c = c + block.attn.proj(torch.cat(read))
        c = c + block.mlp(block.norm2(c))
    return c


def slow(head, x, grid, is_teacher):
    start, table = head.cls_token[0, 0], neighbour_table(grid, head.neighbours, head.wrap)
    classes = torch.stack([slow_read(head, start, clip) for clip in x])
    if not is_teacher:
        return head.norm(classes), head.norm(x)
    patches = torch.empty_like(x)
    for number, clip in enumerate(x):
        for i, row in enumerate(table.tolist()):
            near = [j for j in row if j != NONE]
            similarity = F.cosine_similarity(clip[i], clip[near], dim=1)
            best = similarity.topk(min(head.top_k, len(near))).indices.tolist()
            patches[number, i] = slow_read(head, start, clip[[near[j] for j in best]])
    return head.norm(classes), head.norm(patches)


@pytest.mark.parametrize("is_teacher", [True, False])
@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize(("neighbours", "top_k"), [("space", 4), ("space_time", 9), ("space", 1)])
def test_it_equals_a_loop_over_patches(neighbours, top_k, wrap, is_teacher):
    torch.manual_seed(0)
    grid = (2, 3, 5)
    head = PatchHead(12, 3, neighbours=neighbours, top_k=top_k, wrap=wrap).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    x = torch.randn(2, 30, 12, dtype=torch.float64, requires_grad=True)
    inputs = (x, *(head.parameters() if is_teacher else ()))
    weights = [torch.randn(2, 12, dtype=torch.float64), torch.randn(2, 30, 12, dtype=torch.float64)]
    results = []
    for outputs in (head(x, grid, is_teacher=is_teacher), slow(head, x, grid, is_teacher)):
        total = sum((one * weight).sum() for one, weight in zip(outputs, weights, strict=True))
        results.append((*outputs, *torch.autograd.grad(total, inputs)))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(("neighbours", "top_k"), [("space", 9), ("space", 0), ("time", 2)])
def test_neighbours_that_there_are_not_are_refused(neighbours, top_k):
    with pytest.raises(ValueError, match=rf"neighbours='{neighbours}', top_k={top_k}: space has 8; space_time has 26"):
        PatchHead(12, 3, neighbours=neighbours, top_k=top_k)


def test_a_frame_of_one_patch_has_no_neighbours_and_stays_finite():
    outputs = PatchHead(12, 3)(torch.randn(1, 4, 12), (4, 1, 1), is_teacher=True)
    assert all(output.isfinite().all() for output in outputs)
