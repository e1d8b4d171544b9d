"""The network, in terms of the paper: config, layers, cache, loss, and the names other tools have for its weights."""
