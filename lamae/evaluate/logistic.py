"""Many ridge-penalised logistic regressions on the same features, solved at once.

The objective of each code k is scikit-learn's, with the intercept b unpenalised and y = +-1:

    0.5 |w_k|^2 + C sum_i log(1 + exp(-y_ik (x_i w_k + b_k)))

All codes share the two products with X in every iteration, and one basis: among the eigenvectors of X'X the Hessian of
code k is close to the diagonal  C v_k Lambda + I  (v_k: variance of its labels). The method is preconditioned nonlinear
conjugate gradients (Polak-Ribiere+) with a Newton search along each direction.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

# Bounds memory: a fit holds about eight arrays of [N, CODES_AT_ONCE] float32.
CODES_AT_ONCE = 128


@dataclass(frozen=True)
class LogisticModel:
    """Weights [D, K] and intercepts [K] for standardised features, float32."""

    weight_DK: np.ndarray
    bias_K: np.ndarray

    def decide(self, x_ND: np.ndarray) -> np.ndarray:
        """Log-odds [N, K], float32."""
        return np.asarray(x_ND @ self.weight_DK + self.bias_K, dtype=np.float32)


@dataclass(frozen=True)
class Standardizer:
    """Shift and scale to zero mean and unit variance, as measured on the training records."""

    mean_D: np.ndarray
    std_D: np.ndarray

    @classmethod
    def fit(cls, x_ND: np.ndarray) -> "Standardizer":
        """A feature that does not vary keeps scale 1, so it stays a harmless zero."""
        mean, std = x_ND.mean(0, dtype=np.float64), x_ND.std(0, dtype=np.float64)
        std = np.where(std > 1e-8 * np.maximum(1.0, np.abs(mean)), std, 1.0)
        return cls(mean.astype(np.float32), std.astype(np.float32))

    def apply(self, x_ND: np.ndarray) -> np.ndarray:
        return (x_ND - self.mean_D) / self.std_D


class LogisticSolver:
    """Fits one training set for any number of penalties, each fit starting from the one before.

    x_ND float [N, D], standardised; y_NK bool or 0/1 [N, K]. Raises ValueError unless every code has both classes.
    """

    def __init__(self, x_ND: np.ndarray, y_NK: np.ndarray, *, device: str = "cpu") -> None:
        x = torch.as_tensor(x_ND, dtype=torch.float32, device=device)
        self._y_NK = torch.as_tensor(np.asarray(y_NK, dtype=np.uint8), device=device)
        share_K = torch.as_tensor(np.asarray(y_NK).mean(0), dtype=torch.float32, device=device)
        if not bool(((share_K > 0) & (share_K < 1)).all()):
            raise ValueError("every code needs at least one positive and one negative training record")
        # In float64: nearly collinear features have small eigenvalues that float32 would return as noise.
        eigenvalues, basis = torch.linalg.eigh((x.T @ x).double())
        self._basis = basis.float()
        # E = D + 1: the eigenbasis, and a column of ones for the intercept.
        self._z_NE = torch.cat([x @ self._basis, torch.ones_like(x[:, :1])], dim=1)
        self._curvature_E = torch.cat([eigenvalues.clamp_min(0).float(), torch.full_like(x[0, :1], len(x))])
        self._penalty_E1 = torch.ones_like(self._curvature_E[:, None])
        self._penalty_E1[-1] = 0
        self._variance_K = share_K * (1 - share_K)
        self._w_EK = torch.zeros(self._z_NE.shape[1], len(share_K), device=device)
        self._w_EK[-1] = torch.logit(share_K)

    def fit(self, C: float, *, tolerance: float = 1e-3, max_iterations: int = 200) -> LogisticModel:
        """The minimiser for penalty ``C``: preconditioned gradient norm below ``tolerance`` times that of w = 0."""
        for start in range(0, self._w_EK.shape[1], CODES_AT_ONCE):
            codes = slice(start, start + CODES_AT_ONCE)
            self._w_EK[:, codes] = self._fit_codes(codes, C, tolerance, max_iterations)
        weight_DK, bias_K = self._basis @ self._w_EK[:-1], self._w_EK[-1]
        return LogisticModel(weight_DK.cpu().numpy(), bias_K.cpu().numpy().copy())

    def _fit_codes(self, codes: slice, C: float, tolerance: float, max_iterations: int) -> torch.Tensor:
        w, y = self._w_EK[:, codes], self._y_NK[:, codes].float()
        preconditioner = 1 / (C * self._curvature_E[:, None] * self._variance_K[codes] + self._penalty_E1)
        at_zero = C * (self._z_NE.T @ (y.mean(0) - y))
        goal_K = tolerance**2 * (at_zero.square() * preconditioner).sum(0).clamp_min(1e-12)
        margin = self._z_NE @ w
        direction = previous = torch.zeros_like(w)
        previous_norm_K = torch.ones_like(goal_K)
        loss_K = C * _data_loss(margin, y)
        for _ in range(max_iterations):
            p = torch.sigmoid(margin)
            gradient = C * (self._z_NE.T @ (p - y)) + self._penalty_E1 * w
            step = gradient * preconditioner
            norm_K = (gradient * step).sum(0)
            if bool((norm_K <= goal_K).all()):
                break
            beta_K = ((norm_K - (previous * step).sum(0)) / previous_norm_K).clamp_min(0)
            direction = beta_K * direction - step
            uphill_K = (direction * gradient).sum(0) >= 0
            direction = torch.where(uphill_K, -step, direction)
            previous, previous_norm_K = gradient, norm_K.clamp_min(1e-30)
            slope = self._z_NE @ direction
            first_K = (gradient * direction).sum(0)
            alpha_K, loss_K = self._line_search(C, y, margin, slope, w, direction, p, first_K, loss_K)
            w = w + alpha_K * direction
            margin = margin + alpha_K * slope
        return w

    def _line_search(
        self,
        C: float,
        y: torch.Tensor,
        margin: torch.Tensor,
        slope: torch.Tensor,
        w: torch.Tensor,
        direction: torch.Tensor,
        p: torch.Tensor,
        first_K: torch.Tensor,
        loss_K: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Step per code [K], and C times the data loss there: two Newton steps, halved while the objective rises.

        At the start of the line, p is the probability, first the derivative and loss C times the data loss.
        """
        linear_K = (self._penalty_E1 * w * direction).sum(0)
        square_K = (self._penalty_E1 * direction.square()).sum(0)
        alpha_K = torch.zeros_like(linear_K)
        for newton in range(2):
            if newton:
                p = torch.sigmoid(margin + alpha_K * slope)
                first_K = C * ((p - y) * slope).sum(0) + linear_K + alpha_K * square_K
            second_K = C * (p * (1 - p) * slope.square()).sum(0) + square_K
            alpha_K = alpha_K - first_K / second_K.clamp_min(1e-30)
        for _ in range(20):
            there_K = C * _data_loss(margin + alpha_K * slope, y)
            rise_K = there_K - loss_K + alpha_K * linear_K + 0.5 * alpha_K.square() * square_K
            worse_K = rise_K > 1e-6 * loss_K
            if not bool(worse_K.any()):
                break
            alpha_K = torch.where(worse_K, alpha_K / 2, alpha_K)
        return alpha_K, there_K


def _data_loss(margin: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (F.softplus(margin) - y * margin).sum(0)
