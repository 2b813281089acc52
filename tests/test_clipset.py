"""Where videos come from: stores, arrays, folders of videos and frames; what is dropped; which windows are cut."""

import numpy as np
import pytest
from PIL import Image

from vidm.data.store import StoreWriter, clip_hash
from vidm.errors import InputError
from vidm.metrics import folders, sources
from vidm.metrics.clipset import cut, drawn, held_out, open_source
from vidm.metrics.protocol import find
from vidm.protocols import OwnProtocol, own

SIDE = 12
STYLEGANV = find("styleganv")


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def like(**fields):
    return own("mine", OwnProtocol(**fields))


def frames(folder, clip, pattern="frame{}.png"):
    folder.mkdir(parents=True)
    for k, frame in enumerate(clip):
        Image.fromarray(frame).save(folder / pattern.format(k))


def test_windows_follow_content_not_names(tmp_path):
    clips = noise(6, 5, 30, SIDE, SIDE)
    one, two = (cut(sources.from_arrays(c, "a"), STYLEGANV) for c in (clips, clips[::-1].copy()))
    assert one.source.sha256 == two.source.sha256
    with StoreWriter(tmp_path / "s.h5", SIDE, SIDE, {}, origin="raw") as store:
        for k in (3, 0, 4, 1, 2):
            store.add(clips[k], fps=25, split="train", source=f"{9 - k}.mp4")
    three = cut(open_source(tmp_path / "s.h5", [STYLEGANV], "train"), STYLEGANV)
    for k, clip in enumerate(clips):
        frames(tmp_path / "frames" / f"clip {k}", clip)
    four = cut(open_source(tmp_path / "frames", [STYLEGANV]), STYLEGANV)
    for k in range(5):
        for other in (two, three, four):
            np.testing.assert_array_equal(one.read(k), other.read(k))
    rows = list(range(5))
    assert one.digest(rows) == two.digest(rows) == three.digest(rows) == four.digest(rows)
    assert one.digest(rows) != one.digest(rows[::-1]) and one.digest(rows[:4]) != one.digest(rows)
    assert len({start for _, start in one.windows}) > 1
    by_name = cut(sources.from_arrays(clips, "a"), find("vidm-script"))
    assert [clip.index for clip, _ in by_name.windows] == list(range(5))


def test_strided_and_tiled_windows():
    clips = noise(0, 2, 130, 4, 4)
    source = sources.from_arrays(clips, "a")
    strided = cut(source, find("styleganv-16-stride8"))
    clip, start = strided.windows[0]
    np.testing.assert_array_equal(strided.read(0), clips[clip.index][start : start + 121 : 8])
    tiled = cut(source, find("digan"))
    assert len(tiled) == 16 and {start for _, start in tiled.windows} == set(range(0, 128, 16))
    trials = drawn(tiled, 5)
    assert len(trials) == 10 and all(len(set(t)) == 5 for t in trials)
    assert len({tuple(t) for t in trials}) > 5 and trials == drawn(tiled, 5)
    assert drawn(strided, 2) == [[0, 1]]
    first = cut(source, like(start="first"))
    assert [start for _, start in first.windows] == [0, 0]
    other = cut(source, like(seed=1))
    assert [s for _, s in other.windows] != [s for _, s in cut(source, STYLEGANV).windows]


def test_held_out_windows_are_of_many_clips_and_of_none_that_is_measured():
    def of(clips, rows):
        return {clips.windows[k][0].index for k in rows}

    source = sources.from_arrays(noise(0, 30, 160, 2, 2), "a")
    tiled, single = (cut(source, find(name)) for name in ("digan", "styleganv"))
    rows = held_out(tiled, 20)
    assert rows == drawn(tiled, 20)[0] and len(of(tiled, rows)) > 10, "of 2 clips, if they were the first"
    measured = drawn(tiled, 40)[0]
    rows = held_out(tiled, 20, measured)
    assert len(rows) == 20 and not of(tiled, rows) & of(tiled, measured)
    assert len(held_out(tiled, 300, measured)) == 10 * (30 - len(of(tiled, measured)))
    # With a window a clip: the first ones, also where trials draw theirs.
    assert held_out(single, 12) == list(range(12)) and held_out(single, 12, range(9)) == list(range(9, 21))
    assert held_out(cut(source, like(trials=3)), 12) == list(range(12))


