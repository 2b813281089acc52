"""The smoke experiment's figures, and `make report` as a reader sees it: in a browser, without a network."""

import importlib
import json
import re
import xml.etree.ElementTree
from dataclasses import dataclass

import numpy as np
import pytest
from browser import Page, browser
from PIL import Image
from project import ROOT, Project, copy, kernels, recipe

from vidm import weights
from vidm.errors import InputError

pytestmark = pytest.mark.pipeline
# Snakemake fetches the scripts of its page where it lacks them; nobody listens at this port.
NOWHERE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
PICTURES = {"frames", "frames after real first ones", "nearest training clips"}  # of the samples
SHOWN = {
    "Facts": {"parameters, versions, run times"},
    "Figures": {
        *("filmstrips", "same_content", "long_strip", "latent_flow", "latent_components", "posgn_maps"),
        *("loss_curves", "fvd", "fvd_against_n", "over_time"),
    },
    "Metrics": {"numbers", "report, JSON", "the paper's tables"},
    "Samples": {*PICTURES, "videos"},
}
GREY = """(image => {
    const canvas = new OffscreenCanvas(64, 64), context = canvas.getContext("2d");
    context.drawImage(image, 0, 0, 64, 64);
    const data = context.getImageData(0, 0, 64, 64).data, grey = data.filter((_, k) => k % 4 == 1);
    const mean = grey.reduce((a, b) => a + b) / grey.length;
    return Math.sqrt(grey.reduce((a, b) => a + (b - mean) ** 2, 0) / grey.length);
})"""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Project:
    """The smoke experiment from nothing to its page of figures, once for all tests of this file."""
    folder = tmp_path_factory.mktemp("smoke")
    try:
        weights.fetch("i3d")
    except InputError as error:
        pytest.skip(str(error))
    project = copy(folder / "a project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", kernels(folder)["IPYTHONDIR"])
        project.ok("snakemake", "--cores", "2", "results/smoke/figures/index.html", timeout=1800)
    return project


def test_figures_of_an_experiment(smoke):
    results = smoke.folder / "results/smoke"
    pictures = sorted(p for p in (results / "figures").glob("*.png") if p.with_suffix(".svg").exists())
    assert len(pictures) == 10
    for path in pictures:
        grey = np.asarray(Image.open(path).convert("L"), float)
        assert grey.std() > 5 and grey.shape[1] > 600, f"{path.name}: blank or small"
        xml.etree.ElementTree.parse(path.with_suffix(".svg"))
    assert sorted(p.name for p in (results / "notebooks").iterdir()) == [
        "latents.ipynb",
        "metrics.ipynb",
        "qualitative.ipynb",
    ]
    executed = json.loads((results / "notebooks/latents.ipynb").read_text(encoding="utf-8"))
    assert any(cell.get("outputs") for cell in executed["cells"])
    assert smoke.planned("results/smoke/figures/index.html") == set()


def test_the_page_needs_no_other_file(smoke):
    page = (smoke.folder / "results/smoke/figures/index.html").read_text(encoding="utf-8")
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 10 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    for link in re.findall(r'href="([^"]*)"', page):
        assert (smoke.folder / "results/smoke/figures" / link).is_file(), link


@dataclass(frozen=True)
class Report:
    project: Project
    page: Page

    def press(self, text: str) -> None:
        self.page.until(f"[...document.querySelectorAll('nav a')].find(a => a.textContent == {json.dumps(text)})")
        script = f"[...document.querySelectorAll('nav a')].find(a => a.textContent == {json.dumps(text)}).click()"
        self.page.run(script)

    def category(self, name: str) -> list[str]:
        """Open a category from the first menu; the words of its rows, in their order."""
        self.page.run("document.querySelector('nav ol a').click()")
        self.press(name)
        self.page.until("document.querySelector('nav tbody tr')")
        return self.page.run("[...document.querySelectorAll('nav tbody tr')].map(row => row.cells[1].textContent)")

    def look(self, row: int) -> None:
        self.page.run(f"document.querySelectorAll('nav tbody tr')[{row}].querySelector('a').click()")


