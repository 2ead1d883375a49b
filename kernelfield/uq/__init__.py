"""Uncertainty quantification: scores and reports of any posterior."""
