"""Random numbers as a pure function of (seed, epoch, record, purpose), for whole batches at once.

Neither the batch a record is in, nor its place there, nor the device changes what is drawn: the bits come from
integer arithmetic (the finaliser of SplitMix64, Steele, Lea and Flood 2014, on a counter), which torch wraps around
identically everywhere.
"""

import math
from collections.abc import Sequence

import torch

# All purposes: two with one number would draw the same. A number never changes, as its draws would; 3 and 4 were those
# of options that are gone, and stay reserved.
CROP, LEAD_DROPOUT, MASKS = 1, 2, range(16, 21)

GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_FLOAT_BITS = 24


def signed(word: int) -> int:
    """The int64 with the same bits as ``word`` modulo 2^64."""
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >> 63 else word


def mix(words: torch.Tensor) -> torch.Tensor:
    """The finaliser: a bijection of int64 in which every input bit moves every output bit."""
    words = (words ^ shift_right(words, 30)) * signed(_MULTIPLIERS[0])
    words = (words ^ shift_right(words, 27)) * signed(_MULTIPLIERS[1])
    return words ^ shift_right(words, 31)


def mix_word(word: int) -> int:
    """``mix`` of one int64."""
    word &= (1 << 64) - 1
    word = (word ^ word >> 30) * _MULTIPLIERS[0] & (1 << 64) - 1
    word = (word ^ word >> 27) * _MULTIPLIERS[1] & (1 << 64) - 1
    return signed(word ^ word >> 31)


def shift_right(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift: torch's ``>>`` on int64 drags the sign along."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def record_keys(
    seed: int, epoch_B: torch.Tensor, row_B: torch.Tensor, *, purposes: Sequence[int]
) -> tuple[torch.Tensor, ...]:
    """int64 ``[B]`` for each purpose: one key per record. Different purposes give unrelated numbers.

    The parts are mixed in one after the other: by the sum of seed and epoch, epoch 1 of a seed would be epoch 0 of the
    next.
    """
    start = mix_word(seed + GOLDEN)
    # One by one, since a tensor of these words would have to be copied to the device, which waits for it.
    key_PB = torch.stack([epoch_B ^ mix_word((start ^ purpose) + GOLDEN) for purpose in purposes])
    key_PB = mix((mix(key_PB + signed(GOLDEN)) ^ row_B) + signed(GOLDEN))
    return key_PB.unbind()


def bits(key_B: torch.Tensor, *shape: int) -> torch.Tensor:
    """int64 ``[B, *shape]``: all 64 bits random, so half of them are negative."""
    counter = torch.arange(1, math.prod(shape) + 1, device=key_B.device) * signed(GOLDEN)
    return mix(key_B[:, None] + counter).view(len(key_B), *shape)


def uniform(key_B: torch.Tensor, *shape: int) -> torch.Tensor:
    """float32 ``[B, *shape]`` in [0, 1), a multiple of 2^-24."""
    return shift_right(bits(key_B, *shape), 64 - _FLOAT_BITS).float() * 2.0**-_FLOAT_BITS


def below(key_B: torch.Tensor, bound: int | torch.Tensor) -> torch.Tensor:
    """int64 ``[B]`` in 0..bound-1; bound, one or int64 ``[B]``, up to 2^31.

    Integers throughout: a rounded product could reach ``bound``.
    """
    return (shift_right(bits(key_B, 1)[:, 0], 32) * bound) >> 32
