"""The parts of accelerator.py: each has `cells(place)`."""
