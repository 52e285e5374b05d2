"""Keys without effect: the table says what reads a key; building models and recipes shows whether that is so."""

import random
import re
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode

from videofib.config import KEYS, ConfigError, default_config, known_keys, load_config, value_of
from videofib.config.effect import OF_STAGE, READERS, idle_in, reads
from videofib.config.mixing import MIXERS, OVER_SUPPORTS, READ_BY
from videofib.data.lists.records import Facts, InShards, Records
from videofib.data.lists.texts import Texts
from videofib.engine.objective import Supervised
from videofib.mixers import MIXERS as TABLE
from videofib.mixers.support_attention import SupportAttention
from videofib.run.class_weights import class_weights
from videofib.run.loaders import _clip_spec, _order, _train_transform, multigrid_stages
from videofib.run.models import MODELS, build_model
from videofib.run.preflight import choose_amp_dtype
from videofib.run.training import added_losses, criterion_from_config, optimizer_from_config, recipe_from_config

ROOT = Path(__file__).parents[2]
ATTENTION_TYPES = KEYS["TIMESFORMER.ATTENTION_TYPE"].choices
OF_MODELS = [
    key
    for key in KEYS
    if key.split(".")[0] in ("TIMESFORMER", "ATTENTION", "FIBOTTENTION", "SKIP_ATTENTION", "LESS_ATTENTION", "SLOWFAST")
]
OF_MODELS += ["MODEL.DROPOUT_RATE"]
ON_LOADING = {"TIMESFORMER.POSITION_RESIZE", "TIMESFORMER.TIME_RESIZE"}  # read when weights are loaded


def config(**settings):
    """The defaults with some changes, as ``SECTION__KEY=value``, whether or not they have an effect."""
    cfg = default_config()
    for name, value in settings.items():
        section, _, key = name.partition("__")
        cfg[section][key] = value
    return cfg


def refusal(words, path=None):
    with pytest.raises(ConfigError) as caught:
        load_config(path, words.split())
    return str(caught.value)


# ---- the table is that of the code


class Recording:
    """A config that notes which keys are read."""

    def __init__(self, cfg, noted, section=""):
        self._cfg, self._noted, self._section = cfg, noted, section

    def __getattr__(self, name):
        value = self._cfg[name]
        if isinstance(value, CfgNode):
            return Recording(value, self._noted, f"{self._section}{name}.")
        self._noted.add(self._section + name)
        return value


@pytest.mark.parametrize("name", [name for name in MODELS if name != "TimeSformer"])
def test_baselines_read_the_keys_that_the_table_says(name):
    cfg, noted = config(MODEL__MODEL_NAME=name, DATA__NUM_FRAMES=16), set()
    with torch.device("meta"):
        build_model(Recording(cfg, noted))
    assert {key for key in OF_MODELS if reads(cfg, key)} == noted & set(OF_MODELS)


SMALL = {"TIMESFORMER__EMBED_DIM": 24, "TIMESFORMER__DEPTH": 3, "TIMESFORMER__NUM_HEADS": 3, "DATA__NUM_FRAMES": 6,
         "TIMESFORMER__PATCH_SIZE": 16, "DATA__TRAIN_CROP_SIZE": 64, "MODEL__NUM_CLASSES": 5}  # fmt: skip
OTHER = {  # of keys whose other value is neither another choice nor the opposite
    "TIMESFORMER.PATCH_SIZE": 32, "TIMESFORMER.TUBELET_SIZE": 2, "TIMESFORMER.EMBED_DIM": 48, "TIMESFORMER.DEPTH": 4,
    "TIMESFORMER.NUM_HEADS": 2, "TIMESFORMER.MLP_RATIO": 2, "TIMESFORMER.LAYER_SCALE": 0.1,
    "TIMESFORMER.NORM_EPS": 0.1, "TIMESFORMER.NUM_REGISTERS": 2, "TIMESFORMER.DROP_RATE": 0.3,
    "TIMESFORMER.ATTN_DROP_RATE": 0.3, "TIMESFORMER.DROP_PATH_RATE": 0.9, "TIMESFORMER.POSITION_INIT_STD": 0.5,
    "TIMESFORMER.RECOMPUTE_EVERY": 2, "SLOWFAST.ALPHA": 2, "MODEL.DROPOUT_RATE": 0.1, "FIBOTTENTION.W_MIN": 2,
    "FIBOTTENTION.W_MAX": 12, "ATTENTION.BACKEND": "gather",
    "TIMESFORMER.SIZE": "tiny", "TIMESFORMER.POOLING": "mean",
    "SKIP_ATTENTION.BLOCKS": [1], "SKIP_ATTENTION.KERNEL": 3, "SKIP_ATTENTION.TIME_KERNEL": 3,
    "SKIP_ATTENTION.RATIO": 1, "LESS_ATTENTION.TIME": 1, "LESS_ATTENTION.SPACE": 1, "LESS_ATTENTION.DIAGONALITY": 0.1,
}  # fmt: skip


