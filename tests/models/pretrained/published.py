"""Small models with the published grids, and their checkpoints as the official code writes them."""

NARROW = dict(embed_dim=24, depth=2, num_heads=3, num_classes=5)
PUBLISHED = dict(**NARROW, img_size=224, num_frames=8)  # the published grids of 14x14 patches and 8 frames


def official(model):
    """A checkpoint as the official TimeSformer and PySlowFast write it."""
    return {
        "epoch": 14,
        "model_state": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.005}]},
        "cfg": "MODEL:\n  NUM_CLASSES: 5\n",
    }


def largest_difference(found, expected):
    """Of logits, relative to the largest of them."""
    return ((found - expected).abs().max() / expected.abs().max()).item()
