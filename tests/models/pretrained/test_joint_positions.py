"""Positions of all tokens of a clip, loaded for clips of another length or size, and from models of one frame."""

import pytest
import torch

from videofib.checkpoint.file import CheckpointError
from videofib.models import TimeSformer
from videofib.models.pretrained.load import load_pretrained
from videofib.models.pretrained.resize import resize_joint_positions

SMALL = dict(img_size=32, patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=1, num_heads=3)
JOINT = dict(attention_type="joint_space_time", position="learned_joint")


def joint(**options):
    return TimeSformer(**SMALL | JOINT | options).eval()


def numbered(length, height, width):
    """(1, 1+t·h·w, 2): the class token's is -1, a patch's are its frame and its row."""
    grid = torch.empty(length, height, width, 2)
    grid[..., 0] = torch.arange(length)[:, None, None]
    grid[..., 1] = torch.arange(height)[:, None]
    return torch.cat((torch.full((1, 2), -1.0), grid.reshape(-1, 2)))[None]


def resized(embed, grid, has_class=True, times=None, old=None, mode="nearest", time_mode="nearest"):
    return resize_joint_positions(embed, times, old, grid, has_class, mode, time_mode)


@pytest.mark.parametrize(
    ("old", "new", "how"),
    [
        ((2, 4, 4), (4, 4, 4), "nearest from 2 to 4 in time"),
        ((4, 2, 2), (4, 4, 4), "nearest from 2x2 to 4x4"),
        ((1, 4, 4), (4, 4, 4), "the same for all frames"),
        ((1, 2, 2), (4, 8, 8), "nearest from 2x2 to 8x8, the same for all frames"),
        ((4, 3, 4), (2, 3, 4), "nearest from 4 to 2 in time"),
    ],
)
def test_each_token_gets_the_position_of_its_part_of_the_clip(old, new, how):
    found, said = resized(numbered(*old), new, old=old)
    assert said == how
    assert (found[0, 0] == -1).all()
    volume = found[0, 1:].reshape(*new, 2)
    frames = torch.arange(new[0]) * old[0] // new[0]
    rows = torch.arange(new[1]) * old[1] // new[1]
    assert torch.equal(volume[..., 0], frames[:, None, None].expand(new).float())
    assert torch.equal(volume[..., 1], rows[:, None].expand(new).float())


def test_the_same_clip_is_left_alone():
    embed = numbered(4, 4, 4)
    assert resized(embed, (4, 4, 4)) == (embed, "")


def test_class_tokens_come_and_go():
    found, how = resized(numbered(2, 2, 2)[:, 1:], (2, 2, 2))
    assert not found[0, 0].any()
    assert torch.equal(found[:, 1:], numbered(2, 2, 2)[:, 1:])
    assert how == "zero for the class token"
    found, how = resized(numbered(2, 2, 2), (2, 2, 2), has_class=False)
    assert torch.equal(found, numbered(2, 2, 2)[:, 1:])
    assert how == "the prefix position dropped"


def test_a_number_of_positions_that_fits_nothing_is_shown():
    with pytest.raises(ValueError, match=r"12 positions are not those of clips of 2x3x5 tokens.*DATA.NUM_FRAMES"):
        resized(torch.zeros(1, 12, 2), (2, 3, 5))


def test_where_the_weights_do_not_say_their_grid_it_is_the_nearest_or_none():
    for old, new in (((2, 4, 4), (3, 4, 4)), ((3, 2, 2), (3, 4, 4)), ((1, 3, 3), (2, 4, 5))):
        assert resized(numbered(*old), new)[1] == resized(numbered(*old), new, old=old)[1] != ""
    with pytest.raises(ValueError, match="17 positions may be those of clips of 1x4x4 or 4x2x2 tokens"):
        resized(numbered(4, 2, 2), (4, 4, 4))


@pytest.mark.parametrize("num_frames", [4, 8])
def test_a_published_timesformer_gives_its_logits_with_joint_positions(num_frames, randomize):
    theirs = randomize(TimeSformer(**SMALL, attention_type="joint_space_time")).eval()
    ours = randomize(joint(num_frames=num_frames), seed=1)
    report = load_pretrained(ours, theirs)
    times = "1x17x24 -> 1x65x24" if num_frames == 4 else "1x17x24 -> 1x129x24"
    assert report.resized == {"pos_embed": f"{times}, the same for all frames, with the time embedding added"}
    assert not report.unused
    clip = torch.randn(2, 3, num_frames, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(clip), theirs(clip), atol=1e-5, rtol=1e-5)


def test_a_vivit_of_other_clips_is_resized(randomize):
    theirs = randomize(joint())
    ours = joint(num_frames=8, img_size=32)
    report = load_pretrained(ours, theirs, time_resize="linear")
    assert report.resized == {"pos_embed": "1x65x24 -> 1x129x24, linear from 4 to 8 in time"}
    with pytest.raises(CheckpointError, match="build the model with position='learned_joint'"):
        load_pretrained(TimeSformer(**SMALL, attention_type="joint_space_time"), theirs)
