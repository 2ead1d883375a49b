import json

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from kernelfield.models.neural.prior_checkpoint import SHIPPED, Checkpoint, shipped
from kernelfield.models.neural.set_transformer import Architecture, SetTransformer

SMALL = Architecture(layers=2, width=16, heads=2, bins=10, metrics=2, directions=3, summary=8)


def checkpoint(standardise: bool = True) -> Checkpoint:
    torch.manual_seed(0)
    parameters = {name: value.detach() for name, value in SetTransformer(SMALL).double().named_parameters()}
    return Checkpoint(SMALL, parameters, torch.linspace(-2, 2, 11), standardise, 20, 3, "a prior", "no training")


def tables(*batch: int, n: int = 6, t: int = 4, m: int = 2) -> tuple[torch.Tensor, ...]:
    return torch.randn(*batch, n, 3), torch.randn(*batch, n, m), torch.randn(*batch, t, 3)


def same(one, other):
    assert_close(one.mean, other.mean)
    assert_close(one.variance, other.variance)
    y = torch.linspace(-3, 3, one.mean.numel()).reshape(one.mean.shape)
    assert_close(one.log_prob(y), other.log_prob(y))


@pytest.mark.parametrize("standardise", [False, True])
def test_many_tasks_in_one_pass_are_those_one_by_one(standardise):
    net, (X, Y, at), weight = checkpoint(standardise), tables(3, 2), torch.rand(3, 2, 6) + 0.5
    whole = net.law(X, Y, at, weight=weight)
    assert whole.mean.shape == (3, 2, 4, 2)
    for i, j in ((0, 0), (2, 1)):
        one = net.law(X[i, j], Y[i, j], at[i, j], weight=weight[i, j])
        assert one.mean.shape == (4, 2)
        assert_close(one.mean, whole.mean[i, j])
        assert_close(one.variance, whole.variance[i, j])


@pytest.mark.parametrize("standardise", [False, True])
def test_outputs_are_predicted_one_by_one(standardise):
    net, (X, Y, at) = checkpoint(standardise), tables()
    assert_close(net.law(X, Y, at).mean[:, [1]], net.law(X, Y[:, [1]], at).mean)


def test_units_of_the_data_do_not_matter_where_a_checkpoint_standardises():
    net, (X, Y, at) = checkpoint(), tables()
    scale, shift, stretch = torch.tensor([3.0, 1e-3]), torch.tensor([-50.0, 1.0]), torch.tensor([1.0, 1e4, 1e-4])
    same(net.law(X * stretch + 7, Y * scale + shift, at * stretch + 7), net.law(X, Y, at).affine(scale, shift))


def test_weights_are_relative_where_a_checkpoint_standardises_by_them():
    net, (X, Y, at) = checkpoint(), tables()
    units = torch.full((6,), 1.0)
    same(net.law(X, Y, at, weight=units), net.law(X, Y, at))
    assert (net.law(X, Y, at, weight=torch.arange(1.0, 7.0)).mean - net.law(X, Y, at).mean).abs().max() > 1e-6


def test_f_and_y_have_laws_of_their_own():
    net, (X, Y, at) = checkpoint(), tables()
    assert (net.law(X, Y, at, noise=True).variance != net.law(X, Y, at, noise=False).variance).all()


def test_targets_that_are_all_equal_are_predicted():
    net, (X, _, at) = checkpoint(), tables()
    law = net.law(X, torch.full((6, 1), 4.0), at)
    assert_close(law.mean, torch.full((4, 1), 4.0), atol=1e-6, rtol=0)
    floored = net.law(X, torch.full((6, 1), 4.0), at, floor=0.5)
    assert (floored.variance > 0.01).all()


def test_constant_columns_and_single_rows_are_no_trouble():
    net, (X, Y, at) = checkpoint(), tables()
    X[:, 1] = 5.0
    assert net.law(X, Y, at).mean.isfinite().all()
    assert net.law(X[:1], Y[:1], at).variance.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_law_has_the_precision_of_the_data(dtype):
    law = checkpoint().law(*(t.to(dtype) for t in tables()))
    assert law.logits.dtype == law.edges.dtype == dtype


def test_a_file_gives_back_what_was_saved(tmp_path):
    net, path = checkpoint(), tmp_path / "net.safetensors"
    net.save(path)
    again = Checkpoint.load(path)
    data = tables()
    assert torch.equal(again.law(*data).logits, net.law(*data).logits)
    assert (again.rows, again.columns, again.prior, again.architecture) == (20, 3, "a prior", SMALL)
    assert again.size == sum(p.numel() for p in SetTransformer(SMALL).parameters())


def test_what_is_no_checkpoint_gets_a_sentence(tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(FileNotFoundError, match="no checkpoint file nothing; give a path, or the name .*general.*rbf"):
        Checkpoint.load("nothing")
    path.write_bytes(b"not a file of tensors")
    with pytest.raises(ValueError, match="is not a checkpoint, or is damaged"):
        Checkpoint.load(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="is not a checkpoint of a prior-fitted network"):
        Checkpoint.load(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format_version": 2}, "has format 2, and this version reads 1; upgrade"),
        ({"architecture": {"layers": 2, "depth": 1}}, "is damaged: .*depth"),
        ({"architecture": {"layers": 3, "width": 16, "heads": 2, "bins": 10}}, "its parameters are not those of"),
    ],
)
def test_a_checkpoint_that_does_not_fit_gets_a_sentence(tmp_path, change, sentence):
    net, path = checkpoint(), tmp_path / "net.safetensors"
    settings = {"format": "kernelfield prior-fitted network", "format_version": 1, "architecture": vars(SMALL)}
    settings |= {"standardise": True, "rows": 3, "columns": 2, "prior": "", "training": ""} | change
    save_file({**net.parameters, "edges": net.edges}, path, metadata={"settings": json.dumps(settings)})
    with pytest.raises(ValueError, match=sentence):
        Checkpoint.load(path)


def test_the_checkpoints_of_the_package_are_small():
    assert shipped() == ["general", "rbf"]
    assert sum(path.stat().st_size for path in SHIPPED.glob("*")) < 5e6
    for name in shipped():
        net = Checkpoint.load(name)
        assert "TaskPrior(" in net.prior
        assert "CPU time" in net.training
