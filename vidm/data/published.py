"""The data sets of the field as their authors ship them: where a clip's split, class and group stand.

A rule is made for a folder that looks like the data set, and tells of a path below it (as parts) what it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vidm.errors import InputError

SPLITS = ("train", "val", "test")
LISTS = "ucfTrainTestlist"
LOOK = 8  # folders that are looked into to recognise a layout

_UCF = re.compile(r"v_(?P<cls>\w+)_g(?P<group>\d+)_c\d+\.\w+")
_TAICHI = re.compile(r"(?P<id>.{11})#\d+#\d+")
_CLEVRER = re.compile(r"video_(\d{5})(-\d{5})?(\.\w+)?")
_CLEVRER_SPLIT = {"video_train": "train", "video_validation": "val", "video_test": "test"}
_SKY_SPLIT = {"sky_train": "train", "sky_test": "test", **dict(zip(SPLITS, SPLITS, strict=True))}


@dataclass(frozen=True)
class Place:
    """What a path says: its split (None: not told), class, group, and why it can't be taken, or ""."""

    split: str | None = None
    cls: str = ""
    group: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Rule:
    """place(parts below the base, whether it is a folder of pictures) -> Place; None: no clip and no fault."""

    place: Callable[[tuple[str, ...], bool], Place | None]
    notes: Callable[[], Iterable[str]] = tuple


def names_split(base: Path) -> bool:
    """Whether a folder has train/ or test/."""
    return any((base / split).is_dir() for split in ("train", "test"))


def outside(parts: tuple[str, ...]) -> Place | None:
    """Of a file that does not lie in the data set's own folder."""
    return None if parts[-1].endswith((".txt", ".csv")) else Place(reason="beside the data set's own folder")


def generic(base: Path) -> Rule:
    """Any folder. The class of a clip is the first folder below the split that it lies in."""
    named = names_split(base)

    def place(parts: tuple[str, ...], pictures: bool) -> Place:
        split = parts[0] if named and parts and parts[0] in SPLITS and (pictures or len(parts) > 1) else None
        inside = parts[1:] if split else parts
        reason = ""
        if named and split is None:
            reason = f"beside {', '.join(s + '/' for s in SPLITS if (base / s).is_dir())}: of which split?"
        return Place(split, inside[0] if len(inside) > 1 else "", "", reason)

    return Rule(place)


def _sky(base: Path, root: Path, fold: int) -> Rule | None:
    """sky_train|sky_test/<id>/<id>_<k>/ of pictures; or train|val|test"""
    splits = [name for name in _SKY_SPLIT if (base / name).is_dir()]
    tops = [base / name for name in splits] or [base]
    recordings = [folder for top in tops for folder in _folders(top)]
    clips = [inner for r in recordings for inner in _folders(r) if inner.name.startswith(f"{r.name}_")]
    if not any(name.lower().endswith((".jpg", ".png")) for clip in clips for name in islice(_names(clip), LOOK)):
        return None

    def place(parts: tuple[str, ...], pictures: bool) -> Place:
        split = _SKY_SPLIT.get(parts[0]) if splits and parts else None
        inside = parts[1:] if split else parts
        reason = "" if pictures else "not in a folder of pictures"
        if splits and not split:
            reason = f"beside {', '.join(f'{s}/' for s in splits)}: of which split?"
        return Place(split, "", inside[0] if inside else "", reason)

    return Rule(place, lambda: () if splits else ["no sky_train/ or sky_test/: split by a hash of the video's id"])


def _ucf(base: Path, root: Path, fold: int) -> Rule | None:
    """<Class>/v_<Class>_gNN_cNN.avi"""
    if not any(_UCF.fullmatch(name) for folder in _folders(base) for name in _names(folder)):
        return None
    splits, lists = _ucf_lists(base, root, fold)
    met: set[str] = set()

    def place(parts: tuple[str, ...], pictures: bool) -> Place | None:
        match = _UCF.fullmatch(parts[-1]) if parts else None
        if parts and parts[-1].endswith(".txt"):
            return None
        if match is None or len(parts) != 2:
            return Place(reason="not <Class>/v_<Class>_gNN_cNN.avi")
        cls, group, key = parts[0], f"{parts[0]} g{match['group']}", "/".join(parts).casefold()
        met.add(key)
        if not splits:
            return Place(None, cls, group)
        reason = "" if key in splits else f"in neither {' nor '.join(lists)}"
        return Place(splits.get(key), cls, group, reason)

    def notes() -> list[str]:
        if not splits:
            return [f"no trainlist0{fold}.txt, inside or beside: split by a hash of class and group"]
        gone = len(splits.keys() - met)
        return [f"split by {' and '.join(lists)}"] + (
            [f"{gone} of {len(splits)} listed files are not here"] if gone else []
        )

    return Rule(place, notes)


