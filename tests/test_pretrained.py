"""Weights that come with the package: packed from a trained experiment, checked by hash, sampled as they lie there."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from project import ROOT
from torch.testing import assert_close

from vidm import config
from vidm.data.procedural import Scene
from vidm.data.store import FrameStore
from vidm.diffusion.gaussian import predict_xstart, q_sample
from vidm.diffusion.schedule import Schedule
from vidm.errors import InputError
from vidm.models import pretrained, trained
from vidm.models.card import card


@pytest.fixture(scope="module")
def models(tmp_path_factory, params):
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for part in ("content", "motion"):
        facts = getattr(params.experiment("dots"), part)
        notes = {
            "part": part,
            "experiment": "dots",
            "seed": 0,
            "facts": facts.model_dump(mode="json"),
            "size": 16,
            "frames": 4,
            "classes": {},
            "step": 3,
            "samples": 6,
            "ema": 0.9,
            "data_sha256": "0" * 64,
            "data_origin": "raw",
        }
        trained.save(trained.build(part, facts, 16, 4), folder / f"{part}.safetensors", notes)
    return folder


@pytest.fixture
def packed(tmp_path, params, models):
    said = pretrained.pack(params, "dots", models, None, tmp_path / "dots")
    assert "M parameters in half precision" in said
    return tmp_path / "dots"


def test_packed_weights_are_the_trained_ones_rounded(packed, models):
    found = pretrained.find("dots", packed)
    assert found.experiment == "dots" and found.params.experiment("dots").frames == 4
    for part in ("content", "motion"):
        ours, notes = trained.load(found.path(part), part, torch.device("cpu"))
        theirs, before = trained.load(models / f"{part}.safetensors", part, torch.device("cpu"))
        assert notes == before
        for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            assert_close(a, b, rtol=2**-11, atol=2**-24, msg=name)
        assert found.path(part).stat().st_size < 0.6 * (models / f"{part}.safetensors").stat().st_size


def test_the_card_says_what_the_facts_say(packed):
    about = json.loads((packed / "facts.json").read_text())
    text = (packed / "card.md").read_text()
    assert text == card(about)
    for part in ("content", "motion"):
        kept = about["checkpoints"][part]
        assert kept["sha256"] == trained.file_sha256(packed / f"{part}.safetensors") and kept["sha256"] in text
        assert f"{kept['parameters']:,}" in text
    assert "Not measured." in text
    assert "    vidm sample --pretrained path/to/dots --out" in text


@pytest.mark.parametrize("name", ["content.safetensors", "facts.json", "card.md"])
def test_a_changed_file_is_refused(packed, name):
    content = (packed / name).read_bytes()
    (packed / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=rf"{name}: not the file that SHA256SUMS names"):
        pretrained.find("dots", packed)
    (packed / name).unlink()
    with pytest.raises(InputError, match="missing or damaged; make it again with 'vidm weights pack'"):
        pretrained.find(str(packed))


def test_a_damaged_package_is_installed_again(packed, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", packed.parent)
    (packed / "card.md").unlink()
    with pytest.raises(InputError, match="missing or damaged; install vidm again"):
        pretrained.find("dots")


def written(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("content", [[], [1], {}, {"fvd": 1.0}, "x", None])
def test_what_is_no_report_is_refused(tmp_path, params, models, content):
    with pytest.raises(InputError, match=r"r\.json: not .*vidm evaluate.*; make it again"):
        pretrained.pack(params, "dots", models, written(tmp_path / "r.json", content), tmp_path / "dots")
    assert not (tmp_path / "dots").exists()


def test_a_report_of_other_weights_is_refused(tmp_path, params, models):
    measured = pretrained.find("sky").about["measured"]
    of = {part: {"sha256": "1" * 64} for part in ("content", "motion")}
    about = {"protocol": {"name": "styleganv"}, "interval": None}
    for hashes in (of, {"motion": of["motion"]}):  # the second is of given first frames
        report = written(tmp_path / "dots_fvd.json", measured | about | {"checkpoints": hashes})
        with pytest.raises(InputError, match="measured with other content weights"):
            pretrained.pack(params, "dots", models, report, tmp_path / "dots")
    with pytest.raises(InputError, match="not trained as experiments"):
        pretrained.pack(params, "other", tmp_path_of(models, tmp_path), None, tmp_path / "other")


def test_of_several_seeds_the_card_has_their_mean_and_no_interval(tmp_path, params, models):
    measured = pretrained.find("sky").about["measured"]
    of = {part: {"sha256": trained.file_sha256(models / f"{part}.safetensors")} for part in ("content", "motion")}
    about = {"protocol": {"name": "styleganv"}, "checkpoints": of, "interval": {"low": 265.0, "high": 341.0}}
    about |= {"experiment": "dots", "sampling": params.experiment("dots").sampling.model_dump(mode="json")}
    seeds = {"values": [300.0, 500.0], "mean": 400.0, "std": 141.4, "motion": {"mean": 4.5, "std": 0.1}}

    def made(**more):
        report = written(tmp_path / "r.json", measured | about | more)
        pretrained.pack(params, "dots", models, report, tmp_path / "dots")
        return (tmp_path / "dots" / "card.md").read_text(encoding="utf-8")

    text = made(fvd=400.0, seeds=seeds, held_out="train")
    assert "**400**, mean of 2 seeds, standard deviation 141." in text and "interval" not in text
    assert "| the generated first frames of the first seed, standing still |" in text
    assert "a frame: 4.5, in test videos" in text and "| floor: train videos | 83 |" in text
    text = made()
    assert "95% interval 265 to 341" in text and "seeds" not in text and "| floor: test videos | 83 |" in text


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (None, None, None),
        ("experiment", "other", "of 'other', not of 'dots'"),
        ("steps", 8, "measured with steps 8, experiments.dots.sampling.steps is 2"),
        ("content_sampler", "unipc", "content_sampler 'unipc', experiments.dots.sampling.content_sampler is nothing"),
        ("noise_correlation", 0.9, "noise_correlation 0.9, experiments.dots.sampling.noise_correlation is 0.0"),
    ],
)
def test_a_report_of_other_videos_is_refused(tmp_path, params, models, key, value, said):
    """The card would say of these weights what was measured of others, or of other steps."""
    report = {**pretrained.find("sky").about["measured"], "experiment": "dots"}
    sampling = params.experiment("dots").sampling.model_dump(mode="json")
    report |= {"protocol": {"name": "styleganv"}, "interval": None, "sampling": sampling | {"precision": "fp32"}}
    hashes = {part: {"sha256": trained.file_sha256(models / f"{part}.safetensors")} for part in ("content", "motion")}
    report["checkpoints"] = hashes
    if key:
        (report if key == "experiment" else report["sampling"])[key] = value
    path = written(tmp_path / "dots_fvd.json", report)
    if said is None:
        pretrained.pack(params, "dots", models, path, tmp_path / "dots")
        return
    with pytest.raises(InputError, match=f"{re.escape(said)}; sample again and run vidm evaluate again$"):
        pretrained.pack(params, "dots", models, path, tmp_path / "dots")
    assert not (tmp_path / "dots").exists()


def tmp_path_of(models, tmp_path):
    """The same weights, said to be of other facts."""
    for part in ("content", "motion"):
        network, notes = trained.load(models / f"{part}.safetensors", part, torch.device("cpu"))
        notes["facts"]["training"]["lr"] = 0.5
        trained.save(network, tmp_path / "changed" / f"{part}.safetensors", notes)
    return tmp_path / "changed"


def remade(models, folder, params, *parts, **changes):
    """Both networks, those of `parts` with other notes."""
    for part in ("content", "motion"):
        _, notes = trained.load(models / f"{part}.safetensors", part, torch.device("cpu"))
        notes |= changes if part in parts else {}
        facts = getattr(params.experiment("dots"), part)
        network = trained.build(part, facts, notes["size"], notes["frames"], len(notes["classes"]))
        trained.save(network, folder / f"{part}.safetensors", notes)
    return folder


TWO = {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("parts", "changes", "said"),
    [
        (("content",), {"experiment": "skies"}, r"content\.safetensors: trained as 'skies', not as 'dots'"),
        (("content",), {"size": 32}, r"content\.safetensors: trained with size 32, datasets\.dots\.resolution is 16"),
        (("motion",), {"frames": 5}, r"motion\.safetensors: trained with frames 5, experiments\.dots\.frames is 4"),
        (("motion",), {"seed": 1}, r"motion\.safetensors: trained with seed 1, experiments\.dots\.seed is 0"),
        (("content", "motion"), {"classes": TWO}, r"with 2 classes, experiments\.dots\.class_conditioning is false"),
        (("motion",), {"data_sha256": "1" * 64}, r"content and motion are trained on other data \(data_sha256\)"),
    ],
)
def test_weights_that_the_experiment_would_not_train_are_refused(tmp_path, params, models, parts, changes, said):
    other = remade(models, tmp_path / "models", params, *parts, **changes)
    with pytest.raises(InputError, match=said + ".*train (it|one of them) again$"):
        pretrained.pack(params, "dots", other, None, tmp_path / "dots")
    assert not (tmp_path / "dots").exists()


def test_taken_and_imported_networks_are_the_experiments_own(tmp_path, params, models):
    e = params.experiment("dots").model_copy(update={"content_of": "points"})
    params = params.model_copy(update={"experiments": {"dots": e}})
    other = remade(models, tmp_path / "models", params, "content", experiment="points", frames=5)
    pretrained.pack(params, "dots", other, None, tmp_path / "dots")
    remade(models, tmp_path / "models", params, "content", experiment="points", data_origin="procedural")
    _, notes = trained.load(other / "motion.safetensors", "motion", torch.device("cpu"))
    (notes := notes | {"experiment": "official"}).pop("seed")
    trained.save(trained.build("motion", e.motion, 16, 4), other / "motion.safetensors", notes)
    pretrained.pack(params, "dots", other, None, tmp_path / "dots")  # a sky, of a data set that has videos now
    assert "The embedded sky, rendered by `vidm data render`, scaled to 16." in (tmp_path / "dots/card.md").read_text()


def test_the_package_packs_its_sky(tmp_path, monkeypatch):
    """What is in half precision stays as it is, its facts are those of params.yaml, its name is enough to find it."""
    packed = pretrained.find("sky")
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    pretrained.pack(config.load(ROOT / "params.yaml"), "sky64", packed.folder, None, tmp_path / "sky")
    for part in ("content", "motion"):
        assert (tmp_path / f"sky/{part}.safetensors").read_bytes() == packed.path(part).read_bytes()
    head = (packed.folder / "card.md").read_text(encoding="utf-8").partition("## Data")[0]
    assert (tmp_path / "sky/card.md").read_text(encoding="utf-8").startswith(head)


def test_videos_from_packed_weights_in_one_command(packed, vidm, monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "FOLDER", packed.parent)
    ended = vidm("sample", "--pretrained", "dots", "--out", tmp_path / "dots.mp4", "--videos", 2)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == f"{tmp_path / 'dots.mp4'}: 2 videos"
    assert (tmp_path / "dots.mp4").read_bytes()[4:8] == b"ftyp"
    assert not list(tmp_path.glob("runs*"))
    (tmp_path / "pictures").mkdir()
    for k in range(3):
        Image.new("RGB", (16, 16), (80 * k, 0, 0)).save(tmp_path / "pictures" / f"{k}.png")
    ended = vidm("sample", "--pretrained", "dots", "--first", tmp_path / "pictures", "--out", tmp_path / "three.gif")
    assert ended.stdout.strip() == f"{tmp_path / 'three.gif'}: 3 videos", ended.stderr
    ended = vidm("sample", "--pretrained", packed, "--out", tmp_path / "folder", "--runs", tmp_path / "runs")
    assert ended.returncode == 0, ended.stderr
    with FrameStore(tmp_path / "folder" / "samples.h5") as store:
        assert len(store) == 2 and store.read(0).dtype == np.uint8


def test_a_folder_of_a_packages_name_is_not_passed_over_in_silence(packed, monkeypatch, capsys):
    """A name is the package's, a path is a folder's."""
    packed.rename(packed.with_name("sky"))
    monkeypatch.chdir(packed.parent)
    assert pretrained.find("sky").experiment == "sky64"
    said = capsys.readouterr().err
    assert "--pretrained sky: that of the package" in said and "give ./sky" in said and said.count("\n") == 1
    assert pretrained.find("./sky").experiment == "dots" and not capsys.readouterr().err


def test_what_is_wrong_is_said_in_one_line(vidm, tmp_path):
    for arguments, said in (
        (("--pretrained", "skies", "--out", tmp_path / "a.mp4"), "--pretrained skies: no such weights in this package"),
        (("sky", "--pretrained", "sky", "--out", tmp_path / "a.mp4"), "has its own experiment and networks"),
        (("sky", "--out", tmp_path / "a.mp4"), "give an experiment and its --motion network, or --pretrained"),
    ):
        ended = vidm("sample", *arguments)
        assert ended.returncode == 2 and said in ended.stderr and ended.stderr.count("\n") == 1
    assert "--pretrained sky --out skies.mp4" in " ".join(vidm("sample", "--help").stdout.split())


@pytest.fixture(scope="module")
def skies():
    """Four test clips of the embedded sky at the size of the package's weights: (4, 16, 3, 64, 64) in [-1, 1]."""
    clips = [Scene(0, "test", k, size=64, frames=16).frames() for k in range(4)]
    return torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3).float() / 127.5 - 1


