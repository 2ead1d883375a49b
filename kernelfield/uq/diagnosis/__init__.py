"""Diagnosis: where, when and on which rows a model's uncertainty fails, and how sure that is."""
