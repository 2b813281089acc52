"""The documentation: `make docs` builds it without a network; a broken link inside of it is an error.

Three pages are filled from the code as they are read: the keys of params.yaml from the models that check them, the
commands from the parser, the Python names from the docstrings.
"""

import importlib
import json
import pkgutil
import re
import subprocess
import sys
import textwrap

import vidm
from vidm import config

project = "vidm"
copyright = "the authors of vidm; MIT"
release = vidm.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "vidm"
html_static_path = []
html_copy_source = False
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
# Names of Python, numpy and torch in signatures have no page here; all other links must lead somewhere.
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]
autodoc_default_options = {"members": True, "member-order": "bysource", "ignore-module-all": True}
autodoc_typehints_format = "short"
highlight_language = "none"

LAYERS = ("data", "models", "diffusion", "training", "sampling", "metrics")


# Keys of params.yaml


def kind(facts: dict) -> str:
    """A key's type in words."""
    if "enum" in facts:
        return " / ".join(f"`{value}`" for value in facts["enum"])
    if "anyOf" in facts:
        return " or ".join(kind(each) for each in facts["anyOf"])
    if "$ref" in facts:
        name = facts["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if facts.get("type") == "array":
        items = facts.get("items") or {}
        return f"list of {kind(items)}" if items else "list"
    if facts.get("type") == "object":
        below = facts.get("patternProperties") or {"": facts.get("additionalProperties")}
        (value,) = below.values()
        return f"name: {kind(value)}" if isinstance(value, dict) else "group of keys"
    if "const" in facts:
        return f"`{facts['const']}`"
    return {"null": "nothing"}.get(facts.get("type"), facts.get("type", "anything"))


def bounds(facts: dict) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    found = [f"{sign} {facts[key]:g}" for key, sign in signs.items() if key in facts]
    return f" {', '.join(found)}" if found else ""


def params() -> str:
    """A table for each group of keys, in the order of the schema."""
    schema = config.schema()
    top = {"title": "The file", "properties": schema["properties"], "description": schema.get("description", "")}
    parts = []
    for name, group in [("The file", top), *schema["$defs"].items()]:
        if "properties" not in group:
            continue
        parts += [
            f"## {name}",
            "",
            group.get("description", ""),
            "",
            "| key | value | default | |",
            "| --- | --- | --- | --- |",
        ]
        for key, facts in group["properties"].items():
            default = facts.get("default", {})
            shown = (
                ""
                if isinstance(default, dict) or default == ""
                else f"`{default if isinstance(default, str) else json.dumps(default)}`"
            )
            said = " ".join(facts.get("description", "").split()).replace("|", "\\|")
            parts.append(f"| `{key}` | {kind(facts)}{bounds(facts)} | {shown} | {said} |")
        parts.append("")
    return "\n".join(parts)


# Commands


def commands() -> str:
    """What `--help` says of every command, by typer's own writer."""
    said = subprocess.run(
        [sys.executable, "-m", "typer", "vidm.cli", "utils", "docs", "--name", "vidm"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return said.split("\n", 1)[1]


# Docstrings


def modules(package: str) -> str:
    """Every module of a layer."""
    whole = importlib.import_module(f"vidm.{package}")
    found = [whole.__name__] if whole.__doc__ else []
    found += [f"vidm.{package}.{m.name}" for m in pkgutil.iter_modules(whole.__path__)]
    return "\n".join(f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n" for name in found)


FILLED = {
    "reference/params": params,
    "reference/cli": commands,
    **{f"reference/api/{layer}": lambda layer=layer: modules(layer) for layer in LAYERS},
}


def fill(app, name: str, source: list[str]) -> None:
    if name in FILLED:
        source[0] += "\n" + FILLED[name]()


def plain(app, what, name, thing, options, lines: list[str]) -> None:
    """Docstrings here are plain text: tables by blanks and indented formulas keep their form, no mark has a meaning."""
    paragraphs = re.split(r"\n\s*\n", textwrap.dedent("\n".join(lines)).strip("\n"))
    lines.clear()
    for text in paragraphs:
        if re.search(r"^ |\S {2,}\S", text, flags=re.MULTILINE):
            lines += ["::", "", *(f"    {line}" for line in text.splitlines()), ""]
        else:
            text = re.sub(r"`([^`]+)`", r"``\1``", text)
            pieces = re.split(r"(``[^`]+``)", text)
            pieces[::2] = [re.sub(r"([*|_\\])", r"\\\1", piece) for piece in pieces[::2]]
            lines += ["".join(pieces), ""]
    lines[:] = "\n".join(lines).splitlines()


def of_pydantic(app, what, name, thing, skip: bool, options) -> bool | None:
    """Attributes that every pydantic model has say nothing."""
    return True if name in ("model_config", "model_post_init") else None


def setup(app) -> None:
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", plain)
    app.connect("autodoc-skip-member", of_pydantic)
