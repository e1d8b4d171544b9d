"""From settings to everything a run has decided before its first step. Nothing here computes or writes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from gptcli.data.order import n_windows
from gptcli.data.shards import Shards, open_shards
from gptcli.distributed.launch import check_launched, check_nodes, check_processes
from gptcli.distributed.runtime import Ranks, detect, resolve_device
from gptcli.errors import Errors, Fault, UsageError, nearest, raise_if
from gptcli.model.config import GPTConfig, padded_vocabulary
from gptcli.model.formats import format_of
from gptcli.model.huggingface import read_shape
from gptcli.model.locate import locate_model, newest_whole
from gptcli.settings import TrainSettings, data_folder
from gptcli.tokenizer import Tokenizer, get_tokenizer
from gptcli.tokenizer_files import GPT2_VOCABULARIES, read_tokenizer
from gptcli.training.length import run_steps, run_warmup
from gptcli.training.option_faults import check_options
from gptcli.training.tracking.registry import chosen

PROFILED = ("cpu", "cuda")  # devices whose times torch's profiler tells
METRICS = ("hellaswag",)


@dataclass(frozen=True)
class Setup:
    """What a run will do, resolved. What is counted in windows is counted in sequences of `length`."""

    settings: TrainSettings
    config: GPTConfig
    init_from: Path | None
    shards: Shards
    tokenizer: Tokenizer | None
    length: int
    train_windows: int
    val_windows: int
    windows_per_step: int
    steps: int
    warmup: int
    warmup_note: str
    micro_batch: int  # sequences of one process; 0 where it is still to be chosen
    metrics: tuple[str, ...]
    metrics_asked_for: bool
    trackers: tuple[str, ...]  # of the first process; the others track nothing
    notes: tuple[str, ...]

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimiser step, over all processes."""
        return self.windows_per_step * self.length

    @property
    def masked_eot(self) -> int | None:
        """The end-of-text id where attention is kept within documents, which begin with it."""
        return self.tokenizer.eot if self.tokenizer and self.settings.document_mask else None

    def accumulation(self, world_size: int) -> int:
        """Micro-batches that each of `world_size` processes adds up in a step."""
        return self.windows_per_step // (self.micro_batch * world_size)


def preflight(settings: TrainSettings) -> None:
    """Check a call before its processes are started. Raises what `prepare` raises."""
    first = settings.gpus * settings.node_rank
    prepare(settings, Ranks(rank=first, world_size=settings.gpus * settings.nodes))


def prepare(settings: TrainSettings, ranks: Ranks | None = None) -> Setup:
    """Resolve `settings` for the processes `ranks`. Raises UsageError with everything that is wrong with them."""
    ranks = ranks or detect()
    errors, notes = Errors(), list[str]()
    shards = tokenizer = config = init_from = None
    metrics: tuple[str, ...] = ()
    trackers: tuple[str, ...] = ()
    with errors.collected():
        device = resolve_device(settings.device, 0)
        if settings.profile and device.type not in PROFILED:
            raise UsageError(f"--profile: torch does not tell the times of {device.type}.", "Leave it out.")
        if not ranks.launched:
            check_processes(settings.gpus, settings.device)
    with errors.collected():
        if ranks.launched:
            check_launched(settings, ranks)
        else:
            check_nodes(settings)
    with errors.collected():
        metrics = _metrics(settings)
    with errors.collected():
        trackers = chosen(settings.track) if ranks.is_main else ()
    with errors.collected():
        # Of all shards one look is enough: a run may have thousands of processes on one network file system.
        shards = open_shards(data_folder(settings.data_root), check=ranks.is_main)
        tokenizer = _tokenizer_of(settings, shards, notes)
        metrics = _scorable(metrics, settings, tokenizer, notes)
    with errors.collected():
        config, init_from = _model(settings, shards, tokenizer)
    with errors.collected():
        check_options(settings, config.context_length if config else settings.context_length, ranks.world_size)
    errors.raise_all()
    assert shards is not None
    assert config is not None
    if settings.document_mask and tokenizer is None:
        raise UsageError(
            f"--document-mask: {shards.folder} does not tell which token begins a document.",
            "Tokenize the text with gpt tokenize, which does.",
        )
    length = settings.n_tokens or config.context_length
    windows_per_step = settings.total_batch_size // length
    train_windows = n_windows(len(shards.split("train")), length)
    if train_windows == 0:
        raise UsageError(
            f"The training split has {len(shards.split('train')):,} tokens, too few for one sequence of {length}.",
            "Tokenize more text, or train with a smaller --context-length.",
        )
    # With --fit-time the number of steps is measured when the run begins, or was when it did.
    steps = 0 if settings.fit_time else run_steps(settings, train_windows, windows_per_step)
    setup = Setup(
        settings=settings,
        config=config,
        init_from=init_from,
        shards=shards,
        tokenizer=tokenizer,
        length=length,
        train_windows=train_windows,
        val_windows=min(settings.eval_iters * windows_per_step, _val_windows(shards, length)),
        windows_per_step=windows_per_step,
        steps=0,
        warmup=0,
        warmup_note="",
        micro_batch=0 if settings.n_batches == "auto" else settings.n_batches,
        metrics=metrics,
        metrics_asked_for=_asked_for_metrics(settings),
        trackers=trackers,
        notes=tuple(notes),
    )
    return with_steps(setup, steps) if steps else setup


