"""BERT or ULMFiT: rules on the amount and length of texts, each with its source. Nothing is trained or downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tledge.data.modality import TextData

BERT, ULMFIT = "bert", "ulmfit"
# BERT reads 512 word pieces at a time, two of them its own marks; English makes about 1.3 pieces of a word.
_PIECES_PER_WORD = 1.3
_BERT_WORDS = round(510 / _PIECES_PER_WORD)
_FEW_LABELLED = 1_000
_UNLABELLED_RATIO = 10
# What the papers train for: multiply-adds of weights besides word vectors, twice forward and four times backward.
_BERT_WEIGHTS, _BERT_EPOCHS = 86e6, 3
_ULMFIT_WEIGHTS, _ULMFIT_EPOCHS = 20e6, 15
_FLOP_PER_WEIGHT = 6
_GFLOPS_PER_CORE = 50.0


@dataclass(frozen=True)
class TextAdvice:
    """Both models, the recommended one first; the rule that decided, its source, and what speaks for each."""

    ranked: tuple[str, str]
    rule: str
    source: str
    reasons: Mapping[str, tuple[str, ...]]


def recommend(data: TextData, cores: int) -> TextAdvice:
    """Choose between BERT and ULMFiT; the first rule that applies decides.

    Args:
        data: what is known of the texts.
        cores: of this machine, for a rough estimate of the hours a fine-tuning takes without a GPU.
    """
    ranked, rule, source = _decide(data)
    total, seen = data.labelled + data.unlabelled, min(data.median_words, _BERT_WORDS)
    bert_hours = _hours(_BERT_WEIGHTS, _BERT_EPOCHS, data.labelled * seen, cores)
    ulmfit_hours = _hours(_ULMFIT_WEIGHTS, _ULMFIT_EPOCHS, total * data.median_words, cores)
    reasons = {
        BERT: (
            f"learns from the {data.labelled} labelled texts alone, {_BERT_EPOCHS} epochs",
            f"reads about {_BERT_WORDS} words at a time; half of the texts have {data.median_words} or more",
            f"86 million weights besides word vectors, {bert_hours} on {cores} cores without a GPU (rough)",
            "Apache-2.0",
        ),
        ULMFIT: (
            f"fine-tunes its language model on all {total} texts first, {data.unlabelled} of them without a label",
            "reads texts of any length, word by word",
            f"20 million weights besides word vectors, {ulmfit_hours} on {cores} cores without a GPU (rough)",
            "Apache-2.0; learned from WikiText-103, CC BY-SA 3.0",
        ),
    }
    return TextAdvice(ranked, rule, source, reasons)


def _decide(data: TextData) -> tuple[tuple[str, str], str, str]:
    howard = (
        "Howard and Ruder 2018, section 5: with unlabelled texts, 100 labelled ones did what 50 to 100 times more did"
    )
    if len(data.classes) < 2:
        return (
            (ULMFIT, BERT),
            "the texts do not have two labels yet: label some of each class, ULMFiT learns from the others too",
            howard,
        )
    if data.median_words > _BERT_WORDS:
        return (
            (ULMFIT, BERT),
            f"half of the texts are longer than the {_BERT_WORDS} words that BERT reads at a time",
            "Devlin et al. 2019, appendix A.2: sequences of at most 512 word pieces",
        )
    if data.labelled < _FEW_LABELLED and data.unlabelled >= _UNLABELLED_RATIO * data.labelled:
        return (
            (ULMFIT, BERT),
            f"fewer than {_FEW_LABELLED} labelled texts, and {_UNLABELLED_RATIO} times as many without a label",
            howard,
        )
    if data.labelled < _FEW_LABELLED:
        return (
            (BERT, ULMFIT),
            f"fewer than {_FEW_LABELLED} labelled texts, and not {_UNLABELLED_RATIO} times as many without a label: "
            "BERT, with warm-up, bias correction and several seeds, since some runs fail on so few",
            "Mosbach et al. 2021, section 6",
        )
    return (
        (BERT, ULMFIT),
        f"{_FEW_LABELLED} labelled texts or more, short enough for BERT",
        "Devlin et al. 2019, table 1",
    )


def _hours(weights: float, epochs: int, words: int, cores: int) -> str:
    flop = weights * _FLOP_PER_WEIGHT * epochs * words * _PIECES_PER_WORD
    hours = flop / (cores * _GFLOPS_PER_CORE * 1e9) / 3600
    return "less than 0.1 h" if hours < 0.1 else f"about {hours:.1f} h"
