"""Soft prefixes before a frozen T5."""
