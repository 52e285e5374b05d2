"""Clips that a generator makes for a teacher: where gradients go, what is drawn again, and what processes share."""

import copy

import pytest
import torch
import torch.nn.functional as F

from tests.engine.in_memory import NUM_CLASSES, TinyNet
from videofib.distributed import processes
from videofib.distributed.launch import launch
from videofib.engine import clip_priors
from videofib.engine.synthetic import GaussianNoise, PriorWeights, SyntheticClips, TrainedGenerator
from videofib.engine.train import TrainingError
from videofib.models import TimeSformer
from videofib.models.clip_generator import ClipGenerator
from videofib.models.taps import AttentionTaps

SHAPE = (3, 4, 16, 16)


def teacher_net(**options):
    torch.manual_seed(1)
    sizes = dict(img_size=16, patch_size=4, num_frames=4, embed_dim=24, depth=2, num_heads=2, num_classes=NUM_CLASSES)
    joint = dict(attention_type="joint_space_time", joint_attention="fibottention", drop_path_rate=0.0)
    return TimeSformer(**{**sizes, **joint, **options}).eval().requires_grad_(False)


def make_source(teacher, *, lr=1e-2, steps=1, student=None, attention=True, **weights):
    torch.manual_seed(0)
    generator = ClipGenerator(NUM_CLASSES, SHAPE, [0.45] * 3, [0.225] * 3, latent_dim=8, width=4)
    return TrainedGenerator(
        generator,
        teacher,
        NUM_CLASSES,
        8,
        lr=lr,
        steps=steps,
        weights=PriorWeights(**weights),
        attention=AttentionTaps(teacher).watching if attention else None,
        max_patches=16,
        student=student,
    )


@pytest.mark.parametrize("shape", [(3, 8, 48, 48), (3, 1, 7, 5), (1, 5, 13, 24), (3, 2, 16, 16)])
def test_a_generator_makes_clips_of_any_size_in_the_range_of_pixels(shape):
    mean, std = [0.1 + 0.2 * i for i in range(shape[0])], [0.2] * shape[0]
    generator = ClipGenerator(4, shape, mean, std, latent_dim=6, width=3)
    clips = generator(100 * torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 3]))
    assert clips.shape == (5, *shape)
    pixels = clips * 0.2 + torch.tensor(mean).view(-1, 1, 1, 1)
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    assert not list(generator.buffers(recurse=True)) or all("norm" not in name for name, _ in generator.named_buffers())


def test_gradients_reach_the_generator_through_the_teacher_and_nothing_else():
    teacher, student = teacher_net(), TinyNet()
    before = [value.clone() for value in (*teacher.state_dict().values(), *student.state_dict().values())]
    source = make_source(
        teacher, student=student, balance=1.0, entropy=1.0, total_variation=0.1, smoothness=0.1, adversarial=0.5
    )
    for name, only in {
        "cross-entropy": PriorWeights(0, 0),
        "balance": PriorWeights(3, 0),
        "entropy": PriorWeights(0, 3),
        "adversarial": PriorWeights(0, 0, adversarial=3),
    }.items():
        source.weights = only
        clips, classes = source._make(5)
        gradients = torch.autograd.grad(source.loss(clips, classes)[0], source.parameters)
        assert all(gradient.abs().sum() > 0 for gradient in gradients), name
    start = copy.deepcopy(source.generator.state_dict())
    clips, figures = source.draw(5)
    assert not clips.requires_grad
    assert set(figures) == set(source.figures)
    changed = source.generator.state_dict()
    assert any(not torch.equal(start[name], changed[name]) for name in start)
    after = (*teacher.state_dict().values(), *student.state_dict().values())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(p.grad is None for net in (teacher, student) for p in net.parameters())


def test_the_loss_is_the_sum_that_the_weights_say():
    teacher, student = teacher_net(), TinyNet(seed=4)
    source = make_source(teacher, student=student, **dict(balance=2.0, entropy=0.5, total_variation=0.3))
    source.weights = PriorWeights(2.0, 0.5, 0.3, 0.7, 0.2)
    source.max_patches = 10**6  # so that no patches are drawn
    clips, classes = torch.randn(6, *SHAPE), torch.tensor([0, 1, 2, 0, 1, 2])
    logits = teacher(clips)
    entropies = []
    for block in teacher.blocks:
        block.attn.register_forward_hook(
            lambda module, args, output: entropies.append(clip_priors.similarity_entropy(output[0][:, 1:]))
        )
    loss, figures = source.loss(clips, classes)
    entropy = sum(entropies) / 2
    expected = (
        F.cross_entropy(logits, classes)
        + 2.0 * clip_priors.imbalance(logits)
        - 0.5 * entropy
        + 0.3 * clip_priors.total_variation(clips)
        + 0.7 * clip_priors.temporal_variation(clips)
        - 0.2 * (logits - student(clips)).abs().mean()
    )
    torch.testing.assert_close(loss, expected)
    assert figures["synthesis_entropy"].item() == pytest.approx(entropy.item(), rel=1e-5)
    assert figures["synthesis_top1"].item() == (logits.argmax(1) == classes).float().mean().item()


