"""The settings of small trainings of whole runs: one for all, so that programs compile once."""

from __future__ import annotations

FILES = ("runs/p5.gin", "models/tiny.gin")
STEPS, BATCH_SIZE = 4, 8  # the schedule of the steps is compiled too
BINDINGS = {
    "T5Config.emb_dim": 32,
    "T5Config.mlp_dim": 64,
    "T5Config.num_heads": 2,
    "T5Config.num_encoder_layers": 1,
    "T5Config.num_decoder_layers": 1,
    "RunConfig.vocabulary_size": 600,
    "FamilyConfig.num_candidates": 12,
    "FamilyConfig.max_source": 128,
    "PipelineConfig.source_lengths": (128,),
    "PipelineConfig.target_lengths": (4, 16),
    "ValidationConfig.examples": 8,
}
