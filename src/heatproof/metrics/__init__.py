"""How good a map is, and how sure one may be.

A metric is a card and a function of a trial (`base`); importing a file here registers its metrics.
`localisation`, `perturbation`, `protocols` and `text_deletion` hold what they are built on,
`imputers` what stands for what is hidden. `heatproof.statistics` turns values into figures with
intervals.
"""

from heatproof.metrics.average_drop import Drop, Increase
from heatproof.metrics.base import Curve, Metric, MetricCard, Trial
from heatproof.metrics.completeness import AttributionError, Completeness
from heatproof.metrics.complexity import Entropy, Sparseness
from heatproof.metrics.deletion import Deletion, Insertion
from heatproof.metrics.grad_eclip_perturbation import GradECLIPDeletion, GradECLIPInsertion
from heatproof.metrics.infidelity import Infidelity
from heatproof.metrics.most_influential_first import LIF, MIF, SRG
from heatproof.metrics.pointing import EnergyPointing, MultiObjectPointing, Pointing
from heatproof.metrics.positive_negative import NegativePerturbation, PositivePerturbation
from heatproof.metrics.prompt_sensitivity import PromptSensitivity
from heatproof.metrics.randomisation import (
    EfficientRandomisation,
    ModelRandomisation,
    SmoothRandomisation,
)
from heatproof.metrics.registry import catalogue, create, register
from heatproof.metrics.segmentation import (
    AveragePrecision,
    MeanIoU,
    PixelAccuracy,
    PointIoU,
    SegmentationAP,
)
from heatproof.metrics.sensitivity import SensitivityMax
from heatproof.metrics.word_deletion import TextDeletion

__all__ = [
    "LIF",
    "MIF",
    "SRG",
    "AttributionError",
    "AveragePrecision",
    "Completeness",
    "Curve",
    "Deletion",
    "Drop",
    "EfficientRandomisation",
    "EnergyPointing",
    "Entropy",
    "GradECLIPDeletion",
    "GradECLIPInsertion",
    "Increase",
    "Infidelity",
    "Insertion",
    "MeanIoU",
    "Metric",
    "MetricCard",
    "ModelRandomisation",
    "MultiObjectPointing",
    "NegativePerturbation",
    "PixelAccuracy",
    "PointIoU",
    "Pointing",
    "PositivePerturbation",
    "PromptSensitivity",
    "SegmentationAP",
    "SensitivityMax",
    "SmoothRandomisation",
    "Sparseness",
    "TextDeletion",
    "Trial",
    "catalogue",
    "create",
    "register",
]
