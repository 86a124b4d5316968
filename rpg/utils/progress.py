"""Show progress: a bar on a terminal, plain lines in a log."""

import sys
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
LINES = 10
# A log gets a line after this many seconds, too, so that long work is not silent.
SILENCE = 30.0


def progress(
    items: Iterable[Item],
    label: str,
    total: int,
    done: int = 0,
    note: Callable[[], str] = str,
    tenths: bool = True,
) -> Iterator[Item]:
    """Yield `items` and show how many of `total` are done; `done` counts items that an earlier run finished.

    A log gets a line after each tenth of the items, and whenever it was silent for SILENCE seconds; without `tenths`
    only then. A line ends with `note()`, such as the loss, and with the time left if SILENCE seconds have passed.
    """
    if sys.stderr.isatty():
        from rich.progress import Progress

        with Progress(transient=True) as bar:
            task = bar.add_task(label, total=total, completed=done)
            for item in items:
                yield item
                bar.advance(task)
        return
    started = shown = monotonic()
    for count, item in enumerate(items, done + 1):
        yield item
        now = monotonic()
        tenth = tenths and count * LINES // total > (count - 1) * LINES // total
        if tenth or now - shown >= SILENCE:
            shown = now
            parts = [f"{label}: {count} of {total}"]
            if noted := note():
                parts.append(noted)
            if now - started >= SILENCE and count < total:
                parts.append(time_left((now - started) / (count - done) * (total - count)))
            print(", ".join(parts), file=sys.stderr, flush=True)


class LastLoss:
    """The mean loss of the last step, as a note for `progress`; it is read only when a line is due."""

    def __init__(self) -> None:
        self.losses: Tensor | None = None

    def of(self, losses: "Tensor") -> None:
        """Remember the losses of a step, of any shape."""
        self.losses = losses.detach()

    def __call__(self) -> str:
        """Return a text like "loss 0.25", or "" before the first step."""
        return "" if self.losses is None else f"loss {self.losses.mean():.3g}"


def time_left(seconds: float) -> str:
    """Return a text like "about 5 min left"."""
    return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {max(seconds, 1):.0f} s left"
