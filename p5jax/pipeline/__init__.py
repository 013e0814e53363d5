"""From examples to training batches."""
