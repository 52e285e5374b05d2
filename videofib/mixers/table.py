"""``MIXERS``: every mixer under the name that models and configs use."""

from videofib.mixers import dense, fibottention
from videofib.mixers.mixer import Mixer

MIXERS: dict[str, Mixer] = {
    "dense": dense.MIXER,
    "fibottention": fibottention.MIXER,
}
