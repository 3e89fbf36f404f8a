"""The HTML report of a run: one self-contained page."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from pipeline.demo.outcome import RunOutcome
from runtime.printable import printable_html as escape

_SITE_COLOURS: Final = ("#1f6f8b", "#d1603d", "#6b8f3c", "#8a5a9e", "#b8942a", "#4a4e69")
_ACTION_COLOURS: Final = {
    "update": "#1f6f8b",
    "upgrade": "#6b8f3c",
    "reinstall": "#d1603d",
    "reimage": "#8a5a9e",
    "reenroll": "#b8942a",
}
_LAYOUT: Final = {
    "template": "plotly_white",
    "font": {"family": "system-ui, sans-serif", "size": 13},
    "margin": {"l": 70, "r": 30, "t": 30, "b": 50},
    "hovermode": "closest",
}
# A bar of half an hour is invisible on an axis of three weeks.
_SHORTEST_BAR_MS: Final = 3 * 3600 * 1000
_ABOUT_JOBS: Final = (
    "A bar starts at a job's issue and ends at its last result; it is pale if the job did not "
    "succeed. Macs without a job are not drawn."
)
_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin-top:2.2rem}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}
th{background:#f4f4f2}.figures{display:flex;flex-wrap:wrap;gap:1rem;margin:1.2rem 0}
.figure{background:#f4f4f2;border-radius:6px;padding:.7rem 1rem;min-width:9rem}
.figure b{display:block;font-size:1.5rem}p.note{color:#555}
"""


def render(outcome: RunOutcome, summary: Mapping[str, Any], marks: Mapping[str, datetime]) -> str:
    """Return the page as HTML. `marks` are times to draw in the plots, by name."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'><title>Drydock: what happened</title>",
        f"<style>{_STYLE}</style><script>{get_plotlyjs()}</script></head><body><main>",
        "<h1>Drydock: what happened</h1>",
        "<p class='note'>Simulated Macs, Apple's real releases; all times UTC.</p>",
        _figures(summary),
        "<h2>Exposed Macs over time, by site</h2>",
        _plot(_exposure(outcome, marks), "exposure"),
        "<h2>Each Mac's jobs</h2>",
        f"<p class='note'>{_ABOUT_JOBS}</p>",
        _plot(_jobs(outcome, marks), "jobs"),
        "<h2>Still exposed, and why</h2>",
        _still_exposed(outcome),
        "</main></body></html>",
    ]
    return "".join(parts)


def _figures(summary: Mapping[str, Any]) -> str:
    """Return the summary's main figures as HTML; a figure that is None is shown as `-`."""
    to = summary["hours_to_patched"]
    shown = (
        ("Macs", summary["devices"]),
        ("exposed when the advisory was published", summary["exposed_before"]),
        ("exposed at the end", summary["exposed_after"]),
        ("hours to 50 % patched", to["50"]),
        ("hours to 95 % patched", to["95"]),
        ("jobs", sum(row["jobs"] for row in summary["jobs"])),
    )
    boxes = (
        f"<div class='figure'><b>{'-' if value is None else escape(str(value))}</b>{name}</div>"
        for name, value in shown
    )
    return f"<div class='figures'>{''.join(boxes)}</div>"


def _plot(figure: go.Figure, name: str) -> str:
    """Return the figure as HTML, in an element with the id `name`."""
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, config={"displaylogo": False}
    )
    return html


def _mark(figure: go.Figure, marks: Mapping[str, datetime]) -> None:
    """Draw a vertical line with its name at each time into the figure."""
    for name, at in marks.items():
        figure.add_shape(
            type="line",
            x0=at,
            x1=at,
            y0=0,
            y1=1,
            yref="paper",
            line={"color": "#888", "dash": "dot"},
        )
        figure.add_annotation(
            x=at, y=1, yref="paper", text=name, showarrow=False, xanchor="left", yanchor="bottom"
        )


def _exposure(outcome: RunOutcome, marks: Mapping[str, datetime]) -> go.Figure:
    """Return the plot of exposed Macs over time, with one line per site."""
    by_site: dict[str, tuple[list[datetime], list[int]]] = defaultdict(lambda: ([], []))
    for level in outcome.levels:
        times, counts = by_site[level.site or "no site"]
        if times and times[-1] == level.at:
            counts[-1] = level.exposed
        else:
            times.append(level.at)
            counts.append(level.exposed)
    for times, counts in by_site.values():
        times.append(outcome.ends_at or times[-1])
        counts.append(counts[-1])
    figure = go.Figure(layout=_LAYOUT | {"height": 420, "yaxis": {"title": "exposed Macs"}})
    for colour, (site, (times, counts)) in zip(
        _SITE_COLOURS * len(by_site), sorted(by_site.items()), strict=False
    ):
        figure.add_scatter(
            x=times, y=counts, name=site, mode="lines", line={"shape": "hv", "color": colour}
        )
    _mark(figure, marks)
    return figure


def _jobs(outcome: RunOutcome, marks: Mapping[str, datetime]) -> go.Figure:
    """Return the plot of all jobs over time, with one row per Mac that had a job."""
    jobs = sorted(outcome.jobs.values(), key=lambda job: (job.site, job.serial, job.issued_at))
    rows = list(dict.fromkeys(f"{job.serial or job.udid} · {job.site}" for job in jobs))
    last = max((job.ended_at or job.issued_at for job in jobs), default=None)
    figure = go.Figure(
        layout=_LAYOUT
        | {
            "height": 160 + 14 * len(rows),
            "barmode": "overlay",
            "xaxis": {"type": "date", "side": "top"},
            "yaxis": {
                "categoryorder": "array",
                "categoryarray": rows[::-1],
                "tickfont": {"size": 10},
            },
            "margin": {"l": 190, "r": 30, "t": 60, "b": 30},
        }
    )
    for action, colour in _ACTION_COLOURS.items():
        mine = [job for job in jobs if job.action == action]
        if not mine:
            continue
        ends = [job.ended_at or last or job.issued_at for job in mine]
        figure.add_bar(
            orientation="h",
            name=action,
            marker={
                "color": colour,
                "line": {"width": 0},
                "opacity": [1.0 if job.outcome == "succeeded" else 0.35 for job in mine],
            },
            base=[job.issued_at.isoformat() for job in mine],
            x=[
                max((end - job.issued_at).total_seconds() * 1000, _SHORTEST_BAR_MS)
                for job, end in zip(mine, ends, strict=True)
            ],
            y=[f"{job.serial or job.udid} · {job.site}" for job in mine],
            customdata=[
                [job.method, job.target, job.outcome, job.error_code or ""] for job in mine
            ],
            hovertemplate="%{y}<br>"
            + action
            + " by %{customdata[0]} to %{customdata[1]}<br>"
            + "%{customdata[2]} %{customdata[3]}<br>from %{base}<extra></extra>",
        )
    _mark(figure, marks)
    return figure


def _still_exposed(outcome: RunOutcome) -> str:
    """Return the HTML table of the Macs still exposed, with the reason of each last decision."""
    rows = []
    for decision in outcome.still_exposed():
        held = next((gate for gate in decision.get("gates", ()) if not gate["passed"]), None)
        detail = "; ".join(decision.get("findings", ())) or (held or {}).get("detail", "")
        cells = (
            decision["site"] or "",
            decision["serial"] or decision["udid"],
            decision["reason"],
            detail,
            str(len(decision["cves"])),
        )
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>Site</th><th>Mac</th><th>Reason</th><th>Detail</th><th>CVEs</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