def with_steps(setup: Setup, steps: int) -> Setup:
    """The set-up of a run of so many steps, with the warm-up that it gets. Raises UsageError for one too short for the
    warm-up that was asked for."""
    warmup, note = run_warmup(setup.settings, steps)
    notes = (*setup.notes, note) if note else setup.notes
    return replace(setup, steps=steps, warmup=warmup, warmup_note=note, notes=notes)


def _metrics(settings: TrainSettings) -> tuple[str, ...]:
    faults = []
    if settings.hellaswag_data and not Path(settings.hellaswag_data).is_file():
        faults.append(Fault(f"--hellaswag-data: there is no file {settings.hellaswag_data}."))
    names = tuple(name.lower() for name in settings.metrics)
    for name in names if names != ("none",) else ():
        if name == "none":
            faults.append(Fault("--metrics: none stands alone.", "Leave none out, or the others."))
        elif name not in METRICS:
            close = nearest(name, (*METRICS, "none"))
            hint = f"Did you mean '{close}'?" if close else f"Known are {', '.join(METRICS)} and none."
            faults.append(Fault(f"--metrics: there is no metric called '{name}'.", hint))
    raise_if(faults)
    return tuple(name for name in dict.fromkeys(names) if name != "none")


def _asked_for_metrics(settings: TrainSettings) -> bool:
    return "metrics" in settings.model_fields_set or settings.hellaswag_data is not None


def _scorable(
    metrics: tuple[str, ...], settings: TrainSettings, tokenizer: Tokenizer | None, notes: list[str]
) -> tuple[str, ...]:
    """The metrics without HellaSwag where it has characters that the tokenizer does not know."""
    if tokenizer is None or tokenizer.covers_all_text or "hellaswag" not in metrics:
        return metrics
    lacking = f"HellaSwag has characters that the tokenizer '{tokenizer.name}' does not know"
    if _asked_for_metrics(settings):
        raise UsageError(f"--metrics: {lacking}.", "Train with --metrics none.")
    notes.append(f"{lacking}, so the run goes without it.")
    return tuple(name for name in metrics if name != "hellaswag")


def _tokenizer_of(settings: TrainSettings, shards: Shards, notes: list[str]) -> Tokenizer | None:
    """The tokenizer that the manifest names. Shards without one are gpt2's if the vocabulary can be, else ids only."""
    if shards.manifest:
        return shards.tokenizer()
    fits_16_bits = all(header.dtype.itemsize == 2 for stream in shards.splits.values() for _, header in stream.files)
    if settings.vocab_size is None and not fits_16_bits:
        raise UsageError(
            f"{shards.folder} has no manifest, and its tokens are too wide to be gpt2's.",
            "Say how many different tokens there are with --vocab-size.",
        )
    if settings.vocab_size is None or settings.vocab_size in GPT2_VOCABULARIES:
        notes.append(f"{shards.folder} has no manifest; its tokens are taken as gpt2's.")
        return get_tokenizer("gpt2")
    notes.append(f"{shards.folder} has no manifest, so its tokenizer is not known: no samples, no HellaSwag.")
    return None


