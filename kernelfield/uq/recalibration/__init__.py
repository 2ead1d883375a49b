"""Recalibration: correcting the spread and shape of predictive laws by what happened on held-out rows."""
