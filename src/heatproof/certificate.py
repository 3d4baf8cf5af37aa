"""The proof that comes with a map: is this an explanation of that very model?"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Verdict = Literal["holds", "violated", "not established", "not applicable"]
LightName = Literal["same model", "same derivatives", "follows the prompt", "input"]
State = Literal["yes", "limited", "no", "not established", "not applicable"]
Replaced = Literal["factor", "backward rule", "readout", "forward pass", "everything"]
Weights = Literal["loaded", "random", "unknown"]
Kind = Literal["holds", "holds with limits", "another backward rule", "fails", "not established"]
# From the worst to the best.
KINDS: tuple[Kind, ...] = (
    "fails",
    "another backward rule",
    "not established",
    "holds with limits",
    "holds",
)

# Without these two, nothing says that a map is of this model.
ESSENTIAL = ("parity", "native factors")
NO_CHECK = "no check was made (certify=False)"
HANDED_IN = (
    "the map comes from code that was handed in: nothing is known of its pass; try heatproof audit"
)
UNCHANGED_MODEL = "This map was computed from your model without changing it."
INSTEAD: dict[Replaced, str] = {
    "factor": "the model's own, but for a factor that it never computes",
    "backward rule": "another backward rule over the model's own forward pass",
    "readout": "of another readout than the model's",
    "forward pass": "of another forward pass",
    "everything": "none: nothing of the model enters the map",
}


@dataclass(frozen=True)
class Check:
    """One question asked of an explanation: the `value` measured, the `limit` it is held to."""

    name: str
    verdict: Verdict
    evidence: str
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Light:
    """One of the four things that stand on a picture, with a short phrase of evidence.

    `limited` is true with a reservation, which the phrase states. Only `yes` is good news.
    """

    name: LightName
    state: State
    evidence: str


@dataclass(frozen=True)
class Certificate:
    """What was checked, what the map is made of, and where it was made.

    `native` and `substituted` name the factors of the map that the untouched model computes and
    those that it never does; `replaced` says what kind of thing the latter stand in for.
    `null_prompts` maps a control prompt's kind ("empty", "gibberish", "unrelated") to how much the
    map changes under it: 1 - cosine of the two signed maps, mean over images and prompts (0: the
    same map, the prompt is ignored). `common_share` is the share of a map's squared norm that is
    the same for every prompt (0 to 1, the same mean; None where it was not measured). `follows` is
    the light that these two decide. `says_nothing` holds prompts whose words the model does not
    know, with the reason; the measures leave them out. `weights` says where the model's weights
    come from. `reason` says why nothing was checked. `warnings` do not fail a certificate.
    """

    checks: tuple[Check, ...]
    native: tuple[str, ...]
    substituted: tuple[str, ...]
    null_prompts: dict[str, float] = field(default_factory=dict[str, float])
    warnings: tuple[str, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict[str, Any])
    replaced: Replaced = "factor"
    common_share: float | None = None
    follows: Light | None = None
    says_nothing: dict[str, str] = field(default_factory=dict[str, str])
    weights: Weights = "unknown"
    reason: str = NO_CHECK

    @property
    def holds(self) -> bool | None:
        """True: established, and nothing is violated. False: something is. None: not established,
        because nothing was checked, or because parity or native factors could not be told."""
        if any(check.verdict == "violated" for check in self.checks):
            return False
        return True if all(self._holds(name) for name in ESSENTIAL) else None

    @property
    def kind(self) -> Kind:
        """The verdict as a headline. `holds with limits`: a light has a reservation.
        `another backward rule`: fails, but for nothing else than that."""
        if self.holds is None:
            return "not established"
        if self.holds:
            limits = any(light.state in ("limited", "no") for light in self.lights)
            return "holds with limits" if limits else "holds"
        violated = {check.name for check in self.checks if check.verdict == "violated"}
        mild = violated == {"native factors"} and self.replaced == "backward rule"
        return "another backward rule" if mild else "fails"

    @property
    def sentence(self) -> str:
        """The verdict in plain words for a reader who is no expert."""
        if self.holds is None:
            return f"not established: {self._unestablished()}"
        if self.holds:
            limits = [light for light in self.lights if light.state in ("limited", "no")]
            return " ".join([UNCHANGED_MODEL, *(f"{_reservation(light)}." for light in limits)])
        return next(check.evidence for check in self.checks if check.verdict == "violated")

    @property
    def lights(self) -> tuple[Light, Light, Light, Light]:
        """What was proved, in four short statements: see `Light`."""
        follows = self.follows or Light("follows the prompt", "not established", "not measured")
        if self.says_nothing:
            why = "; ".join(self.says_nothing.values())
            # Measured of the other prompts alone.
            some = follows.state in ("yes", "limited")
            follows = Light(
                follows.name,
                "limited" if some else "no",
                f"{why}; other prompts: {follows.evidence}" if some else why,
            )
        return self._same_model(), self._same_derivatives(), follows, self._input()

    def of(self, *prompts: str) -> "Certificate":
        """The same for some of the prompts: others that say nothing are not held against them."""
        kept = {text: why for text, why in self.says_nothing.items() if text in prompts}
        follows = None if prompts and set(prompts) <= set(kept) else self.follows
        return replace(self, says_nothing=kept, follows=follows)

    def check(self, name: str) -> Check | None:
        """The check of that name, if it was made."""
        return next((check for check in self.checks if check.name == name), None)

    def _holds(self, name: str) -> bool:
        check = self.check(name)
        return check is not None and check.verdict == "holds"

    def _violated(self, *names: str) -> bool:
        return any(c.verdict == "violated" and c.name in names for c in self.checks)

    def _unestablished(self) -> str:
        if not self.checks:
            return self.reason
        missing = [name for name in ESSENTIAL if not self._holds(name)]
        said = (self.check(name) for name in missing)
        return "; ".join(
            f"{name}: {check.evidence if check else 'not checked'}"
            for name, check in zip(missing, said, strict=True)
        )

    def _same_model(self) -> Light:
        name: LightName = "same model"
        if self.substituted and self.replaced == "everything":
            return Light(name, "no", "nothing of the model enters the map")
        parity = self.check("parity")
        if self._violated("parity"):
            return Light(name, "no", f"another forward pass: scores differ{_up_to(parity)}")
        if self._violated("readout"):
            return Light(name, "no", "another readout than the model's")
        weights = {
            "loaded": "loaded weights",
            "random": "RANDOM weights: an untrained model",
            "unknown": "weights as handed in",
        }[self.weights]
        if not self._holds("parity"):
            if self.substituted and self.replaced in ("forward pass", "readout"):
                return Light(name, "no", f"another {self.replaced}, by the method's own account")
            return Light(name, "not established", f"not checked; {weights}")
        if self.substituted and self.replaced in ("forward pass", "readout"):
            own = "the score is your model's own, the map is of another"
            return Light(name, "limited", f"{own} {self.replaced}; {weights}")
        state: State = "limited" if self.weights == "random" else "yes"
        return Light(name, state, f"the same forward pass{_up_to(parity)}; {weights}")

    def _same_derivatives(self) -> Light:
        name: LightName = "same derivatives"
        if self.substituted:
            state: State = "limited" if self.replaced == "backward rule" else "no"
            return Light(name, state, INSTEAD[self.replaced])
        if self._violated("parity", "native factors"):
            return Light(name, "no", INSTEAD["forward pass"])
        broken = {
            "gradient reach": "no gradient reaches a layer that the map reads",
            "completeness": "the values miss the sum that the method promises",
            "finite": "some values are not numbers",
        }
        for check, evidence in broken.items():
            if self._violated(check):
                return Light(name, "no", evidence)
        if not self._holds("native factors"):
            return Light(name, "not established", "not checked")
        return Light(name, "yes", f"the model's own: {'; '.join(self.native)}")

    def _input(self) -> Light:
        check = self.check("input")
        if check is None:
            missing = "not compared with the model's own processor"
            return Light("input", "not established", missing)
        states: dict[Verdict, State] = {"holds": "yes", "violated": "no"}
        state = states.get(check.verdict)
        if state is None:
            state = "not established" if check.verdict == "not established" else "not applicable"
        return Light("input", state, check.evidence)


def certificate_from(about: Mapping[str, Any]) -> Certificate:
    """The certificate that `dataclasses.asdict` wrote, after a way through JSON."""
    plain: dict[str, Any] = dict(about)
    plain["checks"] = tuple(Check(**check) for check in about["checks"])
    for name in ("native", "substituted", "warnings"):
        plain[name] = tuple(about[name])
    if about.get("follows") is not None:
        plain["follows"] = Light(**about["follows"])
    return Certificate(**plain)


def worst(verdicts: list[bool | None]) -> bool | None:
    """Of several certificates' `holds`: False before None before True; None where there is none."""
    if False in verdicts:
        return False
    return None if None in verdicts or not verdicts else True


def worst_kind(kinds: list[Kind]) -> Kind:
    """Of several certificates' `kind`."""
    return next(kind for kind in KINDS if kind in kinds)


def _reservation(light: Light) -> str:
    state = "limited" if light.state == "limited" else "NO"
    return f"{light.name[0].upper()}{light.name[1:]}: {state}, {light.evidence}"


def _up_to(parity: Check | None) -> str:
    if parity is None or parity.value is None:
        return ""
    return f" (gap {parity.value:.1g})"
