"""The frame store: round trips through h5py and xarray, hashes, workers, broken files."""

import multiprocessing
import pickle

import h5py
import numpy as np
import pytest

from vidm.data.store import FrameStore, StoreWriter, content_hash
from vidm.errors import InputError

LENGTHS = (20, 5, 9)


def clips(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (t, 8, 10, 3), dtype=np.uint8) for t in LENGTHS]


def write(path, order=(0, 1, 2), prefix="", skipped=()):
    data = clips()
    with StoreWriter(path, 8, 10, {"stride": 2}, "raw") as writer:
        for i in order:
            split, cls = ("train", "test", "train")[i], ("a", "b", "")[i]
            writer.add(data[i], fps=12.5, stride=2, split=split, source=f"{prefix}ä{i}\n.mp4", cls=cls)
        for name, reason in skipped:
            writer.skip(name, reason)
    return path


def test_round_trip(tmp_path):
    data = clips()
    many = [(f"{i}.mp4", "damaged " * 20) for i in range(2000)]  # beyond the 64 KB of a plain HDF5 attribute
    with FrameStore(write(tmp_path / "new" / "s.h5", skipped=many)) as store:
        assert len(store) == 3
        for i, clip in enumerate(data):
            assert store.length(i) == len(clip)
            np.testing.assert_array_equal(store.read(i), clip)
        np.testing.assert_array_equal(store.read(0, 3, 5, 4), data[0][3:20:4])
        np.testing.assert_array_equal(store.read(0, 3, step=4), data[0][3::4])
        np.testing.assert_array_equal(store.frame(2, 8), data[2][8])
        assert store.splits == ["train", "test", "train"]
        assert store.classes == ["a", "b", ""]
        assert store.sources[1] == "ä1\n.mp4"
        assert store.indices("train") == [0, 2]
        assert store.indices() == [0, 1, 2]
        assert store.fps.tolist() == [12.5] * 3
        assert (store.origin, store.resolution, store.shape) == ("raw", 8, (8, 10))
        assert (store.facts, store.dropped) == ({"stride": 2}, 2000)
        assert store.skipped == many


def test_reads_stay_inside_the_clip(tmp_path):
    store = FrameStore(write(tmp_path / "s.h5"))
    for arguments in [(1, 0, 6), (1, 4, 2), (1, 0, 3, 3)]:
        with pytest.raises(IndexError, match="5 frames"):
            store.read(*arguments)
    with pytest.raises(ValueError):
        store.read(1, -1, 2)


def test_xarray_reads_the_same(tmp_path):
    xarray = pytest.importorskip("xarray")
    path, data = write(tmp_path / "s.h5"), clips()
    store = FrameStore(path)
    store.read(0)  # an open handle must not stand in the way
    with xarray.open_dataset(path, engine="h5netcdf") as found:
        assert found.frames.dims == ("frame", "y", "x", "c")
        assert found.frames.shape == (sum(LENGTHS), 8, 10, 3)
        np.testing.assert_array_equal(found.frames.values, np.concatenate(data))
        for field in ("start", "length", "fps", "stride", "split", "class", "source", "hash"):
            assert found[f"clip_{field}"].dims == ("clip",)
        assert found.clip_length.values.tolist() == list(LENGTHS)
        assert found.clip_start.values.tolist() == [0, 20, 25]
        assert found.clip_source.values.tolist() == store.sources
        assert found.attrs["sha256"] == store.sha256


def test_content_hash_is_of_content_alone(tmp_path):
    a = FrameStore(write(tmp_path / "a.h5"))
    b = FrameStore(write(tmp_path / "b.h5", order=(2, 0, 1), prefix="elsewhere/"))
    assert a.sha256 == b.sha256
    assert sorted(a.hashes) == sorted(b.hashes)
    assert len(set(a.hashes)) == 3
    base = content_hash(a.hashes, a.splits, a.strides)
    assert base == a.sha256
    assert base != content_hash(a.hashes, ["test", *a.splits[1:]], a.strides)
    assert base != content_hash(a.hashes, a.splits, a.strides + 1)
    assert base != content_hash(a.hashes[:2], a.splits[:2], a.strides[:2])


def test_interrupted_writing_leaves_the_old_file(tmp_path):
    path = write(tmp_path / "s.h5")
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), StoreWriter(path, 4, 4, {}, "raw") as writer:
        writer.add(np.zeros((3, 4, 4, 3), np.uint8), fps=1, split="train", source="x")
        raise KeyboardInterrupt
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["s.h5"]


def test_writer_refuses_other_shapes(tmp_path):
    with pytest.raises(ValueError, match="expected uint8"), StoreWriter(tmp_path / "s.h5", 4, 4, {}, "raw") as writer:
        writer.add(np.zeros((3, 4, 5, 3), np.uint8), fps=1, split="train", source="x")
    assert list(tmp_path.iterdir()) == []


def test_writer_says_where_it_can_not_write(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/s\.h5"), StoreWriter(tmp_path / "file" / "s.h5", 4, 4, {}, "raw"):
        pass


def _in_worker(store):
    return store.read(1).sum(dtype=np.int64)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_have_their_own_handle(tmp_path, start):
    store = FrameStore(write(tmp_path / "s.h5"))
    expected = store.read(1).sum(dtype=np.int64)
    with multiprocessing.get_context(start).Pool(2) as pool:
        assert pool.map(_in_worker, [store] * 4) == [expected] * 4
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.read(0), store.read(0))
    store.close()
    np.testing.assert_array_equal(store.read(0), clips()[0])


def test_broken_files_are_named_with_a_remedy(tmp_path):
    good = write(tmp_path / "good.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "empty.h5").touch()
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["frames"] = np.zeros(3)
    with h5py.File(tmp_path / "good.h5", "a") as file:
        file.attrs["version"] = 99
    with h5py.File(write(tmp_path / "odd.h5"), "a") as file:
        file["clip_length"][0] = 10**6
    for name in ("cut", "text", "empty", "foreign", "good", "odd", "missing"):
        with pytest.raises(InputError, match=rf"{name}\.h5: .*vidm data extract") as caught:
            FrameStore(tmp_path / f"{name}.h5")
        assert "\n" not in str(caught.value)
