"""Blocks that transform the scores of the block before (LaViT), against sums by hand, in whole models."""

import copy

import pytest
import torch

from videofib.engine.objective import Supervised
from videofib.mixers import LayerSpec
from videofib.mixers.dense_attention import DenseAttention
from videofib.mixers.less_attention import HandingAttention, LessAttention, diagonality
from videofib.models import TimeSformer
from videofib.models.explain.rollout import has_rollout
from videofib.models.exports.program import plain_copy, trace
from videofib.models.less_attention import DIAGONALITY
from videofib.models.pretrained.export import holds_dense
from videofib.models.profiling import forward_multiply_adds

SIZES = dict(img_size=(16, 24), patch_size=8, num_classes=5, num_frames=6, tubelet_size=2, embed_dim=24, depth=4,
             num_heads=3, drop_path_rate=0.0)  # fmt: skip
CLIP = (2, 3, 6, 16, 24)
GRID = (3, 2, 3)
BOTH = {"time": 1, "space": 2}
FORMS = [
    ("divided_space_time", BOTH),
    ("divided_space_time", {"time": 2}),
    ("divided_space_time", {"space": 1}),
    ("space_only", {"space": 2}),
]


@pytest.fixture(params=FORMS, ids=str)
def form(request):
    attention_type, less = request.param
    return dict(attention_type=attention_type, less_attention=less)


def build(**options):
    return TimeSformer(**{**SIZES, "less_attention": BOTH, **options})


def with_loss(form, sign="intended"):
    return {**form, "less_attention": {**form["less_attention"], "diagonality": sign}}


def gradients(model, video):
    model.zero_grad()
    logits, losses = model(video, with_losses=True)
    (logits.square().sum() + sum(losses.values())).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# ---- the layers


def test_scores_are_transformed_along_keys_then_queries():
    torch.manual_seed(0)
    layer = LessAttention(LayerSpec(6, 2, 1, (1, 2, 2))).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_()
    x, before = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(2, 2, 5, 5, dtype=torch.float64)
    before.requires_grad_()
    y, scores = layer(x, (1, 2, 2), before)
    theta, psi = layer.theta, layer.psi
    expected = torch.empty(2, 2, 5, 5, dtype=torch.float64)
    for b in range(2):
        for h in range(2):
            along_keys = torch.stack([theta.weight @ row + theta.bias for row in before[b, h]])
            expected[b, h] = torch.stack([psi.weight @ column + psi.bias for column in along_keys.T]).T
    torch.testing.assert_close(scores, expected)
    values = (x @ layer.v.weight.T + layer.v.bias).reshape(2, 5, 2, 3)
    mixed = torch.einsum("bhqk,bkhd->bqhd", expected.softmax(-1), values).reshape(2, 5, 6)
    torch.testing.assert_close(y, mixed @ layer.proj.weight.T + layer.proj.bias)
    weight = torch.randn_like(y)
    found = torch.autograd.grad((y * weight).sum() + scores.sum(), [before, *layer.parameters()])
    by_hand = torch.autograd.grad(
        ((mixed @ layer.proj.weight.T + layer.proj.bias) * weight).sum() + expected.sum(), [before, *layer.parameters()]
    )
    torch.testing.assert_close(found, by_hand)


def test_a_layer_starts_by_using_the_scores_as_they_are():
    layer = LessAttention(LayerSpec(24, 3, 1, (1, 4, 4)))
    before = torch.randn(2, 3, 17, 17)
    assert (layer.scores(before) - before).abs().mean() < 0.3
    assert 0.01 < (layer.theta.weight - torch.eye(17)).std() < 0.03


def test_what_hands_on_scores_is_dense_attention(randomize):
    spec = LayerSpec(12, 3, 1, (1, 2, 3), qk_norm=1e-6)
    one, two = randomize(DenseAttention(spec)), HandingAttention(spec).eval()
    two.load_state_dict(one.state_dict())
    x = torch.randn(2, 7, 12)
    y, scores = two(x, (1, 2, 3), None)
    torch.testing.assert_close(y, one(x, (1, 2, 3), None)[0])
    q, k, _ = two._projected(x)
    torch.testing.assert_close(scores, q @ k.mT / 2)


