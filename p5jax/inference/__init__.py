"""Turning a model's probabilities into catalogue items, candidate rankings and text."""
