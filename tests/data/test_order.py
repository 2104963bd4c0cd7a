"""The global order: every record once per epoch, the same stream however it is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamae.data.order import GlobalOrder, MixedOrder

NUM_RECORDS = st.sampled_from([1, 2, 3, 7, 31, 64, 97]) | st.integers(1, 300)
SEEDS = st.integers(0, 2**63)


@st.composite
def order_arguments(draw) -> dict:
    num_records = draw(NUM_RECORDS)
    mode = draw(st.sampled_from(["global", "window"]))
    shards = np.sort(np.array(draw(st.lists(st.integers(0, 40), min_size=num_records, max_size=num_records))))
    return {
        "num_records": num_records,
        "seed": draw(SEEDS),
        "mode": mode,
        "shards": shards,
        "window_shards": draw(st.integers(1, 50)),
    }


@settings(deadline=None)
@given(order_arguments(), st.integers(0, 3))
def test_every_record_comes_exactly_once_per_epoch(arguments, epoch):
    order = GlobalOrder(**arguments)
    num_records = order.num_records
    epochs, index = order.take(epoch * num_records, (epoch + 2) * num_records)
    assert epochs.dtype == index.dtype == np.int64
    np.testing.assert_array_equal(epochs, np.repeat([epoch, epoch + 1], num_records))
    for part in (index[:num_records], index[num_records:]):
        np.testing.assert_array_equal(np.sort(part), np.arange(num_records))


@settings(deadline=None)
@given(order_arguments(), st.integers(0, 400), st.lists(st.integers(0, 150), max_size=6))
def test_the_stream_does_not_depend_on_how_it_is_cut(arguments, start, lengths):
    whole = np.stack(GlobalOrder(**arguments).take(start, start + sum(lengths)))
    order = GlobalOrder(**arguments)
    parts = [np.zeros((2, 0), np.int64)]
    position = start
    for length in lengths:
        parts.append(np.stack(order.take(position, position + length)))
        position += length
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_epochs_and_seeds_differ():
    order = GlobalOrder(1000, seed=0)
    draws = [order.permutation(0), order.permutation(1), GlobalOrder(1000, seed=1).permutation(0), np.arange(1000)]
    for i, one in enumerate(draws):
        for other in draws[:i]:
            assert (one == other).mean() < 0.02


def test_the_order_is_frozen():
    """Changing these numbers changes the order of every run and breaks resuming: say so in CHANGELOG.md."""
    assert GlobalOrder(10, seed=0).take(0, 12)[1].tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7, 5, 3]
    windowed = GlobalOrder(10, seed=7, mode="window", shards=np.arange(10) // 2, window_shards=2)
    assert windowed.take(0, 12)[1].tolist() == [4, 3, 2, 5, 8, 1, 9, 0, 6, 7, 3, 2]


def test_windows_keep_reads_together_and_still_shuffle():
    shards = np.repeat(np.arange(20), 50)
    order = GlobalOrder(1000, seed=3, mode="window", shards=shards, window_shards=4)
    windows = shards[order.permutation(0)].reshape(5, 200)
    seen = [set(window.tolist()) for window in windows]
    assert all(len(shards_of_window) == 4 for shards_of_window in seen)
    assert set.union(*seen) == set(range(20))
    assert seen != [set(range(4 * window, 4 * window + 4)) for window in range(5)]
    # Within a window the records of its shards mix.
    assert all(len(set(window[:40].tolist())) == 4 for window in windows)


def test_the_next_window_ends_where_its_shards_do():
    shards = np.repeat(np.arange(7), [5, 1, 9, 2, 2, 4, 7])  # three shards to a window: 3, 3 and 1
    order = GlobalOrder(30, seed=3, mode="window", shards=shards, window_shards=3)
    edges = [0]
    for epoch in range(3):
        place_of_shard = [np.flatnonzero(shards[order.permutation(epoch)] == shard).max() for shard in range(7)]
        ends = np.sort(place_of_shard)
        edges += [30 * epoch + 1 + int(ends[last]) for last in (2, 5, 6)]
    assert edges[3::3] == [30, 60, 90]
    for position in range(60):
        window = max(index for index, edge in enumerate(edges) if edge <= position)
        assert order.end_of_next_window(position) == edges[window + 2]


@pytest.mark.parametrize("mode", ["global", "window"])
def test_places_are_uniform(mode):
    """Over many epochs a record's mean place is the middle: each place is as likely for each record."""
    num_records, num_epochs = 30, 600
    order = GlobalOrder(num_records, seed=11, mode=mode, shards=np.arange(num_records) // 6, window_shards=1)
    places = np.stack([np.argsort(order.permutation(epoch)) for epoch in range(num_epochs)])
    standard_error = np.sqrt((num_records**2 - 1) / 12 / num_epochs)
    assert np.abs(places.mean(0) - (num_records - 1) / 2).max() < 4.5 * standard_error


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_records": 0}, "num_records"),
        ({"num_records": 5, "mode": "sorted"}, "mode"),
        ({"num_records": 5, "mode": "window"}, "shard"),
        ({"num_records": 5, "window_shards": 0}, "window_shards"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        GlobalOrder(seed=0, **arguments)


@st.composite
def mixed_arguments(draw) -> dict:
    counts = draw(st.lists(st.integers(1, 60), min_size=2, max_size=3))
    shards = [np.sort(np.array(draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)))) for n in counts]
    return {
        "counts": counts,
        "weights": draw(
            st.lists(st.sampled_from([0.01, 0.5, 1.0, 2.0, 3.7]), min_size=len(counts), max_size=len(counts))
        ),
        "seed": draw(SEEDS),
        "mode": draw(st.sampled_from(["global", "window"])),
        "shards": shards,
        "window_shards": draw(st.integers(1, 4)),
    }


