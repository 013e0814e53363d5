"""Prompt templates and the five families that draw examples from a dataset."""