def other(cfg, key):
    if key in OTHER:
        return OTHER[key]
    before = value_of(cfg, key)
    if key in ("ATTENTION.SPACE", "ATTENTION.TIME", "ATTENTION.JOINT"):
        return "fibottention" if before == "dense" else "dense"
    return (
        not before
        if isinstance(before, bool)
        else next(
            c
            for c in KEYS[key].choices
            if c not in (before, "learned_joint")  # which space_only attention cannot have
        )
    )


def observed_model(cfg):
    """All that can be seen of a model: weights, outputs in training, backends, recomputation."""
    torch.manual_seed(0)
    model = build_model(cfg).train()
    with torch.no_grad():
        for parameter in model.parameters():  # temporal attention is silent at first
            parameter.add_(0.2 * torch.randn(parameter.shape))
    size, frames, blocks = cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.NUM_FRAMES, model.blocks
    return (
        {name: tuple(value.shape) for name, value in model.state_dict().items()},
        model(torch.randn(2, 3, frames, size, size)).detach(),
        [module.backend for module in model.modules() if hasattr(module, "backend")],
        [blocks.recompute, blocks.recompute_every] if blocks.recompute else None,
        losses_of(cfg, model, torch.randn(2, 3, frames, size, size)),
    )


def losses_of(cfg, model, clips):
    """What the blocks add to the loss, with its weights."""
    weights = added_losses(cfg)
    return {name: weights[name] * loss.detach() for name, loss in model(clips, with_losses=True)[1].items()}


def same(one, two):
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.shape == two.shape and torch.allclose(one, two, atol=1e-5)
    if isinstance(one, tuple | list):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(same(one[name], two[name]) for name in one)
    return one == two


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
@pytest.mark.parametrize("mixer", ["dense", "fibottention"])
@pytest.mark.parametrize("extra", [{}, {"GRADIENT_CHECKPOINTING": True, "POSITION": "sinusoid"}], ids=str)
def test_timesformer_reads_the_keys_that_the_table_says(attention_type, mixer, extra):
    mixers = dict.fromkeys(("ATTENTION__SPACE", "ATTENTION__TIME", "ATTENTION__JOINT"), mixer)
    more = {f"TIMESFORMER__{name}": value for name, value in extra.items()}
    cfg = config(**SMALL, TIMESFORMER__ATTENTION_TYPE=attention_type, **mixers, **more)
    before, has_effect, expected = observed_model(cfg), set(), set()
    for key in OF_MODELS:
        if key in ON_LOADING | {"TIMESFORMER.ATTENTION_TYPE", "TIMESFORMER.CLASS_TOKEN", "ATTENTION.OPTIONS"}:
            continue  # CLASS_TOKEN needs another POOLING; of OPTIONS, see below
        section, name = key.split(".")
        changed = cfg.clone()
        changed[section][name] = other(cfg, key)
        if reads(cfg, key):
            expected.add(key)
        if differs(before, changed, refused=key in expected):
            has_effect.add(key)
    assert has_effect == expected


def differs(before, cfg, refused):
    """Whether the model that a config describes is another one; of one that is refused, ``refused``."""
    try:
        return not same(before, observed_model(cfg))
    except ValueError:
        return refused


ACROSS = [  # what makes blocks use the attention of earlier ones, and in which types of attention
    ({"SKIP_ATTENTION__BLOCKS": [1, 3], "TIMESFORMER__DEPTH": 5}, ATTENTION_TYPES),
    ({"SKIP_ATTENTION__BLOCKS": [1, 2], "TIMESFORMER__DEPTH": 4}, ATTENTION_TYPES),
    ({"LESS_ATTENTION__TIME": 2}, ["divided_space_time"]),
    ({"LESS_ATTENTION__SPACE": 2}, ["divided_space_time", "space_only"]),
    ({"LESS_ATTENTION__SPACE": 2, "LESS_ATTENTION__DIAGONALITY": 0.2}, ["divided_space_time", "space_only"]),
    ({"LESS_ATTENTION__TIME": 2, "LESS_ATTENTION__DIAGONALITY": 0.2}, ["divided_space_time"]),
]


