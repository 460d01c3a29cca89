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
    Responses,
    RewardState,
    Source,
    checked_scores,
    given_to,
)

FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)(?:\?(.*))?", re.DOTALL)
Options = dict[str, float | str]
FRAMES = 3  # of a user's code, that a message shows
INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
Parameters = Mapping[str, inspect.Parameter]
Function = Callable[..., Any]


def is_function(path: str) -> bool:
    """Whether a reward is given as ``module:function`` or ``module:function?name=value,...``."""
    return FUNCTION.fullmatch(path) is not None and not Path(path).exists()


def function_address(path: str) -> tuple[str, frozenset[str]]:
    """A function and its options, in whatever order they stand."""
    module, name, options = _parts(path)
    return f"{module}:{name}", frozenset(_items(options or ""))


def _parts(path: str) -> tuple[str | Any, ...]:
    """Module, name, and options or None."""
    if (match := FUNCTION.fullmatch(path)) is None:
        raise UserError(f"{path}: not of the form module:function")
    return match.groups()


class FunctionReward:
    """The scores that a Python function gives.

    It is called with its options and with those of these keyword arguments that it names:
    ``prompts`` (B strings, with the template, as the policy reads them), ``responses`` (B strings),
    ``response_lengths`` (tokens without the end token, int64, size = (B,)), ``prompt_ids`` and
    ``response_ids`` (B lists of token ids without padding), ``turns`` (B conversations, lists of
    strings that alternate user, assistant, ..., user), ``step`` (of the training; 0 outside one).
    Any other argument without a default is a column of the data set, a list of B values;
    ``**others`` gets all columns that are left.

    A function of TRL's signature (``responses.given_to``) gets TRL's arguments instead:
    ``completions``, ``prompts`` as the data have them (both messages where the data have
    messages), ``completion_ids``, ``trainer_state``, ``log_metric``, ``log_extra`` and columns,
    all of them in its ``**kwargs``.

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

        Args:
            function: it, or its path: see above.
            tokenizer: the policy's.
            stop_ids: the policy's tokens that end a response.
            state: of the training, if it is asked for.
        """
        self.path = path = path_of(function)
        self._policy = tokenizer, stop_ids, state or RewardState()
        self._function, self._options = (
            _load_function(function) if isinstance(function, str) else (function, {})
        )
        parameters = _parameters(self._function, path)
        kinds = [parameter.kind for parameter in parameters.values()]
        self._takes_all = inspect.Parameter.VAR_KEYWORD in kinds
        self._named = set(parameters) - set(self._options)
        own = {n for n, p in parameters.items() if n in OF_RUN and p.default not in (p.empty, None)}
        self._by_row, self._of_run = given_to(
            self._named, takes_all=self._takes_all, options=own | {*self._options}
        )
        known = {*self._by_row, *self._of_run, *self._options}
        needed = [name for name, parameter in parameters.items() if _is_needed(parameter)]
        for name, parameter in parameters.items():  # refused now, not at the first response
            wanted = name in known or name in needed
            if wanted and parameter.kind == inspect.Parameter.POSITIONAL_ONLY:
                raise UserError(f"{path}: {name} must be an argument that can be given by name")
        self.columns = [name for name in needed if name not in known]
        self.logs = "log_metric" in self._of_run
        is_async = inspect.iscoroutinefunction
        self.is_async = is_async(self._function) or is_async(type(self._function).__call__)

    def __call__(self, responses: Responses) -> torch.Tensor:
        """Its scores, size = (B,), float32; NaN where it gave None."""
        source = Source(responses, *self._policy)
        try:
            given = {name: make(source) for name, make in self._by_row.items()}
            given |= {name: responses.column(name) for name in self.columns}
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        if self._takes_all:
            others = responses.columns - self._named - {*self._by_row, *self._of_run}
            given |= {name: responses.column(name) for name in sorted(others - {*self._options})}
        of_run = {name: make(source) for name, make in self._of_run.items()}
        values = self._call(given, of_run, len(responses))
        for column, logged in responses.extra.items():
            if len(logged) != len(responses):
                raise UserError(
                    f"{self.path} logged {len(logged)} values of {column!r} for "
                    f"{len(responses)} responses"
                )
        return checked_scores(values, self.path, responses.input_ids)

    def _call(self, given: dict[str, Any], of_run: dict[str, Any], rows: int) -> Any:
        try:
            return _finished(self._function(**given, **of_run, **self._options))
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        except (Exception, SystemExit) as error:
            row = self._failing_row(given, of_run, rows)
            where = "" if row is None else f" in row {row}"
            told = f"{type(error).__name__}: {error}".rstrip(": ")
            raise UserError(f"{self.path} raised {told}{where}{_at(error)}") from error

    def _failing_row(self, given: dict[str, Any], of_run: dict[str, Any], rows: int) -> int | None:
        """The first row that it raises for when it is given no other."""
        for row in range(rows):
            try:
                alone = {name: values[row : row + 1] for name, values in given.items()}
                _finished(self._function(**alone, **of_run, **self._options))
            except (Exception, SystemExit):
                return row
        return None


