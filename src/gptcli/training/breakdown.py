"""Where the time of profiled steps went, by part of the network and the run: read from the trace of torch's profiler.

The trace is in Chrome's format: `ph: X` events with `ts` and `dur` in microseconds, host operators under the thread
that ran them, a device's kernels with the `correlation` of the call that launched them. Every moment of a step goes to
one part, so the parts add up to the step.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from gptcli.training.step import DATA, OPTIMIZER

STEP = "step"  # a scope around each step, followed by its number
ATTENTION, MLP, BLOCKS, MODEL = "attention", "MLP", "blocks", "embeddings and norms"  # scopes in the network
HEAD, COMMUNICATION, OTHER, IDLE = "head and loss", "communication", "other", "idle"
PARTS = (ATTENTION, MLP, BLOCKS, MODEL, HEAD, OPTIMIZER, DATA, COMMUNICATION, OTHER, IDLE)  # in the order to tell them

_NODE = "autograd::engine::evaluate_function: "  # the backward pass of one operator, or the adding up of a gradient
_BY_NAME = (  # what torch names itself
    (HEAD, ("_LinearCrossEntropy",)),  # head and loss in one function, which computes its gradients too
    (OPTIMIZER, ("Optimizer.",)),
    (COMMUNICATION, ("c10d::", "_c10d_functional::", "FSDP::", "nccl:", "ncclDevKernel", "ncclKernel")),
)
_LAUNCHES, _DEVICE_WORK = ("cuda_runtime", "cuda_driver"), ("kernel", "gpu_memcpy", "gpu_memset")


class Span(NamedTuple):
    """A piece of time in nanoseconds, and the part that it belongs to if that is known."""

    start: int
    end: int
    part: str | None = None


@dataclass(frozen=True)
class Breakdown:
    """`parts` are nanoseconds by name, summed over `steps` steps: those that took any time, in the order of `PARTS`."""

    steps: int
    parts: Mapping[str, int]

    def milliseconds(self) -> dict[str, float]:
        """Of one step."""
        return {part: time / self.steps / 1e6 for part, time in self.parts.items()}


def break_down(events: Iterable[Mapping[str, Any]], steps: int, on_device: bool) -> Breakdown:
    """The time of the first `steps` steps in the `traceEvents` of a trace.

    `on_device`: time is that of the device's kernels, each of the part whose operator launched it; communication counts
    where nothing else runs, and what is left is idle: the device waits for the host. Else it is the time of the thread
    that takes the steps, and communication counts where this thread waits.
    """
    timed = sorted((e for e in events if e.get("ph") == "X"), key=lambda e: (e["ts"], -e["dur"]))
    windows = [e for e in timed if e["cat"] == "user_annotation" and e["name"].startswith(f"{STEP} ")][:steps]
    assert len(windows) == steps, f"{len(windows)} steps in the trace, not {steps}"
    exchanges = [_span(e, COMMUNICATION) for e in timed if e["name"].startswith("gloo:")]  # in threads of their own
    threads = defaultdict(list)
    for event in timed:
        if event["cat"] in ("cpu_op", "user_annotation", *_LAUNCHES) and not event["name"].startswith("gloo:"):
            threads[event["tid"]].append(event)
    main = windows[0]["tid"]
    reader = _Reader()
    host = reader.parts_of(threads.pop(main), forward=True)
    layers: tuple[list[Span], ...] = (host, exchanges)
    if on_device:
        for others in threads.values():  # the backward pass has a thread of its own
            reader.parts_of(others, forward=False)
        device = [reader.part_of_kernel(e) for e in timed if e["cat"] in _DEVICE_WORK]
        late = (COMMUNICATION, DATA)
        layers = (
            [span for span in device if span.part not in late],
            [*(span for span in device if span.part == COMMUNICATION), *exchanges],
            [span for span in (*device, *host) if span.part == DATA],
        )
    times: Counter[str] = Counter()
    left = [_span(window) for window in windows]
    for layer in layers:
        left = _take(left, layer, times)
    times[IDLE if on_device else OTHER] += sum(span.end - span.start for span in left)
    return Breakdown(steps, {part: times[part] for part in PARTS if times[part]})


def _span(event: Mapping[str, Any], part: str | None = None) -> Span:
    start = round(event["ts"] * 1000)
    return Span(start, start + round(event["dur"] * 1000), part)


class _Reader:
    """Finds the part of every host operator: that of the innermost scope around it, and in the backward pass that of
    the forward operator, whose sequence number autograd gives to the node that it makes."""

    def __init__(self) -> None:
        self._forward: tuple[list[int], list[str | None]] = ([], [])  # sequence numbers, ascending, and their parts
        self._launched: dict[int, str | None] = {}  # by correlation

    def parts_of(self, events: Sequence[Mapping[str, Any]], forward: bool) -> list[Span]:
        """The time of one thread that belongs to a part, in order, without overlaps; `events` by their beginning. The
        one that takes the `forward` pass has to be read first."""
        spans: list[Span] = []
        ends: list[int] = []  # of the events that are open, the innermost last
        parts: list[str | None] = []  # and their parts
        since = 0
        node_part: str | None = None

        def advance(moment: int) -> None:
            """All before `moment` belongs to the innermost event that was open."""
            nonlocal since
            while ends:
                until = min(moment, ends[-1])
                if parts[-1] and until > since:
                    joins = spans and spans[-1].end == since and spans[-1].part == parts[-1]
                    spans.append(Span(spans.pop().start if joins else since, until, parts[-1]))
                since = max(since, until)
                if ends[-1] > moment:
                    return
                ends.pop()
                parts.pop()
            since = max(since, moment)

        for event in events:
            span, arguments = _span(event), event.get("args", {})
            advance(span.start)
            sequence = arguments.get("Sequence number")
            if event["name"].startswith(_NODE):
                # A gradient is added up, which has no number, right after the node that it comes from.
                node_part = part = node_part if sequence is None else self._part_of_node(sequence)
            else:
                part = _own_part(event["name"]) or (parts[-1] if parts else None)
                if forward and sequence is not None and not arguments.get("Fwd thread id"):
                    self._forward[0].append(sequence)
                    self._forward[1].append(part)
            if event["cat"] in _LAUNCHES:
                self._launched[arguments.get("correlation")] = part
            ends.append(span.end)
            parts.append(part)
        advance(max(ends, default=0))
        return spans

    def _part_of_node(self, sequence: int) -> str | None:
        """That of the last operator which began when the node with this number was still to come."""
        place = bisect_right(self._forward[0], sequence) - 1
        return self._forward[1][place] if place >= 0 else None

    def part_of_kernel(self, event: Mapping[str, Any]) -> Span:
        """A piece of the device's time, which belongs to what launched it."""
        launched_by = self._launched.get(event.get("args", {}).get("correlation"))
        return _span(event, _own_part(event["name"]) or launched_by or OTHER)


@cache
def _own_part(name: str) -> str | None:
    """The part that an event names itself."""
    return name if name in PARTS else next((part for part, names in _BY_NAME if name.startswith(names)), None)


def _take(free: Iterable[Span], layer: Iterable[Span], times: Counter[str]) -> list[Span]:
    """Give of the `free` time, which has no overlaps, to the parts in `layer` what they cover; returns the rest."""
    waiting, rest = deque(free), list[Span]()
    for start, end, part in sorted(layer, key=lambda span: span.start):
        assert part is not None
        while waiting and waiting[0].end <= start:
            rest.append(waiting.popleft())
        while waiting and waiting[0].start < end:
            piece = waiting.popleft()
            if piece.start < start:
                rest.append(Span(piece.start, start))
            times[part] += min(piece.end, end) - max(piece.start, start)
            if end < piece.end:
                waiting.appendleft(Span(end, piece.end))
    return [*rest, *waiting]
