"""Sequential models that PPR prompts."""
