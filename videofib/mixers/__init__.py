"""Ways to mix tokens, one file each: attention over all pairs, Fibottention, and what is compared with them.

``README.md`` is their table. ``mixer`` says what a mixer is; ``MIXERS`` names each.
"""

from videofib.mixers.build import MixerChoice
from videofib.mixers.mixer import Grid, LayerSpec, Mixer, check_name
from videofib.mixers.table import MIXERS

__all__ = ["MIXERS", "Grid", "LayerSpec", "Mixer", "MixerChoice", "check_name"]
