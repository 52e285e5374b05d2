"""``MIXERS``: every mixer under the name that models and configs use."""

from videofib.mixers import dense_attention, fibottention, none
from videofib.mixers import dense_attention, fibottention, topk
from videofib.mixers import dense_attention, fibottention, rsa, topk
from videofib.mixers import dense_attention, fibottention, lisa, rsa, topk
from videofib.mixers import dape, dense_attention, fibottention, lisa, rsa, topk
from videofib.mixers import dense_attention, fibottention, shunted
from videofib.mixers import dense_attention, fibottention, lit, shunted
from videofib.mixers import dense_attention, fibottention, lit, semanir, shunted
from videofib.mixers import afno, dense_attention, fibottention
from videofib.mixers import afno, dense_attention, fcvit, fibottention
from videofib.mixers import bixt, dense_attention, fibottention
from videofib.mixers import bixt, dense_attention, diffuser, fibottention
from videofib.mixers import dense_attention, fibottention, tost, xcit
from videofib.mixers import dense_attention, fibottention, linformer
from videofib.mixers import dense_attention, efficient, fibottention, linformer
from videofib.mixers import dense_attention, efficient, fibottention, linformer, nystrom
from videofib.mixers import dense_attention, efficient, fibottention, linformer, nystrom, performer
from videofib.mixers.mixer import Mixer

NONE = "none"  # of blocks that have no mixer

MIXERS: dict[str, Mixer] = {
    NONE: none.MIXER,
    "bixt": bixt.MIXER,
    "dense": dense_attention.MIXER,
    "dape": dape.MIXER,
    "diffuser": diffuser.MIXER,
    "fibottention": fibottention.MIXER,
    "lisa": lisa.MIXER,  # a reconstruction
    "rsa": rsa.MIXER,
    "topk": topk.MIXER,
    "lit": lit.MIXER,
    "semanir": semanir.MIXER,
    "shunted": shunted.MIXER,
    "afno": afno.MIXER,
    "fcvit": fcvit.MIXER,
    "tost": tost.MIXER,
    "xcit": xcit.MIXER,
    "efficient": efficient.MIXER,
    "linformer": linformer.MIXER,
    "nystrom": nystrom.MIXER,
    "performer": performer.MIXER,
}
