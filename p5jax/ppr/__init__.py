"""PPR: soft prefix prompts made from user profiles, for users with little or no history."""
