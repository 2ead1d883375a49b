"""Tests of what several processes compute together. `jobs` starts them."""
