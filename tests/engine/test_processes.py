"""One, two and four processes, with full or sharded weights, do the same.

In float64, where the order of sums makes the only difference. Each group of processes is started once, does all runs,
and writes its results to a file; the tests compare them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from tests.engine.in_memory import NUM_CLASSES, Loader, make_videos
from videofib.checkpoint.file import TrainingState, load_checkpoint, restore
from videofib.checkpoint.manager import CheckpointManager, NoCheckpoints, find_checkpoints
from videofib.distributed import processes
from videofib.distributed.fsdp import full_tensor, gradients_averaged, is_sharded, shard, unsharded_copy
from videofib.distributed.launch import launch
from videofib.engine.evaluate import Scoring, evaluate
from videofib.engine.interrupt import InterruptedRun
from videofib.engine.losses import CrossEntropy
from videofib.engine.objective import Supervised
from videofib.engine.optim import build_optimizer, parameter_groups
from videofib.engine.schedule import Schedule
from videofib.engine.step import Recipe, optimizer_step
from videofib.engine.train import Position, train
from videofib.models import TimeSformer

GROUPS = (2, 4, 1)  # the first one leaves checkpoints for the others
BATCH = 4  # videos over all processes
VIDEOS = 24  # six batches an epoch
EVALUATED = 37
NOT_FINITE = 13  # this video of the case "nan"
SAVED = {"ddp file": False, "fsdp file": False, "fsdp folder": True}  # by two processes within the epoch
CASES = {  # a recipe's and an optimizer's options; six batches make a step of four and one of two
    "sgd": dict(method="sgd", accumulation=4, clip_grad_norm=0.3),
    "adamw": dict(method="adamw", accumulation=2, clip_grad_norm=0.3, layer_decay=0.8, ema=0.5),
    "lamb": dict(method="lamb", clip_grad_norm=0.3),
    "lion": dict(method="lion"),
    "nan": dict(method="sgd", accumulation=2, ema=0.5),
    "nan adamw": dict(method="adamw", ema=0.5),  # decided on the device, also where parameters are sharded
}


def tiny_transformer(drop_path=0.0, seed=0):
    torch.manual_seed(seed)
    return TimeSformer(
        img_size=4,
        patch_size=2,
        num_classes=NUM_CLASSES,
        num_frames=2,
        embed_dim=10,  # which four processes cannot share evenly
        depth=2,
        num_heads=2,
        qkv_bias=False,  # a key's bias changes nothing: its gradient is rounding, of which Lion takes the sign
        drop_path_rate=drop_path,
        attention_type="joint_space_time",
        joint_attention="fibottention",
        mixer_options={"fibottention": {"w_min": 2}},
        attention_backend="gather",
    ).double()


class Recorded(nn.Module):
    """The loss, which also keeps its values: the means over processes, one a batch."""

    def __init__(self):
        super().__init__()
        self.loss, self.values = nn.CrossEntropyLoss(), []

    def forward(self, logits, labels):
        loss = self.loss(logits, labels)
        self.values += processes.total([loss.item() / processes.world_size()])
        return loss


def make_run(strategy, method="sgd", layer_decay=1.0, ema=0.0, drop_path=0.0, **options):
    """What a run consists of, before its first step."""
    model = tiny_transformer(drop_path)
    average = ModelEmaV3(model, decay=ema) if ema else None
    if strategy == "fsdp":
        for part in [model, *([average.module] if average else [])]:
            shard(part)
    groups = parameter_groups(model, 0.1, layer_decay=layer_decay)
    optimizer = build_optimizer(groups, method, lr=0.0)
    views, labels = make_videos(VIDEOS)
    rank, world = processes.rank(), processes.world_size()
    loader = Loader(views.double(), labels, range(rank, VIDEOS, world), BATCH // world)
    recipe = Recipe(lr_at=lambda epoch: 0.02, objective=Supervised(Recorded()), ema=average, **options)
    return model, loader, optimizer, recipe


def weights(model):
    return torch.cat([full_tensor(parameter).detach().flatten() for parameter in model.parameters()])


def outcome(model, recipe):
    found = {"weights": weights(model), "losses": torch.tensor(recipe.objective.criterion.values, dtype=torch.float64)}
    return found | ({"ema": weights(recipe.ema.module)} if recipe.ema else {})


def run_train(model, loader, optimizer, recipe, **options):
    options = {"checkpoints": NoCheckpoints(), "validate": dict, **options}
    train(model, loader, optimizer, recipe, Schedule(1, seed=3, log_period=1), **options)
    return outcome(model, recipe)


def run_case(strategy, case):
    model, loader, optimizer, recipe = make_run(strategy, **CASES[case])
    if case.startswith("nan"):
        loader.views[NOT_FINITE] = math.nan
    return run_train(model, loader, optimizer, recipe)


def state_of(run):
    model, _, optimizer, recipe = run
    return TrainingState(model, optimizer, ema=recipe.ema and recipe.ema.module)


def stopped(run, folder, sharded, after):
    """Train until ``after`` batches, where SIGTERM comes; the run is saved in the folder."""
    seen = run[3].objective.criterion.values
    checkpoints = CheckpointManager(folder, state_of(run), sharded=sharded)
    try:
        run_train(*run, checkpoints=checkpoints, stop=lambda: len(seen) >= after)
    except InterruptedRun:
        processes.barrier()  # rank 0 has written all of it
        return seen[:]
    raise AssertionError("the run was not stopped")


def resumed(run, path):
    """Train on from a checkpoint."""
    content = load_checkpoint(path)
    restore(content, path, state_of(run))
    return run_train(*run, start=Position(content["epoch"], content["step"], content["states"]))


def check_dropped_paths(folder):
    """With stochastic depth: stopped within an epoch and resumed from either format, to the same bits."""
    make = partial(make_run, "fsdp", method="adamw", accumulation=2, ema=0.9, drop_path=0.5)
    calm = run_train(*make())
    found = {}
    for sharded in (False, True):
        name = "folder" if sharded else "file"
        first = stopped(make(), folder / name, sharded, after=4)
        (path,) = find_checkpoints(folder / name)
        rest = resumed(make(), path)
        rest["losses"] = torch.cat([torch.tensor(first, dtype=torch.float64), rest["losses"]])
        found[name] = {key: torch.equal(rest[key], calm[key]) for key in calm}
    return found


def check_overflow():
    """An infinite gradient in the shard of a single process makes all of them skip the step."""
    model, _, optimizer, recipe = make_run("fsdp")
    model(torch.zeros(1, 3, 2, 4, 4, dtype=torch.float64)).sum().backward()
    if processes.rank() == processes.world_size() - 1:
        model.blocks[1].mlp.fc1.weight.grad.to_local()[0, 0] = math.inf
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.ones(()))
    before = weights(model)
    norm, skipped = optimizer_step(model, optimizer, replace(recipe, scaler=scaler), torch.tensor(False))
    assert skipped
    return {"norm": norm.item(), "same": torch.equal(before, weights(model)), "scale": scaler.get_scale()}


def check_waiting():
    """Whether gradients stay local while more are to be added, and are summed over processes with the last ones."""
    model = make_run("fsdp")[0]
    there = []
    for now in (False, True):
        with gradients_averaged(model, now=now):
            model(torch.zeros(1, 3, 2, 4, 4, dtype=torch.float64)).sum().backward()
        there.append(model.head.bias.grad is not None)
    return there


def check_bf16():
    """Mixed precision: what blocks compute with, what is kept, and how far that is from DDP under autocast."""
    losses, seen = {}, set()
    for strategy in ("ddp", "fsdp"):
        model = tiny_transformer().float()
        if strategy == "fsdp":
            shard(model, torch.bfloat16)
            model.blocks[0].mlp.fc1.register_forward_hook(
                lambda layer, args, output: seen.update({(layer.weight.dtype, output.dtype)})
            )
        _, loader, _, recipe = make_run("ddp", amp_dtype=torch.bfloat16)
        loader.views = loader.views.float()
        optimizer = build_optimizer(parameter_groups(model, 0.1), "sgd", lr=0.0)
        run_train(model, loader, optimizer, recipe)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        losses[strategy] = torch.tensor(recipe.objective.criterion.values)
    return {"difference": (losses["ddp"] - losses["fsdp"]).abs().max().item(), "seen": sorted(map(str, seen))}


def check_draws():
    """The random numbers of each process while it trains, at its first batch."""
    model, loader, optimizer, recipe = make_run("ddp")
    drawn = []
    model.register_forward_pre_hook(lambda *_: drawn.append(torch.rand(1).item()))
    run_train(model, loader, optimizer, recipe)
    return processes.all_gather(drawn[0])


def check_evaluation(strategy):
    """37 videos of two views by a model that is not trained; four processes have 10, 9, 9 and 9 of them."""
    model = tiny_transformer()
    if strategy == "fsdp":
        model = unsharded_copy(shard(model), lambda: tiny_transformer(seed=1))
    assert not is_sharded(model)
    views, labels = make_videos(EVALUATED, num_views=2)
    rank, world = processes.rank(), processes.world_size()
    loader = Loader(views.double(), labels, range(rank, EVALUATED, world), 2, failures={"v7.mp4": "truncated"})
    figures, scores = evaluate(model, loader, view_batch_size=3, scoring=Scoring(loss=CrossEntropy()))
    every_rank = processes.all_gather(figures)
    assert (scores is None) == (rank > 0)
    gathered = {"scores": scores.scores, "ids": scores.ids} if scores else {}
    return {"figures": figures, "agree": every_rank == [figures] * world, **gathered}


def work(folder):
    """All that one group of processes does."""
    world = processes.world_size()
    strategies = ("ddp",) if world == 1 else ("ddp", "fsdp")
    found = {}
    for strategy in strategies:
        found |= {(strategy, case): run_case(strategy, case) for case in CASES}
        found[strategy, "evaluation"] = check_evaluation(strategy)
    if world == 2:
        for name, sharded in SAVED.items():
            stopped(make_run(name.split()[0], **CASES["adamw"]), folder / name, sharded, after=4)
        found["bits"] = check_dropped_paths(folder)
        found["overflow"], found["bf16"] = check_overflow(), check_bf16()
        found["waiting"], found["draws"] = check_waiting(), check_draws()
    for name in SAVED:
        for strategy in strategies:
            (path,) = find_checkpoints(folder / name)
            found[strategy, name] = resumed(make_run(strategy, **CASES["adamw"]), path)
    if processes.is_main():
        torch.save(found, folder / f"{world}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What came out: (processes, strategy, case) -> outcome, and by name what only two processes did."""
    folder = tmp_path_factory.mktemp("processes")
    out = {"folder": folder}
    for count in GROUPS:
        launch(work, (folder,), processes=count)
        for key, value in torch.load(folder / f"{count}.pt").items():
            out[(count, *key) if isinstance(key, tuple) else key] = value
    return out


