"""Processes that share clips get the batches that the first of them reads."""

import math

import pytest
import torch

from tests.engine.in_memory import Loader, make_videos
from videofib.distributed import processes
from videofib.distributed.launch import launch
from videofib.distributed.mesh import data_rank, data_size, make_mesh, one_per_data_rank, reads_clips
from videofib.engine.meter import Meter
from videofib.engine.shared_batches import SharedBatches, shared


class Unread(Loader):
    def __iter__(self):
        raise AssertionError("only the first process of those that share clips reads")


def in_four_processes(folder):
    mesh = make_mesh(2)
    rank = processes.rank()
    assert (data_rank(mesh), data_size(mesh), reads_clips(mesh)) == (rank // 2, 2, rank % 2 == 0)
    assert one_per_data_rank(processes.all_gather(rank), mesh) == [0, 2]
    with pytest.raises(ValueError, match="4 processes do not divide into groups of 3"):
        make_mesh(3)

    views, labels = make_videos(6)
    own = [range(4), range(4, 6)][data_rank(mesh)]  # groups may have unlike numbers of batches
    kind = Loader if reads_clips(mesh) else Unread
    loader = shared(kind(views, labels, own, 2, failures={"v4.mp4": "damaged"}), mesh)
    assert isinstance(loader, SharedBatches)
    for _ in range(2):  # epochs
        batches = list(loader)
        assert len(batches) == len(loader) == len(own) // 2
        assert torch.cat([batch["indices"] for batch in batches]).tolist() == list(own)
        assert torch.equal(torch.cat([batch["views"] for batch in batches]), views[list(own)])
        assert [batch["failures"] for batch in batches] == ([[], []] if own[0] == 0 else [[("v4.mp4", "damaged")]])
    loader.sampler.set_epoch(0, 1)
    assert len(list(loader)) == len(own) // 2 - 1

    meter = Meter(2, 0, 1, 0, torch.device("cpu"), mesh=mesh)
    group = data_rank(mesh)
    for loss in [(1.0, 3.0), (5.0, math.nan)][group]:
        meter.add(torch.tensor(loss), torch.tensor([True, False][: 2 - group]), [(f"group {group}", "")], 4)
    figures = meter.epoch_figures()
    assert figures["loss"] == 3.0  # 9 of three batches; the mean of the groups' means is 3.5
    assert figures["clip_top1_acc"] == pytest.approx(400 / 6)  # 4 right of 6; 50 % and 100 % in the groups
    assert figures["clips_per_second"] * figures["seconds"] == pytest.approx(16)
    assert figures["replaced_videos"] == 4
    (folder / f"rank {rank} is done").touch()


def test_the_first_process_reads_for_all_that_share_clips(tmp_path):
    launch(in_four_processes, (tmp_path,), processes=4)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_single_process_keeps_its_loader():
    loader = Loader(*make_videos(4), range(4), 2)
    assert shared(loader, make_mesh(1)) is loader
