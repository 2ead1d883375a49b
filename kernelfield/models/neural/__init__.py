"""Finite networks as surrogates: trained, averaged, sampled, and linearised."""
