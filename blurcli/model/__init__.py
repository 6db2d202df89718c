"""A trained model, ready to be called."""
