"""The paper's tables: its own cells, and which measured numbers may stand beside them."""

import copy
import csv
import json

import pytest

from vidm import config
from vidm.errors import InputError
from vidm.metrics import tables
from vidm.protocols import OwnProtocol, find, own


def report(**changes):
    found = {
        "fvd": 61.25,
        "protocol": find("styleganv").facts(),
        "n": 2048,
        "data": {"source": "raw", "resolution": 256},
        "detector": {"name": "i3d-kinetics-400", "sha256": "e" * 64, "precision": "fp32"},
        "also": [],
    }
    return found | changes


@pytest.fixture
def results(tmp_path):
    def write(name, **changes):
        (tmp_path / f"{name}_fvd.json").write_text(json.dumps(report(**changes)))
        return tmp_path

    return write


def rows(folder, name):
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_published_numbers_without_any_measurement(tmp_path):
    said = tables.render(tmp_path, tmp_path / "out")
    assert "0 of our cells filled" in said and f"{tmp_path}: no report in it" in said
    (header, *body) = rows(tmp_path / "out", "table_1")
    assert header[-2:] == ["VIDM", "VIDM, measured here"] and len(body) == 8
    assert body[2] == ["256-SkyTimelapse", "16", "85.9", "164.1", "222.7", "83.1", "83.1", "79.5", "132", "57.4", ""]
    assert [r[-2] for r in body] == ["294.7", "1531.9", "57.4", "140.9", "87.4", "426.5", "121.9", "563.6"]
    content, motion = (rows(tmp_path / "out", f"table_3{part}") for part in "ab")
    assert content[4] == ["default", "18.4", "3.07", "87.4", "", "", ""]
    assert motion[2][:4] == ["without PosGN", "532.1", "581.3", "604.5"]
    two = rows(tmp_path / "out", "table_2")
    assert ["train", "VIDM, without class", "35.20", "471", "", ""] in two and len(two) == 18
    for name in ("table_1", "table_2", "table_3a", "table_3b"):
        lines = (tmp_path / "out" / f"{name}.md").read_text().splitlines()
        table = [line for line in lines if line.startswith("|")]
        assert len(table) == len(rows(tmp_path / "out", name)) + 1
        assert len({line.count("|") for line in table}) == 1


def test_measured_cells_stand_beside_the_published_ones(results, tmp_path):
    longer = report(fvd=150.0, protocol=find("styleganv-128").facts())
    results("sky256", also=[longer])
    middle = own("mine", OwnProtocol(frames=64)).facts()
    results("clevrer256", fid={"value": 20.06}, also=[report(fvd=300.0, protocol=middle)])
    small = {"source": "raw", "resolution": 128}
    results("ucf128", data=small, inception_score={"mean": 34.0, "std": 0.5})
    said = tables.render(tmp_path, tmp_path / "out")
    one = rows(tmp_path / "out", "table_1")
    assert [r[-1] for r in one[1:]] == ["", "", "61.2", "150.0", "61.2", "", "", ""]
    assert rows(tmp_path / "out", "table_3a")[4][-3:] == ["20.1", "", "61.2"]
    assert rows(tmp_path / "out", "table_3b")[4][-3:] == ["61.2", "300.0", ""]
    ours = [r[-2:] for r in rows(tmp_path / "out", "table_2") if r[1] == "VIDM, without class"]
    assert ours == [["34.00±0.50", "61.2"], ["", ""]]
    assert "in no table" not in said


def test_of_several_seeds_every_number_is_their_mean(results, tmp_path):
    seeds = {"values": [50.0, 60.0], "mean": 55.0, "std": 7.0, "fid": {"mean": 30.0, "std": 10.0}}
    seeds["inception_score"] = {"mean": 3.5, "std": 0.25}
    first = {"fid": {"value": 20.0}, "inception_score": {"mean": 3.25, "std": 0.5}}
    results("clevrer256", fvd=55.0, seeds=seeds, **first)
    tables.render(tmp_path, tmp_path / "out")
    assert rows(tmp_path / "out", "table_3a")[4][-3:] == ["30.0±10.0", "3.50±0.25", "55.0±7.0"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": {"source": "procedural", "resolution": 256}}, "measured on procedural videos"),
        ({"data": {"source": "raw", "resolution": 64}}, "at 64 pixels"),
        ({"n": 128}, "128 videos"),
        ({"protocol": find("vidm-script").facts()}, "by protocol vidm-script"),
        ({"protocol": find("styleganv-16-stride8").facts()}, "at stride 8"),
        ({"detector": {"precision": "bf16"}}, "full precision"),
        ({"sampling": {"given": {"frames": 1, "sha256": "a" * 64}}}, "samples begin with given frames"),
        ({"sampling": {"class": "Archery"}}, "samples of one class"),
        ({"sampling": {"motions": 4}}, "samples share their first frames"),
        ({"sampling": {"size": 128}}, "samples of 128 pixels"),
        ({"sampling": {"networks_unlike_params": {"motion": ["posgn"]}}}, "samples of other networks"),
    ],
)
def test_what_is_not_the_same_quantity_leaves_its_cell_empty(results, tmp_path, changes, reason):
    results("sky256", **changes)
    said = tables.render(tmp_path, tmp_path / "out")
    assert all(r[-1] == "" for r in rows(tmp_path / "out", "table_1")[1:])
    assert f"sky256: in no table; {reason}" in said or reason in said


