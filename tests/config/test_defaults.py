"""Every key is declared once, read somewhere, and on the page of keys; its choices are those of the code."""

import ast
import runpy
from pathlib import Path

import pytest
import torch

from videofib.attention.backends import BACKENDS, MASKINGS
from videofib.attention.support import HEAD_ORDERS
from videofib.attention.wythoff import VARIANTS
from videofib.config import KEYS, SECTIONS, default_config, known_keys, load_config, mixing, value_of
from videofib.config.keys_page import keys_page
from videofib.data.clips.augment import ERASE_MODES
from videofib.data.clips.dataset import ClipSpec
from videofib.data.clips.transforms import TrainTransform
from videofib.data.sampling import VIEW_STARTS, view_crop
from videofib.data.video import decode
from videofib.engine.optim import build_optimizer, lr_at
from videofib.mixers import MIXERS
from videofib.models import timesformer
from videofib.models.expert_options import ROUTINGS
from videofib.models.recompute import RECOMPUTE
from videofib.run.models import MODELS

ROOT = Path(__file__).parents[2]


def test_the_defaults_are_accepted_and_agree():
    assert load_config() == default_config()
    for name, key in KEYS.items():
        assert value_of(default_config(), name) == key.default, name


@pytest.mark.parametrize("name", KEYS)
def test_every_key_says_what_it_is_for(name):
    key = KEYS[name]
    assert key.about
    assert not key.about.endswith(".")
    assert "|" not in key.about + key.accepted + key.unit, "it stands in a table"


# the lists of the code from which these keys choose
OFFERED = {
    "DATA.DECODING_BACKEND": decode.BACKENDS,
    "AUG.RE_MODE": ERASE_MODES,
    "MODEL.MODEL_NAME": MODELS,
    "TIMESFORMER.ATTENTION_TYPE": timesformer.ATTENTION_TYPES,
    "TIMESFORMER.SIZE": timesformer.SIZES,
    "TIMESFORMER.POOLING": timesformer.POOLINGS,
    "TIMESFORMER.STEM": timesformer.STEMS,
    "TIMESFORMER.POSITION": timesformer.POSITIONS,
    "TIMESFORMER.LOCAL_INTERACTION": timesformer.CHOICES["local_interaction"],
    "TIMESFORMER.LOCAL_NORM": timesformer.NORMS,
    "TIMESFORMER.TOKEN_ORDER": timesformer.TOKEN_ORDERS,
    "TIMESFORMER.RECOMPUTE": RECOMPUTE,
    "ATTENTION.BACKEND": ("auto", *BACKENDS),
    "FIBOTTENTION.VARIANT": VARIANTS,
    "FIBOTTENTION.HEAD_ORDER": HEAD_ORDERS,
    "FIBOTTENTION.MASKING": MASKINGS,
    "TEST.VIEW_STARTS": VIEW_STARTS,
    "EXPERTS.ROUTING": ROUTINGS,
}


@pytest.mark.parametrize("name", OFFERED)
def test_choices_are_those_of_the_code(name):
    assert sorted(KEYS[name].choices) == sorted(OFFERED[name])


def test_the_names_of_mixers_are_those_of_the_code():
    assert list(mixing.MIXERS) == list(MIXERS)


# code without a list, which accepts the choices of these keys and no other
ACCEPTED = {
    "DATA.SAMPLING": lambda choice: ClipSpec(8, 4, 30, sampling=choice),
    "AUG.RE_MODE": lambda choice: TrainTransform(8, [8, 8], flip=False, mean=[0], std=[1], erase_mode=choice),
    "TEST.NUM_SPATIAL_CROPS": lambda choice: view_crop(20, 20, 10, 0, choice),
    "SOLVER.OPTIMIZING_METHOD": lambda choice: build_optimizer([{"params": [torch.zeros(1)]}], choice, lr=0.1),
    "SOLVER.LR_POLICY": lambda choice: lr_at(1, base_lr=1, policy=choice, max_epoch=2),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_code_accepts_the_choices_and_no_other(name):
    for choice in KEYS[name].choices:
        ACCEPTED[name](choice)
    with pytest.raises(ValueError, match=r"another|2"):
        ACCEPTED[name](2 if isinstance(KEYS[name].default, int) else "another")


def test_the_page_is_that_of_the_declarations():
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert page == keys_page(), "run: python -m videofib.config.keys_page > docs/config.md"


def test_the_page_has_every_section_and_key():
    page = keys_page()
    assert all(f"| `{name}` | " in page for name in KEYS)
    assert all(f"## {name}\n" in page for name in SECTIONS if name)
    assert "| `DATA.PATH_LABEL_SEPARATOR` | `' '` | text that is not empty |  | " in page
    assert "| `GLOBAL_BATCH_SIZE` | `0` | an integer above 0, or 0 (as TRAIN.BATCH_SIZE) | videos | " in page


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_module_prints_the_page(capsys):
    runpy.run_module("videofib.config.keys_page", run_name="__main__")
    assert capsys.readouterr().out == keys_page()


def keys_read(source):
    """The keys that code reads: ``cfg.TRAIN.ENABLE``, or ``options.DEPTH`` after ``options = cfg.TIMESFORMER``."""
    nodes = list(ast.walk(ast.parse(source)))
    sections = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            pairs = [(node.targets[0], node.value)]
            if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(node.targets[0].elts, node.value.elts, strict=True)
            named = {ast.unparse(name): ast.unparse(value) for name, value in pairs}
            sections |= {name: value for name, value in named.items() if value.startswith("cfg.")}
    for node in nodes:
        if isinstance(node, ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            chain = [*sections.get(first, first).split("."), *rest]
            if chain[0] == "cfg":
                yield ".".join(chain[1:])


def test_keys_read_sees_through_a_sections_short_name():
    source = "def f(cfg):\n    a, b = cfg.DATA, cfg.AUG\n    return a.MEAN, b.ENABLE, cfg.RNG_SEED, other.DATA.STD"
    assert {"DATA.MEAN", "AUG.ENABLE", "RNG_SEED"} == set(keys_read(source)) - {"DATA", "AUG"}


def test_every_key_is_read_somewhere():
    files = [*(ROOT / "videofib").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    users = [file for file in files if file.parent.name != "config"]
    read = {key for file in users for key in keys_read(file.read_text(encoding="utf-8"))}
    read |= {f"{name}.{option}".upper() for name, mixer in MIXERS.items() for option in mixer.options}
    unread = [key for key in known_keys() if key not in read]
    assert not unread, f"nothing reads {unread}"
