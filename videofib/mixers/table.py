"""``MIXERS``: every mixer under the name that models and configs use."""

from videofib.mixers import (
    afno,
    bixt,
    dape,
    dense_attention,
    diffuser,
    efficient,
    fcvit,
    fibottention,
    linformer,
    lisa,
    lit,
    none,
    nystrom,
    performer,
    rsa,
    semanir,
    shunted,
    topk,
    tost,
    xcit,
)
from videofib.mixers import dense_attention, diagonals, fibottention
from videofib.mixers import dense_attention, diagonals, fibottention, grid_attention, scattered_attention
from videofib.mixers.mixer import Mixer

NONE = "none"  # of blocks that have no mixer

MIXERS: dict[str, Mixer] = {
    NONE: none.MIXER,
    "dense": dense_attention.MIXER,
    "fibottention": fibottention.MIXER,
    "afno": afno.MIXER,
    "bixt": bixt.MIXER,
    "dape": dape.MIXER,
    "diffuser": diffuser.MIXER,
    "efficient": efficient.MIXER,
    "fcvit": fcvit.MIXER,
    "linformer": linformer.MIXER,
    "lisa": lisa.MIXER,  # a reconstruction
    "lit": lit.MIXER,
    "nystrom": nystrom.MIXER,
    "performer": performer.MIXER,
    "rsa": rsa.MIXER,
    "semanir": semanir.MIXER,
    "shunted": shunted.MIXER,
    "topk": topk.MIXER,
    "tost": tost.MIXER,
    "xcit": xcit.MIXER,
    "window": diagonals.WINDOW,
    "dilated": diagonals.DILATED,
    "strided": diagonals.STRIDED,
    "shared": diagonals.SHARED,
    "axial_time": grid_attention.AXIAL_TIME,
    "grid_window": grid_attention.GRID_WINDOW,
    "natten": grid_attention.NATTEN,
    "random": scattered_attention.RANDOM,
    "bigbird": scattered_attention.BIGBIRD,
    "sparse_fixed": scattered_attention.SPARSE_FIXED,
    "cross_diagonal": scattered_attention.CROSS_DIAGONAL,
}
