"""The file of an experiment's ablations and its tables, from reports that are made up: sums by hand, and bad input."""

import copy
import csv
import json

import pytest

from vidm import config
from vidm.errors import InputError
from vidm.metrics import ablations

# fvd16 of (row, seed), by hand; 32 frames: 100 more.
FVD = {"default": (400.0, 410.0, 430.0), "mse": (450.0, 470.0, 460.0), "blind": (500.0, 500.0, 560.0)}


@pytest.fixture
def params():
    part = {"network": {"channels": 32, "multipliers": [1, 2], "attention": [8], "head_channels": 32}}
    tables = {"3a": {"squared": ["mse"], "default": []}, "3b": {"without PosGN": ["blind"], "default": []}}
    return config.resolve(
        {
            "model_version": 1,
            "presets": {
                "mse": {"content": {"diffusion": {"loss": "mse"}}},
                "blind": {"motion": {"posgn": False}},
            },
            "datasets": {"sky": {"raw": "data/raw/sky", "resolution": 16}},
            "experiments": {"sky": {"dataset": "sky", "content": part, "motion": part}},
            "ablations": {"sky": {"seeds": [0, 1, 2], "tables": tables}},
        }
    )


def part(fvd: float, frames: int) -> dict:
    return {
        "fvd": fvd,
        "n": 64,
        "protocol": {"name": f"of-{frames}", "frames": frames},
        "detector": {"name": "i3d", "sha256": "e" * 64, "precision": "fp32"},
        "data": {"id": "sky", "source": "procedural", "sha256": "d" * 64, "resolution": 16},
        "baselines": {"floor": 50.0 + frames},
        "warnings": ["numbers on the embedded sky are not comparable with the paper's"],
        "checkpoints": {"content": {"step": 450}, "motion": {"step": 250}},
        "sampling": {"sampler": "dpm-solver++", "steps": 8, "frames": 32},
    }


@pytest.fixture
def results(tmp_path):
    for row, values in FVD.items():
        for seed, fvd in enumerate(values):
            name = f"sky-ablation-{row}-s{seed}"
            report = {"experiment": name, **part(fvd, 16), "also": [part(fvd + 100, 32)]}
            (tmp_path / f"{name}_fvd.json").write_text(json.dumps(report), encoding="utf-8")
    return tmp_path


def changed(path, change):
    report = json.loads(path.read_text(encoding="utf-8"))
    change(report)
    path.write_text(json.dumps(report), encoding="utf-8")


def test_a_warning_of_some_rows_is_none_of_the_table(params, results):
    """How sharp the last frame of one row is says nothing about the others."""
    common = part(0.0, 16)["warnings"]
    blurred = [*common, "sharpness of frame 15 is 0.41 of that of the test clips"]
    for seed in range(3):
        changed(results / f"sky-ablation-mse-s{seed}_fvd.json", lambda report: report.update(warnings=blurred))
    ablations.gather(params, "sky", results, results / "out.json")
    assert json.loads((results / "out.json").read_text(encoding="utf-8"))["warnings"] == common


def test_values_seed_by_seed(params, results):
    ablations.gather(params, "sky", results, results / "out.json")
    found = json.loads((results / "out.json").read_text(encoding="utf-8"))
    assert (found["experiment"], found["n"], found["seeds"]) == ("sky", 64, [0, 1, 2])
    longer = {row: [value + 100 for value in values] for row, values in FVD.items()}
    rows = {row: {"fvd16": list(FVD[row]), "fvd32": longer[row]} for row in FVD}
    assert found["tables"] == {
        "3a": {"squared": rows["mse"], "default": rows["default"]},
        "3b": {"without PosGN": rows["blind"], "default": rows["default"]},
    }
    assert found["cells"]["3a"]["squared"] == [f"sky-ablation-mse-s{seed}" for seed in range(3)]
    assert found["floor"] == {"fvd16": 66.0, "fvd32": 82.0}
    assert found["data"]["source"] == "procedural" and found["training"] == {"content": 450, "motion": 250}


