"""Orders of videos: the properties of each, and that they are divided evenly over processes."""

from collections import Counter

import pytest

from videofib.data.samplers import (
    EpochSampler,
    EvalSampler,
    class_balanced,
    length_bucketed,
    shard_by_shard,
    shuffled,
)

LABELS = [0] * 50 + [1] * 7 + [2] * 3
LENGTHS = [(37 * i) % 101 for i in range(60)]
SHARDS = [f"{i // 10}.tar" for i in range(60)]
ORDERS = {
    "shuffled": shuffled(60, 3),
    "class_balanced": class_balanced(LABELS, 3),
    "length_bucketed": length_bucketed(LENGTHS, 4, 3),
    "shard_by_shard": shard_by_shard(SHARDS, 2, 3),
}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_divide_each_batch_and_resume_at_any_step(name, world_size):
    samplers = [EpochSampler(ORDERS[name], 8, rank=rank, world_size=world_size) for rank in range(world_size)]
    single = EpochSampler(ORDERS[name], 8)
    local = 8 // world_size
    for epoch in (0, 5):
        single.set_epoch(epoch)
        for sampler in samplers:
            sampler.set_epoch(epoch)
        parts = [list(sampler) for sampler in samplers]
        assert {len(part) for part in parts} == {len(samplers[0])} == {56 // world_size}
        for step in range(7):
            batch = [key for part in parts for key in part[step * local : (step + 1) * local]]
            assert sorted(batch) == sorted(list(single)[step * 8 : (step + 1) * 8])
        for step in (1, 6, 7):
            for sampler, part in zip(samplers, parts, strict=True):
                sampler.set_epoch(epoch, step)
                assert list(sampler) == part[step * local :]
                assert len(sampler) == len(part)
        assert len(set(single)) == 56  # a video that repeats is another sample
        assert {key[0] for key in single} == {epoch}


@pytest.mark.parametrize("name", ORDERS)
def test_orders_differ_by_epoch_and_seed_alone(name):
    order = ORDERS[name]
    assert order(2) == order(2) != order(3)
    assert len(order(2)) == 60
    if name != "class_balanced":
        assert sorted(order(2)) == list(range(60))
    other_seed = {
        "shuffled": shuffled(60, 4),
        "class_balanced": class_balanced(LABELS, 4),
        "length_bucketed": length_bucketed(LENGTHS, 4, 4),
        "shard_by_shard": shard_by_shard(SHARDS, 2, 4),
    }[name]
    assert other_seed(2) != order(2)


def test_every_video_is_used_equally_often_over_many_epochs():
    sampler, seen = EpochSampler(shuffled(11, 0), 4), Counter()
    for epoch in range(200):
        sampler.set_epoch(epoch)
        seen.update(index for _, index, _ in sampler)
    assert set(seen) == set(range(11))
    assert min(seen.values()) > 110  # 145 expected


def test_classes_occur_equally_often_and_so_do_the_videos_of_a_class():
    for epoch in range(5):
        order = ORDERS["class_balanced"](epoch)
        assert Counter(LABELS[index] for index in order) == {0: 20, 1: 20, 2: 20}
        assert max(Counter(order).values()) == 7  # 20 samples of three videos
        assert set(Counter(index for index in order if LABELS[index] == 1).values()) == {2, 3}
    uneven = Counter(LABELS[index] for index in class_balanced(LABELS[:-1], 0)(0))
    assert sorted(uneven.values()) == [19, 20, 20]


def test_the_order_of_classes_is_drawn_anew_in_each_round():
    order = [LABELS[index] for index in ORDERS["class_balanced"](0)]
    rounds = {tuple(order[start : start + 3]) for start in range(0, len(order), 3)}
    assert all(sorted(classes) == [0, 1, 2] for classes in rounds)
    assert len(rounds) > 3  # of six


def test_a_batch_of_the_bucketed_order_has_videos_of_one_length():
    order = ORDERS["length_bucketed"](1)
    spread = [max(part) - min(part) for part in lengths_of_batches(order)]
    mixed = [max(part) - min(part) for part in lengths_of_batches(ORDERS["shuffled"](1))]
    assert sum(spread) / len(spread) < 10 < 40 < sum(mixed) / len(mixed)
    firsts = [part[0] for part in lengths_of_batches(order)]
    assert firsts != sorted(firsts)  # but batches come in any order
    short = length_bucketed(LENGTHS[:58], 4, 3)(0)
    assert len(EpochSampler(length_bucketed(LENGTHS[:58], 4, 3), 4)) == 56
    assert all(max(part) - min(part) < 20 for part in lengths_of_batches(short)[:14])


def test_lengths_are_sorted_among_64_batches():
    drawn = shuffled(300, 5)(2)
    parts = [sorted(drawn[:192]), sorted(drawn[192:])]  # a video's length is its index
    expected = {tuple(part[start : start + 3]) for part in parts for start in range(0, len(part), 3)}
    order = length_bucketed(range(300), 3, 5)(2)
    assert {tuple(order[start : start + 3]) for start in range(0, 300, 3)} == expected


def test_a_new_sampler_stands_at_the_first_batch_of_the_first_epoch():
    fresh, first = (EpochSampler(shuffled(12, 3), 4) for _ in range(2))
    first.set_epoch(0)
    assert list(fresh) == list(first)
    assert len(list(fresh)) == 12


def test_a_single_process_reads_all_videos():
    assert list(EvalSampler(5)) == [0, 1, 2, 3, 4]
    sampler = EpochSampler(shuffled(8, 3), 4)
    assert sorted(index for _, index, _ in sampler) == list(range(8))
    assert len(sampler) == 8


def lengths_of_batches(order):
    return [[LENGTHS[index] for index in order[start : start + 4]] for start in range(0, len(order), 4)]


def test_few_shards_are_open_at_a_time():
    order = ORDERS["shard_by_shard"](0)
    parts = [[SHARDS[index] for index in order[start : start + 20]] for start in (0, 20, 40)]
    assert [len(set(part)) for part in parts] == [2, 2, 2]
    assert any(part != sorted(part) for part in parts)  # and their videos are mixed


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_divides_all_videos_or_the_remaining_ones_over_the_processes(world_size):
    samplers = [EvalSampler(7, rank=rank, world_size=world_size) for rank in range(world_size)]
    for expected in ([0, 1, 2, 3, 4, 5, 6], [1, 2, 6]):
        parts = [list(sampler) for sampler in samplers]
        assert parts == [expected[rank::world_size] for rank in range(world_size)]
        assert [len(sampler) for sampler in samplers] == [len(part) for part in parts]
        for sampler in samplers:
            sampler.restrict([1, 2, 6])
