"""Options are defined once: each config, the schema and docs/options.md agree.

``python tests/bundles/test_options.py`` writes the table there anew.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from monai.bundle import ConfigParser

import transforms.fillings
from networks import ENCODERS, SCALES, SUBNETS
from networks.contrast import CONTRASTS
from pipelines.common.plain import plain_options
from pipelines.common.schema import Options, check_values, takes
from transforms.errors import InputError
from transforms.geometry import SliceAxis
from transforms.limits import MAX_GIGABYTES, require_memory

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "aeflow"
TABLE = ROOT / "docs" / "options.md"
CONFIGS = ("train", "evaluate", "inference", "calibrate", "compare")
PRESETS = ("quick", "gpu", "gpu_volumes", "paper", "volumes")
START, END = "<!-- options: python tests/bundles/test_options.py -->\n", "<!-- end of options -->"


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((BUNDLE / f"{name}.json").read_text())
    return content


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif isinstance(value, str):
        yield value


def unread(content: dict[str, Any]) -> set[str]:
    """The options that nothing in the config refers to."""
    read = {name for text in strings(content) for name in re.findall(r"@(\w+)", text)}
    return set(plain_options(content)) - read


def table() -> str:
    contents = {name: plain_options(load(name)) for name in CONFIGS}
    lines = ["| option | default | takes | meaning | of |", "|---|---|---|---|---|"]
    for name, field in Options.model_fields.items():
        places = [config for config in CONFIGS if name in contents[config]]
        default = contents[places[0]][name]
        computed = isinstance(default, str) and default.startswith(("$", "@"))
        shown = "" if default is None or computed else f"`{json.dumps(default).strip(chr(34))}`"
        words = takes(name).replace("<", "&lt;")
        of = "all" if len(places) == len(CONFIGS) else ", ".join(places)
        lines.append(f"| `--{name}` | {shown} | {words} | {field.description} | {of} |")
    return "\n".join(lines) + "\n"


def test_every_option_is_defined_once_and_used() -> None:
    used = {name for config in CONFIGS for name in plain_options(load(config))}
    assert used == set(Options.model_fields)
    for preset in PRESETS:
        assert set(load(preset)) <= set(plain_options(load("train")))


@pytest.mark.parametrize("config", CONFIGS)
def test_every_option_is_read(config: str) -> None:
    content = load(config)
    assert unread(content) == set()
    assert unread(content | {"forgotten": 1}) == {"forgotten"}


@pytest.mark.parametrize("config", [*CONFIGS, *PRESETS])
def test_the_defaults_are_what_the_options_take(config: str) -> None:
    check_values(load(config))


def test_names_that_are_listed_twice_agree() -> None:
    """The schema names them itself, so that it is imported without torch."""
    assert takes("axis") == f"one of {', '.join(get_args(SliceAxis))}"
    assert takes("contrast") == f"one of {', '.join(('auto', *CONTRASTS))}"
    for option, known in (("encoder", ENCODERS), ("subnet", SUBNETS), ("scale", SCALES)):
        assert takes(option) == f"one of {', '.join(known)}"
    assert takes("withheld") == f"one of {', '.join(transforms.fillings.FILLINGS)}"


@pytest.mark.parametrize("config", CONFIGS)
def test_json_holds_no_logic(config: str) -> None:
    """An expression joins a path, follows attributes, or calls one method without arguments."""
    plain = re.compile(r"@bundle_root \+ '/\w+'|@\w+(#\w+)*(\.\w+)*(\(\))?")
    odd = [
        text
        for text in strings(load(config))
        if text.startswith("$") and not plain.fullmatch(text[1:])
    ]
    assert odd == []


def test_the_table_in_the_documents_is_fresh() -> None:
    text = TABLE.read_text()
    assert text[text.index(START) + len(START) : text.index(END)] == f"\n{table()}\n"


def test_no_file_is_opened_to_define_a_network(tmp_path: Path) -> None:
    parser = ConfigParser()
    parser.read_config(BUNDLE / "train.json")
    parser["dataset_dir"] = str(tmp_path / "nowhere")
    parser["modalities"] = "flair,t2"
    network: Any = parser.get_parsed_content("network_def")
    assert network.detector.in_channels == 2
    parser["channels"] = 3
    parser.parse(reset=True)
    network = parser.get_parsed_content("network_def")
    assert network.detector.in_channels == 3


def test_the_series_to_score_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1.dcm").write_bytes(bytes(128) + b"DICM")
    series = [
        SimpleNamespace(number=n, uid=f"1.{n}", path=tmp_path, files=(), problem="") for n in (2, 3)
    ]
    monkeypatch.setattr("pipelines.data.inputs.list_series", lambda *_, **__: series)

    def chosen(**options: Any) -> list[str | None]:
        parser = ConfigParser()
        parser.read_config(BUNDLE / "inference.json")
        parser["model"] = {"volumetric": True, "modalities": ["ct"]}
        parser.update({"input": str(tmp_path), **options})
        inputs: Any = parser.get_parsed_content("inputs")
        return [case.series_uid for case in inputs.cases]

    assert chosen() == [None]
    assert chosen(series_uid="1.2") == ["1.2"]
    assert chosen(all_series=True) == ["1.2", "1.3"]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_memory_of_an_image_can_be_bounded(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEFLOW_MAX_GIGABYTES", str(MAX_GIGABYTES))
    monkeypatch.setenv("AEFLOW_MAX_SECONDS", "300")
    parser = ConfigParser(load(config) | {"max_gigabytes": 0.001})
    parser.get_parsed_content("initialize")
    with pytest.raises(InputError, match=r"at most 0\.001 GiB"):
        require_memory(tmp_path, 2**21)


if __name__ == "__main__":
    before, rest = TABLE.read_text().split(START)
    TABLE.write_text(f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}")