def test_the_sky_of_the_package_is_whole_and_said(vidm):
    found = pretrained.find("sky")
    assert (found.folder / "card.md").read_text(encoding="utf-8") == card(found.about)
    assert found.about["checkpoints"]["content"]["data_origin"] == "procedural"
    measured = found.about["measured"]
    assert measured["baselines"]["floor"] < measured["fvd"] < measured["baselines"]["noise"]
    listed = vidm("weights", "list").stdout
    assert f"FVD {measured['fvd']:.0f}" in listed and "vidm sample --pretrained sky --out sky.mp4" in listed


def test_the_sky_of_the_package_knows_skies(skies):
    """On clips that it never saw: the content network denoises better than each picture's mean colour would, the
    motion network better than frame n-1 standing in for frame n."""
    found, t = pretrained.find("sky"), torch.full((4,), 500)
    noise = torch.randn(skies[:, 0].shape, generator=torch.Generator().manual_seed(0))

    def error(network, clean, *conditions):
        schedule = Schedule(network.facts.diffusion)
        x_t = q_sample(schedule, clean, t, noise)
        guess = predict_xstart(schedule, x_t, t, network(x_t, t, *conditions))
        return (guess.clamp(-1, 1) - clean).square().mean()

    with torch.inference_mode():
        content, _ = trained.load(found.path("content"), "content", torch.device("cpu"))
        first = skies[:, 0]
        assert error(content, first) < 0.5 * (first - first.mean((2, 3), keepdim=True)).square().mean()
        motion, _ = trained.load(found.path("motion"), "motion", torch.device("cpu"))
        before, after = skies[:, 7], skies[:, 8]
        assert error(motion, after, torch.full((4,), 8), first, before) < (after - before).square().mean()
