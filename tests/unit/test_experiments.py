"""Each experiment names texts that can be made, and settings that there are."""

import runpy
import tomllib
from pathlib import Path

import pytest

from microgpt.config import RunConfig, updated

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
RUN = runpy.run_path(str(EXPERIMENTS / "run.py"))
as_toml, merged = RUN["as_toml"], RUN["merged"]


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.toml")), ids=lambda path: path.stem)
def test_an_experiment_is_whole(path):
    settings = tomllib.loads(path.read_text())
    experiment = settings.pop("experiment")
    texts = [experiment["corpus"], *(judge["text"] for judge in experiment["judges"].values())]
    for text in texts:
        assert ("file" in text) != ("script" in text)
        if "script" in text:
            assert (ROOT / "dummy_data" / text["script"].split()[0]).is_file()
    for variant in settings.pop("variants"):
        for name in ("name", *RUN["OWN"]):
            variant.pop(name, None)
        written = tomllib.loads(as_toml(merged(settings, variant)))
        assert written == merged(settings, variant)
        updated(RunConfig(), written, path.name)


def test_a_variant_changes_some_settings_and_keeps_the_rest():
    settings = {"model": {"n_layer": 4, "n_head": 4}, "training": {"steps": 3}}
    changes = {"model": {"n_head": 2}, "optimizer": {"lr": 0.1}}
    assert merged(settings, changes) == {
        "model": {"n_layer": 4, "n_head": 2},
        "training": {"steps": 3},
        "optimizer": {"lr": 0.1},
    }
