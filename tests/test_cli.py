"""The command line: help with an example on every command, and one line on bad input."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml

from vidm import cli
from vidm.data.store import StoreWriter

ROOT = Path(__file__).parents[1]
CONTRACT = {
    "data render", "data extract", "data inspect", "weights list", "weights fetch", "train content", "train motion",
    "sample", "fvd", "compare",
}  # fmt: skip


def commands(app: typer.Typer) -> dict[str, object]:
    """'data render' -> its click command, for all there are."""

    def walk(command, prefix):
        if hasattr(command, "commands"):
            for name, inner in command.commands.items():
                yield from walk(inner, [*prefix, name])
        else:
            yield " ".join(prefix), command

    return dict(walk(typer.main.get_command(app), []))


COMMANDS = commands(cli.app)


def test_contract_commands_are_there():
    assert set(COMMANDS) >= CONTRACT


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_shows_a_working_example(name):
    """The example is of this command, and its options and arguments are ones that the command takes."""
    command = COMMANDS[name]
    assert command.help
    assert command.epilog and command.epilog.startswith(f"Example: vidm {name}")
    words = command.epilog.removeprefix(f"Example: vidm {name}").split()
    command.make_context(name, words)  # raises where an option is unknown or an argument is missing


@pytest.mark.parametrize("name", ["data extract", "fvd"])
def test_help_as_a_user_sees_it(vidm, name):
    ended = vidm(*name.split(), "--help")
    assert ended.returncode == 0
    assert f"Example: vidm {name}" in " ".join(ended.stdout.split())


def test_every_rule_of_the_workflow_calls_a_command_as_it_is():
    """What the rules type is parsed by the commands: an option that is not there stops a run after hours."""
    text = "\n".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "workflow/rules").glob("*.smk")))
    shells = re.findall(r'shell:\s+((?:"[^"]*"\s*)+)', text)
    assert len(shells) == 18
    for shell in shells:
        if shell.startswith(('"(cp ', '"(papermill ', '"python ')):
            continue
        line = "".join(re.findall(r'"([^"]*)"', shell)).split(" 2>&1")[0]
        line = line.replace("{params.launch}", "vidm").replace("{params.spynet}", "--spynet x")
        line = line.replace("{params.source}", "x --rendered")
        line = line.replace("{params.inception}", "--inception x").replace("{params.given}", "--given x")
        line = line.replace("{params.asked}", "--most 4 --seed 0")
        program, *words = re.sub(r"\{[^}]*\}", "x", line).split()
        assert program == "vidm"
        name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
        COMMANDS[name].make_context(name, words[len(name.split()) :])


def test_a_summary_of_the_networks(vidm):
    """Part by part for one experiment, a line each for several; numbers against what building them gives."""
    one = vidm("model", "summary", "smoke").stdout
    assert "smoke: 16 pixels, 16 frames" in one
    for part in ("content  U-Net", "motion  residual encoder", "motion  SpyNet"):
        assert part in one
    assert re.search(r"motion  SpyNet +1\.44 .* 15$", one, re.MULTILINE)  # once a frame
    assert re.search(r"^motion +0\.\d\d GiB of features an item, 0\.\d\d GiB of weights", one, re.MULTILINE)
    several = vidm("model", "summary", "smoke", "sky").stdout.splitlines()
    assert [line.split()[0] for line in several[2:]] == ["smoke", "sky"]
    assert [line.split()[1] for line in several[2:]] == ["16", "32"]


def test_a_summary_counts_the_classes(vidm, tmp_path):
    """Of the data where they are here, of a layout that has a fixed number, else said to be left out."""
    document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    document["experiments"] = {"plain": document["experiments"]["smoke"]}
    document["experiments"]["classes"] = document["experiments"]["plain"] | {"class_conditioning": True}
    document.pop("ablations")

    def summary(*names, **dataset):
        document["datasets"]["smoke"] |= dataset
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        return vidm("model", "summary", *names, cwd=tmp_path).stdout

    said = summary("classes")
    assert said.splitlines()[-1] == "classes: without its classes, whose number only its data say"
    assert summary("plain", "classes").splitlines()[-1] == said.splitlines()[-1]
    known = summary("classes", layout="ucf101")
    assert "data set smoke, 101 classes\n" in known and "without its classes" not in known
    with StoreWriter(tmp_path / "data/frames/smoke.h5", 16, 16, {}, origin="raw") as store:
        for cls in "abcb":
            store.add(np.zeros((1, 16, 16, 3), np.uint8), fps=25, split="train", source=cls, cls=cls)
    there = summary("classes")
    assert ", 3 classes\n" in there

    def parameters(text):
        return sum(float(m) for m in re.findall(r"^\w+  all +([\d.]+)", text, re.MULTILINE))

    assert parameters(summary("plain")) == parameters(said) <= parameters(there) < parameters(known)


def test_as_a_program_of_its_own():
    command = [str(Path(sys.executable).parent / "vidm"), "train", "content", "skyy", "--frames", "x", "--out", "x"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "vidm: experiment 'skyy' is not in params.yaml; did you mean 'sky'?\n"


BAD = [
    (["data", "render", "skyy", "--out", "{tmp}/o"], "did you mean 'sky'"),
    (["data", "extract", "{tmp}/none", "--dataset", "sky", "--out", "{tmp}/o.h5"], "no such folder"),
    (["data", "extract", "{tmp}", "--dataset", "sky", "--out", "{tmp}/o.h5"], "{tmp}"),
    (["data", "inspect", "{tmp}/none"], "{tmp}/none"),
    (["data", "inspect", "{tmp}/text.h5"], "text.h5"),
    (["data", "inspect", "{tmp}/empty"], "empty: no usable clip; no video in it"),
    (["data", "inspect", "{tmp}/empty", "--verify"], "empty: is a folder; --verify is for a .h5"),
    (["weights", "fetch", "i3"], "did you mean 'i3d'"),
    (["model", "summary", "skyy"], "did you mean 'sky'"),
    (["weights", "import-official", "{tmp}/none.pth.tar"], "none.pth.tar: no such file"),
    (["train", "content", "skyy", "--frames", "{tmp}/f.h5", "--out", "{tmp}/o"], "did you mean 'sky'"),
    (["train", "content", "sky", "--frames", "{tmp}/none.h5", "--out", "{tmp}/o"], "none.h5"),
    (["train", "motion", "sky", "--frames", "{tmp}/text.h5", "--out", "{tmp}/o"], "text.h5"),
    (["sample", "sky", "--content", "{tmp}/c", "--motion", "{tmp}/m", "--out", "{tmp}/o"], "{tmp}/c"),
    (["sample", "sky", "--motion", "{tmp}/m", "--out", "{tmp}/o", "--shard", "2-4"], "--shard '2-4': is not K/N"),
    (["sample", "sky", "--motion", "{tmp}/m", "--out", "{tmp}/o", "--first", "{tmp}"], "{tmp}: no image in it"),
    (["sample", "sky", "--motion", "{tmp}/m", "--out", "{tmp}/o", "--first", "{tmp}/none"], "none: no such folder or"),
    (["sample", "sky", "--motion", "{tmp}/m", "--out", "{tmp}/o.avi"], "o.avi: ends in none of .mp4, .gif, .webp"),
    (["sample", "sky", "--motion", "{tmp}/m", "--out", "{tmp}/bad.yaml"], "bad.yaml: is a file, no folder"),
    (["sample", "sky", "--motion", "{tmp}/m", "--out", "{tmp}/bad.yaml/o"], "{tmp}/bad.yaml is a file, no folder"),
    (["sample", "sky", "--motion", "{tmp}/m", "--out", "{tmp}/o", "--runs", "{tmp}/bad.yaml"], "bad.yaml: is a file"),
    (["gather", "sky", "{tmp}/text.h5", "--out", "{tmp}/o"], "text.h5: not a file of vidm sample"),
    (["export", "{tmp}/text.h5", "--out", "{tmp}/o.png"], "text.h5"),
    (["export", "{tmp}/text.h5", "--out", "{tmp}/o.avi"], "o.avi: ends in none of .mp4"),
    (["export", "{tmp}/text.h5", "--out", "{tmp}/o.png", "--videos", "0-"], "--videos '0-'"),
    (["export", "{tmp}/text.h5", "--out", "{tmp}/o.png", "--videos", "3-1"], "'3-1': 3-1 ends before it begins"),
    (["weights", "compare-spynet", "--frames", "0", "-1"], "--frames 0 -1: give two frames in order"),
    (["weights", "compare-spynet", "--frames", "8", "8"], "--frames 8 8: give two frames in order"),
    (["fvd", "{tmp}/none.npy", "{tmp}/none.npy"], "none.npy"),
    (["fvd", "{tmp}/a.npy", "{tmp}/a.npy", "--protocol", "styleganw"], "styleganv"),
    (["fvd", "{tmp}/a.npy", "{tmp}/a.npy", "--protocol", "mine", "--params", "{tmp}/none.yaml"], "none.yaml"),
    (["fvd", "{tmp}/a.npy", "{tmp}/a.npy", "--classifier", "{tmp}/none.pt"], "no other network takes its place"),
    (["tables", "--results", "{tmp}/reports", "--out", "{tmp}/o"], "x_fvd.json"),
    (["tables", "--results", "{tmp}/none", "--out", "{tmp}/o"], "none: no such folder"),
    (["evaluate", "sky", "--frames", "{tmp}/n.h5", "--samples", "{tmp}/s.h5", "--out", "{tmp}/o"], "s.h5"),
    (["compare", "{tmp}/a.json", "{tmp}/b.json"], "a.json"),
    (["data", "render", "sky", "--out", "{tmp}/o", "--params", "{tmp}/none.yaml"], "no such file"),
    (["data", "render", "sky", "--out", "{tmp}/o", "--params", "{tmp}/bad.yaml"], "experimets"),
]
# A folder has the name of what is to be written: said before any work, and so before other input is missed.
BAD += [
    ([*words, "{tmp}/empty"], "empty: is a folder; give a file's name")
    for words in (
        ["weights", "fetch", "spynet-procedural", "--out"],
        ["data", "extract", "{tmp}/none", "--dataset", "sky", "--out"],
        ["train", "content", "sky", "--frames", "{tmp}/none.h5", "--out"],
        ["train", "motion", "sky", "--frames", "{tmp}/none.h5", "--out"],
        ["train", "spynet", "--out"],
        ["fvd", "{tmp}/none.npy", "{tmp}/none.npy", "--json"],
        ["evaluate", "sky", "--frames", "{tmp}/n.h5", "--samples", "{tmp}/s.h5", "--out"],
        ["evaluate", "sky", "--frames", "{tmp}/n.h5", "--samples", "{tmp}/s.h5", "--out", "{tmp}/o", "--nearest"],
        ["schema", "--out"],
    )
]


@pytest.fixture(scope="module")
def bad(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.h5").write_text("not HDF5", encoding="utf-8")
    (folder / "reports").mkdir()
    (folder / "empty").mkdir()
    (folder / "reports" / "x_fvd.json").write_text("{}", encoding="utf-8")
    (folder / "bad.yaml").write_text("model_version: 1\nexperimets: {}\n", encoding="utf-8")
    np.save(folder / "a.npy", np.zeros((2, 16, 8, 8, 3), np.uint8))
    return folder


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_bad_input_is_one_line_and_exit_2(vidm, bad, arguments, words):
    ended = vidm(*(a.replace("{tmp}", str(bad)) for a in arguments))
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    said = [line for line in ended.stderr.splitlines() if line.startswith("vidm: ")]
    assert len(said) == 1 and ended.stderr.rstrip().endswith(said[0]), ended.stderr
    assert words.replace("{tmp}", str(bad)) in said[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "vidm: No such command 'nonsense'; see vidm --help"),
        (["sample"], "vidm sample: Missing option '--out'; see vidm sample --help"),
        (["sample", "sky", "--nonsense"], "vidm sample: No such option: --nonsense"),
        (["sample", "--videos", "0", "--out", "x"], "vidm sample: Invalid value for '--videos': "),
        (["sample", "--time-grid", "x", "--out", "x"], "vidm sample: Invalid value for '--time-grid': "),
        (["data", "render"], "vidm data render: Missing "),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(vidm, arguments, said):
    ended = vidm(*arguments)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.count("\n") == 1 and ended.stderr.startswith(said)
    assert ended.stderr.endswith(f"; see {said.split(':')[0]} --help\n")


@pytest.mark.parametrize("arguments", [[], ["train"]])
def test_a_group_alone_shows_its_help(vidm, arguments):
    ended = vidm(*arguments)
    assert ended.returncode == 2 and "Commands:" in ended.stderr


def test_run_outside_the_project(vidm, tmp_path):
    ended = vidm("data", "render", "sky", "--out", "o", cwd=tmp_path)
    assert ended.returncode == 2
    assert "params.yaml: no such file; run from the project's root" in ended.stderr
