"""What a model is and what is hidden from it: the ``model:`` and ``mask:`` sections of a run. Imports no torch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from lamae.base.leads import NUM_LEADS
from lamae.base.validate import at_least, is_share, one_of

KINDS = ("lamae", "independent", "aligned", "mean", "joint")
SCOPES = ("summary", "aligned", "joint")
ATTENTIONS = ("auto", "eager", "sdpa", "triton")

MIXABLE_MASK_KINDS = ("grid", "random", "time")
MASK_KINDS = (*MIXABLE_MASK_KINDS, "lead", "mixed")


@dataclass
class ModelConfig:
    """Architecture. Sizes are named runs under ``configs/pretrain``; docs/model.md gives each default its reason."""

    kind: str = "lamae"
    """lamae; or a baseline from the same parts: independent (no exchange between leads), aligned (independent plus
    a pull between the leads' representations), mean (averages where LAMAE attends), joint (one transformer over
    all tokens)."""

    patch_size: int = 25
    """Samples per patch, at ``signal.rate_hz``; the record's length must be a multiple of it."""

    width: int = 192
    """Width of encoder and latents; a multiple of ``heads``, and even."""

    depth: int = 6
    """Encoder blocks, applied to every lead on its own with the same weights."""

    heads: int = 3
    """Attention heads of encoder and latent attention."""

    mlp_ratio: float = 4.0
    """Hidden width of every MLP over its input width."""

    scope: str = "aligned"
    """What the latent attention connects: summary (one token per lead), aligned (the leads' tokens of one instant,
    their summaries among themselves), joint (all visible tokens). Kinds lamae and mean only."""

    latent_depth: int = 2
    """Latent attention blocks; for kind joint further blocks of the one transformer."""

    decoder_width: int = 96
    """Width of the decoder, shared by the leads; even, and a multiple of ``decoder_heads``."""

    decoder_depth: int = 1
    """Decoder blocks."""

    decoder_heads: int = 3
    """Attention heads of the decoder."""

    match_parameters: bool = False
    """Give ``independent`` and ``aligned`` as many further encoder blocks as LAMAE has latent blocks; no effect on
    the other kinds."""

    align_weight: float = 2.0
    """``aligned`` only: final weight of the pull between leads; a sigmoid of the training progress starts it at 0."""

    attention: str = "auto"
    """Implementation of latent attention: auto (chosen by device, logged with the reason), eager, sdpa, triton. Kind
    lamae with scope summary or aligned only."""

    def check(self) -> None:
        """Raises ValueError naming the key to change."""
        one_of(self, "model", kind=KINDS, scope=SCOPES, attention=ATTENTIONS)
        at_least(self, "model", patch_size=1, width=1, heads=1, decoder_width=1, decoder_heads=1)
        at_least(self, "model", depth=0, latent_depth=0, decoder_depth=0, align_weight=0)
        for prefix in ("", "decoder_"):
            width, heads = getattr(self, f"{prefix}width"), getattr(self, f"{prefix}heads")
            if width % heads or width % 2:
                raise ValueError(
                    f"model.{prefix}width={width} must be even and a multiple of model.{prefix}heads={heads}"
                )
        narrower = min(self.width, self.decoder_width)
        # Stage 3 of ZeRO cannot partition a matrix without elements; no other stage would learn from one either.
        if not 1 <= narrower * self.mlp_ratio < math.inf:
            raise ValueError(
                f"model.mlp_ratio={self.mlp_ratio} must give an MLP beside width {narrower} at least 1 unit: "
                f"{1 / narrower:.2g} or more"
            )


@dataclass
class MaskConfig:
    """What is hidden in pretraining, drawn per record from (train.seed, epoch, row)."""

    kind: str = "grid"
    """grid (whole leads, and the same instants in all the others), random (each lead its own patches), time (one span
    in every lead), lead (whole leads only), mixed (drawn by ``weights``)."""

    limb_tied: bool = True
    """The six limb leads are hidden or visible together: any two of them determine the other four."""

    hidden_leads: int = 3
    """grid and lead: how many leads are hidden. With ``limb_tied``: how many chest leads while the limb leads show."""

    limb_hidden_share: float = 0.2
    """grid and lead with ``limb_tied``: share of records whose six limb leads are hidden and chest leads all show."""

    ratio: float = 0.5
    """Share of the patches hidden in time, in every lead that is not hidden wholly; no effect on kind lead."""

    record_only_share: float = 0.25
    """grid and lead: share of records whose hidden leads are decoded from the record embedding alone; trains the
    pooling. No effect on models that pool no instants: those decode every hidden lead so, or none."""

    weights: dict[str, float] = field(default_factory=lambda: {"grid": 0.5, "random": 0.25, "time": 0.25})
    """mixed only: relative frequency of grid, random and time. Not of lead, whose records show every instant
    and so have another shape. Kinds not named keep their default; 0 leaves one out."""

    def check(self) -> None:
        """Raises ValueError naming the key to change."""
        one_of(self, "mask", kind=MASK_KINDS)
        is_share(self, "mask", "limb_hidden_share", "record_only_share")
        most = 5 if self.limb_tied else 11
        if not 1 <= self.hidden_leads <= most and {"grid", "lead"} & set(kinds_drawn(self)):
            tied = "with mask.limb_tied=true they are chest leads" if self.limb_tied else "one lead must stay visible"
            raise ValueError(f"mask.hidden_leads={self.hidden_leads} must lie in 1..{most}: {tied}")
        if not 0 < self.ratio < 1 and self.kind != "lead":
            raise ValueError(f"mask.ratio={self.ratio} must lie between 0 and 1 (both excluded)")
        if self.kind == "mixed":
            for kind, weight in self.weights.items():
                if kind not in MIXABLE_MASK_KINDS:
                    raise ValueError(f"mask.weights={kind} is none of {', '.join(MIXABLE_MASK_KINDS)}")
                if weight < 0:
                    raise ValueError(f"mask.weights.{kind}={weight} must not be negative")
            if not sum(self.weights.values()) > 0:
                raise ValueError("mask.weights must give at least one kind a weight above 0")


