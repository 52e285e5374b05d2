"""The masks of the paper's comparison (ak811/sparse-attention-benchmarks), one class token in front of N patches.

A mask's name holds its numbers: ``longformer_w2`` is a window of 2 on either side. What torch's generator drew is not
drawn again: of ``bigbird`` the band and the keys of each query are compared, of ``random`` the density.
"""

import re

import numpy as np
import torch

from videofib.attention import Pattern, Support, patterns

SYSTEMS = ("baseline_masks",)
NUMBER = r"(\d+)"


def check(case):
    """Every mask (H, P+N, P+N) is that of our support or pattern."""
    heads, n, p = (case.config[name] for name in ("H", "N", "P"))
    for name, made in case.config["masks"].items():
        shape = tuple(case.config["shape"])
        mask = np.unpackbits(case.arrays[f"__{name}"], count=int(np.prod(shape))).reshape(shape).astype(bool)
        mask = torch.from_numpy(mask)
        if made["offset_table"]:
            rows = tuple(tuple(row) for row in made["offsets"])
            assert torch.equal(Support(rows, n, p).to_mask(), mask), name
        for pattern, compare in KINDS.items():
            if found := re.fullmatch(pattern, name):
                compare(mask, case, MakeFor(heads, n, p), *found.groups())
                break
        else:
            raise AssertionError(f"no pattern of ours is compared with {name}")


class MakeFor:
    """Calls a constructor of supports or patterns for the file's heads and tokens."""

    def __init__(self, heads, n, p):
        self.heads, self.n, self.p = heads, n, p

    def __call__(self, make, **options):
        return make(self.heads, self.n, num_prefix_tokens=self.p, **options)


def longformer(mask, case, make, width, noself):
    same(mask, make(Support.window, radius=int(width), include_self=not noself))


def longformer_per_head_dilation(mask, case, make):
    rows = case.config["masks"]["longformer_per_head_dilation"]["offsets"]
    dilations = [row[1] for row in rows]
    same(
        mask,
        Support.dilated(make.n, radius=len(rows[0]) - 1, dilations=dilations, num_prefix_tokens=make.p),
    )


def dna(mask, case, make, width, dilation):
    same(mask, make(Support.window, radius=int(width), dilation=int(dilation), include_self=False))


def sparse_local(mask, case, make, width):
    same(mask, make(Support.window, radius=int(width)))


def sparse_strided(mask, case, make, stride):
    same(mask, make(Support.strided, stride=int(stride)))


def sparse_fixed(mask, case, make, length, summary, distinct, symmetric):
    options = dict(distinct_heads=bool(distinct), symmetric=bool(symmetric))
    same(mask, make(patterns.sparse_fixed, length=int(length), num_summary=int(summary), **options))


def bigbird(mask, case, make, radius, num_random, num_global):
    """Band, global tokens (its class token counts as one) and the number of keys; which were drawn is not compared."""
    radius, num_random, num_global = int(radius), int(num_random), int(num_global) - make.p
    found = make(patterns.bigbird, radius=radius, num_random=num_random, num_global=num_global)
    fixed = make(patterns.bigbird, radius=radius, num_random=0, num_global=num_global).to_mask()
    assert (mask | ~fixed).all()
    assert torch.equal(found.to_mask().sum(2), mask.sum(2))


def random(mask, case, make, keep):
    """The density, within four standard deviations; which pairs were drawn is not compared."""
    keep = int(keep) / 100
    found = make(patterns.random, keep=keep).density()
    deviation = (keep / (make.heads * make.n**2)) ** 0.5
    assert abs(density(mask, make) - keep) < 4 * deviation
    assert abs(found - keep) < 4 * deviation


def topk(mask, case, make, k):
    """The k largest logits of each row of the input, and the class token's row and column."""
    expected = torch.zeros_like(mask).scatter(2, case.inputs["input"][0].topk(int(k)).indices, True)
    expected[:, : make.p] = True
    expected[:, :, : make.p] = True
    assert torch.equal(mask, expected)


def cross_diagonal(mask, case, make):
    same(mask, make(patterns.cross_diagonal))


def density(mask, make):
    return float(mask[:, make.p :, make.p :].float().mean())


def same(mask, found: Support | Pattern):
    assert torch.equal(found.to_mask(), mask), found


KINDS = {
    f"longformer_w{NUMBER}(_noself)?": longformer,
    "longformer_per_head_dilation": longformer_per_head_dilation,
    f"dna_w{NUMBER}_d{NUMBER}": dna,
    f"sparse_local_{NUMBER}": sparse_local,
    f"sparse_strided_{NUMBER}": sparse_strided,
    f"sparse_fixed_{NUMBER}_{NUMBER}(_distinct)?(_symmetric)?": sparse_fixed,
    f"bigbird_w{NUMBER}_r{NUMBER}_g{NUMBER}": bigbird,
    f"random_keep{NUMBER}": random,
    f"topk_{NUMBER}": topk,
    "fibottention_crossdiag": cross_diagonal,
}
