"""Muon: momentum whose every step turns a layer's weights by as much in all directions.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024: the momentum of a weight matrix is replaced by
the nearest matrix with orthogonal rows or columns. Rare directions, which momentum alone hardly follows, then count as much as
frequent ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Quintic Newton-Schulz, the paper's coefficients: they send singular values from 0.01 to 1 to between 0.7 and 1.2 in few steps.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 4


class Muon(torch.optim.Optimizer):
    """For weights that mix channels, (O, I, ...) with O rows; Nesterov momentum. `lr` is how far a step moves each singular
    value of a layer, times sqrt(O / I...) where there are more rows than columns. Weight decay is decoupled."""

    def __init__(
        self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the weights that have a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                momentum = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
                momentum.mul_(group["momentum"]).add_(weight.grad)
                update = orthogonal(weight.grad.add(momentum, alpha=group["momentum"]).flatten(1))
                rows, columns = update.shape
                weight.mul_(1.0 - group["lr"] * group["weight_decay"])
                weight.add_(update.view_as(weight), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonal(x_OI: Tensor) -> Tensor:
    """A matrix with the singular vectors of this one and singular values of about 1 (small ones less).

    The polynomial of x is one of x xT, times x: all steps but the last product are those of the small square matrix, which
    takes less than half the time of stepping with x itself (convolutions of `tiny`).
    """
    if x_OI.shape[0] > x_OI.shape[1]:
        return orthogonal(x_OI.T).T
    a, b, c = COEFFICIENTS
    x_OI = x_OI / x_OI.norm().clamp_min(torch.finfo(x_OI.dtype).tiny)
    square_OO, product_OO = x_OI @ x_OI.T, torch.eye(len(x_OI), dtype=x_OI.dtype, device=x_OI.device)
    for _ in range(STEPS):
        step_OO = torch.addmm(square_OO, square_OO, square_OO, beta=b, alpha=c)
        step_OO.diagonal().add_(a)
        product_OO = step_OO @ product_OO
        square_OO = step_OO @ square_OO @ step_OO
    return product_OO @ x_OI
