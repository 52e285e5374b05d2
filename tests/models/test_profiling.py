"""Costs against published figures and against hand counts."""

from pathlib import Path

import pytest
import torch

from videofib.commands import profile
from videofib.models import TimeSformer
from videofib.models.profiling import cost, forward_multiply_adds

ROOT = Path(__file__).parents[2]
CLIP = (3, 8, 224, 224)


@pytest.mark.parametrize(
    ("attention_type", "published", "tolerance"),
    [("divided_space_time", 0.59e12, 0.02), ("joint_space_time", 539e9, 0.03), ("space_only", 422e9, 0.03)],
)
def test_three_views_cost_what_timesformer_published(attention_type, published, tolerance):
    """TimeSformer (arXiv 2102.05095): ViT-B, 8 frames of 224 pixels."""
    found = cost(TimeSformer(attention_type=attention_type), CLIP)
    assert 3 * found.multiply_adds == pytest.approx(published, rel=tolerance)


def small(**options):
    sizes = dict(img_size=32, patch_size=8, num_frames=2, embed_dim=24, depth=1, num_heads=3, num_classes=5)
    return TimeSformer(attention_type="joint_space_time", **sizes, **options)


def test_sparse_attention_counts_its_true_pairs():
    dense, sparse = small(), small(joint_attention="fibottention")
    found = {name: cost(model, (3, 2, 32, 32)) for name, model in (("dense", dense), ("sparse", sparse))}
    pairs = sparse.blocks[0].attn.support_for(32).num_pairs()
    assert found["dense"].by_operator["scaled_dot_product_attention"] == 2 * 3 * 33**2 * 8
    assert found["sparse"].by_operator["sparse_attention"] == 2 * pairs * 8
    assert found["dense"].multiply_adds - found["sparse"].multiply_adds == 2 * 8 * (3 * 33**2 - pairs)
    assert found["dense"].activations - found["sparse"].activations == 3 * 33**2 - pairs
    assert found["dense"].by_operator["linear"] == 33 * 24 * (3 + 1 + 4 + 4) * 24 + 24 * 5
    assert found["dense"].by_operator["conv"] == 32 * 24 * 3 * 8 * 8
    assert found["sparse"].parameters == sum(p.numel() for p in sparse.parameters())


def test_counting_without_computing_finds_the_same_products():
    for options in ({}, {"joint_attention": "fibottention"}):
        model = small(**options).train()
        found = cost(model, (3, 2, 32, 32)).by_operator
        counted = ("linear", "conv", "matmul", "sparse_attention", "scaled_dot_product_attention")
        assert forward_multiply_adds(model, (3, 2, 32, 32)) == sum(found.get(name, 0) for name in counted)
        assert model.training


def test_the_model_stays_as_it_was():
    model = small().train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    cost(model, (3, 2, 32, 32))
    assert model.training
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())


def test_the_command_prints_a_table_and_names_an_unknown_key(capsys):
    config = ROOT / "configs" / "Motion" / "TimeSformerXXS_joint_fibottention_8x3_48.yaml"
    profile.main(["--cfg", str(config), "TIMESFORMER.DEPTH", "1"])
    printed = capsys.readouterr().out
    assert "sparse_attention" in printed
    assert "multiply-adds of a video, 12 views" in printed
    profile.main(["--cfg", str(config), "TIMESFORMER.DEPTH", "1", "TIMESFORMER.EMBED_DIM", "12"])
    counts = dict(line.rsplit("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line)
    counts = {name.strip(): count.strip() for name, count in counts.items()}
    assert counts["conv"] == "663.6 k"  # 288 tokens x 12 x 3 x 8 x 8; 0.00 in thousands of millions
    with pytest.raises(SystemExit, match=r"^error: .*TIMESFORMER\.DEPTH"):
        profile.main(["--cfg", str(config), "TIMESFORMER.DEPHT", "1"])
