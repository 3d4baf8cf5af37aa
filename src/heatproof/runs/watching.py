"""What a run says of itself: a log of JSON lines, a line of progress, metrics for Prometheus."""

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heatproof.errors import InputError
from heatproof.runs.job import PartWritten
from heatproof.store.files import refusal

RECENT = 60.0
"""Seconds over which the rate is taken."""


@dataclass
class Tally:
    """Counts of a run so far.

    Attributes:
        total: images of the store; `before`: those that earlier runs had done.
        done: images that this run has done, failures among them.
    """

    total: int
    before: int
    done: int = 0
    failures: int = 0
    rows: int = 0
    written_bytes: int = 0
    verdicts: dict[str, int] = field(default_factory=dict[str, int])
    began: float = field(default_factory=time.monotonic)
    _recent: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])

    def add(self, part: PartWritten) -> None:
        """Count a part."""
        self.done += part.images + len(part.failures)
        self.failures += len(part.failures)
        self.rows += part.rows
        self.written_bytes += part.written_bytes
        for verdict, count in part.verdicts.items():
            self.verdicts[verdict] = self.verdicts.get(verdict, 0) + count
        now = time.monotonic()
        self._recent.append((now, self.done))
        while len(self._recent) > 2 and now - self._recent[0][0] > RECENT:
            self._recent.popleft()

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Images per second, lately."""
        if len(self._recent) > 1:
            (then, before), (now, done) = self._recent[0], self._recent[-1]
            if now > then:
                return (done - before) / (now - then)
        return self.done / max(self.seconds, 1e-9)

    @property
    def remaining(self) -> float | None:
        """Seconds that the rest takes at this rate; None where nothing is done yet."""
        left = self.total - self.before - self.done
        return left / self.rate if self.done and self.rate > 0 else None

    def __str__(self) -> str:
        """Return a line of progress."""
        parts = [f"{self.before + self.done} of {self.total} images"]
        if self.done:
            parts.append(f"{self.rate:.3g} per second")
        if self.remaining is not None:
            parts.append(f"{duration(self.remaining)} left")
        parts.append(f"{self.failures} failed" if self.failures else "none failed")
        return " · ".join(parts)


def duration(seconds: float) -> str:
    """Return a length of time in words: "3 h 20 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@dataclass
class RunLog:
    """A file of JSON lines, one per event; a line is written at once or not at all."""

    path: Path | None

    def write(self, event: str, **facts: Any) -> None:
        """Append an event.

        Raises:
            InputError: the disk is full.
        """
        if self.path is None:
            return
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise refusal(str(self.path), error) from error


class Metrics:
    """Counters for Prometheus, in a text file (node exporter's) or on a port of this machine."""

    def __init__(self, place: str) -> None:
        """place: the path of a file, or the number of a port, served on loopback alone.

        Raises:
            InputError: the port is taken.
        """
        import prometheus_client as prometheus

        self._library, self.place = prometheus, place
        self.registry = prometheus.CollectorRegistry()
        names = {
            "images": "Images explained or failed, earlier runs included",
            "images_total_planned": "Images of the store",
            "failures": "Images that could not be read, in this run",
            "rows": "Maps written by this run",
            "bytes": "Bytes written by this run",
            "images_per_second": "Images per second over the last minute",
        }
        self._gauges = {
            name: prometheus.Gauge(f"heatproof_run_{name}", text, registry=self.registry)
            for name, text in names.items()
        }
        self._stop: Callable[[], None] = lambda: None
        if place.isdecimal():
            try:
                server, thread = prometheus.start_http_server(
                    int(place), addr="127.0.0.1", registry=self.registry
                )
            except OSError as error:
                raise InputError(f"port {place} cannot be used ({error.strerror})") from error

            def stop() -> None:
                server.shutdown()
                server.server_close()
                thread.join()

            self._stop = stop

    def show(self, tally: Tally) -> None:
        """Bring the numbers up to date."""
        values = {
            "images": tally.before + tally.done,
            "images_total_planned": tally.total,
            "failures": tally.failures,
            "rows": tally.rows,
            "bytes": tally.written_bytes,
            "images_per_second": tally.rate,
        }
        for name, value in values.items():
            self._gauges[name].set(value)
        if not self.place.isdecimal():
            try:
                self._library.write_to_textfile(self.place, self.registry)
            except OSError as error:
                raise refusal(self.place, error) from error

    def close(self) -> None:
        """Free the port."""
        self._stop()
