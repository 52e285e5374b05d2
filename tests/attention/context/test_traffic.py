"""What each mode is said to send is what it sends, and ``auto`` takes the mode that sends least."""

import dataclasses

import pytest
import torch
import torch.distributed as dist

from videofib.attention import ContextGroup, Support, context_parallel_attention
from videofib.attention.context.traffic import TRAFFIC, choose_mode
from videofib.distributed.launch import launch

SUPPORTS = {
    "heads": [Support.fibottention(8, 61), Support.dense(9, 30, num_prefix_tokens=0)],
    "ring": [Support.dense(3, 29), Support.dense(6, 28, num_prefix_tokens=5)],
    "halo": [
        Support.fibottention(6, 61),
        Support.fibottention(3, 80, num_prefix_tokens=0),
        Support.fibottention(5, 11, num_prefix_tokens=5),
        Support.window(2, 40, radius=2),
    ],
}


@dataclasses.dataclass
class Sent:
    """Bytes that this process has sent to others."""

    bytes: int = 0

    def take(self):
        taken, self.bytes = self.bytes, 0
        return taken


def counted(monkeypatch):
    """Count what is handed to torch.distributed, for other processes than this one."""
    sent, exchange, pass_on = Sent(), dist.all_to_all_single, dist.batch_isend_irecv

    def all_to_all_single(output, input, output_split_sizes, input_split_sizes, group=None):
        to_others = sum(input_split_sizes) - input_split_sizes[dist.get_rank()]
        sent.bytes += to_others * input.element_size()
        return exchange(output, input, output_split_sizes, input_split_sizes, group=group)

    def batch_isend_irecv(operations):
        sent.bytes += sum(op.tensor.numel() * op.tensor.element_size() for op in operations if op.op is dist.isend)
        return pass_on(operations)

    def refuse(*args, **kwargs):
        raise AssertionError("bytes that are not counted")

    monkeypatch.setattr(dist, "all_to_all_single", all_to_all_single)
    monkeypatch.setattr(dist, "batch_isend_irecv", batch_isend_irecv)
    for name in ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "send", "reduce_scatter"):
        monkeypatch.setattr(dist, name, refuse)
    return sent


def compare_bytes():
    with pytest.MonkeyPatch.context() as patch:
        sent = counted(patch)
        rank, size = dist.get_rank(), dist.get_world_size()
        for mode, supports in SUPPORTS.items():
            for support in supports:
                for masking, dtype in (
                    ("exclude", torch.float32),
                    ("zero_logit", torch.float32),
                    ("exclude", torch.bfloat16),
                    ("zero_logit", torch.float64),
                ):
                    expected = TRAFFIC[mode](
                        support,
                        size,
                        head_dim=6,
                        batch=2,
                        itemsize=torch.empty(0, dtype=dtype).itemsize,
                        masking=masking,
                    )
                    tokens = ContextGroup(mode=mode).slice(support.num_prefix_tokens + support.num_tokens)
                    shape = 2, support.num_heads, len(tokens.positions), 6
                    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in "qkv")
                    out = context_parallel_attention(q, k, v, support, tokens, masking=masking, backend="gather")
                    forward = sent.take()
                    out.sum().backward()
                    found = forward, sent.take()
                    assert found == (expected.forward[rank], expected.backward[rank]), (mode, support, masking, dtype)


@pytest.mark.parametrize("processes", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 8))])
def test_bytes_sent_are_those_computed(processes):
    launch(compare_bytes, processes=processes)


def test_a_single_process_sends_nothing():
    for mode, supports in SUPPORTS.items():
        traffic = TRAFFIC[mode](supports[0], 1, head_dim=64)
        assert traffic.forward == traffic.backward == (0,)


def test_auto_sends_least():
    sparse, dense = Support.fibottention(12, 1568), Support.dense(12, 1568)
    options = {"head_dim": 64}
    for support, other in ((sparse, "halo"), (dense, "ring")):
        for processes in (2, 3, 4, 8, 12):
            chosen = choose_mode(support, processes, **options)
            most = {mode: TRAFFIC[mode](support, processes, **options).most for mode in ("heads", other)}
            assert most[chosen] == min(most.values())
    assert [choose_mode(sparse, r, **options) for r in (2, 4, 12)] == ["halo", "halo", "heads"]
    assert [choose_mode(dense, r, **options) for r in (2, 4, 12)] == ["heads"] * 3
    assert choose_mode(sparse, 2, head_dim=64, fast_halo=False) == "heads"


def test_auto_serves_more_processes_than_heads():
    for fast in (True, False):
        assert choose_mode(Support.dense(6, 100), 8, head_dim=64, fast_halo=fast) == "ring"
        assert choose_mode(Support.fibottention(6, 100), 8, head_dim=64, fast_halo=fast) == "halo"


def test_rows_by_hand():
    """Four tokens, two processes, one head with offset 1: each needs one row of the other, keys and values."""
    support = Support(((1,),), 4, 0)
    traffic = TRAFFIC["halo"](support, 2, head_dim=8, batch=3, itemsize=4)
    assert traffic.forward == traffic.backward == (2 * 3 * 8 * 4,) * 2
    ring = TRAFFIC["ring"](Support.dense(1, 4, num_prefix_tokens=0), 2, head_dim=8, batch=3, itemsize=2)
    assert ring.forward == (2 * 2 * 3 * 8 * 2,) * 2
    assert ring.backward == (2 * 2 * 3 * 8 * (2 + 4),) * 2  # gradients of keys and values in 32 bits
