"""The cost of the trainer over a bare loop, and the gain of evaluation from reading each video once, in one run.

    python tools/benchmark_engine.py --cfg configs/UCF101/TimeSformerXS_joint_fibottention_8x4_112.yaml \\
        DATA.PATH_TO_DATA_DIR data/ucf101_5 DATA_LOADER.NUM_WORKERS 2

``training``     an epoch of ``engine.train`` and one of a bare PyTorch loop (forward, backward, clipping, step), with
                 the same loader, model and videos, in turns
``evaluation``   ``engine.evaluate`` on the test split, and the same views read one by one, each opening its file, by
                 as many workers, with as many views per forward pass; the scores of the two are compared

Figures are medians over turns, without the first turn of each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from videofib.checkpoint.manager import NoCheckpoints
from videofib.config import load_config
from videofib.data.clips.dataset import ReadViews, ViewDataset, read_clips
from videofib.data.clips.transforms import normalize, resize, to_tensor
from videofib.data.lists.record import VideoRecord
from videofib.data.loading.loader import VideoLoader
from videofib.data.sampling import short_side_size, view_crop
from videofib.engine.evaluate import evaluate
from videofib.engine.objective import Supervised
from videofib.engine.optim import build_optimizer, parameter_groups
from videofib.engine.schedule import Schedule
from videofib.engine.train import train
from videofib.run.loaders import build_eval_loader, build_train_loader
from videofib.run.models import build_model
from videofib.run.training import criterion_from_config, recipe_from_config
from videofib.tracking.log import setup_logging


def measure(turns: int, **contenders: Callable[[], None]) -> dict[str, float]:
    """Median seconds of each contender; they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(1 + turns):
        for name, take in contenders.items():
            start = time.perf_counter()
            take()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def training(cfg: CfgNode, turns: int) -> dict[str, float]:
    """Seconds of an epoch by the trainer and by a bare loop."""
    loader, criterion = build_train_loader(cfg), criterion_from_config(cfg)
    recipe = recipe_from_config(cfg, Supervised(criterion))

    def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = build_model(cfg)
        groups = parameter_groups(model, cfg.SOLVER.WEIGHT_DECAY)
        return model.train(), build_optimizer(groups, cfg.SOLVER.OPTIMIZING_METHOD, lr=cfg.SOLVER.BASE_LR)

    trained, plain = parts(), parts()

    def by_trainer() -> None:
        train(
            trained[0],
            loader,
            trained[1],
            recipe,
            Schedule(1, log_period=cfg.LOG_PERIOD),
            checkpoints=NoCheckpoints(),
            validate=dict,
        )

    def by_bare_loop() -> None:
        model, optimizer = plain
        loader.sampler.set_epoch(0)
        for batch in loader:
            loss = criterion(model(batch["views"].flatten(0, 1)), batch["labels"])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad_norm or float("inf"))
            optimizer.step()
            optimizer.zero_grad()

    seconds = measure(turns, trainer=by_trainer, bare=by_bare_loop)
    loader.close()
    return seconds


@dataclass(frozen=True)
class ReadOneView(ReadViews):
    """Reads a single view; in place of a seed it is given the view's index."""

    def __call__(self, record: VideoRecord, seed: str, out: Tensor) -> None:
        clip, crop = divmod(int(seed), self.transform.num_crops)
        ((_, frames, clips),) = read_clips(
            record, self.spec, lambda length, fps: self.spec.view_clips(length, fps, self.num_clips)[clip : clip + 1]
        )
        height, width = short_side_size(*frames.shape[1:3], self.transform.short_side)
        size = self.transform.crop_size
        top, left = view_crop(height, width, size, crop, self.transform.num_crops)
        scaled = resize(to_tensor(frames), height, width)[clips[0]]
        normalize(scaled[..., top : top + size, left : left + size], self.transform.mean, self.transform.std, out[0])


class OneByOne(ViewDataset):
    """Keys are (video, view)."""

    def __init__(self, all_views: ViewDataset):
        self.records, self.shape = all_views.records, (1, *all_views.shape[1:])
        self.read = ReadOneView(all_views.read.spec, all_views.read.transform, all_views.read.num_clips)

    def candidates(self, key: tuple[int, int]) -> Iterator[tuple[int, str]]:
        yield key[0], str(key[1])


def evaluation(cfg: CfgNode, turns: int) -> tuple[dict[str, float], float]:
    """Seconds of the test split, reading each video once and once per view, and the largest difference of scores."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    loader = build_eval_loader(cfg, "test")
    videos, views = len(loader.dataset), loader.dataset.shape[0]
    keys = [(video, view) for video in range(videos) for view in range(views)]
    options = {"num_workers": cfg.DATA_LOADER.NUM_WORKERS, "time_limit": cfg.DATA_LOADER.TIME_LIMIT}
    one_by_one = VideoLoader(OneByOne(loader.dataset), keys, cfg.TEST.BATCH_SIZE, **options)
    found: dict[str, Tensor] = {}

    def once() -> None:
        found["once"] = evaluate(model, loader, view_batch_size=cfg.TEST.BATCH_SIZE)[1].scores

    @torch.inference_mode()
    def each() -> None:
        scores = [F.softmax(model(batch["views"].flatten(0, 1)), dim=-1) for batch in one_by_one]
        found["each"] = torch.cat(scores).view(videos, views, -1).mean(1)

    seconds = measure(turns, once=once, each=each)
    loader.close()
    one_by_one.close()
    return seconds, (found["once"] - found["each"]).abs().max().item()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("pairs", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args(argv)
    cfg = load_config(args.cfg, args.pairs)
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, torch.get_num_threads() - cfg.DATA_LOADER.NUM_WORKERS))
    with tempfile.TemporaryDirectory() as folder:
        setup_logging(folder)
        epoch = training(cfg, args.turns)
    test, apart = evaluation(cfg, args.turns)
    figures = {
        "trainer_seconds": epoch["trainer"],
        "bare_loop_seconds": epoch["bare"],
        "trainer_of_bare_loop": epoch["trainer"] / epoch["bare"],
        "read_once_seconds": test["once"],
        "read_for_each_view_seconds": test["each"],
        "read_once_times_faster": test["each"] / test["once"],
        "largest_difference_of_scores": apart,
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
