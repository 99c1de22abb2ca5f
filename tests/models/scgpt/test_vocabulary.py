"""Symbols and ids."""

from __future__ import annotations

import json

import pytest
from helpers import genes, vocabulary_ids

from workbench.errors import VocabularyError
from workbench.models.vocabulary import SPECIALS, Vocabulary


def test_symbols_and_ids_there_and_back():
    vocabulary = Vocabulary(vocabulary_ids())
    assert len(vocabulary) == 43 and vocabulary.genes == tuple(genes())
    assert (vocabulary.pad_id, vocabulary.cls_id) == (40, 41)
    assert vocabulary.encode(["GENE3", "nothing", "GENE0"]).tolist() == [3, -1, 0]
    assert vocabulary.encode([]).tolist() == []
    assert vocabulary.decode(vocabulary.encode(genes())) == genes()
    assert "GENE3" in vocabulary and "gene3" not in vocabulary


def test_genes_come_by_increasing_id_whatever_the_order_of_the_file():
    ids = dict(reversed(vocabulary_ids().items()))
    assert Vocabulary(ids).genes == tuple(genes())


def test_a_vocabulary_of_genes_starts_with_the_specials():
    vocabulary = Vocabulary.of_genes(["B", "A"])
    assert dict(vocabulary.ids) == {**{token: i for i, token in enumerate(SPECIALS)}, "B": 3, "A": 4}


def test_read(tmp_path):
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps(vocabulary_ids()), encoding="utf-8")
    assert dict(Vocabulary.read(path).ids) == vocabulary_ids()


def test_special_tokens_are_asked_for():
    with pytest.raises(VocabularyError, match="2 tokens has no '<pad>'"):
        Vocabulary({"<cls>": 0, "A": 1})
    without_cls = Vocabulary({"<pad>": 0, "A": 1})
    with pytest.raises(VocabularyError, match="no '<cls>'"):
        _ = without_cls.cls_id


def test_ids_must_differ():
    with pytest.raises(VocabularyError, match="3 tokens only 2 different ids"):
        Vocabulary({"<pad>": 0, "A": 1, "B": 1})


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(VocabularyError, match="cannot be read .No such file"):
        Vocabulary.read(tmp_path / "vocab.json")
