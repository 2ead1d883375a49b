"""Words: what scores are called, what they say, and how a reader wants numbers written."""

import math

import numpy as np

MINUS = "\N{MINUS SIGN}"
SHOWN_DAYS = 2_932_896  # until 9999-12-31; numbers beyond are no dates that can be written

# Of each score: its name, as written, what it says, its format.
REGRESSION = (
    ("crps", "CRPS", "how far the whole predicted law is from the value, in units of the target", ""),
    ("nll", "NLL", "negative log density of the value, in nats", ""),
    ("rmse", "RMSE", "root mean square error of the predicted mean", ""),
    ("mae", "MAE", "mean absolute error of the predicted mean", ""),
    ("r2", "R²", "share of the variance explained; higher is better", "{:.3f}"),
    ("interval90", "Interval score", "width of the 90% intervals and a price for each miss", ""),
    ("coverage90", "Coverage", "share of values inside the 90% intervals; best at 90%", "{:.1%}"),
    ("sharpness90", "Interval width", "mean width of the 90% intervals; smaller is better if coverage holds", ""),
)
CLASSES = (
    ("log_loss", "Log loss", "negative log probability of the class that came, in nats", ""),
    ("brier", "Brier score", "squared distance of the probabilities from what came; 0 to 2", ""),
    ("accuracy", "Accuracy", "share of rows whose most probable class came; higher is better", "{:.1%}"),
    ("ece", "Calibration error", "mean gap between the confidence in a prediction and its accuracy", "{:.1%}"),
    ("ece_debiased", "Calibration error, debiased", "less what chance makes of it; may be below zero", "{:.1%}"),
)

# Of each score that is no mean over rows, the same.
WHOLE = (
    ("miscalibration", "Miscalibration area", "mean gap between promised and observed coverage, over all levels", ""),
    ("ence", "ENCE", "mean relative gap between errors and predicted deviations, in rows of alike deviation", "{:.1%}"),
    ("correlation", "Error correlation", "of the ranks of errors and predicted deviations; higher is better", "{:.3f}"),
    (
        "ause",
        "AUSE",
        "what a perfect order of doubt would save more, as a share of the error; 0 is perfection",
        "{:.3f}",
    ),
    (
        "classwise_ece",
        "Calibration error, classwise",
        "the mean of those of each class, in bins of equal width",
        "{:.1%}",
    ),
    ("adaptive_ece", "Calibration error, adaptive", "the same in bins of equally many rows", "{:.1%}"),
    ("worst_gap", "Largest calibration error", "the gap of the worst bin", "{:.1%}"),
    ("aurc", "AURC", "error rate of the surest rows, a mean over how many are answered", "{:.3f}"),
)


def number(value: object, form: str = "") -> str:
    """As a reader wants it: in `form` or four digits, a true minus, a dash for what has no value.

    >>> number(-0.123456), number(48211.7), number(None), number(12)
    ('−0.1235', '48,212', '–', '12')
    """
    match value:
        case None:
            return "\N{EN DASH}"
        case float() if not math.isfinite(value):
            return "\N{EN DASH}" if math.isnan(value) else f"{'' if value > 0 else MINUS}\N{INFINITY}"
        case float():
            return (form.format(value) if form else _four_digits(value)).replace("-", MINUS)
        case int() if not isinstance(value, bool):
            return f"{value:,}"
        case _:
            return str(value)


def day(value: float) -> str:
    """Days since 1970-01-01 as an ISO date, with the time of day unless that is midnight, to the second.

    >>> day(19909.0), day(19909.5), day(-0.25)
    ('2024-07-05', '2024-07-05 12:00', '1969-12-31 18:00')
    """
    if not abs(value) <= SHOWN_DAYS:
        return number(value)
    stamp = np.datetime64(round(value * 86_400), "s")
    date, clock = str(stamp).split("T")
    return date if clock == "00:00:00" else f"{date} {clock.removesuffix(':00')}"


def _four_digits(value: float) -> str:
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:#.4g}".rstrip(".")
