"""Metrics, one evaluator per prompt family, and paired comparisons of two runs."""
