r"""Split patterns: the regular expressions that cut text into pieces before merging.

Known are those that never match across a place between an ASCII letter or digit and the ASCII white space behind it:
their alternatives hold letters or digits only at the end, or white space only at the beginning, but for line breaks
behind punctuation. None looks behind, and `(?!\S)` and `$` stand only after white space, so that a text cut at such a
place has the same pieces as the whole.
"""

from __future__ import annotations

import re

from tiktoken_ext.openai_public import r50k_pat_str

# As OpenAI's releases have it, and as tiktoken spells it for speed.
_GPT2_ORIGINAL = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
GPT2 = frozenset({_GPT2_ORIGINAL, str(r50k_pat_str)})

# tiktoken's cl100k_base, and as Llama 3's tokenizer.json has it: the same pieces, but that tiktoken's takes white space
# which ends a text whole, line breaks and all.
GPT4 = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
    r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
)
GPT4_PLAIN = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
QWEN2 = GPT4_PLAIN.replace(r"\p{N}{1,3}", r"\p{N}")
_LETTERS = (
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
    r"""|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
)
O200K = _LETTERS + r"""|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"""

_POSSESSIVE_COUNT = re.compile(r"(\{\d+(?:,\d*)?\})\+(?=\||$)")


def for_oniguruma(pattern: str) -> str:
    r"""`pattern` as the `tokenizers` library's regular expressions have to be told it.

    There `\p{N}{1,3}+` is a repeated `{1,3}` rather than a possessive one. With nothing behind it in its alternative a
    possessive count matches what the plain one does.
    """
    return _POSSESSIVE_COUNT.sub(r"\1", pattern)


WORDS = frozenset({*GPT2, GPT4, GPT4_PLAIN, QWEN2, O200K} | {for_oniguruma(GPT4)})
