"""The front door: options are checked and mistakes are told in one paragraph."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.utils import ensure_tuple

from networks.choices import nearest
from networks.errors import ArgumentError
from pipelines.common.distributed import first_to_fail
from pipelines.common.plain import is_plain, is_value, paragraph, plain_options
from pipelines.common.schema import check_values
from transforms.errors import InputError

TRACEBACK_VARIABLE = "AEFLOW_TRACEBACK"
"""Environment variable; when set, mistakes are shown with their full traceback."""


def guard_options() -> None:
    """Refuses unknown options and makes mistakes readable.

    To be called by a bundle's ``initialize``. MONAI adds unknown options to the config silently;
    here an option that no config file defines is an error that names the nearest one.

    Raises:
        InputError: for an unknown option or one that nothing reads, a value that an option does not
            take, or ``--tracking``.
    """
    sys.excepthook = tell_mistake
    workflow = _running_workflow()
    call = _calling_options()
    if workflow is None or call is None:
        return
    if call.get("tracking") is not None:
        raise InputError(
            "--tracking: this bundle does its own tracking, in one run over all phases. Use "
            "--tracking_uri <uri> to choose where (for example sqlite:///runs.db or "
            "http://localhost:5000), or --tracking_uri none to turn it off."
        )
    missing = [f for f in ensure_tuple(call.get("meta_file") or ()) if not Path(f).is_file()]
    if missing:
        raise InputError(f"--meta_file: there is no file {missing[0]}. Leave the option out.")
    defined = ConfigParser()
    defined.read_config(call["config_file"])
    for option, value in call["options"].items():
        if option not in defined:
            raise InputError(
                f"--{option}: there is no such option. {_near_option(option, defined.get())}"
            )
        if not is_plain(defined.get(option)) and is_value(value):
            raise InputError(
                f"--{option}: this is a part of the program, not an option that takes a value. "
                f"{_near_option(option, defined.get())}"
            )
        if "#" not in option and not _is_read(option, defined.get()):
            raise InputError(
                f"--{option}: nothing in {call['config_file']} reads this option, so it would "
                "change nothing. Leave it out, or refer to it in the config."
            )
        if isinstance(value, str) and value.startswith(("$", "@")):
            check_values({option: _evaluated(workflow, option, value)})
    check_values(workflow.parser.get())


def bundle_root() -> str:
    """The folder of the running bundle: the config file's, or its parent for ``configs/``."""
    workflow = _running_workflow()
    if workflow is None:
        return "."
    folder = Path(workflow.config_root_path)
    return str(folder.parent if folder.name == "configs" else folder)


def executed_config() -> dict[str, Any]:
    """The config as it is run, overrides included; empty outside a bundle's run."""
    workflow = _running_workflow()
    return {} if workflow is None else dict(workflow.parser.get())


def executed_options() -> dict[str, Any]:
    """The options as they are run; empty outside a bundle's run.

    Expressions are evaluated, but for those of a folder, which the user did not choose; options of
    a part, such as ``--train#trainer#cosine``, are called ``train.trainer.cosine``.
    """
    workflow, call = _running_workflow(), _calling_options()
    if workflow is None:
        return {}
    found = plain_options(workflow.parser.get())
    for name in [name for name, value in found.items() if not is_value(value)]:
        found[name] = workflow.parser.get_parsed_content(name)
        if isinstance(found[name], str):
            del found[name]
    given = call["options"] if call else {}
    return found | {name.replace("#", "."): v for name, v in given.items() if "#" in name}


