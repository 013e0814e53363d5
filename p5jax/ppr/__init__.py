"""PPR: soft prefix prompts from user profiles, over sequential backbones."""
