"""Tests of kernelfield.uq.recalibration."""
