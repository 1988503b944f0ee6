"""Documents and films for the tests, written by other programs: matplotlib's PDF, FFmpeg's MP4 and WAV."""

import io
import wave

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def pdf(*pages: str) -> bytes:
    from matplotlib.backends.backend_pdf import PdfPages

    out = io.BytesIO()
    with PdfPages(out, metadata={"Title": "A report"}) as file:
        for text in pages:
            figure = Figure(figsize=(4, 2))
            figure.text(0.1, 0.5, text)
            file.savefig(figure)
    return out.getvalue()


def film(seconds: int = 3, size: tuple[int, int] = (64, 48)) -> bytes:
    """One colour a second, with a tone."""
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        pictures = container.add_stream("mpeg4", rate=5)
        pictures.width, pictures.height = size
        pictures.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        for index in range(5 * seconds):
            image = Image.new("RGB", size, COLOURS[index // 5 % 3])
            for packet in pictures.encode(av.VideoFrame.from_image(image)):
                container.mux(packet)
        container.mux(pictures.encode(None))
        tone = np.sin(np.arange(16_000 * seconds) * 2 * np.pi * 440 / 16_000).astype(np.float32)
        for start in range(0, len(tone), 1024):
            frame = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], format="fltp", layout="mono")
            frame.rate, frame.pts = 16_000, start
            for packet in sound.encode(frame):
                container.mux(packet)
        container.mux(sound.encode(None))
    return out.getvalue()


def tone(seconds: float = 0.5, rate: int = 8000) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        samples = 20_000 * np.sin(np.arange(int(seconds * rate)) * 2 * np.pi * 440 / rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()
