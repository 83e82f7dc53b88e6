"""The Muon optimiser (Keller Jordan, 2024) for the matrices of the layers, in float32.

`torch.optim.Muon` orthogonalises in bfloat16, which takes several seconds a step on a CPU that has no such arithmetic.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Bring all singular values of a matrix near 1 by a quintic Newton-Schulz iteration."""
    x = matrix / (matrix.norm() + 1e-7)
    wide = x if x.shape[0] <= x.shape[1] else x.T
    for _ in range(steps):
        square = wide @ wide.T
        wide = 3.4445 * wide + (2.0315 * square @ square - 4.7750 * square) @ wide
    return wide if x.shape[0] <= x.shape[1] else wide.T


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised and scaled to the size of one of AdamW (Liu et al. 2025, Moonlight).

    Args:
        matrices: parameters of two dimensions.
        lr: the learning rate, as for AdamW.
        momentum: of the gradients, with Nesterov's look ahead.
        weight_decay: decoupled, as in AdamW.
    """

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all parameters that have gradients."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                buffer = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                buffer.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalise(matrix.grad.lerp(buffer, group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)