MANY = pytest.mark.parametrize(("processes", "strategy"), [(2, "ddp"), (4, "ddp"), (2, "fsdp"), (4, "fsdp")])


def assert_same(many, one, atol=1e-12):
    assert many.keys() == one.keys()
    for key in one:
        torch.testing.assert_close(many[key], one[key], rtol=0, atol=atol, equal_nan=True)


@MANY
@pytest.mark.parametrize("case", CASES)
def test_training_is_that_of_one_process(found, case, processes, strategy):
    assert_same(found[processes, strategy, case], found[1, "ddp", case])


def test_no_two_cases_train_the_same_way(found):
    alone = [found[1, "ddp", case] for case in CASES]
    assert [len(one["losses"]) for one in alone] == [6] * len(CASES)
    for i, one in enumerate(alone):
        assert not any(torch.allclose(one["weights"], other["weights"], atol=1e-3) for other in alone[:i])
    assert all(found[1, "ddp", case]["losses"].isnan().sum() == 1 for case in ("nan", "nan adamw"))


@MANY
def test_evaluation_is_that_of_one_process_and_counts_each_video_once(found, processes, strategy):
    one, many = found[1, "ddp", "evaluation"], found[processes, strategy, "evaluation"]
    assert many["agree"]
    assert many["ids"] == one["ids"] == [f"v{i}.mp4" for i in range(EVALUATED)]
    loss = pytest.approx(one["figures"]["loss"], abs=1e-12)
    assert many["figures"] == {**one["figures"], "loss": loss}
    assert many["figures"]["num_videos"] == EVALUATED
    torch.testing.assert_close(many["scores"], one["scores"], rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize(("processes", "strategy"), [(1, "ddp"), (2, "ddp"), (2, "fsdp"), (4, "ddp"), (4, "fsdp")])
def test_any_number_of_processes_resumes_from_any_checkpoint(found, saved, processes, strategy):
    calm, outcome = found[1, "ddp", "adamw"], found[processes, strategy, saved]
    assert_same(outcome, {**calm, "losses": calm["losses"][4:]}, atol=1e-10)


def test_a_sharded_run_with_stochastic_depth_resumes_to_the_same_bits(found):
    same = {"weights": True, "losses": True, "ema": True}
    assert found["bits"] == {"file": same, "folder": same}


def test_an_overflow_in_one_shard_skips_the_step_in_all_processes(found):
    assert found["overflow"] == {"norm": math.inf, "same": True, "scale": 2.0}


def test_processes_draw_different_random_numbers(found):
    assert len(set(found["draws"])) == 2


def test_sharded_gradients_are_averaged_once_all_are_added(found):
    assert found["waiting"] == [False, True]


def test_sharded_blocks_compute_in_bf16(found):
    assert found["bf16"]["seen"] == ["(torch.bfloat16, torch.bfloat16)"]
    assert 0 < found["bf16"]["difference"] < 0.02