def path_of(function: str | Function) -> str:
    """How a function is called in messages and records: its path."""
    return function if isinstance(function, str) else address_of(function)


# -- functions that are async -------------------------------------------------------------


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


def _is_needed(parameter: inspect.Parameter) -> bool:
    """Whether there is nothing else that an argument could be."""
    variable = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in variable


# -- where a user's code fails ----------------------------------------------------------


def _at(error: BaseException) -> str:
    """The last lines of the user's own code, not a library's, that led to an error; last first."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in (__file__, importlib.__file__) and Path(frame.filename).is_file()
    ]
    own = [frame for frame in frames if not frame.filename.startswith(INSTALLED)] or frames
    return "".join(
        f"{', called from' if place else ', at'} {frame.filename}:{frame.lineno} in {frame.name} "
        f"({frame.line})"
        for place, frame in enumerate(reversed(own[-FRAMES:]))
    )


# -- from the command line to a function ----------------------------------------------


def _load_function(path: str) -> tuple[Function, Options]:
    module_name, name, text = _parts(path)
    try:
        function = getattr(importlib.import_module(module_name), name, None)
    except (Exception, SystemExit) as error:  # a user's module may fail as any program may
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise UserError(
            f"{path}: {module_name} cannot be imported: {kind}{error}{_at(error)}"
        ) from error
    if not callable(function):
        raise UserError(f"{path}: {module_name} has no function {name}")
    return function, _options(text or "", _parameters(function, path), path)


def _parameters(function: Function, path: str) -> Parameters:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some that are written in C
        raise UserError(f"{path} does not say which arguments it takes") from None


def _items(text: str) -> list[str]:
    """``name=value`` each; a value may hold commas that no ``name=`` follows."""
    return list(filter(None, re.split(r",(?=[A-Za-z_]\w*=)", text)))


def _options(text: str, parameters: Parameters, path: str) -> Options:
    options: Options = {}
    for item in _items(text):
        name, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"{path}: {item!r} is not of the form name=value")
        if name not in parameters:
            raise UserError(f"{path}: it takes no {name}; it takes {', '.join(parameters)}")
        options[name] = _option(item, value, parameters[name], path)
    return options


def _option(item: str, text: str, parameter: inspect.Parameter, path: str) -> float | str:
    """A value of the parameter's type, or where it may be anything, a number if the text is one."""
    annotation, default = parameter.annotation, type(parameter.default)
    name = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    kinds = set(re.findall(r"\w+", name))  # of `int | None` both
    if "str" in kinds or default is str:
        return text
    if "bool" in kinds or default is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"{path}: {item!r} is not of the form name=true or name=false")
        return text.lower() == "true"
    only_whole = "int" in kinds and "float" not in kinds
    if (only_whole or default is int) and re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if only_whole:
        raise UserError(f"{path}: {item!r} is not of the form name=whole number")
    try:
        number = float(text)
    except ValueError:
        if "float" in kinds or default in (int, float):
            raise UserError(f"{path}: {item!r} is not of the form name=number") from None
        return text
    if not math.isfinite(number):
        raise UserError(f"{path}: {item!r} is not finite")
    return number
