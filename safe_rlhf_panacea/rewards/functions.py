"""Rewards that are Python functions: ``module:function?name=value,...``."""

from __future__ import annotations

import importlib
import inspect
import math
import re
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.rewards.responses import Responses

FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)(?:\?(.*))?", re.DOTALL)
Options = dict[str, float | str]
FRAMES = 3  # of a user's code, that a message shows
INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
Parameters = Mapping[str, inspect.Parameter]
# What a function may ask for by name, besides the columns of the data set.
GIVEN: dict[str, Callable[[Responses, Any, Sequence[int]], Any]] = {
    "prompts": lambda responses, tokenizer, stop_ids: responses.prompts(tokenizer),
    "responses": lambda responses, tokenizer, stop_ids: responses.responses(tokenizer),
    "response_lengths": lambda responses, tokenizer, stop_ids: responses.response_lengths(stop_ids),
    "prompt_ids": lambda responses, tokenizer, stop_ids: responses.prompt_ids(),
    "response_ids": lambda responses, tokenizer, stop_ids: responses.response_ids(),
    "turns": lambda responses, tokenizer, stop_ids: responses.turns(),
}


def is_function(path: str) -> bool:
    """Whether a reward is given as ``module:function`` or ``module:function?name=value,...``."""
    return FUNCTION.fullmatch(path) is not None and not Path(path).exists()


def function_address(path: str) -> tuple[str, frozenset[str]]:
    """A function and its options, in whatever order they stand."""
    module, name, options = FUNCTION.fullmatch(path).groups()
    return f"{module}:{name}", frozenset(_items(options or ""))


class FunctionReward:
    """The scores that a Python function gives.

    It is called with its options and with those of these keyword arguments that it names:
    ``prompts`` (B strings, with the template, as the policy reads them), ``responses`` (B strings),
    ``response_lengths`` (tokens without the end token, int64, size = (B,)), ``prompt_ids`` and
    ``response_ids`` (B lists of token ids without padding), ``turns`` (B conversations, lists of
    strings that alternate user, assistant, ..., user). Any other argument without a default is a
    column of the data set, a list of B values; ``**others`` gets all columns that are left. It
    returns B finite numbers.

    Attributes:
        path: ``module:function``, with options ``?name=value,name=value`` if it has some.
        columns: of the data set, that it needs.
    """

    def __init__(self, path: str, tokenizer: Any, stop_ids: Sequence[int]) -> None:
        """Find the function.

        Args:
            path: see above.
            tokenizer: the policy's.
            stop_ids: the policy's tokens that end a response.

        Raises:
            UserError: the module cannot be imported, has no such function, or the function does
                not take the options, or arguments by name.
        """
        self.path, self._policy = path, (tokenizer, stop_ids)
        self._function, self._options = _load_function(path)
        parameters = _parameters(self._function, path)
        _check_signature(parameters, self._options, path)
        open_ = [name for name in parameters if name not in self._options]
        self._given = [name for name in open_ if name in GIVEN]
        self.columns = [
            name for name in open_ if name not in GIVEN and _is_needed(parameters[name])
        ]
        kinds = [parameter.kind for parameter in parameters.values()]
        self._takes_all = inspect.Parameter.VAR_KEYWORD in kinds
        self._named = set(parameters)

    def __call__(self, responses: Responses) -> torch.Tensor:
        """Its scores, size = (B,), float32."""
        try:
            given = {name: GIVEN[name](responses, *self._policy) for name in self._given}
            given |= {name: responses.column(name) for name in self.columns}
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        if self._takes_all:
            others = responses.columns - self._named - set(GIVEN)
            given |= {name: responses.column(name) for name in sorted(others)}
        return _checked(self._call(given, len(responses)), self.path, responses.input_ids)

    def _call(self, given: dict[str, Any], rows: int) -> Any:
        try:
            return self._function(**given, **self._options)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        except (Exception, SystemExit) as error:
            row = self._failing_row(given, rows)
            where = "" if row is None else f" in row {row}"
            told = f"{type(error).__name__}: {error}".rstrip(": ")
            raise UserError(f"{self.path} raised {told}{where}{_at(error)}") from error

    def _failing_row(self, given: dict[str, Any], rows: int) -> int | None:
        """The first row that it raises for when it is given no other."""
        for row in range(rows):
            try:
                alone = {name: values[row : row + 1] for name, values in given.items()}
                self._function(**alone, **self._options)
            except (Exception, SystemExit):
                return row
        return None


def _is_needed(parameter: inspect.Parameter) -> bool:
    """Whether there is nothing else that an argument could be."""
    variable = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in variable


def _checked(values: Any, path: str, like: torch.Tensor) -> torch.Tensor:
    if not isinstance(values, torch.Tensor):
        values = _numbers(values, path)
    if values.is_complex():
        raise UserError(f"{path} returned complex numbers")
    scores = values.to(dtype=torch.float32, device=like.device)
    if scores.shape != like.shape[:1]:
        raise UserError(f"{path} returned shape {tuple(scores.shape)} for {len(like)} responses")
    if not scores.isfinite().all():
        row = int(scores.isfinite().logical_not().nonzero()[0])
        raise UserError(f"{path} returned a score that is not finite: {scores[row]:g} in row {row}")
    return scores


def _numbers(values: Any, path: str) -> torch.Tensor:
    """A sequence of numbers as a tensor, or which of its rows is none."""
    try:
        return torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        rows = values if isinstance(values, (list, tuple)) else ()
    odd = next((i for i, value in enumerate(rows) if not isinstance(value, Real)), None)
    what = f"a {type(values).__name__}" if odd is None else f"{rows[odd]!r} in row {odd}"
    raise UserError(f"{path} returned {what}; one number per response is wanted")


# -- where a user's code fails ----------------------------------------------------------


def _at(error: BaseException) -> str:
    """The last lines of the user's own code that led to an error, the innermost first.

    Code that is installed, such as a library that the user calls, is left out if there is other.
    """
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


def _load_function(path: str) -> tuple[Callable[..., Any], Options]:
    match = FUNCTION.fullmatch(path)
    if match is None:
        raise UserError(f"{path}: not of the form module:function")
    module_name, name, text = match.groups()
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


def _parameters(function: Callable[..., Any], path: str) -> Parameters:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some that are written in C
        raise UserError(f"{path} does not say which arguments it takes") from None


def _check_signature(parameters: Parameters, options: Options, path: str) -> None:
    """Refuse now what could only fail at the first response."""
    for name, parameter in parameters.items():
        wanted = name in GIVEN or name in options or _is_needed(parameter)
        if parameter.kind == parameter.POSITIONAL_ONLY and wanted:
            raise UserError(f"{path}: {name} must be an argument that can be given by name")


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