def _ucf_lists(base: Path, root: Path, fold: int) -> tuple[dict[str, str], tuple[str, ...]]:
    """{class/file, lower case: split} of the lists of a fold, and their names; {} where there are none."""
    names = {"train": f"trainlist0{fold}.txt", "test": f"testlist0{fold}.txt"}
    around = [base, *base.parents[: len(base.relative_to(root).parts) + 1]]
    where = [folder / inner for folder in around for inner in (LISTS, "")]
    folder = next((f for f in where if all((f / name).is_file() for name in names.values())), None)
    if folder is None:
        return {}, ()
    index = folder / "classInd.txt"
    labels = {words[-1]: words[0] for words in _lines(index)} if index.is_file() else {}
    splits: dict[str, str] = {}
    sides: dict[str, str] = {}
    for split, name in names.items():
        for number, words in enumerate(_lines(folder / name), 1):
            line = f"{folder / name}, line {number}"
            match = _UCF.fullmatch(words[0].rpartition("/")[2])
            cls = words[0].split("/")[0]
            if match is None or len(words) > 2:
                raise InputError(f"{line}: '{' '.join(words)[:80]}' is not <Class>/v_<Class>_gNN_cNN.avi and a label")
            if len(words) == 2 and labels and labels.get(cls) != words[1]:
                raise InputError(f"{line}: label {words[1]} of {cls} is not that of classInd.txt, {labels.get(cls)}")
            side = sides.setdefault(f"{cls} {match['group']}".casefold(), split)
            if side != split:
                raise InputError(f"{line}: group {match['group']} of {cls} is in {names['train']}, too; it would leak")
            splits[words[0].casefold()] = split
    return splits, tuple(names.values())


def _taichi(base: Path, root: Path, fold: int) -> Rule | None:
    """train|test/<id>#<start>#<end>.mp4, or folders of pictures of that name"""
    tops = [base / split for split in SPLITS if (base / split).is_dir()] or [base]
    if not any(_TAICHI.match(name) for top in tops for name in islice(_names(top), LOOK)):
        return None
    rule = generic(base)

    def place(parts: tuple[str, ...], pictures: bool) -> Place:
        found = rule.place(parts, pictures)
        match = next((m for part in parts if (m := _TAICHI.match(part))), None)
        return Place(found.split, "", match["id"] if match else "", found.reason)

    return Rule(place)


def _clevrer(base: Path, root: Path, fold: int) -> Rule | None:
    """video_train|video_validation|video_test/video_XXXXX-YYYYY/video_NNNNN.mp4"""
    folders = [folder.name for folder in _folders(base)]
    if not any(name in _CLEVRER_SPLIT or re.fullmatch(r"video_\d{5}-\d{5}", name) for name in folders):
        return None

    def place(parts: tuple[str, ...], pictures: bool) -> Place:
        number = _CLEVRER.fullmatch(parts[-1]) if parts else None
        if number is None:
            return Place(reason="not video_NNNNN.mp4")
        # Unpacked without the folder of its split: the numbers say it.
        n = int(number[1])
        split = _CLEVRER_SPLIT.get(parts[0]) or ("train" if n < 10_000 else "val" if n < 15_000 else "test")
        return Place(split)

    return Rule(place)


RULES: dict[str, Callable[[Path, Path, int], Rule | None]] = {
    "sky-timelapse": _sky,
    "ucf101": _ucf,
    "taichi": _taichi,
    "clevrer": _clevrer,
}


def _folders(folder: Path) -> list[Path]:
    """The first folders in a folder, by name."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False))
    return [folder / name for name in names[:LOOK]]


def _names(folder: Path) -> Iterable[str]:
    with os.scandir(folder) as entries:
        yield from (e.name for e in entries)


def _lines(path: Path) -> list[list[str]]:
    """The words of each line that has some."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read ({error}); fetch it again") from None
    return [words for line in text.splitlines() if (words := line.split())]
