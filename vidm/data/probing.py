"""What a video file or a folder of pictures says of itself, without following anything that it says.

Files come from anywhere: only local files, only real containers. A playlist (hls, concat, dash, sdp, ...) that
points elsewhere is not opened at all, and external references of mov files stay off, as ffmpeg has them.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidm.data.layouts import frame_files

# Demuxers that hold their own frames. Not here: hls, dash, concat, sdp, image2, ffmetadata, lavfi, avisynth, ...
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,ogg,asf,gif,apng,"
    "dv,mxf,rm,nut,ivf,h264,hevc,mjpeg,yuv4mpegpipe"
)
LOCAL = {"protocol_whitelist": "file,pipe", "format_whitelist": CONTAINERS}
PLAYLIST = re.compile(
    rb"(\xef\xbb\xbf)?\s*(#EXTM3U|ffconcat|file |;FFMETADATA|<\?xml|<MPD|<smil|\[playlist\]|\[reference\]|v=0\r?\n)",
    re.I,
)
# Files that begin like a video: what can't be read of them is damage, not another kind of file.
VIDEO = re.compile(
    rb".{4}(ftyp|moov|mdat|free|wide)|RIFF.{4}AVI |\x1a\x45\xdf\xa3|FLV|OggS|GIF8|\x00\x00\x01\xba", re.S
)
# What lies under a video's name when a download went wrong.
FOREIGN = {
    b"<!doctype html": "a web page, not a video",
    b"<html": "a web page, not a video",
    b"version https://git-lfs": "a pointer of Git LFS, not the video; git lfs pull",
}
PICTURES = "pictures"  # stands for the container of a folder of them
CODECS = {"JPEG": "mjpeg", "PNG": "png"}
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
USUAL_RATE = 25.0  # frames per second, where nothing says it


class VideoError(Exception):
    """A file that can't be used; the text is the reason, without the file's name."""


@dataclass(frozen=True)
class Probe:
    """What a file says of itself. width, height: pixels as stored, before the rotation.

    Of a folder of pictures: container "pictures", codec png or mjpeg, rotation 0, orientation as EXIF counts it.
    """

    container: str
    codec: str
    width: int
    height: int
    fps: float
    frames: int  # packets of the video stream, counted
    rotation: int  # degrees counter-clockwise to show it by
    stream: int  # index of the video stream
    interlaced: bool = False
    variable: bool = False  # frames are not equally far apart in time
    pixels: str = ""  # ffmpeg's name of the pixel format
    streams: int = 1  # video streams, covers aside; the one with the largest picture is taken
    orientation: int = 1

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height as shown."""
        turned = self.rotation % 180 or self.orientation > 4
        return (self.height, self.width) if turned else (self.width, self.height)


def probe(path: str | Path, count: bool = True) -> Probe:
    """Open a file without following anything and count its frames.

    count False: as quickly as can be, for what decodes the file anyway. Then `frames` is what the header says (0:
    nothing), rotation and `variable` are not looked at, and a frame is decoded only to see whether it is interlaced.

    Raises VideoError: empty, a playlist, not a video, no video stream, no picture that decodes.
    """
    import av

    try:
        with Path(path).open("rb") as file:
            start = file.read(256)
            if not start:
                raise VideoError("empty file")
            if PLAYLIST.match(start):
                raise VideoError("a playlist that may point elsewhere; such files are not opened")
            file.seek(0)
            # By the open file, not by its name: any name works, and nothing else can be opened beside it.
            with av.open(file, options=LOCAL) as container:
                return _probe(container, count)
    except (av.FFmpegError, ValueError) as error:
        kind = "damaged or truncated" if VIDEO.match(start) else "not a video"
        kind = next((words for head, words in FOREIGN.items() if start.lstrip().lower().startswith(head)), kind)
        raise VideoError(f"{kind} ({getattr(error, 'strerror', None) or error})") from None
    except OSError as error:
        raise VideoError(f"can't be read ({error.strerror})") from None


