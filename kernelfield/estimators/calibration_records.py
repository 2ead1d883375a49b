"""The classes that a calibrated estimator is saved as: choices, what they learned, and the estimators themselves.

Regions of the method "directional" are missing: the network behind them is a module of torch, which is no record.
"""

from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.calibrated_classifier import CalibratedClassifier
from kernelfield.estimators.indicators import ByIndicators, FittedIndicators
from kernelfield.estimators.inputs import Codes
from kernelfield.estimators.regions import MultiOutputRegion
from kernelfield.estimators.resampled import Resampled
from kernelfield.models.expansion import RowsOfExpansion
from kernelfield.uq.conformal.conformity import Absolute, Distributional, Normalised, Quantiles
from kernelfield.uq.conformal.grouping import ByCluster, ByColumn, BySpread, FittedClusters, FittedColumn, FittedSpread
from kernelfield.uq.conformal.mondrian import FittedMondrian, Mondrian
from kernelfield.uq.conformal.predictive import FittedPredictiveSystem, PredictiveSystem
from kernelfield.uq.conformal.ratio import FittedRatio
from kernelfield.uq.conformal.regions import FittedBoxes, FittedEllipsoids
from kernelfield.uq.conformal.resampling import LeftOut
from kernelfield.uq.conformal.split import FittedSplit, Split
from kernelfield.uq.conformal.weighted import FittedWeighted, Weighted
from kernelfield.uq.recalibration.curves import BetaCurve, PiecewiseCurve
from kernelfield.uq.recalibration.levels import BetaLevels, FittedLevels, IsotonicLevels
from kernelfield.uq.recalibration.probabilities import FittedBeta, FittedIsotonic, FittedTemperature, Steps
from kernelfield.uq.recalibration.spread import FittedStdScaling, StdScaling

CALIBRATED: dict[str, type] = {kind.__name__: kind for kind in (Calibrated, CalibratedClassifier, MultiOutputRegion)}
_LEVELS = (BetaCurve, BetaLevels, FittedLevels, FittedStdScaling, IsotonicLevels, PiecewiseCurve, StdScaling)
_CLASSES = (FittedBeta, FittedIsotonic, FittedTemperature, Steps)
_SCORES = (Absolute, Distributional, Normalised, Quantiles)
_GROUPS = (ByCluster, ByColumn, ByIndicators, BySpread, FittedClusters, FittedColumn, FittedIndicators, FittedSpread)
_CONFORMAL = (
    FittedMondrian,
    FittedPredictiveSystem,
    FittedRatio,
    FittedSplit,
    FittedWeighted,
    Mondrian,
    PredictiveSystem,
    Split,
    Weighted,
)
_REGIONS = (FittedBoxes, FittedEllipsoids)
_RESAMPLED = (Codes, LeftOut, Resampled, RowsOfExpansion)
CALIBRATIONS: dict[str, type] = {
    kind.__name__: kind for kind in (*_LEVELS, *_CLASSES, *_SCORES, *_GROUPS, *_CONFORMAL, *_REGIONS, *_RESAMPLED)
}
