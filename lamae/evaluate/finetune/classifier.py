"""A pretrained encoder with a linear head, trained as a whole."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from lamae.model import PretrainModel
from lamae.model.layers import LayerNorm

READOUTS = ("record", "mean")


@dataclass(frozen=True)
class ClassifierOutput:
    """Loss of a batch and the scores behind it; ``loss_B``, ``lead_weights_BL`` and ``parts`` as in pretraining."""

    loss: Tensor
    loss_B: Tensor
    lead_weights_BL: Tensor
    parts: dict[str, Tensor]


class Classifier(nn.Module):
    """Log-odds of C codes from the record embedding.

    The learning rate falls by ``layer_decay`` per block from the head down to the patch embedding, because what lies
    deep down is general and worth keeping (Clark et al., ELECTRA; Bao et al., BEiT).
    """

    def __init__(self, model: PretrainModel, *, num_codes: int, readout: str, layer_decay: float) -> None:
        super().__init__()
        config = model.config
        # Only what embeds a record: parameters that never see a gradient would still be partitioned and stepped.
        self.encoder = model
        model.decoder = nn.Identity()  # type: ignore[assignment]
        model.pool_instant = None
        self.readout = readout
        if readout == "mean":
            for unused in (model.pool_record, model.norm_summary):
                if unused is not None:
                    unused.requires_grad_(False)
        self.norm = LayerNorm(config.width)
        self.head = nn.Linear(config.width, num_codes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._layer_decay = layer_decay
        self._encoder_depth = len(model.encoder.blocks)
        exchange = model.exchange
        self._num_blocks = self._encoder_depth + (len(exchange.blocks) if exchange is not None else 0)

    def lr_scale(self, name: str) -> float:
        """What the scheduled learning rate is multiplied by for a parameter of this module."""
        if not name.startswith("encoder."):
            return 1.0
        part = name.removeprefix("encoder.").split(".")
        if part[0] == "encoder":
            depth = 1 + int(part[2]) if part[1] == "blocks" else 0
        elif part[0] == "exchange" and part[1] == "blocks":
            depth = 1 + self._encoder_depth + int(part[2])
        else:
            depth = 1 + self._num_blocks
        return float(self._layer_decay ** (1 + self._num_blocks - depth))

    def score(self, x_BLT: Tensor, valid_BLT: Tensor, lead_mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """(log-odds [B, C] float32, lead weights [B, 12])."""
        embedding = self.encoder.represent(x_BLT, valid_BLT, lead_mask_BL)
        z_BD = embedding.record_BD if self.readout == "record" else embedding.mean_BD
        z_BD = self.norm(z_BD.to(self.norm.weight.dtype))
        return self.head(z_BD).float(), embedding.lead_weights_BL

    def forward(self, x_BLT: Tensor, valid_BLT: Tensor, lead_mask_BL: Tensor, y_BC: Tensor) -> ClassifierOutput:
        """Binary cross-entropy, mean over codes, then over records."""
        odds_BC, lead_weights_BL = self.score(x_BLT, valid_BLT, lead_mask_BL)
        loss_B = F.binary_cross_entropy_with_logits(odds_BC, y_BC.float(), reduction="none").mean(1)
        return ClassifierOutput(loss_B.mean(), loss_B, lead_weights_BL.detach(), {})