@pytest.mark.parametrize(
    ("settings", "attention_type"), [(settings, kind) for settings, kinds in ACROSS for kind in kinds], ids=str
)
def test_blocks_that_use_earlier_attention_read_the_keys_that_the_table_says(settings, attention_type):
    small = {**SMALL, "DATA__TRAIN_CROP_SIZE": 32}  # few tokens, as less attention needs
    cfg = config(**{**small, "TIMESFORMER__ATTENTION_TYPE": attention_type, **settings})
    own = "SKIP_ATTENTION" if cfg.SKIP_ATTENTION.BLOCKS else "LESS_ATTENTION"
    before, has_effect, expected = observed_model(cfg), set(), set()
    for key in [key for key in OF_MODELS if key.split(".")[0] == own]:
        section, name = key.split(".")
        changed = cfg.clone()
        changed[section][name] = other(cfg, key)
        if reads(cfg, key):
            expected.add(key)
        if differs(before, changed, refused=key in expected):
            has_effect.add(key)
    assert has_effect == expected


@pytest.mark.parametrize("mixer", [name for name in MIXERS if name != "none"])
def test_mixers_read_the_keys_that_the_table_says(mixer):
    mean = {"TIMESFORMER__POOLING": "mean"}  # which every mixer serves
    cfg = config(**SMALL, **mean, TIMESFORMER__ATTENTION_TYPE="joint_space_time", ATTENTION__JOINT=mixer)
    cfg.TIMESFORMER.NUM_HEADS = 4
    before, has_effect = observed_model(cfg), set()
    for key in READ_BY:
        section, name = key.split(".")
        changed = cfg.clone()
        changed[section][name] = other(cfg, key)
        try:
            is_same = same(before, observed_model(changed))
        except ValueError:  # it is read, and refused
            is_same = False
        if not is_same:
            has_effect.add(key)
    assert has_effect == {key for key in READ_BY if reads(cfg, key)}


def test_the_mixers_that_read_the_mode_of_context_parallelism_are_those_over_supports():
    over_supports = {
        name
        for name, mixer in TABLE.items()
        if isinstance(mixer.build, type) and issubclass(mixer.build, SupportAttention)
    }
    assert set(OVER_SUPPORTS) == {name for name in over_supports if "slices" in TABLE[name].serves}


def test_options_of_a_mixer_without_effect_are_refused_or_dropped(tmp_path):
    assert refusal("ATTENTION.OPTIONS.fibottention.w_min 3") == (
        "ATTENTION.OPTIONS {fibottention: {'w_min': 3}} has no effect: it is only read with fibottention as the "
        "ATTENTION.SPACE, TIME or JOINT that TIMESFORMER.ATTENTION_TYPE reads"
    )
    file, notes = tmp_path / "a.yaml", []
    file.write_text("ATTENTION: {TIME: fibottention, OPTIONS: {fibottention: {w_min: 3}}}")
    cfg = load_config(file, ["ATTENTION.TIME", "dense"], notes=notes)
    assert cfg.ATTENTION.OPTIONS == {}
    assert notes[0].startswith(
        "no effect here: ATTENTION.OPTIONS {fibottention: {'w_min': 3}}, which is only read with"
    )
    assert load_config(file).ATTENTION.OPTIONS == {"fibottention": {"w_min": 3}}


# ---- features: what is off, what turns it on, and another value of the key


def observed_training(cfg):
    """What is seen of training beside the model: learning rates, optimizer, mixing, augmentation, clips, order."""
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 2)
    optimizer = optimizer_from_config(cfg, model)
    options = {id(p): {**group, "params": None} for group in optimizer.param_groups for p in group["params"]}
    frames = np.random.default_rng(0).integers(0, 255, (4, 40, 48, 3), dtype=np.uint8)
    views = [_train_transform(cfg)(frames, random.Random(number)) for number in range(20)]
    each, none = np.arange(20), np.zeros(20)
    records = Records(
        Texts.of([f"{i}.mp4" for i in each]),
        classes=each % 2,
        counts=np.ones(20, np.int32),
        where=InShards("", [f"{i}.tar" for i in range(4)], shards=each % 4, starts=each, sizes=each),
        facts=Facts(each + 1, fps=none, random_access=none > 0, variable_rate=none > 0, size=each),
    )
    weights = class_weights(cfg, records)
    recipe = recipe_from_config(cfg, Supervised(criterion_from_config(cfg, weights)))
    try:
        amp = choose_amp_dtype(cfg, torch.device("cpu"))
    except ConfigError as error:
        amp = str(error)
    return (
        [recipe.lr_at(cfg.SOLVER.MAX_EPOCH * i / 20) for i in range(21)],
        [options[id(parameter)] for parameter in model.parameters()],
        type(optimizer),
        vars(recipe.mix) if recipe.mix else None,
        torch.stack(views),
        _order(cfg, records)(0),
        _clip_spec(cfg).view_clips(300, 25, 2),
        multigrid_stages(cfg) if cfg.MULTIGRID.LONG_CYCLE else None,
        amp,
        weights,
    )