def test_a_generator_learns_what_its_teacher_takes_for_each_class():
    teacher = teacher_net()
    teacher.head.weight *= 20  # so that it finds some clips likelier than others
    source = make_source(teacher, steps=60)
    first = source._step(12)[1]
    last = source.draw(12)[1]
    assert last["synthesis_loss"] < first["synthesis_loss"] - 0.3
    assert last["synthesis_top1"] >= 2 / 3


def test_the_classes_of_a_batch_are_equally_many():
    source = make_source(teacher_net(), attention=False)
    for count in (1, 3, 7):
        counts = source._make(count)[1].bincount(minlength=NUM_CLASSES)
        assert counts.sum() == count
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("kind", ["generator", "noise"])
def test_batches_have_the_shapes_of_a_loader_and_the_teachers_labels(kind):
    teacher = teacher_net()
    source = make_source(teacher) if kind == "generator" else GaussianNoise(SHAPE, torch.device("cpu"))
    loader = SyntheticClips(source, teacher, steps=3, batch_size=5)
    with loader:
        loader.sampler.set_epoch(4, 1)
        batches = list(loader)
    assert (len(loader), len(batches)) == (3, 2)
    for batch in batches:
        assert batch["views"].shape == (5, 1, *SHAPE)
        assert torch.equal(batch["labels"], teacher(batch["views"][:, 0]).argmax(1))
        assert batch["failures"] == []
    assert not torch.equal(batches[0]["views"], batches[1]["views"])


def test_batches_continue_from_a_state():
    teacher = teacher_net()
    loader = SyntheticClips(make_source(teacher), teacher, steps=5, batch_size=4)
    torch.manual_seed(7)
    batches = iter(loader)
    next(batches), next(batches)
    state, random = copy.deepcopy(loader.source.state_dict()), torch.get_rng_state()
    expected = [batch["views"] for batch in batches]
    resumed = SyntheticClips(make_source(teacher), teacher, steps=5, batch_size=4)
    resumed.source.generator.project.weight.data.zero_()
    resumed.source.load_state_dict(state)
    torch.set_rng_state(random)
    resumed.set_epoch(0, 2)
    found = [batch["views"] for batch in resumed]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_gradient_that_is_not_finite_ends_the_run_with_a_reason():
    source = make_source(teacher_net())
    source.generator.project.weight.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"not finite \(loss nan\); lower SYNTHETIC.GENERATOR_LR"):
        source.draw(4)


def test_a_teacher_whose_attention_cannot_be_seen_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="a TimeSformer alone can be looked at, and the teacher is a TinyNet"):
        AttentionTaps(TinyNet(), "the teacher")
    teacher = teacher_net()
    monkeypatch.setattr(type(teacher.blocks), "mixers", lambda self: {})
    with pytest.raises(ValueError, match="no block of the teacher mixes patches"):
        AttentionTaps(teacher, "the teacher")


@pytest.mark.parametrize("kind", ["divided_space_time", "space_only"])
def test_attention_within_frames_is_seen_frame_by_frame(kind):
    teacher = teacher_net(attention_type=kind, num_registers=1)
    with AttentionTaps(teacher).watching() as seen:
        teacher(torch.zeros(2, *SHAPE))
    assert {name: tuple(tokens.shape) for name, tokens in seen.items()} == {f"{i}.attn": (8, 16, 24) for i in (0, 1)}


def draw_in_each(folder):
    teacher = teacher_net()
    source = make_source(teacher, steps=2)
    torch.manual_seed(10 + processes.rank())
    clips, _ = source.draw(4)
    torch.save((clips, source.generator.state_dict()), folder / f"{processes.rank()}.pt")


def test_processes_have_one_generator_and_draw_different_clips(tmp_path):
    launch(draw_in_each, (tmp_path,), processes=2)
    (clips, generator), (others, same) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(generator[name], same[name]) for name in generator)
    assert not torch.equal(clips, others)
