"""The certificate of a map, as plain data: is this an explanation of that very model?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, comb
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
AGREEMENT = "agreement with banzhaf"  # of the referee: see `heatproof.engine.referee`
NO_CHECK = "no check was made (certify=False)"
HANDED_IN = "the map comes from your own code, whose forward pass is unknown; try heatproof audit"
UNCHANGED_MODEL = "This map was computed from your model without changing it."
INSTEAD: dict[Replaced, str] = {
    "factor": "the model's own, but for a factor that it never computes",
    "backward rule": "another backward rule over the model's own forward pass",
    "readout": "of another readout than the model's",
    "forward pass": "of another forward pass",
    "everything": "none: nothing of the model enters the map",
}


@dataclass(frozen=True)
class ParitySample:
    """Images that a check was made on (`compared`), of all `images` of the call."""

    compared: int
    images: int

    def miss(self, share: float) -> float:
        """Return the probability that a fault in this share of the images (rounded up) is in none
        of those that were compared, which are drawn without replacement."""
        faulty = min(self.images, ceil(share * self.images))
        sound = self.images - faulty
        return comb(sound, self.compared) / comb(self.images, self.compared)

    def __str__(self) -> str:
        return f"measured on {self.compared} of {self.images} images"

    @property
    def risk(self) -> str:
        """The sample and its risk in words."""
        half, tenth = (f"{self.miss(share):.2g}" for share in (0.5, 0.1))
        return (
            f"{self}, drawn at random: a fault in half of the images would be missed with "
            f"probability {half}, in a tenth with {tenth}"
        )


@dataclass(frozen=True)
class Check:
    """One question about an explanation, with the `value` measured and its `limit`.

    `sample`, if set, says that the check was made on some images only, and that this certificate
    covers others as well.
    """

    name: str
    verdict: Verdict
    evidence: str
    value: float | None = None
    limit: float | None = None
    sample: ParitySample | None = None


@dataclass(frozen=True)
class Light:
    """One of the four statements that are shown on an image, with a short phrase of evidence.

    `limited` means yes with a reservation, which the phrase states.
    """

    name: LightName
    state: State
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What was checked, what the map is made of, and where it was made.

    Attributes:
        native: the factors of the map that the untouched model computes.
        substituted: the factors that it never computes.
        replaced: what kind of thing these stand in for.
        null_prompts: how much the map changes under each kind of null prompt ("empty", "gibberish",
            "unrelated"): 1 - cosine of the two signed maps, mean over images and prompts. At 0 the
            prompt is ignored.
        common_share: the share of a map's squared norm that is the same for every prompt, 0 to 1,
            mean over images and prompts; None where it was not measured.
        follows: the light that these two decide.
        says_nothing: prompts whose words the model does not know, with the reason; the two measures
            leave them out.
        environment: what one needs to make the same map again.
        weights: where the model's weights come from.
        reason: why nothing was checked.
        warnings: what a user must know; they do not fail a certificate.
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
        """The verdict: True if nothing is violated, False if something is, None if not established.

        It is not established if nothing was checked, or if parity or native factors are unknown.
        """
        if any(check.verdict == "violated" for check in self.checks):
            return False
        return True if all(self._holds(name) for name in ESSENTIAL) else None

    @property
    def kind(self) -> Kind:
        """The verdict as a headline.

        `holds with limits`: a light has a reservation. `another backward rule`: it fails, and this
        is the only reason.
        """
        if self.holds is None:
            return "not established"
        if self.holds:
            limits = any(light.state in ("limited", "no") for light in self.lights)
            return "holds with limits" if limits else "holds"
        violated = {check.name for check in self.checks if check.verdict == "violated"}
        # The scores are the model's own, and so is every quantity but the rule of the derivatives.
        mild = violated == {"native factors"} and self.replaced == "backward rule"
        return "another backward rule" if mild else "fails"

    @property
    def sentence(self) -> str:
        """The verdict in plain words, for a reader who is no expert."""
        if self.holds is None:
            return f"not established: {self._unestablished()}"
        if self.holds:
            limits = [light for light in self.lights if light.state in ("limited", "no")]
            lines = [*self._samples(), *(f"{_reservation(light)}." for light in limits)]
            return " ".join([UNCHANGED_MODEL, *lines])
        return next(check.evidence for check in self.checks if check.verdict == "violated")

    @property
    def lights(self) -> tuple[Light, Light, Light, Light]:
        """What is established, in four short statements."""
        follows = self.follows or Light("follows the prompt", "not established", "not measured")
        if self.says_nothing:
            why = "; ".join(self.says_nothing.values())
            # What was measured is about the other prompts only.
            others = follows.state in ("yes", "limited")
            text = f"{why}; other prompts: {follows.evidence}" if others else why
            follows = Light(follows.name, "no", text)
        return self._same_model(), self._same_derivatives(), follows, self._input()

    @property
    def figures(self) -> dict[str, str | float | bool | None]:
        """The verdict, the four lights and their figures as one flat row, for a table or a store.

        `holds` and `verdict`; a state per light, by its name; `parity gap`, `parity limit` and
        `parity measured` (False where the check rests on other images of the same call);
        `change under ...`, one per kind of null prompt; `common share`. None where something was
        not measured.
        """
        parity = self.check("parity")
        return {
            "holds": self.holds,
            "verdict": self.kind,
            **{light.name: light.state for light in self.lights},
            "parity gap": None if parity is None else parity.value,
            "parity limit": None if parity is None else parity.limit,
            "parity measured": None if parity is None else parity.sample is None,
            **{
                f"change under {kind}": self.null_prompts.get(kind)
                for kind in ("empty", "gibberish", "unrelated")
            },
            "common share": self.common_share,
        }

    def check(self, name: str) -> Check | None:
        """Return the check of that name, if it was made."""
        return next((check for check in self.checks if check.name == name), None)

    def _holds(self, name: str) -> bool:
        check = self.check(name)
        return check is not None and check.verdict == "holds"

    def _violated(self, *names: str) -> bool:
        return any(c.verdict == "violated" and c.name in names for c in self.checks)

    def _samples(self) -> list[str]:
        """Say which checks rest on other images, and what they may have missed."""
        sampled = [check for check in self.checks if check.sample is not None]
        names = " and ".join(check.name for check in sampled)
        risks = {check.sample.risk for check in sampled if check.sample is not None}
        subject = "check" if len(sampled) == 1 else "checks"
        verb = "was" if len(sampled) == 1 else "were"
        return [f"The {subject} {names} {verb} {risk}." for risk in risks]

    def _unestablished(self) -> str:
        if not self.checks:
            return self.reason
        missing = [name for name in ESSENTIAL if not self._holds(name)]
        checks = [self.check(name) for name in missing]
        return "; ".join(
            f"{name}: {check.evidence if check else 'not checked'}"
            for name, check in zip(missing, checks, strict=True)
        )

    def _same_model(self) -> Light:
        name: LightName = "same model"
        # By the method's own account, whatever was measured.
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
        on = "" if parity is None or parity.sample is None else f", {parity.sample}"
        return Light(name, state, f"the same forward pass{_up_to(parity)}{on}; {weights}")

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
    """Return the certificate that `dataclasses.asdict` wrote, read back from JSON."""
    plain: dict[str, Any] = dict(about)  # in JSON, tuples are lists and classes are objects
    plain["checks"] = tuple(_check_from(check) for check in about["checks"])
    for name in ("native", "substituted", "warnings"):
        plain[name] = tuple(about[name])
    if about.get("follows") is not None:
        plain["follows"] = Light(**about["follows"])
    return Certificate(**plain)


def _check_from(about: Mapping[str, Any]) -> Check:
    plain: dict[str, Any] = dict(about)
    if plain.get("sample") is not None:
        plain["sample"] = ParitySample(**plain["sample"])
    return Check(**plain)


@dataclass(frozen=True)
class Certificates:
    """A certificate for each image and prompt, made when it is asked for.

    Attributes:
        certify: makes the certificate of some images and prompts, given their numbers: that of the
            worst of them, check by check and light by light.
        images: how many images there are.
        prompts: how many prompts there are.
    """

    certify: Callable[[Sequence[int], Sequence[int]], Certificate]
    images: int
    prompts: int

    def __getitem__(self, row: tuple[int, int]) -> Certificate:
        """Return the certificate of one image and one prompt, by their numbers."""
        image, prompt = row
        return self.certify([image], [prompt])

    def rows(self, image: int) -> tuple[Certificate, ...]:
        """Return one image's certificates, prompt by prompt."""
        return tuple(self[image, prompt] for prompt in range(self.prompts))

    def for_image(self, image: int) -> Certificate:
        """Return the worst of one image's certificates."""
        return self.certify([image], range(self.prompts))

    @property
    def worst(self) -> Certificate:
        """The worst of all."""
        return self.certify(range(self.images), range(self.prompts))


def worst(verdicts: list[bool | None]) -> bool | None:
    """Return the worst `holds` of several certificates: False before None before True."""
    if False in verdicts:
        return False
    return None if None in verdicts or not verdicts else True


def worst_kind(kinds: list[Kind]) -> Kind:
    """Return the worst `kind` of several certificates."""
    return next(kind for kind in KINDS if kind in kinds)


def _reservation(light: Light) -> str:
    state = "limited" if light.state == "limited" else "NO"
    return f"{light.name[0].upper()}{light.name[1:]}: {state}, {light.evidence}"


def _up_to(parity: Check | None) -> str:
    if parity is None or parity.value is None:
        return ""
    return f" (gap {parity.value:.1g})"
