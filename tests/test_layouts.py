"""The data sets as they are downloaded: trees made the same way, of real videos and pictures, read and extracted."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from test_video import lossless, picture

from vidm import config
from vidm.data import layouts
from vidm.data.extract import extract
from vidm.data.layouts import find, frame_files, has_videos, listing
from vidm.data.store import FrameStore
from vidm.errors import InputError

SIDE, FRAMES = 16, 9


def facts(**changes):
    return config.Dataset(**({"raw": "data/raw/x", "resolution": SIDE, "min_frames": 8} | changes))


def frames(seed, count=FRAMES):
    return np.roll(picture(count, SIDE, SIDE), seed, axis=2) // 2 + np.uint8(seed)


def video(path, seed):
    """A lossless file; avi, mp4 or mkv alike, since it is known by its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lossless(path.with_name("x.mkv"), frames(seed)).rename(path)


def pictures(folder, seed, suffix=".png", name="frame_{}", count=FRAMES):
    folder.mkdir(parents=True, exist_ok=True)
    for n, image in enumerate(frames(seed, count)):
        Image.fromarray(image).save(folder / f"{name.format(n)}{suffix}", quality=95)


def table(found):
    """{source: (split, class, group)} of what is taken."""
    return {c.source: (c.split, c.cls, c.group) for c in found.clips if not c.reason}


def stored(folder, tmp_path, **changes):
    extract(folder, tmp_path / "s.h5", facts(**changes))
    return FrameStore(tmp_path / "s.h5")


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    root = tmp_path_factory.mktemp("sky") / "sky_timelapse"
    # Eleven frames: 10 comes after 9, not after 1.
    pictures(root / "sky_train" / "dQw4w9WgXcQ" / "dQw4w9WgXcQ_1", 1, ".jpg", count=11)
    pictures(root / "sky_train" / "dQw4w9WgXcQ" / "dQw4w9WgXcQ_2", 2, ".jpg")
    pictures(root / "sky_test" / "9bZkp7q19f0" / "9bZkp7q19f0_1", 3, ".jpg")
    (root / "sky_train" / "z6Yr7KDZhm0" / "z6Yr7KDZhm0_1").mkdir(parents=True)
    return root.parent


def test_sky_timelapse(sky, tmp_path):
    for root, base in ((sky, "sky_timelapse"), (sky / "sky_timelapse", "")):
        found = find(root)
        assert (found.layout, found.base) == ("sky-timelapse", base)
        before = f"{base}/" if base else ""
        assert table(found) == {
            f"{before}sky_test/9bZkp7q19f0/9bZkp7q19f0_1": ("test", "", "9bZkp7q19f0"),
            f"{before}sky_train/dQw4w9WgXcQ/dQw4w9WgXcQ_1": ("train", "", "dQw4w9WgXcQ"),
            f"{before}sky_train/dQw4w9WgXcQ/dQw4w9WgXcQ_2": ("train", "", "dQw4w9WgXcQ"),
        }
        assert [c.reason for c in found.clips if c.reason] == ["an empty folder"]
    store = stored(sky, tmp_path)
    assert store.lengths.tolist() == [9, 11, 9]
    assert (store.layout, store.groups) == ("sky-timelapse", ["9bZkp7q19f0", "dQw4w9WgXcQ"])
    files = frame_files(sky / "sky_timelapse" / "sky_train" / "dQw4w9WgXcQ" / "dQw4w9WgXcQ_1")
    assert [int(path.stem.split("_")[1]) for path in files] == list(range(11))
    shown = np.stack([np.asarray(Image.open(path)) for path in files]).astype(int)
    assert np.abs(store.read(1) - shown).mean() < 1.5  # two JPEG decoders round apart


