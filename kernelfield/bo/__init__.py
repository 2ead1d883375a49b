"""Bayesian optimisation: surrogates in BoTorch and in Optuna, acquisition functions, spaces and problems."""