SMALL_CLIPS = {"DATA__TRAIN_CROP_SIZE": 32, "DATA__TRAIN_JITTER_SCALES": [32, 40], "DATA__NUM_FRAMES": 4}
FEATURES = [  # what turns a feature on, what turns it off, and another value of each of its keys
    ({"AUG__ENABLE": True}, {"AUG__ENABLE": False},
     {"AUG.COLOR_JITTER": 0.9, "AUG.AA_TYPE": "trivial", "AUG.RE_PROB": 0.9}),
    ({"AUG__ENABLE": True, "AUG__RE_PROB": 1}, {"AUG__ENABLE": True, "AUG__RE_PROB": 0},
     {"AUG.RE_MODE": "const", "AUG.RE_COUNT": 5}),
    ({"MIXUP__ENABLE": True}, {"MIXUP__ENABLE": False},
     {"MIXUP.ALPHA": 0.3, "MIXUP.CUTMIX_ALPHA": 0.3, "MIXUP.PROB": 0.3, "MIXUP.SWITCH_PROB": 0.1}),
    ({"TRAIN__CLASS_WEIGHTS": "listed", "TRAIN__LISTED_WEIGHTS": [1.0] * 400}, {"TRAIN__CLASS_WEIGHTS": "balanced"},
     {"TRAIN.LISTED_WEIGHTS": [3.0] + [1.0] * 399}),
    ({"MULTIGRID__LONG_CYCLE": True}, {"MULTIGRID__LONG_CYCLE": False}, {"MULTIGRID.LONG_CYCLE_FACTORS": [[1, 1]]}),
    ({"SOLVER__LR_POLICY": "steps_with_relative_lrs"}, {"SOLVER__LR_POLICY": "cosine"},
     {"SOLVER.STEPS": [0, 2, 3], "SOLVER.LRS": [1, 0.5, 0.2]}),
    ({"SOLVER__LR_POLICY": "linear"}, {"SOLVER__LR_POLICY": "steps_with_relative_lrs"},
     {"SOLVER.COSINE_END_LR": 0.001}),
    ({"SOLVER__WARMUP_EPOCHS": 2}, {"SOLVER__WARMUP_EPOCHS": 0}, {"SOLVER.WARMUP_START_LR": 0.001}),
    ({"SOLVER__OPTIMIZING_METHOD": "sgd"}, {"SOLVER__OPTIMIZING_METHOD": "lion"},
     {"SOLVER.MOMENTUM": 0.8, "SOLVER.NESTEROV": False}),
    ({"SOLVER__OPTIMIZING_METHOD": "adamw"}, {"SOLVER__OPTIMIZING_METHOD": "sgd"}, {"SOLVER.BETAS": [0.5, 0.6]}),
    ({}, {"SOLVER__WEIGHT_DECAY": 0}, {"SOLVER.ZERO_WD_1D_PARAM": False}),
    ({"TRAIN__MIXED_PRECISION": True}, {"TRAIN__MIXED_PRECISION": False}, {"TRAIN.MIXED_PRECISION_DTYPE": "fp16"}),
    ({}, {"DATA__SAMPLING": "uniform"}, {"DATA.SAMPLING_RATE": 8, "DATA.TARGET_FPS": 15}),
    ({}, {"DATA_LOADER__SAMPLER": "length_bucketed"}, {"DATA_LOADER.SHARD_WINDOW": 2}),
    ({}, {"DATA_LOADER__SAMPLER": "class_balanced"}, {"DATA_LOADER.SHARD_WINDOW": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("on", "off", "keys"), FEATURES)
def test_features_read_the_keys_that_the_table_says(on, off, keys):
    for settings in (on, off):
        cfg = config(**SMALL_CLIPS, **settings)
        before = observed_training(cfg)
        for key, value in keys.items():
            section, name = key.split(".")
            changed = cfg.clone()
            changed[section][name] = value
            has_effect = not same(before, observed_training(changed))
            assert has_effect == reads(cfg, key) == (settings is on), key


# ---- what users see


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "ATTENTION.JOINT fibottention",
            "ATTENTION.JOINT fibottention has no effect: it is only read with TIMESFORMER.ATTENTION_TYPE "
            "joint_space_time; TIMESFORMER.ATTENTION_TYPE divided_space_time reads ATTENTION.SPACE and ATTENTION.TIME. "
            "Set ATTENTION.JOINT dense, or change TIMESFORMER.ATTENTION_TYPE",
        ),
        (
            "MODEL.MODEL_NAME X3D_S TIMESFORMER.DEPTH 4",
            "TIMESFORMER.DEPTH 4 has no effect: it is only read with MODEL.MODEL_NAME TimeSformer; MODEL.MODEL_NAME "
            "X3D_S reads MODEL.DROPOUT_RATE. Set TIMESFORMER.DEPTH 0, or change MODEL.MODEL_NAME",
        ),
        (
            "MIXUP.ALPHA 0.4",
            "MIXUP.ALPHA 0.4 has no effect: it is only read with MIXUP.ENABLE True. Set MIXUP.ALPHA 0.8, or change "
            "MIXUP.ENABLE",
        ),
        (
            "SOLVER.OPTIMIZING_METHOD adamw SOLVER.MOMENTUM 0.8",
            "SOLVER.MOMENTUM 0.8 has no effect: it is only read with SOLVER.OPTIMIZING_METHOD sgd; "
            "SOLVER.OPTIMIZING_METHOD adamw reads SOLVER.BETAS. Set SOLVER.MOMENTUM 0.9, or change "
            "SOLVER.OPTIMIZING_METHOD",
        ),
    ],
)
def test_a_key_without_effect_is_refused_and_the_message_names_those_that_are_read(words, message):
    assert refusal(words) == message