def test_a_folder_as_people_have_it(tmp_path, monkeypatch):
    """Videos deep inside, frame folders with numbers that don't sort as text, broken, short and odd-sized ones."""
    video = pytest.importorskip("vidm.data.video")
    folder = tmp_path / "some 'videos'"
    (folder / "deeper").mkdir(parents=True)
    for k, (length, height) in enumerate([(20, 16), (17, 16), (8, 16), (17, 24)]):
        video.encode(folder / "deeper" / f"{k}.mp4", noise(k, length, height, 32), 25)
    (folder / "text.mp4").write_text("no video")
    pictures = noise(9, 18, 16, 32)
    frames(folder / "as frames" / "a", pictures)
    frames(folder / "as frames" / "broken", pictures[:3])
    (folder / "as frames" / "broken" / "frame1.png").write_bytes(b"\x89PNG nothing")
    frames(folder / "as frames" / "mixed", pictures[:16])
    Image.fromarray(pictures[0, :8]).save(folder / "as frames" / "mixed" / "frame5.png")

    decoded, real = [], video.decode
    monkeypatch.setattr(video, "decode", lambda path, *a, **k: decoded.append(path.name) or real(path, *a, **k))
    source = open_source(folder, [STYLEGANV, find("tf")], cache=tmp_path / "cache")
    found = cut(source, STYLEGANV)
    assert len(found) == 3 and found.short == 1
    assert [found.read(k).shape for k in range(3)] == [(16, 16, 32, 3)] * 3
    facts = source.facts()
    assert facts["dropped"] == 4 and facts["codec"] == "decoded from mp4, png" and facts["fps"] == 25
    assert sum("32 x 24 pixels, most are 32 x 16" in r for r in facts["dropped_why"]) == 1
    assert sum("several sizes" in r for r in facts["dropped_why"]) == 1
    assert sum("damaged image" in r for r in facts["dropped_why"]) == 1
    assert sorted(decoded) == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"], "each is decoded once"
    (clip,) = [c for c in source.clips if c.name == "as frames/a"]
    assert clip.hash == clip_hash(pictures)
    np.testing.assert_array_equal(source.read(clip.index, 0, 18, 1), pictures)

    # The second time nothing is decoded to know what is there; with no room to hold frames, a clip is when it is read.
    decoded.clear()
    monkeypatch.setattr(folders, "SPOOL", 0)
    again = cut(open_source(folder, [STYLEGANV], cache=tmp_path / "cache"), STYLEGANV)
    assert decoded == [] and again.source.facts() == facts
    for k in range(3):
        np.testing.assert_array_equal(again.read(k), found.read(k))
    assert decoded
    # A changed file is another index.
    video.encode(folder / "deeper" / "0.mp4", noise(7, 20, 16, 32), 25)
    changed = open_source(folder, [STYLEGANV], cache=tmp_path / "cache")
    assert changed.sha256 != source.sha256

    square = open_source(folder, [STYLEGANV], side=8).facts()
    assert square["size"] == [8, 8] and square["clips"] == 6 and square["dropped"] == 2


def test_videos_and_pictures_and_an_array_of_the_same_clips_are_the_same(tmp_path):
    """Wide ones: without a side, nothing is cropped."""
    av = pytest.importorskip("av")
    clips = noise(3, 2, 16, 32, 64)
    np.save(tmp_path / "a.npy", clips)
    (tmp_path / "videos").mkdir()
    for k, clip in enumerate(clips):
        frames(tmp_path / "pictures" / str(k), clip)
        with av.open(str(tmp_path / "videos" / f"{k}.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.height, stream.width, stream.pix_fmt = 32, 64, "bgr0"
            container.mux([p for f in clip for p in stream.encode(av.VideoFrame.from_ndarray(f, format="rgb24"))])
            container.mux(stream.encode())
    array, videos, pictures = (open_source(tmp_path / name, [STYLEGANV]) for name in ("a.npy", "videos", "pictures"))
    assert array.sha256 == videos.sha256 == pictures.sha256 and videos.size == (32, 64)
    assert open_source(tmp_path / "videos", [STYLEGANV], side=16).size == (16, 16)


def test_arrays_in_files_and_lists(tmp_path):
    clips = noise(1, 3, 16, 6, 6)
    wanted = sources.from_arrays(clips, "a").sha256
    np.save(tmp_path / "a.npy", clips)
    np.save(tmp_path / "f.npy", np.asfortranarray(clips))
    np.savez(tmp_path / "a.npz", clips)
    np.savez_compressed(tmp_path / "c.npz", clips)
    np.savez(tmp_path / "each.npz", *clips)
    for name in ("a.npy", "f.npy", "a.npz", "c.npz", "each.npz"):
        source = open_source(tmp_path / name, [STYLEGANV])
        assert source.sha256 == wanted, name
        np.testing.assert_array_equal(source.read(2, 1, 5, 2), clips[2, 1:10:2])
    several = sources.from_arrays([clips[0], clips[1][:9], noise(2, 16, 5, 6)], "several")
    assert [c.length for c in several.clips] == [16, 9]
    assert several.dropped == [("000000002", "6 x 5 pixels, most are 6 x 6")]
    assert cut(several, STYLEGANV).short == 1

    np.savez(tmp_path / "empty.npz")
    np.save(tmp_path / "first.npy", clips.transpose(0, 1, 4, 2, 3).copy())
    (tmp_path / "b.npz").write_bytes(b"PK\3\4 no zip")
    for name, said in (("empty.npz", "holds nothing"), ("first.npy", "channels to the end"), ("b.npz", "not readable")):
        with pytest.raises(InputError, match=said):
            open_source(tmp_path / name, [STYLEGANV])
    with pytest.raises(InputError, match=r"clips\[1\]: videos must be uint8"):
        sources.from_arrays([clips[0], clips[1] / 255], "clips")


def test_noise_is_the_same_each_time_and_of_its_own_size():
    one, two = (sources.noise(3, 16, (4, 6), 0) for _ in range(2))
    assert one.sha256 == two.sha256 != sources.noise(3, 16, (4, 6), 1).sha256
    np.testing.assert_array_equal(one.read(2, 0, 16, 1), two.read(2, 0, 16, 1))
    assert one.read(1, 0, 16, 1).shape == (16, 4, 6, 3)
