"""What interactions and item texts say beside the model, and its mixture with it."""
