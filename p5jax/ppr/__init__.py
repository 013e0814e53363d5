"""Soft prefix prompts from user profiles (PPR), for cold-start recommendation."""