def test_tables_say_mean_deviation_and_the_paired_difference(params, results):
    said = ablations.gather(params, "sky", results, results / "out.json")
    assert "written" not in said and ablations.render(results / "out.json", results / "tables")
    text = (results / "tables/sky_ablations.md").read_text(encoding="utf-8")
    assert text.strip() == said.strip()
    # Differences 50, 60, 30: mean 46.7, deviation 15.3; the means of the rows are 460 and 413.3.
    assert "| squared | 460.0 ± 10.0 (+46.7 ± 15.3) | 560.0 ± 10.0 (+46.7 ± 15.3) |" in text
    assert "| default | 413.3 ± 15.3 | 513.3 ± 15.3 |" in text
    assert "| floor: real clips held out | 66.0 | 82.0 |" in text
    assert "the embedded sky" in text and "do not compare with the paper's" in text
    with (results / "tables/sky_ablations.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert len(rows) == 2 * 2 * 2 and {len(row) for row in rows} == {len(header)}
    by = {tuple(row[:3]): row[3:] for row in rows}
    values = [float(v) for v in by["3b", "without PosGN", "fvd16"]]
    assert values == pytest.approx([520, 34.641016, 106.666667, 20.816660, 500, 500, 560])
    assert by["3b", "default", "fvd16"][2:4] == ["", ""]


def test_one_seed_has_no_deviation(params, results):
    one = params.ablation("sky").model_copy(update={"seeds": (1,)})
    said = ablations.gather(params.model_copy(update={"ablations": {"sky": one}}), "sky", results, results / "out.json")
    assert "| squared | 470.0 (+60.0) | 570.0 (+60.0) |" in said
    ablations.render(results / "out.json", results)


def test_no_published_number_stands_in_them(params, results):
    from vidm.metrics import tables

    said = ablations.gather(params, "sky", results, results / "out.json")
    for table in (tables.TABLE_3A, tables.TABLE_3B):
        for cells, _ in table.rows:
            assert not [number for number in cells[1:] if number and number in said]
    # And in the paper's tables there is none of these.
    assert "0 of our cells filled" in tables.render(results, results / "tables")


def test_what_is_missing_is_named_and_whole_seeds_can_be_taken(params, results):
    path = results / "sky-ablation-blind-s1_fvd.json"
    path.unlink()
    with pytest.raises(
        InputError,
        match=r"blind-s1_fvd.json: no such file; make all: .* results/sky_ablations.json; --partial .*: \[0, 2\]",
    ):
        ablations.gather(params, "sky", results, results / "out.json")
    assert not (results / "out.json").exists()
    ablations.gather(params, "sky", results, results / "out.json", partial=True)
    found = json.loads((results / "out.json").read_text(encoding="utf-8"))
    assert found["seeds"] == [0, 2] and found["tables"]["3a"]["squared"]["fvd16"] == [450.0, 460.0]
    for seed in (0, 2):
        (results / f"sky-ablation-mse-s{seed}_fvd.json").unlink()
    with pytest.raises(InputError, match=r"mse-s0_fvd\.json: no such file; make all"):
        ablations.gather(params, "sky", results, results / "out.json", partial=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(n=63), "n is 64 and 63"),
        (lambda r: r["data"].update(sha256="c" * 64), "data.sha256 is dddddddddddd"),
        (lambda r: r["also"][0]["protocol"].update(kernel="tf"), "protocol.kernel is None and tf"),
        (lambda r: r.update(also=[]), "protocols are fvd16, fvd32 and fvd16"),
        (lambda r: r["detector"].update(precision="bf16"), "precision is fp32 and bf16"),
    ],
)
def test_cells_that_do_not_compare_are_refused(params, results, change, words):
    changed(results / "sky-ablation-mse-s2_fvd.json", change)
    with pytest.raises(InputError, match="can't stand in one table") as caught:
        ablations.gather(params, "sky", results, results / "out.json")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_further_metrics_and_a_second_protocol_of_as_many_frames(params, results):
    for path in results.glob("*_fvd.json"):
        more = {"fid": {"value": 20.0}, "inception_score": {"mean": 3.0, "std": 0.1}}
        again = part(90.0, 16) | {"protocol": {"name": "digan", "frames": 16}}
        changed(path, lambda r, more=more, again=again: r.update(more) or r["also"].append(again))
    ablations.gather(params, "sky", results, results / "out.json")
    rows = json.loads((results / "out.json").read_text(encoding="utf-8"))["tables"]["3a"]["squared"]
    assert list(rows) == ["fvd16", "fvd32", "fvd16 digan", "fid", "inception_score"]
    assert rows["fvd16 digan"] == [90.0] * 3 and rows["fid"] == [20.0] * 3


def test_a_cell_of_several_seeds_of_samples_counts_by_their_mean(params, results):
    for path in results.glob("*_fvd.json"):
        spread = {"mean": 25.0, "std": 5.0}
        changed(path, lambda r, s=spread: r.update(fid={"value": 20.0}, seeds={"mean": r["fvd"], "std": 1.0, "fid": s}))
    ablations.gather(params, "sky", results, results / "out.json")
    row = json.loads((results / "out.json").read_text(encoding="utf-8"))["tables"]["3a"]["squared"]
    assert row["fid"] == [25.0] * 3 and row["fvd16"] == list(FVD["mse"])


def test_other_files_are_named(params, results):
    other = results / "sky-ablation-mse-s2_fvd.json"
    before = copy.deepcopy(other.read_text(encoding="utf-8"))
    changed(other, lambda r: r.update(experiment="sky"))
    with pytest.raises(InputError, match="is a report of experiment 'sky'"):
        ablations.gather(params, "sky", results, results / "out.json")
    for text in ("[]", "{}", before[:40]):
        other.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"mse-s2_fvd\.json: not a report of vidm evaluate"):
            ablations.gather(params, "sky", results, results / "out.json")
        (results / "out.json").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"out\.json: not a file of vidm ablations"):
            ablations.render(results / "out.json", results)
    with pytest.raises(InputError, match=r"none\.json: no such file; make it: snakemake"):
        ablations.render(results / "none.json", results)


def test_on_the_command_line(vidm, tmp_path):
    ended = vidm("ablations", "sky256", "--out", tmp_path / "x.json")
    assert ended.returncode == 2 and ended.stderr == (
        "vidm: experiment 'sky256' has no ablations in params.yaml; did you mean 'sky'?\n"
    )
    ended = vidm("ablations", "smoke", "--results", tmp_path, "--out", tmp_path / "x.json")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "smoke-ablation-default-s0_fvd.json: no such file; make all: snakemake" in ended.stderr
