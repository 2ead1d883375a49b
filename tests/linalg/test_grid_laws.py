"""Every solver of a grid answers as dense algebra does, up to rounding, on grids that hypothesis makes."""

import warnings

import pytest
import torch
from hypothesis import given

from kernelfield.core.numerics import NotConverged
from kernelfield.linalg.kronecker import Kronecker, khatri_rao
from kernelfield.linalg.latent import Latent
from kernelfield.linalg.uneven import Uneven
from tests.linalg.drawn import CASES, Case, cases
from tests.linalg.grids import dense_gradient, symmetric

TOLERANCE = 1e-8  # of iterative solves


def build(case: Case, **choices):
    if torch.is_tensor(case.noise):
        return Uneven.of(case.factors, case.noise, case.scale, case.observed, **choices)
    return Latent.of(Kronecker.of(case.factors, case.noise, case.scale), case.observed, **choices)


def near(a, b, slack):
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    assert ((a - b).abs().max() <= slack * b.abs().max()).item()


@CASES
@given(cases())
def test_full_grids(case):
    solver, A = Kronecker.of(case.factors, case.noise, case.scale), case.matrix
    n, slack = len(A), case.rounding
    B, root = torch.randn(n, 3), case.spread.sqrt()[:, None]
    assert case.error(solver.solve(B), B) <= 1e-12
    near(solver.multiply(B) / root, A @ B / root, 1e-12)
    assert abs(solver.logdet().item() - case.logdet) <= case.logdet_rounding
    near(solver.unwhiten(solver.whiten(B)) * root, solver.solve(B) * root, slack)
    # Roots, in units of the noise: L L' = A, L^-1 A L^-T = 1.
    eye = torch.eye(n)
    L, W = solver.colour(eye) / root, solver.whiten(eye) * root.mT
    near(L @ L.mT, case.scaled, 1e-12)
    near(W @ case.scaled @ W.mT, eye, slack)
    prior = solver.colour_prior(eye) / root
    near(prior @ prior.mT + eye, case.scaled, 1e-12)
    inverse = torch.linalg.inv(case.scaled)
    near(solver.inverse_diagonal() * case.spread, inverse.diagonal(), slack)
    crosses = [torch.randn(len(K), 4) for K in case.factors]
    k = khatri_rao(crosses) / root
    near(solver.reduction(crosses, crosses), k.mT @ inverse @ k, slack)
    near(solver.variance_reduction(crosses), (k * (inverse @ k)).sum(0), slack)


@CASES
@given(cases(("even", "separable", "uneven"), masked=True))
def test_exact_solvers_of_incomplete_grids(case):
    solver, n = build(case), int(case.observed.sum())
    B = torch.randn(n, 2)
    found = solver.solution(B)
    assert solver.method != "iterative" and found.converged
    assert case.error(found.X, B) <= 1e-12
    residual = (B - case.matrix @ found.X).norm(dim=0) / B.norm(dim=0)
    assert ((found.residual - residual).abs() <= 1e-2 * residual + case.rounding).all()
    assert abs(solver.logdet().item() - case.logdet) <= case.logdet_rounding
    crosses = [torch.randn(len(K), 4) for K in case.factors]
    k = khatri_rao(crosses)[case.observed.flatten()] / case.spread.sqrt()[:, None]
    near(solver.variance_reduction(crosses), (k * torch.linalg.solve(case.scaled, k)).sum(0), case.rounding)


@CASES
@given(cases(("even", "separable", "uneven"), masked=True, lowest=-3.0, cells=30))
def test_gradients_of_incomplete_grids(case):
    solver, Y = build(case), torch.randn(int(case.observed.sum()), 2)
    by_factors, by_scale, by_noise = dense_gradient(case.factors, case.noise, case.scale, case.observed, Y, c=0.7)
    pull = solver.pull(solver.solve(Y), c=0.7)
    for found, expected in zip(pull.factors, by_factors, strict=True):
        near(symmetric(found), symmetric(expected), 1e3 * case.rounding)
    near(pull.scale, by_scale, 1e3 * case.rounding)
    for found, expected in zip(pull.noise if isinstance(pull.noise, list) else [pull.noise], by_noise, strict=True):
        near(found, expected, 1e3 * case.rounding)


@CASES
@given(cases(("even", "separable", "uneven"), masked=True, lowest=-6.0))
def test_iterative_solvers_of_incomplete_grids_reach_what_they_report(case):
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", NotConverged)
        for name in ("latent", "uneven"):
            patch.setattr(f"kernelfield.linalg.{name}.DENSE", 0)
        solver, B = build(case, tolerance=TOLERANCE), torch.randn(int(case.observed.sum()), 2)
        found, determinant = solver.solution(B), solver.determinant
    residual = (B - case.matrix @ found.X).norm(dim=0) / B.norm(dim=0)
    assert (found.residual - residual).abs().max() <= 1e-9 + 1e-2 * residual.max()
    assert found.converged == bool((residual <= TOLERANCE * (1 + 1e-6)).all()) == (not said)
    assert abs(determinant.value - case.logdet) <= 8 * determinant.error + case.logdet_rounding
