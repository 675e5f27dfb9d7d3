"""What a model is given of a session: pure planning over messages."""