@pytest.mark.parametrize(
    "words",
    [
        "TIMESFORMER.ATTENTION_TYPE joint_space_time ATTENTION.SPACE fibottention",
        "TIMESFORMER.ATTENTION_TYPE space_only ATTENTION.TIME fibottention",
        "MODEL.MODEL_NAME SlowFast_R50 ATTENTION.SPACE fibottention",
        "MODEL.DROPOUT_RATE 0.1",
        "SLOWFAST.ALPHA 8",
        "FIBOTTENTION.W_MIN 3",
        "TRAIN.CONTEXT_PARALLEL_MODE heads",
        "NUM_GPUS 2 TRAIN.CONTEXT_PARALLEL 2 TRAIN.CONTEXT_PARALLEL_MODE heads TIMESFORMER.ATTENTION_TYPE "
        "joint_space_time ATTENTION.JOINT xcit TIMESFORMER.POOLING mean TIMESFORMER.CLASS_TOKEN False",
        "ATTENTION.BACKEND gather",
        "TIMESFORMER.SIZE small TIMESFORMER.EMBED_DIM 48 TIMESFORMER.DEPTH 2 TIMESFORMER.NUM_HEADS 2",
        "DISTILL.ALPHA 0.9",
        "DISTILL.DATA_FREE noise",
        "DISTILL.CONFIG a DISTILL.CHECKPOINT b DISTILL.FEATURE_BLOCKS [[0,0]]",
        "DISTILL.CONFIG a DISTILL.CHECKPOINT b SYNTHETIC.EPOCH_STEPS 5",
        "DISTILL.CONFIG a DISTILL.CHECKPOINT b DISTILL.DATA_FREE noise SYNTHETIC.WIDTH 8",
        "DISTILL.CONFIG a DISTILL.CHECKPOINT b DISTILL.DATA_FREE noise TRAIN.CLASS_WEIGHTS balanced",
        "DISTILL.CONFIG a DISTILL.CHECKPOINT b DISTILL.DATA_FREE noise DATA.RANDOM_FLIP False",
        "WANDB.PROJECT mine",
        "REPORT.ENABLE False REPORT.NUM_VIDEOS 3",
        "TEST.RESUME False TEST.SAVE_SECONDS 3",
        "DATA_LOADER.NUM_WORKERS 0 DATA_LOADER.TIME_LIMIT 5",
    ],
)
def test_other_keys_without_effect_are_refused(words):
    assert " has no effect: it is only read with " in refusal(words)


