"""A test stage says how it tested, and uses no finished videos of a test with other views."""

import shutil

from tests.experiment import newest, results, run
from videofib.config import load_config
from videofib.metrics.scores import read_scores
from videofib.report.comparison import Comparison
from videofib.run.loaders import build_eval_loader
from videofib.run.parts import model_from_config
from videofib.run.testing import _resume_cache

PUBLISHED = ("TEST.VIEW_STARTS", "published")


def test_published_view_starts_are_in_the_results_the_scores_the_report_and_the_comparison(
    experiment, trained, tmp_path
):
    shutil.copytree(trained, tmp_path / "spread")
    run(experiment, tmp_path / "a", *PUBLISHED, "TEST.CHECKPOINT_FILE_PATH", newest(trained), stages=["test"])
    assert results(tmp_path / "a")["view_starts"] == "published"
    assert read_scores(tmp_path / "a" / "test_scores.parquet").view_starts == "published"
    assert "6 views of each, TEST.VIEW_STARTS published" in (tmp_path / "a" / "report.html").read_text()
    assert results(trained)["view_starts"] == "spread"
    assert Comparison([tmp_path / "spread", tmp_path / "a"]).warnings == [
        "other views: 2 clips × 3 crops in spread, 2 clips × 3 crops, TEST.VIEW_STARTS published in a"
    ]


def test_finished_videos_of_other_view_starts_are_not_used(experiment, tmp_path):
    configs = [
        load_config(experiment / "config.yaml", ["OUTPUT_DIR", str(tmp_path), *overrides])
        for overrides in ((), PUBLISHED, PUBLISHED)
    ]
    model = model_from_config(configs[0])
    for cfg in configs:
        with build_eval_loader(cfg, "test") as loader:
            _resume_cache(cfg, model, loader.dataset.records)
    assert len(list((tmp_path / "test_parts").iterdir())) == 2
