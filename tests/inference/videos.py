# SPDX-License-Identifier: Apache-2.0
"""Small videos, made by PyAV."""

import struct
from pathlib import Path

import av
import numpy as np

from .conftest import picture

SIZE = (128, 96)
"""Width and height."""

NUM_FRAMES, RATE = 20, 10


def red_box(number: int) -> tuple[int, int, int, int]:
    """Where the red thing is in a frame: it moves to the right."""
    return 10 + 3 * number, 20, 50 + 3 * number, 60


def make_video(
    path: Path, num_frames: int = NUM_FRAMES, faststart: bool = False, noise: bool = False
) -> Path:
    """A video in which a red thing moves; with noise its frames are large enough to be damaged."""
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "10"})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 5
        for number in range(num_frames):
            pixels = np.array(picture(("red", red_box(number)), size=SIZE))
            if noise:
                pixels[70:] = np.random.default_rng(number).integers(0, 255, pixels[70:].shape)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def make_sound(path: Path) -> Path:
    """A file with sound alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn(path: Path) -> None:
    """Let an MP4 say that it is to be shown a quarter turn clockwise, as phones do."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    one = 1 << 16
    content[place : place + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def frames_of(path: Path) -> list[np.ndarray]:
    """The pixels of a video, and nothing of ours in between."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def times_of(path: Path) -> list[float]:
    """The times at which its frames are shown, in seconds."""
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]
