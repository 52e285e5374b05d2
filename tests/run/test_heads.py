"""``videofib heads`` on a trained run: real videos, real files, and figures that other ways give, too."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.commands import call
from tests.models.test_baselines import tiny
from videofib.commands.heads import main
from videofib.data.errors import ManifestError
from videofib.models import TimeSformer
from videofib.report.heads.page import write_heads
from videofib.run.heads import Settings, balanced, measure_heads, untrained
from videofib.run.load import load

FEW = Settings(draws=20, orders=2)


@pytest.fixture(scope="module")
def saved(trained):
    return load(trained)


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    done = call(main, [trained, "--out", folder, "--draws", 20, "--workers", 0], check=True)
    return folder, done


def other(saved, **changes):
    """The same data with another untrained model."""
    settings = dict(img_size=32, patch_size=16, num_classes=3, num_frames=2, embed_dim=24, depth=2, num_heads=2)
    torch.manual_seed(0)
    return replace(saved, model=TimeSformer(**{**settings, **changes}).eval())


def test_the_folder_and_what_is_printed(written):
    folder, done = written
    assert sorted(file.name for file in folder.iterdir()) == ["heads.json", "heads.npz", "index.html"]
    assert re.search(r"^block 0: readout \d+\.\d %, a head alone \d+\.\d %", done.stdout, re.MULTILINE)
    assert f"wrote {folder}/index.html: 1 layer of heads, 5 videos" in done.stdout
    assert "broken.mp4" in done.stderr
    assert "1 video could not be read, and left out" in done.stderr
    found = json.loads((folder / "heads.json").read_text())
    assert (found["num_videos"], found["num_fitted"], found["unreadable"]) == (5, 12, 1)
    (layer,) = found["layers"]
    assert layer["title"] == "block 0"
    assert [label.partition(": ")[0] for label in layer["labels"]] == ["1", "2"]
    assert layer["compared"].keys() == {"alone", "margin", "entropy", "label_overlap", "cka"}
    assert found["cumulative"]["counts"] == [0, 1, 2]
    with np.load(folder / "heads.npz", allow_pickle=False) as arrays:
        assert arrays["recall_0"].shape == (2, 3)
        assert arrays["fields_0"].shape == (2, 3, 3)
        assert arrays["pairs_0"].tolist() == [[1, 0], [0, 1]]
        assert arrays["maps_0"].shape == arrays["cka_0"].shape == (2, 2)


def test_the_page_needs_nothing_else_and_names_heads_and_classes(written):
    page = (written[0] / "index.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", page)
    for word in ("red", "green", "blue", "Without one head of block 0", "1: 1", "Accuracy as heads are removed"):
        assert word in page
    assert page.count("<section") == 6


def test_figures_are_those_of_other_ways(saved, experiment):
    """Accuracy is that of ``predict``; a removed head is a model whose projection has zero columns."""
    found = measure_heads(saved, FEW)
    videos = [experiment / f"test {i}.mp4" for i in range(5)]
    scores = torch.stack([one.scores for one in saved.predict_all(videos, views=(1, 1))])
    labels = torch.arange(5) % 3
    assert found.accuracy == pytest.approx(100 * (scores.argmax(1) == labels).float().mean().item())
    without = untrained(saved, 0)  # another model, which gets the weights of this one
    without.model.load_state_dict(saved.model.state_dict())
    with torch.no_grad():
        without.model.blocks[0].attn.proj.weight[:, 12:] = 0
    ablated = torch.stack([one.scores for one in without.predict_all(videos, views=(1, 1))])
    rows = torch.arange(5)
    change = (ablated.log() - scores.log())[rows, labels].mean().item()
    assert found.layers[0].removed[1].log_probability == pytest.approx(change, abs=1e-4)
    assert found.layers[0].removed[1].log_probability != pytest.approx(0, abs=1e-6)
    none, *_, every = found.cumulative.most
    assert none == pytest.approx(found.accuracy)
    assert every == found.cumulative.least[-1] == found.cumulative.random[0][-1]
    np.testing.assert_allclose(found.layers[0].fields.max(axis=(1, 2)), 1)


def test_divided_attention_has_two_layers_a_block_and_rows_in_all_blocks(saved, tmp_path):
    model = other(saved, space_attention="fibottention", mixer_options={"fibottention": {"head_order": "per_layer"}})
    found = measure_heads(model, FEW)
    titles = ["block 0, time", "block 0, space", "block 1, time", "block 1, space"]
    assert [layer.title for layer in found.layers] == titles
    assert found.everywhere.keys() == {"time", "space"}
    offsets = [layer.labels[0].partition(": ")[2] for layer in found.layers if layer.axis == "space"]
    assert offsets[0] == offsets[1] == found.everywhere_labels["space"][0]
    assert len(found.cumulative.order) == 8
    assert write_heads(tmp_path, found).is_file()
    chosen = measure_heads(model, replace(FEW, blocks=[-1]))
    assert [layer.title for layer in chosen.layers] == titles[2:]
    assert not chosen.everywhere


def test_space_only_and_mixed_blocks(saved):
    model = other(saved, attention_type="space_only", space_attention=["none", "dense"], pooling="mean")
    found = measure_heads(model, FEW)
    assert [(layer.title, layer.mixer) for layer in found.layers] == [("block 1, space", "DenseAttention")]
    assert found.pooled_from == "the mean of the patches"
    assert (found.layers[0].pairs == 1).all()


def test_mixers_without_maps_and_blocks_of_other_mixers(saved, tmp_path):
    model = other(saved, attention_type="joint_space_time", joint_attention=["xcit", "tost"], pooling="mean")
    found = measure_heads(model, FEW)
    assert [layer.mixer for layer in found.layers] == ["CrossCovarianceAttention"]
    assert (found.layers[0].pairs, found.layers[0].maps, list(found.without)) == (None, None, ["1.attn"])
    assert "Without heads to look at: blocks.1.attn" in write_heads(tmp_path, found).read_text()


def test_outputs_of_patches(saved):
    """Only what the readouts see changes, not what is removed."""
    one, other_tokens = (measure_heads(saved, replace(FEW, patches=patches)) for patches in (False, True))
    assert (one.pooled_from, other_tokens.pooled_from) == ("the class token", "the mean of the patches")
    assert not np.array_equal(one.layers[0].cka, other_tokens.layers[0].cka)
    assert one.layers[0].removed[0].log_probability == other_tokens.layers[0].removed[0].log_probability


def test_the_same_seed_gives_the_same_figures(saved):
    one, same = (measure_heads(saved, FEW).layers[0] for _ in range(2))
    assert one.compared == same.compared
    assert measure_heads(saved, replace(FEW, seed=1)).layers[0].compared != one.compared


def test_untrained_is_another_model_and_leaves_the_first(saved):
    before = {name: value.clone() for name, value in saved.model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    control = untrained(saved, 0)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.equal(control.model.head.weight, saved.model.head.weight)
    assert torch.equal(control.model.head.weight, untrained(saved, 0).model.head.weight)
    assert all(torch.equal(value, before[name]) for name, value in saved.model.state_dict().items())


def test_what_cannot_be_measured_is_refused_in_one_line(saved, trained, tmp_path):
    with pytest.raises(ValueError, match="no heads in block 7; blocks with heads: 0"):
        measure_heads(saved, replace(FEW, blocks=[7]))
    with pytest.raises(ValueError, match="do not run in a compiled model"):
        measure_heads(replace(saved, compiled=True), FEW)
    with pytest.raises(ValueError, match=r"no block has attention heads .* its mixers are AFNO"):
        measure_heads(other(saved, attention_type="joint_space_time", joint_attention="afno", pooling="mean"), FEW)
    with pytest.raises(ValueError, match="heads are those of a TimeSformer, got"):
        measure_heads(replace(saved, model=tiny("X3D_S")), FEW)
    several = saved.cfg.clone()
    several.defrost()
    several.MODEL.LOSS_FUNC = "bce_logit"
    with pytest.raises(ValueError, match="videos of one class each"):
        measure_heads(replace(saved, cfg=several), FEW)
    done = call(main, [trained, "--out", tmp_path, "--opts", "DATA.PATH_TO_DATA_DIR", tmp_path / "nothing"])
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*nothing.*\n", done.stderr)
    for words in (["--videos", "0"], ["--seed", "-1"], ["--workers", "-1"], ["--opts", "TEST.ENABLE"]):
        assert call(main, [trained, "--out", tmp_path, *words]).returncode == 2


def test_lists_without_labels_are_refused(saved, tmp_path, experiment):
    for name in ("train", "test"):
        lines = (experiment / f"{name}.csv").read_text().splitlines()
        bare = [str(experiment / line.rpartition(" ")[0]) for line in lines]
        kept = lines if name == "train" else bare
        (tmp_path / f"{name}.csv").write_text("\n".join(kept) + "\n")
    cfg = saved.cfg.clone()
    cfg.defrost()
    cfg.DATA.PATH_TO_DATA_DIR = str(tmp_path)
    with pytest.raises(ManifestError, match=r"the test split in .* has no labels"):
        measure_heads(replace(saved, cfg=cfg), FEW)


def test_videos_are_drawn_evenly_from_classes():
    labels = np.array([0] * 10 + [1] * 3 + [-1] * 5 + [2] * 10)
    chosen = balanced(labels, 9, seed=0)
    assert chosen == sorted(set(chosen))
    assert np.bincount(labels[chosen]).tolist() == [3, 3, 3]
    assert np.bincount(labels[balanced(labels, 100, seed=0)]).tolist() == [10, 3, 10]
    assert balanced(labels, 9, seed=0) != balanced(labels, 9, seed=1)
