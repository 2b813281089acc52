"""A fault in params.yaml as one line: the key, the value, the nearest valid one."""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from vidm.errors import InputError


class ConfigError(InputError):
    """A fault in params.yaml, as one line: key, value, nearest valid one."""


def nearest(word: Any, among: Iterable[Any]) -> str:
    """'; did you mean ...' when something is close, else all that is known."""
    known = sorted(map(str, among))
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known) or 'none'}"


def each_once(name: str, values: Sequence[Any]) -> None:
    """Raise ValueError, with the nearest allowed list, where a value is there twice."""
    once = list(dict.fromkeys(values))
    if len(once) < len(values):
        raise ValueError(f"{name}: {shown(values)} has one twice; nearest: {shown(once)}")


def shown(value: Any) -> str:
    """A value as it stands in YAML, short."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return f"a group of keys ({', '.join(map(str, value)) or 'empty'})"
    if isinstance(value, float):
        return number(value)
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def number(value: float) -> str:
    """A number that YAML 1.1 reads as one: '1e-08' would be text to it, '1.0e-08' is not."""
    text = repr(value)
    return re.sub(r"^(-?\d+)e", r"\1.0e", text)


def plain(value: Any, key: str = "") -> Any:
    """The document with tuples for lists. ConfigError for what JSON has not (a date, a numeric key)."""
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise ConfigError(f"{key or 'top'}: key {shown(name)} is not text; nearest: '{name}' in quotes")
        return {name: plain(inner, f"{key}.{name}" if key else name) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(inner, f"{key}.{i}") for i, inner in enumerate(value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"{key}: {value} is read as a {type(value).__name__}; nearest: '{value}' in quotes")


def first(faults: list, model: type[BaseModel]) -> str:
    """The first of pydantic's errors, in one line. `model` is what was validated."""
    # A misspelt key is also a missing one: say what is there, not what isn't.
    fault = min(faults, key=lambda f: f["type"] == "missing")
    loc, value, kind = list(fault["loc"]), fault.get("input"), fault["type"]
    ctx = fault.get("ctx") or {}
    if loc[-1] == "[key]":
        name = re.sub(r"[^a-z0-9-]+", "-", str(loc[-2]).lower()).strip("-") or "sky"
        key = ".".join(map(str, loc[:-1]))
        return f"{key}: '{loc[-2]}' is not a name of a-z, 0-9 and '-' alone; nearest: '{name}'"
    if loc[0] in ("experiments", "ablations") and loc[2:3] == [
        "preset"
    ]:  # a union: pydantic adds the branch that it tried
        key = ".".join(loc[:3])
        return f"{key}: {shown(value)} is not a preset's name or a list of them; nearest: [laptop]"
    field = _field(loc, model)
    key, here = ".".join(map(str, loc)), f"{'.'.join(map(str, loc))}: {shown(value)}"
    default = field.get_default(call_default_factory=True) if field and not field.is_required() else None
    or_default = f"; nearest: {shown(default)}" if isinstance(default, int | float | str) else ""
    if kind == "extra_forbidden":
        return f"{key}: unknown key{nearest(loc[-1], _keys(loc[:-1], model))}"
    if kind == "missing":
        wanted = f"; needs {', '.join(_keys(loc, model))}" if _keys(loc, model) else ""
        return f"{key}: missing{wanted}"
    if kind == "literal_error":
        options = [str(option) for option in _literals(field.annotation)]
        return f"{key}: {shown(value)} is not one of {', '.join(options)}{nearest(value, options)}"
    if kind == "value_error":  # from a validator of ours, which names the field below this group itself
        message = fault["msg"].removeprefix("Value error, ")
        return f"{key}.{message}"
    if kind in {"int_type", "float_type", "bool_type"} and isinstance(value, str):
        return f"{here} is text to YAML{_as_number(value, kind) or or_default}"
    if kind == "int_type":
        whole = isinstance(value, float) and math.isfinite(value)
        return f"{here} is not a whole number{f'; nearest: {round(value)}' if whole else or_default}"
    if kind == "bool_type":
        return f"{here} is not true or false; nearest: {shown(bool(value))}"
    if kind == "string_type":
        return f"{here} is not text; nearest: '{value}' in quotes"
    if kind == "tuple_type":
        return f"{here} is not a list; nearest: [{shown(value)}]"
    if kind == "too_short":
        return f"{here} is too short; nearest: {shown(default) if default else 'one item'}"
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return f"{here} is not a group of keys{nearest('', _keys(loc, model))}"
    if kind in {"greater_than", "less_than", "greater_than_equal", "less_than_equal"}:
        name, limit = next(iter(ctx.items()))
        words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}[name]
        if name in {"ge", "le"}:
            remedy = f"; nearest: {limit:g}"
        elif isinstance(limit, int):
            remedy = f"; nearest: {limit + (1 if name == 'gt' else -1)}"
        else:  # no number is nearest to an open bound
            remedy = or_default
        return f"{here} must be {words} {limit:g}{remedy}"
    message = fault["msg"].removeprefix("Input should be ")
    return f"{here} is not {message}{or_default}"


def _as_number(text: str, kind: str) -> str:
    if kind == "bool_type":
        return f"; nearest: {text.lower()}" if text.lower() in {"true", "false"} else ""
    try:
        value = float(text)
    except ValueError:
        return ""
    if not math.isfinite(value):
        return ""
    return f"; write {round(value) if kind == 'int_type' else number(value)}"


def _inner(annotation: Any) -> Iterator[Any]:
    """The annotation and what stands inside its unions, dicts and tuples."""
    yield annotation
    if get_origin(annotation) in (Union, types.UnionType, dict, tuple):
        for inner in get_args(annotation):
            yield from _inner(inner)


def _literals(annotation: Any) -> tuple:
    return tuple(o for inner in _inner(annotation) if get_origin(inner) is Literal for o in get_args(inner))


def _walk(loc: list, model: type[BaseModel]) -> tuple[type[BaseModel] | None, Any]:
    """(the model whose keys stand at `loc`, the field last passed on the way there)."""
    here: type[BaseModel] | None = model
    field = None
    for key in loc:
        if here is not None and key in here.model_fields:
            field = here.model_fields[key]
            models = [a for a in _inner(field.annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
            is_dict = get_origin(field.annotation) is dict
            inner = models[0] if models else None
            here, waiting = (None, inner) if is_dict else (inner, None)
        elif here is None and field is not None and get_origin(field.annotation) is dict:
            here, field = waiting, None
    return here, field


def _field(loc: list, model: type[BaseModel]) -> Any:
    return _walk(loc, model)[1]


def _keys(loc: list, model: type[BaseModel]) -> list[str]:
    here, _ = _walk(loc, model)
    return list(here.model_fields) if here else []
