"""Options and mistakes."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle.scripts import create_workflow
from torch import nn

from networks import AffineCoupling, build_aeflow
from networks.errors import ArgumentError
from pipelines.common import options
from pipelines.common.options import find_mistake, guard_options, tell_mistake
from pipelines.common.plain import plain_options
from transforms.errors import InputError

CONFIG = {
    "bundle_root": {"_target_": "pipelines.common.options.bundle_root"},
    "max_epochs": 3,
    "flow_strides": [16],
    "dataset_dir": None,
    "train": {"batch_size": 2},
    "unread": 1,
    "part": {"_target_": "builtins.dict", "a": "@max_epochs", "b": "@further", "c": "@dataset_dir"},
    "initialize": [{"_target_": "pipelines.common.options.guard_options"}],
    "run": ["$None"],
}


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "configs").mkdir()
    path = tmp_path / "configs" / "train.json"
    path.write_text(json.dumps(CONFIG))
    return str(path)


@pytest.fixture(autouse=True)
def _hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # guard_options sets it
    monkeypatch.delenv(options.TRACEBACK_VARIABLE, raising=False)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the error hook writes for an exception."""

    def write(error: BaseException) -> str:
        found: list[str] = []
        monkeypatch.setattr(sys, "__excepthook__", lambda *told: found.append("traceback"))
        monkeypatch.setattr(sys.stderr, "write", found.append)
        tell_mistake(type(error), error, error.__traceback__)
        return "".join(found)

    return write


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except type(error) as caught:
        return caught


def start(config: str, **given: Any) -> Any:
    return create_workflow(config_file=config, workflow_type="train", **given)


@pytest.mark.filterwarnings("ignore::UserWarning")
class TestGuard:
    def test_known_options_pass(self, config: str) -> None:
        workflow = start(config, max_epochs=5, **{"train#batch_size": 4})
        assert workflow.parser["max_epochs"] == 5
        assert workflow.parser["train#batch_size"] == 4
        assert sys.excepthook is tell_mistake

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ("max_epoch", "--max_epoch: there is no such option. Did you mean 'max_epochs'?"),
            ("flow_stride", "Did you mean 'flow_strides'?"),
            ("datasets_dir", "Did you mean 'dataset_dir'?"),
            ("colour", "Known: dataset_dir, flow_strides, max_epochs"),
            ("train#batch", "--train#batch: there is no such option"),
        ],
    )
    def test_an_unknown_option_names_the_nearest(self, config: str, given: str, told: str) -> None:
        with pytest.raises(Exception) as caught:
            start(config, **{given: 5})
        message = find_mistake(caught.value)
        assert message is not None and told in message

    def test_an_option_that_nothing_reads_is_refused(self, config: str) -> None:
        with pytest.raises(Exception) as caught:
            start(config, unread=2)
        assert "--unread: nothing in " in str(find_mistake(caught.value))

    def test_monais_own_options_pass(self, config: str, tmp_path: Path) -> None:
        meta = tmp_path / "configs" / "metadata.json"
        meta.write_text("{}")
        start(config, run_id="run", meta_file=str(meta), logging_file=False)

    def test_tracking_is_refused(self, config: str) -> None:
        with pytest.raises(Exception) as caught:
            start(config, tracking="mlflow")
        assert "--tracking: this bundle does its own tracking" in str(find_mistake(caught.value))

    def test_several_config_files_count_together(self, config: str, tmp_path: Path) -> None:
        preset = tmp_path / "configs" / "preset.json"
        preset.write_text(json.dumps({"further": 1}))
        start([config, str(preset)], further=2)  # type: ignore[arg-type]

    @pytest.mark.parametrize("folder", ["configs", "flat"])
    def test_the_bundles_root_is_above_configs(self, tmp_path: Path, folder: str) -> None:
        path = tmp_path / folder / "train.json"
        path.parent.mkdir()
        told = tmp_path / "told"
        path.write_text(json.dumps(CONFIG | {"run": [f"$open('{told}', 'w').write(@bundle_root)"]}))
        start(str(path)).run()
        assert Path(told.read_text()) == (tmp_path if folder == "configs" else path.parent)


def test_outside_a_workflow_nothing_is_guarded() -> None:
    guard_options()
    assert options.bundle_root() == "." and options.executed_config() == {}


