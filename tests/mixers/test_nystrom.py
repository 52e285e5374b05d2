"""Nyströmformer equals its equations written out, on runs of unequal length and with prefix tokens."""

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from videofib.mixers import LayerSpec
from videofib.mixers.nystrom import Nystrom, landmark_means, nystrom_attention, pseudo_inverse

LAYER = LayerSpec(dim=6, num_heads=3, num_prefix_tokens=2, grid=(1, 3, 5))
RUNS_OF_15_IN_4 = [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9, 10], [11, 12, 13, 14]]


def built(layer=LAYER, **options):
    torch.manual_seed(0)
    return Nystrom(layer, **{"landmarks": 4, **options}).double()


def tokens(number=17):
    return torch.randn(2, number, 6, dtype=torch.float64)


def softmax_rows(scores):
    return torch.stack([row.exp() / row.exp().sum() for row in scores])


def inverse(a, largest, iterations):
    z, eye = a.T / largest, torch.eye(len(a), dtype=a.dtype)
    for _ in range(iterations):
        once = a @ z
        twice = once @ (7 * eye - once)
        thrice = once @ (15 * eye - twice)
        z = 0.25 * (z @ (13 * eye - thrice))
    return z


def reference(mixer, x, runs=RUNS_OF_15_IN_4):
    """For P = 2 prefix tokens."""
    members = [[0], [1], *([2 + patch for patch in run] for run in runs)]
    heads = [(n, slice(2 * h, 2 * h + 2)) for n in range(len(x)) for h in range(3)]
    q, k, v = (x @ mixer.qkv.weight.T + mixer.qkv.bias).chunk(3, dim=2)
    parts = []
    for n, width in heads:
        ql, kl = (torch.stack([sum(y[n, i, width] for i in run) / len(run) for run in members]) for y in (q, k))
        products = ((q[n, :, width], kl), (ql, kl), (ql, k[n, :, width]))
        parts.append([softmax_rows(left @ right.T / 2**0.5) for left, right in products])
    largest = [a.sum(0).max() for _, a, _ in parts]
    if mixer.initial == "batch":
        largest = [max(largest)] * len(largest)
    out = torch.zeros_like(x)
    for (n, width), (f, a, b), most in zip(heads, parts, largest, strict=True):
        out[n, :, width] = f @ inverse(a, most, mixer.iterations) @ b @ v[n, :, width]
        if mixer.conv is not None:
            kernel = mixer.conv.weight[width.start // 2, 0, :, 0]
            reach = len(kernel) // 2
            for token in range(x.shape[1]):
                for tap, weight in enumerate(kernel):
                    other = token + tap - reach
                    if 0 <= other < x.shape[1]:
                        out[n, token, width] += weight * v[n, other, width]
    return out @ mixer.proj.weight.T + mixer.proj.bias


@pytest.mark.parametrize(
    "options", [{}, dict(initial="batch", iterations=2), dict(conv_kernel=5), dict(iterations=1)], ids=str
)
def test_output_and_gradients_equal_the_equations_written_out(options):
    mixer, x = built(**options), tokens().requires_grad_()
    y, expected = mixer(x, LAYER.grid, None)[0], reference(mixer, x)
    torch.testing.assert_close(y, expected)
    weights, leaves = torch.randn_like(y), [x, *mixer.parameters()]
    found = torch.autograd.grad((y * weights).sum(), leaves)
    torch.testing.assert_close(found, torch.autograd.grad((expected * weights).sum(), leaves))


def test_runs_are_as_equal_as_can_be_and_shorter_ones_come_first():
    positions = torch.arange(14.0).reshape(1, 1, 14, 1)
    assert landmark_means(positions, 4, 3).flatten().tolist() == [0, 1, 2, 3.5, 6, 9, 12]
    assert landmark_means(positions, 7).flatten().tolist() == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5, 12.5]


