"""Prompt templates and the five families that make examples of a dataset."""
