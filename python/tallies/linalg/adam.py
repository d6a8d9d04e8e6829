"""Adam, for methods that optimise a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """The displacement ``moved`` of a matrix from its start, with the usual betas and epsilon.

    Args:
        like: A matrix of the shape, dtype and device of the gradients.
        rate: The learning rate.

    Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015, arXiv 1412.6980.
    """

    def __init__(self, like: torch.Tensor, rate: float) -> None:
        import torch

        self.moved, self._mean, self._square = (torch.zeros_like(like) for _ in range(3))
        self._rate = rate
        self._n_steps = 0

    def step(self, gradient: torch.Tensor) -> None:
        """Take one step against the gradient."""
        self._n_steps += 1
        self._mean.lerp_(gradient, 1 - _BETA1)
        self._square.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        root = (self._square / (1 - _BETA2**self._n_steps)).sqrt_().add_(_EPSILON)
        self.moved.addcdiv_(self._mean, root, value=-self._rate / (1 - _BETA1**self._n_steps))
