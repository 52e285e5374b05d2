"""From the config to a model: sections of mixers, and models whose clips processes cannot share."""

import pytest
from torch import nn

from videofib.config import default_config
from videofib.mixers import MIXERS, Mixer
from videofib.run.models import mixer_options, share_tokens


def test_a_mixers_section_has_its_options_and_their_defaults():
    cfg = default_config()
    sections = [name for name in MIXERS if name.upper() in cfg]
    assert sections == ["fibottention"]  # the others have ATTENTION.OPTIONS
    for name in sections:
        assert mixer_options(cfg)[name] == MIXERS[name].options


def test_zero_is_none_only_where_none_is_the_default(monkeypatch):
    def build(layer, *, width=None, power=0, kind="mean") -> nn.Module: ...

    monkeypatch.setitem(MIXERS, "echo", Mixer(build, "", lambda mixer, grid: 0))
    cfg = default_config()
    cfg.ECHO = type(cfg)({"WIDTH": 0, "POWER": 0, "KIND": "max", "TYPO": 0})
    assert mixer_options(cfg)["echo"] == {"width": None, "power": 0, "kind": "max", "typo": 0}


def test_processes_share_the_clips_of_a_timesformer_only():
    with pytest.raises(ValueError, match=r"a TimeSformer only, this model is Linear; set .* TRAIN\.CONTEXT_PARALLEL 1"):
        share_tokens(nn.Linear(2, 2), None)
