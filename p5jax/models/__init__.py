"""The T5 encoder-decoder and the readers and writers of its checkpoints."""
