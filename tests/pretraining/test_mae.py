"""Masked autoencoders: tubes, targets, an encoder that never sees masked pixels, and the loss of a slow loop."""

import pytest
import torch
from einops import rearrange

from videofib.mixers import MIXERS
from videofib.models import TimeSformer
from videofib.models.embed import sinusoid_positions
from videofib.pretraining.mae import MaskedAutoencoder, MaskedPixels
from videofib.pretraining.pixels import pixel_targets
from videofib.pretraining.tubes import draw_visible, num_visible, others, take, tokens_of

SIZES = {
    **{"img_size": (24, 40), "patch_size": 8, "num_frames": 6, "tubelet_size": 2},
    **{"embed_dim": 24, "depth": 2, "num_heads": 3, "drop_path_rate": 0.0},
    **{"attention_type": "joint_space_time", "mixer_options": {"fibottention": {"w_min": 2}}},
}
ORDERS = {"hwt": "h w t", "thw": "t h w"}


def encoder(**changes):
    torch.manual_seed(0)
    return TimeSformer(**{**SIZES, **changes})


def autoencoder(**changes):
    model = MaskedAutoencoder(encoder(**changes))
    with torch.no_grad():  # so that biases and norms count
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def clips(count=2, frames=6, height=24, width=40):
    return torch.randn(count, 3, frames, height, width)


# ---- masks


@pytest.mark.parametrize("order", ORDERS.values())
def test_masks_are_tubes(order):
    grid, ratio = (3, 3, 5), 0.7
    places = draw_visible(4, 15, ratio)
    visible = tokens_of(places, grid, order)
    mask = torch.zeros(4, 45, dtype=torch.bool).scatter(1, visible, True)
    frames = rearrange(mask, f"b ({order}) -> t b (h w)", t=3, h=3, w=5)
    assert (frames == frames[0]).all()
    assert (frames[0].sum(1) == num_visible(15, ratio)).all()
    assert (visible.diff(dim=1) > 0).all(), "tokens keep their order"
    both = torch.cat((places, others(places, 15)), dim=1).sort(dim=1).values
    assert (both == torch.arange(15)).all()


def test_clips_have_masks_of_their_own_which_follow_from_the_random_state():
    torch.manual_seed(3)
    one = draw_visible(6, 50, 0.9)
    assert len({tuple(row) for row in one.tolist()}) == 6
    torch.manual_seed(3)
    assert torch.equal(one, draw_visible(6, 50, 0.9))


@pytest.mark.parametrize(("places", "ratio"), [(4, 0.9), (15, 0.01)])
def test_a_ratio_that_masks_nothing_or_all_is_refused(places, ratio):
    with pytest.raises(ValueError, match=rf"mask_ratio={ratio} masks \d+ of the {places} patches"):
        num_visible(places, ratio)


# ---- targets


@pytest.mark.parametrize("order", ORDERS.values())
def test_targets_are_the_pixels_of_each_token_normalised_by_channel(order):
    video = clips(frames=4)
    found = pixel_targets(video, 8, 2, order)
    tokens = rearrange(found, f"b ({order}) (p c) -> b t h w p c", t=2, h=3, w=5, c=3)
    for t, h, w, c in [(0, 0, 0, 0), (1, 2, 4, 2), (0, 1, 3, 1)]:
        pixels = video[1, c, 2 * t : 2 * t + 2, 8 * h : 8 * h + 8, 8 * w : 8 * w + 8].flatten()
        expected = (pixels - pixels.mean()) / (pixels.std() + 1e-6)
        torch.testing.assert_close(tokens[1, t, h, w, :, c], expected)


def test_targets_do_not_depend_on_how_clips_are_normalised():
    video = clips()
    scaled = video * torch.tensor([0.2, 3.0, 1.0]).view(3, 1, 1, 1) + 0.7
    torch.testing.assert_close(
        pixel_targets(video, 8, 2, "t h w"), pixel_targets(scaled, 8, 2, "t h w"), rtol=0, atol=1e-4
    )


def test_targets_may_be_the_pixels_themselves():
    video = clips(frames=2)
    plain = pixel_targets(video, 8, 2, "h w t", normalise=False)
    assert torch.equal(plain[0, 0, ::3], video[0, 0, :, :8, :8].flatten())


# ---- the model


def slow_loss(model, video, places):
    """Clip by clip and token by token, from a mask over the full clip."""
    own, decoder, losses = model.encoder, model.decoder, []
    t, h, w = grid = own.patch_embed.grid_of(video)
    numbers = rearrange(torch.arange(t * h * w), f"({own.order}) -> t (h w)", t=t, h=h, w=w)  # of tokens
    for clip, seen in zip(video, places.tolist(), strict=True):
        visible = sorted(numbers[frame, place].item() for frame in range(t) for place in seen)
        masked = sorted(set(range(t * h * w)) - set(visible))
        tokens = own.norm_pre(own.embed(clip[None]))
        prefix, patches = tokens[:, : own.num_prefix_tokens], tokens[:, own.num_prefix_tokens :]
        x = torch.cat((prefix, patches[:, visible]), dim=1)
        for block in own.blocks:
            x, _ = block(x, (t, 1, len(seen)), {})
        x = decoder.embed(own.norm(x)[:, own.num_prefix_tokens :])
        table = sinusoid_positions(t * h * w, x.shape[2])[0]
        full = torch.empty(1, t * h * w, x.shape[2])
        for frame in range(t):
            for place in range(h * w):
                number = numbers[frame, place].item()
                known = x[0, visible.index(number)] if number in visible else decoder.mask_token[0, 0]
                full[0, number] = known + table[frame * h * w + place]
        for block in decoder.blocks:
            full, _ = block(full, grid, {})
        predicted = decoder.pixels(decoder.norm(full))[0]
        targets = pixel_targets(clip[None], model.patch_size, model.tubelet_size, own.order)[0]
        losses += [(predicted[i] - targets[i]).square().mean() for i in masked]
    return torch.stack(losses).mean()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("attention", ["dense", "fibottention"])