def test_sky_timelapse_with_other_names_of_the_splits(sky, tmp_path):
    """The copy with train|test (and DIGAN's val), and a part of the set: split by video id."""
    root = shutil.copytree(sky / "sky_timelapse", tmp_path / "copy")
    (root / "sky_train").rename(root / "train")
    (root / "sky_test").rename(root / "test")
    found = find(root)
    assert found.layout == "sky-timelapse"
    assert [split for split, _, _ in table(found).values()] == ["test", "train", "train"]
    (root / "test").rename(root / "val")
    assert [split for split, _, _ in table(find(root)).values()] == ["train", "train", "val"]
    part = stored(root / "train", tmp_path, test_fraction=0.5)
    assert (part.layout, len(set(part.splits))) == ("sky-timelapse", 1), "clips of one video stay together"


@pytest.fixture(scope="module")
def ucf(tmp_path_factory):
    root = tmp_path_factory.mktemp("ucf")
    names = ["Archery/v_Archery_g01_c01.avi", "Archery/v_Archery_g08_c01.avi", "Archery/v_Archery_g08_c02.avi"]
    # As published, folder and file name differ in a capital letter.
    names += ["HandstandPushups/v_HandStandPushups_g01_c01.avi", "HandstandPushups/v_HandStandPushups_g09_c01.avi"]
    for seed, name in enumerate([*names, "Archery/v_Archery_g07_c01.avi"]):
        video(root / "UCF-101" / name, seed)
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_bytes(b"1 Archery\r\n2 HandstandPushups\r\n")
    train = [f"{names[1]} 1", f"{names[2]} 1", f"{names[4]} 2", "Archery/v_Archery_g09_c01.avi 1"]
    (lists / "trainlist01.txt").write_bytes("\r\n".join([*train, ""]).encode())
    (lists / "testlist01.txt").write_bytes("\r\n".join([names[0], names[3], ""]).encode())
    return root


def test_ucf101_with_its_lists(ucf, tmp_path):
    expected = {
        "Archery/v_Archery_g01_c01.avi": ("test", "Archery", "Archery g01"),
        "Archery/v_Archery_g08_c01.avi": ("train", "Archery", "Archery g08"),
        "Archery/v_Archery_g08_c02.avi": ("train", "Archery", "Archery g08"),
        "HandstandPushups/v_HandStandPushups_g01_c01.avi": ("test", "HandstandPushups", "HandstandPushups g01"),
        "HandstandPushups/v_HandStandPushups_g09_c01.avi": ("train", "HandstandPushups", "HandstandPushups g09"),
    }
    for place in ("beside", "inside the folder", "in its root"):
        root = shutil.copytree(ucf, tmp_path / place)
        if place == "inside the folder":
            (root / "ucfTrainTestlist").rename(root / "UCF-101" / "ucfTrainTestlist")
        if place == "in its root":
            for path in (root / "ucfTrainTestlist").iterdir():
                path.rename(root / "UCF-101" / path.name)
        found = find(root / "UCF-101")
        assert (found.layout, table(found)) == ("ucf101", expected), place
        assert {c.source: c.reason for c in found.clips if c.reason} == {
            "Archery/v_Archery_g07_c01.avi": "in neither trainlist01.txt nor testlist01.txt"
        }
        assert "1 of 6 listed files are not here" in found.notes
    above = find(ucf)
    assert table(above) == {f"UCF-101/{name}": place for name, place in expected.items()}
    store = stored(ucf, tmp_path)
    assert dict(zip(store.sources, store.splits, strict=True)) == {k: v[0] for k, v in table(above).items()}
    assert store.classes.count("Archery") == 3
    index = store.sources.index("UCF-101/Archery/v_Archery_g08_c02.avi")
    np.testing.assert_array_equal(store.read(index), frames(2))


