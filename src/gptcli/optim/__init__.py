"""How the weights move: parameter groups, AdamW, Muon."""