@pytest.mark.parametrize(
    "changes", [{}, {"tubelet_size": 1, "num_registers": 2}, {"class_token": False, "pooling": "mean"}], ids=str
)
def test_the_loss_is_that_of_a_slow_loop(order, attention, changes):
    model = autoencoder(token_order=order, joint_attention=attention, **changes)
    video, places = clips(), draw_visible(2, 15, 0.7)
    fast, slow = model(video, places), slow_loss(model, video, places)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=0)
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(fast, list(parameters.values()))
    expected = torch.autograd.grad(slow, list(parameters.values()))
    for name, one, two in zip(parameters, found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("attention", ["dense", "fibottention"])
def test_the_encoder_never_sees_masked_pixels(attention):
    model = autoencoder(joint_attention=attention)
    video, places = clips().requires_grad_(), draw_visible(2, 15, 0.7)
    model.encode(video, places).square().sum().backward()
    by_place = rearrange(video.grad, "b c t (h y) (w x) -> b (h w) (c t y x)", y=8, x=8).abs().sum(2)
    seen = torch.zeros(2, 15, dtype=torch.bool).scatter(1, places, True)
    assert (by_place[~seen] == 0).all()
    assert (by_place[seen] > 0).all()


def test_offsets_within_a_patch_mean_what_they_mean_in_the_full_clip():
    """In the order "h w t", neighbours in the shortened sequence at a distance below t are those of the full one."""
    grid, places = (4, 3, 5), draw_visible(1, 15, 0.7)
    tokens = tokens_of(places, grid, "h w t")[0]
    for offset in range(1, 4):
        for i in range(len(tokens) - offset):
            if i // 4 == (i + offset) // 4:  # of one tube
                assert tokens[i + offset] - tokens[i] == offset


def test_offsets_are_over_the_shortened_sequence():
    model = autoencoder(joint_attention="fibottention")
    model.encode(clips(), draw_visible(2, 15, 0.7))
    assert 15 in model.encoder.blocks[0].attn._supports, "3 frames of 5 visible patches, of 45 tokens in all"


FIT = [name for name, mixer in MIXERS.items() if name != "none" and mixer.needs.isdisjoint({"grid", "fixed_tokens"})]


@pytest.mark.parametrize("name", FIT)
def test_every_mixer_that_needs_no_grid_works(name):
    model = MaskedAutoencoder(encoder(joint_attention=name, pooling="mean", mixer_options={}))
    loss = MaskedPixels(model, 0.6)(model, clips(), None, {}).loss
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters()), "processes would wait for them"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"attention_type": "divided_space_time"}, "attention_type='divided_space_time'"),
        ({"attention_type": "space_only"}, "attention_type='space_only'"),
        ({"local_interaction": "space"}, "local_interaction='space'"),
        ({"stem": "conv", "tubelet_size": 1}, "stem='conv'"),
        ({"pooling": "class_attention"}, "pooling='class_attention'"),
        ({"joint_attention": "linformer"}, "mixer 'linformer'"),
        ({"joint_attention": ["dense", "rsa"], "pooling": "mean"}, "mixer 'rsa'"),
    ],
)
def test_encoders_that_need_all_tokens_are_refused(changes, what):
    with pytest.raises(ValueError, match=what):
        MaskedAutoencoder(encoder(**changes))


def test_a_decoder_whose_width_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="decoder_dim=20, decoder_num_heads=3"):
        MaskedAutoencoder(encoder(), decoder_dim=20, decoder_num_heads=3)


def test_it_learns_a_clip():
    model = autoencoder(joint_attention="fibottention").train()
    video = clips(1)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(80):
        loss = MaskedPixels(model, 0.7)(model, video, None, {}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_recomputation_gives_the_same_gradients():
    plain, recomputing = autoencoder(), autoencoder(gradient_checkpointing=True)
    recomputing.load_state_dict(plain.state_dict())
    video, places = clips(), draw_visible(2, 15, 0.7)
    for model in (plain, recomputing):
        model.train()(video, places).backward()
    for one, two in zip(plain.parameters(), recomputing.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


def test_tokens_are_taken_clip_by_clip():
    x = torch.randn(2, 5, 3)
    assert torch.equal(take(x, torch.tensor([[0, 4], [2, 3]])), torch.stack((x[0, [0, 4]], x[1, [2, 3]])))
