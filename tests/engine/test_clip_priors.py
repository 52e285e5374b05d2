"""The losses of clips that nobody filmed, against slow loops in float64: values and gradients."""

import math

import pytest
import torch

from videofib.engine.clip_priors import agreement, imbalance, similarity_entropy, temporal_variation, total_variation


def slow_imbalance(logits):
    mean = logits.softmax(1).mean(0)
    return sum(p * (p * len(mean)).log() for p in mean)


def slow_entropy(tokens, points=10):
    """One sequence, pair and point after the other."""
    entropies = []
    for sequence in tokens:
        similarities = torch.stack(
            [
                (a @ b) / (a.norm() * b.norm())
                for i, a in enumerate(sequence)
                for b in sequence[i + 1 :]
            ]
        )  # fmt: skip
        count = len(similarities)
        deviation = ((similarities - similarities.mean()) ** 2).sum().div(count - 1).sqrt()
        width = deviation * count ** (-1 / 5)
        low, high = similarities.min(), similarities.max()
        at = [low + (high - low) * k / (points - 1) for k in range(points)]
        density = [
            sum(torch.exp(-(((x - s) / width) ** 2) / 2) for s in similarities)
            / (count * width * math.sqrt(2 * math.pi))
            for x in at
        ]
        f = [-p * p.log() for p in density]
        entropies.append(sum((at[k + 1] - at[k]) * (f[k] + f[k + 1]) / 2 for k in range(points - 1)))
    return torch.stack(entropies).mean()


def slow_total_variation(clips):
    b, c, t, h, w = clips.shape
    down = [(clips[..., i + 1, :] - clips[..., i, :]).abs().sum() for i in range(h - 1)]
    across = [(clips[..., i + 1] - clips[..., i]).abs().sum() for i in range(w - 1)]
    return sum(down) / (b * c * t * (h - 1) * w) + sum(across) / (b * c * t * h * (w - 1))


def slow_temporal_variation(clips):
    b, c, t, h, w = clips.shape
    return sum((clips[:, :, i + 1] - clips[:, :, i]).abs().sum() for i in range(t - 1)) / (b * c * (t - 1) * h * w)


@pytest.mark.parametrize(
    ("fast", "slow", "shape"),
    [
        (imbalance, slow_imbalance, (5, 3)),
        (similarity_entropy, slow_entropy, (2, 7, 5)),
        (similarity_entropy, slow_entropy, (3, 3, 4)),
        (total_variation, slow_total_variation, (2, 3, 1, 5, 4)),
        (total_variation, slow_total_variation, (1, 2, 3, 2, 7)),
        (temporal_variation, slow_temporal_variation, (2, 3, 4, 3, 5)),
    ],
)
def test_a_loss_is_that_of_the_slow_loop(fast, slow, shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found, expected = values.clone().requires_grad_(), values.double().requires_grad_()
    loss, reference = fast(found), slow(expected)
    assert loss.ndim == 0
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5, abs=1e-7)
    (ours,), (theirs,) = torch.autograd.grad(loss, found), torch.autograd.grad(reference, expected)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)


def test_balance_is_0_and_a_single_class_log_k():
    assert imbalance(10 * torch.eye(4)).item() == pytest.approx(0, abs=1e-6)
    assert imbalance(torch.tensor([[50.0, 0, 0, 0]] * 3)).item() == pytest.approx(math.log(4), abs=1e-5)


def test_patches_all_alike_have_less_entropy_than_patches_of_two_kinds():
    torch.manual_seed(0)
    alike = torch.ones(1, 12, 8) + 0.01 * torch.randn(1, 12, 8)
    two_kinds = alike.clone()
    two_kinds[:, 6:, :4] *= -1
    assert similarity_entropy(alike) < similarity_entropy(two_kinds) - 1
    same = torch.ones(1, 5, 3, requires_grad=True)  # no density at all
    similarity_entropy(same).backward()
    assert similarity_entropy(same).isfinite()
    assert same.grad.isfinite().all()
    with pytest.raises(ValueError, match="similarities of 2 patches have no density"):
        similarity_entropy(torch.ones(1, 2, 3))


def test_a_single_frame_does_not_vary_in_time():
    assert temporal_variation(torch.randn(2, 3, 1, 4, 4)).item() == 0


def test_agreement_is_highest_where_the_student_is_far_off():
    teacher, student = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 1.0]])
    assert agreement(teacher, student).item() == -1.5
    assert agreement(teacher, teacher).item() == 0