def _model(
    settings: TrainSettings, shards: Shards | None, tokenizer: Tokenizer | None
) -> tuple[GPTConfig, Path | None]:
    """The network's shape: by the options, or of the weights to start from, which options may not contradict."""
    vocabulary = tokenizer.vocab_size if tokenizer else (shards.vocab_size if shards else None)
    faults: list[Fault] = []
    if settings.vocab_size and vocabulary and settings.vocab_size < vocabulary:
        faults.append(
            Fault(
                f"--vocab-size {settings.vocab_size:,} is too small: the data has {vocabulary:,} different tokens.",
                f"Leave it out to get {padded_vocabulary(vocabulary):,}.",
            )
        )
    raise_if(faults)
    asked = GPTConfig(
        vocab_size=settings.vocab_size or padded_vocabulary(vocabulary or 50_257),
        emb_dim=settings.emb_dim,
        context_length=settings.context_length,
        n_layers=settings.n_layers,
        n_heads=settings.n_heads,
        n_kv_heads=settings.n_kv_heads or 0,
        mlp_dim=settings.mlp_dim or 0,
        positions=settings.positions,
        norm=settings.norm,
        mlp=settings.mlp,
        qk_norm=settings.qk_norm,
        bias=settings.bias,
        qkv_bias=settings.qkv_bias,
        drop_rate=settings.drop_rate,
        tie_embeddings=settings.tie_embeddings,
    )
    if settings.init_from is None:
        format_of(asked)
        return asked, None
    # Once the run has a checkpoint the weights that it began with are not needed, and may be gone.
    own = None if settings.fresh else newest_whole(Path(settings.log_dir))
    folder = own or locate_model(settings.init_from)
    config = replace(read_shape(folder), drop_rate=settings.drop_rate)
    theirs = read_tokenizer(folder, config.vocab_size)[0]
    if theirs and tokenizer and theirs != tokenizer:
        faults.append(
            Fault(
                f"{settings.init_from} has the tokenizer '{theirs.name}', the data is in '{tokenizer.name}'.",
                f"Tokenize the text with --tokenizer-model {theirs.name if theirs.is_packaged else folder}.",
            )
        )
    options = TrainSettings.model_fields.keys() - {"drop_rate"}
    for name in (field.name for field in fields(GPTConfig) if field.name in options):
        given, is_so = getattr(settings, name), getattr(config, name)
        if name in settings.model_fields_set and given is not None and given != is_so:
            option = "--" + name.replace("_", "-")
            faults.append(Fault(f"{option} is {given}, but {settings.init_from} has {is_so}.", f"Leave {option} out."))
    if vocabulary and config.vocab_size < vocabulary:
        faults.append(
            Fault(
                f"{settings.init_from} knows {config.vocab_size:,} tokens, the data has {vocabulary:,}.",
                "Tokenize the text with that model's tokenizer.",
            )
        )
    raise_if(faults)
    return config, folder


def _val_windows(shards: Shards, length: int) -> int:
    windows = n_windows(len(shards.split("val")), length)
    if windows == 0:
        raise UsageError(
            f"The validation split has {len(shards.split('val')):,} tokens, too few for one sequence of {length}.",
            "Tokenize more text or with a larger --val-tokens, or train with a smaller --context-length.",
        )
    return windows


def describe(setup: Setup, parameters: int, processes: int) -> dict[str, str]:
    """The run's model, data, batch arithmetic and length, for people."""
    config = setup.config
    steps_per_epoch = setup.train_windows / setup.windows_per_step
    return {
        "Model": f"{format_of(config).name}, {parameters:,} parameters: "
        f"{_count(config.n_layers, 'layer')}, {_count(config.n_heads, 'head')}, "
        f"width {config.emb_dim}, context {config.context_length}, vocabulary {config.vocab_size:,}",
        "Data": f"{setup.shards.folder}: {len(setup.shards.split('train')):,} tokens to train on, "
        f"{len(setup.shards.split('val')):,} to validate",
        "Batch": f"{setup.micro_batch} × {setup.length} tokens × {setup.accumulation(processes)} accumulated × "
        f"{processes} process{'es' if processes > 1 else ''} = {setup.tokens_per_step:,} tokens a step",
        "Length": f"{_count(setup.steps, 'step')}, {setup.steps * setup.tokens_per_step:,} tokens, "
        f"{setup.steps / steps_per_epoch:.2f} epochs of {steps_per_epoch:,.1f} steps",
    }


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