@pytest.mark.parametrize(
    "fields",
    [
        {"windows": "all, non-overlapping"},
        {"start": "first"},
        {"choice": "by name"},
        {"trials": 3},
        {"root": "SVD, float32"},
        {"ddof": 1},
    ],
)
def test_a_protocol_of_64_frames_is_the_usual_one_else(results, tmp_path, fields):
    other = own("mine", OwnProtocol(frames=64, **fields)).facts()
    results("clevrer256", sampling={"size": 256}, also=[report(fvd=300.0, protocol=other)])
    tables.render(tmp_path, tmp_path / "out")
    assert rows(tmp_path / "out", "table_3b")[4][-3:] == ["61.2", "", ""]
    (field,) = fields
    assert tables.unlike(tables.TABLE_3B.rows[3][1][1], report(protocol=other)) == f"by protocol mine (other {field})"


def test_the_embedded_sky_is_in_no_table(results, tmp_path):
    for name in ("sky", "sky256", "clevrer256"):
        results(name, data={"source": "procedural", "resolution": 256})
    before = copy.deepcopy(tables.TABLES)
    assert "0 of our cells filled" in tables.render(tmp_path, tmp_path / "out")
    assert before == tables.TABLES


def test_longer_videos_are_those_of_the_long_twin(results, tmp_path):
    results("sky256")
    results("sky256-long", fvd=150.0, protocol=find("styleganv-128").facts())
    motion = [
        report(fvd=f, protocol=own("mine", OwnProtocol(frames=n)).facts()) for f, n in ((500.0, 128), (300.0, 64))
    ]
    results("clevrer256-without-posgn-long", **motion[0] | {"also": motion[1:]})
    said = tables.render(tmp_path, tmp_path / "out")
    assert [r[-1] for r in rows(tmp_path / "out", "table_1")[3:5]] == ["61.2", "150.0"]
    assert rows(tmp_path / "out", "table_3b")[2][-3:] == ["", "300.0", ""], "128 frames by styleganv-128 alone"
    assert "in no table" not in said


def test_a_long_twin_has_the_networks_and_the_frames():
    params, cells = config.load(), [c for t in tables.TABLES for _, ours in t.rows for c in ours if c and c.frames > 16]
    assert len(cells) == 4 + 8
    for cell in cells:
        e, of = params.experiment(f"{cell.experiment}{tables.LONG}"), params.experiment(cell.experiment)
        assert (e.content_of, e.motion_of) == (of.content_of or of.name, of.name)
        assert e.sampling.frames == 128 and e.sampling.videos == of.sampling.videos == 2048
        known = [find(name, params.protocols) for name in e.metrics.protocols]
        assert cell.frames in [p.frames for p in known] and {p.split for p in known} == {"train"}


def test_cells_name_experiments_that_exist():
    params = config.load()
    cells = [cell for table in tables.TABLES for _, ours in table.rows for cell in ours if cell]
    for cell in cells:
        experiment = params.experiment(cell.experiment)
        assert params.dataset(experiment.dataset).resolution == cell.resolution
        assert all(find(name).frames == cell.frames for name in cell.protocols)
    assert all(len(c) == len(t.columns) and len(o) == len(t.ours) for t in tables.TABLES for c, o in t.rows)


def test_a_broken_report_is_named(tmp_path):
    (tmp_path / "x_fvd.json").write_text("[]")
    with pytest.raises(InputError, match=r"x_fvd\.json: not a report"):
        tables.render(tmp_path, tmp_path / "out")
