"""Forward passes across videos: full, in order, and the logits of each video as when it is alone."""

import pytest
import torch
from torch import nn

from tests.pairs import every_pair
from videofib.engine.packing import logits_by_batch


def make_batches(counts, num_views):
    """Batches of so many videos; every view has numbers of its own."""
    videos = torch.arange(float(sum(counts) * num_views * 6)).view(-1, num_views, 1, 1, 2, 3)
    indices = torch.arange(len(videos)).split(counts)
    return [{"views": videos[rows], "indices": rows} for rows in indices], videos


def run(counts, num_views, size, **options):
    """(indices, logits) of all batches, and the sizes of the forward passes."""
    batches, videos = make_batches(counts, num_views)
    sizes = []

    def forward(clips):
        sizes.append(len(clips))
        return clips.flatten(1).clone()

    found = [(batch["indices"], logits) for batch, logits in logits_by_batch(forward, batches, size, **options)]
    return found, videos, sizes


@pytest.mark.parametrize(
    ("size", "batches", "fill_last"),
    every_pair(
        [1, 2, 4, 5, 7, 15, 16, 100], [([1], 1), ([3, 3, 2], 1), ([1, 1, 1, 1], 5), ([2, 1, 3], 4)], [False, True]
    ),
)
def test_each_video_has_its_own_logits_in_order(size, batches, fill_last):
    counts, num_views = batches
    found, videos, sizes = run(counts, num_views, size, fill_last=fill_last)
    assert [len(indices) for indices, _ in found] == counts
    for indices, logits in found:
        assert torch.equal(logits, videos[indices].flatten(2))
    total = sum(counts) * num_views
    rest = total % size
    assert sizes == [size] * (total // size) + [size if fill_last else rest] * (rest > 0)


def test_a_batch_is_returned_as_soon_as_its_views_are_computed():
    """So that little waits: of videos of 5 views in passes of 4, the first comes with the second pass."""
    batches, _ = make_batches([1] * 8, 5)
    read = []

    def reading():
        for batch in batches:
            read.append(len(read))
            yield batch

    given = [len(read) for _ in logits_by_batch(lambda clips: clips.flatten(1).clone(), reading(), 4)]
    assert given == [2, 3, 4, 4, 6, 7, 8, 8]


def test_mean_fill_of_forward_passes():
    """15 views a video in passes of 8, a video at a time: 8 and 7 each, where packing leaves one short pass."""
    counts, num_views, size = [1] * 9, 15, 8
    split = [len(part) for _ in counts for part in torch.empty(num_views).split(size)]
    _, _, packed = run(counts, num_views, size)
    fill_before, fill_now = (sum(sizes) / len(sizes) / size for sizes in (split, packed))
    assert fill_before == pytest.approx(15 / 16)
    assert fill_now == pytest.approx(135 / 136)
    assert min(packed[:-1]) == size


def test_scores_depend_on_the_forward_pass_by_less_than_1e_6():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 64), nn.GELU(), nn.Linear(64, 9)).eval()
    batches = [{"views": torch.randn(2, 5, 1, 1, 2, 3)} for _ in range(4)]
    with torch.inference_mode():
        alone = torch.stack([model(view) for batch in batches for view in batch["views"].flatten(0, 1)[:, None]])
        packed = [logits.flatten(0, 1) for _, logits in logits_by_batch(model, batches, 7)]
    torch.testing.assert_close(torch.cat(packed), alone.flatten(0, 1), rtol=0, atol=1e-6)


def test_outputs_of_any_shape():
    """Features of frames, say: (S, T, D) for S clips are (B, V, T, D) for the videos."""
    batches, videos = make_batches([2, 1], 3)
    found = [rows for _, rows in logits_by_batch(lambda clips: clips[:, 0, 0].clone(), batches, 4)]
    assert torch.equal(torch.cat(found), videos[:, :, 0, 0])
