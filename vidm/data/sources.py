"""Where footage comes from: what can be fetched by a command, and what can't.

Sizes and hashes stand here only where somebody saw them; None is "not known", and is then not checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vidm.errors import InputError
from vidm.faults import nearest


@dataclass(frozen=True)
class Source:
    """One file that a plain request gets. folder: the raw folder that it fills; kind: what is done with it."""

    name: str
    about: str
    url: str
    folder: str
    kind: Literal["sheet", "zip", "rar"]
    licence: str
    nbytes: int | None = None
    sha256: str | None = None

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Elsewhere:
    """A data set that no plain request gets. needs: what stands in the way."""

    name: str
    link: str
    needs: str


_CLEVRER = "CC0, by its authors' README"
_UCF = "not stated beside the files; its page speaks of research use"

SOURCES = {
    s.name: s
    for s in (
        Source(
            name="sky-preview",
            about="48 real clips of Sky Time-lapse, 128 pixels, 32 frames, cut out of its authors' sample sheet. Real, "
            "but compressed twice, and far too few for a number that compares with a paper's",
            url="https://raw.githubusercontent.com/weixiong-ur/mdgan/"
            "8a336fe127acb34bd7824bcac6a0667b541a7c32/sample_outputs/real_video.mp4",
            folder="data/raw/sky",
            kind="sheet",
            licence="none stated; the clips belong to their authors",
            nbytes=1_646_181,
            sha256="2888bb544fe7c03ed9ddd1f83cabf39af430f13d629f9ecc86ef3edd6e7d8dd4",
        ),
        *(
            Source(
                name=f"clevrer-{split}",
                about=f"CLEVRER, {count} videos of 128 frames, 480 x 320",
                url=f"http://data.csail.mit.edu/clevrer/videos/{split}/video_{split}.zip",
                folder=f"data/raw/clevrer/video_{split}",
                kind="zip",
                licence=_CLEVRER,
            )
            for split, count in (("train", "10 000"), ("validation", "5000"), ("test", "5000"))
        ),
        Source(
            name="ucf101",
            about="UCF-101, 13 320 videos of 101 classes; an archive that 'unrar' or '7z' unpacks",
            url="https://www.crcv.ucf.edu/data/UCF101/UCF101.rar",
            folder="data/raw",
            kind="rar",
            licence=_UCF,
        ),
        Source(
            name="ucf101-lists",
            about="UCF-101, its three lists of train and test: ucfTrainTestlist/",
            url="https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
            folder="data/raw",
            kind="zip",
            licence=_UCF,
        ),
    )
}

ELSEWHERE = (
    Elsewhere(
        "Sky Time-lapse, all of it",
        "https://github.com/weixiong-ur/mdgan (its README links a file on Google Drive)",
        "a browser: Drive asks before it hands out a large file, and stops after too many downloads. No form, no key",
    ),
    Elsewhere(
        "TaiChi-HD",
        "https://github.com/AliaksandrSiarohin/first-order-model, data/taichi-loading",
        "a list of video ids and a script that fetches each from YouTube. Many are gone: a paper should say how many "
        "there were",
    ),
    Elsewhere(
        "Kinetics",
        "https://github.com/cvdfoundation/kinetics-dataset",
        "nothing but room and time; vidm has no layout of its own for it (a plain folder of videos; docs/scale.md)",
    ),
)


def find(name: str) -> Source:
    """The entry of that name. Raises InputError with the nearest one."""
    if name not in SOURCES:
        raise InputError(f"no footage '{name}'{nearest(name, SOURCES)}")
    return SOURCES[name]


def table() -> str:
    """All of it, for people."""
    lines = []
    for s in SOURCES.values():
        lines += [
            f"{s.name}: {s.about}",
            f"  from     {s.url}",
            f"  into     {s.folder}",
            f"  size     {f'{s.nbytes:,} bytes' if s.nbytes else 'not known here'}",
            f"  sha256   {s.sha256 or 'not known here, so not checked'}",
            f"  licence  {s.licence}",
            "",
        ]
    lines.append("By hand:")
    for e in ELSEWHERE:
        lines += [f"{e.name}", f"  from     {e.link}", f"  needs    {e.needs}"]
    return "\n".join(lines)
