"""`drydock demo`: the embedded form against simulated Macs, with a live view and a summary."""

import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pipeline.cli.fast_paths import fast_paths_wanted
from pipeline.cli.output import emit, fail, fail_attention

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from pipeline.demo.drive import FleetSample
    from pipeline.demo.scenario import Scenario

_MARKER: Final = "demo-run"
_FRAMES_PER_S: Final = 8


def demo(
    data_dir: Annotated[
        Path, typer.Option("--data-dir", help="Directory for the run's log and report.")
    ] = Path("demo-data"),
    devices: Annotated[int, typer.Option(help="Number of simulated Macs.")] = 200,
    seed: Annotated[int, typer.Option(help="The same seed gives the same summary.")] = 1,
    speed: Annotated[
        str, typer.Option(help="Simulated hours per second, or `max`.", metavar="HOURS|max")
    ] = "max",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as one JSON object; no live view.")
    ] = False,
) -> None:
    """Run a simulated fleet and watch it get Apple's updates.

    Exit 1 if the exposed Macs at the end are not exactly those that no job can patch, or if an
    action was never carried out.
    """
    from pipeline.demo.scenario import build

    pace, fast_paths = _pace(speed), fast_paths_wanted()
    try:
        scenario = build(seed, devices)
    except ValueError as error:
        fail(f"--devices {devices}: {error}")
    _empty(data_dir)
    started = time.monotonic()
    _run(data_dir, scenario, seed, pace, quiet=as_json, fast_paths=fast_paths)
    summary = _sum_up(data_dir, scenario, seed)
    if as_json:
        import json

        emit(json.dumps(summary))
    else:
        print_summary(summary, time.monotonic() - started)
        _print_where_to_look(data_dir)
    if not summary["ok"]:
        fail_attention(
            "the exposed Macs are not the expected ones, or an action was never carried out:"
            f" see {data_dir / 'report.html'}"
        )


def _pace(speed: str) -> float | None:
    """Return the simulated hours per second; None for `max`.

    Exit 2 for a text that is no finite number above 0.
    """
    if speed == "max":
        return None
    try:
        hours = float(speed)
    except ValueError:
        hours = 0.0
    if not 0 < hours < float("inf"):
        fail(f"--speed {speed!r}: give simulated hours per second, above 0, or `max`")
    return hours


def _empty(data_dir: Path) -> None:
    """Empty or create the data directory, and mark it as a demo's.

    Exit 2 if it has files but no such mark, if it is not a directory, or if it cannot be written.
    """
    if data_dir.exists() and not data_dir.is_dir():
        fail(f"{data_dir} is not a directory")
    if data_dir.is_dir() and any(data_dir.iterdir()):
        if not (data_dir / _MARKER).is_file():
            fail(f"{data_dir} is not empty and is not from a demo: choose another --data-dir")
        shutil.rmtree(data_dir)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        (data_dir / _MARKER).write_text("drydock demo\n", encoding="utf-8")
    except OSError as error:
        fail(f"cannot use {data_dir}: {error.strerror}")


def _run(
    data_dir: Path,
    scenario: "Scenario",
    seed: int,
    pace: float | None,
    *,
    quiet: bool,
    fast_paths: bool,
) -> None:
    """Run the scenario to its end; show a live view on stderr unless `quiet`."""
    from pipeline.demo.drive import steps
    from pipeline.demo.embedded import run

    samples = _paced(run(data_dir, scenario, seed, fast_paths=fast_paths), pace)
    if quiet:
        for _ in samples:
            pass
        return
    from rich.console import Console

    watch(samples, len(scenario.specs), Console(stderr=True), steps())


def _paced(samples: "Iterator[FleetSample]", pace: float | None) -> "Iterator[FleetSample]":
    """Yield the samples, `pace` simulated hours per second; without a pause if it is None."""
    from pipeline.demo.drive import STEP

    wait_s = 0.0 if pace is None else STEP.total_seconds() / 3600 / pace
    for sample in samples:
        yield sample
        if wait_s:
            time.sleep(wait_s)


