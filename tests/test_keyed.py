"""Numbers keyed by record: the same in any batch, unrelated between keys, of the right distribution."""

import pytest
import torch

from lamae import keyed


def keys(num=2000, *, seed=3, epoch=0, purpose=1):
    row = torch.arange(num)
    return keyed.record_keys(seed, torch.full_like(row, epoch), row, purposes=[purpose])[0]


def test_draws_do_not_depend_on_the_batch():
    whole = keyed.uniform(keys(50), 3, 7)
    row = torch.tensor([41, 7])
    part = keyed.uniform(keyed.record_keys(3, torch.zeros_like(row), row, purposes=[1])[0], 3, 7)
    assert torch.equal(part, whole[row])


def test_every_part_of_the_key_matters():
    base = keyed.uniform(keys(), 4)
    for other in (keys(seed=4), keys(epoch=1), keys(purpose=2), keys().flip(0)):
        assert (keyed.uniform(other, 4) == base).float().mean() < 1e-3
    assert not torch.equal(keys(seed=4), keys(epoch=1))  # nor do two make up for each other
    assert not torch.equal(keys(seed=4, epoch=1), keys(seed=3, epoch=2))
    # Neighbouring keys are unrelated: no correlation between records, epochs or purposes.
    for other in (keys(seed=4), keys(epoch=1), keys(purpose=2), keys().roll(1)):
        pair = torch.stack([base.flatten(), keyed.uniform(other, 4).flatten()])
        assert torch.corrcoef(pair)[0, 1].abs() < 0.05


def test_the_distribution_is_uniform():
    uniform = keyed.uniform(keys(), 50)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.005
    histogram = torch.histc(uniform, bins=20, min=0, max=1) / uniform.numel()
    assert (histogram - 0.05).abs().max() < 0.003


@pytest.mark.parametrize("bound", [1, 2, 7, 4097, 2**31])
def test_whole_numbers_stay_below_their_bound_and_fill_the_range(bound, monkeypatch):
    drawn = keyed.below(keys(), bound)
    assert drawn.min() >= 0
    assert drawn.max() < bound
    assert abs(drawn.double().mean() / max(bound - 1, 1) - (0.5 if bound > 1 else 0)) < 0.03
    monkeypatch.setattr(keyed, "bits", lambda key_B, *shape: torch.full((len(key_B), *shape), -1))
    assert keyed.below(keys(1), bound).item() == bound - 1


def test_the_bits_are_those_of_splitmix64():
    """The published first outputs for seed 0. Other bits would change crops and augmentations of every run."""
    bits = (keyed.uniform(torch.zeros(1, dtype=torch.int64), 3) * 2**24).long()
    assert bits.tolist() == [[0xE220A8, 0x6E789E, 0x06C45D]]


def test_the_keys_are_frozen():
    """Changing these changes crops and augmentations of every run: say so in CHANGELOG.md."""
    assert keys(3, seed=1, epoch=2, purpose=3).tolist() == [
        -7240364938421992330,
        1821206600734883177,
        -8843606807448465706,
    ]
