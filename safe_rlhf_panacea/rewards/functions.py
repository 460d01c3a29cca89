"""Rewards that are Python functions, as such or as ``module:function?name=value,...``."""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import math
import re
import sysconfig
import threading
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import address_of
from safe_rlhf_panacea.rewards.responses import (
    OF_RUN,
    OURS,
    TRL,
    Responses,
    RewardState,
    checked_scores,
)

FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)(?:\?(.*))?", re.DOTALL)
FRAMES = 3  # of a user's code, that a message shows
INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
Function = Callable[..., Any]


def is_function(path: str) -> bool:
    """Whether a reward is given as ``module:function`` or ``module:function?name=value,...``."""
    return FUNCTION.fullmatch(path) is not None and not Path(path).exists()


def path_of(function: str | Function) -> str:
    """How a function is called in messages and records: its path."""
    return function if isinstance(function, str) else address_of(function)


def parts_of(path: str) -> tuple[str, str, list[str]]:
    """Module, function and options ``name=value`` of a function's path.

    A value may hold commas that no ``name=`` follows.
    """
    if (match := FUNCTION.fullmatch(path)) is None:
        raise UserError(f"{path}: not of the form module:function")
    module, name, options = match.groups()
    return module, name, list(filter(None, re.split(r",(?=[A-Za-z_]\w*=)", options or "")))


class FunctionReward:
    """The scores that a Python function gives.

    It is called with its options and with those of these keyword arguments that it names:
    ``prompts`` (B strings, with the template, as the policy reads them), ``responses`` (B strings),
    ``response_lengths`` (tokens without the end token, int64, size = (B,)), ``prompt_ids`` and
    ``response_ids`` (B lists of token ids without padding), ``turns`` (B conversations, lists of
    strings that alternate user, assistant, ..., user), ``step`` (of the training; 0 outside one).
    Any other argument without a default is a column of the data set, a list of B values;
    ``**others`` gets all columns that are left.

    A function of TRL's signature, which names ``completions`` or ``completion_ids``, or takes
    ``**kwargs`` and names no responses, gets TRL's arguments instead: ``completions``, ``prompts``
    as the data have them (both messages where the data have messages), ``completion_ids``,
    ``trainer_state``, ``log_metric``, ``log_extra`` and columns, all of them in its ``**kwargs``.

    It returns B finite numbers, or None in the rows where its objective does not count; it may be
    ``async``.

    Attributes:
        path: ``module:function``, with options ``?name=value,name=value`` if it has some.
        columns: of the data set, that it needs.
        may_lack: it may give NaN, where the function gave None.
        logs: whether it may log metrics.
        is_async: whether the function is ``async``, so that others may run while it waits.
    """

    may_lack = True

    def __init__(
        self,
        function: str | Function,
        tokenizer: Any,
        stop_ids: Sequence[int],
        state: RewardState | None = None,
    ) -> None:
        """Find the function; a ``UserError`` where it is not there or does not take what it must.

        ``function`` may be its path; ``tokenizer`` is the policy's, ``stop_ids`` its tokens that
        end a response, and ``state`` that of the training.
        """
        self.path = path = path_of(function)
        self._policy, self._state = (tokenizer, stop_ids), state or RewardState()
        self._function = _load_function(function) if isinstance(function, str) else function
        try:
            parameters = inspect.signature(self._function).parameters
        except (TypeError, ValueError):  # some that are written in C
            raise UserError(f"{path} does not say which arguments it takes") from None
        items = parts_of(path)[2] if isinstance(function, str) else []
        self._options = dict(_option(item, parameters, path) for item in items)
        kinds = [parameter.kind for parameter in parameters.values()]
        self._takes_all = inspect.Parameter.VAR_KEYWORD in kinds
        self._named = names = {*parameters} - {*self._options}
        ours = names & {"responses", "response_ids", "response_lengths"}
        is_trl = bool(names & {"completions", "completion_ids"}) or (self._takes_all and not ours)
        wanted = names | {*TRL, *OF_RUN} if is_trl and self._takes_all else names
        # A default of its own comes before what the run would give.
        own = {n for n, p in parameters.items() if n in OF_RUN and p.default not in (p.empty, None)}
        wanted = wanted - own - {*self._options}
        of_rows = {**OURS, **TRL} if is_trl else OURS
        self._by_row = {name: make for name, make in of_rows.items() if name in wanted}
        self._of_run = {name: make for name, make in OF_RUN.items() if name in wanted}
        known = {*self._by_row, *self._of_run, *self._options}
        self.columns = []
        for name, parameter in parameters.items():
            variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            is_column = parameter.default is parameter.empty and not variable and name not in known
            if is_column:
                self.columns.append(name)
            # Refused now, not at the first response.
            if parameter.kind == parameter.POSITIONAL_ONLY and (is_column or name in known):
                raise UserError(f"{path}: {name} must be an argument that can be given by name")
        self.logs = "log_metric" in self._of_run
        is_async = inspect.iscoroutinefunction
        self.is_async = is_async(self._function) or is_async(type(self._function).__call__)

    def __call__(self, responses: Responses) -> torch.Tensor:
        """Its scores, size = (B,), float32; NaN where it gave None."""
        try:
            given = {name: make(responses, *self._policy) for name, make in self._by_row.items()}
            given |= {name: responses.column(name) for name in self.columns}
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        if self._takes_all:
            known = self._named | {*self._by_row, *self._of_run, *self._options}
            given |= {name: responses.column(name) for name in sorted(responses.columns - known)}
        of_run = {name: make(responses, self._state) for name, make in self._of_run.items()}
        call = functools.partial(self._function, **of_run, **self._options)
        values = self._run(call, given, len(responses))
        for column, logged in responses.extra.items():
            if len(logged) != len(responses):
                raise UserError(
                    f"{self.path} logged {len(logged)} values of {column!r} for "
                    f"{len(responses)} responses"
                )
        return checked_scores(values, self.path, responses.input_ids)

    def _run(self, call: Function, given: dict[str, Any], rows: int) -> Any:
        """What the function returns; an error names the first row that alone raises one too."""
        try:
            return _finished(call(**given))
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        except (Exception, SystemExit) as error:
            where = ""
            for row in range(rows):
                try:
                    _finished(call(**{name: v[row : row + 1] for name, v in given.items()}))
                except (Exception, SystemExit):
                    where = f" in row {row}"
                    break
            told = f"{type(error).__name__}: {error}".rstrip(": ")
            raise UserError(f"{self.path} raised {told}{where}{_at(error)}") from error