@pytest.fixture(scope="module")
def report(smoke, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in NOWHERE.items():
            patch.setenv(name, value)
        for command in recipe("report", "EXPERIMENTS=smoke", "CORES=2"):
            smoke.ok(*command)
    with browser(tmp_path_factory.mktemp("browser")) as page:
        page.open((smoke.folder / "results/report.html").as_uri())
        yield Report(smoke, page)
        assert not page.errors
        assert not page.abroad


def test_the_landing_page_has_the_graph(report):
    page = report.page
    page.until("document.querySelector('#rulegraph canvas')")
    assert page.run("document.body.textContent").count("Video Implicit Diffusion Models") >= 1
    rules = page.run("rulegraph_spec.data.find(d => d.name == 'node-data').values.map(v => v.rule)")
    assert {"render", "extract", "train_content", "train_motion", "sample_smoke", "evaluate", "pages"} <= set(rules)
    drawn = "[...document.querySelector('#rulegraph canvas').getContext('2d').getImageData(0, 0, 2000, 2000).data]"
    assert page.run(f"{drawn}.filter((v, k) => k % 4 == 3 && v).length") > 1000
    report.press("Statistics")
    page.until("document.querySelector('#runtimes canvas') && document.querySelector('#timeline canvas')")
    assert page.run("runtimes_spec.data.values.every(v => v.runtime >= 0)")


def test_everything_is_there_with_a_caption_and_no_picture_is_blank(report):
    page, pictures = report.page, 0
    for category, words in SHOWN.items():
        rows = report.category(category)
        assert set(rows) == words and len(rows) == len(words)
        kinds = page.run("Object.values(results).map(r => [r.mime_type, r.caption.length])")
        assert all(length > 60 for _, length in kinds)
        for k, word in enumerate(rows):
            if word == "report, JSON":
                link = f"document.querySelectorAll('nav tbody tr')[{k}].querySelector('a[download]').href"
                text = page.run(f"fetch({link}).then(answer => answer.text())")
                assert text == (report.project.folder / "results/smoke_fvd.json").read_text(encoding="utf-8")
            elif category == "Figures" or word in PICTURES:
                report.look(k)
                picture = "document.querySelector('#app > div > div img')"
                page.until(f"{picture}?.complete && {picture}.naturalWidth > 100")
                assert page.run(f"{GREY}({picture})") > 5, f"{word} is blank"
                pictures += 1
            else:
                report.look(k)
                page.until("document.readyState == 'complete' && document.querySelector('h1')", frame=True)
                assert page.run("document.querySelector('table, video') != null", frame=True)
    assert pictures == 13


def test_videos_play(report):
    page = report.page
    report.look(report.category("Samples").index("videos"))
    page.until("[...document.querySelectorAll('video')].length == 4", frame=True)
    page.until("[...document.querySelectorAll('video')].every(v => v.played.length && v.videoWidth > 0)", frame=True)
    before = page.run("[...document.querySelectorAll('video')].map(v => v.currentTime)", frame=True)
    moved = f"[...document.querySelectorAll('video')].every((v, k) => v.currentTime != {before}[k])"
    page.until(moved, frame=True)
    assert page.run("[...document.querySelectorAll('video')].every(v => v.error == null)", frame=True)
    greys = page.run(f"[...document.querySelectorAll('video')].map({GREY})", frame=True)
    assert min(greys) > 2, "a video is blank"


def test_numbers_and_facts_are_the_reports(report):
    folder = report.project.folder
    said = json.loads((folder / "results/smoke_fvd.json").read_text(encoding="utf-8"))
    numbers = (folder / "results/smoke/report/numbers.html").read_text(encoding="utf-8")
    for value in (said["fvd"], *said["baselines"].values(), said["motion_only"]["fvd"]):
        assert f'<td class="number">{value:.2f}</td>' in numbers
    facts = (folder / "results/smoke/report/facts.html").read_text(encoding="utf-8")
    for part in ("data", "detector"):
        assert said[part]["sha256"] in facts
    for value in said["versions"].values():
        assert f"<td>{value}</td>" in facts
    for rule in ("render", "extract", "train_content", "train_motion", "sample", "evaluate", "figures_latents"):
        assert re.search(rf"<td>{rule}</td><td>\d+:\d\d:\d\d</td>", facts), f"no run time of {rule}"
    assert "sigma_min: 1.0" in facts and "content_steps: 4" in facts


def test_a_second_one_runs_nothing(report):
    for target in ("results/smoke/report/videos.html", "results/tables/index.html"):
        assert report.project.planned(target) == set()


def test_a_page_is_refused_where_the_browser_would_ask_the_network(tmp_path):
    """What the tests above rely on: an address, an exception and a message are seen, also inside a frame."""
    inner = "<script>console.error('inside')</script><img src='http://127.0.0.1:9/x.png'>"
    (tmp_path / "page.html").write_text(
        f'<script>null.x</script><iframe src="data:text/html,{inner}"></iframe>', encoding="utf-8"
    )
    (tmp_path / "profile").mkdir()
    with browser(tmp_path / "profile") as page:
        page.open((tmp_path / "page.html").as_uri())
        page.until("document.readyState == 'complete'", frame=True)
        assert page.abroad == ["http://127.0.0.1:9/x.png"]
        assert any("inside" in error for error in page.errors) and any("null" in error for error in page.errors)


def test_run_times_are_the_experiments_own(tmp_path, monkeypatch):
    """sky-paper is trained on the data set sky, which is an experiment's name, too."""
    seconds = {"extract/sky": 5, "train_content/sky": 3600, "sample/sky": 3600}
    seconds |= {"train_content/dark": 60, "sample/dark": 2, "shard/dark/1": 30, "shard/dark/2": 31}
    for name, s in seconds.items():
        path = tmp_path / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\tmax_rss\n{s}\t100\n", encoding="utf-8")
    monkeypatch.syspath_prepend(ROOT / "workflow/scripts")
    pages = importlib.import_module("pages")
    steps = [(step, time) for step, time, _ in pages.times("dark", "sky", tmp_path)]
    assert steps == [
        *(("train_content", "0:01:00"), ("shard 2", "0:00:31"), ("shard 1", "0:00:30"), ("extract", "0:00:05")),
        ("sample", "0:00:02"),
    ]
