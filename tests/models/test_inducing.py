import torch
from torch.testing import assert_close

from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.models import inducing
from kernelfield.models.inducing import by_clusters, by_variance


def generator():
    return torch.Generator().manual_seed(0)


def greedy(K, count):
    """Rows by brute force: the largest diagonal entry of the Schur complement, again and again."""
    chosen = [0]
    while len(chosen) < count:
        cross = K[chosen]
        left = (K - cross.mT @ torch.linalg.solve(K[chosen][:, chosen], cross)).diagonal().clone()
        left[chosen] = -1
        chosen.append(int(left.argmax()))
    return chosen


def test_inputs_are_those_of_the_largest_conditional_variances():
    X, kernel = torch.rand(60, 2), Matern(1.5)
    K = kernel(X).to_dense().detach()
    assert_close(by_variance(kernel, X, 12, generator=generator()), X[greedy(K, 12)])


def test_what_is_known_before_counts():
    X, kernel = torch.rand(50, 1), RBF()
    with torch.no_grad():
        K = kernel(X).to_dense()
        half = torch.linalg.solve_triangular(torch.linalg.cholesky(K[:3, :3]), K[:3], upper=False)
        left = (K - half.mT @ half).diagonal()
    chosen = by_variance(kernel, X, 1, generator=generator(), known=half)
    assert_close(chosen[0], X[left.argmax()])


def test_repeated_rows_are_taken_once_and_a_smooth_process_needs_few():
    X = torch.rand(8, 1).repeat(4, 1)
    assert len(by_variance(Matern(0.5), X, 20, generator=generator())) == 8
    X, kernel = torch.linspace(0, 1, 300)[:, None], RBF()
    assert len(by_variance(kernel, X, 100, generator=generator())) < 12
    assert len(by_variance(kernel, X, 100, generator=generator(), enough=1e-2)) < 4


def test_many_rows_are_sampled(monkeypatch):
    monkeypatch.setattr(inducing, "CANDIDATES", 50)
    X = torch.rand(500, 2)
    for Z in (by_variance(RBF(), X, 10, generator=generator()), by_clusters(X, 10, generator=generator())):
        assert Z.shape == (10, 2)


def test_clusters_are_found_at_their_means():
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    parts = [c + 0.1 * torch.randn(40, 2) for c in centres]
    found = by_clusters(torch.cat(parts), 3, generator=generator())
    expect = torch.stack([p.mean(0) for p in parts])
    nearest = torch.cdist(expect, found).argmin(-1)
    assert_close(found[nearest], expect)


def test_a_weight_of_three_is_three_rows_and_equal_rows_are_one_centre():
    X = torch.tensor([[0.0], [1.0], [9.0]])
    centre = by_clusters(X, 2, weight=torch.tensor([3.0, 1.0, 1.0]), generator=generator())
    assert_close(centre.sort(0).values, torch.tensor([[0.25], [9.0]]))
    assert len(by_clusters(torch.ones(5, 2), 3, generator=generator())) == 1
