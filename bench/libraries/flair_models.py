"""flair: a character language model, and a sequence tagger on such a one's embeddings."""

from __future__ import annotations

import flair
import torch
from flair.data import Dictionary, Sentence
from flair.embeddings import FlairEmbeddings
from flair.models import LanguageModel, SequenceTagger
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench.libraries.subject import Subject, Trial, plain_trial, replace_if

CHARACTERS, UNITS, ROWS, STEPS = 275, 512, 32, 100
TEXT = "a man who walks into the station at night asks where his old brown coat was left"


def language_model() -> LanguageModel:
    """Of the kind behind `FlairEmbeddings`, with weights drawn at random."""
    flair.device = torch.device("cpu")
    dictionary = Dictionary(add_unk=True)
    for code in range(32, 32 + CHARACTERS):
        dictionary.add_item(chr(code))
    return LanguageModel(dictionary, is_forward_lm=True, hidden_size=UNITS, nlayers=1, dropout=0.0)


def tagger() -> SequenceTagger:
    tags = Dictionary(add_unk=False)
    for tag in ("O", "PER", "LOC"):
        tags.add_item(tag)
    return SequenceTagger(
        FlairEmbeddings(language_model(), has_decoder=True),
        tag_dictionary=tags,
        tag_type="ner",
        hidden_size=256,
        use_crf=True,
        word_dropout=0.0,
        locked_dropout=0.0,
    )


def sentences() -> list[Sentence]:
    found = []
    for row in range(ROWS):
        sentence = Sentence(TEXT.split()[row % 5 : 6 + row % 11])
        sentence.get_token(1 + row % 3).add_label("ner", "PER" if row % 2 else "LOC")
        found.append(sentence)
    return sorted(found, key=len, reverse=True)  # as the tagger's predict does


def _build_language_model(fused: bool) -> Trial:
    model = language_model()
    replace_if(fused, model)
    text = torch.randint(0, CHARACTERS, (STEPS, ROWS))

    def forward() -> Tensor:
        return model(text, model.init_hidden(ROWS))[0]

    return plain_trial(
        model,
        forward,
        lambda found: cross_entropy(found[:-1].flatten(0, 1), text[1:].flatten()),
    )


def _build_tagger(fused: bool) -> Trial:
    model = tagger()
    replace_if(fused, model)
    batch = sentences()

    def forward() -> Tensor:
        for sentence in batch:
            sentence.clear_embeddings()
        if model.training:
            return model.forward_loss(batch)[0] / ROWS
        model.embeddings.embed(batch)
        # The scores of each tag, without the CRF's -10000 for what cannot follow.
        return model(*model._prepare_tensors(batch))[0].clamp(min=-100)

    return plain_trial(model, forward, lambda loss: loss)


SUBJECTS = [
    Subject(
        "flair",
        f"LanguageModel, {UNITS} units, {ROWS} rows of {STEPS} characters",
        "replace",
        ("rnn",),
        _build_language_model,
    ),
    Subject(
        "flair",
        f"SequenceTagger with FlairEmbeddings of {UNITS} units, {ROWS} sentences",
        "replace",
        ("embeddings.lm.rnn", "rnn"),
        _build_tagger,
    ),
]
