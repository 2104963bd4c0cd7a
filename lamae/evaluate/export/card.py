"""The model card that goes with an exported model."""

from collections.abc import Mapping
from typing import Any

_CARD = """---
library_name: lamae
tags: [ecg, 12-lead-ecg, masked-autoencoder, self-supervised]
---

# LAMAE: a pretrained encoder for 12-lead ECG

{kind} model with {num_parameters:,} parameters (width {width}, depth {depth}), pretrained without labels by
reconstructing hidden leads and stretches of ECGs.

## Use

```python
import numpy as np
import lamae

model = lamae.load("path/to/this/directory")  # or "owner/name" on the Hugging Face hub
signal_mv = np.random.randn(12, {example_samples}) * 0.1  # [leads, samples], millivolt
embedding = model.embed(signal_mv, rate_hz={example_rate}, leads=["I", "II", "III", "aVR", "aVL", "aVF",
                                                       "V1", "V2", "V3", "V4", "V5", "V6"])
print(embedding.record.shape, embedding.lead_weights.round(2))
```

Any subset of the leads, in any order. NaN marks missing samples; leads that are zero or flat count as not recorded.
The sampling rate must be a whole multiple of {rate_hz} Hz. Input in millivolt, scaling "{scaling}"{scale}.

## Pretraining

- {samples_consumed:,} records seen in {step:,} steps, from {num_subjects:,} subjects
{sets}- {seconds:g} s at {rate_hz} Hz per record
- configuration hash {config_hash}; the whole configuration is in config.json

## Limits

- A research model, not a medical device: its output must not guide the care of a patient.
- It has seen the population, devices and filters of its pretraining data only.
- Evaluate on subjects that were not in pretraining. This export carries no ids, so nothing can check that for you.
"""


def model_card(content: Mapping[str, Any], *, num_parameters: int) -> str:
    """Markdown from the content of an export's config.json."""
    model, signal = content["model"], content["signal"]
    seconds = content["num_samples"] / signal["rate_hz"]
    is_global = signal["scaling"] == "global"
    return _CARD.format(
        kind={"lamae": "LAMAE", "independent": "Independent-lead"}.get(model["kind"], model["kind"]),
        num_parameters=num_parameters,
        width=model["width"],
        depth=model["depth"],
        example_samples=content["num_samples"],
        example_rate=signal["rate_hz"],
        rate_hz=signal["rate_hz"],
        scaling=signal["scaling"],
        scale=f" ({signal['scale_mv']:g} mV become 1)" if is_global else "",
        samples_consumed=content["samples_consumed"],
        step=content["step"],
        num_subjects=content["num_pretraining_subjects"],
        sets="".join(
            f"- {entry['name']}: {entry['num_records']:,} records of {entry['num_subjects']:,} subjects\n"
            for entry in content["pretraining_sets"]
        ),
        seconds=seconds,
        config_hash=content["config_hash"],
    )
