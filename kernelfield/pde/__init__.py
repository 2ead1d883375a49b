"""Partial differential equations solved by Gaussian processes, with error bars."""
