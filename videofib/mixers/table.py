"""``MIXERS``: every mixer under the name that models and configs use."""

from videofib.mixers import dense_attention, fibottention
from videofib.mixers.mixer import Mixer

MIXERS: dict[str, Mixer] = {
    "dense": dense_attention.MIXER,
    "fibottention": fibottention.MIXER,
}
