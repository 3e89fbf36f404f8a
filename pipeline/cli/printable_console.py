"""The console on which commands print tables and sentences with text of Macs and feeds."""

from collections.abc import Iterator
from typing import IO

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook
from rich.segment import Segment

from pipeline.cli.output import end_output
from runtime.printable import printable


class _Printable:
    """A renderable whose text is printable; the controls of rich itself stay."""

    def __init__(self, content: RenderableType) -> None:
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for text, style, control in console.render(self._content, options):
            yield Segment(text if control else printable(text), style, control)


class _Hook(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Printable(one) for one in renderables]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise OutputEnded."""
        end_output()


def printable_console(*, stderr: bool = False, file: IO[str] | None = None) -> Console:
    """Return a console that reads no markup and prints no character that controls a terminal."""
    found = _Console(markup=False, highlight=False, emoji=False, stderr=stderr, file=file)
    found.push_render_hook(_Hook())
    return found
