"""Weights of other projects' checkpoints."""
