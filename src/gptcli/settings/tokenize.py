"""The options of `gpt tokenize` and `gpt tokenizer train`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from gptcli.settings.options import CommandSettings, Count, Name, argument, option


class TokenizeSettings(CommandSettings):
    """`gpt tokenize`: text in, token shards out."""

    command = "tokenize"

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        """What would be ignored is refused."""
        if self.verify is not None and (self.sources or self.fresh):
            raise ValueError("--verify only checks a folder; leave the sources and --fresh out")
        return self

    sources: tuple[Name, ...] = argument(
        (),
        "Files (.txt .md .jsonl .csv .parquet …, also compressed), folders, globs, addresses, or - for standard input. "
        "Without any: a Hugging Face dataset.",
    )
    dataset_path: str = option("HuggingFaceFW/fineweb-edu", "Dataset on the Hugging Face Hub.", "Source", min_length=1)
    remote_name: str = option("sample-10BT", "Configuration of that dataset.", "Source")
    split: str = option("train", "Split of that dataset.", "Source")
    text_column: str = option("text", "Column or JSON key that holds the text.", "Source")
    separator: str | None = option(
        None,
        "Cut .txt and .md files into documents at this text (\\n: line break). Otherwise a file is one document, and a "
        "line of standard input.",
        "Source",
        min_length=1,
    )
    limit_documents: Count | None = option(None, "Take only the first so many documents.", "Source", ge=1)
    limit_tokens: Count | None = option(None, "Take only the first so many tokens.", "Source", ge=2)
    on_error: Literal["stop", "skip"] | None = option(
        None,
        "What to do at a document that can't be read: stop or skip it. Default: stop, but replace bytes that are not "
        "UTF-8.",
        "Source",
    )
    tokenizer_model: str = option(
        "gpt2",
        "gpt2, another encoding of tiktoken's, bytes, chars (made from the text), a tokenizer.json, a folder with one "
        "(a model's, say), or a Hub id.",
        "Tokens",
        min_length=1,
    )
    local_dir: Name = option("edu_fineweb10B", "Folder for the shards; a bare name lies under ./data.", "Output")
    shard_size: Count = option(100_000_000, "Tokens in a shard.", "Output", ge=1)
    val_tokens: Count | None = option(
        None,
        "Tokens of the validation split. Default: one shard, or a tenth of all where that is less.",
        "Output",
        ge=0,
    )
    fresh: bool = option(
        False, "Move the tokens in the folder aside and start again; unfinished ones are removed.", "Output"
    )
    workers: Count | None = option(None, "Processes that encode. Default: one for each core.", "Run", ge=1)
    engine: Literal["auto", "gigatoken", "tiktoken"] = option(
        "auto", "What encodes: auto takes gigatoken, checked against tiktoken, where it can read the tokenizer.", "Run"
    )
    on_mismatch: Literal["stop", "fall-back"] = option(
        "stop", "Where gigatoken's ids are not tiktoken's: stop, or fall back and begin anew with tiktoken.", "Run"
    )
    verify: Name | None = option(
        None, "Check every shard of this folder against its manifest, and do nothing else.", "Run"
    )


class TokenizerTrainSettings(CommandSettings):
    """`gpt tokenizer train`: text in, a byte-level BPE tokenizer out."""

    command = "tokenizer train"

    sources: tuple[Name, ...] = argument(
        (), "Files, folders, globs or addresses, or - for standard input. Without any: a Hugging Face dataset."
    )
    dataset_path: str = option("HuggingFaceFW/fineweb-edu", "Dataset on the Hugging Face Hub.", "Source")
    remote_name: str = option("sample-10BT", "Configuration of that dataset.", "Source")
    text_column: str = option("text", "Column or JSON key that holds the text.", "Source")
    separator: str | None = option(
        None, "Cut .txt and .md files into documents at this text (\\n: line break).", "Source", min_length=1
    )
    limit_documents: Count | None = option(None, "Take only the first so many documents.", "Source", ge=1)
    limit_bytes: Count = option(1_000_000_000, "Take only the first so many bytes of text.", "Source", ge=1)
    on_error: Literal["stop", "skip"] | None = option(
        None, "What to do at a document that can't be read: stop (the default) or skip it.", "Source"
    )
    vocab_size: Count = option(8192, "Tokens, with the 256 bytes and end of text among them.", "Tokenizer", ge=257)
    split: Literal["gpt2", "gpt4"] = option(
        "gpt4", "How text is cut into words before merging: as GPT-2 or as GPT-4 does.", "Tokenizer"
    )
    output: Name = option("tokenizer.json", "File to write.", "Output")
    fresh: bool = option(False, "Move an existing file aside.", "Output")