class Layout(NamedTuple):
    """Which parts a kind of model is made of."""

    exchanges: bool
    """Leads exchange information in latent space."""

    pools_instants: bool
    """The leads' tokens of one instant are pooled, beside their summaries."""

    depth: int
    """Blocks of the encoder."""

    latent_depth: int
    """Blocks of the exchange."""

    scope: str
    """What the exchange connects; see ``ModelConfig.scope``."""

    @classmethod
    def of(cls, model: ModelConfig) -> "Layout":
        if model.kind == "joint":  # one transformer over all tokens, as deep as LAMAE in all
            return cls(True, True, 0, model.depth + model.latent_depth, "joint")
        if model.kind in ("lamae", "mean"):
            return cls(True, model.scope != "summary", model.depth, model.latent_depth, model.scope)
        if model.kind in ("independent", "aligned"):
            matched = model.latent_depth if model.match_parameters else 0
            return cls(False, False, model.depth + matched, 0, "summary")
        raise ValueError(f"model.kind={model.kind} has no layout")


class MaskShape(NamedTuple):
    """What every record of a configuration shows, whatever is drawn for it."""

    slots: int
    """Slots for leads that may be visible."""

    shown: int
    """Patches visible in each of them."""

    shared_instants: bool
    """All leads of a record show the same patches."""

    @classmethod
    def of(cls, mask: "MaskConfig", num_patches: int) -> "MaskShape":
        kinds = set(kinds_drawn(mask))
        return cls(
            slots=NUM_LEADS - mask.hidden_leads if kinds <= {"grid", "lead"} else NUM_LEADS,
            shown=num_patches if kinds == {"lead"} else num_visible(mask, num_patches),
            shared_instants="random" not in kinds,
        )


def check_together(model: ModelConfig, mask: MaskConfig, *, num_samples: int) -> None:
    """Model, masks and record length fit together. Raises ValueError naming the key."""
    if num_samples % model.patch_size:
        raise ValueError(
            f"model.patch_size={model.patch_size} does not divide the record's {num_samples} samples "
            "(signal.rate_hz times its seconds)"
        )
    num_patches = num_samples // model.patch_size
    if num_patches < 2:
        raise ValueError(
            f"model.patch_size={model.patch_size} leaves {num_patches} patch per lead; at least 2 are needed"
        )
    if kinds_drawn(mask) == ["lead"] and model.kind in ("independent", "aligned"):
        raise ValueError(
            f"mask.kind=lead leaves model.kind={model.kind} nothing to learn: it reconstructs no lead from another"
        )


def without_effect(model: ModelConfig, mask: MaskConfig) -> Iterator[str]:
    """A sentence for every option that was changed from its default and does nothing beside the others."""
    layout = Layout.of(model)
    exchanges = layout.exchanges
    chooses_scope = model.kind in ("lamae", "mean")
    drawn = set(kinds_drawn(mask))
    hides_leads = bool({"grid", "lead"} & drawn)
    rules = (
        (model, "model.scope", chooses_scope, "only model.kind=lamae and mean choose what they connect"),
        (model, "model.latent_depth", exchanges or model.match_parameters, f"model.kind={model.kind} has no exchange"),
        (
            model,
            "model.attention",
            model.kind == "lamae" and model.scope != "joint",
            "only model.kind=lamae with scope summary or aligned has attention among leads alone",
        ),
        (model, "model.match_parameters", not exchanges, "it needs model.kind=independent or aligned"),
        (model, "model.align_weight", model.kind == "aligned", "it needs model.kind=aligned"),
        (mask, "mask.limb_tied", drawn != {"time"}, "mask.kind=time is the same for all leads"),
        (mask, "mask.hidden_leads", hides_leads, "it needs masks of kind grid or lead"),
        (
            mask,
            "mask.limb_hidden_share",
            hides_leads and mask.limb_tied,
            "it needs masks of kind grid or lead, and mask.limb_tied=true",
        ),
        (mask, "mask.ratio", drawn != {"lead"}, "mask.kind=lead hides no instants"),
        (
            mask,
            "mask.record_only_share",
            hides_leads and layout.pools_instants,
            "it needs masks of kind grid or lead, and a model that pools instants (scope aligned or joint)",
        ),
        (mask, "mask.weights", mask.kind == "mixed", "it needs mask.kind=mixed"),
    )
    for section, key, works, reason in rules:
        name = key.partition(".")[2]
        value = getattr(section, name)
        if not works and value != getattr(type(section)(), name):
            yield f"{key}={value} has no effect: {reason}"


def kinds_drawn(mask: MaskConfig) -> list[str]:
    """The kinds of mask that records get, in a fixed order."""
    if mask.kind != "mixed":
        return [mask.kind]
    return [kind for kind in MIXABLE_MASK_KINDS if mask.weights.get(kind, 0) > 0]


def num_visible(mask: MaskConfig, num_patches: int) -> int:
    """Patches that stay visible in a lead that is not hidden wholly: at least one, at most all but one."""
    return min(max(round(num_patches * (1 - mask.ratio)), 1), num_patches - 1)
