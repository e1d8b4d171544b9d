"""How the weights move: parameter groups, AdamW, learning-rate schedules."""
