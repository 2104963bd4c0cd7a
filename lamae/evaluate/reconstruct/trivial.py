"""What can be predicted of hidden samples without a model: the yardsticks beside every reconstruction error.

Each predictor maps (x_BLT, visible_BLT) to (y_BLT, defined_BLT), float64 and bool, numpy. It may look at x only where
``visible`` is true. Where it has nothing to go by, ``defined`` is false; callers fall back on the lead's mean, so that
all predictors are scored on the same samples.

    zero                   0
    lead mean              the lead's mean over the training records that have it
    visible mean           the mean of what is visible of the same lead
    interpolation          a straight line between the neighbouring visible samples of the same lead, the nearest one
                           at the ends
    limb algebra           least squares for I and II from the visible limb leads of the same instant (at least two)
    linear from leads      linear regression from the leads visible at the same instant, with the covariance of the
                           training records, for and from leads that vary in them: no network, but more than trivial
"""

from collections.abc import Callable, Mapping

import numpy as np

from lamae.base.leads import LIMB_FROM_I_II, LIMB_LEADS, NUM_LEADS

Predictor = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

TRIVIAL = ("zero", "lead mean", "visible mean", "interpolation", "limb algebra")
LINEAR = "linear from leads"
RIDGE = 1e-3


def predictors(mean_L: np.ndarray, covariance_LL: np.ndarray) -> Mapping[str, Predictor]:
    """All predictors by name; mean [12] and covariance [12, 12] are of the training records, in x's unit.

    The mean is NaN of a lead that none of them has.
    """
    return {
        "zero": lambda x, visible: (np.zeros_like(x, dtype=np.float64), np.ones_like(visible)),
        "lead mean": lambda x, visible: (
            np.broadcast_to(mean_L[:, None], x.shape),
            np.broadcast_to(np.isfinite(mean_L)[:, None], x.shape),
        ),
        "visible mean": predict_visible_mean,
        "interpolation": interpolate,
        "limb algebra": solve_limb_leads,
        LINEAR: lambda x, visible: regress_on_leads(x, visible, mean_L=mean_L, covariance_LL=covariance_LL),
    }


def predict_visible_mean(x_BLT: np.ndarray, visible_BLT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count_BL1 = visible_BLT.sum(-1, keepdims=True)
    mean_BL1 = np.where(visible_BLT, x_BLT, 0.0).sum(-1, keepdims=True) / np.maximum(count_BL1, 1)
    return np.broadcast_to(mean_BL1, x_BLT.shape), np.broadcast_to(count_BL1 > 0, x_BLT.shape)


def interpolate(x_BLT: np.ndarray, visible_BLT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y_BLT = np.zeros(x_BLT.shape, dtype=np.float64)
    times = np.arange(x_BLT.shape[-1])
    for b, lead in zip(*np.nonzero(visible_BLT.any(-1)), strict=True):
        known = np.flatnonzero(visible_BLT[b, lead])
        y_BLT[b, lead] = np.interp(times, known, x_BLT[b, lead, known])
    return y_BLT, np.broadcast_to(visible_BLT.any(-1, keepdims=True), x_BLT.shape)


def solve_limb_leads(x_BLT: np.ndarray, visible_BLT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    limb = list(LIMB_LEADS)
    shown_BLT = visible_BLT[:, limb]
    known_BLT = np.where(shown_BLT, x_BLT[:, limb], 0.0)
    # Normal equations of (I, II) at every instant: A = sum of c c', b = sum of c x over the visible limb leads.
    outer_Lij = LIMB_FROM_I_II[:, :, None] * LIMB_FROM_I_II[:, None, :]
    A_BTij = np.einsum("blt,lij->btij", shown_BLT.astype(np.float64), outer_Lij)
    b_BTi = np.einsum("blt,li->bti", known_BLT, LIMB_FROM_I_II)
    det_BT = A_BTij[..., 0, 0] * A_BTij[..., 1, 1] - A_BTij[..., 0, 1] ** 2
    solvable_BT = det_BT > 1e-6
    det_BT = np.where(solvable_BT, det_BT, 1.0)
    first_BT = (A_BTij[..., 1, 1] * b_BTi[..., 0] - A_BTij[..., 0, 1] * b_BTi[..., 1]) / det_BT
    second_BT = (A_BTij[..., 0, 0] * b_BTi[..., 1] - A_BTij[..., 0, 1] * b_BTi[..., 0]) / det_BT
    y_BLT = np.zeros(x_BLT.shape, dtype=np.float64)
    y_BLT[:, limb] = np.einsum("li,ibt->blt", LIMB_FROM_I_II, np.stack([first_BT, second_BT]))
    defined_BLT = np.zeros(x_BLT.shape, dtype=bool)
    defined_BLT[:, limb] = solvable_BT[:, None]
    return y_BLT, defined_BLT


def regress_on_leads(
    x_BLT: np.ndarray, visible_BLT: np.ndarray, *, mean_L: np.ndarray, covariance_LL: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    B, L, T = x_BLT.shape
    known_L1 = (np.isfinite(mean_L) & (np.diagonal(covariance_LL) > 0))[:, None]
    mean_L1 = np.where(known_L1, mean_L[:, None], 0.0)
    visible_BLT = visible_BLT & known_L1
    centred_IL = (x_BLT - mean_L1).transpose(0, 2, 1).reshape(-1, L)
    visible_IL = visible_BLT.transpose(0, 2, 1).reshape(-1, L)
    y_IL = np.zeros_like(centred_IL, dtype=np.float64)
    pattern_I = visible_IL @ (1 << np.arange(NUM_LEADS))
    for pattern in np.unique(pattern_I):
        shown = np.flatnonzero((pattern >> np.arange(NUM_LEADS)) & 1)
        if len(shown):
            which = pattern_I == pattern
            block = covariance_LL[np.ix_(shown, shown)]
            # The limb leads are linearly dependent, and noise must not be blown up: a ridge of 0.1 % of the variance.
            ridge = RIDGE * np.trace(block) / len(shown) * np.eye(len(shown))
            y_IL[which] = centred_IL[which][:, shown] @ np.linalg.solve(block + ridge, covariance_LL[shown])
    y_BLT = y_IL.reshape(B, T, L).transpose(0, 2, 1) + mean_L1
    return y_BLT, visible_BLT.any(1, keepdims=True) & known_L1
