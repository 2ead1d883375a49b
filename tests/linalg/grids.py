"""Random small grids: factors of every kind, masks and noises, and their dense matrices."""

import torch


def kron(factors):
    value = factors[0]
    for factor in factors[1:]:
        value = torch.kron(value, factor)
    return value


def stationary(m, length, kind="rbf"):
    """A stationary kernel on m points of [0, 1]."""
    r = (torch.linspace(0, 1, m)[:, None] - torch.linspace(0, 1, m)).abs() / length
    return {"rbf": (-r.square() / 2).exp(), "matern12": (-r).exp()}[kind]


def factor(m, kind):
    match kind:
        case "dense":
            root = torch.randn(m, m)
            return root @ root.mT / m + 0.01 * torch.eye(m)
        case "constant":
            return torch.ones(m, m)
        case "repeated":  # eigenvalues that coincide, some of them zero, in no basis that is special
            Q = torch.linalg.qr(torch.randn(m, m)).Q
            return (Q * torch.randint(0, 3, (m,))) @ Q.mT
        case "low rank":  # an axis whose points repeat
            root = torch.randn(m, (m + 1) // 2)
            return root @ root.mT
        case "eye":  # every eigenvalue coincides
            return torch.eye(m)
        case _:
            return stationary(m, 0.4, kind)


KINDS = ("dense", "rbf", "eye", "low rank", "matern12")


def random_grid(seed, cells=400):
    """Factors of 1 to 4 axes with at most `cells` cells, and a scale."""
    generator = torch.Generator().manual_seed(seed)

    def whole(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    torch.manual_seed(seed)
    sizes = [whole(1, 9) for _ in range(whole(1, 5))]
    while torch.tensor(sizes).prod() > cells:
        sizes.pop()
    return [factor(m, KINDS[whole(0, len(KINDS))]) for m in sizes], 0.5 + whole(0, 30) / 10


def random_noise(factors, kind):
    """A number, vectors along the axes, or a value in each cell."""
    shape = [len(K) for K in factors]
    if kind == "even":
        return 0.3
    vectors = [torch.rand(m).add(0.1) for m in shape]
    if kind == "separable":
        return vectors
    return kron(vectors).reshape(shape) * torch.randn(shape).exp()


def noise_matrix(noise, n):
    if isinstance(noise, float):
        return noise * torch.eye(n)
    return torch.diag(noise.flatten() if torch.is_tensor(noise) else kron(noise))


def dense_gradient(factors, noise, scale, observed, Y, c=1.0):
    """The gradient of c/2 tr alpha' A alpha - m/2 log|A| (alpha held), by automatic differentiation."""
    leaves = [K.clone().requires_grad_() for K in factors]
    size = torch.tensor(scale).requires_grad_()
    parts = [torch.as_tensor(s).clone().requires_grad_() for s in ([noise] if not isinstance(noise, list) else noise)]
    n = observed.numel()
    spread = kron(parts) if isinstance(noise, list) else parts[0].flatten() if parts[0].ndim else parts[0].expand(n)
    A = (size * kron(leaves) + torch.diag(spread))[observed.flatten()][:, observed.flatten()]
    alpha = torch.linalg.solve(A.detach(), Y)
    value = c / 2 * (alpha * (A @ alpha)).sum() - Y.shape[1] / 2 * torch.logdet(A)
    by_factors, (by_scale,), by_noise = (
        torch.autograd.grad(value, wanted, retain_graph=True) for wanted in (leaves, [size], parts)
    )
    return by_factors, by_scale, list(by_noise)


def symmetric(G):
    """Only the symmetric part of a derivative in a symmetric matrix means anything."""
    return (G + G.mT) / 2
