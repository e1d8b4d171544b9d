"""Text to ids and back: tiktoken's encodings, of which GPT-2's ships with the package, tokenizer.json files, bytes and
characters."""

from gptcli.tokenizer.tokenizer import Tokenizer, chars_tokenizer, get_tokenizer
from gptcli.tokenizer.vocabulary import END_OF_TEXT, Cuts, Vocabulary

__all__ = ["END_OF_TEXT", "Cuts", "Tokenizer", "Vocabulary", "chars_tokenizer", "get_tokenizer"]
