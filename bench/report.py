"""The figures as a table: a section for each workload, a row for each figure, a column for each server."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean

from bench.ledger_rate import LedgerRate
from bench.measure import (
    EVENTS_PER_S,
    OPEN_STREAMS,
    PLAIN_CONNECTIONS,
    PLAIN_REQUESTS_PER_S,
    PLAIN_TOKENS,
    STREAMS,
    Figures,
    Memory,
    Window,
)

Cells = dict[str, str]  # label to figure, in the order of the rows
LOAD_CORE_BUSY_FRACTION = 0.9
OTHERS_BUSY_CORES = 0.2
READS_PER_EVENT = 0.9
NGINX_SPREAD_RATIO = 1.3
LABEL_WIDTH, COLUMN_WIDTH = 42, 13


def table(figures: Sequence[Figures], rate: LedgerRate | None) -> str:
    nginx_us = {part: nginx_costs_us(figures, part) for part in PER}
    base_us = {part: fmean(costs) if costs else None for part, costs in nginx_us.items()}
    direct_ms = next(
        (server.latency.first_byte_ms for server in figures if server.name == "direct" and server.latency), None
    )
    sections = {
        f"Streams: {STREAMS} at {EVENTS_PER_S} events/s each": [
            stream_cells(server.streams, base_us["streams"]) if server.streams else {} for server in figures
        ],
        f"Plain: {PLAIN_TOKENS} tokens, {PLAIN_CONNECTIONS} connections, at most {PLAIN_REQUESTS_PER_S:,} requests/s": [
            plain_cells(server.plain, base_us["plain"]) if server.plain else {} for server in figures
        ],
        f"Plain, as fast as it goes, {PLAIN_CONNECTIONS} connections": [
            plain_cells(server.peak, base_us["peak"]) if server.peak else {} for server in figures
        ],
        "To the first token, one request at a time": [
            latency_cells(server.latency, direct_ms) if server.latency else {} for server in figures
        ],
        "Memory, resident": [memory_cells(server.memory) if server.memory else {} for server in figures],
    }
    heading = line("", [server.name for server in figures])
    blocks = [section(title, columns) for title, columns in sections.items() if any(columns)]
    if rate:
        blocks.append(ledger_section(rate))
    return "\n\n".join([heading, *blocks, *filter(None, ["\n".join(warnings(figures))])])


def section(title: str, columns: Sequence[Cells]) -> str:
    labels = list(dict.fromkeys(label for column in columns for label in column))
    return "\n".join([title, *(line("  " + label, [column.get(label, "") for column in columns]) for label in labels)])


def line(label: str, cells: Sequence[str]) -> str:
    return (label.ljust(LABEL_WIDTH) + "".join(cell.rjust(COLUMN_WIDTH) for cell in cells)).rstrip()


def ledger_section(rate: LedgerRate) -> str:
    rows = {
        "requests held and settled/s": f"{rate.requests_per_s:,.0f}",
        "pgbench, TPC-B transactions/s": f"{rate.pgbench_per_s:,.0f}",
        "ratio": f"{rate.requests_per_s / rate.pgbench_per_s:.2f}",
    }
    return "\n".join(["The ledger by itself, on both cores", *(line(f"  {label}", [rows[label]]) for label in rows)])


def document(figures: Sequence[Figures], rate: LedgerRate | None) -> dict[str, object]:
    """Everything, unrounded, for programs."""
    return {"servers": [asdict(server) for server in figures], "ledger": asdict(rate) if rate else None}


def stream_cells(window: Window, nginx_us: float | None) -> Cells:
    return {
        **cost_cells("event", us_per_event(window), nginx_us),
        "events/s": f"{window.events / window.wall_s:,.0f}",
        "reads per event, at the client": f"{window.reads / window.events:.2f}",
    }


def plain_cells(window: Window, nginx_us: float | None) -> Cells:
    return {
        **cost_cells("request", us_per_request(window), nginx_us),
        "requests/s": f"{window.requests / window.wall_s:,.0f}",
        **quantile_cells("whole answer", window.whole_ms),
    }


def cost_cells(unit: str, cost_us: tuple[float, float], nginx_us: float | None) -> Cells:
    """Of the proxy alone, and with the Postgres that it keeps its ledger in, where it has server."""
    proxy_us, with_store_us = cost_us
    cells = {f"CPU per {unit}, µs": f"{proxy_us:.1f}"}
    if nginx_us:
        cells["  ratio to nginx"] = f"{proxy_us / nginx_us:.2f}"
    if with_store_us > proxy_us:
        cells[f"CPU per {unit} with its Postgres, µs"] = f"{with_store_us:.1f}"
        if nginx_us:
            cells["  ratio to nginx, with its Postgres"] = f"{with_store_us / nginx_us:.2f}"
    return cells


def latency_cells(window: Window, direct_ms: dict[str, float] | None) -> Cells:
    if window.first_byte_ms is None:
        return {}
    cells = quantile_cells("time", window.first_byte_ms)
    if direct_ms and direct_ms is not window.first_byte_ms:
        added_ms = {name: value - direct_ms[name] for name, value in window.first_byte_ms.items()}
        cells |= quantile_cells("added", added_ms)
    return cells


def memory_cells(memory: Memory) -> Cells:
    cells = {"worker idle, MB": f"{memory.worker_bytes[0] / 1e6:.1f}"}
    for count in OPEN_STREAMS:
        cells[f"worker with {count:,} open streams, MB"] = f"{memory.worker_bytes[count] / 1e6:.1f}"
    return cells | {"kB per open stream": f"{memory.bytes_per_stream / 1e3:.1f}"}


def quantile_cells(label: str, quantiles_ms: dict[str, float] | None) -> Cells:
    return {f"{label} {name}, ms": f"{value:.2f}" for name, value in (quantiles_ms or {}).items()}


def us_per_event(window: Window) -> tuple[float, float]:
    return window.proxy_cpu_s / window.events * 1e6, (window.proxy_cpu_s + window.store_cpu_s) / window.events * 1e6


def us_per_request(window: Window) -> tuple[float, float]:
    return window.proxy_cpu_s / window.requests * 1e6, (window.proxy_cpu_s + window.store_cpu_s) / window.requests * 1e6


PER: Mapping[str, Callable[[Window], tuple[float, float]]] = {
    "streams": us_per_event,
    "plain": us_per_request,
    "peak": us_per_request,
}


def nginx_costs_us(figures: Sequence[Figures], part: str) -> list[float]:
    """What nginx took each time it was measured."""
    windows = [getattr(server, part) for server in figures if server.name.startswith("nginx")]
    return [PER[part](window)[0] for window in windows if window]


def warnings(figures: Sequence[Figures]) -> list[str]:
    """Where a figure may be the load's, or the machine's, and not the server's."""
    found = []
    for part in PER:
        costs_us = nginx_costs_us(figures, part)
        if costs_us and max(costs_us) > NGINX_SPREAD_RATIO * min(costs_us):
            found.append(
                f"{part}: nginx took {min(costs_us):.1f} µs and {max(costs_us):.1f} µs; believe no ratio to it."
            )
    for server in figures:
        for part, window in (("streams", server.streams), ("plain", server.plain), ("peak", server.peak)):
            if window and window.load_core_busy > LOAD_CORE_BUSY_FRACTION:
                found.append(
                    f"{part}, {server.name}: load and upstream took {window.load_core_busy:.0%} of their core."
                )
            if window and window.others_busy > OTHERS_BUSY_CORES:
                found.append(
                    f"{part}, {server.name}: other programs took {window.others_busy:.0%} of a core meanwhile."
                )
        if server.streams and server.streams.reads < READS_PER_EVENT * server.streams.events:
            found.append(f"streams, {server.name}: events came in batches, each cheaper than an event by itself.")
    return found
