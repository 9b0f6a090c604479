"""Settings come from defaults, files and flags, are checked, and go back to files unchanged."""

import dataclasses
import typing

import pytest

from microgpt import config
from microgpt.config import ModelConfig, RunConfig, from_text, merged, overlaid, to_dict, updated
from microgpt.errors import UsageError


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("20_000", 20_000), ("800k", 800_000), ("1.5M", 1_500_000), ("2B", 2_000_000_000)],
)
def test_counts_may_end_in_a_multiple(text, value):
    assert config.count(text) == value


@pytest.mark.parametrize("text", ["", "k", "1.5", "1.0005k", "infM", "nanM", "5MB", "many"])
def test_what_is_no_whole_number_is_refused(text):
    with pytest.raises(UsageError, match="no whole number"):
        config.count(text)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("model.n_layer", "6", 6),
        ("model.dropout", "0.1", 0.1),
        ("model.tied_head", "true", True),
        ("model.norm", "none", "none"),
        ("model.n_kv_head", "off", None),
        ("optimizer.clip", "off", None),
        ("optimizer.clip", "2", 2.0),
        ("training.tokens", "10M", 10_000_000),
        ("data.align", "lines", "lines"),
        ("data.loss_after", "=", "="),
        ("data.path", "12", "12"),
    ],
)
def test_text_becomes_the_setting_s_own_type(key, text, value):
    found = from_text(key, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "sentence"),
    [
        ("model.n_layers", "3", "did you mean 'model.n_layer'"),
        ("modle.n_layer", "3", "did you mean 'model'"),
        ("model", "3", "is a table of settings"),
        ("model.norm.kind", "3", "unknown setting"),
        ("model.norm", "batch", "'rmsnorm' or 'layernorm' or 'none'"),
        ("model.tied_head", "maybe", "must be true or false"),
        ("model.dropout", "much", "must be a number"),
        ("training.steps", "off", None),
    ],
)
def test_a_wrong_setting_is_told_with_the_way_out(key, text, sentence):
    if sentence is None:
        assert from_text(key, text) is None
        return
    with pytest.raises(UsageError, match=sentence):
        from_text(key, text)


def test_later_settings_win_and_leave_the_others():
    first = {"model": {"n_layer": 2, "n_head": 2}, "training": {"steps": 5}}
    later = {"model": {"n_layer": 3}}
    assert merged(first, later) == {
        "model": {"n_layer": 3, "n_head": 2},
        "training": {"steps": 5},
    }
    assert first["model"]["n_layer"] == 2


def test_a_later_budget_takes_the_place_of_an_earlier_one():
    file = {"training": {"steps": 500, "batch_rows": 8}}
    assert overlaid(file, {"training": {"minutes": 10.0}}) == {
        "training": {"batch_rows": 8, "minutes": 10.0}
    }
    for later in ({"training": {"epochs": None}}, {"model": {"n_layer": 3}}, {}):
        assert overlaid(file, later)["training"]["steps"] == 500
    assert file["training"]["steps"] == 500


def test_an_unknown_key_in_a_file_names_the_nearest():
    with pytest.raises(UsageError, match=r"mine\.toml, \[model\]: .*did you mean 'n_embd'"):
        updated(RunConfig(), {"model": {"n_emb": 3}}, "mine.toml")


def test_a_configuration_with_every_optional_setting_off_survives_its_file():
    def without(part):
        hints = typing.get_type_hints(type(part))
        free = [
            f.name for f in dataclasses.fields(part) if type(None) in typing.get_args(hints[f.name])
        ]
        return dataclasses.replace(part, **dict.fromkeys(free))

    whole = RunConfig()
    whole = RunConfig(*(without(getattr(whole, f.name)) for f in dataclasses.fields(whole)))
    assert updated(RunConfig(), to_dict(whole), "file") == whole


def test_a_wrong_shape_is_refused_with_its_numbers():
    with pytest.raises(UsageError, match="n_embd = 30 does not divide by n_head = 4"):
        ModelConfig(n_embd=30, n_head=4)
