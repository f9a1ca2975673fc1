"""Linear fields have a closed form, the matrix exponential; others are compared with the map's Jacobian."""

import pytest
import torch
from torch.autograd.functional import jacobian

from gmlib.ode import transport

A = torch.tensor([[0.3, -1.2, 0.4], [0.8, 0.5, 0.0], [-0.1, 0.6, -1.1]], dtype=torch.float64)
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def linear(t, x):
    return (1 + t) * (x @ A.T)


def curved(t, x):
    return torch.sin(x @ A.T + t)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0), (0.3, 0.8)])
def test_a_linear_field_moves_points_by_the_matrix_exponential(start, end):
    time = (end + end**2 / 2) - (start + start**2 / 2)
    z, ladj = transport(linear, X, start, end, 1e-9)
    torch.testing.assert_close(z, X @ torch.linalg.matrix_exp(A * time).T, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(ladj, (A.trace() * time).expand(5), rtol=1e-7, atol=1e-7)


def test_the_volume_change_is_that_of_the_jacobian():
    z, ladj = transport(curved, X, 0.2, 1.1, 1e-9)
    J = torch.stack([jacobian(lambda x: transport(curved, x[None], 0.2, 1.1, 1e-9)[0][0], x) for x in X])
    torch.testing.assert_close(ladj, torch.linalg.slogdet(J)[1], rtol=1e-6, atol=1e-6)
    back, loss = transport(curved, z, 1.1, 0.2, 1e-9)
    torch.testing.assert_close(back, X, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss, -ladj, rtol=1e-6, atol=1e-6)


def test_directions_stand_for_the_trace():
    """Of a linear field, e . J e is the same at all points and times, but for the field's strength."""
    e = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    _, ladj = transport(linear, X, 0.0, 1.0, 1e-9, e)
    torch.testing.assert_close(ladj, 1.5 * torch.einsum("kni,ij,knj->n", e, A, e), rtol=1e-7, atol=1e-7)


def test_a_smaller_tolerance_comes_closer():
    exact = X @ torch.linalg.matrix_exp(1.5 * A).T
    errors = [(transport(linear, X, 0.0, 1.0, rtol)[0] - exact).abs().max() for rtol in (1e-2, 1e-5, 1e-8)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