def test_diagonality_counts_pairs_and_the_diagonal():
    maps = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.0, 0.6, 0.4]])
    asymmetry = 2 * (0.1 + 0.1 + 0.4)
    diagonal = (2 * 0.7 - 0.3) + (2 * 0.5 - 0.5) + (2 * 0.4 - 0.6)
    assert diagonality(maps).item() == pytest.approx(asymmetry - diagonal)
    assert diagonality(maps, printed=True).item() == pytest.approx(asymmetry + diagonal)
    sharp, flat = torch.eye(4), torch.full((4, 4), 0.25)
    assert diagonality(sharp) < diagonality(flat)  # as the text wants it
    assert diagonality(sharp, printed=True) > diagonality(flat, printed=True)


def test_scores_of_other_tokens_are_refused():
    layer = LessAttention(LayerSpec(6, 2, 1, (1, 2, 2)))
    with pytest.raises(ValueError, match=r"built for 5 tokens .* got 5 tokens, and scores: none"):
        layer(torch.randn(1, 5, 6), (1, 2, 2), None)
    with pytest.raises(ValueError, match=r"got 6 tokens, and scores: those of 6 tokens"):
        layer(torch.randn(1, 6, 6), (1, 2, 2), torch.randn(1, 2, 6, 6))


# ---- whole models


def test_first_blocks_compute_and_later_ones_transform():
    model = build()
    kinds = [(type(block.temporal_attn).__name__, type(block.attn).__name__) for block in model.blocks]
    handing, less, dense = "HandingAttention", "LessAttention", "DenseAttention"
    assert kinds == [(handing, dense), (less, handing), (less, less), (less, less)]
    assert model.blocks[1].temporal_attn.theta.in_features == 3
    assert model.blocks[2].attn.theta.in_features == 7  # with the class token


def test_space_and_time_have_scores_of_their_own(randomize):
    model = randomize(build())
    memory = model.blocks.outputs(model.embed(torch.randn(CLIP)), GRID).memory
    assert memory["attn"].shape == (2 * 3, 3, 7, 7)
    assert memory["temporal_attn"].shape == (2 * 6, 3, 3, 3)


def test_every_parameter_has_a_gradient(form, randomize):
    model = randomize(build(**with_loss(form))).train()
    found = gradients(model, torch.randn(CLIP))
    assert found.keys() == {name for name, _ in model.named_parameters()}
    assert all(gradient.isfinite().all() for gradient in found.values())


@pytest.mark.parametrize("recompute", ["block", "cheap"])
def test_recomputation_changes_nothing(form, recompute, randomize):
    model = randomize(build(**with_loss(form))).train()
    again = copy.deepcopy(model)
    again.blocks.recompute = recompute
    video = torch.randn(CLIP)
    expected, found = gradients(model, video), gradients(again, video)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5)


def test_compilation_changes_nothing(form, randomize):
    model = randomize(build(**with_loss(form))).train()
    video = torch.randn(CLIP)
    expected = gradients(model, video)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    found = gradients(compiled, video)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[f"_orig_mod.{name}"], gradient, atol=1e-4, rtol=1e-4)


def test_computing_in_16_bits_stays_near(form):
    model, video, dtypes = build(**form).eval(), torch.randn(CLIP), []
    model.blocks[-1].register_forward_hook(lambda _, inputs, output: dtypes.append(output[1]["attn"]))
    with torch.no_grad():
        expected = model.forward_features(video)
        with torch.autocast("cpu", torch.bfloat16):
            found = model.forward_features(video)
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()
    assert all(scores is None or scores.dtype == torch.float32 for scores in dtypes)