def _probe(container, count: bool) -> Probe:
    import av

    # A cover picture of a song is a "video" stream of one frame.
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        found = sorted({"a cover" if s.type == "video" else s.type for s in container.streams} - {"data"})
        if not found:
            raise VideoError("damaged or truncated: no picture or sound in it")
        raise VideoError(f"no video stream (only {', '.join(found)})")
    streams = [s for s in streams if s.codec_context is not None]
    if not streams:
        raise VideoError("damaged or truncated: nothing decodes its video stream")
    stream = max(streams, key=lambda s: (s.width * s.height, -s.index))  # the first of the largest
    stream.thread_count = 1
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    context = stream.codec_context
    facts = {
        "container": container.format.name,
        "codec": context.name,
        "fps": float(rate) if rate else USUAL_RATE,
        "stream": stream.index,
        "streams": len(streams),
    }
    order = getattr(context, "field_order", 0)  # 0: not said, 1: progressive, else interlaced
    if not count and order:
        size = {"width": context.width, "height": context.height}
        return Probe(**facts, **size, frames=stream.frames, rotation=0, interlaced=order > 1, pixels=context.pix_fmt)
    frames, first, fault, last = 0, None, "", None
    steps: Counter[int] = Counter()
    for packet in container.demux(stream):
        frames += packet.size > 0
        if packet.size and packet.dts is not None:
            if last is not None and len(steps) < 1000:
                steps[packet.dts - last] += 1
            last = packet.dts
        if first is None:
            try:
                first = next(iter(packet.decode()), None)
            except av.FFmpegError as error:
                fault = f" ({error.strerror})"
        if first is not None and not count:
            frames = stream.frames
            break
    if first is None:
        raise VideoError(f"damaged or truncated: no frame decodes{fault}")
    usual = steps.most_common(1)[0][0] if steps else 0
    off = sum(count for step, count in steps.items() if abs(step - usual) > 0.2 * abs(usual))
    return Probe(
        **facts,
        width=first.width,
        height=first.height,
        frames=frames,
        rotation=int(first.rotation) % 360,
        interlaced=bool(first.interlaced_frame),
        variable=off > max(1, 0.05 * steps.total()),
        pixels=first.format.name,
    )


def probe_pictures(folder: Path, fps: float | None = None) -> Probe:
    """A folder of numbered pictures as one clip; only their headers are read. `fps`: what it is taken to have.

    Raises VideoError, which names the file: not a picture, of another size, kind or orientation than the first.
    """
    from PIL import Image

    first: tuple = ()
    files = frame_files(folder)
    for path in files:
        try:
            with Image.open(path, formats=list(CODECS)) as image:
                orientation = image.getexif().get(0x0112, 1)
                kind = "JPEG" if image.format == "MPO" else image.format  # a JPEG with others behind it
                facts = (kind, image.size, orientation if orientation in range(1, 9) else 1)
                mode = image.mode
        except Image.DecompressionBombError:
            raise VideoError(f"{path.name}: announces more pixels than a picture may have") from None
        except (OSError, SyntaxError, ValueError) as error:
            reason = "empty file" if path.stat().st_size == 0 else "not a JPEG or PNG picture"
            raise VideoError(f"{path.name}: {getattr(error, 'strerror', None) or reason}") from None
        if ENDS[facts[0]] not in _tail(path):  # ffmpeg would paint the rest grey, and say nothing
            raise VideoError(f"{path.name}: cut off; it has no end")
        first = first or facts
        for one, other in zip(first, facts, strict=True):
            if one != other:
                raise VideoError(f"{path.name}: {_words(other)}, but {files[0].name}: {_words(one)}")
    kind, (width, height), orientation = first
    return Probe(
        container=PICTURES,
        codec=CODECS[kind],
        width=width,
        height=height,
        fps=fps or USUAL_RATE,
        frames=len(files),
        rotation=0,
        stream=0,
        pixels=mode,
        orientation=orientation,
    )


def first_picture(path: Path) -> bytes:
    """A JPEG or PNG. Of a JPEG of several pictures (a depth map, a gain map, a second eye) the first, as viewers do."""
    from PIL import Image

    data = path.read_bytes()
    if b"MPF\0" not in data:
        return data
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        pictures = getattr(image, "mpinfo", {}).get(0xB002) or [{"Size": len(data)}]  # CIPA DC-007, MP Entry
    return data[: pictures[0]["Size"]]


def rgb(image):
    """A picture of Pillow's with 8 bits a colour. 16-bit grey keeps its upper 8, as 16-bit colours do in Pillow.

    Raises VideoError where nothing says which values are black and white.
    """
    from PIL import Image

    if image.mode in ("I", "F"):
        raise VideoError(f"32-bit grey (Pillow's mode {image.mode}); save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):  # its own conversion makes white of all above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _tail(path: Path) -> bytes:
    """The last bytes of a file; some programs write more behind the picture's own end."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        return file.read()


def _words(fact: object) -> str:
    return f"{fact[0]} x {fact[1]}" if isinstance(fact, tuple) else str(fact)