def test_ucf101_without_lists_keeps_groups_together(ucf, tmp_path):
    root = shutil.copytree(ucf / "UCF-101", tmp_path / "alone" / "UCF-101")
    store = stored(root, tmp_path, test_fraction=0.5)
    assert len(store) == 6 and set(store.splits) == {"train", "test"}
    split = dict(zip(store.sources, store.splits, strict=True))
    assert split["Archery/v_Archery_g08_c01.avi"] == split["Archery/v_Archery_g08_c02.avi"]
    assert "no trainlist02.txt" in find(root, fold=2).notes[0]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("testlist01.txt", "Archery/v_Archery_g08_c03.avi\n", r"testlist01\.txt, line 1: group 08 .* would leak"),
        ("trainlist01.txt", "Archery/v_Archery_g08_c01.avi 2\n", r"trainlist01\.txt, line 1: label 2 of Archery"),
        ("trainlist01.txt", "<html>\n", r"trainlist01\.txt, line 1: '<html>' is not"),
    ],
)
def test_ucf101_lists_that_are_wrong_are_named(ucf, tmp_path, vidm, file, text, message):
    root = shutil.copytree(ucf, tmp_path / "ucf")
    (root / "ucfTrainTestlist" / file).write_text(text)
    with pytest.raises(InputError, match=message):
        find(root)
    ended = vidm("data", "inspect", root)
    assert ended.returncode == 2 and ended.stderr.startswith("vidm: ")


def test_taichi_as_videos_and_as_pictures(tmp_path):
    root = tmp_path / "taichi"
    video(root / "train" / "uEqWZ9S_-Lw#000225#000503.mp4", 1)
    video(root / "train" / "uEqWZ9S_-Lw#001000#001200.mp4", 2)
    pictures(root / "test" / "aDyyTMUBoLE#000164#000351.mp4", 3, name="{:07d}")
    found = find(root)
    assert found.layout == "taichi"
    assert table(found) == {
        "test/aDyyTMUBoLE#000164#000351.mp4": ("test", "", "aDyyTMUBoLE"),
        "train/uEqWZ9S_-Lw#000225#000503.mp4": ("train", "", "uEqWZ9S_-Lw"),
        "train/uEqWZ9S_-Lw#001000#001200.mp4": ("train", "", "uEqWZ9S_-Lw"),
    }
    store = stored(root, tmp_path)
    assert store.groups == ["aDyyTMUBoLE", "uEqWZ9S_-Lw"], "the surviving ids are recorded"
    np.testing.assert_array_equal(store.read(0), frames(3))
    shutil.move(root, tmp_path / "taichi-256" / "frames")
    assert find(tmp_path / "taichi-256").base == "frames"


def test_clevrer_with_and_without_the_folders_of_its_splits(tmp_path):
    for seed, (folder, number) in enumerate([("video_train", 3), ("video_validation", 10_000), ("video_test", 15_001)]):
        low = number // 1000 * 1000
        video(tmp_path / "a" / folder / f"video_{low:05d}-{low + 1000:05d}" / f"video_{number:05d}.mp4", seed)
    assert find(tmp_path / "a").layout == "clevrer"
    expected = {"video_00003.mp4": "train", "video_10000.mp4": "val", "video_15001.mp4": "test"}
    for path in list((tmp_path / "a").glob("*/*")):
        shutil.copytree(path, tmp_path / "b" / path.name)
    for root in (tmp_path / "a", tmp_path / "b"):
        found = table(find(root))
        assert {source.split("/")[-1]: split for source, (split, _, _) in found.items()} == expected
        assert {cls for _, cls, _ in found.values()} == {""}
    (tmp_path / "a" / "video_test.zip").write_bytes(b"PK")
    assert [c.reason for c in find(tmp_path / "a").clips if c.reason] == ["an archive; unpack it first"]


def test_folder_of_frame_folders(tmp_path):
    root = tmp_path / "raw"
    for seed, name in enumerate(["train/walk/a", "train/run/b", "test/walk/c", "val/run/d"]):
        pictures(root / name, seed)
    found = find(root)
    assert found.layout == "frame-folders"
    assert table(found) == {
        "test/walk/c": ("test", "walk", ""),
        "train/run/b": ("train", "run", ""),
        "train/walk/a": ("train", "walk", ""),
        "val/run/d": ("val", "run", ""),
    }
    store = stored(root, tmp_path, fps=10)
    np.testing.assert_array_equal(store.read(2), frames(0))
    assert set(store.fps) == {10.0}
    assert stored(root, tmp_path, fps=10, stride=3, min_frames=3).lengths.tolist() == [3] * 4
    assert find(root / "train" / "walk" / "a").clips[0].pictures == FRAMES, "the folder itself may be a clip"


