"""What is said of a document that people wrote: the field that was meant, wherever it stands."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedshare.problems import problems


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Column(Strict):
    name: str = ""
    monotone: str = ""


class Party(Strict):
    columns: tuple[Column, ...] = ()
    applicants: Column | None = None


class Document(Strict):
    parties: dict[str, Party] = {}
    steps: Annotated[list[Party], Field(max_length=3)] = []
    settings: dict[str, Any] = {}


def said(document):
    with pytest.raises(ValidationError) as caught:
        Document.model_validate(document)
    return problems(caught.value, Document, "document")


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"partys": {}}, "partys: unknown field; did you mean parties?"),
        ({"parties": {"tax": {"colums": []}}}, "parties.tax.colums: unknown field; did you mean columns?"),
        (
            {"parties": {"tax": {"columns": [{}, {"monoton": "x"}]}}},
            "parties.tax.columns.1.monoton: unknown field; did you mean monotone?",
        ),
        (
            {"parties": {"tax": {"applicants": {"naem": "x"}}}},
            "parties.tax.applicants.naem: unknown field; did you mean name?",
        ),
        ({"steps": [{"x": 1}]}, "steps.0.x: unknown field; there are: applicants, columns"),
    ],
)
def test_an_unknown_field_is_told_with_the_one_that_was_meant(document, sentence):
    assert said(document) == sentence


def test_other_problems_keep_their_words_and_no_value_is_shown():
    text = said({"parties": {"tax": {"columns": "secret"}}, "settings": 1})
    assert "parties.tax.columns: Input should be a valid tuple" in text
    assert "settings: Input should be a valid dictionary" in text
    assert "secret" not in text


def test_a_field_whose_name_is_hostile_is_shown_escaped_and_short():
    text = said({"\u202etxt" + "x" * 500: 1})
    assert "\u202e" not in text
    assert len(text) < 300


def test_of_many_problems_twenty_are_told():
    assert said({f"unknown-{number}": 1 for number in range(25)}).endswith("; and 5 more")
