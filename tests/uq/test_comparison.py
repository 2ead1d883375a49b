"""Models are ranked by their losses, and told apart only where paired differences say so."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.comparison import Comparison, Contender, intervals, ranked, resampled
from kernelfield.uq.scores import Evaluation

NORMAL = stats.norm
Z = 1.6448536269514722  # of a central 90% interval


def gaussian(y: np.ndarray, mean: np.ndarray, std: float) -> Evaluation:
    """What scipy says of Gaussians, without the code under test."""
    law = NORMAL(mean, std)
    z = (y - mean) / std
    crps = std * (z * (2 * NORMAL.cdf(z) - 1) + 2 * NORMAL.pdf(z) - 1 / np.sqrt(np.pi))
    low, high = mean - Z * std, mean + Z * std
    return Evaluation(y, mean, np.full_like(y, std), low, high, law.cdf(y), -law.logpdf(y), crps)


def world(sizes: tuple[int, ...] = (40, 39, 39), seed: int = 0) -> dict[str, Contender]:
    """The truth, nearly the truth, twice as unsure as it should be, and the mean."""
    rng = np.random.default_rng(seed)
    signal = [3 * rng.standard_normal((n, 1)) for n in sizes]
    y = [f + rng.standard_normal(f.shape) for f in signal]
    near = [f + 0.05 * rng.standard_normal(f.shape) for f in signal]
    laws = {"near": (near, 1.0), "wide": (signal, 2.0), "true": (signal, 1.0), "mean": ([0 * f for f in signal], 3.2)}
    return {
        name: Contender(
            name, [gaussian(*pair, std) for pair in zip(y, means, strict=True)], {"fit": [cost] * len(sizes)}
        )
        for cost, (name, (means, std)) in enumerate(laws.items(), 1)
    }


def comparison(**changes: object) -> Comparison:
    models = world()
    rule = models.pop("mean")
    return replace(Comparison(["y"], list(models.values()), rule, rows=118, features=["a", "b"]), **changes)


def losses(K: int, n: int, between: float, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [between * rng.standard_normal() + rng.standard_normal((n, 1)) for _ in range(K)]


@pytest.mark.parametrize(("K", "n", "between"), [(1, 50, 0.0), (2, 30, 1.0), (5, 20, 0.5)])
def test_the_bootstrap_has_the_variance_of_its_two_stages(K: int, n: int, between: float) -> None:
    splits = losses(K, n, between, 3)
    means, variances = np.array([s.mean() for s in splits]), np.array([s.var() for s in splits])
    exact = (means.var() + (variances / n).mean()) / max(K - 1, 1)
    drawn = resampled(splits, draws=20_000)[:, 0]
    assert drawn.mean() == pytest.approx(means.mean(), abs=6 * np.sqrt(exact / 20_000))
    assert drawn.var() == pytest.approx(exact, rel=6 * np.sqrt(2 / 20_000))  # the standard error of a variance


def test_where_only_rows_differ_the_variance_is_that_of_the_corrected_t_test() -> None:
    K, n, sets = 5, 25, 300
    variances = [resampled(losses(K, n, 0.0, seed), draws=300).var() for seed in range(sets)]
    error = np.std(variances) / np.sqrt(sets)
    rows = (n - 1) / n  # a plain bootstrap of n rows has this share of the variance
    assert np.mean(variances) == pytest.approx((1 / K + rows / (K - 1)) / n, abs=6 * error)


def test_an_interval_is_that_of_scipy_for_a_single_split() -> None:
    splits = losses(1, 60, 0.0, 1)
    mine = np.quantile(resampled(splits, draws=20_000)[:, 0], [0.025, 0.975])
    theirs = stats.bootstrap((splits[0][:, 0],), np.mean, n_resamples=20_000, method="percentile", rng=2)
    spread = splits[0].std() / np.sqrt(60)
    # The error of a 2.5% point of 20000 draws is 0.019 standard deviations; two of them, six times.
    np.testing.assert_allclose(mine, theirs.confidence_interval, atol=6 * 1.5 * 0.019 * spread)


@pytest.mark.parametrize("between", [0.0, 0.15])
def test_intervals_hold_the_difference_that_is_there(between: float) -> None:
    held = 0
    for seed in range(200):
        drawn = resampled(losses(5, 40, between, seed), draws=400)[:, 0]
        low, high = np.quantile(drawn, [0.025, 0.975])
        held += low <= 0 <= high
    assert held / 200 > 0.95 - 6 * np.sqrt(0.95 * 0.05 / 200)


def test_rows_that_are_hard_for_both_say_nothing() -> None:
    models = world()
    rng = np.random.default_rng(5)
    hard = [100 * rng.standard_normal((n, 1)) for n in (40, 39, 39)]

    def harder(one: Contender) -> Contender:
        pairs = zip(one.evaluations, hard, strict=True)
        return replace(one, evaluations=[replace(e, nll=e.nll + extra) for e, extra in pairs])

    (plain,) = intervals([models["wide"]], models["true"])
    (same,) = intervals([harder(models["wide"])], harder(models["true"]))
    np.testing.assert_allclose(same, plain, rtol=1e-9)


def test_models_stand_in_the_order_of_their_mean_losses() -> None:
    models = world()
    standings = ranked(list(models.values()))
    expected = sorted(models.values(), key=lambda one: np.mean([e.nll.mean() for e in one.evaluations]))
    assert [one.contender for one in standings] == expected
    assert [one.rank for one in standings] == [1, 2, 3, 4]
    assert {one.contender.name: one.open for one in standings} == {
        "true": True,
        "near": True,
        "wide": False,
        "mean": False,
    }
    # A Gaussian twice too wide costs log 2 - 3/8 nats, but for the noise of 118 rows.
    gap = {one.contender.name: one for one in standings}["wide"]
    assert gap.low < np.log(2) - 0.375 < gap.high
    assert gap.difference == pytest.approx(np.mean([(w - t).mean() for w, t in zip(
        models["wide"].losses(), models[standings[0].contender.name].losses(), strict=True)]))  # fmt: skip


def test_a_model_that_called_a_value_impossible_comes_last_and_has_no_interval() -> None:
    models = world()
    first = models["true"].evaluations[0]
    nll = first.nll.copy()
    nll[3] = np.inf
    models["never"] = replace(
        models["true"], name="never", evaluations=[replace(first, nll=nll), *models["true"].evaluations[1:]]
    )
    last = ranked(list(models.values()))[-1]
    assert (last.contender.name, last.difference, last.low, last.open) == ("never", np.inf, np.inf, False)
    content = comparison(contenders=[models["true"], models["never"]]).to_dict()
    assert content["models"][1]["scores"]["nll"] is None
    json.dumps(content, allow_nan=False)


def test_scores_are_means_over_splits() -> None:
    one = world()["wide"]
    scores = one.scores()
    rmse = [np.sqrt(np.mean((e.y - e.mean) ** 2)) for e in one.evaluations]
    inside = [np.mean((e.low <= e.y) & (e.y <= e.high)) for e in one.evaluations]
    assert scores["rmse"] == pytest.approx(np.mean(rmse))
    assert scores["coverage90"] == pytest.approx(np.mean(inside))
    assert scores["sharpness90"] == pytest.approx(2 * Z * 2.0)
    assert one.split_scores()["rmse"] == pytest.approx(rmse)


def test_a_lead_that_chance_may_explain_is_said_to_be_one() -> None:
    lead = comparison().verdicts()
    assert (lead[0].grade, lead[0].title) == ("open", "true leads, and chance may explain its lead")
    assert "near cannot be told apart from it. near is the quickest of them." in lead[0].sentence
    assert [one.grade for one in lead[1:]] == ["good", "good"]
    models = world()
    sure = comparison(contenders=[models["true"], models["wide"]]).verdicts()[0]
    assert (sure.grade, sure.title) == ("good", "true is the best")
    alone = comparison(contenders=[models["wide"]]).verdicts()
    assert (alone[0].grade, alone[0].title) == ("open", "wide alone was measured")
    assert alone[1].title == "wide: intervals are too wide"


def test_models_no_better_than_the_baseline_are_named() -> None:
    models = world()
    blind = replace(models["mean"], name="blind")
    assert comparison().below_rule() == []
    assert comparison(contenders=[models["true"], blind]).below_rule() == ["blind"]


def test_the_record_is_strict_json_and_tells_all() -> None:
    content = json.loads(json.dumps(comparison(failures={"grid": "no grid"}).to_dict(), allow_nan=False))
    assert [one["model"] for one in content["models"]] == ["true", "near", "wide"]
    assert content["ranked_by"] == "nll"
    assert content["splits"] == 3
    assert content["failures"] == {"grid": "no grid"}
    assert content["baseline"]["rank"] is None
    assert content["models"][2]["distinguishable"] is True
    assert content["models"][2]["seconds"] == {"fit": [2, 2, 2]}
    assert len(content["models"][0]["calibration"][0]["levels"]) == 99


def test_classes_are_ranked_by_log_loss() -> None:
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 2, 60) for _ in range(2)]
    said = {"sharp": 0.9, "shy": 0.6, "rule": 0.5}

    def proba(y: np.ndarray, p: float) -> np.ndarray:
        return np.where(np.eye(2)[y] == 1, p, 1 - p)

    models = {n: Contender(n, [ClassEvaluation.of(proba(y, p), y) for y in labels]) for n, p in said.items()}
    result = Comparison(["kind"], [models["shy"], models["sharp"]], models["rule"], classes=["a", "b"])
    assert [one.contender.name for one in result.standings] == ["sharp", "shy"]
    assert result.standings[1].difference == pytest.approx(np.log(0.9 / 0.6))
    assert result.best.scores()["log_loss"] == pytest.approx(-np.log(0.9))
    assert result.verdicts()[0].sentence.startswith("sharp has the lowest mean log loss, 0.1054 nats a row")
    json.dumps(result.to_dict(), allow_nan=False)


def test_models_must_have_seen_the_same_rows() -> None:
    with pytest.raises(ValueError, match="near was not measured on the rows of mean"):
        comparison(contenders=[world(seed=1)["near"]])
    with pytest.raises(ValueError, match="near was not measured"):
        comparison(contenders=[world((40, 39))["near"]])
    with pytest.raises(ValueError, match="at least one model"):
        comparison(contenders=[])