@functools.cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """One for all calls, since clients that a module keeps are bound to theirs.

    It has a thread of its own: a notebook's runs a loop already.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="async rewards", daemon=True).start()
    return loop


def _finished(result: Any) -> Any:
    """What a function returns, once an ``async`` one has come to its end."""
    if not inspect.iscoroutine(result):
        return result

    async def outcome(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
        try:
            return await coroutine, None
        except BaseException as error:  # a SystemExit would end the loop's thread
            return None, error

    value, error = asyncio.run_coroutine_threadsafe(outcome(result), _event_loop()).result()
    if error is not None:
        raise error
    return value


def _at(error: BaseException) -> str:
    """The last lines of the user's own code, not a library's, that led to an error; last first."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in (__file__, importlib.__file__) and Path(frame.filename).is_file()
    ]
    own = [frame for frame in frames if not frame.filename.startswith(INSTALLED)] or frames
    places = [f"{f.filename}:{f.lineno} in {f.name} ({f.line})" for f in reversed(own[-FRAMES:])]
    return f", at {', called from '.join(places)}" if places else ""


def _load_function(path: str) -> Function:
    module_name, name, _ = parts_of(path)
    try:
        function = getattr(importlib.import_module(module_name), name, None)
    except (Exception, SystemExit) as error:  # a user's module may fail as any program may
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise UserError(
            f"{path}: {module_name} cannot be imported: {kind}{error}{_at(error)}"
        ) from error
    if not callable(function):
        raise UserError(f"{path}: {module_name} has no function {name}")
    return function


def _option(
    item: str, parameters: Mapping[str, inspect.Parameter], path: str
) -> tuple[str, float | str]:
    """A name and its value, of the parameter's type, else a number where the text is one."""
    name, equals, text = item.partition("=")
    if not equals:
        raise UserError(f"{path}: {item!r} is not of the form name=value")
    if name not in parameters:
        raise UserError(f"{path}: it takes no {name}; it takes {', '.join(parameters)}")
    annotation, default = parameters[name].annotation, type(parameters[name].default)
    written = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    kinds = set(re.findall(r"\w+", written))  # of `int | None` both
    if "str" in kinds or default is str:
        return name, text
    if "bool" in kinds or default is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"{path}: {item!r} is not of the form name=true or name=false")
        return name, text.lower() == "true"
    only_whole = "int" in kinds and "float" not in kinds
    if (only_whole or default is int) and re.fullmatch(r"[+-]?\d+", text):
        return name, int(text)
    if only_whole:
        raise UserError(f"{path}: {item!r} is not of the form name=whole number")
    try:
        number = float(text)
    except ValueError:
        if "float" in kinds or default in (int, float):
            raise UserError(f"{path}: {item!r} is not of the form name=number") from None
        return name, text
    if not math.isfinite(number):
        raise UserError(f"{path}: {item!r} is not finite")
    return name, number