@pytest.mark.slow
def test_exported_programs_compute_the_same(form, randomize):
    model = plain_copy(randomize(build(**form)))
    exported = trace(model, CLIP[1:]).module()
    with torch.no_grad():
        for batch in (1, 3):
            video = torch.randn(batch, *CLIP[1:])
            torch.testing.assert_close(exported(video), model(video), atol=1e-4, rtol=1e-4)


def test_a_model_made_without_values_becomes_the_same():
    torch.manual_seed(3)
    expected = build()
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    torch.manual_seed(3)
    model.reset_parameters()
    assert 0.5 < model.blocks[3].attn.theta.weight.diagonal().mean() < 1.5
    for key, value in model.state_dict().items():
        assert value.isfinite().all(), key
        if value.numel() > 20 and expected.state_dict()[key].std() > 0:
            assert 0.3 < value.std() / expected.state_dict()[key].std() < 3, key


def test_theta_and_psi_do_not_decay():
    model = build()
    own = {f"blocks.{i}.temporal_attn.{name}.weight" for i in (1, 2, 3) for name in ("theta", "psi")}
    own |= {f"blocks.{i}.attn.{name}.weight" for i in (2, 3) for name in ("theta", "psi")}
    assert own == {name for name in model.no_weight_decay() if name.startswith("blocks.")}
    assert own <= {name for name, _ in model.named_parameters()}


def test_profiles_agree_with_the_formula(form):
    dense = build(**{**form, "less_attention": None})
    dim, heads, (t, h, w) = 24, 3, GRID

    def saved(tokens):  # 2·N·D² + N²·D, and 2·H·N³ are paid for it
        return 2 * tokens * dim**2 + tokens**2 * dim - 2 * heads * tokens**3

    sequences = {"time": (h * w, t), "space": (t, 1 + h * w)}
    expected = sum(
        (4 - k) * sequences[kind][0] * saved(sequences[kind][1]) for kind, k in form["less_attention"].items()
    )
    model = build(**form)
    assert forward_multiply_adds(dense, CLIP[1:]) - forward_multiply_adds(model, CLIP[1:]) == expected
    layer = model.blocks[-1].attn if "space" in form["less_attention"] else model.blocks[-1].temporal_attn
    tokens = layer.theta.in_features
    assert layer.multiply_adds(GRID) == 2 * tokens * dim**2 + tokens**2 * dim + 2 * heads * tokens**3


# ---- the loss


@pytest.mark.parametrize("sign", ["intended", "printed"])
def test_the_loss_is_a_mean_over_layers_maps_and_rows(sign, randomize):
    model = randomize(build(less_attention={**BOTH, "diagonality": sign})).train()
    video, scores = torch.randn(CLIP), []
    for block in model.blocks:
        block.register_forward_hook(
            lambda block, inputs, output: scores.extend(
                output[1][name] for name in ("temporal_attn", "attn") if isinstance(getattr(block, name), LessAttention)
            )
        )
    logits, losses = model(video, with_losses=True)
    assert len(scores) == 3 + 2
    each = [diagonality(score.softmax(-1), printed=sign == "printed").mean() / score.shape[-1] for score in scores]
    torch.testing.assert_close(losses, {DIAGONALITY: torch.stack(each).mean()})
    torch.testing.assert_close(logits, model(video))
    assert model.eval()(video, with_losses=True)[1] == {}


def test_an_objective_adds_it_and_logs_it():
    model = build(less_attention={**BOTH, "diagonality": "intended"}).train()
    video, labels = torch.randn(CLIP), torch.tensor([1, 3])
    objective = Supervised(torch.nn.CrossEntropyLoss(), added={DIAGONALITY: 0.5})
    outcome = objective(model, video, labels, {})
    logits, losses = model(video, with_losses=True)
    expected = torch.nn.functional.cross_entropy(logits, labels) + 0.5 * losses[DIAGONALITY]
    torch.testing.assert_close(outcome.loss, expected)
    assert objective.parts == (DIAGONALITY,)
    torch.testing.assert_close(outcome.parts, losses)


