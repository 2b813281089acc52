"""One HTML page of an experiment's figures, with the pictures inside: it can be sent as it is."""

import argparse
import base64
import html
import json
import os
from pathlib import Path

from vidm.files import replacing

STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 sans-serif; color: #222; background: #fff }
figure { margin: 2.5rem 0 }
img { display: block; max-width: 100%; max-height: 40rem; margin: 0 auto }
figcaption { margin-top: 0.5rem; text-align: center; color: #444 }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: 0.2rem 1rem 0.2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd }
td.number { text-align: right; font-variant-numeric: tabular-nums }
code { overflow-wrap: anywhere }
"""


def inline(path: Path, mime: str) -> str:
    """A file as the address of itself."""
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"


def write(out: Path, title: str, parts: list[str], style: str = "") -> None:
    """A page with this title over these pieces of HTML."""
    title = html.escape(title)
    head = [
        f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>',
        f"<style>{STYLE}{style}</style>\n<h1>{title}</h1>",
    ]
    with replacing(out) as temporary:
        temporary.write_text("\n".join([*head, *parts]) + "\n</html>\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment")
    parser.add_argument("out", type=Path)
    parser.add_argument("captions", type=json.loads, help="JSON: the sentence of each figure, by its name")
    parser.add_argument("pictures", type=Path, nargs="+", help="PNG files")
    parser.add_argument("--notebooks", type=Path, nargs="*", default=[])
    a = parser.parse_args()
    parts = []
    for path in a.pictures:
        caption = html.escape(a.captions[path.stem])
        parts.append(
            f'<figure id="{path.stem}"><img alt="{caption}" src="{inline(path, "image/png")}">'
            f'<figcaption>{caption} As <a href="{path.stem}.svg">SVG</a>.</figcaption></figure>'
        )
    links = [f'<a href="{os.path.relpath(path, a.out.parent)}">{path.stem}</a>' for path in a.notebooks]
    if links:
        parts.append(f"<p>The notebooks that drew them, as they ran: {', '.join(links)}.</p>")
    write(a.out, f"Figures of experiment {a.experiment}", parts)


if __name__ == "__main__":
    main()