def tell_mistake(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Replaces the traceback of a user's mistake by one paragraph; for `sys.excepthook`.

    Of several processes the first that fails tells why; the others fail for want of it.
    """
    if not first_to_fail():
        return
    mistake = None if os.environ.get(TRACEBACK_VARIABLE) else find_mistake(error)
    if mistake is None:
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write(f"\n{paragraph(mistake)}")


def find_mistake(error: BaseException) -> str | None:
    """Finds the message of a user's mistake in a chain of exceptions, if there is one.

    A mistake is an `InputError`, the `ArgumentError` of the networks, or what MONAI cannot make of
    a config.
    """
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    for one in chain:
        if isinstance(one, (InputError, ArgumentError)):
            return str(one)
    return next(filter(None, map(_config_mistake, chain)), None)


def _config_mistake(error: BaseException) -> str | None:
    """What is wrong with a config by one of MONAI's errors, if it is that."""
    undefined = re.match(
        r"the referring item `(.+)` is not defined|Cannot locate class or function path: (.+?)\.?$"
        r"|Unsupported option ('.{,80}?'?),",
        str(error),
    )
    if undefined:
        name = next(filter(None, undefined.groups()))
        return (
            f"the config: it refers to {name}, which is not defined. Define it, or undo what "
            "was changed in the config or by an option."
        )
    cause = error.__cause__
    if not isinstance(error, RuntimeError) or cause is None:
        return None
    told = re.match(r"Failed to instantiate component '([\w.]+)'", str(error))
    if told is None and _is_of_an_expression(cause):
        told = re.match(r"Failed to evaluate ConfigExpression:\s+['\"](.+)['\"]$", str(error))
    return told and (
        f"the config: {told[1]} fails with what it is given ({type(cause).__name__}: "
        f"{(str(cause).splitlines() or [''])[0][:200]}). Undo what was changed in the config or by "
        f"an option; {TRACEBACK_VARIABLE}=1 shows the whole traceback."
    )


def _is_of_an_expression(cause: BaseException) -> bool:
    """Whether an expression fails itself, not what it calls."""
    trace = cause.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename == "<string>"


def _is_read(option: str, config: Mapping[str, Any]) -> bool:
    """Whether anything of a config refers to an option, or it is no plain value but a part."""
    reference = re.compile(rf"[@%]{re.escape(option)}\b")
    return option not in plain_options(config) or bool(reference.search(json.dumps(config)))


def _near_option(option: str, config: dict[str, Any]) -> str:
    known = list(plain_options(config) or config)
    return nearest(option, known) or f"Known: {', '.join(sorted(known))}."


def _evaluated(workflow: ConfigWorkflow, option: str, expression: str) -> Any:
    try:
        return workflow.parser.get_parsed_content(option)
    except Exception as error:  # an expression is code of the user's
        cause = error.__cause__ or error
        raise InputError(
            f"--{option}: the expression {expression!r} cannot be evaluated "
            f"({type(cause).__name__}: {cause}). Write a plain value, or mend the expression."
        ) from error


def _running_workflow() -> ConfigWorkflow | None:
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigWorkflow):
            sys.excepthook = tell_mistake
            _require_known_ids(owner)
            return owner
        frame = frame.f_back
    return None


def _require_known_ids(workflow: ConfigWorkflow) -> None:
    """Refuses what MONAI would pass over, or refuse at the end: ids that the config lacks.

    Words without dashes become such ids: the first is what runs, the second `init_id`. An unknown
    one takes the place of ``initialize``, and with it of `guard_options`.

    Raises:
        InputError: naming the id.
    """
    config = workflow.parser.get()
    runs = [name for name, value in config.items() if _is_run(value)]
    for argument, usual in (("run_id", "run"), ("init_id", "initialize"), ("final_id", "finalize")):
        found = getattr(workflow, argument)
        known = [*runs, usual, *(config if argument == "init_id" else ())]
        if found in known:
            continue
        raise InputError(
            f"{argument}: expected what this config runs ({', '.join(runs)}), found {found!r}. "
            f"{nearest(str(found), runs)} Only one word follows 'run'; options begin with --."
        )


def _is_run(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(v, str) and v[:1] == "$" for v in value)


def _calling_options() -> dict[str, Any] | None:
    """What was passed to MONAI's ``run``, read from its frame."""
    frame = inspect.currentframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == "create_workflow" and "_args" in frame.f_locals:
            given = dict(frame.f_locals["_args"])
            named = {"run_id", "init_id", "final_id", "meta_file", "logging_file", "tracking"}
            return {
                "config_file": frame.f_locals["config_file"],
                "tracking": given.get("tracking"),
                "meta_file": given.get("meta_file"),
                "options": {k: v for k, v in given.items() if k not in named | {"workflow_type"}},
            }
        frame = frame.f_back
    return None
