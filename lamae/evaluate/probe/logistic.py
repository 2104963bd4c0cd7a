"""Many ridge-penalised logistic regressions on the same features, solved at once.

The objective of each code k is scikit-learn's, with the intercept b unpenalised and y = +-1:

    0.5 |w_k|^2 + C sum_i log(1 + exp(-y_ik (x_i w_k + b_k)))

All codes share the products with X in every pass over the records, and one basis: among the eigenvectors of X'X the
Hessian of code k is close to the diagonal  C v_k Lambda + I  (v_k: variance of its labels). In coordinates where that
is the identity, the method is L-BFGS (Nocedal and Wright, Numerical Optimization, section 7.2), each code with steps of
its own. A pass reads features in tiles and keeps nothing of a record, so that they may stay on disk; each of torch's
threads has tiles of its own, so that none waits for another.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from lamae.evaluate.embeddings.inference import one_thread_each
from lamae.evaluate.probe.features import Features, Labels01

# Rows of margins that are held at once: with a thousand codes 4 MB, which stay in the processor's cache.
TILE_ROWS = 1024
MEMORY = 8  # pairs of steps and changes of the gradient
# Columns of codes that have converged are dropped once so large a share of them has: dropping copies the others.
DROP_SHARE = 0.25


@dataclass(frozen=True)
class LogisticModel:
    """Weights [D, C] and intercepts [C] for standardised features, float32."""

    weight_DC: np.ndarray
    bias_C: np.ndarray

    def decide(self, x_ND: np.ndarray | Features, columns: slice = slice(None)) -> np.ndarray:
        """Log-odds [N, C] of the codes in ``columns``, float32."""
        weight_DC, bias_C = self.weight_DC[:, columns], self.bias_C[columns]
        odds = np.empty((len(x_ND), len(bias_C)), dtype=np.float32)
        for rows, x in Features.of(x_ND).tiles():
            np.matmul(x, weight_DC, out=odds[rows])
        odds += bias_C
        return odds


class LogisticSolver:
    """Fits one training set for any number of penalties, each fit starting from the one before.

    x_ND float [N, D], standardised; y_NC bool or 0/1 [N, C]. Raises ValueError unless every code has both classes.
    """

    def __init__(self, x_ND: np.ndarray | Features, y_NC: Labels01, *, device: str = "cpu") -> None:
        self._x, self._device = Features.of(x_ND).to_read_often(), device
        N, D = len(self._x), self._x.num_features
        count_C = np.asarray(y_NC.sum(0), dtype=np.float64)
        if not ((count_C > 0) & (count_C < N)).all():
            raise ValueError("every code needs at least one positive and one negative training record")
        square_DD, sum_D, positive_DC = np.zeros((D, D)), np.zeros(D), np.zeros((D, len(count_C)))
        for rows, x in self._x.tiles():
            square_DD += x.T @ x
            sum_D += x.sum(0)
            positive_DC += (y_NC[rows].T.astype(np.float32) @ x).T
        # In float64: nearly collinear features have small eigenvalues that float32 would return as noise.
        eigenvalues, basis = np.linalg.eigh(square_DD)
        share_C = count_C / N
        at_zero_EC = np.vstack([basis.T @ (sum_D[:, None] * share_C - positive_DC), np.zeros_like(count_C)])
        penalty_E1 = np.append(np.ones(D), 0.0)[:, None]  # of the intercept, the last row, none

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=device)

        self._basis, self._penalty_E1 = tensor(basis), tensor(penalty_E1)
        self._curvature_EC = tensor(np.append(eigenvalues.clip(0), N)[:, None] * share_C * (1 - share_C))
        self._at_zero_EC = tensor(at_zero_EC)
        self._positive_EC = tensor(np.vstack([positive_DC, count_C]))
        self._u_EC = tensor(np.vstack([np.zeros_like(positive_DC), np.log(share_C / (1 - share_C))]))

    def fit(self, C: float, *, tolerance: float = 1e-3, max_iterations: int = 200) -> LogisticModel:
        """The minimiser for penalty ``C``: preconditioned gradient norm below ``tolerance`` times that of w = 0."""
        scale_EC = (C * self._curvature_EC + self._penalty_E1).rsqrt()  # from u to coordinates of curvature one
        goal_C = tolerance**2 * (C * self._at_zero_EC * scale_EC).square().sum(0).clamp_min(1e-12)
        column_C = torch.arange(len(goal_C), device=self._device)
        search = _Search(self._u_EC / scale_EC)
        for _ in range(max_iterations):
            u_EC = search.trial * scale_EC
            slope_EC = C * self._slope(u_EC, self._positive_EC[:, column_C]) + self._penalty_E1 * u_EC
            search.move(slope_EC * scale_EC)
            moving_C = search.gradient.square().sum(0) > goal_C
            if moving_C.sum() <= (1 - DROP_SHARE) * len(moving_C):
                self._u_EC[:, column_C] = search.place * scale_EC
                column_C, goal_C, scale_EC = column_C[moving_C], goal_C[moving_C], scale_EC[:, moving_C]
                search.keep(moving_C)
            if not bool(moving_C.any()):
                break
            search.turn()
        self._u_EC[:, column_C] = search.place * scale_EC
        return LogisticModel((self._basis @ self._u_EC[:-1]).cpu().numpy(), self._u_EC[-1].cpu().numpy().copy())

    def _slope(self, u_EC: torch.Tensor, positive_EC: torch.Tensor) -> torch.Tensor:
        """Gradient of the data loss with respect to ``u``: one pass over the records.

        Of  X'(p - y)  the part with the labels, ``positive_EC``, is the same in every pass.
        """
        weight_DC, bias_C = self._basis @ u_EC[:-1], u_EC[-1]

        def sums(worker: int, num_workers: int) -> torch.Tensor:
            slope_EC = torch.zeros_like(u_EC)
            memory = u_EC.new_empty(TILE_ROWS, u_EC.shape[1])
            for _, block in self._x.tiles(worker, num_workers):
                for x in torch.from_numpy(block).to(self._device).split(TILE_ROWS):
                    p = torch.mm(x, weight_DC, out=memory[: len(x)]).add_(bias_C).sigmoid_()
                    slope_EC[:-1].addmm_(x.T, p)
                    slope_EC[-1] += p.sum(0)
            return slope_EC

        with one_thread_each(self._device) as num_workers, ThreadPoolExecutor(num_workers) as pool:
            parts = [pool.submit(sums, worker, num_workers) for worker in range(num_workers)]
            slope_EC = torch.stack([part.result() for part in parts]).sum(0) - positive_EC
        return torch.cat([self._basis.T @ slope_EC[:-1], slope_EC[-1:]])


class _Search:
    """L-BFGS for many convex functions at once, a column each: whoever uses it finds the gradients at ``trial``.

    A step is taken unless the function's slope along it ends up steeper than half of what it was, the other way; such a
    column tries half of the step next. No values of the functions are needed.
    """

    def __init__(self, place: torch.Tensor) -> None:
        self.place = self.trial = place
        self.gradient = self._direction = torch.zeros_like(place)
        self._step, self._size = torch.ones_like(place[0]), torch.ones_like(place[0])
        self._pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def move(self, gradient: torch.Tensor) -> None:
        """Go to ``trial``, where the gradients are these, in the columns where that is not too far."""
        before, there = ((self._direction * g).sum(0) for g in (self.gradient, gradient))
        near = there <= -0.5 * before
        step = torch.where(near, self.trial - self.place, 0.0)
        change = torch.where(near, gradient - self.gradient, 0.0)
        bend, length = (step * change).sum(0), change.square().sum(0)
        bends = bend > 1e-7 * length
        self._size = torch.where(bends, bend / length.clamp_min(1e-30), self._size)
        self._pairs = [*self._pairs, (step, change, torch.where(bends, 1 / bend, 0.0))][-MEMORY:]
        self.place, self.gradient = self.place + step, self.gradient + change
        self._step = torch.where(near, 1.0, self._step / 2)

    def turn(self) -> None:
        """Choose the next ``trial``."""
        direction, shares = -self.gradient, []
        for step, change, inverse_bend in reversed(self._pairs):
            shares.append(inverse_bend * (step * direction).sum(0))
            direction = direction - shares[-1] * change
        direction = direction * self._size
        for (step, change, inverse_bend), share in zip(self._pairs, reversed(shares), strict=True):
            direction = direction + (share - inverse_bend * (change * direction).sum(0)) * step
        downhill = (direction * self.gradient).sum(0) < 0
        self._direction = torch.where(downhill, direction, -self.gradient)
        self.trial = self.place + self._step * self._direction

    def keep(self, columns: torch.Tensor) -> None:
        """Go on with these columns only."""
        for name in ("place", "trial", "gradient", "_direction", "_step", "_size"):
            setattr(self, name, getattr(self, name)[..., columns])
        self._pairs = [(step[:, columns], change[:, columns], bend[columns]) for step, change, bend in self._pairs]
