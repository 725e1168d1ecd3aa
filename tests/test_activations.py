"""The faster forms of activations are the plain ones, in value, gradient and under transforms."""

from __future__ import annotations

import pytest
import torch
from small import close

from hypermarl.activations import ACTIVATIONS, QUICK


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", QUICK)
def test_quick_forms_are_the_plain_ones(name: str, dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-12.0, 12.0, 999), torch.tensor([0.0, 1e-4, -1e-4, 88.0, -1e4])]).to(dtype)
    plain, quick = x.clone().requires_grad_(), x.clone().requires_grad_()
    wanted, found = ACTIVATIONS[name](plain), QUICK[name](quick * 1.0)
    assert found.dtype == dtype
    close(found, wanted, atol=4e-7)
    weights = torch.randn(len(x), generator=torch.Generator().manual_seed(0)).to(dtype)
    torch.autograd.backward([wanted, found], [weights, weights])
    close(quick.grad, plain.grad, atol=1e-6)


def test_a_quick_form_can_be_mapped_over_and_differentiated() -> None:
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    close(torch.func.vmap(QUICK["tanh"])(x), torch.tanh(x), atol=4e-7)
    slope = torch.func.grad(lambda y: QUICK["tanh"](y * 1.0).sum())(x)
    close(slope, 1 - torch.tanh(x).square(), atol=1e-6)