def watch(samples: "Iterator[FleetSample]", devices: int, console: "Console", count: int) -> None:
    """Show a live view of a run on `console` until its samples end.

    `devices` is the number of its Macs, `count` the number of its samples.
    """
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    from pipeline.demo.drive import MARKS

    progress = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=40), TaskProgressColumn()
    )
    clock = progress.add_task("", total=count)
    shown = 0.0
    with Live(console=console, refresh_per_second=_FRAMES_PER_S, transient=True) as live:
        for sample in samples:
            progress.advance(clock)
            if time.monotonic() - shown < 1 / _FRAMES_PER_S:
                continue
            shown = time.monotonic()
            passed = [name for name, at in MARKS.items() if at <= sample.now]
            news = passed[-1] if passed else "the fleet settles"
            progress.update(clock, description=f"{sample.now:%Y-%m-%d %H:%M} UTC  {news}")
            live.update(Group(progress, _sites(sample, devices)))


def _sites(sample: "FleetSample", devices: int) -> "RenderableType":
    from rich.table import Table

    table = Table(title=f"{devices} Macs", title_justify="left")
    for column in ("site", "exposed", "exploited", "open jobs"):
        table.add_column(column, justify="left" if column == "site" else "right")
    exposed, jobs = sample.exposed, sample.open_jobs
    for site in sorted({name for name, _ in (*exposed, *jobs)}):
        table.add_row(
            site or "no site",
            str(_of(exposed, site)),
            str(exposed.get((site, "exploited"), 0)),
            str(_of(jobs, site)),
        )
    return table


def _of(counts: Mapping[tuple[str, str], int], site: str) -> int:
    return sum(count for (name, _), count in counts.items() if name == site)


def _sum_up(data_dir: Path, scenario: "Scenario", seed: int) -> dict[str, Any]:
    """Return the summary of a finished run, after writing its report.html."""
    from pipeline.demo.drive import MARKS
    from pipeline.demo.embedded import log_lines
    from pipeline.demo.outcome import read_outcome
    from pipeline.demo.report import render
    from pipeline.demo.summary import summarize

    outcome = read_outcome(log_lines(data_dir))
    summary = summarize(outcome, scenario, seed)
    (data_dir / "report.html").write_text(render(outcome, summary, MARKS), encoding="utf-8")
    return summary


def print_summary(summary: Mapping[str, Any], took_s: float) -> None:
    """Print the summary of a run on stdout; `took_s` is its real duration in seconds."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout)
    hours = summary["hours_to_patched"]
    console.print(
        f"\n[bold]{summary['devices']} simulated Macs, {summary['events']:,} events, "
        f"{summary['decisions']:,} decisions in {took_s:.0f} s[/bold] (seed {summary['seed']})"
    )
    console.print(
        f"Exposed Macs when 26.2, 15.7.3 and 14.8.3 were published: {summary['exposed_before']}.  "
        f"At the end: [bold]{summary['exposed_after']}[/bold], "
        f"expected {summary['exposed_expected']}."
    )
    console.print(
        f"Patched, in simulated time: 50 % after {hours['50']} h, 95 % after {hours['95']} h."
    )
    jobs = Table(title="Jobs", title_justify="left")
    for column in ("action", "method", "outcome", "jobs"):
        jobs.add_column(column, justify="right" if column == "jobs" else "left")
    for row in summary["jobs"]:
        jobs.add_row(row["action"], row["method"], row["outcome"], str(row["jobs"]))
    console.print(jobs)
    left = Table(title="Still exposed, and why", title_justify="left")
    left.add_column("reason")
    left.add_column("Macs", justify="right")
    for row in summary["left"]:
        left.add_row(row["reason"], str(row["macs"]))
    console.print(left)


def _print_where_to_look(data_dir: Path) -> None:
    from rich.console import Console

    console = Console(file=sys.stdout)
    console.print(f"Report: {data_dir / 'report.html'}", soft_wrap=True)
    console.print(
        f"Explain one Mac: drydock explain SERIAL --data-dir {data_dir}; "
        f"verify the decisions: drydock replay --data-dir {data_dir} --verify",
        soft_wrap=True,
    )
