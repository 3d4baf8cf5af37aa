"""Audit many methods, one folder per method: here, or by the workers of a pool."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from heatproof import methods, user_code
from heatproof.auditing.league import save_league
from heatproof.auditing.result import Audit, from_json
from heatproof.auditing.run import Auditor
from heatproof.errors import HeatproofError, InputError
from heatproof.methods import Method
from heatproof.models import Model
from heatproof.models import load as load_model
from heatproof.parallel.pool import Pool
from heatproof.store.lock import locked

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """Which methods are audited, on what, in plain values.

    Attributes:
        own: the user's code, FILE.py:NAME, by the name of its folder.
        named: methods of the catalogue, with their options.
        settings: of the `Auditor`, besides model and data.
        out: holds a folder for each method.
    """

    own: Mapping[str, str]
    named: Mapping[str, Mapping[str, Any]]
    data: str | None
    settings: Mapping[str, Any]
    out: Path

    def methods(self, model: Model) -> dict[str, Method]:
        """Create the methods, by the name of their folder."""
        return {
            **{name: user_code.load(source, model) for name, source in self.own.items()},
            **{name: methods.create(name, **options) for name, options in self.named.items()},
        }


def audit_all(
    auditor: Auditor,
    chosen: Mapping[str, Method],
    request: AuditRequest,
    pool: Pool,
    *,
    say: Say,
    notice: Say,
) -> tuple[list[Audit], Path]:
    """Audit all methods; what is there already for the same question stays.

    Args:
        say: told what is being done; `notice`: told what is left out and why.

    Returns:
        The audits, in the order of the methods, and the path of the league table.

    Raises:
        InputError: no method can be audited on this model, or another run writes into the folder.
    """
    with locked(request.out):
        done = {name: _earlier(request.out / name, auditor, method, notice)
                for name, method in chosen.items()}  # fmt: skip
        left = [name for name, audit in done.items() if audit is None]
        say(f"auditing {len(left)} of {len(chosen)} methods")
        if pool.alone:
            work = _Worker(auditor, chosen, request.out, say)
            results = ((name, work(name)) for name in left)
        else:
            model = auditor.model
            # Workers on other machines look for the same folder.
            request = replace(request, out=request.out.resolve())
            opener = _Opener(request=request, model=model.spec, weights=model.weights_hash,
                             device=str(model.device))  # fmt: skip
            results = pool.map(opener, left, opener.device)
        for number, (name, reason) in enumerate(results, len(chosen) - len(left) + 1):
            say(f"{name} done ({number} of {len(chosen)})")
            if reason is not None:
                notice(f"{name} is left out: {reason}")
                continue
            # Read again, so that what a worker wrote and what this process wrote are the same.
            done[name] = _read(request.out / name)
        audits = [audit for audit in done.values() if audit is not None]
        if not audits:
            raise InputError("no method could be audited on this model; see the notices above")
        return audits, save_league(audits, request.out)


@dataclass(frozen=True)
class _Worker:
    """Audits one method at a time and saves it; returns why it cannot, or None."""

    auditor: Auditor
    methods: Mapping[str, Method]
    out: Path
    say: Say | None = None

    def __call__(self, name: str) -> str | None:
        try:
            audit = self.auditor.audit(self.methods[name], progress=self.say)
        except HeatproofError as error:
            return str(error)
        # Saved at once: Ctrl-C or a kill loses one method at most.
        audit.save(self.out / name)
        return None


@dataclass(frozen=True, kw_only=True)
class _Opener:
    """Loads the same model and images in a worker."""

    request: AuditRequest
    model: str
    weights: str
    device: str

    def __call__(self) -> _Worker:
        model, request = load_model(self.model, device=self.device), self.request
        if model.weights_hash != self.weights:
            raise InputError(
                f"{self.model} has other weights in a worker ({model.weights_hash[:12]}, not "
                f"{self.weights[:12]}); every machine needs the same files"
            )
        auditor = Auditor(model, request.data, **request.settings)
        return _Worker(auditor, request.methods(model), request.out)


def _read(folder: Path) -> Audit:
    return from_json(json.loads((folder / "audit.json").read_text("utf-8")))


def _earlier(folder: Path, auditor: Auditor, method: Method, notice: Say) -> Audit | None:
    """Read the audit that an earlier run left in `folder`, if it answers the same question."""
    path = folder / "audit.json"
    try:
        done = _read(folder)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = type(error).__name__
        # A damaged file is no reason to stop: the audit can be made again.
        notice(f"{path} cannot be read ({reason}); {folder.name} is audited again")
        return None
    # Other weights under the same name, or other code, may give another verdict.
    keys = ("weights_sha256", "code_sha256")
    if any(done.environment.get(key) != auditor.environment[key] for key in keys):
        return None
    wanted = (method.settings(), auditor.model.spec, auditor.question)
    return done if (done.settings, done.model, done.question) == wanted else None