def test_a_folder_of_videos_and_one_wrapped_in_another(tmp_path):
    video(tmp_path / "download" / "mine" / "train" / "walk" / "a.mp4", 1)
    video(tmp_path / "download" / "mine" / "test" / "b.mp4", 2)
    found = find(tmp_path)
    assert (found.layout, found.base) == ("videos", "download/mine")
    assert table(found) == {
        "download/mine/test/b.mp4": ("test", "", ""),
        "download/mine/train/walk/a.mp4": ("train", "walk", ""),
    }


def test_pictures_that_are_no_clip(tmp_path):
    """Thumbnails among videos, and a single picture."""
    for seed, name in enumerate(["a", "b"]):
        video(tmp_path / f"{name}.mp4", seed)
        Image.fromarray(frames(seed)[0]).save(tmp_path / f"{name}.jpg")
    pictures(tmp_path / "one", 1, count=1)
    found = find(tmp_path)
    assert set(table(found)) == {"a.mp4", "b.mp4", "one/frame_0.png"}
    assert {c.reason for c in found.clips if c.source.endswith(".jpg")} == {
        "a picture among videos; frames of a clip need a folder of their own"
    }


def test_a_layout_may_be_named(sky, tmp_path):
    video(tmp_path / "a.mp4", 1)
    with pytest.raises(InputError, match=r"not of the layout 'ucf101' \(<Class>/v_"):
        find(tmp_path, "ucf101")
    assert find(sky, "videos").layout == "videos"
    assert {cls for _, cls, _ in table(find(sky / "sky_timelapse" / "sky_train", "videos")).values()} == {"dQw4w9WgXcQ"}
    assert set(config.Dataset.model_fields["layout"].annotation.__args__) == {"detect", *layouts.LAYOUTS}


def test_listing_sees_what_matters(sky, ucf, tmp_path):
    root = shutil.copytree(sky, tmp_path / "sky")
    first = listing(root)
    folder = next(root.rglob("*_2"))
    frame_files(folder)[0].touch()
    assert listing(root) == first
    (folder / "frame_8.jpg").rename(folder / "frame_9.jpg")
    assert listing(root) != first
    other = shutil.copytree(ucf, tmp_path / "ucf")
    before = listing(other)
    text = other / "ucfTrainTestlist" / "trainlist01.txt"
    text.write_text("\n".join(text.read_text().splitlines()[1:]))
    assert listing(other) != before, "a changed split"


def test_fast_for_a_hundred_thousand_files(tmp_path):
    """No file is opened or even looked at on the way: only folders are read."""
    root = tmp_path / "many"
    for k in range(20):
        (root / f"{k}").mkdir(parents=True)
        for n in range(100):
            (root / f"{k}" / f"{n}.mp4").touch(0)
    calls, real = [], os.stat
    try:
        os.stat = lambda *a, **k: calls.append(a) or real(*a, **k)
        assert has_videos(root)
        assert len(find(root).clips) == 2000
    finally:
        os.stat = real
    assert len(calls) < 100


def test_inspect_tells_the_layout(ucf, vidm, tmp_path):
    ended = vidm("data", "inspect", ucf, "--json", tmp_path / "a" / "s.json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads((tmp_path / "a" / "s.json").read_text())
    assert (told["layout"], told["base"], told["clips"]) == ("ucf101", "UCF-101", 0)
    assert {d["reason"] for d in told["dropped"]} >= {"too short: 9 frames, needs 16"}


def test_names_that_are_not_utf_8(tmp_path):
    """As old zip files unpack: the folder is the class, and of Sky Time-lapse the recording."""
    root, latin = tmp_path / "raw", os.fsdecode(b"caf\xe9")
    for k, name in enumerate((latin, "tea")):
        video(root / "videos" / name / "a.mp4", k)
        pictures(root / "sky" / name / f"{name}_1", k, ".jpg")
    assert stored(root / "videos", tmp_path, test_fraction=0).classes == ["caf\\xe9", "tea"]
    assert find(root / "sky").layout == "sky-timelapse"
    assert stored(root / "sky", tmp_path).sources == ["caf\\xe9/caf\\xe9_1", "tea/tea_1"]