@settings(deadline=None)
@given(mixed_arguments(), st.integers(0, 3))
def test_an_epoch_of_a_mixture_holds_exact_shares_and_each_set_is_gone_through_before_it_repeats(arguments, epoch):
    order = MixedOrder(**arguments)
    assert order.shares == [
        max(1, round(w * n)) for w, n in zip(arguments["weights"], arguments["counts"], strict=True)
    ]
    length = sum(order.shares)
    first = np.cumsum([0, *arguments["counts"]])
    set_of = np.searchsorted(first, order.take(epoch * length, (epoch + 1) * length)[1], side="right") - 1
    np.testing.assert_array_equal(np.bincount(set_of, minlength=len(order.shares)), order.shares)
    epochs, index = order.take(0, (epoch + 1) * length)
    for place, count in enumerate(arguments["counts"]):
        mine = (index >= first[place]) & (index < first[place + 1])
        np.testing.assert_array_equal(epochs[mine], np.arange(mine.sum()) // count)
        whole = index[mine][: mine.sum() // count * count].reshape(-1, count)
        np.testing.assert_array_equal(
            np.sort(whole, axis=1), np.broadcast_to(np.arange(*first[place : place + 2]), whole.shape)
        )


@settings(deadline=None)
@given(mixed_arguments(), st.integers(0, 400), st.lists(st.integers(0, 150), max_size=6))
def test_a_mixture_does_not_depend_on_how_it_is_cut(arguments, start, lengths):
    whole = np.stack(MixedOrder(**arguments).take(start, start + sum(lengths)))
    order, position, parts = MixedOrder(**arguments), start, [np.zeros((2, 0), np.int64)]
    for length in lengths:
        parts.append(np.stack(order.take(position, position + length)))
        position += length
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_sets_of_one_size_are_not_shuffled_alike():
    index = MixedOrder([500, 500], weights=[1.0, 1.0], seed=0).take(0, 1000)[1]
    assert (index[index < 500] == index[index >= 500] - 500).mean() < 0.02
    assert 200 < (index[:500] < 500).sum() < 300  # and they are mixed
