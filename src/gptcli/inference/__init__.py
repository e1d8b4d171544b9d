"""A model in use: weights loaded and held, tokens sampled one after another, texts completed and scored."""
