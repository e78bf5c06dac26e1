"""Muon: what a step of it does to a matrix, whatever its scale, shape and layout."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from supernets.muon import COEFFICIENTS, STEPS, Muon, orthogonal

SIZES = st.integers(1, 40)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(SIZES, SIZES, st.integers(0, 1000))
def test_the_polynomial_is_that_of_stepping_with_the_matrix_itself(rows, columns, seed):
    x_OI = drawn(rows, columns, seed=seed)
    a, b, c = COEFFICIENTS
    wanted_OI = x_OI / x_OI.norm()
    for _ in range(STEPS):
        square_OO = wanted_OI @ wanted_OI.T
        wanted_OI = a * wanted_OI + (b * square_OO + c * square_OO @ square_OO) @ wanted_OI
    torch.testing.assert_close(orthogonal(x_OI), wanted_OI, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (1, 9)])
def test_what_comes_out_has_the_same_directions_all_of_about_the_same_length(shape):
    x_OI = drawn(*shape)
    left, _, right = torch.linalg.svd(x_OI, full_matrices=False)
    found = left.T @ orthogonal(x_OI) @ right.T
    lengths = found.diagonal()
    assert ((lengths > 0.6) & (lengths < 1.25)).all()
    torch.testing.assert_close(found, torch.diag(lengths), atol=1e-9, rtol=0)


def test_the_scale_of_a_gradient_is_no_matter_and_none_gives_none():
    x_OI = drawn(6, 20)
    torch.testing.assert_close(orthogonal(1e-12 * x_OI), orthogonal(x_OI))
    assert not orthogonal(torch.zeros(3, 5)).any()


def moved(weight: torch.Tensor, gradients: list[torch.Tensor], **how: float) -> torch.Tensor:
    parameter = nn.Parameter(weight.clone())
    optimiser = Muon([parameter], **{"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0} | how)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimiser.step()
    return parameter.detach()


def test_a_step_goes_against_the_gradient_by_the_rate_in_every_direction():
    weight, gradient = drawn(8, 4, 3, 3), drawn(8, 4, 3, 3, seed=1)
    step_OI = (weight - moved(weight, [gradient])).flatten(1)
    torch.testing.assert_close(step_OI, 0.1 * orthogonal(gradient.flatten(1)))
    tall = drawn(32, 2, 1, 1)
    step_OI = (tall - moved(tall, [tall])).flatten(1)
    torch.testing.assert_close(step_OI, 0.1 * 4.0 * orthogonal(tall.flatten(1)))


def test_momentum_is_nesterovs():
    weight, first, second = (drawn(4, 6, 1, 1, seed=seed) for seed in range(3))
    step = moved(weight, [first], momentum=0.9) - moved(weight, [first, second], momentum=0.9)
    buffer = 0.9 * first + second
    torch.testing.assert_close(step.flatten(1), 0.1 * orthogonal((second + 0.9 * buffer).flatten(1)))


def test_decay_shrinks_the_weights_beside_the_step():
    weight, gradient = drawn(4, 6, 1, 1), drawn(4, 6, 1, 1, seed=1)
    with_decay = moved(weight, [gradient], weight_decay=0.5)
    torch.testing.assert_close(moved(weight, [gradient]) - with_decay, 0.1 * 0.5 * weight)


def test_weights_without_a_gradient_stay_and_layouts_agree():
    weight, gradient = drawn(8, 4, 3, 3), drawn(8, 4, 3, 3, seed=1)
    parameter = nn.Parameter(weight.clone())
    Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.5).step()
    assert torch.equal(parameter, weight)
    last = {"memory_format": torch.channels_last}
    placed = moved(weight.contiguous(**last), [gradient.contiguous(**last)] * 2, momentum=0.9)
    assert placed.is_contiguous(**last)
    torch.testing.assert_close(placed, moved(weight, [gradient] * 2, momentum=0.9))