@pytest.mark.parametrize("grid", [(4, 1, 1), (1, 1, 3)])
def test_no_more_patches_than_landmarks_are_softmax_attention(grid):
    mixer, x = built(), tokens(2 + grid[0] * grid[2])
    q, k, v = (mixer.qkv(x)).unflatten(2, (3, 3, 2)).permute(2, 0, 3, 1, 4)
    expected = (q @ k.transpose(2, 3) / 2**0.5).softmax(-1) @ v
    torch.testing.assert_close(mixer(x, grid, None)[0], mixer.proj(expected.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize(("grid", "landmarks"), [((8, 1, 1), 4), ((1, 6, 7), 21), ((4, 6, 7), 64), ((1, 1, 1), 1)])
def test_by_default_few_patches_have_half_as_many_landmarks(grid, landmarks):
    layer = LayerSpec(6, 3, 0, grid)
    found, given = Nystrom(layer).double(), Nystrom(layer, landmarks=landmarks).double()
    given.load_state_dict(found.state_dict())
    x = tokens(math.prod(grid))
    assert torch.equal(found(x, grid, None)[0], given(x, grid, None)[0])
    assert found.multiply_adds(grid) == given.multiply_adds(grid)


def test_one_landmark_short_of_all_patches_is_close_to_softmax_attention():
    """The approximation converges; 20 iterations invert what six do not."""
    q, k, v = 0.5 * torch.randn(3, 2, 3, 16, 8, dtype=torch.float64)
    k[:, :, 1], q[:, :, 1] = k[:, :, 0], q[:, :, 0]
    order = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1]  # the longer run is the last
    q, k, v = q[:, :, order], k[:, :, order], v[:, :, order]
    expected = torch.softmax(q @ k.transpose(2, 3) / 8**0.5, -1) @ v
    torch.testing.assert_close(nystrom_attention(q, k, v, 15, iterations=30), expected, rtol=1e-6, atol=1e-8)


def test_iterations_converge_to_the_inverse():
    a = torch.softmax(4 * torch.eye(5, dtype=torch.float64) + torch.randn(2, 3, 5, 5, dtype=torch.float64), -1)
    for initial in ("matrix", "batch"):
        torch.testing.assert_close(pseudo_inverse(a, 20, initial), torch.linalg.inv(a))


def test_a_sample_depends_on_its_batch_only_as_published():
    x = tokens()
    x[1] *= 20
    alone = {initial: built(initial=initial)(x[:1], LAYER.grid, None)[0] for initial in ("matrix", "batch")}
    together = {initial: built(initial=initial)(x, LAYER.grid, None)[0][:1] for initial in ("matrix", "batch")}
    torch.testing.assert_close(together["matrix"], alone["matrix"])
    assert not torch.allclose(together["batch"], alone["batch"])


def test_permuted_patches_within_a_run_give_permuted_outputs():
    """Runs know their tokens only by the mean, so that both orders of tokens differ in what a run is, not in more."""
    mixer, x, order = built(), tokens(), [0, 1, 4, 2, 3, 8, 7, 6, 5, *range(9, 17)]
    torch.testing.assert_close(mixer(x[:, order], LAYER.grid, None)[0], mixer(x, LAYER.grid, None)[0][:, order])


@pytest.mark.parametrize("options", [{}, dict(iterations=2), dict(conv_kernel=3), dict(landmarks=15)], ids=str)
def test_multiply_adds_are_those_that_torch_counts(options):
    mixer = built(**options)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        mixer(tokens()[:1], LAYER.grid, None)
    assert mixer.multiply_adds(LAYER.grid) == counter.get_total_flops() // 2


def test_autocast_rounds_only_the_output():
    mixer = built().float()
    q, k, v = (3 * torch.randn(3, 2, 3, 17, 2)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = mixer.attend(q, k, v)
    assert found.dtype == torch.bfloat16
    assert found.equal(mixer.attend(q.float(), k.float(), v.float()).bfloat16())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(landmarks=0), "got landmarks=0, iterations=6"),
        (dict(iterations=0), "got landmarks=4, iterations=0"),
        (dict(initial="exact"), "unknown initial 'exact'; known: matrix, batch"),
        (dict(conv_kernel=4), "conv_kernel must be odd, got conv_kernel=4"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        built(**options)


def test_dropout_of_weights_is_refused():
    with pytest.raises(ValueError, match="set attn_drop=0"):
        built(LayerSpec(dim=6, num_heads=3, num_prefix_tokens=0, grid=(1, 3, 3), attn_drop=0.1))