def test_minimising_it_makes_maps_diagonal():
    torch.manual_seed(0)
    found = {}
    for sign in ("intended", "printed"):
        model = build(less_attention={"space": 1, "diagonality": sign}).train()
        optimizer, video = torch.optim.Adam(model.parameters(), lr=0.01), torch.randn(CLIP)
        for _ in range(20):
            optimizer.zero_grad()
            model(video, with_losses=True)[1][DIAGONALITY].backward()
            optimizer.step()
        scores = model.blocks.outputs(model.embed(video), GRID).memory["attn"]
        found[sign] = scores.softmax(-1).diagonal(dim1=-2, dim2=-1).mean().item()
    assert found["intended"] > 2 / 7 > 0.5 / 7 > found["printed"]


# ---- what is refused, and what others make of such a model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"less_attention": {}}, "at least 1, for time, space or both; got time=None, space=None"),
        ({"less_attention": {"time": 0}}, "at least 1, for time, space or both; got time=0, space=None"),
        ({"less_attention": {"time": 4}}, "has time=4, and the model 4 blocks, so that none would transform"),
        ({"less_attention": {"times": 1}}, "less_attention has no option 'times'.*did you mean 'time'"),
        ({"less_attention": {"time": 1.0}}, r"option 'time' of less_attention must be int \| None, got time=1.0"),
        ({"less_attention": {"space": 1, "diagonality": "yes"}}, "unknown diagonality of less_attention 'yes'"),
        ({"attention_type": "space_only"}, "has time=1, and space_only attention has none over time; leave it out"),
        ({"space_attention": "fibottention"}, "dense attention in every block, got space_attention='fibottention'"),
        ({"attention_type": "joint_space_time", "embed_dim": 48}, "attention_type=joint_space_time; set another"),
        (
            {"attention_type": "joint_space_time", "img_size": 224, "patch_size": 16, "num_frames": 16,
             "embed_dim": 384, "num_heads": 6, "less_attention": {"time": 2}},
            r"got attention_type=joint_space_time, where it would be dearer than attention: .* 1569 x 1569 ",
        ),
        (
            {"img_size": 224, "patch_size": 16, "embed_dim": 384, "num_heads": 6, "less_attention": {"space": 2}},
            r"over space would be dearer than attention: 164\.7 M multiply-adds a sequence instead of 146\.0 M, as 6 "
            r"heads .* of 197 x 197 tokens by two matrices \(2·6·197³\)",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_it_serves_as_long_as_it_is_no_dearer_than_attention():
    # 2·H·N² < 2·D² + N·D: N below 174 for D=384, H=6
    def layer(side_a, side_b):
        with torch.device("meta"):
            return TimeSformer(img_size=(16 * side_a, 16 * side_b), attention_type="space_only", embed_dim=384, depth=2,
                               num_heads=6, less_attention={"space": 1})  # fmt: skip

    layer(4, 43)  # 172 patches and a class token
    with pytest.raises(ValueError, match="dearer than attention"):
        layer(2, 87)


def test_clips_of_another_size_are_refused_where_parameters_depend_on_it():
    longer, larger = torch.randn(1, 3, 8, 16, 24), torch.randn(1, 3, 6, 32, 24)
    time, space = build(less_attention={"time": 1}), build(less_attention={"space": 1})
    assert time(larger).shape == space(longer).shape == (1, 5)
    for model, video, grid in ((time, longer, r"\(4, 2, 3\)"), (space, larger, r"\(3, 4, 3\)")):
        with pytest.raises(ValueError, match=rf"built for, \(t, h, w\) = \(3, 2, 3\) tokens, got {grid}; set img_size"):
            model(video)


def test_what_knows_dense_models_alone_refuses():
    model = build()
    assert model.attention_settings() == {"less_attention": BOTH}
    assert not holds_dense(model)
    assert not has_rollout(model)
    with pytest.raises(
        ValueError, match="processes cannot share the tokens of a clip whose blocks have less_attention"
    ):
        model.share_tokens(None)
