"""Baselines: what needs no training of a model, shown beside every model."""