def test_a_mistake_is_found_behind_other_errors() -> None:
    inner = raised(InputError("dataset_dir: no such folder"))
    outer = raised(RuntimeError("failed to instantiate"), raised(KeyError("x"), inner))
    assert find_mistake(outer) == "dataset_dir: no such folder"
    try:
        try:
            raise inner
        except InputError:
            raise RuntimeError("while handling")  # noqa: B904
    except RuntimeError as implicit:
        assert find_mistake(implicit) == "dataset_dir: no such folder"
    assert find_mistake(raised(ValueError("a bug"))) is None


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"_target_": "builtins.int", "base": "x"}, "builtins.int fails .*TypeError.*TRACEBACK=1"),
        ({"_target_": "nowhere.Nothing"}, "refers to 'nowhere.Nothing', which is not defined"),
        ({"_target_": "builtins.int", "_mode_": "odd"}, "refers to 'odd', which is not defined"),
        ("@nothing", "refers to @nothing, which is not defined"),
        ("$nothing + 1", r"\$nothing \+ 1 fails .*NameError"),
    ],
)
def test_a_config_that_cannot_be_made_is_a_mistake(config: str, part: Any, told: str) -> None:
    Path(config).write_text(json.dumps(CONFIG | {"part": part, "run": ["$@part"]}))
    with pytest.raises(Exception) as caught:
        start(config).run()
    assert re.search(told, str(find_mistake(caught.value)))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_fails_once_it_runs_keeps_its_traceback(config: str) -> None:
    Path(config).write_text(json.dumps(CONFIG | {"run": ["$__import__('json').loads('')"]}))
    with pytest.raises(Exception) as caught:
        start(config).run()
    assert find_mistake(caught.value) is None


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_parts_of_the_program_are_no_options(config: str) -> None:
    for value in ("x", 3, [1, 2], {"a": 1}):
        with pytest.raises(Exception) as caught:
            start(config, bundle_root=value)
        assert "--bundle_root: this is a part of the program" in str(find_mistake(caught.value))


def test_a_wrong_argument_of_a_network_is_a_mistake() -> None:
    with pytest.raises(ArgumentError) as caught:
        build_aeflow(encoder="resnet19")
    assert "Did you mean 'resnet18'" in str(find_mistake(caught.value))


@pytest.mark.parametrize(
    "subnet",
    [
        lambda inner, outer: nn.Conv2d(inner, 1, 1),  # too few values to unpack, in our own line
        lambda inner, outer: nn.Conv2d(inner, outer, 1, groups=3),  # refused by torch
    ],
)
def test_another_error_within_a_network_is_a_bug(subnet: Any) -> None:
    with pytest.raises(ValueError) as caught:
        AffineCoupling(2, subnet)(torch.zeros(1, 2, 4, 4))
    assert type(caught.value) is ValueError and find_mistake(caught.value) is None


def test_an_error_within_a_circle_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    assert find_mistake(first) is None


def test_a_mistake_is_told_in_one_paragraph(written: Any) -> None:
    message = "dataset_dir: " + "there is nothing to be read here, so choose another. " * 5
    told = written(raised(RuntimeError("wrapped"), raised(InputError(message.strip()))))
    lines = told.strip().split("\n")
    assert lines[0].startswith("Error: dataset_dir: there is nothing")
    assert 2 < len(lines) < 6 and all(0 < len(line) <= 100 for line in lines)
    assert " ".join(lines) == f"Error: {message.strip()}"


def test_a_message_with_lines_keeps_them(written: Any) -> None:
    assert written(raised(InputError("two:\n  lines"))) == "\nError: two:\n  lines\n"


def test_a_long_path_is_not_broken(written: Any) -> None:
    path = "/" + "very-long-folder/" * 10
    assert path in written(raised(InputError(f"dataset_dir: {path} is empty.")))


def test_other_errors_and_the_variable_give_a_traceback(
    written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert written(raised(KeyError("bug"))) == "traceback"
    monkeypatch.setenv(options.TRACEBACK_VARIABLE, "1")
    assert written(raised(InputError("mistake"))) == "traceback"


def test_options_are_the_plain_values_of_a_config() -> None:
    config = {
        "max_epochs": 3,
        "flow_strides": [16],
        "dataset_dir": None,
        "_meta_": "x",
        "weights": {"a": 1.0},
        "train": {"dataset": {"_target_": "x"}, "preprocessing": "@preprocessing"},
        "run": "%training",
        "training": ["$1"],
        "initialize": [{"_target_": "x"}],
    }
    assert plain_options(config) == {
        "max_epochs": 3,
        "flow_strides": [16],
        "dataset_dir": None,
        "weights": {"a": 1.0},
    }
