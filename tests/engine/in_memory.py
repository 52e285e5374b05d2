"""A tiny model and loaders that need no files: batches in the shapes that the real loaders give."""

from types import SimpleNamespace

import torch
from torch import nn

from videofib.checkpoint.manager import NoCheckpoints

NUM_CLASSES = 3


class TinyNet(nn.Module):
    """(B, C, T, H, W) -> (B, K); dropout makes training random, as stochastic depth does in a real model."""

    def __init__(self, seed=0, drop=0.0, classes=NUM_CLASSES):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv3d(3, 8, 2)
            self.norm = nn.LayerNorm(8)
            self.drop = nn.Dropout(drop)
            self.head = nn.Linear(8, classes)

    def forward(self, clips):
        features = self.conv(clips).relu().mean(dim=(2, 3, 4))
        return self.head(self.drop(self.norm(features)))


def make_videos(count, num_views=1, seed=0):
    """Views (N, V, C=3, T=2, H=4, W=4) whose mean depends on the class, and labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % NUM_CLASSES
    views = torch.randn(count, num_views, 3, 2, 4, 4, generator=generator)
    views[:, :, 0] += 2.0 * labels[:, None, None, None, None] - 2.0
    return views, labels


class Loader:
    """Batches of some videos; ``epoch`` shuffles them as a sampler does, the same in every process."""

    def __init__(self, views, labels, indices, batch_size, *, failures=None, shuffle=False):
        self.views, self.labels, self.indices, self.batch_size = views, labels, list(indices), batch_size
        self.failures, self.shuffle, self.order, self.step = failures or {}, shuffle, list(indices), 0
        names = [f"v{i}.mp4" for i in range(len(labels))]
        records = [SimpleNamespace(video_id=name, path=name, location=name) for name in names]
        self.dataset = SimpleNamespace(records=records)
        self.sampler = self

    def set_epoch(self, epoch, step=0):
        self.step = step
        if self.shuffle:
            order = torch.randperm(len(self.indices), generator=torch.Generator().manual_seed(epoch))
            self.order = [self.indices[i] for i in order]

    def close(self):
        self.closed = True

    def __len__(self):
        return -(-len(self.order) // self.batch_size)

    def __iter__(self):
        for start in range(self.step * self.batch_size, len(self.order), self.batch_size):
            chosen = torch.tensor(self.order[start : start + self.batch_size])
            names = [f"v{i}.mp4" for i in chosen.tolist()]
            yield {
                "views": self.views[chosen].clone(),
                "labels": self.labels[chosen],
                "indices": chosen,
                "failures": [(name, self.failures[name]) for name in names if name in self.failures],
            }


class SavedPositions(NoCheckpoints):
    """Remembers where a run was to be saved."""

    def __init__(self):
        self.positions = []

    def save(self, position):
        self.positions.append(position)
