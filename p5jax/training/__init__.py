"""Training: optimizer, mesh, checkpoints, records and the loop."""
