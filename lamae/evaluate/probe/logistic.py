"""Many ridge-penalised logistic regressions on the same features, solved at once.

The objective of each code k is scikit-learn's, with the intercept b unpenalised and y = +-1:

    0.5 |w_k|^2 + C sum_i log(1 + exp(-y_ik (x_i w_k + b_k)))

All codes share the two products with X in every iteration, and one basis: among the eigenvectors of X'X the Hessian of
code k is close to the diagonal  C v_k Lambda + I  (v_k: variance of its labels). The method is preconditioned nonlinear
conjugate gradients (Polak-Ribiere+) with a Newton search along each direction. All passes over [N, K] go by tiles of
rows that stay in the processor's cache; codes that have converged leave them; each of torch's threads has codes of its
own, so that none waits for another.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

# Bounds memory: a thread holds two arrays of [N, CODES_AT_ONCE] float32 and one of uint8.
CODES_AT_ONCE = 128
# Products of matrices whose rows are no multiple of a cache line take about twice as long.
ALIGNED = 16
TILE_ROWS = 2048
# Columns of codes that have converged are dropped once so large a share of them has: dropping copies the others.
DROP_SHARE = 0.25


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
        # E is at least D + 1: the eigenbasis, a column of ones for the intercept, and zeros up to an aligned width.
        N, D = x.shape
        E = -(-(D + 1) // ALIGNED) * ALIGNED
        self._z_NE = x.new_zeros(N, E)
        self._z_NE[:, :D] = x @ self._basis
        self._z_NE[:, D] = 1
        self._curvature_E = x.new_zeros(E)
        self._curvature_E[:D] = eigenvalues.clamp_min(0)
        self._curvature_E[D] = N
        self._penalty_E1 = x.new_ones(E, 1)
        self._penalty_E1[D] = 0
        self._variance_K = share_K * (1 - share_K)
        self._w_EK = x.new_zeros(E, len(share_K))
        self._w_EK[D] = torch.logit(share_K)
        self._num_features = D

    def fit(self, C: float, *, tolerance: float = 1e-3, max_iterations: int = 200) -> LogisticModel:
        """The minimiser for penalty ``C``: preconditioned gradient norm below ``tolerance`` times that of w = 0."""

        def fit_codes(start: int) -> None:
            codes = slice(start, start + CODES_AT_ONCE)
            descent = _Descent(
                z_NE=self._z_NE,
                y_NK=self._y_NK[:, codes].contiguous(),
                w_EK=self._w_EK[:, codes],
                preconditioner_EK=1 / (C * self._curvature_E[:, None] * self._variance_K[codes] + self._penalty_E1),
                penalty_E1=self._penalty_E1,
                C=C,
            )
            self._w_EK[:, codes] = descent.run(tolerance=tolerance, max_iterations=max_iterations)

        with _one_thread_each(self._z_NE.device) as num_workers, ThreadPoolExecutor(num_workers) as pool:
            for done in [pool.submit(fit_codes, start) for start in range(0, self._w_EK.shape[1], CODES_AT_ONCE)]:
                done.result()
        weight_DK, bias_K = self._basis @ self._w_EK[: self._num_features], self._w_EK[self._num_features]
        return LogisticModel(weight_DK.cpu().numpy(), bias_K.cpu().numpy().copy())


@contextmanager
def _one_thread_each(device: torch.device) -> Iterator[int]:
    """The number of workers to start, each of which computes on one thread meanwhile."""
    num_threads = torch.get_num_threads()
    if device.type != "cpu" or num_threads == 1:
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield num_threads
    finally:
        torch.set_num_threads(num_threads)


class _Descent:
    """Preconditioned conjugate gradients on some codes at once, from ``w_EK`` on, for one penalty."""

    def __init__(
        self,
        *,
        z_NE: torch.Tensor,
        y_NK: torch.Tensor,
        w_EK: torch.Tensor,
        preconditioner_EK: torch.Tensor,
        penalty_E1: torch.Tensor,
        C: float,
    ) -> None:
        self._z_NE, self._penalty_E1, self._C = z_NE, penalty_E1, C
        # One column per code that has not converged yet.
        self._y_NK, self._w_EK, self._preconditioner_EK = y_NK, w_EK, preconditioner_EK
        self._margin_NK = z_NE @ w_EK
        self._slope_NK = torch.empty_like(self._margin_NK)

    def run(self, *, tolerance: float, max_iterations: int) -> torch.Tensor:
        """The minimiser [E, K], columns in the order given."""
        result_EK = self._w_EK.clone()
        column_K = torch.arange(result_EK.shape[1], device=result_EK.device)
        goal_K = tolerance**2 * self._norm_at_zero()
        direction = previous = torch.zeros_like(self._w_EK)
        previous_norm_K = torch.ones_like(goal_K)
        loss_K = self._loss(torch.zeros_like(goal_K))
        for _ in range(max_iterations):
            gradient = self._gradient()
            step = gradient * self._preconditioner_EK
            norm_K = (gradient * step).sum(0)
            moving_K = norm_K > goal_K
            if not bool(moving_K.any()):
                break
            num_kept = -(-int(moving_K.sum()) // ALIGNED) * ALIGNED
            if num_kept <= (1 - DROP_SHARE) * len(moving_K):
                result_EK[:, column_K] = self._w_EK
                kept = torch.argsort((~moving_K).to(torch.uint8), stable=True)[:num_kept]
                self._keep(kept)
                column_K, goal_K, loss_K, norm_K, previous_norm_K = (
                    v[kept] for v in (column_K, goal_K, loss_K, norm_K, previous_norm_K)
                )
                gradient, step, direction, previous = (v[:, kept] for v in (gradient, step, direction, previous))
            beta_K = ((norm_K - (previous * step).sum(0)) / previous_norm_K).clamp_min(0)
            direction = beta_K * direction - step
            uphill_K = (direction * gradient).sum(0) >= 0
            direction = torch.where(uphill_K, -step, direction)
            previous, previous_norm_K = gradient, norm_K.clamp_min(1e-30)
            alpha_K, loss_K = self._search(direction, (gradient * direction).sum(0), loss_K)
            self._w_EK = self._w_EK + alpha_K * direction
            for rows in self._tiles():
                self._margin_NK[rows].addcmul_(alpha_K, self._slope_NK[rows])
        result_EK[:, column_K] = self._w_EK
        return result_EK

    def _keep(self, kept: torch.Tensor) -> None:
        """Go on with these columns only."""
        self._y_NK, self._margin_NK = self._y_NK[:, kept], self._margin_NK[:, kept]
        self._w_EK, self._preconditioner_EK = self._w_EK[:, kept], self._preconditioner_EK[:, kept]
        self._slope_NK = torch.empty_like(self._margin_NK)

    def _search(
        self, direction: torch.Tensor, first_K: torch.Tensor, loss_K: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Step per code [K], and C times the data loss there: two Newton steps, halved while the objective rises.

        ``first_K`` is the derivative at the start of the line, ``loss_K`` is C times the data loss there.
        """
        linear_K = (self._penalty_E1 * self._w_EK * direction).sum(0)
        square_K = (self._penalty_E1 * direction.square()).sum(0)
        second_K = self._curvature_along(direction) + square_K
        alpha_K = -first_K / second_K.clamp_min(1e-30)
        first_K, second_K = self._derivatives(alpha_K)
        first_K, second_K = first_K + linear_K + alpha_K * square_K, second_K + square_K
        alpha_K = alpha_K - first_K / second_K.clamp_min(1e-30)
        for _ in range(20):
            there_K = self._loss(alpha_K)
            rise_K = there_K - loss_K + alpha_K * linear_K + 0.5 * alpha_K.square() * square_K
            worse_K = rise_K > 1e-6 * loss_K
            if not bool(worse_K.any()):
                break
            alpha_K = torch.where(worse_K, alpha_K / 2, alpha_K)
        return alpha_K, there_K

    # -- passes over the records; slopes are those of the margins along the direction searched last ----------------

    def _tiles(self) -> Iterator[slice]:
        rows = TILE_ROWS if self._z_NE.device.type == "cpu" else len(self._z_NE)
        return (slice(start, start + rows) for start in range(0, len(self._z_NE), rows))

    def _norm_at_zero(self) -> torch.Tensor:
        """Squared preconditioned gradient norm [K] where all weights but the intercept are zero."""
        share_K = self._y_NK.sum(0) / len(self._y_NK)
        gradient_KE = torch.zeros_like(self._w_EK.T, memory_format=torch.contiguous_format)
        for rows in self._tiles():
            gradient_KE.addmm_((share_K - self._y_NK[rows].float()).T, self._z_NE[rows])
        return ((self._C * gradient_KE.T).square() * self._preconditioner_EK).sum(0).clamp_min(1e-12)

    def _gradient(self) -> torch.Tensor:
        gradient_KE = torch.zeros_like(self._w_EK.T, memory_format=torch.contiguous_format)
        for rows in self._tiles():
            error = torch.sigmoid(self._margin_NK[rows]).sub_(self._y_NK[rows].float())
            gradient_KE.addmm_(error.T, self._z_NE[rows])
        return self._C * gradient_KE.T + self._penalty_E1 * self._w_EK

    def _curvature_along(self, direction: torch.Tensor) -> torch.Tensor:
        """C times the second derivative [K] of the data loss along ``direction``; sets the slopes."""
        second_K = torch.zeros_like(direction[0])
        for rows in self._tiles():
            slope = torch.mm(self._z_NE[rows], direction, out=self._slope_NK[rows])
            p = torch.sigmoid(self._margin_NK[rows])
            second_K += p.addcmul_(p, p, value=-1).mul_(slope).mul_(slope).sum(0)
        return self._C * second_K

    def _derivatives(self, alpha_K: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """C times the first and second derivative [K] of the data loss, ``alpha_K`` along the slopes."""
        first_K, second_K = torch.zeros_like(alpha_K), torch.zeros_like(alpha_K)
        for rows in self._tiles():
            slope = self._slope_NK[rows]
            p = torch.addcmul(self._margin_NK[rows], alpha_K, slope).sigmoid_()
            first_K += (p - self._y_NK[rows].float()).mul_(slope).sum(0)
            second_K += p.addcmul_(p, p, value=-1).mul_(slope).mul_(slope).sum(0)
        return self._C * first_K, self._C * second_K

    def _loss(self, alpha_K: torch.Tensor) -> torch.Tensor:
        """C times the data loss [K], float64, ``alpha_K`` along the slopes; at alpha 0 slopes need not be set."""
        loss_K = torch.zeros_like(alpha_K, dtype=torch.float64)
        moves = bool(alpha_K.any())
        for rows in self._tiles():
            margin = self._margin_NK[rows]
            if moves:
                margin = torch.addcmul(margin, alpha_K, self._slope_NK[rows])
            loss_K += F.softplus(margin).addcmul_(margin, self._y_NK[rows].float(), value=-1).sum(0)
        return self._C * loss_K
