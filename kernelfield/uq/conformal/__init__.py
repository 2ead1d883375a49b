"""Conformal prediction: intervals and laws whose coverage is guaranteed for finitely many exchangeable rows."""
