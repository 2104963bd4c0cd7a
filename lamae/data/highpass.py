"""A zero-phase high-pass against baseline wander: what remains when a Gaussian running mean is taken away."""

import math

import torch

# The Gaussian is 3e-4 of its height at four standard deviations; beyond them the record is taken to be periodic.
_REACH_SIGMAS = 4


def highpass(x: torch.Tensor, valid: torch.Tensor, *, cutoff_hz: float, rate_hz: float) -> torch.Tensor:
    """``x`` (float32 ``[..., T]``) without what is slower than ``cutoff_hz`` (-3 dB there, no phase shift).

    Only samples where ``valid`` count, so gaps and record edges neither spread nor need filling; what is returned
    where not ``valid`` means nothing.
    """
    sigma_s = math.sqrt(-math.log(1 - 2**-0.5) / 2) / (math.pi * cutoff_hz)
    num_samples = x.shape[-1]
    length = num_samples + math.ceil(_REACH_SIGMAS * sigma_s * rate_hz)
    length = 1 << (length - 1).bit_length()
    frequency_hz = torch.fft.rfftfreq(length, 1 / rate_hz, device=x.device)
    response = torch.exp(-2 * (math.pi * sigma_s * frequency_hz) ** 2)

    def running_sum(values: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft(torch.fft.rfft(values, length) * response, length)[..., :num_samples]

    weight = valid.float()
    # A constant offset is taken off first: single precision would otherwise be spent on it.
    offset = (x * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp(min=1)
    centred = (x - offset) * weight
    return centred - running_sum(centred) / running_sum(weight).clamp(min=1e-6)
