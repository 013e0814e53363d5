"""Devices and processes: mesh, sharding rules, what processes tell each other."""
