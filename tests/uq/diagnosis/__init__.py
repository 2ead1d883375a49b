"""Tests of kernelfield.uq.diagnosis."""
