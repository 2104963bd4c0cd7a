"""Lowering the sampling rate by a whole factor, without aliasing, for whole batches on any device.

The filter is packing's (``lamae.sharding.lowpass``), record edges continued by their last sample: a record comes out
the same wherever it was resampled.
"""

import numpy as np
import torch
import torch.nn.functional as F

from lamae.sharding.lowpass import low_pass

# Output samples per row of the matrix product. A wider block reads less twice and multiplies more zeros; on CPUs
# 20 to 50 measure the same, and a direct strided convolution three to seven times slower.
BLOCK = 25


class Decimator:
    """``[..., T]`` at the source rate to ``[..., ceil(T / factor)]`` float32.

    Written as a product with a banded matrix over overlapping blocks: full float32 precision on every device
    (convolutions may fall back to TF32), and every output sees the same weights.
    """

    def __init__(self, factor: int) -> None:
        if factor < 1:
            raise ValueError(f"factor must be at least 1, not {factor}")
        self.factor = factor
        taps = low_pass(1, factor) if factor > 1 else np.ones(1)
        self.num_taps, self.half_width = len(taps), len(taps) // 2
        block_taps = np.zeros((factor * (BLOCK - 1) + self.num_taps, BLOCK))
        for column in range(BLOCK):
            block_taps[factor * column : factor * column + self.num_taps, column] = taps
        self._block_taps = torch.from_numpy(block_taps).float()

    def num_outputs(self, num_samples: int) -> int:
        return -(-num_samples // self.factor)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` of any real dtype ``[..., T]``, filtered and decimated, float32."""
        if self.factor == 1:
            return x.float()
        *batch_shape, num_samples = x.shape
        num_outputs = self.num_outputs(num_samples)
        num_blocks = -(-num_outputs // BLOCK)
        rows = x.reshape(-1, num_samples)
        # The last block may reach past the end; what it computes there is cut off below.
        length = self.factor * BLOCK * (num_blocks - 1) + len(self._block_taps)
        padded = rows.new_empty(len(rows), max(length, self.half_width + num_samples))
        padded[:, : self.half_width] = rows[:, :1]
        padded[:, self.half_width : self.half_width + num_samples] = rows
        padded[:, self.half_width + num_samples :] = rows[:, -1:]
        blocks = padded.as_strided(
            (len(rows), num_blocks, len(self._block_taps)), (padded.stride(0), self.factor * BLOCK, 1)
        )
        if self._block_taps.device != x.device:
            self._block_taps = self._block_taps.to(x.device)
        with torch.autocast(x.device.type, enabled=False):
            y = blocks.float().reshape(-1, len(self._block_taps)) @ self._block_taps
        return y.view(len(rows), num_blocks * BLOCK)[:, :num_outputs].reshape(*batch_shape, num_outputs)

    def touches(self, flag: torch.Tensor) -> torch.Tensor:
        """bool ``[..., T]`` to bool ``[..., ceil(T / factor)]``: outputs whose filter support holds a set flag."""
        if self.factor == 1:
            return flag
        rows = flag.reshape(-1, 1, flag.shape[-1]).float()
        any_set = F.max_pool1d(rows, self.num_taps, stride=self.factor, padding=self.half_width) > 0
        return any_set.reshape(*flag.shape[:-1], -1)
