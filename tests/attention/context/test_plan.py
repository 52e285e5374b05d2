"""Which rows processes exchange: exactly those that the mask says."""

import pytest
import torch

from videofib.attention import Support
from videofib.attention.context.group import token_edges
from videofib.attention.context.plan import halo_plan, halo_rows, needed_rows

SUPPORTS = [
    Support.fibottention(3, 61),
    Support.fibottention(4, 33, variant="modified", num_prefix_tokens=5),
    Support.fibottention(4, 7, num_prefix_tokens=0),
    Support.fibottention(5, 6, num_prefix_tokens=5),
    Support(((), (0, 3), (2, 50), (8,)), 9, 1),
    Support.strided(2, 40, stride=7, radius=1),
]


@pytest.mark.parametrize("support", SUPPORTS, ids=str)
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_rows_are_those_of_the_mask(support, processes):
    p, heads = support.num_prefix_tokens, range(support.num_heads)
    edges = token_edges(p + support.num_tokens, processes)
    mask, cpu = support.to_mask(), torch.device("cpu")
    for rank in range(processes):
        start, stop = edges[rank], edges[rank + 1]
        plan = halo_plan(support, processes, rank, cpu)
        needs = needed_rows(support, (start, stop))
        for head in heads:
            queries = mask[head, max(start, p) : stop]
            seen = queries.any(0).nonzero().flatten().tolist()
            assert [x for a, b in needs[head] for x in range(a, b)] == seen
            assert plan.pairs.edges[head + 1] - plan.pairs.edges[head] == len(seen)
            found = torch.zeros_like(queries)
            for s in plan.pairs.segments[head]:
                for i in range(s.length):
                    assert not found[s.query + i, seen[s.key + i]]
                    found[s.query + i, seen[s.key + i]] = True
            found[:, :p] = True
            assert torch.equal(found, queries)
            assert torch.equal(plan.pairs.counts[head], queries.sum(1))


@pytest.mark.parametrize("support", SUPPORTS, ids=str)
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_what_one_sends_another_receives(support, processes):
    """Each of the M rows of a process comes from one other process, the one that has its token."""
    edges = token_edges(support.num_prefix_tokens + support.num_tokens, processes)
    plans = [halo_plan(support, processes, rank, torch.device("cpu")) for rank in range(processes)]
    for receiver, plan in enumerate(plans):
        rows = torch.full((plan.pairs.edges[-1],), -1)
        for sender, places in enumerate(plan.received):
            heads, tokens = plans[sender].sent[receiver]
            assert bool((rows[places] == -1).all())
            rows[places] = heads * 1000 + tokens + edges[sender]
            if sender != receiver:
                assert halo_rows(support, processes)[sender][receiver] == len(places)
        needs = needed_rows(support, (edges[receiver], edges[receiver + 1]))
        assert rows.tolist() == [
            head * 1000 + x for head, intervals in enumerate(needs) for a, b in intervals for x in range(a, b)
        ]


def test_by_hand():
    """Patches 4 to 7 of 12, offsets 1 and 6: a neighbour on either side, and six away."""
    support = Support(((1, 6),), 12, 0)
    assert needed_rows(support, (4, 8)) == [[(0, 2), (3, 9), (10, 12)]]
    assert halo_rows(support, 3)[0] == (0, 3, 2)
