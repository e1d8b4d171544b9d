"""Load a run, complete a prompt, watch another completion as it comes, and ask which of two texts is likelier.

python examples/use_a_run.py [RUN]
"""

import sys

from gptcli import load

model = load(sys.argv[1] if len(sys.argv) > 1 else "log", weights="auto")
print(model.generate("On a clear day", max_new_tokens=30, temperature=0.8, seed=1).text)
with model.stream("Once upon a time", max_new_tokens=60, stop="\n\n") as pieces:
    for piece in pieces:
        print(piece, end="", flush=True)
print()
for text in ("The cat sat on the mat.", "The mat sat on the cat."):
    print(text, sum(model.score(text).logprobs))
