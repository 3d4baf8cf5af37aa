"""ImageInputs with known truth, and images that users bring.

Nothing here knows a model: of heatproof only `errors`, `checking` and `images`.
"""

from heatproof.data.opening import Kind, kinds, open
from heatproof.errors import InputError

__all__ = ["InputError", "Kind", "kinds", "open"]
