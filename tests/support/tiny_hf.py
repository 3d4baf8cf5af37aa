"""The tiny Hugging Face models of `heatproof.specimens`, and a tokenizer for them."""

import inspect
import string

import transformers
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from heatproof.specimens.hugging_face import *  # noqa: F403 (names of the specimens)
from heatproof.specimens.hugging_face import CONTEXT, MODELS, VOCABULARY


def _taking(parameter: str) -> list[str]:
    """Specimens that can be built with it."""
    return [
        name for name, build in MODELS.items() if parameter in inspect.signature(build).parameters
    ]


WITH_TOKENIZER, WITH_ATTENTION = _taking("tokenizer"), _taking("attention")


def tokenizer(begin: bool = True) -> transformers.PreTrainedTokenizerFast:
    """A word-piece tokenizer of `VOCABULARY` tokens, `begin` (or not) and `end` around a prompt."""
    letters, words = string.ascii_lowercase, ("dog", "cat", "snow", "##ball", "white", "red")
    names = ["<pad>", "<unk>", *letters, *(f"##{letter}" for letter in letters), *words]
    names += [f"<unused {number}>" for number in range(len(names), VOCABULARY - 2)]
    names += ["<begin>", "<end>"]
    core = Tokenizer(WordPiece({name: id for id, name in enumerate(names)}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<begin> $A <end>" if begin else "$A <end>",
        special_tokens=[("<begin>", VOCABULARY - 2), ("<end>", VOCABULARY - 1)],
    )
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<begin>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", model_max_length=CONTEXT, **special
    )