@pytest.mark.parametrize("words", ["FIBOTTENTION.VARIANT foo", "SOLVER.LRS foo", "AUG.RE_MODE foo", "SLOWFAST.ALPHA 0"])
def test_values_are_checked_where_nothing_reads_them(words):
    assert "; it must be " in refusal(words)


def test_a_choice_made_later_returns_keys_to_their_defaults_and_reports_it(tmp_path, caplog):
    file = tmp_path / "experiment.yaml"
    file.write_text(
        "AUG: {ENABLE: True, COLOR_JITTER: 0.4}\nTIMESFORMER: {ATTENTION_TYPE: joint_space_time}\n"
        "ATTENTION: {JOINT: fibottention}\nFIBOTTENTION: {W_MIN: 2}\n"
    )
    notes = []
    cfg = load_config(file, ["AUG.ENABLE", "False", "ATTENTION.JOINT", "dense"], notes=notes)
    assert (cfg.AUG.COLOR_JITTER, cfg.FIBOTTENTION.W_MIN) == (0, 5)
    assert notes == [
        "no effect here: FIBOTTENTION.W_MIN 2, which is only read with fibottention as the ATTENTION.SPACE, TIME or "
        "JOINT that TIMESFORMER.ATTENTION_TYPE reads",
        "no effect here: AUG.COLOR_JITTER 0.4, which is only read with AUG.ENABLE True",
    ]
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert load_config(tmp_path / "config.yaml") == cfg
    # sparse attention never becomes dense silently, and a key written after the choice is a mistake
    assert "ATTENTION.JOINT fibottention has no effect" in refusal("TIMESFORMER.ATTENTION_TYPE space_only", file)
    assert "AUG.COLOR_JITTER 0.5 has no effect" in refusal("AUG.ENABLE False AUG.COLOR_JITTER 0.5", file)
    load_config(file, ["AUG.ENABLE", "False"])
    assert caplog.messages == [notes[1]]


def test_the_table_and_the_stages_name_keys_that_exist():
    for row in READERS:
        assert set(row.choices) <= set(known_keys())
    names = [name for row in READERS for name in row.keys] + [name for own in OF_STAGE.values() for name in own]
    for name in names:
        assert any(key == name or (name.endswith(".*") and key.startswith(name[:-1])) for key in known_keys()), name


def test_keys_of_a_stage_that_is_off_are_named():
    keys = ["SOLVER.BASE_LR", "TEST.NUM_ENSEMBLE_VIEWS", "DATA.NUM_FRAMES", "TRAIN.CONTEXT_PARALLEL", "TEST.BATCH_SIZE"]
    keys += ["TRAIN.CONTEXT_PARALLEL_MODE"]
    assert idle_in(["train"], keys) == {"test": ["TEST.NUM_ENSEMBLE_VIEWS"]}
    assert idle_in(["test"], keys) == {"train": ["SOLVER.BASE_LR"]}
    assert idle_in(["train", "test"], keys) == {}
    keys = ["PRETRAIN.METHOD", "TRAIN.PATIENCE", "TEST.BATCH_SIZE", "SOLVER.BASE_LR"]
    assert idle_in(["train", "test"], keys) == {"pretrain": ["PRETRAIN.METHOD"]}
    assert idle_in(["pretrain"], keys) == {"test": ["TEST.BATCH_SIZE"], "train from labels": ["TRAIN.PATIENCE"]}


PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").rglob("*.yaml")])


def documented():
    """The commands in the documents and configs that take a shipped config: (page, config, KEY VALUE pairs)."""
    for page in PAGES:
        text = re.sub(r"^# ?", "", page.read_text(), flags=re.MULTILINE) if page.suffix == ".yaml" else page.read_text()
        for line in re.sub(r"\\\n\s*", " ", text).splitlines():
            if found := re.search(r"--cfg ((?:configs/\S+|FILE)\.yaml)(.*)", line):
                words = shlex.split(re.split(r"`|…|    #", found[2])[0])
                pairs = [(key, value) for key, value in pairwise(words) if key in KEYS]
                yield pytest.param(found[1], [word for pair in pairs for word in pair], id=f"{page.name}: {found[1]}")


@pytest.mark.parametrize(("file", "words"), list(documented()))
def test_documented_commands_load(file, words):
    load_config(None if "FILE" in file or "<" in file else ROOT / file, words)
