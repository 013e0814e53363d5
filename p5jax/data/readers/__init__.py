"""Readers of other projects' files, one a format."""
