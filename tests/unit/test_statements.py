"""Statements in named blocks, and their parameters."""

import pytest

from sessiond_server.postgres.statements import numbered, parse


def test_named_parameters_are_numbered_as_they_occur() -> None:
    assert numbered("select :b::text, :a, :b") == ("select $1::text, $2, $1", ("b", "a"))


def test_casts_are_no_parameters() -> None:
    assert numbered("select $1::text[], ''::bytea") == ("select $1::text[], ''::bytea", ())


def test_statement_with_named_and_numbered_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="named and numbered"):
        parse("-- name: mixed\nselect :a, $1\n")


def test_fragments_keep_their_names() -> None:
    assert parse("-- name: part\nx = :a\n", fragments=True)["part"].text == "x = :a"


def test_two_statements_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two statements"):
        parse("-- name: a\nselect 1\n-- name: a\nselect 2\n")
